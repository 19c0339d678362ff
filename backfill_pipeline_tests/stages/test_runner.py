"""The runner: one writer, many partitions, and what is left when something goes wrong in the middle."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import RunConfig
from backfill_pipeline.errors import SourceBusyError, TransientLedgerError
from backfill_pipeline.ledger import constraints, posting
from backfill_pipeline.ledger.connection import connect, source_lock
from backfill_pipeline.local.generate import generate
from backfill_pipeline.stages import runner as runner_module
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.stages.post import RunStoppedError
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline.stages.runner import PartitionRunner
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import World, assert_same_ledger, entries, entry


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_ledger_of_one(
    server: Server, world: World, tmp_path: Path, workers: int
) -> None:
    """Dirty rows included; the generator's duplicates and conflicts lie within reach of one partition."""
    export = generate(6_000, 60, 11, 0.01, tmp_path / "export", name="s", partition_rows=1_500)
    with server.ledger_database() as url:
        alone = World(url, tmp_path / "alone")
        alone.post(export.definition_file, batch_size=10_000)
        expected = alone.snapshot()
    world.post(export.definition_file, parallel_workers=workers, batch_size=700)
    assert_same_ledger(world.snapshot(), expected)
    assert world.reconcile(export.definition_file).matches


def test_of_two_rows_with_one_reference_the_first_is_posted_however_slow(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every partition repeats the references of the one before with other amounts; earlier ones take longer to post."""
    real = posting.post_batch

    def slowly(connection, plan, *arguments, **options):
        time.sleep(0.3 if plan.partition_key in ("0001", "0003") else 0)
        return real(connection, plan, *arguments, **options)

    monkeypatch.setattr(posting, "post_batch", slowly)
    # Partitions of ten: rows 11 to 50 have the references of rows 1 to 10, 51 to 60 their own.
    rows = [entry(at, ref=f"R{at % 10}", amount=f"{at}.77") if at <= 50 else entry(at) for at in range(1, 61)]
    source = world.write("s", rows, config={"parallel_workers": "4"})
    world.post(source)
    posted = world.query("SELECT source_row FROM ledger_entries ORDER BY source_row")
    assert [row for (row,) in posted] == [*range(1, 11), *range(51, 61)]
    assert world.reconcile(source).conflicts == 40


def test_under_balance_constraints_partitions_are_posted_one_after_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first partition pays in, the second pays out: with two at a time, its rows could be refused."""
    real = posting.post_batch
    at_work: list[str] = []
    together: set[str] = set()
    met = threading.Event()

    def watched(connection, plan, *arguments, **options):
        at_work.append(plan.partition_key)
        if len(at_work) > 1:
            together.update(at_work)
            met.set()
        try:
            # The first one waits until it is joined; under constraints, nobody may come in this time.
            met.wait(patience_s)
            return real(connection, plan, *arguments, **options)
        finally:
            at_work.remove(plan.partition_key)

    monkeypatch.setattr(posting, "post_batch", watched)
    patience_s = 60.0
    world.post(world.write("s", entries(60), config={"parallel_workers": "4"}))
    assert together
    together.clear()
    met.clear()
    patience_s = 0.25
    with connect(world.url) as connection:
        connection.execute("UPDATE bank_accounts SET balance = 1000000, available_balance = 1000000")
        assert constraints.apply(connection).state == "applied"
    world.post(world.write("t", entries(60, first=101), config={"parallel_workers": "4"}))
    assert not together
    assert len(world.references()) == 120


def test_a_second_writer_is_refused_while_the_first_is_at_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backfill_pipeline.ledger import connection

    monkeypatch.setattr(connection, "SOURCE_LOCK_WAIT_S", 0.3)
    source = world.write("s", entries(10))
    with source_lock(world.url, "s"), pytest.raises(SourceBusyError, match="source s"):
        world.run(source)
    with source_lock(world.url, "another"):
        world.post(source)


def test_stopping_leaves_whole_batches_and_the_next_run_finishes(world: World) -> None:
    source = world.write("s", entries(60), config={"batch_size": "2"})
    definition = world.register(source)
    messages: list[str] = []
    work = open_work(definition, world.places)
    runner = PartitionRunner(
        work, effective_config(definition.config, RunConfig(batch_size=2)), STAGES, "run", messages.append
    )
    reports = []
    for report in runner.run([f"{number:04d}" for number in range(1, 7)]):
        reports.append(report)
        runner.stop.set()
    assert reports[0].error is None
    assert {type(report.error) for report in reports[2:]} == {RunStoppedError}
    assert world.value("SELECT count(*) % 2 FROM ledger_entries") == 0
    assert world.value("SELECT count(*) FROM backfill_partitions WHERE error IS NOT NULL") == 0
    world.post(source)
    assert len(world.references()) == 60
    assert world.reconcile(source).matches


def test_an_abandoned_run_leaves_no_thread_and_no_lock(world: World) -> None:
    source = world.write("s", entries(60))
    definition = world.register(source)
    work = open_work(definition, world.places)
    reports = PartitionRunner(work, effective_config(definition.config), STAGES, "run", lambda _: None).run(
        [partition.key for partition in work.registration.partitions]
    )
    next(reports)
    reports.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("prepare", "post"))]
    with source_lock(world.url, "s"):
        pass
    world.post(source)
    assert len(world.references()) == 60


def test_a_commit_whose_answer_was_lost_is_found_and_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server committed, the client saw an error: for every single batch."""
    real, seen = posting.post_batch, set[int]()

    def post_and_lose(connection, plan, *arguments, **options):
        outcome = real(connection, plan, *arguments, **options)
        if plan.first_row not in seen:
            seen.add(plan.first_row)
            raise TransientLedgerError("the connection was lost after the commit")
        return outcome

    monkeypatch.setattr(posting, "post_batch", post_and_lose)
    source = world.write("s", entries(30), config={"batch_size": "4", "retry_delay": "0"})
    world.post(source)
    assert len(seen) == 9
    assert len(world.references()) == 30
    assert world.reconcile(source).matches
    assert world.value("SELECT total_processed::int FROM ledger_backfill_checkpoints") == 30


def test_a_ledger_that_stays_away_stops_the_run_and_blames_no_partition(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: object, **options: object) -> None:
        raise TransientLedgerError("the ledger is away")

    source = world.write("s", entries(40), config={"max_retries": "1", "retry_delay": "0"})
    with monkeypatch.context() as patch:
        patch.setattr(posting, "post_batch", gone)
        reports = world.run(source)
    assert isinstance(reports[0].error, TransientLedgerError)
    assert all(report.error is not None for report in reports)
    assert world.value("SELECT count(*) FROM backfill_partitions WHERE error IS NOT NULL") == 0
    world.post(source)
    assert world.reconcile(source).matches


def test_an_unexpected_error_of_one_partition_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runner_module.PartitionFrames.validated

    def fail(frames):
        if frames.key == "0002":
            raise ZeroDivisionError("a bug")
        return real(frames)

    source = world.write("s", entries(30))
    with monkeypatch.context() as patch:
        patch.setattr(runner_module.PartitionFrames, "validated", fail)
        reports = world.run(source)
    assert [report.error is None for report in reports] == [True, False, True]
    assert "ZeroDivisionError" in str(
        world.value("SELECT error FROM backfill_partitions WHERE partition_key = '0002'")
    )
    world.post(source)
    assert world.reconcile(source).matches


def test_balances_changed_from_outside_while_posting_stop_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = world.write("s", entries(40), config={"batch_size": "5", "checkpoint_interval": "2"})
    real = posting.post_batch

    def meddle(connection, plan, *arguments, **options):
        world.query("UPDATE bank_accounts SET balance = balance + 1 WHERE id = 'C'")
        return real(connection, plan, *arguments, **options)

    monkeypatch.setattr(posting, "post_batch", meddle)
    reports = world.run(source)
    assert "balances left their entries" in str(reports[0].error)
    definition = load_definition(source)
    quiet = effective_config(definition.config, RunConfig(validate_balances=False))
    assert not quiet.validate_balances


def test_a_run_wins_over_the_source_file_and_that_over_the_defaults() -> None:
    source = RunConfig(batch_size=10, max_retries=0, validate_balances=False)
    combined = effective_config(source, RunConfig(batch_size=20, skip_duplicates=False))
    assert (combined.batch_size, combined.max_retries, combined.validate_balances) == (20, 0, False)
    assert (combined.skip_duplicates, combined.parallel_workers) == (False, 2)


def test_rejects_are_kept_once_however_often_a_partition_is_tried(world: World) -> None:
    rows = entries(20)
    rows[4] = [*rows[4][:3], "much", *rows[4][4:]]
    source = world.write("s", rows, max_error_rate="0.01")
    for _ in range(3):
        world.run(source)
    assert world.rejects() == [(5, "transform", "amount_malformed", "amount")]
    csv_file = world.places.rejects_dir / "s" / "0001.csv"
    assert csv_file.read_text().count("amount_malformed") == 1
