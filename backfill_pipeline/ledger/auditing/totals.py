"""Totals of the ledger: per ledger, currency and day of the event time, in UTC.

Belongs here: sums for people and auditors.
Does not: judging them (`audit_balances`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Final

from backfill_pipeline.ledger.connection import Connection

DAYS_MAX: Final = 20_000

_DAYS: Final = """
CREATE TEMP TABLE backfill_day_totals ON COMMIT DROP AS
SELECT ledger_id, currency_code, (timestamp_utc AT TIME ZONE 'UTC')::date AS day, count(*) AS entries,
       sum(amount) AS amount, min(timestamp_utc) AS earliest, max(timestamp_utc) AS latest
FROM ledger_entries GROUP BY 1, 2, 3
"""
_TOTALS: Final = """
SELECT ledger_id, currency_code, sum(entries)::bigint, sum(amount), count(*), min(earliest), max(latest)
FROM backfill_day_totals GROUP BY 1, 2 ORDER BY 1, 2
"""
_LATEST_DAYS: Final = """
SELECT day, ledger_id, currency_code, entries, amount
FROM (SELECT * FROM backfill_day_totals ORDER BY day DESC, ledger_id, currency_code LIMIT %s) AS latest
ORDER BY day, ledger_id, currency_code
"""


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """One currency of one ledger. `amount` is what its entries move: the sum of its debits, and that of its credits."""

    ledger_id: str
    currency_code: str
    entries: int
    amount: Decimal
    days: int
    earliest: datetime
    latest: datetime


@dataclass(frozen=True, slots=True)
class DayTotals:
    """One day of one currency of one ledger."""

    day: date
    ledger_id: str
    currency_code: str
    entries: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of all entries.

    Attributes:
        ledgers: per ledger and currency, complete.
        days: the latest DAYS_MAX of them, oldest first.
        day_count: complete.
    """

    ledgers: tuple[LedgerTotals, ...]
    days: tuple[DayTotals, ...]
    day_count: int

    @property
    def entries(self) -> int:
        """Of the whole ledger."""
        return sum(one.entries for one in self.ledgers)

    @property
    def earliest(self) -> datetime | None:
        """The first event time."""
        return min((one.earliest for one in self.ledgers), default=None)

    @property
    def latest(self) -> datetime | None:
        """The last event time."""
        return max((one.latest for one in self.ledgers), default=None)


def totals(connection: Connection) -> Totals:
    """Sums up all entries, in the caller's transaction."""
    connection.execute(_DAYS)
    ledgers = tuple(LedgerTotals(*row) for row in connection.execute(_TOTALS))
    days = tuple(DayTotals(*row) for row in connection.execute(_LATEST_DAYS, [DAYS_MAX]))
    return Totals(ledgers, days, sum(one.days for one in ledgers))
