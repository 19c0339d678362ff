"""What earlier runs left that a plan needs: how far partitions are, what was rejected, and how fast runs were.

Belongs here: read-only queries that lock nothing.
Does not: rehearsing (`rehearsal`), totals of a revision (`status`).
"""

from __future__ import annotations

from dataclasses import dataclass

from backfill_pipeline.ledger.connection import Connection, ledger_errors

RUN_ROWS_MIN = 10_000
"""A shorter run says more about its start than about its rate."""

_RUNS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the recorded batches of a partition account for; nothing, when there are none.

    Attributes:
        ranges: first and last source row of each batch, in order.
        read: rows in them; the sum of the next four.
        settled: posted or found to be there: both are duplicates to the next run.
    """

    ranges: tuple[tuple[int, int], ...] = ()
    read: int = 0
    settled: int = 0
    conflicts: int = 0
    rejected: int = 0


def recorded_batches(connection: Connection, partition_id: int) -> Recorded:
    """How far a partition that is not posted is, as of now; a batch under way is not waited for."""
    with ledger_errors("read progress from"):
        row = connection.execute(
            "SELECT array_agg(first_row ORDER BY first_row), array_agg(last_row ORDER BY first_row),"
            " coalesce(sum(read), 0)::bigint, coalesce(sum(posted + duplicates), 0)::bigint,"
            " coalesce(sum(conflicts), 0)::bigint, coalesce(sum(rejected), 0)::bigint"
            " FROM backfill_batches WHERE partition_id = %s AND kind = 'entries'",
            [partition_id],
        ).fetchone()
    assert row is not None
    firsts, lasts, *counts = row
    return Recorded(tuple(zip(firsts or (), lasts or (), strict=True)), *counts)


def recorded_rejects(connection: Connection, registration_id: int) -> list[tuple[int, str, int]]:
    """Rejects that a further run leaves as they are: (partition id, code, rows), as they stand now.

    Those of posted partitions, and those of recorded batches; what was rejected before posting is found anew.
    """
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            "SELECT x.partition_id, n.code, count(*) FROM backfill_rejects_now n"
            " JOIN backfill_rejects x ON x.partition_id = n.partition_id AND x.source_row = n.source_row"
            " JOIN backfill_partitions p ON p.id = x.partition_id"
            " WHERE p.registration_id = %s AND n.state = 'open' AND (p.posted_at IS NOT NULL OR x.batch_id IS NOT NULL)"
            " GROUP BY 1, 2 ORDER BY 1, 2",
            [registration_id],
        ).fetchall()
    return [(partition_id, code, count) for partition_id, code, count in rows]


def recorded_filtered(connection: Connection, registration_id: int) -> dict[str, int]:
    """Rows that posted partitions of a registration left out, by reason."""
    with ledger_errors("read progress from"):
        rows = connection.execute(
            "SELECT reason.key, sum(reason.value::bigint)::bigint FROM backfill_partitions p"
            " CROSS JOIN LATERAL jsonb_each_text(p.filtered_by_reason) AS reason (key, value)"
            " WHERE p.registration_id = %s AND p.posted_at IS NOT NULL GROUP BY 1 ORDER BY 1",
            [registration_id],
        ).fetchall()
    return dict(rows)


def run_rates(connection: Connection) -> list[float]:
    """Rows per second of the ledger's last runs, newest first: from the first batch to the reconciliation afterwards.

    Runs of fewer than RUN_ROWS_MIN rows, and those that were never reconciled, do not count; nor does what came before
    the first batch: starting, and reading the source for its manifest.
    """
    with ledger_errors("read progress from"):
        rows = connection.execute(
            "WITH run AS (SELECT p.registration_id, b.run_id, sum(b.read) AS rows, min(b.started_at) AS began,"
            "                    max(b.posted_at) AS ended"
            "             FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id"
            "             WHERE b.kind = 'entries' GROUP BY 1, 2 HAVING sum(b.read) >= %s)"
            " SELECT (rows / extract(epoch FROM reconciled - began))::float8"
            " FROM (SELECT run.*, (SELECT min(r.reconciled_at) FROM backfill_reconciliations r"
            "                      WHERE r.registration_id = run.registration_id AND r.reconciled_at > run.ended)"
            "                     AS reconciled FROM run) AS timed"
            " WHERE reconciled > began AND reconciled < ended + interval '1 hour' ORDER BY ended DESC LIMIT %s",
            [RUN_ROWS_MIN, _RUNS_SHOWN],
        ).fetchall()
    return [rate for (rate,) in rows]
