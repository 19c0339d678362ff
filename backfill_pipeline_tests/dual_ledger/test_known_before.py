"""Entries of a bank that were here before it served them, posted from a file or by a person."""

from __future__ import annotations

from decimal import Decimal

import pytest

from backfill_pipeline_tests.dual_ledger.syncing import sync
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Booked, Dual, our_ledger

COMPLETE = [("synced", "match"), ("synced", "match"), ("synced", "match")]


def post_before(dual: Dual, entry: Booked, amount: Decimal | None = None) -> None:
    """Posts an entry of the bank as whoever does not know that it is one."""
    dual.query(
        "SELECT post_ledger_entry(%s, %s, %s, %s, %s, 'fiat', %s, %s, p_timestamp_utc => %s)",
        our_ledger("SCB-01"),
        entry.debit,
        entry.credit,
        entry.amount if amount is None else amount,
        entry.currency,
        entry.type,
        entry.reference,
        entry.booked_at,
    )


@pytest.mark.parametrize("send_entries", ["true", "false"])
def test_they_are_the_banks_own_once_it_serves_them(dual: Dual, send_entries: str) -> None:
    """They are noted to be sent, or not at all; the bank says that they are its own, and is told that they are posted."""
    dual.write_scb(metadata=None, scb={"send_entries": send_entries})
    dual.open()
    for entry in list(dual.entries_there(day=FIRST_DAY).values())[:3]:
        post_before(dual, entry)
    reports = sync(dual)
    assert [(one.outcome, one.verdict) for one in reports] == COMPLETE
    assert (reports[0].posted, reports[0].duplicates) == (37, 3)
    assert dual.outbox_states() == {("acknowledgement", "ACKNOWLEDGED"): 120}
    assert set(dual.acknowledged()) == set(dual.entries_there())
    assert dual.received() == {}
    assert [one.outcome for one in sync(dual)] == ["unchanged"] * 3
    dual.assert_counts()


def test_one_that_is_not_what_the_bank_has_is_not_acknowledged(dual: Dual) -> None:
    dual.write_scb(metadata=None)
    dual.open()
    entry, *_ = dual.entries_there(day=FIRST_DAY).values()
    post_before(dual, entry, entry.amount + 1)
    reports = sync(dual)
    assert [one.verdict for one in reports] == ["break", "match", "match"]
    assert "different" in str(reports[0].reason)
    assert entry.reference not in dual.acknowledged()
    assert dual.outbox_states()[("entry", "DEAD")] == 1
