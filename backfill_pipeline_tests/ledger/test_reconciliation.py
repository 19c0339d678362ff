"""Reading entries back gives every field as it was posted."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.errors import TransientLedgerError
from backfill_pipeline.ledger import reconciliation
from backfill_pipeline.ledger.read_back import LEDGER_SCHEMA
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import Entry, World, many, numbered

ODD = ["", " ", "plain", 'quote"d', "it's", "com,ma", "new\nline", "carriage\rreturn", "\r\n", "tab\t", "\\.", "\\N", "NULL",
       "null", "é€𝄞", "\u2028", '"', '""', "\x01\x7f", "a" * 5000]  # fmt: skip


@pytest.fixture
def bank(world: World) -> Registration:
    world.open("A", "B", '"', "new\nline", "é€𝄞")
    return world.register(100_000, 100_000)


def read(world: World, bank: Registration, partition: int = 0) -> list[dict[str, Any]]:
    rows = reconciliation.posted_entries(world.connection, bank.partitions[partition].id)
    assert rows.schema.names == LEDGER_SCHEMA.names
    assert rows.schema.types == LEDGER_SCHEMA.types
    found: list[dict[str, Any]] = rows.sort_by("source_row").to_pylist()
    return found


def as_read(entry: Entry) -> dict[str, Any]:
    return {
        "source_row": entry.row, "ledger_id": entry.ledger, "debit_account_id": entry.debit,
        "credit_account_id": entry.credit, "amount": Decimal(entry.amount), "currency_code": entry.currency,
        "asset_type": entry.asset_type, "transaction_type": entry.kind, "reference_id": entry.reference,
        "timestamp_utc": entry.at.replace(tzinfo=None), "metadata": entry.metadata,
        "fx_rate": None if entry.fx_rate is None else Decimal(entry.fx_rate),
    }  # fmt: skip


def test_odd_text_in_every_field(world: World, bank: Registration) -> None:
    rows = [
        Entry(f"{text}|{number}", kind=text, asset_type=text[:200], ledger=text, metadata=None)
        for number, text in enumerate(ODD)
    ]
    rows += [Entry("odd accounts", '"', "new\nline"), Entry("more", "é€𝄞", "A")]
    rows = numbered([row for row in rows if len(row.reference) < 2000])
    world.post(bank, rows)
    assert read(world, bank) == [as_read(row) for row in rows]


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Entry,
            reference=text,
            kind=text,
            asset_type=text,
            ledger=text,
            amount=st.decimals(min_value="1e-18", max_value=10**19, places=18).map("{:f}".format)
            | st.sampled_from(["1", "10.00"]),
            fx_rate=st.none() | st.decimals(min_value="1e-18", max_value=10**6, places=18).map("{:f}".format),
            at=st.datetimes(
                datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999), timezones=st.just(UTC)
            ),
            metadata=st.none()
            | st.sampled_from(["{}", '{"a": ""}', '{"a": "x\\"\\n\\\\"}', '{"é": "€"}', '{"a": "\\u0001"}']),
        ),
        max_size=15,
        unique_by=lambda entry: (entry.ledger, entry.reference),
    )
)
def test_any_entry(world: World, bank: Registration, rows: list[Entry]) -> None:
    rows = numbered(rows)
    with world.connection.transaction(force_rollback=True):
        if rows:
            world.post(bank, rows)
        assert read(world, bank) == [as_read(row) for row in rows]


def test_an_amount_that_arrow_cannot_divide(world: World, bank: Registration) -> None:
    """Arrow 26 divides some integers above 2^62 wrongly, and says so: they are posted and read back all the same."""
    rows = numbered([Entry("large", amount="18446744072079056827"), Entry("small", amount="1")])
    world.post(bank, rows)
    assert read(world, bank) == [as_read(row) for row in rows]


def test_a_record_longer_than_a_megabyte(world: World, bank: Registration) -> None:
    rows = numbered([Entry("r1"), Entry("r2", metadata='{"a": "' + '\\"' * 1_500_000 + '"}'), Entry("r3")])
    world.post(bank, rows)
    assert read(world, bank) == [as_read(row) for row in rows]


def test_nothing_posted_is_an_empty_table(world: World, bank: Registration) -> None:
    assert read(world, bank) == []


def test_only_the_partitions_own_entries_whatever_lies_between(world: World, bank: Registration) -> None:
    world.post(bank, [Entry("a1", row=1)])
    world.post(bank, [Entry("b1", row=1)], partition=1)
    world.post_one(Entry("live"))
    world.post(bank, [Entry("a2", row=2), Entry("a1", row=3)])
    reconciliation.prepare(world.connection)
    assert [row["reference_id"] for row in read(world, bank)] == ["a1", "a2"]
    assert [row["reference_id"] for row in read(world, bank, 1)] == ["b1"]


def test_with_many_batches_all_come_back(world: World, bank: Registration) -> None:
    world.open_ring(10)
    rows = many(20_000, 10)
    for start in range(0, 20_000, 2_000):
        world.post(bank, rows.slice(start, 2_000))
    assert [row["source_row"] for row in read(world, bank)] == list(range(1, 20_001))


def test_by_reference_finds_them_whoever_posted_them(world: World, bank: Registration) -> None:
    world.post_one(Entry("live", amount="7"))
    world.post_one(Entry("live", ledger="OTHER"))
    world.post(bank, [Entry('odd"\n', row=5)])
    wanted = pa.table({
        "source_row": [11, 12, 13], "ledger_id": ["MASTER"] * 3, "reference_id": ["live", 'odd"\n', "missing"],
    })  # fmt: skip
    found = reconciliation.entries_by_reference(world.connection, wanted).sort_by("source_row").to_pylist()
    assert [(row["source_row"], row["reference_id"], row["amount"]) for row in found] == [
        (11, "live", 7), (12, 'odd"\n', 10),
    ]  # fmt: skip
    assert reconciliation.entries_by_reference(world.connection, wanted.slice(2)).num_rows == 0


def test_a_connection_that_dies_while_reading_is_transient(world: World, bank: Registration) -> None:
    world.open_ring(10)
    world.post(bank, many(50_000, 10))
    doomed = world.connect()
    doomed.execute("SET statement_timeout = 5")
    with pytest.raises(TransientLedgerError, match="cannot read entries from the ledger right now"):
        for _ in range(100):
            reconciliation.posted_entries(doomed, bank.partitions[0].id)
    assert doomed.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_verdicts_are_kept_and_the_latest_counts(world: World, bank: Registration) -> None:
    assert reconciliation.latest(world.connection, bank.id) is None
    for verdict, breaks in (("break", 3), ("match", 0)):
        reconciliation.record(
            world.connection,
            bank.id,
            verdict=verdict,
            entries_compared=10,
            break_count=breaks,
            details={"x": ["é"]},
        )
    latest = reconciliation.latest(world.connection, bank.id)
    assert latest is not None
    assert (latest.verdict, latest.entries_compared, latest.break_count, latest.details) == (
        "match",
        10,
        0,
        {"x": ["é"]},
    )
