"""A day of a dual ledger as the ledger sees it: which entries are of it, whose they are, and what the outbox says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from backfill_pipeline.ledger import posting
from backfill_pipeline.ledger.banks import dual_reconciliation
from backfill_pipeline.ledger.banks.dual_reconciliation import (
    SERVED_SCHEMA,
    DayOfLedger,
    DaySnapshot,
    day_snapshot,
)
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline_tests.ledger.world import NOON, Entry, World, as_rejects, many, table

BANK = "SCB-01"
DAY = DayOfLedger(
    ledger_id="MASTER",
    bank_id=BANK,
    source_id="scb_01@2024-03-01",
    window_from=datetime(2024, 2, 29, 23, tzinfo=UTC),
    window_to=datetime(2024, 3, 1, 23, tzinfo=UTC),
    send_entries=True,
)
Told = tuple[str | None, str | None, bool, int]


@pytest.fixture
def dual(world: World) -> World:
    """A world in which MASTER is kept with a bank."""
    world.open("A", "B")
    world.connection.execute("SELECT mark_dual_ledger('MASTER', %s, true)", [BANK])
    return world


def post(world: World, source_id: str, entries: Sequence[Entry] | pa.Table, *, origin: str = BANK) -> None:
    rows = entries if isinstance(entries, pa.Table) else table(entries)
    plan = replace(world.plan(world.register(source_id=source_id), rows), origin=origin)
    assert (
        posting.post_batch(world.connection, plan, rows, PostingPolicy(), as_rejects).posted == rows.num_rows
    )


def served(*references: str, left_out: str | None = None, first: int = 1) -> pa.Table:
    rows = range(first, first + len(references))
    return pa.table(
        [pa.array(rows), pa.array(references), pa.repeat(pa.scalar(left_out, pa.string()), len(references))],
        schema=SERVED_SCHEMA,
    )


def left(snapshot: DaySnapshot) -> list[tuple[str, str | None]]:
    found = snapshot.left_entries(10)
    assert snapshot.left_count() == len(found)
    return [(one.reference_id, one.left_out) for one in found]


def told(snapshot: DaySnapshot) -> list[Told]:
    return [(one.kind, one.status, one.here, one.count) for one in snapshot.outbox_states()]


def ours(snapshot: DaySnapshot) -> set[str]:
    return set(snapshot.ours().column("reference_id").to_pylist())


def test_entries_that_the_bank_serves_are_read_back_in_pieces_with_its_row_numbers(dual: World) -> None:
    post(dual, DAY.source_id, [Entry("E1", amount="1.00"), Entry("E2"), Entry("E3")])
    with day_snapshot(dual.connection, DAY) as snapshot:
        first = snapshot.posted(served("E2", "NOT-HERE", first=7))
        assert first.select(["source_row", "reference_id"]).to_pylist() == [
            {"source_row": 7, "reference_id": "E2"}
        ]
        assert snapshot.posted(served("E1", first=9)).column("amount").to_pylist() == [Decimal(1)]
        assert snapshot.posted(served("E3", left_out="kept elsewhere")).num_rows == 0
        snapshot.find_rest()
        assert left(snapshot) == [("E3", "kept elsewhere")]
        assert snapshot.left_sums() == {"USD": Decimal(10)}
        assert told(snapshot) == [("acknowledgement", "PENDING", True, 3)]


def test_a_day_is_what_is_booked_in_it_and_what_its_batches_posted(dual: World) -> None:
    begin, end = DAY.window_from, DAY.window_to
    post(dual, DAY.source_id, [Entry("FIRST", at=begin), Entry("ELSEWHEN", at=end + timedelta(days=9))])
    post(dual, "scb_01@2024-03-02", [Entry("NEXT", at=end), Entry("SHIFTED", at=NOON)])
    post(dual, "by_file", [Entry("BY-FILE", at=end - timedelta(microseconds=1)), Entry("LATER", at=end)])
    with day_snapshot(dual.connection, DAY) as snapshot:
        snapshot.find_rest()
        assert [reference for reference, _ in left(snapshot)] == ["BY-FILE", "ELSEWHEN", "FIRST"]


def test_other_ledgers_other_banks_and_opening_balances_are_not_the_banks(dual: World) -> None:
    post(dual, "other_bank", [Entry("OF-OTHER-BANK")], origin="SCB-02")
    post(dual, "file", [Entry("OURS")], origin="LOCAL")
    post(dual, "elsewhere", [Entry("ELSEWHERE", ledger="OTHER")])
    posting.post_opening_entries(dual.connection, "bank", table([Entry("OPENING-A")]), "run-1")
    dual.post_one(Entry("LIVE"))
    with day_snapshot(dual.connection, DAY) as snapshot:
        snapshot.find_rest()
        assert left(snapshot) == []
        assert ours(snapshot) == {"OF-OTHER-BANK", "OURS", "LIVE"}
        assert told(snapshot) == [("entry", "PENDING", True, 3)]


def test_an_entry_without_a_batch_is_whose_the_outbox_says(dual: World) -> None:
    dual.connection.execute("SET backfill.origin = 'SCB-01'")
    dual.post_one(Entry("IN-ITS-NAME"))
    dual.connection.execute("RESET backfill.origin")
    dual.post_one(Entry("LIVE"))
    with day_snapshot(dual.connection, DAY) as snapshot:
        snapshot.find_rest()
        assert left(snapshot) == [("IN-ITS-NAME", None)]
        assert ours(snapshot) == {"LIVE"}


def test_the_outbox_is_told_by_state_also_where_a_row_or_an_entry_is_missing(dual: World) -> None:
    post(dual, DAY.source_id, [Entry(f"E{number}") for number in range(1, 6)])
    dual.post_one(Entry("OURS"))
    dual.post_one(Entry("GONE"))
    dual.connection.execute(
        "UPDATE dual_ledger_outbox SET status = 'ACKNOWLEDGED' WHERE reference_id <= 'E2'"
    )
    dual.connection.execute(
        "UPDATE dual_ledger_outbox SET status = 'DEAD', last_error = 'refused' WHERE reference_id = 'E3'"
    )
    dual.connection.execute("DELETE FROM dual_ledger_outbox WHERE reference_id = 'E4'")
    with dual.connection.transaction():
        dual.connection.execute("SET LOCAL session_replication_role = replica")
        dual.connection.execute("DELETE FROM ledger_entries WHERE reference_id IN ('E5', 'GONE')")
    with day_snapshot(dual.connection, DAY) as snapshot:
        snapshot.posted(served("E1", "E2", "E3", "E4", "E5", "NEVER-POSTED"))
        snapshot.find_rest()
        states = snapshot.outbox_states()
        assert told(snapshot) == [
            ("acknowledgement", "ACKNOWLEDGED", True, 2),
            ("acknowledgement", "DEAD", True, 1),
            ("acknowledgement", "PENDING", False, 1),
            ("entry", "PENDING", False, 1),
            ("entry", "PENDING", True, 1),
            (None, None, True, 1),
        ]
        named = [[row.reference_id for row in snapshot.outbox_rows(state, 5)] for state in states]
        assert named == [["E1", "E2"], ["E3"], ["E5"], ["GONE"], ["OURS"], ["E4"]]
        assert snapshot.outbox_rows(states[1], 5)[0].last_error == "refused"
        assert set(snapshot.ours_not_acknowledged().to_pylist()) == {"GONE", "OURS"}


def test_what_is_not_sent_is_not_looked_for_but_what_was_sent_before_is(dual: World) -> None:
    dual.post_one(Entry("SENT-BEFORE"))
    dual.connection.execute("SELECT mark_dual_ledger('MASTER', %s, false)", [BANK])
    dual.post_one(Entry("NOT-SENT"))
    with day_snapshot(dual.connection, replace(DAY, send_entries=False)) as snapshot:
        snapshot.find_rest()
        assert ours(snapshot) == {"SENT-BEFORE"}


def test_everything_is_seen_as_it_was_at_one_moment(dual: World) -> None:
    post(dual, DAY.source_id, [Entry("E1")])
    other = dual.connect()
    with day_snapshot(dual.connection, DAY) as snapshot:
        snapshot.posted(served("E1"))
        dual.post_one(Entry("LIVE"), other)
        other.execute("UPDATE dual_ledger_outbox SET status = 'ACKNOWLEDGED'")
        snapshot.find_rest()
        assert told(snapshot) == [("acknowledgement", "PENDING", True, 1)]
        assert ours(snapshot) == set()
    with day_snapshot(dual.connection, DAY) as snapshot:  # nothing of the first one is left
        snapshot.find_rest()
        assert left(snapshot) == [("E1", None)]
        assert told(snapshot) == [
            ("acknowledgement", "ACKNOWLEDGED", True, 1),
            ("entry", "ACKNOWLEDGED", True, 1),
        ]


def test_a_vacuum_that_is_under_way_keeps_nobody_from_comparing(dual: World) -> None:
    post(dual, DAY.source_id, [Entry("E1")])
    other = dual.connect()
    with other.transaction():
        other.execute("LOCK TABLE ledger_entries IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM does
        with day_snapshot(dual.connection, DAY) as snapshot:
            snapshot.find_rest()
            assert left(snapshot) == [("E1", None)]
    assert dual.value("SELECT current_setting('lock_timeout')") == "1min"


def test_times_with_decimals_of_a_second_at_the_bounds_of_a_day(dual: World) -> None:
    second = timedelta(seconds=1)
    for name, at in {
        "BEFORE": DAY.window_from - second / 2,
        "BEGIN": DAY.window_from + second / 2,
        "END": DAY.window_to - second / 2,
        "AFTER": DAY.window_to + second / 2,
    }.items():
        dual.post_one(Entry(name, at=at))
    with dual.connection.transaction():
        dual.connection.execute("SET LOCAL session_replication_role = replica")
        dual.connection.execute("DELETE FROM ledger_entries")
    with day_snapshot(dual.connection, DAY) as snapshot:
        snapshot.find_rest()
        (state,) = snapshot.outbox_states()
        assert [row.reference_id for row in snapshot.outbox_rows(state, 9)] == ["BEGIN", "END"]


def test_a_day_of_a_long_ledger_is_found_without_reading_the_ledger(dual: World) -> None:
    """On a database that was never analyzed: neither a scan of the table, nor of everything under the ledger's id."""
    dual.open_ring(50)
    for day in range(1, 5):
        rows = many(5_000, 50, prefix=f"D{day}-", first_row=1 + day * 10_000)
        at = pa.array([NOON - timedelta(days=100 - day)] * 5_000, rows.schema.field("timestamp_utc").type)
        moved = rows.set_column(rows.schema.get_field_index("timestamp_utc"), "timestamp_utc", at)
        post(dual, f"scb_01@2023-12-0{day}", moved)
    post(dual, DAY.source_id, [Entry("E1")])
    with day_snapshot(dual.connection, DAY) as snapshot:
        snapshot.find_rest()
        parameters = {
            "ledger": "MASTER", "bank": BANK, "from": DAY.window_from, "to": DAY.window_to, "opening": "OPENING",
            "rollback": "ROLLBACK", "day_source": "@", "batches": [5], "low": 5, "high": 5,
        }  # fmt: skip
        plan = dual.connection.execute(f"EXPLAIN {dual_reconciliation._DAY}", parameters).fetchall()
    text = "\n".join(line for (line,) in plan)
    assert "ledger_entries_timestamp_utc_idx" in text
    assert "ledger_entries_batch_id_idx" in text
    assert "ledger_entries_ledger_id_reference_id_key" not in text
    assert "Seq Scan on ledger_entries" not in text


def test_reasons_of_refused_entries_are_those_of_the_current_revision(dual: World) -> None:
    registration = dual.register(source_id=DAY.source_id)
    partition = registration.partitions[0].id
    dual.connection.execute(
        "INSERT INTO backfill_source_references VALUES (%s, %s, '{1,2}', '{MASTER,MASTER}', '{R1,R2}')",
        [DAY.source_id, partition],
    )
    dual.connection.execute(
        "INSERT INTO backfill_rejects (partition_id, source_row, source_line, byte_offset, stage, code, reason, raw)"
        " VALUES (%s, 2, 2, 0, 'post', 'unknown_account', 'account X is not there', '{}')",
        [partition],
    )
    found = dual_reconciliation.refusals(dual.connection, DAY.source_id, ["R1", "R2", "R3"])
    assert found == {"R2": ("unknown_account", "account X is not there")}
