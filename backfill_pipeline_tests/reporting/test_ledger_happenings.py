"""What the ledger says that people should hear of, from real backfills."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from backfill_pipeline.ledger.attention import source_counts
from backfill_pipeline.ledger.connection import Connection, connect, source_lock
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.reporting.alerts import ledger_happenings
from backfill_pipeline.reporting.alerts.ledger_happenings import completed, over_threshold, stalled
from backfill_pipeline.reporting.alerts.message import Severity
from backfill_pipeline.settings import AlertSettings
from backfill_pipeline_tests.dual_ledger.syncing import sync
from backfill_pipeline_tests.dual_ledger.world import running_dual
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import World, entries, entry, whole_database

RICH = {"A": 1, "B": 100_000, "C": 1}
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
def world(server: Server, tmp_path: Path) -> Iterator[World]:
    with whole_database(server) as url:
        with connect(url) as connection:
            migrate(connection)
        yield World(url, tmp_path)


@pytest.fixture
def connection(world: World) -> Iterator[Connection]:
    with connect(world.url) as connection:
        yield connection


def limits(**given: object) -> AlertSettings:
    return AlertSettings.model_validate(given)


def test_a_source_is_complete_once_it_is_reconciled_and_told_with_its_counts(
    world: World, connection: Connection
) -> None:
    source = world.write("s", entries(25), accounts=RICH)
    world.run(source, keys=["0001", "0002"])
    assert completed(connection, LONG_AGO) == []
    world.run(source)
    assert completed(connection, LONG_AGO) == []  # its reconciliation may be under way
    world.reconcile(source)
    (one,) = completed(connection, LONG_AGO)
    told = one.tell()
    assert (told.severity, told.title, told.remedy) == (Severity.INFO, "s is posted", "")
    assert told.text == (
        "s: read 25 = posted 25 + duplicates 0 + conflicts 0 + rejected 0 + filtered 0; the ledger is equal to it."
    )
    assert told.key == one.key
    assert completed(connection, one.at + timedelta(microseconds=1)) == []
    world.reconcile(source)
    assert [again.key for again in completed(connection, LONG_AGO)] == [one.key]


def test_rejects_are_told_and_a_break_is_an_error(world: World, connection: Connection) -> None:
    source = world.write("s", [*entries(20), entry(21, amount="x")], accounts=RICH, max_error_rate=1)
    world.run(source)
    world.reconcile(source)
    told = completed(connection, LONG_AGO)[0].tell()
    assert told.severity is Severity.WARNING
    assert "rejected 1" in told.text
    assert told.text.endswith(
        "the ledger is equal to it, 1 row is not in the ledger (rejects and conflicts)."
    )
    world.tamper("UPDATE backfill_reconciliations SET verdict = 'break', break_count = 3")
    told = completed(connection, LONG_AGO)[0].tell()
    assert (told.severity, "differs from it (3 breaks)" in told.text) == (Severity.ERROR, True)


def test_a_break_that_is_found_later_is_told_each_time_that_it_is_new(
    world: World, connection: Connection
) -> None:
    source = world.write("s", entries(20), accounts=RICH)
    world.run(source)
    world.reconcile(source)
    (ended,) = completed(connection, LONG_AGO)

    def found(amount: int) -> list[str]:
        world.tamper("UPDATE ledger_entries SET amount = %s WHERE reference_id = 'R000003'", amount)
        assert world.reconcile(source).verdict == ("match" if amount == 4 else "break")
        return [one.key for one in completed(connection, LONG_AGO) if one.key != ended.key]

    (first,) = found(7)
    assert found(7) == [first]  # it is known
    assert found(4) == [first]
    assert len(found(8)) == 2
    told = completed(connection, LONG_AGO)[-1].tell()
    assert (told.severity, told.title) == (Severity.ERROR, "the ledger differs from s")
    assert told.remedy == "backfill reconcile s names each break"


def test_a_source_that_is_not_reconciled_is_told_after_a_while_and_once_more_with_its_verdict(
    world: World, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = world.write("s", entries(5), accounts=RICH)
    world.run(source)
    monkeypatch.setattr(ledger_happenings, "RECONCILIATION_GRACE", timedelta(0))
    (without,) = completed(connection, LONG_AGO)
    assert without.tell().remedy == "backfill reconcile s"
    world.reconcile(source)
    (verdict,) = completed(connection, LONG_AGO)
    assert verdict.key != without.key
    assert "is equal" in verdict.tell().text


def test_days_of_a_bank_are_told_by_what_both_ledgers_say(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running_dual(world.url, world.folder, monkeypatch=monkeypatch) as dual,
        connect(world.url) as connection,
    ):
        days = dual.days()
        assert all(report.verdict == "match" for report in sync(dual))
        found = completed(connection, LONG_AGO)
        assert [one.tell().title for one in found] == [f"scb_01@{day} is posted" for day in days]
        assert all(one.tell().text.endswith("; both ledgers are equal.") for one in found)
        dual.change(min(dual.entries_there(day=days[0])))
        sync(dual, days=days[:1])
        told = [
            one.tell()
            for one in completed(connection, LONG_AGO)
            if one.key not in {known.key for known in found}
        ]
        assert [one.severity for one in told] == [Severity.ERROR]
        assert "the bank's ledger and ours differ (" in told[0].text
        assert (
            told[0].remedy
            == f"backfill sync reconcile scb_01 --from {days[0]} --to {days[0]} names each break"
        )


@pytest.mark.parametrize(
    ("source_id", "again"), [("s", "backfill resume s"), ("scb_01@2024-03-01", "backfill sync run scb_01")]
)
def test_what_stalled_carries_on_by_its_own_command(
    world: World, connection: Connection, source_id: str, again: str
) -> None:
    world.tamper(
        "INSERT INTO ledger_backfill_checkpoints (source_id, source_type, last_checkpoint_at)"
        " VALUES (%s, 'CSV', timezone('UTC', now()) - interval '2 hours')",
        source_id,
    )
    (one,) = stalled(connection, limits())
    assert one.tell().remedy == f"{again} carries on at the first batch that is not posted"


def test_counts_of_many_partitions_add_up(world: World, connection: Connection) -> None:
    source = world.write("s", [*entries(60), entry(61, amount="x")], accounts=RICH, max_error_rate=1)
    world.run(source)
    counts = source_counts(connection, 1)
    assert (counts.read, counts.partitions) == (61, 7)
    assert (
        counts.read
        == counts.posted + counts.duplicates + counts.conflicts + counts.rejected + counts.filtered
    )


@pytest.mark.parametrize(
    ("settings", "is_told"),
    [
        ({}, True),  # 2 of 21 are more than 1 %
        ({"BACKFILL_ALERT_REJECT_RATE_MAX": Decimal("0.1")}, False),
        ({"BACKFILL_ALERT_REJECT_RATE_MAX": 1, "BACKFILL_ALERT_REJECTS_MAX": 2}, False),
        ({"BACKFILL_ALERT_REJECT_RATE_MAX": 1, "BACKFILL_ALERT_REJECTS_MAX": 1}, True),
    ],
)
def test_more_rejects_and_conflicts_than_a_limit_are_told_once_per_revision(
    world: World, connection: Connection, settings: dict[str, object], is_told: bool
) -> None:
    bad = [entry(20, amount="x"), entry(21, amount="y")]
    world.run(world.write("s", [*entries(19), *bad], accounts=RICH, max_error_rate=1))
    found = over_threshold(connection, LONG_AGO, limits(**settings))
    assert len(found) == is_told
    if is_told:
        told = found[0].tell()
        assert told.title == "s has 2 rejects and conflicts"
        assert told.text.startswith("2 of 21 rows of s so far were rejected or are conflicts (9.52%)")
        assert [one.key for one in over_threshold(connection, LONG_AGO, limits(**settings))] == [found[0].key]
        assert over_threshold(connection, datetime.now(UTC) + timedelta(hours=1), limits(**settings)) == []


def test_a_source_without_a_checkpoint_for_an_hour_has_stalled_until_it_goes_on(
    world: World, connection: Connection
) -> None:
    source = world.write("s", entries(25), accounts=RICH)
    world.run(source, keys=["0001"])
    assert stalled(connection, limits()) == []
    world.tamper(
        "UPDATE ledger_backfill_checkpoints SET last_checkpoint_at = last_checkpoint_at - interval '61 minutes'"
    )
    assert stalled(connection, limits(BACKFILL_ALERT_STALLED_AFTER_S=7200)) == []
    (one,) = stalled(connection, limits())
    told = one.tell()
    assert told.title == "s makes no progress"
    assert "no run is working on it" in told.text
    assert told.remedy.startswith("backfill resume s carries on")
    with source_lock(world.url, "s"):
        assert "a run holds it" in stalled(connection, limits())[0].tell().text
    world.run(source)
    assert stalled(connection, limits()) == []


def test_more_stalled_sources_than_are_shown_are_counted(world: World, connection: Connection) -> None:
    world.tamper(
        "INSERT INTO ledger_backfill_checkpoints (source_id, source_type, last_checkpoint_at)"
        " SELECT 's' || number, 'CSV', timezone('UTC', now()) - interval '2 hours' FROM generate_series(1, 25) number"
    )
    found = stalled(connection, limits())
    assert len(found) == 21
    assert found[-1].tell().title == "25 sources make no progress"
