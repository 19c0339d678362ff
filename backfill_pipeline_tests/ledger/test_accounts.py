"""Accounts are opened once and never changed; opening balances are ordinary entries, all or none."""

from dataclasses import replace

import pyarrow as pa
import pytest

from backfill_pipeline.errors import LedgerError, TransientLedgerError
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.accounts import ACCOUNTS_SCHEMA, open_accounts, unknown_accounts
from backfill_pipeline.ledger.posting import post_opening_entries
from backfill_pipeline_tests.ledger.test_exactly_once import wait_until_somebody_waits
from backfill_pipeline_tests.ledger.world import Entry, World, numbered, table


def accounts(*rows: tuple[str, str, str, str]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=ACCOUNTS_SCHEMA)


CASH = ("cash", "USD", "fiat", "debit")
LOAN = ("loan", "EUR", "cbdc", "credit")


class TestOpenAccounts:
    def test_opens_what_is_missing_and_leaves_the_rest(self, world: World) -> None:
        assert open_accounts(world.connection, accounts(CASH)) == 1
        world.open("other")
        world.post_one(Entry("r1", "cash", "other", "5"))
        assert open_accounts(world.connection, accounts(CASH, LOAN)) == 1
        assert open_accounts(world.connection, accounts(CASH, LOAN)) == 0
        assert world.rows(
            "SELECT id, currency_code, asset_type, normal_side, balance FROM bank_accounts ORDER BY id"
        ) == [(*CASH, 5), (*LOAN, 0), ("other", "USD", "fiat", "debit", -5)]

    @pytest.mark.parametrize("changed", [{1: "EUR"}, {2: "security"}, {3: "credit"}])
    def test_a_mismatch_is_refused_and_opens_nothing(self, world: World, changed: dict[int, str]) -> None:
        open_accounts(world.connection, accounts(CASH))
        other = tuple(changed.get(index, value) for index, value in enumerate(CASH))
        with pytest.raises(
            LedgerError, match="account cash is USD fiat debit in the ledger and .* in the accounts file:"
        ):
            open_accounts(world.connection, accounts(LOAN, other))
        assert world.count("bank_accounts") == 1

    def test_all_mismatches_are_counted(self, world: World) -> None:
        open_accounts(world.connection, accounts(CASH, LOAN))
        with pytest.raises(LedgerError, match=r"account cash .*\(and 1 more differ\)"):
            open_accounts(world.connection, accounts((*CASH[:3], "credit"), (*LOAN[:3], "debit")))

    def test_an_unknown_currency_is_refused(self, world: World) -> None:
        with pytest.raises(LedgerError, match="QQQ"):
            open_accounts(world.connection, accounts(("x", "QQQ", "fiat", "debit")))

    def test_ids_come_in_as_they_are(self, world: World) -> None:
        ids = ["tab\there", "back\\slash", "quote'\"", "ünïcode", " blank ", "\\N", "a" * 255]
        open_accounts(
            world.connection, accounts(*((account_id, "USD", "fiat", "debit") for account_id in ids))
        )
        assert {account_id for (account_id,) in world.rows("SELECT id FROM bank_accounts")} == set(ids)
        assert unknown_accounts(world.connection, ids) == []

    def test_unknown_accounts_are_sorted_byte_by_byte(self, world: World) -> None:
        world.open("B")
        assert unknown_accounts(world.connection, ["b", "B", "a", "Z", "ä"]) == ["Z", "a", "b", "ä"]
        assert unknown_accounts(world.connection, []) == []


class TestOpeningEntries:
    @pytest.fixture(autouse=True)
    def _accounts(self, world: World) -> None:
        world.open("A", "B")
        world.open("EQUITY", normal_side="credit")

    OPENING = numbered([
        Entry("OPENING-A", "A", "EQUITY", "100.00", kind="OPENING_BALANCE"),
        Entry("OPENING-B", "B", "EQUITY", "7", kind="OPENING_BALANCE"),
    ])  # fmt: skip

    def test_are_posted_once(self, world: World) -> None:
        assert post_opening_entries(world.connection, "bank", table(self.OPENING), "run-1") == 2
        assert post_opening_entries(world.connection, "bank", table(self.OPENING), "run-2") == 0
        assert world.balances() == {"A": 100, "B": 7, "EQUITY": 107}
        assert world.rows("SELECT kind, partition_id, posted, run_id FROM backfill_batches") == [
            ("opening", None, 2, "run-1")
        ]
        world.assert_balances_follow_entries()

    def test_more_of_them_later_post_only_the_new_ones(self, world: World) -> None:
        post_opening_entries(world.connection, "bank", table(self.OPENING[:1]), "run-1")
        assert post_opening_entries(world.connection, "bank", table(self.OPENING), "run-2") == 1
        assert world.rows("SELECT read, posted, duplicates FROM backfill_batches ORDER BY id") == [
            (1, 1, 0),
            (2, 1, 1),
        ]

    @pytest.mark.parametrize(
        "bad",
        [
            replace(OPENING[0], amount="100.01"), replace(OPENING[0], debit="NOBODY", reference="x"),
            replace(OPENING[0], currency="EUR", reference="x"),
        ],
    )  # fmt: skip
    def test_a_conflicting_one_refuses_all(self, world: World, bad: Entry) -> None:
        world.post_one(self.OPENING[0])
        with pytest.raises(LedgerError, match="opening balances of source bank cannot be posted: row 3 "):
            post_opening_entries(world.connection, "bank", table(numbered([*self.OPENING, bad])), "run-1")
        assert world.references() == {"OPENING-A"}
        assert world.count("backfill_batches") == 0

    def test_under_constraints_one_that_nobody_can_bear_refuses_all(self, world: World) -> None:
        constraints.apply(world.connection)
        rows = numbered([*self.OPENING, Entry("OPENING-C", "EQUITY", "B", "1000")])
        with pytest.raises(LedgerError, match="would fall from"):
            post_opening_entries(world.connection, "bank", table(rows), "run-1")
        assert world.count() == 0

    def test_none_is_nothing(self, world: World) -> None:
        assert post_opening_entries(world.connection, "bank", table(self.OPENING).slice(0, 0), "run-1") == 0
        assert world.count("backfill_batches") == 0

    def test_somebody_else_posting_one_at_the_same_moment_is_transient(self, world: World) -> None:
        from concurrent.futures import ThreadPoolExecutor

        live = world.connect()
        with ThreadPoolExecutor(1) as pool:
            with live.transaction():
                world.post_one(self.OPENING[0], live)
                trying = pool.submit(
                    post_opening_entries, world.connect(), "bank", table(self.OPENING), "run-1"
                )
                wait_until_somebody_waits(world)
            with pytest.raises(TransientLedgerError):
                trying.result(timeout=120)
        assert post_opening_entries(world.connection, "bank", table(self.OPENING), "run-1") == 1
