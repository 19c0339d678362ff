"""Several commands at once, and a server that goes away."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from backfill_pipeline.local.generate import generate
from backfill_pipeline_tests.cli.command import Backfill, batches, count_or_zero, finish, wait_until
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = pytest.mark.e2e


@pytest.mark.slow
def test_a_second_run_of_a_source_waits_or_is_refused_in_one_sentence(
    backfill: Backfill, world: World
) -> None:
    source = world.write("s", entries(3000), partition_rows="500", config={"batch_size": "10"})
    assert backfill.url is not None
    with backfill.started("run", source, "--json") as first:
        wait_until(lambda: batches(backfill.url or "") > 5)
        with backfill.started("run", source, "--json") as second:
            outcomes = [finish(first), finish(second)]
    assert outcomes[0].code in (0, 3), outcomes[0]
    assert outcomes[1].code in (0, 1, 3), outcomes[1]
    if outcomes[1].code == 1:
        assert "being written by another run" in outcomes[1].sentence
    assert backfill.query("SELECT count(*) FROM ledger_entries WHERE transaction_type = 'TRANSFER'") == [
        (3000,)
    ]
    assert backfill("reconcile", "s").code == 0
    assert set(backfill.run_statuses()) <= {"SUCCESS", "FAILURE"}


@pytest.mark.slow
def test_a_busy_source_is_refused_in_one_sentence(backfill: Backfill, world: World) -> None:
    import psycopg

    from backfill_pipeline.ledger.connection import source_lock

    source = world.write("s", entries(20))
    assert backfill("run", source, "--partitions", "1").code in (0, 3)
    assert backfill.url is not None
    with source_lock(backfill.url, "s"):
        outcome = backfill("run", source, "--json")
    assert outcome.code == 1
    assert "being written by another run" in outcome.sentence
    with psycopg.connect(backfill.url) as connection:
        assert connection.execute(
            "SELECT count(*) FROM backfill_batches WHERE kind = 'entries'"
        ).fetchone() == (1,)
    assert backfill("resume", "s").code in (0, 3)


@pytest.mark.slow
def test_two_sources_at_once_both_succeed(backfill: Backfill, world: World) -> None:
    """They share accounts, and each applies constraints while the other may be posting."""
    rich = {"A": 10**9, "B": 10**9, "C": 10**9}
    one = world.write("one", entries(4000), accounts=rich, partition_rows="500", config={"batch_size": "50"})
    two = world.write(
        "two",
        entries(4000, first=10_000, debit="B", credit="A"),
        accounts=rich,
        partition_rows="500",
        config={"batch_size": "50"},
    )
    world.write("book", [], accounts=rich)
    for path in (one, two):  # the opening balances of three shared accounts belong to one source only
        path.write_text(path.read_text().replace("    opening_balance: opening\n", ""))
    assert backfill("run", world.folder / "sources" / "book.yaml").code == 0
    assert backfill("constraints", "suspend").code == 0
    with backfill.started("run", one, "--json") as first, backfill.started("run", two, "--json") as second:
        outcomes = [finish(first), finish(second)]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert [outcome.json["posted"] for outcome in outcomes] == [4000, 4000]
    for source in ("one", "two", "book"):
        assert backfill("reconcile", source).code == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_backend_that_dies_is_survived_by_trying_again(backfill: Backfill, world: World) -> None:
    source = world.write(
        "s", entries(6000), partition_rows="1000", config={"batch_size": "20", "retry_delay": "200"}
    )
    assert backfill.url is not None
    with backfill.started("run", source, "--json") as process:
        for committed in (20, 120):
            wait_until(lambda committed=committed: batches(backfill.url or "") >= committed)
            backfill.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'backfill s'"
            )
        outcome = finish(process)
    assert outcome.code in (0, 3), outcome
    assert outcome.json["posted"] == 6000
    assert outcome.json["reconciliation"] == "match"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_killed_in_the_middle_is_a_clear_failure_and_the_next_run_heals(
    embedded: Backfill, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("killed_server")
    export = generate(30_000, 100, 3, 0.002, folder, name="s", partition_rows=5_000)
    with export.definition_file.open("a") as file:
        file.write("config: {batch_size: 100, max_retries: 2, retry_delay: 100}\n")
    source = export.definition_file
    url = embedded("db", "url").stdout.strip()
    with embedded.started("run", source) as process:
        wait_until(lambda: count_or_zero(url, "SELECT count(*) FROM backfill_batches") >= 30)
        pid_file = embedded.home / "postgres" / "data" / "postmaster.pid"
        postmaster = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        children = postmaster.children(recursive=True)
        for victim in [postmaster, *children]:
            os.kill(victim.pid, signal.SIGKILL)
        outcome = finish(process)
    assert outcome.code == 1, outcome
    # Dagster itself writes to standard error that it cannot write to its log; the last word is ours.
    told = [
        line
        for line in outcome.stderr.splitlines()
        if line and not line.startswith("Exception while writing")
    ]
    assert "resume" in told[-1]
    assert "WARNING" not in outcome.stderr

    time.sleep(1)
    healed = embedded("run", source, "--json")
    assert healed.code == 3, healed
    assert healed.json["reconciliation"] == "match"
    assert healed.json["failed_partitions"] == []
    assert (
        count_or_zero(
            embedded.ledger_url,
            "SELECT count(*) FROM ledger_entries WHERE transaction_type <> 'OPENING_BALANCE'",
        )
        == export.expected.posted
    )
    embedded("db", "stop")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_source(
    backfill: Backfill, tmp_path_factory: pytest.TempPathFactory
) -> None:
    peaks: dict[int, int] = {}
    for rows in (100_000, 300_000):
        folder = tmp_path_factory.mktemp(f"rows_{rows}")
        export = generate(rows, 1_000, 5, 0.001, folder, name=f"rows_{rows}", partition_rows=25_000)
        # Each its own ledger, so that the second meets no entries of the first.
        definition = export.definition_file
        definition.write_text(
            definition.read_text()
            .replace("constant: MASTER", f"constant: L{rows}")
            .replace("ledger_id: MASTER", f"ledger_id: L{rows}")
        )
        with backfill.started("run", definition, "--json") as process:
            watched = psutil.Process(process.pid)
            peak = 0
            while process.poll() is None:
                try:
                    peak = max(peak, watched.memory_info().rss)
                except psutil.Error:
                    break
                time.sleep(0.02)
            outcome = finish(process)
        assert outcome.code == 3, outcome
        assert outcome.json["reconciliation"] == "match"
        peaks[rows] = peak
    assert peaks[300_000] < 1.25 * peaks[100_000], peaks
    assert peaks[300_000] < 2**30
