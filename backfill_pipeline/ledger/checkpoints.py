"""The strategy's checkpoint row per source (§3.2): how far its current revision has come.

Belongs here: statements on `ledger_backfill_checkpoints`.
Does not: deciding what is done; that is read from batches and partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from backfill_pipeline.ledger.connection import Connection, ledger_errors


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint row. Times are UTC; `failed` counts rejects and conflicts."""

    source_id: str
    source_type: str
    status: str
    processed: int
    successful: int
    failed: int
    last_processed_id: str | None
    started_at: datetime
    last_checkpoint_at: datetime
    error_message: str | None


def start(connection: Connection, source_id: str, source_type: str, metadata: Mapping[str, object]) -> None:
    """Opens the checkpoint of a new revision: counters at zero, the revision in `metadata`."""
    connection.execute(
        "INSERT INTO ledger_backfill_checkpoints (source_id, source_type, started_at, last_checkpoint_at, metadata)"
        " VALUES (%(id)s, %(type)s, timezone('UTC', now()), timezone('UTC', now()), %(metadata)s)"
        " ON CONFLICT (source_id, source_type) DO UPDATE SET last_processed_id = NULL, last_processed_timestamp = NULL,"
        " total_processed = 0, total_successful = 0, total_failed = 0, status = 'IN_PROGRESS',"
        " started_at = excluded.started_at, last_checkpoint_at = excluded.last_checkpoint_at, completed_at = NULL,"
        " error_message = NULL, metadata = excluded.metadata",
        {"id": source_id, "type": source_type, "metadata": Jsonb(dict(metadata))},
    )


def grow(connection: Connection, source_id: str, source_type: str, metadata: Mapping[str, object]) -> None:
    """Opens the checkpoint of a source that grew: counters go on where they are."""
    connection.execute(
        "UPDATE ledger_backfill_checkpoints SET status = 'IN_PROGRESS', completed_at = NULL, error_message = NULL,"
        " last_checkpoint_at = timezone('UTC', now()), metadata = metadata || %s"
        " WHERE source_id = %s AND source_type = %s",
        [Jsonb(dict(metadata)), source_id, source_type],
    )


def advance(
    connection: Connection,
    source_id: str,
    source_type: str,
    *,
    processed: int,
    successful: int,
    failed: int,
    last_id: str | None = None,
    last_time: datetime | None = None,
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Adds to the counters, in the transaction of what is counted: they carry on, they never start again."""
    connection.execute(
        "UPDATE ledger_backfill_checkpoints SET total_processed = total_processed + %(processed)s,"
        " total_successful = total_successful + %(successful)s, total_failed = total_failed + %(failed)s,"
        " last_processed_id = coalesce(%(last_id)s, last_processed_id),"
        " last_processed_timestamp = coalesce(timezone('UTC', %(last_time)s::timestamptz), last_processed_timestamp),"
        " status = 'IN_PROGRESS', completed_at = NULL, last_checkpoint_at = timezone('UTC', now()),"
        " error_message = NULL, metadata = metadata || %(metadata)s"
        " WHERE source_id = %(id)s AND source_type = %(type)s",
        {
            "id": source_id,
            "type": source_type,
            "processed": processed,
            "successful": successful,
            "failed": failed,
            "last_id": last_id,
            "last_time": last_time,
            "metadata": Jsonb(dict(metadata or {})),
        },
    )


def correct(
    connection: Connection, source_id: str, source_type: str, *, successful: int, failed: int
) -> None:
    """Moves rows between the counters, in the transaction of what is counted; how far a source has come stays as it is.

    Args:
        connection: in the caller's transaction.
        source_id: whose checkpoint it is.
        source_type: as above.
        successful: rows more (or, below zero, fewer) that were successful.
        failed: likewise.
    """
    connection.execute(
        "UPDATE ledger_backfill_checkpoints SET total_successful = total_successful + %s,"
        " total_failed = total_failed + %s, last_checkpoint_at = timezone('UTC', now())"
        " WHERE source_id = %s AND source_type = %s",
        [successful, failed, source_id, source_type],
    )


def finish(connection: Connection, source_id: str, source_type: str, *, error: str | None) -> None:
    """Closes the checkpoint: COMPLETED, or FAILED with the reason."""
    with ledger_errors("record progress in"):
        connection.execute(
            "UPDATE ledger_backfill_checkpoints SET status = %(status)s, error_message = %(error)s,"
            " last_checkpoint_at = timezone('UTC', now()),"
            " completed_at = CASE WHEN %(error)s::text IS NULL THEN timezone('UTC', now()) END"
            " WHERE source_id = %(id)s AND source_type = %(type)s",
            {
                "id": source_id,
                "type": source_type,
                "status": "FAILED" if error else "COMPLETED",
                "error": error,
            },
        )


def load(connection: Connection, source_id: str) -> Checkpoint | None:
    """The checkpoint of a source, or None when it was never registered."""
    with ledger_errors("read progress from"):
        row = connection.execute(
            "SELECT source_id, source_type, status, total_processed, total_successful, total_failed, last_processed_id,"
            " started_at AT TIME ZONE 'UTC', last_checkpoint_at AT TIME ZONE 'UTC', error_message"
            " FROM ledger_backfill_checkpoints WHERE source_id = %s ORDER BY last_checkpoint_at DESC, id DESC LIMIT 1",
            [source_id],
        ).fetchone()
    return Checkpoint(*row) if row else None
