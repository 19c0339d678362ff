"""A bank's day that was rolled back: incomplete, said so, and taken up again by the next night."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.days import nightly_days
from backfill_pipeline.dual_ledger.reconcile import reconcile_day
from backfill_pipeline.ledger.banks import sync_status
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline_tests.dual_ledger.syncing import sync
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual
from backfill_pipeline_tests.stages.rolling_back import roll_back

SECOND_DAY = FIRST_DAY + timedelta(days=1)
DAY_SOURCE = f"scb_01@{SECOND_DAY}"


def balances(dual: Dual) -> list[tuple[object, ...]]:
    return dual.query("SELECT id, trim_scale(balance)::text FROM bank_accounts ORDER BY id")


def noted(dual: Dual) -> sync_status.SyncStatus:
    with connect(dual.url) as connection:
        (found,) = sync_status.load(connection, "scb_01", SECOND_DAY, SECOND_DAY)
    return found


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_a_day_is_taken_up_again_by_the_next_night(dual: Dual, mode: str) -> None:
    dual.write_scb(max_error_rate="0")
    assert all(report.complete for report in sync(dual))
    first, first_balances, was = dual.snapshot(), balances(dual), noted(dual)
    plan = roll_back(dual, DAY_SOURCE, mode=mode)
    assert any("next night" in remark for remark in plan["remarks"])
    found = noted(dual)
    assert (found.complete, found.state) == (False, "failed")
    assert "rolled back by anna" in str(found.reason)
    assert "wrong export" in str(found.reason)
    with connect(dual.url) as connection:
        now = datetime(2024, 4, 20, 12, tzinfo=UTC)  # long after its look-back
        assert SECOND_DAY in nightly_days(connection, dual.definition(), now)

    (report,) = sync(dual, days=[SECOND_DAY])
    assert report.complete, report.reason
    assert (report.posted, report.duplicates) == (was.posted, 0)
    assert balances(dual) == first_balances
    again = noted(dual)
    assert (again.complete, again.posted, again.acknowledged) == (True, was.posted, was.acknowledged)
    if mode == "delete":
        assert dual.snapshot() == first
    assert all(one.outcome == "unchanged" for one in sync(dual))
    # By its own names the bank was told that each of its entries is posted, also of those under another reference here.
    assert set(dual.acknowledged()) == set(dual.entries_there())
    assert {kept.status for kept in dual.acknowledged().values()} == {"posted"}


def test_a_day_that_is_compared_before_it_is_posted_again_misses_its_entries(dual: Dual) -> None:
    """A reversed entry is in the ledger, but it does not stand for the bank's."""
    dual.write_scb(max_error_rate="0")
    sync(dual)
    roll_back(dual, DAY_SOURCE, mode="reverse")
    definition = dual.definition()
    with BankClient(scb_of(definition)) as bank:
        report = reconcile_day(definition, dual.places, SECOND_DAY, bank, told=False)
        assert report.verdict == "break"
        assert {one.kind for one in report.breaks} == {"missing here"}
        assert report.break_count == len(dual.entries_there(day=SECOND_DAY))
        other = reconcile_day(definition, dual.places, FIRST_DAY, bank, told=False)
    assert other.verdict == "match", other.breaks
