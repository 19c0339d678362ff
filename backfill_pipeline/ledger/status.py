"""Progress: what is posted so far, per source, partition and run.

Belongs here: read-only queries for progress bars, `status` and a run's result.
Does not: changing anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backfill_pipeline.ledger.connection import Connection, ledger_errors


@dataclass(frozen=True, slots=True)
class PartitionOutcome:
    """Counts of one partition; `read` equals the sum of the next five once `status` is posted."""

    partition_key: str
    status: str
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    processed: int
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class RunCounts:
    """What one run did to a set of partitions: rows that an earlier run had posted are duplicates to it."""

    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    opening_entries: int


def partition_outcomes(connection: Connection, registration_id: int) -> list[PartitionOutcome]:
    """All partitions of a registration in source order."""
    with ledger_errors("read progress from"):
        rows = connection.execute(
            "SELECT partition_key, status, read, posted, duplicates, conflicts, rejected, filtered, processed,"
            " seconds::float8, error FROM backfill_partition_outcomes WHERE registration_id = %s ORDER BY number",
            [registration_id],
        ).fetchall()
    return [PartitionOutcome(*row) for row in rows]


def run_counts(
    connection: Connection, registration_id: int, keys: Sequence[str], run_ids: Sequence[str]
) -> RunCounts:
    """What the given runs, taken together, account for in the given partitions.

    A posted partition counts with every row that it read; an unfinished one with the rows that its committed batches
    decided, so that read always equals the sum of the other five.
    """
    with ledger_errors("read progress from"):
        row = connection.execute(
            """
            SELECT coalesce(sum(posted_now), 0)::bigint, coalesce(sum(duplicates + posted - posted_now), 0)::bigint,
                   coalesce(sum(conflicts), 0)::bigint, coalesce(sum(rejected), 0)::bigint,
                   coalesce(sum(filtered), 0)::bigint
            FROM (SELECT o.posted, o.duplicates, o.conflicts,
                         CASE WHEN o.status = 'posted' THEN o.rejected ELSE coalesce(b.rejected, 0) END AS rejected,
                         CASE WHEN o.status = 'posted' THEN o.filtered ELSE 0 END AS filtered,
                         coalesce(b.posted_now, 0) AS posted_now
                  FROM backfill_partition_outcomes o
                  LEFT JOIN LATERAL (SELECT sum(posted) FILTER (WHERE run_id = ANY(%(runs)s)) AS posted_now,
                                            sum(rejected) AS rejected
                                     FROM backfill_batches WHERE partition_id = o.partition_id) b ON true
                  WHERE o.registration_id = %(registration)s AND o.partition_key = ANY(%(keys)s)) AS part
            """,
            {"registration": registration_id, "keys": list(keys), "runs": list(run_ids)},
        ).fetchone()
        opening = connection.execute(
            "SELECT coalesce(sum(posted), 0)::bigint FROM backfill_batches WHERE kind = 'opening' AND run_id = ANY(%s)",
            [list(run_ids)],
        ).fetchone()
    assert row is not None
    assert opening is not None
    posted, duplicates, conflicts, rejected, filtered = row
    return RunCounts(sum(row), posted, duplicates, conflicts, rejected, filtered, opening[0])


def processed_rows(connection: Connection, source_id: str) -> int:
    """Rows of the source's current revision that the checkpoint accounts for: what a progress bar shows."""
    with ledger_errors("read progress from"):
        row = connection.execute(
            "SELECT coalesce(max(total_processed), 0) FROM ledger_backfill_checkpoints WHERE source_id = %s",
            [source_id],
        ).fetchone()
    return int(row[0]) if row else 0
