"""Reconciliation finds every way in which a ledger can leave its source, and names the place."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import LedgerError
from backfill_pipeline.schemas.frames import VALIDATED_SCHEMA
from backfill_pipeline.stages.reconcile import ReconciliationReport
from backfill_pipeline.stages.work import open_work
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("amount", "amount + 0.000000000000000001"),
        ("amount", "99999999999999999999.999999999999999999"),
        ("amount", "-amount"),
        ("fx_rate", "0.000000000000000001"),
        ("ledger_id", "''"),
        ("ledger_id", "'MASTER '"),
        ("ledger_id", "'master'"),
        ("reference_id", "E'R000017\\n'"),
        ("transaction_type", "U&'TR\\0391NSFER'"),  # a Greek capital alpha looks the same
        ("transaction_type", "repeat('x', 3000000)"),
        ("asset_type", "E'fiat\\x01'"),
        ("timestamp_utc", "timestamp_utc + interval '1 hour'"),
        ("timestamp_utc", "'infinity'"),
        ("timestamp_utc", "'-infinity'"),
        ("timestamp_utc", "'0044-03-15 00:00:00 BC'"),
        ("timestamp_utc", "'20024-01-01'"),
        ("metadata", "NULL"),
        ("metadata", "'{}'"),
        ("metadata", "'null'"),
        ("metadata", "'[]'"),
        ("metadata", """ '{"note": "note 17", "more": null}' """),
        ("metadata", """ '{"note": "note 1\\u0037 "}' """),
        ("metadata", """ '{"Note": "note 17"}' """),
        ("metadata", """ '{"note": 17}' """),
    ],
)
def test_the_smallest_and_the_oddest_change_is_found(
    world: World, source: Path, name: str, value: str
) -> None:
    world.tamper("ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_amount_check")
    world.tamper(f"UPDATE ledger_entries SET {name} = {value} WHERE reference_id = 'R000017'")
    (found,) = broken(world, source).breaks
    assert (found.kind, found.field, found.source_row) == ("different", name, 17)
    assert found.expected != found.actual


def test_metadata_that_is_written_differently_but_means_the_same_is_no_break(world: World) -> None:
    path = world.write("s", [entry(1, note="ü"), entry(2, note=""), entry(3, note='a"b\\c\td')])
    world.post(path)
    intermediates = open_work(load_definition(path), world.places).intermediates
    frame = intermediates.read("validated", "0001", VALIDATED_SCHEMA)
    assert frame is not None
    texts = pa.array(['{"note":"\\u00fc"}', *frame.column("metadata").to_pylist()[1:]], pa.string())
    column = frame.schema.get_field_index("metadata")
    intermediates.write("validated", "0001", frame.set_column(column, frame.schema.field(column), texts))
    assert world.reconcile(path).matches


def test_every_entry_changed_in_every_field_is_counted_field_by_field(world: World, source: Path) -> None:
    names = [name for name in FIELDS if name not in ("ledger_id", "reference_id", "credit_account_id")]
    changes = ", ".join(f"{name} = {FIELDS[name]}" for name in names)
    assert world.tamper(f"UPDATE ledger_entries SET {changes} WHERE transaction_type = 'TRANSFER'") == 34
    found = broken(world, source)
    assert found.break_kinds == {"different": len(names) * (34 + 1)}  # row 35 repeats row 2
    assert {one.field for one in found.breaks} == set(names)


def test_an_entry_posted_again_under_another_batch_is_found(world: World, source: Path) -> None:
    for batch in ("min", "max"):
        world.query(
            "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
            "   transaction_type, reference_id, timestamp_utc, metadata, batch_id, source_row)"
            " SELECT ledger_id, debit_account_id, credit_account_id, amount, currency_code, transaction_type,"
            "   reference_id || %s, timestamp_utc, metadata,"
            f"  (SELECT {batch}(id) FROM backfill_batches WHERE kind = 'entries'), source_row"
            " FROM ledger_entries WHERE reference_id = 'R000017'",
            batch,
        )
    report = broken(world, source)
    assert {one.partition_key for one in report.breaks} == {"0001", "0004"}
    assert report.break_kinds["counts"] == 2
    assert report.break_kinds["unexpected"] == 2


@pytest.mark.parametrize("kind", ["entries", "opening"])
def test_an_entry_that_moved_into_another_batch_is_found(world: World, source: Path, kind: str) -> None:
    world.tamper(
        "UPDATE ledger_entries SET batch_id = (SELECT max(id) FROM backfill_batches WHERE kind = %s)"
        " WHERE reference_id = 'R000017'",
        kind,
    )
    report = broken(world, source)
    assert report.break_kinds["counts"] >= 1
    assert report.break_kinds["unexpected"] == 1


def test_two_entries_that_swapped_their_source_rows_are_found(world: World, source: Path) -> None:
    world.tamper("UPDATE ledger_entries SET source_row = 35 - source_row WHERE source_row IN (17, 18)")
    found = broken(world, source).breaks
    assert {(one.kind, one.source_row) for one in found} == {("different", 17), ("different", 18)}


def test_entries_that_lie_in_another_order_match(world: World, source: Path) -> None:
    """As after an UPDATE of nothing, or a dump and restore: the order of rows in a table means nothing."""
    world.tamper("UPDATE ledger_entries SET posted_at = posted_at WHERE source_row % 3 = 0")
    world.tamper("UPDATE ledger_entries SET posted_at = posted_at WHERE source_row % 3 = 1")
    assert world.reconcile(source).matches


def test_partitions_without_a_single_posted_entry(world: World) -> None:
    rows = [*entries(10), *entries(10), *entries(10, first=11, amount="much"), *entries(10, first=31)]
    path = world.write("s", rows, max_error_rate="1")
    world.post(path)
    report = world.reconcile(path)
    assert report.matches
    assert (report.posted, report.duplicates, report.rejected, report.entries_compared) == (20, 10, 10, 20)
    world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000003'")
    assert {(one.partition_key, one.source_row) for one in broken(world, path).breaks} == {
        ("0001", 3),
        ("0002", 13),
    }
    world.query("DELETE FROM ledger_entries WHERE reference_id IN ('R000003', 'R000035')")
    assert broken(world, path).break_kinds["missing"] == 3


def test_live_postings_during_the_reconciliation_are_no_break(world: World) -> None:
    path = world.write("s", entries(2_000), partition_rows="100", accounts={"A": 10**6, "B": 10**6})
    world.post(path)
    stop = threading.Event()

    def post() -> int:
        count = 0
        with psycopg.connect(world.url, autocommit=True) as connection:
            while not stop.is_set():
                count += 1
                connection.execute(
                    "SELECT post_ledger_entry('LIVE', 'A', 'B', 5, 'USD', 'fiat', 'TRANSFER', %s)",
                    [f"l{count}"],
                )
        return count

    with ThreadPoolExecutor(1) as live:
        posting = live.submit(post)
        try:
            reports = [world.reconcile(path) for _ in range(3)]
        finally:
            stop.set()
        assert posting.result() > 3
    assert [report.matches for report in reports] == [True] * 3


def test_a_failure_of_the_balances_is_no_verdict(world: World, source: Path) -> None:
    """What is examined meanwhile, on a connection of its own, fails the whole when it fails."""
    before = world.value("SELECT count(*) FROM backfill_reconciliations")
    world.query("ALTER TABLE ledger_entry_conversions RENAME TO hidden")
    with pytest.raises(LedgerError, match="cannot sum balances"):
        world.reconcile(source)
    assert world.value("SELECT count(*) FROM backfill_reconciliations") == before


def test_a_failure_while_comparing_ends_everything_else(world: World, source: Path) -> None:
    world.query("ALTER TABLE ledger_entries DROP COLUMN fx_rate CASCADE")
    with pytest.raises(LedgerError, match="cannot (read entries|sum balances)"):
        world.reconcile(source)
    connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'backfill s'"
    assert world.value(connections) == 0


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
