"""Batches: what one is, who may work on it, and the row that it leaves in the ledger.

Belongs here: the identity of a batch and the origin of its entries, its lock, number and record, what is recorded.
Does not: what happens between lock and record (`posting.py`, `replay_posting.py`), cutting batches (`stages/gaps.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors

LOCAL_ORIGIN: Final = "LOCAL"
"""Of entries that were posted here first."""

OPENING_ORIGIN: Final = "OPENING"
"""Of opening balances, of which no bank is told."""

ROLLBACK_ORIGIN: Final = "ROLLBACK"
"""Of entries that reverse a bank's own: it is told what that means by the rollback itself."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Identity of a batch. Rows are numbered in the source; a batch is recorded under its partition and first row.

    Attributes:
        origin: the bank whose own entries these are; by it the bank is told that they are posted, and never sent them.
    """

    source_id: str
    source_type: str
    partition_id: int
    partition_key: str
    first_row: int
    last_row: int
    run_id: str
    origin: str = LOCAL_ORIGIN


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of one batch. `read` always equals the sum of the next four.

    Attributes:
        seconds: that it took.
        checkpoint_seconds: part of them that went into the checkpoint; None where that was not told.
    """

    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    path: str
    seconds: float
    already_recorded: bool = False
    checkpoint_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.read != self.posted + self.duplicates + self.conflicts + self.rejected:
            raise AssertionError(f"a batch does not add up: {self}")


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A row of `backfill_batches`, of entries, opening balances or a replay.

    Attributes:
        partition_id: None for opening balances, which belong to the source.
        read: the sum of posted, duplicates, conflicts, rejected and filtered.
        filtered: rows of a replay that a repair made such as the definition leaves out.
        taken_rejected: rows of a replay that were counted as rejected before; with `taken_conflicts`, all of them.
        taken_conflicts: likewise, as conflicts.
        seconds: that the batch took.
        checkpoint_seconds: part of them that went into the checkpoint; None where that was not told.
    """

    id: int
    partition_id: int | None
    source_id: str
    kind: Literal["entries", "opening", "replay"]
    first_row: int
    last_row: int
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    run_id: str
    path: str
    seconds: float
    origin: str
    filtered: int = 0
    taken_rejected: int = 0
    taken_conflicts: int = 0
    checkpoint_seconds: float | None = None


def lock(connection: Connection, what: str) -> None:
    """Waits until no other transaction works on the same thing, and keeps others waiting until this one ends.

    Args:
        connection: in the batch's transaction.
        what: `partition ID`, or `opening SOURCE`.
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [ADVISORY_LOCK_SPACE, what])


def new_batch(connection: Connection, origin: str) -> int:
    """The number of a new batch; from here on the database takes what this transaction posts for `origin`'s."""
    row = connection.execute(
        "SELECT nextval(pg_get_serial_sequence('backfill_batches', 'id')), set_config('backfill.origin', %s, true)",
        [origin],
    ).fetchone()
    assert row is not None
    return int(row[0])


def record(connection: Connection, batch: BatchRecord) -> None:
    """Writes the row, in the transaction that posts the batch."""
    connection.execute(
        "INSERT INTO backfill_batches (id, partition_id, source_id, kind, first_row, last_row, read, posted,"
        " duplicates, conflicts, rejected, filtered, taken_rejected, taken_conflicts, run_id, path, started_at,"
        " seconds, checkpoint_seconds, origin) VALUES (%(id)s, %(partition_id)s, %(source_id)s, %(kind)s,"
        " %(first_row)s, %(last_row)s, %(read)s, %(posted)s, %(duplicates)s, %(conflicts)s, %(rejected)s,"
        " %(filtered)s, %(taken_rejected)s, %(taken_conflicts)s, %(run_id)s, %(path)s, now(), %(seconds)s,"
        " round(%(checkpoint_seconds)s::numeric, 6), %(origin)s)",
        {**asdict(batch), "seconds": round(batch.seconds, 6)},
    )


def find_batch(connection: Connection, plan: BatchPlan) -> BatchOutcome | None:
    """The outcome of a batch that is recorded already, or None.

    Raises:
        LedgerError: rows of the batch are recorded, but as part of a batch that was cut in another way.
    """
    row = connection.execute(
        "SELECT first_row, last_row, read, posted, duplicates, conflicts, rejected, path, seconds,"
        " checkpoint_seconds::float8 FROM backfill_batches"
        " WHERE partition_id = %s AND kind = 'entries' AND first_row <= %s AND last_row >= %s"
        " ORDER BY first_row LIMIT 1",
        [plan.partition_id, plan.last_row, plan.first_row],
    ).fetchone()
    if row is None:
        return None
    first_row, last_row, read, posted, duplicates, conflicts, rejected, path, seconds, checkpoint_s = row
    if (first_row, last_row) != (plan.first_row, plan.last_row):
        raise LedgerError(
            f"rows {plan.first_row} to {plan.last_row} of partition {plan.partition_key} of {plan.source_id} overlap"
            f" rows {first_row} to {last_row}, which another run posted meanwhile: run it again, it goes on with the"
            " rows that are not posted"
        )
    return BatchOutcome(
        read,
        posted,
        duplicates,
        conflicts,
        rejected,
        path,
        float(seconds),
        already_recorded=True,
        checkpoint_seconds=checkpoint_s,
    )


def replay_is_recorded(connection: Connection, plan: BatchPlan) -> bool:
    """Whether a replay is recorded already, which it is under its run and first row."""
    row = connection.execute(
        "SELECT 1 FROM backfill_batches WHERE partition_id = %s AND kind = 'replay' AND run_id = %s AND first_row = %s",
        [plan.partition_id, plan.run_id, plan.first_row],
    ).fetchone()
    return row is not None


def posted_ranges(connection: Connection, partition_id: int) -> list[tuple[int, int]]:
    """First and last source row of every recorded batch of the partition, in order; replays cover no rows of their own.

    Waits for a batch that is being committed: a killed run's last one may still be under way on the server, and whoever
    cuts the rest anew must not cut it up once more.
    """
    with ledger_errors("read progress from"), connection.transaction():
        lock(connection, f"partition {partition_id}")
        rows = connection.execute(
            "SELECT first_row, last_row FROM backfill_batches WHERE partition_id = %s AND kind = 'entries'"
            " ORDER BY first_row",
            [partition_id],
        ).fetchall()
    return [(first_row, last_row) for first_row, last_row in rows]
