"""Corrections of balances that a source states: never posted away unless an account is named for it."""

from pathlib import Path

import pytest

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import corrections
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline_tests.stages.correcting import apply_all, balances, propose
from backfill_pipeline_tests.stages.test_stated import COLUMNS, STATED, statement
from backfill_pipeline_tests.stages.world import World


class TestStatedBalances:
    """A source that says what its account held: never posted away unless an account is named for it (trap 9)."""

    @pytest.fixture
    def drifting(self, world: World) -> Path:
        """The opening balance of A is 7.00 short of what the statement begins with; SUSP takes differences."""
        rows = statement(25, opening=107)
        path = world.write(
            "s", rows, accounts={"A": 100, "B": 9000, "SUSP": 0}, header=COLUMNS, stated_balances=STATED
        )
        world.post(path)
        return path

    def test_nothing_is_posted_to_hide_a_drift(self, world: World, drifting: Path) -> None:
        report = propose(world, drifting)
        assert not report.proposed
        assert "--suspense" in report.not_by_entries[0]

    def test_with_a_suspense_account_the_difference_goes_there_and_is_said(
        self, world: World, drifting: Path, connection: Connection
    ) -> None:
        report = propose(world, drifting, suspense=["SUSP"])
        [one] = report.proposed
        assert "the difference of 7.00 goes to SUSP. It explains nothing" in str(one.detail)
        assert apply_all(connection) == ["applied"]
        assert balances(world)["SUSP"] == -7
        after = world.reconcile(drifting)
        assert after.matches
        assert after.stated is not None
        assert after.stated.accounts_differing == 0
        assert propose(world, drifting, suspense=["SUSP"]).clean

    def test_a_posting_before_its_last_row_makes_it_stale_and_one_after_it_does_not(
        self, world: World, drifting: Path, connection: Connection
    ) -> None:
        post = (
            "SELECT post_ledger_entry('MASTER', 'A', 'B', 1.00, 'USD', 'fiat', 'TRANSFER', %s, NULL, NULL,"
            " %s::text::timestamptz)"
        )
        propose(world, drifting, suspense=["SUSP"])
        world.query(post, "after", "2024-06-01T00:00:00Z")
        [number] = [one for (one,) in world.query("SELECT id FROM ledger_corrections")]
        assert isinstance(number, int)
        assert corrections.approve(connection, number, actor="bob", reason=None).outcome == "approved"
        world.query(post, "before", "2024-01-01T00:00:00Z")
        decision = corrections.apply(connection, number, actor="bob", reason=None)
        assert (decision.outcome, decision.detail) == ("stale", "balance, legs")
        assert balances(world)["SUSP"] == 0

    def test_rejected_rows_come_first(self, world: World) -> None:
        rows = statement(12, changes={5: {"amount": "5,00"}})
        path = world.write(
            "s",
            rows,
            accounts=("A", "B", "SUSP"),
            header=COLUMNS,
            stated_balances=STATED,
            max_error_rate="0.5",
        )
        world.post(path)
        report = propose(world, path, suspense=["SUSP"])
        assert not report.proposed
        assert "repair and replay them first" in report.not_by_entries[0]

    def test_a_suspense_account_in_another_currency_is_refused_in_words(
        self, world: World, drifting: Path, connection: Connection
    ) -> None:
        world.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('SUSP-EUR', 'EUR')")
        [one] = propose(world, drifting, suspense=["SUSP-EUR"]).skipped
        assert (
            one.detail
            == "the suspense account SUSP-EUR is in EUR (fiat), the account in USD (fiat): name one that fits"
        )
        with pytest.raises(UsageError, match="does not have the suspense account NONE"):
            propose(world, drifting, suspense=["NONE"])
