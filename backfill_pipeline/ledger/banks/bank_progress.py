"""How far behind a bank is: its days taken together.

Belongs here: what the days that were ever begun say of their bank as a whole.
Does not: single days (`sync_status.py`), what there is to do about them (`dual_ledger/days.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from backfill_pipeline.ledger.banks import sync_status
from backfill_pipeline.ledger.banks.sync_status import SyncStatus
from backfill_pipeline.ledger.connection import Connection


@dataclass(frozen=True, slots=True)
class BankProgress:
    """How far a bank's source is.

    Attributes:
        days: that were ever begun.
        complete: of these.
        complete_to: the newest day up to which all days since the first one are complete; None when the first is not.
        lag: from the end of that day (from the beginning of the first one, when there is none) to now.
        entries: posted, over all days.
        unacknowledged: of these, those that the bank is not known to know of.
        incomplete: days that are not complete, the oldest first; those that were never begun are among them.
    """

    source_id: str
    bank_id: str
    days: int
    complete: int
    first_day: date
    last_day: date
    complete_to: date | None
    lag: timedelta
    entries: int
    unacknowledged: int
    incomplete: Sequence[date]


def progress(connection: Connection, now: datetime) -> list[BankProgress]:
    """How far each bank's source is, by source.

    Args:
        connection: to the ledger.
        now: with its offset.
    """
    by_source: dict[str, list[SyncStatus]] = {}
    for one in sync_status.load(connection):
        by_source.setdefault(one.source_id, []).append(one)
    return [_progress(days, now) for days in by_source.values()]


def _progress(days: Sequence[SyncStatus], now: datetime) -> BankProgress:
    known = {one.day: one for one in days}
    first, last = days[0].day, days[-1].day
    span = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    # A zone may have left out a day: then the windows beside it touch, and there is nothing of it to fetch.
    left_out = {
        before.day + timedelta(days=1)
        for before, behind in itertools.pairwise(days)
        if before.window_to == behind.window_from and (behind.day - before.day).days == 2
    }
    incomplete = [
        day for day in span if (day not in known or not known[day].complete) and day not in left_out
    ]
    until = (incomplete[0] if incomplete else last + timedelta(days=1)) - timedelta(days=1)
    reached = max((one.window_to for one in days if one.day <= until), default=days[0].window_from)
    return BankProgress(
        source_id=days[0].source_id,
        bank_id=days[-1].bank_id,
        days=len(days),
        complete=sum(one.complete for one in days),
        first_day=first,
        last_day=last,
        complete_to=until if until >= first else None,
        lag=max(now - reached, timedelta(0)),
        entries=sum(one.posted or 0 for one in days),
        unacknowledged=sum((one.posted or 0) - (one.acknowledged or 0) for one in days),
        incomplete=incomplete,
    )
