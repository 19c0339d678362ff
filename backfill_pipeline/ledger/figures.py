"""Figures: how fast a source was posted, what its entries come to, and when they happened.

Belongs here: read-only queries for the metadata of materializations, the report and the metrics; made in sets, so that
a source of two thousand partitions is asked for as quickly as one.
Does not: counts and statuses (`status.py`), rejects (`rejects.py`), drawing anything (`reporting/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, LiteralString

from backfill_pipeline.ledger.connection import Connection, ledger_errors

POINTS_MAX: Final = 200
"""Points of a curve at most: more do not show at the size at which it is drawn."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What figures are asked for.

    Attributes:
        registration_ids: of one source, or of the days of a bank.
        partition_keys: only these; None for all.
        run_ids: only batches of these runs; None for all.
    """

    registration_ids: Sequence[int]
    partition_keys: Sequence[str] | None = None
    run_ids: Sequence[str] | None = None

    def parameters(self) -> dict[str, object]:
        """As the queries of this module name them."""
        return {
            "registrations": list(self.registration_ids),
            "keys": None if self.partition_keys is None else list(self.partition_keys),
            "runs": None if self.run_ids is None else list(self.run_ids),
        }


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """How long batches took, each from its first row to its commit.

    Attributes:
        batches: how many there are.
        rows: that they read.
        posted: entries that they posted.
        busy_s: the sum of their times; more than the time that passed where two were posted at once.
        p50_s: half of them took no longer.
        p95_s: 95 of a hundred took no longer.
        slowest_s: the longest.
        started_at: when the first began.
        ended_at: when the last was posted: batches are dated when their transaction begins, and end as much later as
            they took.
    """

    batches: int
    rows: int
    posted: int
    busy_s: float
    p50_s: float
    p95_s: float
    slowest_s: float
    started_at: datetime
    ended_at: datetime

    @property
    def entries_per_s(self) -> float | None:
        """Entries in the time that passed from the first batch to the last; None when that is too short to tell."""
        passed_s = (self.ended_at - self.started_at).total_seconds()
        return self.posted / passed_s if passed_s > 0 else None


@dataclass(frozen=True, slots=True)
class ThroughputPoint:
    """Some batches that were posted one after another.

    Attributes:
        posted_at: when the last of them was.
        batches: how many they are.
        posted: entries.
        seconds: that they took together.
    """

    posted_at: datetime
    batches: int
    posted: int
    seconds: float

    @property
    def entries_per_s(self) -> float:
        """Their rate."""
        return self.posted / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class DayVolume:
    """Entries of one currency whose event time is on one day (UTC)."""

    day: date
    currency_code: str
    entries: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class CurrencyTotal:
    """Entries of one currency."""

    currency_code: str
    entries: int
    amount: Decimal


_BATCHES: Final = """
    FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id
    WHERE p.registration_id = ANY(%(registrations)s)
      AND (%(keys)s::text[] IS NULL OR p.partition_key = ANY(%(keys)s))
      AND (%(runs)s::text[] IS NULL OR b.run_id = ANY(%(runs)s))
"""

_FIGURES: Final = f"""
    SELECT count(*), sum(read)::bigint, sum(posted)::bigint, sum(seconds)::float8,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds)::float8,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY seconds)::float8,
           max(seconds)::float8, min(started_at), max(b.posted_at + b.seconds * interval '1 second')
    {_BATCHES}
"""

_THROUGHPUT: Final = f"""
    SELECT max(posted_at), count(*), sum(posted)::bigint, sum(seconds)::float8
    FROM (SELECT b.posted_at, b.posted, b.seconds, ntile(%(points)s) OVER (ORDER BY b.posted_at, b.id) AS point
          {_BATCHES}) AS batch
    GROUP BY point ORDER BY point
"""  # noqa: S608 - put together from constants of this module

_POSTED: Final = f"SELECT b.id {_BATCHES} AND b.posted > 0"

# The index of batches finds the pages of their entries. Given as values: an array that a query gives is not hashed.
_ENTRIES: Final = """
    FROM ledger_entries e
    WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s)
"""

_TOTALS: Final = f"""
    SELECT e.currency_code, count(*), sum(e.amount) {_ENTRIES} GROUP BY 1 ORDER BY 1
"""

_DAYS: Final = f"""
    SELECT (e.timestamp_utc AT TIME ZONE 'UTC')::date, e.currency_code, count(*), sum(e.amount)
    {_ENTRIES} GROUP BY 1, 2 ORDER BY 1, 2
"""


def batch_figures(connection: Connection, scope: Scope) -> BatchFigures | None:
    """How long the batches took; None when there are none."""
    with ledger_errors("read figures from"):
        row = connection.execute(_FIGURES, scope.parameters()).fetchone()
    return BatchFigures(*row) if row and row[0] else None


def throughput(
    connection: Connection, scope: Scope, *, points_max: int = POINTS_MAX
) -> list[ThroughputPoint]:
    """Batches in the order in which they were posted, neighbours taken together to at most `points_max` points."""
    with ledger_errors("read figures from"):
        rows = connection.execute(_THROUGHPUT, {**scope.parameters(), "points": points_max}).fetchall()
    return [ThroughputPoint(*row) for row in rows]


def currency_totals(connection: Connection, scope: Scope) -> list[CurrencyTotal]:
    """What the posted entries come to, by currency."""
    return [CurrencyTotal(*row) for row in _of_entries(connection, scope, _TOTALS)]


def daily_volume(connection: Connection, scope: Scope) -> list[DayVolume]:
    """What the posted entries come to, by day of their event time and currency, in order of time."""
    return [DayVolume(*row) for row in _of_entries(connection, scope, _DAYS)]


def _of_entries(connection: Connection, scope: Scope, statement: LiteralString) -> list[tuple[Any, ...]]:
    with ledger_errors("read figures from"):
        batches = [batch for (batch,) in connection.execute(_POSTED, scope.parameters()).fetchall()]
        if not batches:
            return []
        among = {"low": min(batches), "high": max(batches), "batches": batches}
        return connection.execute(statement, among).fetchall()
