"""Work that was done: batches and rollbacks, ever.

Belongs here: sums that only ever grow. A batch that is rolled back moves to another table in the same transaction, and
stays in these sums; posted again, its rows count again, because they were worked on again. A new revision adds to them.
Does not: how sources stand now (`sources.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backfill_pipeline.ledger.connection import Connection

BATCH_BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 30.0, 60.0)
"""Upper bounds of the classes in which the times of batches are counted. What an alert asks about is one of them, as
nobody knows where between two of them a batch was."""

CHECKPOINT_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""The same for the times of writing checkpoints."""

OUTCOMES: Final = ("posted", "duplicate", "conflict", "rejected", "filtered")
"""What becomes of a row; the order of `BatchWork.rows`."""


@dataclass(frozen=True, slots=True)
class BatchWork:
    """All batches of one kind that a source ever had.

    Attributes:
        source: its id; of a bank's days, that of the bank.
        kind: entries, opening, replay or reversal.
        batches: how many.
        rows: what became of their rows, in the order of OUTCOMES.
        seconds: that they took, from the first row to the commit.
        within: how many took no longer than each of BATCH_BOUNDS_S.
    """

    source: str
    kind: str
    batches: int
    rows: Sequence[int]
    seconds: float
    within: Sequence[int]


@dataclass(frozen=True, slots=True)
class CheckpointWork:
    """All checkpoints of a source that were timed.

    Attributes:
        source: as above.
        checkpoints: how many.
        seconds: that writing them took, inside the transactions of their batches.
        within: how many took no longer than each of CHECKPOINT_BOUNDS_S.
    """

    source: str
    checkpoints: int
    seconds: float
    within: Sequence[int]


@dataclass(frozen=True, slots=True)
class LastRun:
    """The run that posted the latest batch of a source.

    Attributes:
        source: as above.
        rows: that its batches read.
        entries: that they posted.
        seconds: from the beginning of its first batch to the end of its last.
        ended_at: when that was.
    """

    source: str
    rows: int
    entries: int
    seconds: float
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What was ever taken back of a source in one way (delete or reverse)."""

    source: str
    mode: str
    rollbacks: int
    entries: int


_EVER: Final = """
    SELECT source_id, kind, posted, duplicates, conflicts, rejected, filtered, seconds FROM backfill_batches
    UNION ALL
    SELECT source_id, kind, posted, duplicates, conflicts, rejected, filtered, seconds FROM backfill_rolled_back_batches
"""
_WITHIN: Final = ", ".join(f"count(*) FILTER (WHERE seconds <= {bound})" for bound in BATCH_BOUNDS_S)

_BATCHES: Final = f"""
    SELECT split_part(source_id, '@', 1), kind, count(*),
           ARRAY[sum(posted), sum(duplicates), sum(conflicts), sum(rejected), sum(filtered)]::bigint[],
           sum(seconds)::float8, ARRAY[{_WITHIN}]
    FROM ({_EVER}) AS batch GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608 - put together from constants of this module

_CHECKPOINTS_WITHIN: Final = ", ".join(
    f"count(*) FILTER (WHERE checkpoint_seconds <= {bound})" for bound in CHECKPOINT_BOUNDS_S
)
_CHECKPOINTS: Final = f"""
    SELECT split_part(source_id, '@', 1), count(*), sum(checkpoint_seconds)::float8, ARRAY[{_CHECKPOINTS_WITHIN}]
    FROM (SELECT source_id, checkpoint_seconds FROM backfill_batches
          UNION ALL
          SELECT source_id, checkpoint_seconds FROM backfill_rolled_back_batches) AS batch
    WHERE checkpoint_seconds IS NOT NULL GROUP BY 1 ORDER BY 1
"""  # noqa: S608

# A batch is dated when its transaction begins: it ends as many seconds later as it took.
_LAST_RUN: Final = """
    WITH run AS (
        SELECT split_part(source_id, '@', 1) AS source, run_id, sum(read)::bigint AS rows,
               sum(posted)::bigint AS entries, min(started_at) AS began,
               max(posted_at + seconds * interval '1 second') AS ended
        FROM backfill_batches WHERE kind = 'entries' GROUP BY 1, 2
    )
    SELECT DISTINCT ON (source) source, rows, entries, extract(epoch FROM ended - began)::float8, ended
    FROM run ORDER BY source, ended DESC, run_id
"""

_ROLLBACKS: Final = """
    SELECT split_part(r.source_id, '@', 1), r.mode, count(*), coalesce(sum(b.entries), 0)::bigint
    FROM backfill_rollbacks r
    LEFT JOIN (SELECT rollback_id, sum(posted) AS entries FROM backfill_rolled_back_batches GROUP BY 1) b
        ON b.rollback_id = r.id
    GROUP BY 1, 2 ORDER BY 1, 2
"""


def batch_work(connection: Connection) -> list[BatchWork]:
    """All batches ever, by source and kind."""
    return [BatchWork(*row) for row in connection.execute(_BATCHES).fetchall()]


def checkpoint_work(connection: Connection) -> list[CheckpointWork]:
    """All timed checkpoints ever, by source."""
    return [CheckpointWork(*row) for row in connection.execute(_CHECKPOINTS).fetchall()]


def last_runs(connection: Connection) -> list[LastRun]:
    """The latest run of every source, as far as its batches count today."""
    return [LastRun(*row) for row in connection.execute(_LAST_RUN).fetchall()]


def rolled_back(connection: Connection) -> list[RolledBack]:
    """What was ever rolled back, by source and mode."""
    return [RolledBack(*row) for row in connection.execute(_ROLLBACKS).fetchall()]
