"""What can be seen of the outbox, and rows that are given another try."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backfill_pipeline.ledger import posting
from backfill_pipeline.ledger.banks import breakers, outbox, outbox_deliveries
from backfill_pipeline.ledger.banks.outbox_deliveries import Verdict
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline_tests.ledger.test_outbox_rows import BANK, mark
from backfill_pipeline_tests.ledger.world import Entry, World, as_rejects, table


@pytest.fixture
def told(world: World) -> World:
    """Three entries of a bank, and two of our own."""
    world.open("A", "B")
    mark(world)
    register = world.register(source_id="bank")
    rows = table([Entry(f"THEIRS-{number}") for number in range(3)])
    plan = replace(world.plan(register, rows), origin=BANK)
    posting.post_batch(world.connection, plan, rows, PostingPolicy(), as_rejects)
    for number in range(2):
        world.post_one(Entry(f"OURS-{number}"))
    breakers.breaker(world.connection, BANK)
    return world


def judged(world: World, *verdicts: str) -> None:
    """Acknowledgements are sent, and judged so."""
    connection = world.connection
    outbox_deliveries.claim_acknowledgements(connection, BANK, len(verdicts))
    with connection.transaction():
        delivery = outbox_deliveries.lock_delivery(connection, BANK, "acknowledgement")
        assert delivery is not None
        outbox_deliveries.settle(
            connection,
            delivery,
            [
                Verdict(item.id, status, None if status == "ACKNOWLEDGED" else "why", 3600)
                for item, status in zip(delivery.items, verdicts, strict=True)
            ],
        )


def test_counts_by_bank_kind_and_status(told: World) -> None:
    judged(told, "ACKNOWLEDGED", "DEAD")
    found = {(one.bank_id, one.kind, one.status): one.count for one in outbox.counts(told.connection)}
    assert found == {
        (BANK, "acknowledgement", "ACKNOWLEDGED"): 1,
        (BANK, "acknowledgement", "DEAD"): 1,
        (BANK, "acknowledgement", "PENDING"): 1,
        (BANK, "entry", "PENDING"): 2,
    }
    assert outbox.counts(told.connection, "ANOTHER") == []


def test_what_is_left_and_when_it_is_due(told: World) -> None:
    judged(told, "FAILED", "FAILED", "FAILED")
    left = outbox.outstanding(told.connection, BANK, ["acknowledgement"])
    assert (left.pending, left.sent, left.failed, left.rows) == (0, 0, 3, 3)
    assert left.due_in_s is not None
    assert 3000 < left.due_in_s <= 3600
    assert outbox.outstanding(told.connection, BANK).due_in_s == 0
    told.connection.execute("UPDATE dual_ledger_outbox SET status = 'DEAD'")
    assert outbox.outstanding(told.connection, BANK).due_in_s is None


def test_banks_that_something_can_be_sent_to_now(told: World) -> None:
    connection = told.connection
    assert outbox.due_banks(connection) == [BANK]
    judged(told, "FAILED", "FAILED", "ACKNOWLEDGED")
    assert outbox.due_banks(connection) == [BANK], "entries are due"
    connection.execute("UPDATE dual_ledgers SET send_entries = false")
    assert outbox.due_banks(connection) == [], "the refused ones are not due"
    connection.execute("UPDATE dual_ledger_outbox SET next_attempt_at = now() WHERE status = 'FAILED'")
    assert outbox.due_banks(connection) == [BANK]
    breakers.note_failure(connection, BANK, "down", opens_at=1, pause_s=60, pause_max_s=60)
    assert outbox.due_banks(connection) == [], "nobody asks a bank that does not answer"
    (state,) = outbox.banks(connection)
    assert (state.consecutive_failures, state.last_error) == (1, "down")
    assert state.open_until is not None


def test_rows_are_shown_page_by_page(told: World) -> None:
    judged(told, "DEAD")
    rows = outbox.show(told.connection, limit=3)
    assert [one.reference for one in rows] == ["THEIRS-0", "THEIRS-1", "THEIRS-2"]
    assert (rows[0].status, rows[0].attempts, rows[0].last_error) == ("DEAD", 1, "why")
    rest = outbox.show(told.connection, after_id=rows[-1].id)
    assert [one.reference for one in rest] == ["OURS-0", "OURS-1"]
    assert '"amount": "10.00"' in rest[0].payload
    only = outbox.show(told.connection, bank_id=BANK, kind="entry", statuses=["PENDING"], reference="OURS-1")
    assert [one.reference for one in only] == ["OURS-1"]


def test_refused_rows_are_given_another_try(told: World) -> None:
    judged(told, "DEAD", "FAILED", "ACKNOWLEDGED")
    breakers.note_failure(told.connection, BANK, "down", opens_at=1, pause_s=60, pause_max_s=60)
    assert outbox.retry(told.connection, reference="THEIRS-1") == 1
    assert outbox.due_banks(told.connection) == [BANK], "it is asked at once"
    assert outbox.retry(told.connection, bank_id="ANOTHER") == 0
    assert outbox.retry(told.connection, bank_id=BANK, statuses=["DEAD"]) == 1
    assert {(one.status, one.attempts) for one in outbox.show(told.connection, kind="acknowledgement")} == {
        ("PENDING", 0),
        ("ACKNOWLEDGED", 1),
    }


def test_a_bank_that_lost_what_it_had_is_told_again(told: World) -> None:
    judged(told, "ACKNOWLEDGED", "ACKNOWLEDGED", "DEAD")
    assert outbox.retry(told.connection, statuses=["ACKNOWLEDGED"], reference="THEIRS-0") == 1
    (row,) = outbox.show(told.connection, reference="THEIRS-0")
    assert (row.status, row.acknowledged_at) == ("PENDING", None)


def test_entries_and_rows_without_a_counterpart(told: World) -> None:
    connection = told.connection
    assert outbox.entries_without_row(connection, "MASTER") == []
    assert outbox.rows_without_entry(connection, "MASTER") == []
    connection.execute("DELETE FROM dual_ledger_outbox WHERE reference_id IN ('THEIRS-1', 'OURS-0')")
    batch = told.value("SELECT max(id) FROM backfill_batches")
    found = {
        (one.origin, one.batch_id): one.references for one in outbox.entries_without_row(connection, "MASTER")
    }
    assert found == {(BANK, batch): ("THEIRS-1",), ("LOCAL", None): ("OURS-0",)}
    connection.execute(
        "INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload)"
        " VALUES ('MASTER', 'GONE', %s, 'LOCAL', '{}')",
        [BANK],
    )
    (lost,) = outbox.rows_without_entry(connection, "MASTER")
    assert (lost.origin, lost.count, lost.references) == ("LOCAL", 1, ("GONE",))


def test_a_delivery_whose_rows_were_changed_by_hand_is_taken_apart(told: World) -> None:
    connection = told.connection
    outbox_deliveries.claim_acknowledgements(connection, BANK, 3)
    connection.execute("DELETE FROM dual_ledger_outbox WHERE reference_id = 'THEIRS-1'")
    with connection.transaction():
        delivery = outbox_deliveries.lock_delivery(connection, BANK, "acknowledgement")
        assert delivery is not None
        assert (len(delivery.items), delivery.item_count) == (2, 3)
        outbox_deliveries.release(connection, delivery, "changed")
    assert outbox.outstanding(connection, BANK, ["acknowledgement"]).pending == 2


def test_a_ledger_that_is_marked_already_waits_for_nobody(told: World) -> None:
    """Marking happens with every synchronisation; a batch that is being posted must not hold it up."""
    posting_one = told.connect()
    with posting_one.transaction():
        posting_one.execute("LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE")
        told.connection.execute("SET lock_timeout = '2s'")
        assert mark(told) == 0
        assert mark(told, send=False) == 0
    assert told.value("SELECT send_entries FROM dual_ledgers") is False


class TestStrategyDocument:
    """§6.3 as it is written there: by the prefix of references."""

    STATES = """
SELECT
status,
COUNT(*) as count,
MIN(created_at) as oldest,
MAX(created_at) as newest
FROM dual_ledger_outbox
WHERE created_at >= (SELECT MIN(timestamp_utc) FROM ledger_entries WHERE reference_id LIKE 'BACKFILL-%')
GROUP BY status;
"""
    MISSING = """
SELECT le.id, le.reference_id
FROM ledger_entries le
WHERE le.reference_id LIKE 'BACKFILL-%'
AND NOT EXISTS (
SELECT 1 FROM dual_ledger_outbox dlo
WHERE dlo.reference_id = le.reference_id
);
"""

    def test_its_queries_run_as_written_and_say_what_ours_say(self, told: World) -> None:
        told.post_one(Entry("BACKFILL-1"))
        assert [row[:2] for row in told.connection.execute(self.STATES).fetchall()] == [("PENDING", 6)]
        assert [(one.status, one.count) for one in outbox.counts(told.connection)] == [
            ("PENDING", 3),
            ("PENDING", 3),
        ]
        assert told.connection.execute(self.MISSING).fetchall() == []
        told.connection.execute("DELETE FROM dual_ledger_outbox WHERE reference_id = 'BACKFILL-1'")
        assert [row[1] for row in told.connection.execute(self.MISSING).fetchall()] == ["BACKFILL-1"]
        (ours,) = outbox.entries_without_row(told.connection, "MASTER")
        assert ours.references == ("BACKFILL-1",)
