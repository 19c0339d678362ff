"""How sources stand now: their rows, partitions, rejects, checkpoints and reconciliations.

Belongs here: what is true of the current revision of each source. It goes up and down: a rollback takes rows away, a
new revision begins at nothing.
Does not: work that was done, which only ever grows (`work.py`), banks (`banks.py`).

A bank has a source for each of its days, `scb_01@2024-03-01`. They are summed up under the name before the @: two
thousand days are one line, and not two thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backfill_pipeline.ledger.auditing.backfill_checks import STALLED_AFTER
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection
from backfill_pipeline.ledger.monitoring.partitions import CURRENT, OPEN_REJECTS, PARTS

PARTITION_STATES: Final = ("registered", "validated", "posting", "posted", "failed", "rolled back")
CHECKPOINT_STATUSES: Final = ("IN_PROGRESS", "COMPLETED", "FAILED", "PAUSED")
VERDICTS: Final = ("match", "break", "not run")

BALANCES: Final = "balances"
"""The kind of break of an account or currency whose balance is not what its legs say."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """The rows of a source's partitions that are in one state.

    Attributes:
        source: its id; of a bank's days, that of the bank.
        state: one of PARTITION_STATES.
        partitions: that are in it.
        rows: that they have.
        processed: of these, the ones that are decided; the sum of the next five, unless some are unaccounted for.
        unaccounted: rows of posted partitions that the count equation misses or has twice, and rejects that were
            counted and not kept or kept and not counted. Nothing but 0 is right.
    """

    source: str
    state: str
    partitions: int
    rows: int
    processed: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    unaccounted: int


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """Where the checkpoints of a source are.

    Attributes:
        source: as above.
        source_type: CSV, API, DATABASE or SCB.
        revision: the current one; of a bank, the highest of its days'.
        statuses: how many checkpoints are in each of CHECKPOINT_STATUSES, in their order: one in all, or one for each
            day of a bank.
        stalled: checkpoints in progress that did not move for an hour.
        writers: runs that write it at this moment.
        started_at: when the current revision was begun.
        last_checkpoint_at: of the latest one.
        elapsed_s: from there to the last checkpoint, or to now while any is in progress.
        verdicts: how many current revisions ended with each of VERDICTS, in their order. Days of banks are compared
            with what the bank served; both ledgers are, in `banks.py`.
        reconciled_at: when it was last reconciled; None when it never was.
    """

    source: str
    source_type: str
    revision: int
    statuses: Sequence[int]
    stalled: int
    writers: int
    started_at: datetime
    last_checkpoint_at: datetime
    elapsed_s: float
    verdicts: Sequence[int]
    reconciled_at: datetime | None


@dataclass(frozen=True, slots=True)
class OpenRejects:
    """Rows that are rejected now, for one reason."""

    source: str
    stage: str
    code: str
    rows: int


@dataclass(frozen=True, slots=True)
class Breaks:
    """What the latest reconciliations found of one kind."""

    source: str
    kind: str
    breaks: int


_ROWS: Final = f"""
    WITH {PARTS}, kept AS (
        SELECT partition_id, count(*) AS rows FROM backfill_rejects GROUP BY partition_id
    ), settled AS (
        SELECT partition_id, count(*) AS rows FROM backfill_replays
        WHERE outcome IN ('posted', 'duplicate', 'filtered') GROUP BY partition_id
    )
    SELECT source, state, count(*), sum(row_count)::bigint,
           sum(posted + duplicates + conflicts + rejected + filtered)::bigint, sum(posted)::bigint,
           sum(duplicates)::bigint, sum(conflicts)::bigint, sum(rejected)::bigint, sum(filtered)::bigint,
           coalesce(sum(abs(row_count - posted - duplicates - conflicts - rejected - filtered)
                        + abs(coalesce(kept.rows, 0) - coalesce(settled.rows, 0) - conflicts - rejected))
                        FILTER (WHERE state = 'posted'), 0)::bigint
    FROM part
    LEFT JOIN kept ON kept.partition_id = part.id
    LEFT JOIN settled ON settled.partition_id = part.id
    GROUP BY source, state ORDER BY source, state
"""  # noqa: S608 - put together from constants, as the statements below

_PROGRESS: Final = f"""
    WITH writer AS (
        SELECT objid::bigint AS lock, count(*) AS runs FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %(space)s::bigint::oid
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        GROUP BY objid
    ), verdict AS (
        SELECT DISTINCT ON (registration_id) registration_id, verdict, reconciled_at
        FROM backfill_reconciliations WHERE rollback_id IS NULL ORDER BY registration_id, id DESC
    )
    SELECT c.source, max(c.source_type), max(c.revision),
           ARRAY[count(*) FILTER (WHERE k.status = 'IN_PROGRESS'), count(*) FILTER (WHERE k.status = 'COMPLETED'),
                 count(*) FILTER (WHERE k.status = 'FAILED'), count(*) FILTER (WHERE k.status = 'PAUSED')],
           count(*) FILTER (WHERE k.status = 'IN_PROGRESS'
                            AND k.last_checkpoint_at < timezone('UTC', now()) - %(stalled_after)s::interval),
           coalesce(sum(writer.runs), 0)::bigint,
           min(k.started_at) AT TIME ZONE 'UTC', max(k.last_checkpoint_at) AT TIME ZONE 'UTC',
           extract(epoch FROM CASE WHEN bool_or(k.status = 'IN_PROGRESS') THEN timezone('UTC', now())
                                   ELSE max(k.last_checkpoint_at) END - min(k.started_at))::float8,
           ARRAY[count(*) FILTER (WHERE v.verdict = 'match'), count(*) FILTER (WHERE v.verdict = 'break'),
                 count(*) FILTER (WHERE v.verdict IS NULL)],
           max(v.reconciled_at)
    FROM ({CURRENT}) AS c
    JOIN ledger_backfill_checkpoints k ON k.source_id = c.source_id AND k.source_type = c.source_type
    LEFT JOIN verdict v ON v.registration_id = c.id
    LEFT JOIN writer ON writer.lock = (hashtext(c.source_id)::bigint & 4294967295)
    GROUP BY c.source ORDER BY c.source
"""  # noqa: S608

_REJECTS: Final = f"""
    WITH {OPEN_REJECTS}
    SELECT source, stage, code, count(*) FROM rejected GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""  # noqa: S608

# What is in no kind of the details are breaks of balances. Without a break, the details need not be read.
_BREAKS: Final = f"""
    WITH verdict AS (
        SELECT DISTINCT ON (registration_id) registration_id, break_count, details
        FROM backfill_reconciliations WHERE rollback_id IS NULL ORDER BY registration_id, id DESC
    ), broken AS (
        SELECT c.source, v.break_count, v.details -> 'kinds' AS kinds
        FROM ({CURRENT}) AS c JOIN verdict v ON v.registration_id = c.id WHERE v.break_count > 0
    ), found AS (
        SELECT source, kind.key AS kind, kind.value::bigint AS breaks
        FROM broken CROSS JOIN LATERAL jsonb_each_text(kinds) AS kind (key, value)
        UNION ALL
        SELECT source, %(balances)s, break_count - coalesce(
            (SELECT sum(kind.value::bigint) FROM jsonb_each_text(kinds) AS kind (key, value)), 0)
        FROM broken
    )
    SELECT source, kind, sum(breaks)::bigint FROM found WHERE breaks <> 0 GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608


def source_rows(connection: Connection) -> list[SourceRows]:
    """The rows of every source by the state of their partitions; states that no partition is in are left out."""
    return [SourceRows(*row) for row in connection.execute(_ROWS).fetchall()]


def source_progress(
    connection: Connection, *, stalled_after: timedelta = STALLED_AFTER
) -> list[SourceProgress]:
    """The checkpoints and verdicts of every source.

    Args:
        connection: to the ledger.
        stalled_after: how long a checkpoint in progress may stay where it is.
    """
    asked = {"space": ADVISORY_LOCK_SPACE, "stalled_after": stalled_after}
    return [SourceProgress(*row) for row in connection.execute(_PROGRESS, asked).fetchall()]


def open_rejects(connection: Connection) -> list[OpenRejects]:
    """Rows that are rejected now, by source, stage and code; conflicts are among them."""
    return [OpenRejects(*row) for row in connection.execute(_REJECTS).fetchall()]


def reconciliation_breaks(connection: Connection) -> list[Breaks]:
    """What the latest reconciliation of every source found, by kind."""
    return [Breaks(*row) for row in connection.execute(_BREAKS, {"balances": BALANCES}).fetchall()]
