"""Reconciliation finds every way in which a ledger can leave its source, and names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline.stages.reconcile import ReconciliationReport
from backfill_pipeline_tests.stages.world import World, entries, entry


@pytest.fixture
def source(world: World) -> Path:
    """Posted: 35 entries in four partitions, a duplicate, and an entry between two currencies; reconciles."""
    rows = [*entries(34), entry(2)]
    path = world.write("s", rows, accounts={"A": 100, "B": 9000, "C": 50})
    world.post(path)
    assert world.reconcile(path).matches
    return path


def broken(world: World, source: Path) -> ReconciliationReport:
    report = world.reconcile(source)
    assert not report.matches
    assert report.verdict == "break"
    assert world.value("SELECT verdict FROM backfill_reconciliations ORDER BY id DESC LIMIT 1") == "break"
    return report


FIELDS = {
    "ledger_id": "'OTHER'",
    "debit_account_id": "'C'",
    "credit_account_id": "'C'",
    "amount": "amount + 0.01",
    "currency_code": "'EUR'",
    "asset_type": "'crypto'",
    "transaction_type": "'FEE'",
    "reference_id": "'CHANGED'",
    "timestamp_utc": "timestamp_utc + interval '1 microsecond'",
    "fx_rate": "1",
    "metadata": """'{"note": "changed"}'""",
}


@pytest.mark.parametrize("name", FIELDS)
def test_any_changed_field_of_an_entry_is_found_and_named(world: World, source: Path, name: str) -> None:
    world.tamper(f"UPDATE ledger_entries SET {name} = {FIELDS[name]} WHERE reference_id = 'R000017'")
    found = broken(world, source).breaks
    assert [(one.kind, one.field, one.source_row, one.partition_key) for one in found] == [
        ("different", name, 17, "0002")
    ]
    assert found[0].expected != found[0].actual


@pytest.mark.parametrize("change", ["amount = amount + 0.01", "debit_account_id = 'C'", "metadata = NULL"])
def test_a_changed_entry_is_found_although_the_balances_were_adjusted_to_it(
    world: World, source: Path, change: str
) -> None:
    world.tamper(f"UPDATE ledger_entries SET {change} WHERE reference_id = 'R000017'")
    world.tamper(
        "UPDATE bank_accounts a SET balance = net, available_balance = net FROM"
        " (SELECT account_id, sum(CASE side WHEN 'debit' THEN amount ELSE -amount END) AS net"
        "  FROM ledger_entry_legs GROUP BY 1) l WHERE l.account_id = a.id AND a.normal_side = 'debit'"
    )
    assert broken(world, source).break_kinds["different"] == 1


def test_a_deleted_entry_is_missing(world: World, source: Path) -> None:
    assert world.tamper("DELETE FROM ledger_entries WHERE reference_id = 'R000017'") == 1
    report = broken(world, source)
    assert [one.reference_id for one in report.breaks if one.kind == "missing"] == ["R000017"]
    assert {one.account_id for one in report.account_breaks} == {"A", "B"}


def test_an_entry_deleted_with_its_balances_is_missing(world: World, source: Path) -> None:
    world.query("DELETE FROM ledger_entries WHERE reference_id = 'R000017'")
    report = broken(world, source)
    assert report.account_break_count == 0
    assert [one.reference_id for one in report.breaks if one.kind == "missing"] == ["R000017"]


def test_an_entry_that_its_duplicate_stands_on_is_missing_for_both(world: World, source: Path) -> None:
    world.tamper("DELETE FROM ledger_entries WHERE reference_id = 'R000002'")
    missing = {one.source_row for one in broken(world, source).breaks if one.kind == "missing"}
    assert missing == {2, 35}


FORGED = """
    INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code, transaction_type,
                                reference_id, timestamp_utc, batch_id, source_row)
    SELECT 'MASTER', 'A', 'B', 5, 'USD', 'TRANSFER', 'FORGED', now(), id, {row}
    FROM backfill_batches WHERE kind = '{kind}' ORDER BY id LIMIT 1
"""


@pytest.mark.parametrize("row", ["7", "35", "12345", "NULL"])
def test_a_forged_entry_in_a_batch_is_found(world: World, source: Path, row: str) -> None:
    world.query(FORGED.format(kind="entries", row=row))
    assert broken(world, source).break_count >= 1


@pytest.mark.parametrize("row", ["1", "77", "NULL"])
def test_a_forged_opening_entry_is_found(world: World, source: Path, row: str) -> None:
    world.query(FORGED.format(kind="opening", row=row))
    assert broken(world, source).break_count >= 1


@pytest.mark.parametrize("change", ["amount = amount + 1", "timestamp_utc = now()", "reference_id = 'X'"])
def test_an_altered_opening_entry_is_found(world: World, source: Path, change: str) -> None:
    changed = world.tamper(
        f"UPDATE ledger_entries SET {change} WHERE transaction_type = 'OPENING_BALANCE' AND debit_account_id = 'C'"
    )
    assert changed == 1
    assert {one.partition_key for one in broken(world, source).breaks} == {"opening balances"}


def test_a_deleted_opening_entry_is_found(world: World, source: Path) -> None:
    world.query("DELETE FROM ledger_entries WHERE debit_account_id = 'C'")
    assert [one.kind for one in broken(world, source).breaks] == ["missing"]


@pytest.mark.parametrize("column", ["balance", "available_balance", "reserved_balance"])
def test_a_balance_changed_by_update_is_found_and_named(world: World, source: Path, column: str) -> None:
    world.query(f"UPDATE bank_accounts SET {column} = {column} + 0.01 WHERE id = 'C'")
    found = broken(world, source).account_breaks
    expected = "balance" if column == "balance" else "available_balance"
    assert ("C", expected) in {(one.account_id, one.what) for one in found}
    assert {one.account_id for one in found} == {"C"}


def test_two_balances_changed_so_that_they_cancel_out_are_found(world: World, source: Path) -> None:
    world.query(
        "UPDATE bank_accounts SET balance = balance + 1, available_balance = available_balance + 1 WHERE id = 'A'"
    )
    world.query(
        "UPDATE bank_accounts SET balance = balance - 1, available_balance = available_balance - 1 WHERE id = 'B'"
    )
    assert {one.account_id for one in broken(world, source).account_breaks} == {"A", "B"}


def test_a_reservation_is_no_break(world: World, source: Path) -> None:
    world.query(
        "UPDATE bank_accounts SET reserved_balance = 10, available_balance = available_balance - 10 WHERE id = 'C'"
    )
    assert world.reconcile(source).matches


def test_a_removed_account_is_found(world: World, source: Path) -> None:
    world.tamper("DELETE FROM bank_accounts WHERE id = 'C'")
    assert "C" in {one.account_id for one in broken(world, source).account_breaks}


def test_an_entry_that_changed_its_batch_is_found(world: World, source: Path) -> None:
    world.tamper("UPDATE ledger_entries SET batch_id = NULL WHERE reference_id = 'R000017'")
    assert broken(world, source).break_count >= 1


def test_counters_that_were_changed_are_found(world: World, source: Path) -> None:
    world.tamper(
        "UPDATE backfill_batches SET posted = posted - 1, rejected = rejected + 1"
        " WHERE kind = 'entries' AND first_row = 1"
    )
    assert broken(world, source).break_kinds["counts"] >= 1


def test_a_removed_reject_is_found(world: World) -> None:
    path = world.write("s", [*entries(9), entry(10, amount="much")], max_error_rate="0.2")
    world.post(path)
    assert world.reconcile(path).matches
    world.query("DELETE FROM backfill_rejects")
    assert broken(world, path).break_count >= 1


def test_entries_of_live_posting_are_no_break(world: World, source: Path) -> None:
    world.query("SELECT post_ledger_entry('LIVE', 'A', 'B', 5, 'USD', 'fiat', 'TRANSFER', 'live-1')")
    assert world.reconcile(source).matches


def test_more_breaks_than_are_shown_are_all_counted(world: World) -> None:
    path = world.write("s", entries(700), partition_rows="500")
    world.post(path)
    world.tamper("UPDATE ledger_entries SET transaction_type = 'FEE' WHERE transaction_type = 'TRANSFER'")
    report = broken(world, path)
    assert report.break_count == 700
    assert len(report.breaks) == 100


def test_an_altered_conversion_is_found_although_the_balance_was_adjusted_to_it(world: World) -> None:
    path = world.write(
        "s",
        [["R1", "A", "E", "100.00", "USD", "2024-01-01T00:00:00Z", "0.9"]],
        accounts=("A",),
    )
    definition = path.read_text().replace("timestamp_utc:", "fx_rate: note\n  timestamp_utc:")
    path.write_text(definition)
    world.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('E', 'EUR')")
    world.post(path)
    assert world.reconcile(path).matches
    world.tamper("UPDATE ledger_entry_conversions SET amount = amount + 1")
    world.tamper(
        "UPDATE bank_accounts SET balance = balance - 1, available_balance = available_balance - 1 WHERE id = 'E'"
    )
    assert not world.reconcile(path).matches


def test_without_its_files_a_source_is_compared_all_the_same(world: World, source: Path) -> None:
    files = list(world.places.intermediates_dir.rglob("*.arrows"))
    assert files
    for file in files:
        file.unlink()
    assert world.reconcile(source).matches
    world.tamper("UPDATE ledger_entries SET amount = amount + 0.01 WHERE reference_id = 'R000017'")
    assert broken(world, source).break_kinds["different"] == 1


def test_a_damaged_file_is_made_again_and_never_compared_with(world: World, source: Path) -> None:
    """Every single flipped byte: the file is not believed, neither as it is nor half of it."""
    (file,) = world.places.intermediates_dir.rglob("validated/0002.arrows")
    whole = file.read_bytes()
    for position in range(0, len(whole), 149):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        assert world.reconcile(source).matches, position
    for damaged in (b"", whole[: len(whole) // 2], b"no Arrow at all"):
        file.write_bytes(damaged)
        assert world.reconcile(source).matches


def test_open_partitions_are_no_break_and_are_told(world: World) -> None:
    path = world.write("s", entries(30))
    world.post(path, keys=["0002"])
    report = world.reconcile(path)
    assert report.matches
    assert (report.open_partitions, report.read, report.posted) == (2, 10, 10)
