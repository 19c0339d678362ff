"""A rehearsed batch becomes what it becomes when it is posted, on every PostgreSQL; and the ledger does not notice."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import accounts, constraints, forecast, outlook
from backfill_pipeline.ledger.connection import connect, is_being_written, source_lock
from backfill_pipeline.ledger.migrate import pending
from backfill_pipeline.ledger.posting import PostingPolicy, post_opening_entries
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.ledger.rehearsal import Rehearsal, rehearsing
from backfill_pipeline_tests.ledger.test_posting_equals_one_by_one import (
    ACCOUNTS,
    bank,
    entries,
    plain,
    undone,
)
from backfill_pipeline_tests.ledger.world import (
    NOON,
    Entry,
    World,
    as_rejects,
    many,
    numbered,
    post_one_by_one,
    table,
)

__all__ = ["bank"]

_COUNTS = ("read", "posted", "duplicates", "conflicts", "rejected")


def batches(rows: Sequence[Entry], cuts: Sequence[int]) -> list[Sequence[Entry]]:
    places = sorted({min(cut, len(rows)) for cut in cuts})
    return [
        rows[start:end]
        for start, end in zip([0, *places], [*places, len(rows)], strict=True)
        if rows[start:end]
    ]


def rehearsed(
    rehearsal: Rehearsal, number: int, batch: pa.Table, policy: PostingPolicy, *, staging: bool = False
) -> tuple[tuple[int, ...], dict[int, tuple[str, str]]]:
    outcome, rejects = rehearsal.post_batch(number, batch, policy, as_rejects, expect_trouble=staging)
    told = [] if rejects is None else rejects.to_pylist()
    return (
        tuple(getattr(outcome, name) for name in _COUNTS),
        {one["source_row"]: (one["code"], one["reason"]) for one in told},
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(entries | plain, max_size=4),
    rows=st.lists(entries | plain, min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=3),
    staging=st.booleans(),
    skip_duplicates=st.booleans(),
    create=st.booleans(),
)
@example([Entry("r1")], [Entry("r2"), Entry("r1"), Entry("r1", amount="9")], [1, 2], False, True, False)
def test_batches_become_what_posting_makes_of_them(
    world: World,
    bank: Registration,
    before: list[Entry],
    rows: list[Entry],
    cuts: list[int],
    staging: bool,
    skip_duplicates: bool,
    create: bool,
) -> None:
    rows = numbered(rows)
    policy = PostingPolicy(skip_duplicates, create_unknown_accounts=create)
    cut = batches(rows, cuts)
    with connect(world.url) as session, session.transaction(force_rollback=True):
        post_one_by_one(session, numbered(before, 1001))
        with rehearsing(session) as rehearsal:
            told = [rehearsed(rehearsal, 1, table(batch), policy, staging=staging) for batch in cut]
            balances: dict[str, Decimal] = dict(
                session.execute("SELECT id, balance FROM backfill_rehearsed_accounts").fetchall()
            )
            sums = {
                (one.ledger_id, one.currency_code): (one.entries, one.amount)
                for one in outlook.totals(session, opening=False)
            }
            opened, _ = outlook.new_accounts(session)
    with undone(world):
        post_one_by_one(world.connection, numbered(before, 1001))
        outcomes = [world.post(bank, batch, staging=staging, policy=policy) for batch in cut]
        assert [counts for counts, _ in told] == [
            tuple(getattr(outcome, name) for name in _COUNTS) for outcome in outcomes
        ]
        rejects = {row: told for _, found in told for row, told in found.items()}
        assert {row: code for row, (code, _) in rejects.items()} == world.rejects()
        assert balances == world.balances()
        posted = world.rows(
            "SELECT ledger_id, currency_code, count(*), sum(amount) FROM ledger_entries WHERE batch_id IS NOT NULL"
            " GROUP BY 1, 2"
        )
        assert sums == {(ledger, currency): (count, amount) for ledger, currency, count, amount in posted}
        assert sum(opened.values()) == len(world.balances()) - len(ACCOUNTS)


def test_settling_under_constraints_is_that_of_the_ledger(world: World) -> None:
    world.open("A", "B", "C")
    bank = world.register()
    world.post_one(Entry("start", debit="A", credit="B"))
    world.connection.execute("UPDATE bank_accounts SET balance = 20, available_balance = 20 WHERE id = 'B'")
    assert constraints.apply(world.connection).state == "applied"
    rows = numbered(
        [
            Entry("r1", debit="C", credit="B", amount="15", at=NOON + timedelta(hours=2)),
            Entry("r2", debit="A", credit="B", amount="15", at=NOON),
            Entry("r3", debit="B", credit="C", amount="4", at=NOON + timedelta(hours=3)),
            Entry("r1", debit="C", credit="B", amount="15", at=NOON + timedelta(hours=2)),
            Entry("r4", debit="B", credit="A", amount="1"),
        ]
    )
    with connect(world.url) as session, rehearsing(session) as rehearsal:
        assert rehearsal.tables.under_constraints
        counts, rejects = rehearsed(rehearsal, 1, table(rows), PostingPolicy())
        found = outlook.constraint_outlook(session, rehearsal.tables.constraints_now)
    assert (found.now, found.after, found.offending) == ("applied", "applied", 0)
    outcome = world.post(bank, rows)
    assert counts == tuple(getattr(outcome, name) for name in _COUNTS)
    assert rejects
    reasons = world.rows("SELECT source_row, code, reason FROM backfill_rejects")
    assert rejects == {row: (code, reason) for row, code, reason in reasons}


def test_openings_and_accounts_as_a_run_opens_them(world: World) -> None:
    book = pa.table(
        {"id": ["A", "B", "E"], "currency_code": ["USD"] * 3, "asset_type": ["fiat"] * 3,
         "normal_side": ["debit", "debit", "credit"]}
    )  # fmt: skip
    openings = table(numbered([Entry("OPENING-A", "A", "E", "7.50"), Entry("OPENING-B", "B", "E", "2")]))
    world.open("A")
    with connect(world.url) as session, rehearsing(session) as rehearsal:
        assert rehearsal.open_accounts(book) == 2
        assert rehearsal.post_opening_entries("bank", openings) == 2
        assert rehearsal.post_opening_entries("bank", openings) == 0
        (total,) = outlook.totals(session, opening=True)
        assert (total.entries, total.amount) == (2, Decimal("9.50"))
        assert outlook.totals(session, opening=False) == []
        assert outlook.new_accounts(session)[0] == {"accounts file": 2}
    assert world.balances() == {"A": 0}
    accounts.open_accounts(world.connection, book)
    post_opening_entries(world.connection, "bank", openings, "run")
    with connect(world.url) as session, rehearsing(session) as rehearsal:
        other = table(numbered([Entry("OPENING-A", "A", "E", "8")]))
        with pytest.raises(LedgerError) as told:
            rehearsal.post_opening_entries("bank", other)
        with pytest.raises(LedgerError) as posted:
            post_opening_entries(world.connection, "bank", other, "run")
        assert str(told.value) == str(posted.value)
        with pytest.raises(LedgerError, match="account A is USD fiat debit in the ledger and EUR"):
            rehearsal.open_accounts(book.set_column(1, "currency_code", pa.array(["EUR"] * 3)))


def test_a_rejects_writer_that_raises_takes_its_batch_back(world: World) -> None:
    world.open("A", "B")

    def refuse(_refused: pa.Table) -> pa.Table:
        raise LedgerError("too many")

    with connect(world.url) as session, rehearsing(session) as rehearsal:
        with pytest.raises(LedgerError, match="too many"):
            rehearsal.post_batch(
                1,
                table([Entry("r1"), Entry("r2", credit="?")]),
                PostingPolicy(),
                refuse,
                expect_trouble=False,
            )
        assert outlook.totals(session, opening=False) == []
        assert rehearsed(rehearsal, 1, table([Entry("r1")]), PostingPolicy())[0] == (1, 1, 0, 0, 0)


def test_a_million_ids_of_the_ledger_and_of_the_rehearsal_never_meet(world: World) -> None:
    """Conflicts are described by the entry's id: of both kinds in one batch, each by its own."""
    world.open("A", "B")
    world.post_one(Entry("old", amount="1"))
    with connect(world.url) as session, rehearsing(session) as rehearsal:
        rehearsed(rehearsal, 1, table([Entry("new", amount="2")]), PostingPolicy())
        both = [Entry("old", amount="3"), Entry("new", amount="4")]
        _, rejects = rehearsed(rehearsal, 1, table(numbered(both, 10)), PostingPolicy())
    assert {row: reason for row, (_, reason) in rejects.items()} == {
        10: "same reference as the ledger with other amount (3, not 1)",
        11: "same reference as the ledger with other amount (4, not 2)",
    }


def test_only_accounts_that_are_named_are_taken_over(world: World) -> None:
    world.open_ring(1_000)
    with connect(world.url) as session, rehearsing(session) as rehearsal:
        rehearsed(rehearsal, 1, many(10, 1_000), PostingPolicy())
        met = session.execute("SELECT count(*) FROM pg_temp.bank_accounts").fetchone()
        every = session.execute("SELECT count(*) FROM backfill_rehearsed_accounts").fetchone()
    assert (met, every) == ((11,), (1_000,))


def test_it_ends_with_its_session(world: World) -> None:
    world.open("A", "B")
    with connect(world.url) as session, rehearsing(session) as rehearsal:
        rehearsed(rehearsal, 1, table([Entry("r1")]), PostingPolicy())
    assert world.count() == 0
    assert world.balances() == {"A": 0, "B": 0}
    deadline = time.monotonic() + 120
    while left := world.rows("SELECT relname FROM pg_class WHERE relname LIKE 'backfill_rehearsed%'"):
        assert time.monotonic() < deadline, left  # the server tidies up after the client has gone
        time.sleep(0.05)


def test_whether_a_source_is_being_written_is_seen_without_a_lock(world: World) -> None:
    names = ["bank", "another", "ümlaut"]
    assert not any(is_being_written(world.connection, name) for name in names)
    for name in names:
        with source_lock(world.url, name):
            assert [is_being_written(world.connection, one) for one in names] == [
                one == name for one in names
            ]


def test_nothing_is_pending_in_a_migrated_ledger(world: World) -> None:
    assert pending(world.connection) == ()
    world.connection.execute("DELETE FROM ledger_schema_migrations WHERE version = 9")
    assert [one.version for one in pending(world.connection)] == [9]


def test_what_was_recorded_of_a_partition(world: World) -> None:
    world.open("A", "B")
    bank = world.register()
    partition_id = bank.partitions[0].id
    assert forecast.recorded_batches(world.connection, partition_id) == forecast.Recorded()
    rows = numbered([Entry("r1"), Entry("r1"), Entry("r1", amount="5"), Entry("r2", debit="?")])
    world.post(bank, rows)
    assert forecast.recorded_batches(world.connection, partition_id) == forecast.Recorded(
        ((1, 4),), 4, 2, 1, 1
    )
    assert forecast.recorded_rejects(world.connection, bank.id) == [
        (partition_id, "conflict", 1), (partition_id, "unknown_account", 1),
    ]  # fmt: skip
    assert forecast.recorded_filtered(world.connection, bank.id) == {}
    assert forecast.run_rates(world.connection) == []


def test_entries_rehearsed_in_the_fast_way_and_in_the_slow_one_are_the_same(world: World) -> None:
    world.open_ring(50)
    found = []
    for staging in (False, True):
        with connect(world.url) as session, rehearsing(session) as rehearsal:
            for number in range(3):
                rows = many(100, 50, first_row=1 + 100 * number)
                rehearsed(rehearsal, 1 + number, rows, PostingPolicy(), staging=staging)
            balances = session.execute("SELECT id, balance FROM pg_temp.bank_accounts ORDER BY id").fetchall()
            found.append(([replace(one) for one in outlook.totals(session, opening=False)], balances))
    assert found[0] == found[1]
