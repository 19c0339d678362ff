"""Verification names the batch that was touched and, by comparing it with the stored extract, the entry."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.stages.verify import TouchedSeal, VerificationReport, verify
from backfill_pipeline_tests.stages.repair import fix
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import World, entries, entry


@pytest.fixture
def source(world: World) -> Path:
    """Posted and sealed: openings, 35 rows in four batches with a duplicate, and a batch of a repaired row."""
    path = world.write(
        "s", [*entries(33), entry(2), entry(40, amount="x")], accounts={"A": 100, "B": 50}, max_error_rate="1"
    )
    world.post(path)
    assert fix(world, path, {35: {"amount": "7.00"}}).counts.posted == 1
    assert world.reconcile(path).matches
    return path


def verified(world: World, source: Path, **chosen: object) -> VerificationReport:
    def definition_of(source_id: str) -> SourceDefinition:
        assert source_id == "s"
        return load_definition(source)

    with connect(world.url) as connection:
        return verify(connection, world.places, definition_of, **chosen)


def the_touched(report: VerificationReport) -> TouchedSeal:
    assert not report.intact
    assert report.chain_faults == []
    (found,) = report.touched
    return found


def named(found: TouchedSeal) -> list[tuple[str, int | None, str | None, str | None]]:
    assert found.unexplained is None
    assert found.break_count == len(found.breaks)
    return [(one.kind, one.source_row, one.reference_id, one.field) for one in found.breaks]


def test_as_long_as_nobody_touches_anything_all_is_intact(world: World, source: Path) -> None:
    report = verified(world, source)
    assert report.intact
    assert (report.seals, report.entries) == (6, 36)
    assert report.unsealed is not None
    assert (report.unsealed.batches, report.unsealed.live_entries) == ((), 0)


@pytest.mark.parametrize("extracts", ["kept", "gone"])
def test_the_batch_and_the_entry_are_named(world: World, source: Path, extracts: str) -> None:
    world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000017'")
    if extracts == "gone":
        shutil.rmtree(world.places.intermediates_dir)
    found = the_touched(verified(world, source))
    batch = world.value("SELECT batch_id FROM ledger_entries WHERE reference_id = 'R000017'")
    assert (found.batch_id, found.source_id, found.partition_key) == (batch, "s", "0002")
    assert found.subject == f"batch {batch} of s, partition 0002"
    assert (found.sealed, found.found) == (10, 10)
    assert named(found) == [("different", 17, "R000017", "amount")]
    assert (found.breaks[0].expected, found.breaks[0].actual) == (
        "18.000000000000000000",
        "19.000000000000000000",
    )


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE ledger_entries SET posted_at = posted_at + interval '1 s' WHERE reference_id = 'R000017'",
         [("different", 17, "R000017", "posted_at")]),
        ("UPDATE ledger_entries SET batch_id = NULL WHERE reference_id = 'R000017'",
         [("different", 17, "R000017", "batch_id")]),
        ("DELETE FROM ledger_entries WHERE reference_id = 'R000017'", [("missing", 17, "R000017", None)]),
        ("UPDATE ledger_entries SET metadata = '{}' WHERE reference_id = 'R000040'",
         [("different", 35, "R000040", "metadata")]),
        ("UPDATE ledger_entries SET amount = 1 WHERE debit_account_id = 'A' AND transaction_type = 'OPENING_BALANCE'",
         [("different", 1, "OPENING-A", "amount")]),
        ("INSERT INTO ledger_entry_conversions SELECT id, 'debit', 'A', 'USD', 5 FROM ledger_entries"
         " WHERE reference_id = 'R000017'", [("different", 17, "R000017", "debit conversion")]),
        ("INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
         " transaction_type, reference_id, timestamp_utc, posted_at, batch_id, source_row) SELECT ledger_id,"
         " debit_account_id, credit_account_id, amount, currency_code, transaction_type, 'slipped in', timestamp_utc,"
         " posted_at, batch_id, 99 FROM ledger_entries WHERE reference_id = 'R000017'",
         [("unexpected", 99, "slipped in", None)]),
    ],
)  # fmt: skip
def test_whatever_was_done_to_it(
    world: World, source: Path, statement: str, expected: list[tuple[object, ...]]
) -> None:
    assert world.tamper(statement) == 1
    assert named(the_touched(verified(world, source))) == expected


def test_when_its_source_is_gone_the_batch_is_named_and_why_no_entry_is(world: World, source: Path) -> None:
    def definition_of(source_id: str) -> SourceDefinition:
        raise UsageError(f"there is no source {source_id}")

    world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000017'")
    with connect(world.url) as connection:
        found = the_touched(verify(connection, world.places, definition_of))
    assert (found.source_id, found.partition_key, found.breaks) == ("s", "0002", [])
    assert found.unexplained == "it cannot be compared with its source: there is no source s"


def test_when_its_source_changed_the_batch_is_named_and_why_no_entry_is(world: World, source: Path) -> None:
    world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000017'")
    world.write_rows("s", entries(3))
    found = the_touched(verified(world, source))
    assert found.unexplained is not None
    assert "source s changed since it was registered" in found.unexplained


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_after_a_rollback_and_posting_again(world: World, source: Path, mode: str) -> None:
    roll_back(world, "s", partition="0002", mode=mode)
    assert verified(world, source).intact
    world.post(source)
    assert world.reconcile(source).matches
    report = verified(world, source)
    assert report.intact
    assert report.unsealed is not None
    assert report.unsealed.batches == ()
    reference = "R000017" if mode == "delete" else "R000017~2"
    assert (
        world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = %s", reference) == 1
    )
    assert named(the_touched(verified(world, source))) == [("different", 17, reference, "amount")]


def test_only_a_source_or_what_was_sealed_since(world: World, source: Path) -> None:
    world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000017'")
    assert not verified(world, source, source_id="s").intact
    assert verified(world, source, source_id="other").intact
    assert verified(world, source, since=datetime.now(UTC)).intact
    assert verified(world, source, since=datetime.now(UTC)).unsealed is None


def test_a_seal_that_was_removed_shows_whatever_is_chosen(world: World, source: Path) -> None:
    world.tamper("DELETE FROM ledger_seals WHERE number = 3")
    report = verified(world, source, source_id="s", since=datetime.now(UTC))
    assert not report.intact
    assert [(one.ledger_id, one.number) for one in report.chain_faults] == [("MASTER", 4)]
