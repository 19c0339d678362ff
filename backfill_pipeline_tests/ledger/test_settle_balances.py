"""Posting under balance constraints, against an oracle written from the rule and not from the SQL.

The rule: balances are looked at after the whole batch. Only when an account would end below zero are the rows of such
accounts taken in event-time order, and each is refused that an account cannot bear at that moment; no account may rely
on rows that may be refused. All other rows go through untouched.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.money import minor_units, round_half_even
from backfill_pipeline_tests.ledger.world import NOON, POST, Entry, World, numbered

ACCOUNTS = {
    "A": ("USD", "debit"), "B": ("USD", "debit"), "C": ("USD", "debit"), "D": ("USD", "credit"), "E": ("EUR", "debit"),
    "J": ("JPY", "credit"),
}  # fmt: skip
SOURCE_OF_FUNDS = "FUND"  # credit-normal, so that crediting it never hurts it

movements = st.builds(
    Entry,
    reference=st.integers(0, 11).map("r{}".format),
    debit=st.sampled_from([*ACCOUNTS]),
    credit=st.sampled_from([*ACCOUNTS]),
    amount=st.sampled_from(["1", "2", "3", "5", "8.50"]),
    at=st.integers(0, 6).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    fx_rate=st.just("2"),
).filter(
    lambda entry: (
        entry.debit != entry.credit and "USD" in (ACCOUNTS[entry.debit][0], ACCOUNTS[entry.credit][0])
    )
)


def deltas(entry: Entry) -> dict[str, Decimal]:
    """What an acceptable row does to its two accounts."""
    result = {}
    for side, account_id in (("debit", entry.debit), ("credit", entry.credit)):
        currency, normal_side = ACCOUNTS[account_id]
        amount = Decimal(entry.amount)
        if currency != entry.currency:
            amount = round_half_even(amount * Decimal(entry.fx_rate or 0), minor_units(currency) or 0)
        result[account_id] = amount if side == normal_side else -amount
    return result


def oracle(balances: dict[str, Decimal], known: dict[str, Entry], rows: Sequence[Entry]) -> dict[int, str]:
    """Row → verdict. `balances` before the batch; `known` are the entries that the ledger has, by reference."""
    verdicts: dict[int, str] = {}
    candidates: dict[str, Entry] = {}
    repeats: dict[int, int] = {}
    for row in rows:
        if row.reference in known:
            same = row.payload() == known[row.reference].payload()
            verdicts[row.row] = "duplicate" if same else "conflict"
        elif row.reference in candidates:
            first = candidates[row.reference]
            verdicts[row.row] = "duplicate" if row.payload() == first.payload() else "conflict"
            repeats[row.row] = first.row
        else:
            candidates[row.reference] = row
    left = list(candidates.values())

    def net(entries: Sequence[Entry]) -> dict[str, Decimal]:
        result = dict(balances)
        for entry in entries:
            for account_id, delta in deltas(entry).items():
                result[account_id] += delta
        return result

    affected = {account_id for account_id, balance in net(left).items() if balance < 0}
    while affected:
        untouched = [entry for entry in left if not affected & {entry.debit, entry.credit}]
        more = {account_id for account_id, balance in net(untouched).items() if balance < 0} - affected
        if not more:
            break
        affected |= more
    running = net([entry for entry in left if not affected & {entry.debit, entry.credit}])
    refused = set()
    for entry in sorted(left, key=lambda entry: (entry.at, entry.row)):
        if not affected & {entry.debit, entry.credit}:
            continue
        after = {account_id: running[account_id] + delta for account_id, delta in deltas(entry).items()}
        if min(after.values()) < 0:
            refused.add(entry.row)
        else:
            running |= after
    for entry in left:
        verdicts[entry.row] = "rejected" if entry.row in refused else "posted"
    for row_number, original in repeats.items():
        if original in refused:
            verdicts[row_number] = "rejected"
    return verdicts


@pytest.fixture
def bank(world: World) -> Registration:
    for account_id, (currency, side) in ACCOUNTS.items():
        world.open(account_id, currency=currency, normal_side=side)
    world.open(SOURCE_OF_FUNDS, normal_side="credit")
    world.open("SINK")
    constraints.apply(world.connection)
    return world.register()


def fund(world: World, account_id: str, amount: str, reference: str | None = None) -> None:
    """Gives an account something to spend."""
    _, side = ACCOUNTS[account_id]
    if side == "debit":
        entry = Entry(reference or f"fund {account_id}", account_id, SOURCE_OF_FUNDS, amount, fx_rate="2")
    else:
        entry = Entry(reference or f"fund {account_id}", "SINK", account_id, amount, fx_rate="2")
    world.post_one(entry)


@contextmanager
def undone(world: World) -> Iterator[None]:
    with world.connection.transaction(force_rollback=True):
        yield


def verdicts_of(world: World, rows: Sequence[Entry]) -> dict[int, str]:
    codes = {"duplicate_reference": "duplicate", "conflict": "conflict"}
    rejects = world.rejects()
    return {
        row.row: codes.get(rejects[row.row], "rejected") if row.row in rejects else "posted" for row in rows
    }


def assert_no_account_below_zero(world: World) -> None:
    assert world.rows("SELECT id FROM bank_accounts WHERE balance < 0 OR available_balance < 0") == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    funds=st.fixed_dictionaries(
        {account_id: st.sampled_from(["0", "2", "6", "20"]) for account_id in ACCOUNTS}
    ),
    rows=st.lists(movements, min_size=1, max_size=24),
    cut=st.integers(0, 24),
    staging=st.booleans(),
)
def test_the_database_refuses_exactly_what_the_rule_refuses(
    world: World, bank: Registration, funds: dict[str, str], rows: list[Entry], cut: int, staging: bool
) -> None:
    rows = numbered(rows)
    with undone(world):
        for account_id, amount in funds.items():
            if amount != "0":
                fund(world, account_id, amount)
        for batch in (rows[:cut], rows[cut:]):
            if not batch:
                continue
            before = {account_id: world.balance(account_id) for account_id in ACCOUNTS}
            known = {
                row.reference: row for row in rows[:cut] if verdicts_of(world, [row])[row.row] == "posted"
            }
            expected = oracle(before, known if batch is not rows[:cut] and batch[0].row > 1 else {}, batch)
            outcome = world.post(bank, batch, staging=staging, policy=PostingPolicy(skip_duplicates=False))
            found = verdicts_of(world, batch)
            assert found == expected
            assert outcome.posted == list(found.values()).count("posted")
            event(f"refused some: {'rejected' in found.values()}")
            assert_no_account_below_zero(world)
            world.assert_balances_equal_legs()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(movements, min_size=1, max_size=15, unique_by=lambda entry: entry.reference))
def test_one_row_batches_equal_the_function(world: World, bank: Registration, rows: list[Entry]) -> None:
    rows = numbered(rows)
    expected = {}
    with undone(world):
        fund(world, "A", "6")
        fund(world, "D", "6")
        for row in rows:
            try:
                with world.connection.transaction():
                    world.connection.execute(POST, row.arguments())
                expected[row.row] = "posted"
            except psycopg.errors.CheckViolation:
                expected[row.row] = "rejected"
        balances = world.balances()
    with undone(world):
        fund(world, "A", "6")
        fund(world, "D", "6")
        for row in rows:
            world.post(bank, [row])
        assert verdicts_of(world, rows) == expected
        assert world.balances() == balances


def test_a_dip_inside_a_batch_is_no_offence(world: World, bank: Registration) -> None:
    rows = [
        Entry("spend", "B", "A", "100", at=NOON),
        Entry("earn", "A", SOURCE_OF_FUNDS, "100", at=NOON + timedelta(days=1)),
    ]
    outcome = world.post(bank, rows)
    assert (outcome.path, outcome.posted) == ("copy", 2)
    assert world.balance("B") == 100


def test_nor_is_a_dip_that_ends_at_nothing_when_another_account_offends(
    world: World, bank: Registration
) -> None:
    rows = [
        Entry("spend", "B", "A", "100", at=NOON),
        Entry("earn", "A", SOURCE_OF_FUNDS, "100", at=NOON + timedelta(days=1)),
        Entry("offends", "B", "C", "1", at=NOON),
    ]
    outcome = world.post(bank, rows)
    assert (outcome.posted, outcome.rejected) == (2, 1)
    assert world.rejects() == {3: "balance_constraint"}
    assert world.balance("A") == 0


def test_only_the_offender_goes_in_event_time_order_not_in_source_order(
    world: World, bank: Registration
) -> None:
    fund(world, "A", "10")
    rows = [
        Entry("late", "B", "A", "8", at=NOON + timedelta(hours=2)),
        Entry("early", "C", "A", "8", at=NOON),
        Entry("other", "D", "B", "0.50", at=NOON),  # lowers D and B: refused, D has nothing
        Entry("fine", "C", SOURCE_OF_FUNDS, "1", at=NOON),
    ]
    outcome = world.post(bank, rows)
    assert world.references() >= {"early", "fine"}
    assert world.rejects() == {1: "balance_constraint", 3: "balance_constraint"}
    assert (outcome.posted, outcome.rejected) == (2, 2)
    reasons = dict(world.rows("SELECT source_row, reason FROM backfill_rejects"))
    assert reasons[1] == "account A would fall from 2 to -6, below zero"
    world.assert_balances_follow_entries()


def test_the_order_of_equal_times_is_that_of_the_source(world: World, bank: Registration) -> None:
    fund(world, "A", "10")
    world.post(bank, [Entry("first", "B", "A", "7"), Entry("second", "C", "A", "7")])
    assert world.rejects() == {2: "balance_constraint"}


def test_money_that_passes_through_a_refused_row_is_not_there_for_others(
    world: World, bank: Registration
) -> None:
    rows = [Entry("r1", "B", "A", "10"), Entry("r2", "C", "B", "10", at=NOON + timedelta(hours=1))]
    world.post(bank, rows)
    assert world.rejects() == {1: "balance_constraint", 2: "balance_constraint"}
    assert world.count() == 0


def test_rows_that_repeat_a_refused_row_go_with_it(world: World, bank: Registration) -> None:
    rows = [Entry("r1", "B", "A", "10"), Entry("r1", "B", "A", "10"), Entry("r1", "B", "A", "1")]
    outcome = world.post(bank, rows)
    assert (outcome.posted, outcome.duplicates, outcome.conflicts, outcome.rejected) == (0, 0, 0, 3)
    assert set(world.rejects().values()) == {"balance_constraint"}


def test_two_settled_batches_in_one_transaction(world: World, bank: Registration) -> None:
    with world.connection.transaction():
        for number in range(3):
            world.post(bank, [replace(Entry(f"r{number}", "B", "A", "10"), row=number + 1)], staging=True)
    assert set(world.rejects()) == {1, 2, 3}


def test_a_constraint_that_is_not_valid_yet_holds_for_new_entries(world: World, bank: Registration) -> None:
    name = "bank_accounts_available_balance_nonnegative"
    constraints.suspend(world.connection)
    world.post_one(Entry("debt", "B", "A", "5"))
    world.connection.execute(
        f"ALTER TABLE bank_accounts ADD CONSTRAINT {name} CHECK (available_balance >= 0) NOT VALID"
    )
    rows = [Entry("r1", "C", "A", "1"), Entry("r2", "C", SOURCE_OF_FUNDS, "1")]
    outcome = world.post(bank, rows)
    assert (outcome.posted, outcome.rejected) == (1, 1)
    assert world.rejects() == {1: "balance_constraint"}


def test_reserved_money_is_not_spent_twice(world: World, bank: Registration) -> None:
    fund(world, "A", "10")
    world.connection.execute(
        "UPDATE bank_accounts SET reserved_balance = 4, available_balance = 6 WHERE id = 'A'"
    )
    world.post(bank, [Entry("r1", "B", "A", "7"), Entry("r2", "B", "A", "6", at=NOON + timedelta(hours=1))])
    assert world.rejects() == {1: "balance_constraint"}
