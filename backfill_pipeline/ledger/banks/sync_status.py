"""The days of banks: how far each is.

Belongs here: the table `sync_status`, and counting what it states.
Does not: what there is to do about it (`dual_ledger/days.py`), how far behind a bank is (`bank_progress.py`), the
outbox (`outbox.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from backfill_pipeline.ledger.connection import Connection, ledger_errors

DayState = Literal["complete", "break", "failed", "open"]

_SELECT: Final = (
    "SELECT source_id, bank_id, day, window_from, window_to, fetched, fetched_at, control_totals, mapping_sha256,"
    " posted, posted_at, duplicates, conflicts, rejected, filtered, acknowledged, acknowledged_at, verdict,"
    " reconciled_at, break_count, details, attempts, error, run_id, begun_at, finished_at, complete, checked_at,"
    " checked_by, updated_at"
    " FROM sync_status WHERE (%(source)s::text IS NULL OR source_id = %(source)s)"
    " AND day >= coalesce(%(first)s, '-infinity'::date) AND day <= coalesce(%(last)s, 'infinity'::date)"
    " ORDER BY source_id, day"
)


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """A day of a bank, as the table describes it."""

    source_id: str
    bank_id: str
    day: date
    window_from: datetime
    window_to: datetime
    fetched: int | None
    fetched_at: datetime | None
    control_totals: Mapping[str, object] | None
    mapping_sha256: str | None
    posted: int | None
    posted_at: datetime | None
    duplicates: int | None
    conflicts: int | None
    rejected: int | None
    filtered: int | None
    acknowledged: int | None
    acknowledged_at: datetime | None
    verdict: str | None
    reconciled_at: datetime | None
    break_count: int | None
    details: Mapping[str, object]
    attempts: int
    error: str | None
    run_id: str | None
    begun_at: datetime
    finished_at: datetime | None
    complete: bool
    checked_at: datetime | None
    checked_by: str | None
    updated_at: datetime

    @property
    def state(self) -> DayState:
        """In a word: complete, break (both ledgers differ), failed, or open (being worked on, or killed)."""
        if self.complete:
            return "complete"
        if self.error is not None:
            return "failed"
        return "open" if self.finished_at is None else "break"

    @property
    def reason(self) -> str | None:
        """Why the day is not complete, in a sentence; None when it is, or when nobody knows yet."""
        if self.complete:
            return None
        said = self.details.get("reason") if self.state == "break" else None
        return self.error or (None if said is None else str(said))


@dataclass(frozen=True, slots=True)
class DayCounts:
    """What became of the records of a day, over all of its partitions, and how far the bank knows of it.

    Attributes:
        read: records of the current revision; the sum of the next five once all of it is posted.
        in_ledger: entries of the day in the ledger that came from the bank, of all revisions.
        acknowledged: of these, those that the bank knows to be posted.
        acknowledged_at: when the last of them became known.
    """

    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    in_ledger: int
    acknowledged: int
    acknowledged_at: datetime | None


def begin(
    connection: Connection,
    *,
    source_id: str,
    bank_id: str,
    day: date,
    window: tuple[datetime, datetime],
    run_id: str,
) -> None:
    """Notes that a run works on a day: from now on it is not complete, until `finish` says so."""
    with ledger_errors("record progress in"):
        connection.execute(
            "INSERT INTO sync_status AS s (source_id, bank_id, day, window_from, window_to, attempts, run_id)"
            " VALUES (%s, %s, %s, %s, %s, 1, %s) ON CONFLICT (source_id, day) DO UPDATE SET bank_id = excluded.bank_id,"
            " window_from = excluded.window_from, window_to = excluded.window_to, run_id = excluded.run_id,"
            " attempts = CASE WHEN s.complete THEN 1 ELSE s.attempts + 1 END, error = NULL, begun_at = now(),"
            " finished_at = NULL, updated_at = now()",
            [source_id, bank_id, day, *window, run_id],
        )


def fetched(
    connection: Connection,
    source_id: str,
    day: date,
    *,
    records: int,
    control_totals: Mapping[str, object],
    mapping_sha256: str,
    run_id: str,
) -> None:
    """Notes what the bank served, and the control totals that proved it complete.

    Like `counted` and `finish`, it does nothing when another run has begun with the day since: what that one fetched
    may not be posted yet, and only it can say that the day is complete.
    """
    with ledger_errors("record progress in"):
        connection.execute(
            "UPDATE sync_status SET fetched = %s, fetched_at = now(), control_totals = %s, mapping_sha256 = %s,"
            " updated_at = now() WHERE source_id = %s AND day = %s AND run_id = %s",
            [records, Jsonb(dict(control_totals)), mapping_sha256, source_id, day, run_id],
        )


def count_day(connection: Connection, day_source_id: str, registration_id: int, bank_id: str) -> DayCounts:
    """Counts what became of a day's records, from the batches, the ledger and the outbox.

    Args:
        connection: to the ledger, autocommit.
        day_source_id: of the day.
        registration_id: its current revision.
        bank_id: whose acknowledgements count.
    """
    with ledger_errors("read progress from"), connection.transaction():
        rows = connection.execute(
            "SELECT coalesce(sum(read), 0)::bigint, coalesce(sum(posted), 0)::bigint,"
            " coalesce(sum(duplicates), 0)::bigint, coalesce(sum(conflicts), 0)::bigint,"
            " coalesce(sum(rejected), 0)::bigint, coalesce(sum(filtered), 0)::bigint"
            " FROM backfill_partition_outcomes WHERE registration_id = %s",
            [registration_id],
        ).fetchone()
        batches = connection.execute(
            "SELECT coalesce(sum(posted), 0)::bigint, coalesce(array_agg(id) FILTER (WHERE posted > 0), '{}')"
            " FROM backfill_batches WHERE source_id = %s AND kind IN ('entries', 'replay')",
            [day_source_id],
        ).fetchone()
        assert rows is not None
        assert batches is not None
        in_ledger, batch_ids = batches
        # The bounds and the settings let the batch index lead to one stretch of pages, whatever the planner thinks.
        connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0")
        known = connection.execute(
            "SELECT count(*), max(o.acknowledged_at) FROM ledger_entries e CROSS JOIN LATERAL"
            " (SELECT acknowledged_at FROM dual_ledger_outbox o WHERE o.ledger_id = e.ledger_id"
            "  AND o.reference_id = e.reference_id AND o.destination = %(bank)s AND o.status = 'ACKNOWLEDGED'"
            "  AND NOT o.withdraws AND o.compensated_by IS NULL AND o.status NOT IN ('CANCELLED', 'COMPENSATED')"
            "  LIMIT 1) o"
            " WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY (%(batches)s)",
            {
                "bank": bank_id,
                "low": min(batch_ids, default=0),
                "high": max(batch_ids, default=0),
                "batches": batch_ids,
            },
        ).fetchone()
    assert known is not None
    read, posted, duplicates, conflicts, rejected, filtered = rows
    acknowledged, acknowledged_at = known
    return DayCounts(
        read, posted, duplicates, conflicts, rejected, filtered, in_ledger, acknowledged, acknowledged_at
    )


def counted(connection: Connection, source_id: str, day: date, counts: DayCounts, *, run_id: str) -> None:
    """Notes what became of a day's records, before both ledgers are compared."""
    with ledger_errors("record progress in"):
        connection.execute(
            "UPDATE sync_status SET posted = %s, posted_at = now(), duplicates = %s, conflicts = %s, rejected = %s,"
            " filtered = %s, acknowledged = %s, acknowledged_at = %s, updated_at = now()"
            " WHERE source_id = %s AND day = %s AND run_id = %s",
            [
                counts.in_ledger,
                counts.duplicates,
                counts.conflicts,
                counts.rejected,
                counts.filtered,
                counts.acknowledged,
                counts.acknowledged_at,
                source_id,
                day,
                run_id,
            ],
        )


def finish(
    connection: Connection,
    source_id: str,
    day: date,
    *,
    verdict: str,
    break_count: int,
    details: Mapping[str, object],
    run_id: str,
) -> None:
    """Notes the verdict of a day that went through all of its steps.

    It is reconciled as of the moment before the comparison, so that what the bank was told meanwhile reopens the day.
    """
    with ledger_errors("record progress in"):
        connection.execute(
            "UPDATE sync_status SET verdict = %s, break_count = %s, details = %s, reconciled_at = posted_at,"
            " error = NULL,"
            " finished_at = now(), checked_at = now(), checked_by = run_id, updated_at = now()"
            " WHERE source_id = %s AND day = %s AND run_id = %s",
            [verdict, break_count, Jsonb(dict(details)), source_id, day, run_id],
        )


def still_the_same(connection: Connection, source_id: str, day: date, run_id: str) -> None:
    """Notes that the bank still states the control totals that a complete day was proven with."""
    with ledger_errors("record progress in"):
        connection.execute(
            "UPDATE sync_status SET checked_at = now(), checked_by = %s WHERE source_id = %s AND day = %s",
            [run_id, source_id, day],
        )


def fail(
    connection: Connection,
    *,
    source_id: str,
    bank_id: str,
    day: date,
    window: tuple[datetime, datetime],
    run_id: str,
    error: str,
    keep_complete: bool = False,
) -> None:
    """Notes why a try at a day failed, also when it failed before it began; what it reached stays noted.

    With `keep_complete`, a day that is complete stays so: what failed was no more than asking whether it still is.
    """
    with ledger_errors("record progress in"):
        connection.execute(
            "INSERT INTO sync_status (source_id, bank_id, day, window_from, window_to, attempts, run_id, error)"
            " VALUES (%s, %s, %s, %s, %s, 1, %s, %s) ON CONFLICT (source_id, day) DO UPDATE SET error = excluded.error,"
            " run_id = excluded.run_id, updated_at = now() WHERE NOT (sync_status.complete AND %s)",
            [source_id, bank_id, day, *window, run_id, error, keep_complete],
        )


def load(
    connection: Connection, source_id: str | None = None, first: date | None = None, last: date | None = None
) -> list[SyncStatus]:
    """Days that were ever begun, by source and day.

    Args:
        connection: to the ledger.
        source_id: of this source only.
        first: the first day.
        last: the last one, itself included.
    """
    with ledger_errors("read progress from"), connection.cursor(row_factory=class_row(SyncStatus)) as cursor:
        return cursor.execute(
            _SELECT,
            {"source": source_id, "first": first, "last": last},
        ).fetchall()


def reopened_days(connection: Connection, source_id: str, bank_id: str, timezone: str) -> set[date]:
    """Complete days of which the bank got, or must get, entries of ours since both ledgers were compared.

    Args:
        connection: to the ledger.
        source_id: of the bank.
        bank_id: whose outbox is looked at.
        timezone: in which the bank's days begin and end.
    """
    with ledger_errors("read progress from"):
        rows = connection.execute(
            "SELECT DISTINCT s.day FROM dual_ledger_outbox o"
            " JOIN sync_status s ON s.day = ((o.payload->>'booked_at')::timestamptz AT TIME ZONE %(zone)s)::date"
            " WHERE o.destination = %(bank)s AND o.kind = 'entry' AND s.source_id = %(source)s AND s.complete"
            # What was taken back is told by the row that takes it back, or not at all.
            " AND o.status NOT IN ('CANCELLED', 'COMPENSATED')"
            " AND (o.status <> 'ACKNOWLEDGED' OR greatest(o.created_at, o.acknowledged_at) > s.reconciled_at)",
            {"zone": timezone, "bank": bank_id, "source": source_id},
        ).fetchall()
    return {day for (day,) in rows}
