"""The days of a bank taken together: what was registered of them, and what of it was rejected.

Belongs here: read-only queries over all days of one bank, each of which is a source of its own.
Does not: a single day (the queries of any source), how far a day is told to the bank and proven (`sync_status.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from backfill_pipeline.ledger.connection import Connection, ledger_errors


@dataclass(frozen=True, slots=True)
class BankDays:
    """What became of the entries that a bank served, by the latest revision of each day.

    Attributes:
        days: that were registered, from `first` to `last`.
        open_days: of those, the days with a partition that is not posted.
        read: of posted partitions, like the five after it, whose sum it is.
    """

    days: int
    first: date | None
    last: date | None
    open_days: int
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int


def bank_days(connection: Connection, source_id: str) -> BankDays:
    """Sums over all days of a bank; `days` is 0 when nothing of it was registered."""
    with ledger_errors("read progress from"):
        row = connection.execute(
            """
            SELECT count(DISTINCT l.day), min(l.day), max(l.day),
                   count(DISTINCT l.day) FILTER (WHERE o.status <> 'posted'),
                   coalesce(sum(o.read) FILTER (WHERE o.status = 'posted'), 0)::bigint,
                   coalesce(sum(o.posted) FILTER (WHERE o.status = 'posted'), 0)::bigint,
                   coalesce(sum(o.duplicates) FILTER (WHERE o.status = 'posted'), 0)::bigint,
                   coalesce(sum(o.conflicts) FILTER (WHERE o.status = 'posted'), 0)::bigint,
                   coalesce(sum(o.rejected) FILTER (WHERE o.status = 'posted'), 0)::bigint,
                   coalesce(sum(o.filtered) FILTER (WHERE o.status = 'posted'), 0)::bigint
            FROM bank_day_registrations(%(source)s) l
            LEFT JOIN backfill_partition_outcomes o ON o.registration_id = l.id
            """,
            {"source": source_id},
        ).fetchone()
    assert row is not None
    return BankDays(*row)


# Rows of all days that are rejected now.
_REJECTED: Final = """
FROM bank_day_registrations(%(source)s) l
JOIN backfill_partitions p ON p.registration_id = l.id
JOIN backfill_rejects_now x ON x.partition_id = p.id
WHERE x.state = 'open'
"""


def rejects_by_day(connection: Connection, source_id: str) -> dict[date, int]:
    """Day → rows that are rejected now, for days that have any; in their order."""
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            f"SELECT l.day, count(*) {_REJECTED} GROUP BY l.day ORDER BY l.day",
            {"source": source_id},
        ).fetchall()
    return dict(rows)


def rejects_by_code(connection: Connection, source_id: str) -> dict[str, int]:
    """Code → rows of all days that are rejected now, most frequent first."""
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            f"SELECT x.code, count(*) {_REJECTED} GROUP BY x.code ORDER BY count(*) DESC, x.code",
            {"source": source_id},
        ).fetchall()
    return dict(rows)


@dataclass(frozen=True, slots=True)
class DayOfRun:
    """What some runs, taken together, did about a day; `read` is the sum of the five after it."""

    day: date
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int


def days_of_runs(
    connection: Connection, source_id: str, first: date, last: date, run_ids: Sequence[str]
) -> list[DayOfRun]:
    """What runs did about the registered days of a bank, as `status.run_counts` has it for one source.

    Args:
        connection: to the ledger.
        source_id: of the bank.
        first: the first day that counts.
        last: the last one, itself included.
        run_ids: rows that others posted are duplicates to these.
    """
    with ledger_errors("read progress from"):
        rows = connection.execute(
            """
            SELECT l.day, coalesce(sum(b.posted_now), 0)::bigint,
                   coalesce(sum(o.duplicates + o.posted - coalesce(b.posted_now, 0)), 0)::bigint,
                   coalesce(sum(o.conflicts), 0)::bigint,
                   coalesce(sum(CASE WHEN o.status = 'posted' THEN o.rejected ELSE b.rejected END), 0)::bigint,
                   coalesce(sum(o.filtered) FILTER (WHERE o.status = 'posted'), 0)::bigint
            FROM bank_day_registrations(%(source)s) l
            JOIN backfill_partition_outcomes o ON o.registration_id = l.id
            LEFT JOIN LATERAL (SELECT sum(posted) FILTER (WHERE run_id = ANY(%(runs)s)) AS posted_now,
                                      sum(rejected) AS rejected
                               FROM backfill_batches WHERE partition_id = o.partition_id) b ON true
            WHERE l.day BETWEEN %(first)s AND %(last)s
            GROUP BY l.day ORDER BY l.day
            """,
            {"source": source_id, "runs": list(run_ids), "first": first, "last": last},
        ).fetchall()
    return [DayOfRun(day, sum(counts), *counts) for day, *counts in rows]


def opening_entries(connection: Connection, run_ids: Sequence[str]) -> int:
    """How many opening entries some runs posted."""
    with ledger_errors("read progress from"):
        row = connection.execute(
            "SELECT coalesce(sum(posted), 0)::bigint FROM backfill_batches"
            " WHERE kind = 'opening' AND run_id = ANY(%s)",
            [list(run_ids)],
        ).fetchone()
    assert row is not None
    return int(row[0])


def ended_since(
    connection: Connection, source_id: str, first: date, last: date, moment: datetime
) -> date | None:
    """The latest day of a span that was ended, well or not, since a moment; for progress bars."""
    with ledger_errors("read progress from"):
        row = connection.execute(
            "SELECT max(day) FROM sync_status WHERE source_id = %s AND day BETWEEN %s AND %s AND updated_at >= %s"
            " AND (finished_at >= %s OR error IS NOT NULL)",
            [source_id, first, last, moment, moment],
        ).fetchone()
    assert row is not None
    found: date | None = row[0]
    return found
