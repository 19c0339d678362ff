"""What an account's balance was at any moment, and its statement: from the legs, so exact whatever is posted late."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.history.account_statements import (
    StatementLine,
    account_statement,
    balance_as_of,
)
from backfill_pipeline_tests.ledger.world import NOON, Entry, World, many

HOUR = timedelta(hours=1)


@pytest.fixture
def bank(world: World) -> World:
    """CASH is debit-normal, CUST credit-normal; YEN has no decimals and is moved by converted amounts."""
    world.open("CASH", "OTHER")
    world.open("CUST", normal_side="credit")
    world.open("YEN", currency="JPY", normal_side="credit")
    return world


def lines(world: World, account: str, **bounds: datetime) -> list[StatementLine]:
    with account_statement(world.connection, account, **bounds) as statement:
        return list(statement.lines)


def balances(world: World, account: str, **bounds: datetime) -> list[Decimal]:
    return [line.balance for line in lines(world, account, **bounds)]


class TestBalanceAsOf:
    def test_follows_the_normal_side_and_ends_with_the_moment(self, bank: World) -> None:
        bank.post_one(Entry("in", "CASH", "CUST", "10.00"))
        bank.post_one(Entry("out", "CUST", "CASH", "4.50", at=NOON + HOUR))
        for account in ("CASH", "CUST"):
            assert balance_as_of(bank.connection, account, NOON - HOUR) == 0
            assert balance_as_of(bank.connection, account, NOON) == 10
            assert balance_as_of(bank.connection, account, NOON + HOUR - timedelta(microseconds=1)) == 10
            assert balance_as_of(bank.connection, account, NOON + HOUR) == Decimal("5.5")

    def test_counts_conversions_as_they_were_stored(self, bank: World) -> None:
        bank.post_one(Entry("fx", "CASH", "YEN", "1.00", fx_rate="162.5"))
        assert balance_as_of(bank.connection, "YEN", NOON) == 162
        assert balance_as_of(bank.connection, "CASH", NOON) == 1

    def test_keeps_every_digit(self, bank: World) -> None:
        bank.post_one(Entry("big", "CASH", "CUST", "99999999999999999999.000000000000000001"))
        bank.post_one(Entry("big2", "CASH", "CUST", "99999999999999999999.000000000000000001"))
        assert (
            bank.value("SELECT balance_as_of('CASH', 'infinity')::text")
            == "199999999999999999998.000000000000000002"
        )

    def test_of_an_account_that_never_moved_is_zero_and_of_none_is_nothing(self, bank: World) -> None:
        assert balance_as_of(bank.connection, "OTHER", NOON) == 0
        assert balance_as_of(bank.connection, "NOBODY", NOON) is None

    def test_is_exact_after_a_backdated_backfill_and_after_taking_it_back(self, bank: World) -> None:
        bank.post_one(Entry("today", "CASH", "CUST", "1", at=NOON + 24 * HOUR))
        before = balances(bank, "CASH")
        bank.post(
            bank.register(),
            [Entry("b1", "CASH", "CUST", "5", at=NOON - HOUR), Entry("b2", "CUST", "CASH", "2")],
        )
        assert [
            balance_as_of(bank.connection, "CASH", at) for at in (NOON - HOUR, NOON, NOON + 25 * HOUR)
        ] == [5, 3, 4]
        assert balances(bank, "CASH") == [0, 5, 3, 4, 4]
        bank.connection.execute("DELETE FROM ledger_entries WHERE batch_id IS NOT NULL")
        assert balances(bank, "CASH") == before == [0, 1, 1]


class TestStatement:
    def test_has_opening_legs_with_running_balance_and_closing(self, bank: World) -> None:
        for number in range(5):
            at = NOON + number * HOUR
            bank.post_one(
                Entry(
                    f"r{number}",
                    *(("CASH", "CUST") if number % 2 == 0 else ("CUST", "CASH")),
                    f"{number + 1}",
                    at=at,
                )
            )
        opening, first, second, closing = lines(bank, "CASH", since=NOON + HOUR, until=NOON + 3 * HOUR)
        assert (opening.line, opening.kind, opening.balance, opening.timestamp_utc) == (
            0,
            "opening",
            1,
            NOON + HOUR,
        )
        assert (first.reference_id, first.side, first.amount, first.movement, first.balance) == (
            "r1",
            "credit",
            2,
            -2,
            -1,
        )
        assert (second.reference_id, second.side, second.amount, second.movement, second.balance) == (
            "r2",
            "debit",
            3,
            3,
            2,
        )
        assert (second.other_account_id, second.transaction_type, second.ledger_id) == (
            "CUST",
            "TRANSFER",
            "MASTER",
        )
        assert (closing.line, closing.kind, closing.balance, closing.movement) == (3, "closing", 2, 1)

    def test_of_a_converted_leg_shows_both_amounts(self, bank: World) -> None:
        bank.post_one(Entry("fx", "CASH", "YEN", "1.00", fx_rate="162.5"))
        leg = lines(bank, "YEN")[1]
        assert (leg.amount, leg.currency_code, leg.entry_amount, leg.entry_currency_code) == (
            162,
            "JPY",
            1,
            "USD",
        )
        assert (leg.movement, leg.fx_rate) == (162, Decimal("162.5"))

    def test_legs_of_one_moment_are_in_the_order_of_their_ids(self, bank: World) -> None:
        for number in (3, 1, 2):
            bank.post_one(Entry(f"r{number}", "CASH", "CUST", f"{number}"))
        assert [line.reference_id for line in lines(bank, "CASH")] == [None, "r3", "r1", "r2", None]

    def test_without_bounds_has_no_times_there(self, bank: World) -> None:
        opening, closing = lines(bank, "OTHER")
        assert (opening.timestamp_utc, closing.timestamp_utc, opening.balance, closing.balance) == (
            None,
            None,
            0,
            0,
        )

    def test_of_no_account_is_refused_in_words(self, bank: World) -> None:
        with pytest.raises(UsageError, match="account NOBODY is not in the ledger"):
            lines(bank, "NOBODY")
        assert bank.rows("SELECT * FROM account_statement('NOBODY')") == []

    def test_of_many_legs_comes_in_pieces(self, bank: World) -> None:
        bank.open_ring(2)
        bank.post(bank.register(), many(12_000, 2))
        with account_statement(bank.connection, "a000000") as statement:
            assert next(statement.lines).kind == "opening"
            rest = list(statement.lines)
        assert ([line.line for line in rest], rest[-1].kind) == (list(range(1, 12_002)), "closing")

    def test_is_one_snapshot(self, bank: World) -> None:
        bank.post_one(Entry("r1", "CASH", "CUST"))
        with account_statement(bank.connection, "CASH") as statement:
            bank.post_one(Entry("r2", "CASH", "CUST"), bank.connect())
            assert [line.kind for line in statement.lines] == ["opening", "leg", "closing"]

    def test_works_whatever_the_search_path_is(self, bank: World) -> None:
        bank.post_one(Entry("r1", "CASH", "CUST"))
        other = bank.connect()
        other.execute("SET search_path = pg_catalog")
        assert other.execute("SELECT public.balance_as_of('CASH', now())").fetchone() == (10,)
        assert len(other.execute("SELECT * FROM public.account_statement('CASH')").fetchall()) == 3
        assert len(other.execute("SELECT * FROM public.ledger_balance_dips()").fetchall()) == 0


MOMENTS = st.integers(0, 6).map(lambda hours: datetime(2024, 3, 1, hours, tzinfo=UTC))
MOVES = st.lists(
    st.tuples(st.sampled_from([("CASH", "CUST"), ("CUST", "CASH"), ("CASH", "YEN"), ("YEN", "OTHER")]), st.integers(1, 500), MOMENTS),
    min_size=1, max_size=12,
)  # fmt: skip


@given(moves=MOVES, bounds=st.tuples(MOMENTS, MOMENTS).map(sorted))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_statements_meet_and_balances_are_those_of_any_other_way(
    bank: World, moves: list[tuple[tuple[str, str], int, datetime]], bounds: list[datetime]
) -> None:
    """Against sums in Python over the view of legs, which knows nothing of these functions."""
    bank.connection.execute("DELETE FROM ledger_entries")
    for number, ((debit, credit), cents, at) in enumerate(moves):
        bank.post_one(Entry(f"r{number}", debit, credit, f"{cents / 100:.2f}", at=at, fx_rate="3.005"))
    since, until = bounds
    for account, side in (("CASH", "debit"), ("OTHER", "debit"), ("CUST", "credit"), ("YEN", "credit")):
        legs = [
            (at, amount if leg_side == side else -amount)
            for at, leg_side, amount in bank.rows(
                "SELECT timestamp_utc, side, amount FROM ledger_entry_legs WHERE account_id = %s ORDER BY timestamp_utc, entry_id",
                account,
            )
        ]

        def total(before: datetime, legs: list[tuple[datetime, Decimal]] = legs) -> Decimal:
            return sum((movement for at, movement in legs if at < before), Decimal(0))

        assert balance_as_of(bank.connection, account, until) == total(until + timedelta(microseconds=1))
        found = lines(bank, account, since=since, until=until)
        assert [line.movement for line in found[1:-1]] == [m for at, m in legs if since <= at < until]
        assert (found[0].balance, found[-1].balance) == (total(since), total(until))
        assert all(
            after.balance == before.balance + (after.movement or 0) for before, after in pairwise(found[:-1])
        )
        assert balances(bank, account)[-1] == bank.balance(account)


def test_every_line_has_a_name_for_each_of_its_columns(bank: World) -> None:
    bank.post_one(Entry("r1", "CASH", "CUST"))
    cursor = bank.connection.execute("SELECT * FROM account_statement('CASH')")
    assert cursor.description is not None
    assert [column.name for column in cursor.description] == list(asdict(lines(bank, "CASH")[0]))


@given(moves=MOVES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_dips_are_those_that_a_walk_through_the_moments_finds(
    bank: World, moves: list[tuple[tuple[str, str], int, datetime]]
) -> None:
    bank.connection.execute("DELETE FROM ledger_entries")
    for number, ((debit, credit), cents, at) in enumerate(moves):
        bank.post_one(Entry(f"r{number}", debit, credit, f"{cents}", at=at, fx_rate="1"))
    expected = {}
    for account in ("CASH", "OTHER", "CUST", "YEN"):
        moments = sorted({at for (debit, credit), _, at in moves if account in (debit, credit)})
        walk = [(at, balance_as_of(bank.connection, account, at) or Decimal(0)) for at in moments]
        below = [(at, balance) for at, balance in walk if balance < 0]
        if not below:
            continue
        before = [Decimal(0), *(balance for _, balance in walk)]
        falls = [at for (at, balance), last in zip(walk, before, strict=False) if balance < 0 <= last]
        back = [at for (at, balance), last in zip(walk, before, strict=False) if balance >= 0 > last]
        lowest = min(balance for _, balance in below)
        expected[account] = (
            len(falls), falls[0], lowest, next(at for at, balance in below if balance == lowest), falls[-1],
            back[-1] if back and back[-1] > falls[-1] else None,
        )  # fmt: skip
    found = bank.rows(
        "SELECT account_id, dips, first_dip_at, lowest_balance, lowest_at, last_dip_at, ended_at FROM ledger_balance_dips()"
    )
    assert {row[0]: row[1:] for row in found} == expected
