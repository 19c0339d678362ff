"""Columns come back as they are stored, whatever is stored: also what only a tampered ledger can hold."""

from decimal import Decimal
from typing import Any

import pytest

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import reconciliation
from backfill_pipeline.ledger.read_back import LEDGER_SCHEMA, PIECE_BYTES, read_entries
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import Entry, World, many, numbered, table

ALL = "FROM ledger_entries e WHERE true"


@pytest.fixture
def bank(world: World) -> Registration:
    world.open("A", "B")
    return world.register(100_000)


@pytest.fixture
def lawless(world: World) -> World:
    """A ledger without its constraints and triggers."""
    world.connection.execute("SET session_replication_role = replica")
    world.connection.execute(
        "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_amount_check,"
        " DROP CONSTRAINT ledger_entries_fx_rate_check, ALTER timestamp_utc DROP NOT NULL,"
        " ALTER amount DROP NOT NULL, ALTER ledger_id DROP NOT NULL, ALTER reference_id DROP NOT NULL"
    )
    return world


def read(world: World, **options: Any) -> list[dict[str, Any]]:
    rows = read_entries(world.connection, ALL, {}, **options)
    assert rows.schema.equals(LEDGER_SCHEMA)
    rows.validate(full=True)
    found: list[dict[str, Any]] = rows.to_pylist()
    return found


@pytest.mark.parametrize("pieces", [1, 2, 7, 5000])
def test_in_pieces_every_entry_comes_once(world: World, bank: Registration, pieces: int) -> None:
    world.open_ring(10)
    world.post(bank, many(1_000, 10))
    world.connection.execute("SET session_replication_role = replica")
    world.connection.execute("UPDATE ledger_entries SET id = -id WHERE source_row % 3 = 0")
    assert sorted(row["source_row"] for row in read(world, size_bytes=(pieces - 1) * PIECE_BYTES)) == list(
        range(1, 1_001)
    )


def test_in_pieces_by_reference(world: World, bank: Registration) -> None:
    entries = table(numbered([Entry(f"r{number}") for number in range(100)]))
    world.post(bank, entries)
    found = reconciliation.entries_by_reference(world.connection, entries, size_bytes=3 * PIECE_BYTES)
    assert sorted(found.column("source_row").to_pylist()) == list(range(1, 101))


def test_null_is_not_empty(world: World, bank: Registration) -> None:
    world.post(
        bank,
        numbered([
            Entry("", ledger="", kind="", asset_type="", metadata=None),
            Entry("\x01", metadata="{}"),
            Entry("ÿ", metadata='"ÿ"'),
            Entry("n", metadata="null"),
            Entry("e", metadata='""'),
            Entry("l", metadata='"a\\nb"'),
        ]),
    )  # fmt: skip
    rows = sorted(read(world), key=lambda row: row["source_row"])
    assert [row["reference_id"] for row in rows] == ["", "\x01", "ÿ", "n", "e", "l"]
    assert [row["metadata"] for row in rows] == [None, "{}", '"ÿ"', "null", '""', '"a\\nb"']
    assert (rows[0]["ledger_id"], rows[0]["transaction_type"], rows[0]["asset_type"]) == ("", "", "")


def test_nulls_where_none_may_be(lawless: World, bank: Registration) -> None:
    lawless.post(bank, numbered([Entry("r1"), Entry("r2")]))
    lawless.connection.execute(
        "UPDATE ledger_entries SET timestamp_utc = NULL, amount = NULL, ledger_id = NULL, reference_id = NULL,"
        " source_row = NULL WHERE reference_id = 'r1'"
    )
    first, second = sorted(read(lawless), key=lambda row: str(row["reference_id"]))
    fields = ("source_row", "ledger_id", "amount", "reference_id", "timestamp_utc", "fx_rate", "metadata")
    assert [first[name] for name in fields] == [None] * 7
    assert second["reference_id"] == "r2"


LAST = 2**63 - 1


@pytest.mark.parametrize(
    ("stored", "microseconds"),
    [
        ("infinity", LAST),
        ("294276-12-31 23:59:59.999999", LAST),  # Arrow's microseconds end in 294247
        ("-infinity", None),
        ("4713-01-01 00:00:00 BC", -210_863_520_000_000_000),
        ("0001-01-01", -62_135_596_800_000_000),
        ("1969-12-31 23:59:59.999999", -1),
        ("1970-01-01", 0),
        ("9999-12-31 23:59:59.999999", 253_402_300_799_999_999),
    ],
)
def test_any_time(lawless: World, bank: Registration, stored: str, microseconds: int | None) -> None:
    lawless.post(bank, numbered([Entry("r1")]))
    lawless.connection.execute("UPDATE ledger_entries SET timestamp_utc = %s::timestamptz", [stored])
    times = read_entries(lawless.connection, ALL, {}).column("timestamp_utc")
    assert times.cast("int64").to_pylist() == [microseconds]


@pytest.mark.parametrize("name", ["amount", "fx_rate"])
@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-Infinity", "9" * 21, "9" * 25, "9" * 30, "9" * 39, "9" * 60, "1" + "0" * 20, "1" + "0" * 30,
     "0." + "0" * 18 + "1", "-" + "9" * 30, "9" * 30 + ".5"],
)  # fmt: skip
def test_a_number_that_does_not_fit_is_an_error_and_never_another_number(
    lawless: World, bank: Registration, name: str, value: str
) -> None:
    lawless.post(bank, numbered([Entry("r1")]))
    lawless.connection.execute(f"UPDATE ledger_entries SET {name} = %s", [value])
    with pytest.raises(LedgerError, match=f"{name} that the ledger does not allow"):
        read(lawless)


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "0.000000000000000001", "-0.000000000000000001", "99999999999999999999.999999999999999999",
     "-99999999999999999999.999999999999999999", "12345678901234567890", "1.10000000000000000000000000", "1e5"],
)  # fmt: skip
def test_a_number_that_fits_is_exact(lawless: World, bank: Registration, value: str) -> None:
    lawless.post(bank, numbered([Entry("r1")]))
    lawless.connection.execute("UPDATE ledger_entries SET amount = %s, fx_rate = %s", [value, value])
    (row,) = read(lawless)
    assert (row["amount"], row["fx_rate"]) == (Decimal(value), Decimal(value))


def test_the_callers_transaction_goes_on_after_a_failure(world: World, bank: Registration) -> None:
    with world.connection.transaction():
        with pytest.raises(Exception, match="nothing"):
            read_entries(world.connection, "FROM nothing e WHERE true", {})
        assert read(world) == []
