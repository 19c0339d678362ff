"""What people should be told of: sources that were completed, and sources with too many rejects.

Belongs here: read-only queries that find them since a moment, quick enough to be asked every minute.
Does not: checkpoints that stalled (`auditing/backfill_checks.py`), telling anybody (`reporting/alerts/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from backfill_pipeline.ledger.connection import Connection, ledger_errors

RECONCILED_WITHIN: Final = timedelta(days=1)
"""A reconciliation later than this does not belong to what completed the source."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A revision of a source that was posted in full.

    Attributes:
        registration_id: of the revision.
        source_id: of a day of a bank, bank and day.
        revision: from 1.
        registered_at: when it was registered.
        completed_at: when its last partition was marked as posted.
        at: when it was known how it ended: reconciled, or not for a while. Of a break that was found later, when.
        verdict: of the first reconciliation after that, match or break, and of a day of a bank the latest one, with the
            bank; None when there was none.
        breaks: that it found.
        is_later: the ledger was equal to it before, or nobody had looked for long, and now it is not.
    """

    registration_id: int
    source_id: str
    revision: int
    registered_at: datetime
    completed_at: datetime
    at: datetime
    verdict: str | None
    breaks: int
    is_later: bool


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """Rows of a registration; `read` equals the sum of the next five."""

    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    partitions: int


@dataclass(frozen=True, slots=True)
class OverLimit:
    """A source of whose rows more failed than somebody wants to hear nothing of.

    Attributes:
        source_id: of a day of a bank, bank and day.
        started_at: when its current revision was begun.
        last_checkpoint_at: when its counters were last written.
        processed: rows so far.
        failed: rejects and conflicts among them.
    """

    source_id: str
    started_at: datetime
    last_checkpoint_at: datetime
    processed: int
    failed: int

    @property
    def rate(self) -> Decimal:
        """Failed rows as a share of those that were processed."""
        return Decimal(self.failed) / Decimal(self.processed) if self.processed else Decimal(1)


def completions(connection: Connection, since: datetime, grace: timedelta) -> list[Completion]:
    """Sources of which it became known since a moment how they ended, or that they differ since; the earliest first.

    A day of a bank is known once it was compared with the bank, whatever was found: its own reconciliation is only half
    of that.

    Args:
        connection: to the ledger.
        since: the moment.
        grace: how long to wait for the reconciliation of a source that is posted.
    """
    with ledger_errors("read progress from"):
        rows = connection.execute(
            """
            WITH posted AS (
                SELECT id, source_id, revision, registered_at, completed_at FROM backfill_registrations
                WHERE completed_at >= %(since)s - %(within)s),
            ended AS (
                SELECT posted.*, coalesce(c.reconciled_at, completed_at + %(grace)s) AS at, c.verdict, c.break_count,
                       false AS is_later
                FROM posted LEFT JOIN LATERAL (
                    SELECT verdict, break_count, reconciled_at FROM backfill_reconciliations x
                    WHERE x.registration_id = posted.id AND x.reconciled_at >= completed_at
                      AND x.reconciled_at < completed_at + %(within)s
                    ORDER BY x.id LIMIT 1) c ON true
                WHERE source_id NOT LIKE '%%@%%'
                UNION ALL
                SELECT r.id, r.source_id, r.revision, r.registered_at, r.completed_at, x.reconciled_at, x.verdict,
                       x.break_count, true
                FROM backfill_reconciliations x JOIN backfill_registrations r ON r.id = x.registration_id
                LEFT JOIN LATERAL (
                    SELECT verdict FROM backfill_reconciliations before
                    WHERE before.registration_id = x.registration_id AND before.id < x.id
                      AND before.reconciled_at >= r.completed_at
                    ORDER BY before.id DESC LIMIT 1) b ON true
                WHERE x.reconciled_at >= %(since)s AND x.verdict = 'break' AND x.reconciled_at >= r.completed_at
                  AND r.source_id NOT LIKE '%%@%%'
                  AND (b.verdict = 'match' OR b.verdict IS NULL AND x.reconciled_at >= completed_at + %(within)s)
                UNION ALL
                SELECT posted.*, s.finished_at, s.verdict, s.break_count, false
                FROM posted JOIN sync_status s ON posted.source_id = s.source_id || '@' || to_char(s.day, 'YYYY-MM-DD')
                WHERE s.finished_at >= completed_at AND s.verdict IS NOT NULL AND NOT EXISTS (
                    SELECT FROM backfill_registrations newer
                    WHERE newer.source_id = posted.source_id AND newer.revision > posted.revision))
            SELECT id, source_id, revision, registered_at, completed_at, at, verdict, coalesce(break_count, 0), is_later
            FROM ended WHERE at BETWEEN %(since)s AND now() ORDER BY at, id
            """,
            {"since": since, "grace": grace, "within": RECONCILED_WITHIN},
        ).fetchall()
    return [Completion(*row) for row in rows]


def source_counts(connection: Connection, registration_id: int) -> SourceCounts:
    """The count equation of a whole registration.

    Args:
        connection: to the ledger.
        registration_id: whose.
    """
    with ledger_errors("read progress from"):
        row = connection.execute(
            "SELECT coalesce(sum(read), 0)::bigint, coalesce(sum(posted), 0)::bigint,"
            " coalesce(sum(duplicates), 0)::bigint, coalesce(sum(conflicts), 0)::bigint,"
            " coalesce(sum(rejected), 0)::bigint, coalesce(sum(filtered), 0)::bigint, count(*)"
            " FROM backfill_partition_outcomes WHERE registration_id = %s",
            [registration_id],
        ).fetchone()
    assert row is not None, "a sum is one row"
    return SourceCounts(*row)


def sources_over_limit(
    connection: Connection, since: datetime, *, failed_max: int | None, rate_max: Decimal
) -> list[OverLimit]:
    """Sources whose current revision went on since a moment and has more failed rows than a limit.

    Args:
        connection: to the ledger.
        since: the moment.
        failed_max: rejects and conflicts that are all right; None means any number.
        rate_max: the share of all rows that is all right, from 0 to 1.
    """
    with ledger_errors("read progress from"):
        rows = connection.execute(
            """
            SELECT source_id, started_at AT TIME ZONE 'UTC', last_checkpoint_at AT TIME ZONE 'UTC',
                   coalesce(total_processed, 0), coalesce(total_failed, 0)
            FROM ledger_backfill_checkpoints
            WHERE last_checkpoint_at >= %(since)s::timestamptz AT TIME ZONE 'UTC' AND total_failed > 0
              AND (total_failed > %(failed)s::bigint OR total_failed > %(rate)s::numeric * total_processed)
            ORDER BY last_checkpoint_at, source_id
            """,
            {"since": since, "failed": failed_max, "rate": rate_max},
        ).fetchall()
    return [OverLimit(*row) for row in rows]
