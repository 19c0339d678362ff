"""Days taken together to months, where they are too many to be told apart in a picture.

Belongs here: nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Context, Decimal
from typing import Final

from backfill_pipeline.ledger.figures import DayVolume

DAYS_MAX: Final = 400
"""Days that are drawn one by one."""

_EXACT: Final = Context(prec=1000)


def by_month_when_many(volumes: Sequence[DayVolume]) -> tuple[Sequence[DayVolume], bool]:
    """The same volumes when they are of few days, else those of months, each on its first day; and which of the two."""
    if len({one.day for one in volumes}) <= DAYS_MAX:
        return volumes, False
    sums: dict[tuple[date, str], tuple[int, Decimal]] = {}
    for one in volumes:
        month = (one.day.replace(day=1), one.currency_code)
        entries, total = sums.get(month, (0, Decimal(0)))
        sums[month] = (entries + one.entries, _EXACT.add(total, one.amount))
    return [DayVolume(*month, *found) for month, found in sorted(sums.items())], True
