"""The equality property: a batch posted in bulk becomes what its rows become through post_ledger_entry, one by one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import NOON, Entry, World, numbered, post_one_by_one

ACCOUNTS = {
    "A": ("USD", "debit"), "B": ("USD", "debit"), "C": ("USD", "credit"), "D": ("EUR", "debit"), "E": ("EUR", "credit"),
    "J": ("JPY", "debit"), "G": ("XAU", "debit"),
}  # fmt: skip

CLOSED = NOON - timedelta(days=30)
"""In a month that ledger MASTER has closed."""

entries = st.builds(
    Entry,
    reference=st.sampled_from(["r1", "r2", "r3", "r4", "r5", "r6"]),
    debit=st.sampled_from([*ACCOUNTS, "A", "B", "UNKNOWN"]),
    credit=st.sampled_from([*ACCOUNTS, "B", "C", "UNKNOWN"]),
    amount=st.sampled_from(
        ["1", "1.00", "2.50", "0.005", "0.000000000000000001", "99999999999999999999", "0", "-1"]
    ),
    currency=st.sampled_from(["USD", "USD", "USD", "EUR", "JPY", "XAU", "QQQ"]),
    at=st.sampled_from([NOON, NOON, NOON + timedelta(microseconds=1), CLOSED]),
    fx_rate=st.sampled_from([None, None, "1", "1.10", "0.5", "0", "-2"]),
    metadata=st.sampled_from([None, "{}", '{"a": "1"}', '{"a": null}']),
    ledger=st.sampled_from(["MASTER", "MASTER", "MASTER", "OTHER"]),
    asset_type=st.sampled_from(["fiat", "fiat", "cbdc"]),
    kind=st.sampled_from(["TRANSFER", "TRANSFER", "FEE"]),
)
# Plausible rows with few references: most batches hold entries, duplicates and conflicts side by side.
plain = st.builds(
    Entry,
    reference=st.sampled_from(["r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"]),
    debit=st.sampled_from(["A", "C"]),
    credit=st.just("B"),
    amount=st.sampled_from(["1", "1.00", "2"]),
)


@dataclass(frozen=True, slots=True)
class Ending:
    """What a ledger holds in the end, without what only one of the two ways has (ids, batches)."""

    verdicts: dict[int, str]
    entries: list[tuple[Any, ...]]
    balances: list[tuple[Any, ...]]
    conversions: list[tuple[Any, ...]]


@pytest.fixture
def bank(world: World) -> Registration:
    for account_id, (currency, side) in ACCOUNTS.items():
        world.open(account_id, currency=currency, normal_side=side)
    # As it is left by close_period, which would not close a ledger without entries.
    world.connection.execute(
        "INSERT INTO ledger_periods (ledger_id, month, closed_by) VALUES ('MASTER', ledger_month(%s), 'ann')",
        [CLOSED],
    )
    return world.register()


@contextmanager
def undone(world: World) -> Iterator[None]:
    """Everything inside is rolled back, so that examples share a ledger."""
    with world.connection.transaction(force_rollback=True):
        yield


def ending(world: World, verdicts: dict[int, str]) -> Ending:
    return Ending(
        verdicts,
        world.rows(
            "SELECT ledger_id, reference_id, debit_account_id, credit_account_id, amount::text, currency_code, asset_type,"
            " transaction_type, timestamp_utc, fx_rate::text, metadata::text FROM ledger_entries ORDER BY 1, 2"
        ),
        world.rows("SELECT id, balance, available_balance FROM bank_accounts ORDER BY id"),
        world.rows(
            "SELECT e.ledger_id, e.reference_id, c.side, c.account_id, c.currency_code, c.amount"
            " FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id ORDER BY 1, 2, 3"
        ),
    )


def post_in_bulk(
    world: World,
    bank: Registration,
    rows: Sequence[Entry],
    cuts: Sequence[int],
    *,
    staging: bool,
    skip_duplicates: bool,
) -> dict[int, str]:
    """Verdicts by row. Duplicates that are skipped are only counted: they are the rows that are neither in the ledger
    nor among the rejects, and there must be as many as were counted."""
    verdicts = {}
    posted = duplicates = 0
    policy = PostingPolicy(skip_duplicates=skip_duplicates)
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        if batch := rows[start:end]:
            outcome = world.post(bank, batch, staging=staging, policy=policy)
            posted, duplicates = posted + outcome.posted, duplicates + outcome.duplicates
            assert outcome.read == len(batch)
            assert skip_duplicates or not outcome.duplicates
    kept = {"duplicate_reference": "duplicate", "conflict": "conflict"}
    for row, code in world.rejects().items():
        verdicts[row] = kept.get(code, "rejected")
    in_ledger = {
        row for (row,) in world.rows("SELECT source_row FROM ledger_entries WHERE batch_id IS NOT NULL")
    }
    found = {
        row.row: verdicts.get(row.row, "posted" if row.row in in_ledger else "duplicate") for row in rows
    }
    assert posted == len(in_ledger)
    assert not skip_duplicates or duplicates == list(found.values()).count("duplicate")
    return found


def assert_equal(
    world: World,
    bank: Registration,
    before: list[Entry],
    rows: list[Entry],
    cuts: list[int],
    *,
    staging: bool,
    skip_duplicates: bool,
) -> None:
    rows = numbered(rows)
    with undone(world):
        post_one_by_one(world.connection, numbered(before, 1001))
        expected = ending(world, post_one_by_one(world.connection, rows))
    with undone(world):
        post_one_by_one(world.connection, numbered(before, 1001))
        verdicts = post_in_bulk(
            world,
            bank,
            rows,
            sorted({min(cut, len(rows)) for cut in cuts}),
            staging=staging,
            skip_duplicates=skip_duplicates,
        )
        assert ending(world, verdicts) == expected
        world.assert_balances_equal_legs()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(entries | plain, max_size=4),
    rows=st.lists(entries | plain, min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=3),
    staging=st.booleans(),
    skip_duplicates=st.booleans(),
)
# an impossible row is rejected even when its reference is taken, by the ledger or by an earlier row
@example(
    [Entry("r1")],
    [Entry("r1", "A", "A"), Entry("r1", amount="0"), Entry("r1", fx_rate="0")],
    [],
    False,
    False,
)
@example([], [Entry("r1"), Entry("r1", "A", "A"), Entry("r1", amount="-1")], [], True, False)
# a row that cannot be posted takes no reference
@example([], [Entry("r1", credit="UNKNOWN"), Entry("r1"), Entry("r1", credit="UNKNOWN")], [], False, False)
# null and value, in both directions
@example([Entry("r1")], [Entry("r1", metadata="{}"), Entry("r2", fx_rate="1"), Entry("r2")], [], False, False)
@example([Entry("r1", metadata="{}")], [Entry("r1"), Entry("r2"), Entry("r2", fx_rate="1")], [2], True, False)
# a row in a closed period takes no reference either, and its accounts are not looked at
@example(
    [],
    [Entry("r1", at=CLOSED), Entry("r1"), Entry("r1", at=CLOSED), Entry("r2", "X", at=CLOSED)],
    [],
    False,
    False,
)
# everything is in the ledger already, all but one row is, or all but the content of one
@example([Entry("r1"), Entry("r2")], [Entry("r2"), Entry("r1"), Entry("r1")], [], False, True)
@example([Entry(f"r{n}") for n in range(6)], [Entry(f"r{n}") for n in range(7)], [], False, True)
@example([Entry(f"r{n}") for n in range(6)], [Entry(f"r{n}", amount="10") for n in range(5)], [], False, True)
@example(
    [Entry(f"r{n}") for n in range(6)],
    [*(Entry(f"r{n}") for n in range(5)), Entry("r5", metadata="{}")],
    [],
    False,
    True,
)
# a row that nobody could post, of a reference that the batch has: before the winner, and after it
@example([], [Entry("r1", "D"), Entry("r1"), Entry("r1", "D"), Entry("r1")], [], True, True)
def test_bulk_posting_equals_posting_one_by_one(
    world: World,
    bank: Registration,
    before: list[Entry],
    rows: list[Entry],
    cuts: list[int],
    staging: bool,
    skip_duplicates: bool,
) -> None:
    assert_equal(world, bank, before, rows, cuts, staging=staging, skip_duplicates=skip_duplicates)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(entries | plain, max_size=10),
    rows=st.lists(entries | plain, min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    staging=st.booleans(),
    skip_duplicates=st.booleans(),
)
def test_bulk_posting_equals_posting_one_by_one_at_length(
    world: World,
    bank: Registration,
    before: list[Entry],
    rows: list[Entry],
    cuts: list[int],
    staging: bool,
    skip_duplicates: bool,
) -> None:
    assert_equal(world, bank, before, rows, cuts, staging=staging, skip_duplicates=skip_duplicates)


class TestTellingRowsApart:
    def test_each_verdict_says_what_and_where(self, world: World, bank: Registration) -> None:
        world.post_one(Entry("taken", amount="5"))
        rows = [
            Entry("ok"), Entry("ok"), Entry("ok", amount="11"), Entry("taken", amount="5.000"), Entry("taken", debit="C"),
            Entry("x1", debit="NOBODY"), Entry("x2", credit="NOBODY"), Entry("x3", "A", "A"), Entry("x4", amount="0"),
            Entry("x5", fx_rate="0"), Entry("x6", currency="EUR"), Entry("x7", "D", "B"), Entry("ok2", at=NOON),
        ]  # fmt: skip
        outcome = world.post(bank, rows)
        assert (outcome.read, outcome.posted, outcome.duplicates, outcome.conflicts, outcome.rejected) == (
            13,
            2,
            2,
            2,
            7,
        )
        assert outcome.path == "staging"
        assert world.rows("SELECT source_row, code, field, reason FROM backfill_rejects ORDER BY 1") == [
            (3, "conflict", "reference_id", "same reference as row 1 with other amount (11, not 10.00)"),
            (5, "conflict", "reference_id",
             "same reference as the ledger with other debit_account_id (C, not A), amount (10.00, not 5)"),
            (6, "unknown_account", "debit_account_id", "account NOBODY does not exist"),
            (7, "unknown_account", "credit_account_id", "account NOBODY does not exist"),
            (8, "same_account", "debit_account_id", "debits and credits the same account A"),
            (9, "amount_out_of_range", "amount", "amount 0 is not allowed"),
            (10, "fx_rate_out_of_range", "fx_rate", "fx_rate 0 is not allowed"),
            (11, "currency_mismatch", "currency_code", "is in EUR, but its accounts are in USD and USD"),
            (12, "fx_rate_missing", "fx_rate", "moves between EUR and USD and has no fx_rate"),
        ]  # fmt: skip
        world.assert_balances_follow_entries()

    def test_duplicates_are_rejects_when_they_are_not_to_be_skipped(
        self, world: World, bank: Registration
    ) -> None:
        outcome = world.post(bank, [Entry("r1"), Entry("r1")], policy=PostingPolicy(skip_duplicates=False))
        assert (outcome.posted, outcome.duplicates, outcome.rejected) == (1, 0, 1)
        assert world.rejects() == {2: "duplicate_reference"}

    def test_the_fast_path_leaves_no_trace_of_a_batch_it_could_not_take(
        self, world: World, bank: Registration
    ) -> None:
        outcome = world.post(bank, [Entry(f"r{n}") for n in range(100)] + [Entry("r0", amount="9")])
        assert (outcome.path, outcome.posted, outcome.conflicts) == ("staging", 100, 1)
        assert world.balance("A") == 1000
        world.assert_balances_follow_entries()

    def test_every_entry_knows_its_batch_and_row(self, world: World, bank: Registration) -> None:
        world.post(bank, [Entry("r1"), Entry("r2")])
        world.post(bank, [replace(entry, row=n) for n, entry in enumerate([Entry("r3"), Entry("r1")], 3)])
        assert world.rows(
            "SELECT e.reference_id, e.source_row, b.first_row, b.path, e.posted_at = b.posted_at FROM ledger_entries e"
            " JOIN backfill_batches b ON b.id = e.batch_id ORDER BY 2"
        ) == [("r1", 1, 1, "copy", True), ("r2", 2, 1, "copy", True), ("r3", 3, 3, "staging", True)]


class TestUnknownAccountsAreCreated:
    POLICY = PostingPolicy(create_unknown_accounts=True)

    def test_in_the_currency_of_their_first_entry(self, world: World, bank: Registration) -> None:
        rows = [
            Entry("r1", "N1", "N2", currency="JPY", amount="5"), Entry("r2", "N1", "B", amount="1"),
            Entry("r3", "N3", "B", currency="USD", asset_type="cbdc"),
        ]  # fmt: skip
        outcome = world.post(bank, rows, policy=self.POLICY)
        assert (outcome.posted, outcome.rejected) == (2, 1)
        assert world.rejects() == {2: "fx_rate_missing"}
        assert world.rows("SELECT id, currency_code, asset_type, balance FROM bank_accounts WHERE id LIKE 'N%' ORDER BY 1") == [
            ("N1", "JPY", "fiat", 5), ("N2", "JPY", "fiat", -5), ("N3", "USD", "cbdc", 10),
        ]  # fmt: skip

    def test_but_not_with_an_id_or_currency_that_no_account_can_have(
        self, world: World, bank: Registration
    ) -> None:
        rows = [
            Entry("r1", "N" * 256),
            Entry("r2", debit=""),
            Entry("r3", "N1", "N2", currency="QQQ"),
            Entry("r4"),
        ]
        outcome = world.post(bank, rows, policy=self.POLICY)
        assert (outcome.posted, outcome.rejected) == (1, 3)
        assert set(world.rejects().values()) == {"unknown_account"}

    def test_not_without_being_asked(self, world: World, bank: Registration) -> None:
        assert world.post(bank, [Entry("r1", "N1")]).rejected == 1
        assert world.count("bank_accounts") == len(ACCOUNTS)
