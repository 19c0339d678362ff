"""Rows of the outbox: written by the database with the entries that need them, and by the origin of these."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest

from backfill_pipeline.ledger import posting
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline_tests.ledger.world import NOON, POST, Entry, World, as_rejects, table

BANK = "SCB-01"
ROWS = "SELECT reference_id, destination, origin, kind, status FROM dual_ledger_outbox ORDER BY id"


@pytest.fixture
def dual(world: World) -> World:
    """A world in which MASTER is kept with a bank."""
    world.open("A", "B")
    mark(world)
    return world


def mark(world: World, ledger: str = "MASTER", *, send: bool = True) -> int:
    return int(world.value("SELECT mark_dual_ledger(%s, %s, %s)", ledger, BANK, send))


def post(world: World, *references: str, origin: str = "LOCAL") -> None:
    """A batch of entries that come from somewhere."""
    bank = world.register(source_id=f"source_{references[0].lower()}")
    rows = table([Entry(reference) for reference in references])
    plan = replace(world.plan(bank, rows), origin=origin)
    assert posting.post_batch(world.connection, plan, rows, PostingPolicy(), as_rejects).posted == len(
        references
    )


def test_entries_of_a_bank_are_acknowledged_to_it_and_those_of_others_are_sent(dual: World) -> None:
    post(dual, "FROM-BANK", origin=BANK)
    post(dual, "FROM-FILE")
    post(dual, "FROM-OTHER-BANK", origin="SCB-02")
    dual.connection.execute(POST, Entry("LIVE").arguments())
    assert dual.rows(ROWS) == [
        ("FROM-BANK", BANK, BANK, "acknowledgement", "PENDING"),
        ("FROM-FILE", BANK, "LOCAL", "entry", "PENDING"),
        ("FROM-OTHER-BANK", BANK, "SCB-02", "entry", "PENDING"),
        ("LIVE", BANK, "LOCAL", "entry", "PENDING"),
    ]


def test_a_session_posts_for_a_bank_no_longer_than_its_batch(dual: World) -> None:
    post(dual, "FROM-BANK", origin=BANK)
    dual.connection.execute(POST, Entry("LIVE").arguments())
    assert dual.value("SELECT origin FROM dual_ledger_outbox WHERE reference_id = 'LIVE'") == "LOCAL"
    assert dual.rows("SELECT origin FROM backfill_batches") == [(BANK,)]


def test_a_statement_that_fails_leaves_no_row(dual: World) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        dual.connection.execute(POST, Entry("E", debit="NOBODY").arguments())
    assert dual.rows(ROWS) == []


def test_other_ledgers_and_opening_balances_tell_nobody(dual: World) -> None:
    dual.connection.execute(POST, Entry("ELSEWHERE", ledger="OTHER").arguments())
    posting.post_opening_entries(dual.connection, "bank", table([Entry("OPENING-A")]), "run-1")
    assert dual.rows(ROWS) == []
    assert dual.rows("SELECT origin FROM backfill_batches") == [("OPENING",)]


def test_payloads_say_all_that_the_other_ledger_needs(dual: World) -> None:
    at = datetime(2024, 3, 31, 0, 30, 0, 250_000, tzinfo=UTC)
    entry = Entry("E", amount="10.50", at=at, metadata='{"channel": "RTGS"}')
    dual.connection.execute(POST, entry.arguments())
    post(dual, "FROM-BANK", origin=BANK)
    assert dual.rows("SELECT payload FROM dual_ledger_outbox ORDER BY id") == [
        (
            {
                "reference": "E",
                "booked_at": "2024-03-31T00:30:00.25Z",
                "debit_account": "A",
                "credit_account": "B",
                "amount": "10.50",
                "currency": "USD",
                "type": "TRANSFER",
                "metadata": {"channel": "RTGS"},
            },
        ),
        ({"reference": "FROM-BANK", "status": "posted"},),
    ]


class TestMarking:
    def test_what_was_posted_before_is_told_by_the_origin_of_its_batch(self, world: World) -> None:
        world.open("A", "B")
        post(world, "FROM-BANK", origin=BANK)
        posting.post_opening_entries(world.connection, "bank", table([Entry("OPENING-A")]), "run-1")
        world.connection.execute(POST, Entry("LIVE").arguments())
        assert world.rows(ROWS) == []
        assert mark(world) == 2
        assert mark(world) == 0
        assert world.rows(ROWS) == [
            ("FROM-BANK", BANK, BANK, "acknowledgement", "PENDING"),
            ("LIVE", BANK, "LOCAL", "entry", "PENDING"),
        ]

    def test_of_our_own_nothing_is_told_that_is_older_than_the_dual_ledger(self, world: World) -> None:
        world.open("A", "B")
        start = datetime(2024, 3, 2, tzinfo=UTC)
        for reference, at in (("OLD", NOON), ("AT-START", start)):
            world.connection.execute(POST, Entry(reference, at=at).arguments())
        post(world, "FROM-BANK", origin=BANK)  # at noon of the day before as well
        world.value("SELECT mark_dual_ledger('MASTER', %s, true, %s)", BANK, start)
        assert [row[0] for row in world.rows(ROWS)] == ["AT-START", "FROM-BANK"]
        world.connection.execute(POST, Entry("BACKDATED").arguments())  # is news, whenever it happened
        assert world.rows(ROWS)[-1] == ("BACKDATED", BANK, "LOCAL", "entry", "PENDING")

    def test_a_bank_that_wants_no_entries_gets_acknowledgements_alone(self, world: World) -> None:
        world.open("A", "B")
        mark(world, send=False)
        world.connection.execute(POST, Entry("LIVE").arguments())
        post(world, "FROM-BANK", origin=BANK)
        assert [row[0] for row in world.rows(ROWS)] == ["FROM-BANK"]

    def test_a_ledger_is_kept_with_one_bank(self, dual: World) -> None:
        with pytest.raises(psycopg.errors.RestrictViolation, match="SCB-01 already"):
            dual.connection.execute("SELECT mark_dual_ledger('MASTER', 'SCB-02')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            dual.connection.execute("SELECT mark_dual_ledger('OTHER', 'SCB-01')")

    @pytest.mark.parametrize(
        "level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE]
    )
    def test_an_entry_whose_snapshot_is_older_than_the_mark_is_never_told_to_nobody(
        self, world: World, level: psycopg.IsolationLevel
    ) -> None:
        world.open("A", "B")
        with psycopg.connect(world.url) as live:
            live.isolation_level = level
            live.execute("SELECT 1 FROM ledger_entries")
            mark(world)
            with pytest.raises(psycopg.errors.SerializationFailure):
                live.execute(POST, Entry("LIVE").arguments())
            live.rollback()
            live.execute(POST, Entry("LIVE").arguments())
        assert [row[0] for row in world.rows(ROWS)] == ["LIVE"]
