"""A plan is the run that follows it, in every number; and it leaves nothing behind."""

from __future__ import annotations

import csv
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import LedgerError, SourceChangedError, SourceFileError, TransientLedgerError
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import connect, source_lock
from backfill_pipeline.ledger.migrate import bundled_migrations, migrate
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.plan import make_plan
from backfill_pipeline.stages.plan_report import Counts, Plan, estimate
from backfill_pipeline.stages.plan_source import scratch_folder
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.planning import (
    assert_as_planned,
    assert_planned_and_run_agree,
    planned,
    ran,
)
from backfill_pipeline_tests.stages.test_filtered import RULES
from backfill_pipeline_tests.stages.test_filtered import rows as filtered_rows
from backfill_pipeline_tests.stages.world import (
    CHECKOUT,
    HEADER,
    World,
    entries,
    entry,
    needs_amlsim,
)

_FIELDS = {
    "ledger_id": {"column": "ledger", "default": "MASTER"},
    "debit_account_id": "debit",
    "credit_account_id": "credit",
    "amount": "amount",
    "currency_code": "currency",
    "transaction_type": {"constant": "TRANSFER"},
    "reference_id": "ref",
    "timestamp_utc": {"column": "time", "format": "iso8601"},
    "fx_rate": "fx",
}
_BANK = [
    ("A", "100", "USD", "debit"),
    ("B", "0", "USD", "debit"),
    ("C", "50", "USD", "credit"),
    ("D", "10.00", "EUR", "debit"),
    ("J", "0", "JPY", "debit"),
]


def write_bank(world: World, source_id: str, rows: Sequence[Sequence[object]], **settings: Any) -> Path:
    """A source between accounts of three currencies and both sides, with rates and two ledgers."""
    path = world.write(
        source_id, rows, header=(*HEADER, "fx", "ledger"), fields=_FIELDS, metadata=["note"], **settings
    )
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    fields = definition["accounts"]["fields"]
    fields["currency_code"], fields["normal_side"] = "currency", "side"
    path.write_text(yaml.safe_dump(definition), encoding="utf-8")
    with (path.parent / f"{source_id}_accounts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "opening", "currency", "side"), *_BANK])
    return path


def bank_row(number: int, fx: str = "", ledger: str = "", **other: object) -> list[object]:
    return [*entry(number, **other), fx, ledger]


# --- every number -----------------------------------------------------------------------------------------------


def test_the_sample_with_its_29_kinds_of_dirt(world: World) -> None:
    plan = assert_planned_and_run_agree(world, CHECKOUT / "data" / "sources" / "sample.yaml")
    assert plan.counts == Counts(5000, 4970, 1, 1, 28, 0)
    assert (plan.ending, plan.opening_entries, plan.unknown_sample) == (
        "rejects or refused",
        200,
        ["NO-SUCH-ACCOUNT"],
    )


@needs_amlsim
@pytest.mark.slow
def test_amlsim_with_its_generated_references(world: World) -> None:
    plan = assert_planned_and_run_agree(world, CHECKOUT / "data" / "sources" / "amlsim.yaml")
    assert plan.counts.read == 120_558


def test_repeats_conflicts_and_refusals_within_and_across_batches_and_partitions(world: World) -> None:
    rows = [
        *entries(9),
        entry(2),
        *entries(9, first=10),
        entry(3),
        entry(4, amount="0.01"),
        entry(5, note="another note"),
        entry(50, debit="NOBODY"),
        entry(51, currency="EUR"),
        entry(52, credit="B", debit="B"),
        entry(53, amount="1e3"),
    ]
    path = world.write("s", rows, max_error_rate="0.9", config={"batch_size": "4"})
    plan = assert_planned_and_run_agree(world, path)
    assert plan.counts == Counts(26, 18, 2, 2, 4, 0)
    assert plan.unknown_accounts == 1
    (sample,) = [one for one in plan.reject_samples if one.code == "unknown_account"]
    assert (sample.row, sample.line, sample.reason) == (23, 24, "account NOBODY does not exist")
    assert len([one for one in plan.reject_samples if one.code == "conflict"]) == 2


def test_no_more_than_two_samples_of_a_code(world: World) -> None:
    path = world.write("s", entries(9, amount="x"), max_error_rate="1")
    plan = assert_planned_and_run_agree(world, path)
    assert [one.row for one in plan.reject_samples] == [1, 2]
    assert plan.rejects_by_code == {"amount_malformed": 9}


def test_filtered_rows_by_reason(world: World) -> None:
    plan = assert_planned_and_run_agree(
        world, world.write("s", filtered_rows(), rules=RULES, max_error_rate="0.2")
    )
    assert plan.filtered_by_reason == {"pending": 9, "a test": 1}


def test_conflicts_with_what_the_ledger_holds_already(world: World) -> None:
    world.post(world.write("before", entries(12)))
    rows = [*entries(5), *entries(3, first=6, amount="777.00"), *entries(20, first=9)]
    plan = assert_planned_and_run_agree(world, world.write("s", rows))
    assert plan.counts == Counts(28, 16, 9, 3, 0, 0)


def test_duplicates_that_are_told_as_rejects(world: World) -> None:
    path = world.write("s", [*entries(20), entry(3)], max_error_rate="1", config={"skip_duplicates": "false"})
    plan = assert_planned_and_run_agree(world, path)
    assert plan.rejects_by_code == {"duplicate_reference": 1}


def test_accounts_that_entries_open(world: World) -> None:
    rows = [
        *entries(4),
        entry(5, debit="NEW-1"),
        entry(6, debit="NEW-2", currency="EUR", credit="NEW-3"),
        entry(7, debit="NEW-2"),
        *entries(9, first=8),
    ]
    plan = assert_planned_and_run_agree(
        world, world.write("s", rows, unknown_accounts="create", max_error_rate="0.5")
    )
    assert plan.new_accounts == {"accounts file": 3, "entries": 3}
    assert [(one.account_id, one.currency_code) for one in plan.account_sample if one.opened_by == "entries"] == [
        ("NEW-1", "USD"), ("NEW-2", "EUR"), ("NEW-3", "EUR"),
    ]  # fmt: skip
    assert plan.unknown_accounts == 0


def test_balances_with_converted_legs_decide_who_offends(world: World) -> None:
    rows = [
        bank_row(1, debit="D", credit="A", amount="60.00", fx="0.9"),  # A: 40, D: 64
        bank_row(2, debit="J", credit="A", amount="10.00", fx="150.55"),  # J: 1506, rounded half-even
        bank_row(3, debit="B", credit="D", amount="80.00", fx="0.9"),  # D: 64 - 72
        bank_row(4, debit="C", credit="B", amount="70.00"),  # C: 50 - 70
    ]
    plan = assert_planned_and_run_agree(world, write_bank(world, "s", rows))
    assert plan.constraints.after == "refused"
    assert [(one.account_id, str(one.available_balance)) for one in plan.constraints.sample] == [
        ("C", "-20.00"), ("D", "-8.00"),
    ]  # fmt: skip
    assert plan.ending == "rejects or refused"


def test_an_account_that_offends_already_and_is_not_touched_still_counts(world: World) -> None:
    world.post(world.write("before", [entry(1, debit="X", credit="Y")], accounts=("X", "Y")))
    plan = assert_planned_and_run_agree(world, world.write("s", entries(3), accounts={"A": 0, "B": 100}))
    (low,) = plan.constraints.sample
    assert low.account_id == "Y"
    assert low.available_now == low.available_balance == -2


def test_under_constraints_rows_are_rejected_by_netting_and_event_time(world: World) -> None:
    world.post(world.write("before", entries(3), accounts={"A": 0, "B": 20, "C": 0}))
    with connect(world.url) as connection:
        assert constraints.apply(connection).state == "applied"
    rows = [
        entry(101, debit="B", credit="A", amount="5.00", time="2024-02-01T00:00:00Z"),
        entry(102, debit="A", credit="B", amount="12.00", time="2024-02-03T00:00:00Z"),
        entry(103, debit="C", credit="B", amount="12.00", time="2024-02-02T00:00:00Z"),
        entry(104, debit="B", credit="C", amount="30.00", time="2024-02-04T00:00:00Z"),
        entry(102, debit="A", credit="B", amount="12.00", time="2024-02-03T00:00:00Z"),
        entry(105, debit="C", credit="A", amount="1.00"),
        entry(106, debit="C", credit="A", amount="1000.00"),
    ]
    plan = assert_planned_and_run_agree(
        world, world.write("s", rows, accounts=("A", "B", "C"), config={"batch_size": "3"})
    )
    assert plan.constraints.now == plan.constraints.after == "applied"
    assert plan.rejects_by_code["balance_constraint"] >= 2


def test_too_many_rejects_fail_a_partition_in_the_middle_and_the_others_go_on(world: World) -> None:
    rows = [
        *entries(10),
        *entries(4, first=11), *entries(6, first=15, currency="EUR"),
        *entries(10, first=21, amount="x"),
        *entries(10, first=31, debit="NOBODY"),
        *entries(10, first=41),
    ]  # fmt: skip
    path = world.write("s", rows, max_error_rate="0.2", config={"batch_size": "3"})
    plan = planned(world, path)
    assert [one.key for one in plan.failed] == ["0002", "0003", "0004"]
    assert plan.unknown_sample == ["NOBODY"]
    happened = ran(world, path)
    assert_as_planned(plan, happened)
    errors = [error for (error,) in world.query("SELECT error FROM backfill_partitions ORDER BY number")]
    assert [one.error for one in plan.partitions] == errors
    # Partly posted now. A larger limit lets the rest through: what was posted counts as duplicates.
    raised = world.write("s", rows, max_error_rate="1", config={"batch_size": "3"})
    plan = assert_planned_and_run_agree(world, raised)
    assert {one.key: one.state for one in plan.partitions} == {
        "0001": "posted", "0002": "partly posted", "0003": "open", "0004": "open", "0005": "posted",
    }  # fmt: skip
    assert plan.counts.read == 50


def test_a_source_that_is_posted_in_full_has_nothing_to_do(world: World) -> None:
    path = world.write(
        "s", [*entries(22), entry(3), entry(4, amount="9.99"), entry(30, amount="x")], max_error_rate="1"
    )
    world.post(path)
    plan = assert_planned_and_run_agree(world, path)
    assert plan.counts == Counts(25, 0, 23, 1, 1, 0)
    assert {one.state for one in plan.partitions} == {"posted"}
    assert (plan.is_registered, plan.totals, plan.opening_entries) == (True, [], 0)


def test_some_partitions_posted_before(world: World) -> None:
    path = world.write("s", [*entries(25), entry(3), *entries(10, first=30), entry(33)], max_error_rate="1")
    world.post(path, keys=["0002", "0003"])
    plan = assert_planned_and_run_agree(world, path)
    assert [one.state for one in plan.partitions] == ["open", "posted", "posted", "open"]


def test_generated_references(world: World) -> None:
    rows = [*entries(8), entry(1), entry(1), *entries(8, first=20), entry(1)]
    fields = {**{k: v for k, v in _FIELDS.items() if k not in ("fx_rate", "ledger_id")},
              "ledger_id": {"constant": "MASTER"}, "reference_id": {"generate": "true"}}  # fmt: skip
    path = world.write("s", rows, fields=fields)
    assert_planned_and_run_agree(world, path)
    # Registered, and its occurrences are in the home: they are read there.
    assert planned(world, path).counts.duplicates == 19


def test_no_rows(world: World) -> None:
    plan = assert_planned_and_run_agree(world, world.write("s", [], accounts={"A": 5}))
    assert (plan.counts, plan.partitions, plan.opening_entries) == (Counts(), [], 1)


_rows = st.lists(
    st.builds(
        bank_row,
        st.integers(1, 12),
        fx=st.sampled_from(["", "", "0.9", "150.55", "-1"]),
        ledger=st.sampled_from(["", "", "", "OTHER"]),
        debit=st.sampled_from(["A", "B", "C", "D", "J", "NEW", "NEW2", ""]),
        credit=st.sampled_from(["A", "B", "C", "D", "J"]),
        amount=st.sampled_from(["1.00", "1.00", "2.5", "60.00", "70.00", "0.005", "x"]),
        currency=st.sampled_from(["USD", "USD", "USD", "EUR", "JPY", "QQQ"]),
        time=st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z", "?"]),
        note=st.sampled_from(["", "note", "left out"]),
    ),
    max_size=32,
)


@given(
    before=_rows,
    rows=_rows,
    changed=st.booleans(),
    partition_rows=st.sampled_from(["5", "8", "100"]),
    batch_size=st.sampled_from(["2", "3", "100"]),
    create=st.booleans(),
    skip_duplicates=st.booleans(),
    max_error_rate=st.sampled_from(["0.3", "0.5", "1"]),
    constrained=st.booleans(),
)
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_the_source_and_the_ledger_hold(
    server: Server,
    before: list[list[object]],
    rows: list[list[object]],
    changed: bool,
    partition_rows: str,
    batch_size: str,
    create: bool,
    skip_duplicates: bool,
    max_error_rate: str,
    constrained: bool,
) -> None:
    settings = {
        "partition_rows": partition_rows,
        "config": {"batch_size": batch_size, "skip_duplicates": str(skip_duplicates).lower()},
        "unknown_accounts": "create" if create else "reject",
        "max_error_rate": max_error_rate,
        "rules": [{"when": {"note": "left out"}, "filter": "left out"}],
    }
    with server.ledger_database() as url, tempfile.TemporaryDirectory() as folder:
        world = World(url, Path(folder))
        ran(world, write_bank(world, "before", before, **settings))
        if constrained:
            with connect(url) as connection:
                constraints.apply(connection)
        if changed:
            world.run(write_bank(world, "s", before, **{**settings, "max_error_rate": "1"}))
        assert_planned_and_run_agree(world, write_bank(world, "s", rows, **settings), accept_changed=True)


# --- revisions --------------------------------------------------------------------------------------------------


def test_a_changed_source_is_planned_as_the_new_revision(world: World) -> None:
    path = world.write("s", entries(15))
    world.post(path)
    world.write_rows("s", [*entries(14), entry(15, amount="1.11"), entry(16)])
    plan = assert_planned_and_run_agree(world, path)
    assert (plan.revision, plan.is_registered) == (2, False)
    assert "the content of s.csv" in plan.changes[0]
    assert plan.counts == Counts(16, 1, 14, 1, 0, 0)


def test_a_source_that_only_grew(world: World) -> None:
    path = world.write("s", entries(20))
    world.post(path)
    world.write_rows("s", entries(27))
    plan = assert_planned_and_run_agree(world, path)
    assert plan.counts == Counts(27, 7, 20, 0, 0, 0)


def test_a_change_that_a_run_refuses_is_refused_in_the_same_words(world: World) -> None:
    path = world.write("s", entries(25))
    world.post(path, keys=["0001"])
    world.write_rows("s", entries(25, amount="3.00"))
    with pytest.raises(SourceChangedError) as planning:
        planned(world, path)
    with pytest.raises(SourceChangedError) as running:
        world.register(path)
    assert str(planning.value) == str(running.value)
    plan = assert_planned_and_run_agree(world, path, accept_changed=True)
    assert plan.revision == 2


# --- what fails -------------------------------------------------------------------------------------------------


def test_openings_that_the_ledger_refuses_fail_the_run_in_the_same_words(world: World) -> None:
    world.post(world.write("before", entries(3), accounts={"A": 5, "B": 1}))
    path = world.write("s", entries(12, first=20), accounts={"A": 6, "B": 1})
    plan = planned(world, path)
    with pytest.raises(LedgerError) as running:
        world.run(path)
    assert plan.errors == [str(running.value)]
    assert (plan.ending, plan.counts) == ("failed", Counts())


def test_a_source_that_cannot_be_read(world: World) -> None:
    path = world.write("s", entries(3))
    (path.parent / "s.csv").unlink()
    with pytest.raises(SourceFileError, match=r"s\.csv"):
        planned(world, path)


def test_a_ledger_of_an_older_release_is_not_migrated_by_a_plan(server: Server, tmp_path: Path) -> None:
    with server.empty_database() as url:
        world = World(url, tmp_path)
        with connect(url) as connection:
            migrate(connection, bundled_migrations()[:-1])
            definition = load_definition(world.write("s", entries(3)))
            with pytest.raises(
                LedgerError, match=r"lacks migrations .*: apply them with backfill db migrate"
            ):
                make_plan(definition, connection, world.places)
        assert len(world.query("SELECT 1 FROM ledger_schema_migrations")) == len(bundled_migrations()) - 1


def test_a_database_without_a_ledger_is_planned_as_its_first_run(server: Server, tmp_path: Path) -> None:
    """In more batches than are kept in one transaction before its tables are written anew."""
    rows = [*entries(25), entry(3), entry(40, amount="x"), entry(41, debit="?"), *entries(9, first=50)]
    with server.empty_database() as url:
        world = World(url, tmp_path)
        path = world.write("s", rows, max_error_rate="1", config={"batch_size": "1"})
        with connect(url) as connection:
            plan = make_plan(load_definition(path), connection, world.places)
        assert plan.is_new_ledger
        assert world.query("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'backfill%'") == []
        assert world.value("SELECT to_regclass('ledger_schema_migrations')") is None
        with connect(url) as connection:
            migrate(connection)
        assert_as_planned(plan, ran(world, path))


def test_a_server_that_does_not_answer(world: World) -> None:
    path = world.write("s", entries(30))
    with connect(world.url) as connection:

        def end_the_session(done: int, _rows: int) -> None:
            if done:
                world.query("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)

        with pytest.raises(TransientLedgerError):
            make_plan(load_definition(path), connection, world.places, progress=end_the_session)


# --- nobody is in its way, and it is in nobody's ----------------------------------------------------------------


def test_locks_and_other_sessions(world: World) -> None:
    """Between two partitions nothing of the ledger is locked: postings, a run's end and the source's own run go on."""
    world.post(world.write("before", entries(5), accounts={"A": 1000, "B": 1000}))
    path = world.write("s", entries(30, first=100), accounts=("A", "B"))
    seen: list[object] = []

    def meanwhile(done: int, _rows: int) -> None:
        with psycopg.connect(world.url, autocommit=True) as other:
            other.execute("SET lock_timeout = '1s'")
            other.execute("BEGIN; LOCK TABLE ledger_entries, bank_accounts IN ACCESS EXCLUSIVE MODE; COMMIT")
            other.execute(
                "SELECT post_ledger_entry('LIVE', 'A', 'B', 1, 'USD', 'fiat', 'TRANSFER', %s)",
                [f"live {done}"],
            )
        with source_lock(world.url, "s"):
            pass
        seen.append(done)

    with connect(world.url) as connection:
        plan = make_plan(load_definition(path), connection, world.places, progress=meanwhile)
    assert seen == [0, 10, 20, 30]
    assert plan.counts.posted == 30
    assert not plan.is_running


def test_a_batch_locks_nothing_that_postings_need(world: World) -> None:
    """Inside a batch, too: an open transaction of a posting does not hold the plan up."""
    path = world.write("s", entries(30), accounts={"A": 0, "B": 100})
    world.register(path)
    world.post(world.write("before", entries(1, first=500), accounts={"A": 0, "B": 100}))
    with psycopg.connect(world.url) as posting:
        posting.execute("SELECT post_ledger_entry('LIVE', 'A', 'B', 1, 'USD', 'fiat', 'TRANSFER', 'live')")
        plan = planned_within(world, path, seconds=120)
        posting.rollback()
    assert plan.counts.posted == 30


def planned_within(world: World, path: Path, *, seconds: float) -> Plan:
    found: list[Plan] = []

    def work() -> None:
        with connect(world.url) as connection:
            connection.execute("SET lock_timeout = '2s'")
            found.append(make_plan(load_definition(path), connection, world.places))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(seconds)
    assert found
    return found[0]


def test_a_source_that_is_being_run(world: World) -> None:
    path = world.write("s", entries(30))
    world.post(path, keys=["0001"])
    with source_lock(world.url, "s"):
        plan = planned(world, path)
    assert plan.is_running
    assert plan.counts == Counts(30, 20, 10, 0, 0, 0)
    assert not planned(world, path).is_running


def test_entries_that_somebody_else_posts_while_they_are_planned(world: World) -> None:
    """Found when they are met, or the plan says that it must be made again; never a wrong sum."""
    rows = [*entries(20), *entries(10)]
    path = world.write("s", rows, accounts={"A": 0, "B": 100})
    other = world.write("other", entries(20), accounts={"A": 0, "B": 100})

    def meanwhile(done: int, _rows: int) -> None:
        if done == 20:
            world.post(other)

    with connect(world.url) as connection, pytest.raises(TransientLedgerError, match="plan it again"):
        make_plan(load_definition(path), connection, world.places, progress=meanwhile)


def test_the_scratch_folder_goes_also_when_a_plan_fails(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    path = world.write("s", entries(30))

    def interrupt(done: int, _rows: int) -> None:
        assert list(scratch.iterdir())
        if done:
            raise KeyboardInterrupt

    with connect(world.url) as connection, pytest.raises(KeyboardInterrupt):
        make_plan(load_definition(path), connection, world.places, progress=interrupt)
    assert list(scratch.iterdir()) == []
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(SourceFileError, match="set TMPDIR"), scratch_folder():
        pass


def test_what_the_home_holds_is_used_and_left(world: World) -> None:
    """Registered and resumed in another home: occurrences are made again, in the scratch folder."""
    fields = {**{k: v for k, v in _FIELDS.items() if k not in ("fx_rate", "ledger_id")},
              "ledger_id": {"constant": "MASTER"}, "reference_id": {"generate": "true"}}  # fmt: skip
    path = world.write("s", [*entries(15), entry(1)], fields=fields)
    register_source(load_definition(path), world.places)
    for file in (world.folder / "home").rglob("occurrences.parquet"):
        file.unlink()
    plan = planned(world, path)
    assert plan.is_registered
    assert plan.counts.posted == 16


# --- time -------------------------------------------------------------------------------------------------------


def test_the_estimate_is_a_range_that_says_what_it_rests_on() -> None:
    own = estimate(1_000_000, 10.0, 1.0, [])
    assert (own.low_s, own.high_s, own.based_on) == (15, 33, "the time that the plan took")
    known = estimate(1_000_000, 10.0, 1.0, [50_000.0, 100_000.0])
    assert (known.low_s, known.high_s) == (12, 39)
    assert known.based_on == "the last 2 long runs in this ledger"
    assert estimate(0, 1.0, 1.0, [50_000.0]).based_on == "the time that the plan took"


def test_rates_of_long_runs_come_from_the_ledger(world: World) -> None:
    path = world.write("s", entries(12_000), partition_rows="12000", accounts={"A": 0, "B": 10_000_000})
    world.post(path)
    world.reconcile(path)
    world.write_rows("s", entries(12_001))
    assert planned(world, path).estimate.based_on == "the last long run"
