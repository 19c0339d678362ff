"""The audit's checks of what backfills left: batches against entries, counts, checkpoints.

Belongs here: whether the records about entries agree with the entries.
Does not: entries against their source (`reconciliation`), which needs the source; what guards the records
(`audit_controls`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Final

from psycopg import sql

from backfill_pipeline.ledger.auditing.findings import Check, Query, Severity
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors

STALLED_AFTER: Final = timedelta(hours=1)

# Entries per batch, once for several checks.
_BATCH_ENTRIES: Final = """
CREATE TEMP TABLE backfill_batch_entries ON COMMIT DROP AS
SELECT batch_id, count(*) AS entries, min(reference_id) AS first_reference
FROM ledger_entries WHERE batch_id IS NOT NULL GROUP BY batch_id
"""
_UNKNOWN_BATCHES: Final = Query(
    Check(
        "entries_of_unknown_batches",
        Severity.BREAK,
        "batches that entries name and that were never recorded",
        "entries were inserted with a batch of their own making, or a row of backfill_batches was deleted. Restore"
        " the row from a backup: without it nobody knows where these entries come from",
    ),
    "SELECT e.batch_id, e.entries, e.first_reference FROM backfill_batch_entries e"
    " WHERE NOT EXISTS (SELECT FROM backfill_batches_ever b WHERE b.id = e.batch_id)",
    "batch_id",
    ("backfill_batches_ever",),
)
_BATCHES_WITHOUT_ENTRIES: Final = Query(
    Check(
        "batches_without_entries",
        Severity.BREAK,
        "batches that posted entries of which none is in the ledger",
        "their entries were deleted without a rollback. backfill verify names them, backfill reconcile SOURCE too;"
        " restore them, or roll the batch back so that the records say so",
    ),
    "SELECT b.id AS batch_id, b.source_id, b.kind, b.posted, b.posted_at FROM backfill_batches b"
    " LEFT JOIN ledger_corrected_batches c ON c.batch_id = b.id"
    " WHERE b.posted > 0 AND NOT EXISTS (SELECT FROM backfill_batch_entries e WHERE e.batch_id = b.id)"
    " AND b.posted IS DISTINCT FROM c.entries",
    "batch_id",
    ("backfill_batches", "ledger_corrected_batches"),
)
_BATCHES_DIFFER: Final = Query(
    Check(
        "batches_differ_from_entries",
        Severity.BREAK,
        "batches that have more or fewer entries than they posted",
        "entries were deleted, or inserted in the name of a batch. backfill verify names them, backfill reconcile"
        " SOURCE too",
    ),
    "SELECT b.id AS batch_id, b.source_id, b.kind, b.posted, e.entries FROM backfill_batches b"
    " JOIN backfill_batch_entries e ON e.batch_id = b.id"
    " LEFT JOIN ledger_corrected_batches c ON c.batch_id = b.id"
    " WHERE e.entries <> b.posted AND e.entries + coalesce(c.entries, 0) <> b.posted",
    "batch_id",
    ("backfill_batches", "ledger_corrected_batches"),
)
_BATCHES_AS_CORRECTED: Final = Query(
    Check(
        "batches_as_corrected",
        Severity.NOTE,
        "batches that have more or fewer entries than they posted, all of which corrections account for",
        "nothing: the corrections say what happened, and backfill verify proves that they brought back what was sealed",
    ),
    "SELECT b.id AS batch_id, b.source_id, b.kind, b.posted, coalesce(e.entries, 0) AS entries FROM backfill_batches b"
    " JOIN ledger_corrected_batches c ON c.batch_id = b.id"
    " LEFT JOIN backfill_batch_entries e ON e.batch_id = b.id"
    " WHERE coalesce(e.entries, 0) <> b.posted AND coalesce(e.entries, 0) + c.entries = b.posted",
    "batch_id",
    ("backfill_batches", "ledger_corrected_batches"),
)
_COUNTS: Final = Query(
    Check(
        "partitions_with_lost_rows",
        Severity.BREAK,
        "posted partitions whose rows do not add up: read is not posted + duplicates + conflicts + rejected + filtered",
        "rows of backfill_batches or backfill_rejects were changed directly: backfill reconcile SOURCE says which"
        " counts",
    ),
    "SELECT source_id, revision, partition_key, read, posted, duplicates, conflicts, rejected, filtered,"
    " rejects_recorded FROM backfill_partition_outcomes WHERE status = 'posted'"
    " AND (read <> posted + duplicates + conflicts + rejected + filtered OR rejects_recorded <> conflicts + rejected)",
    "source_id, revision, partition_key",
    ("backfill_partition_outcomes",),
)


def _stalled(stalled_after: timedelta) -> Query:
    return Query(
        Check(
            "stalled_checkpoints",
            Severity.WARNING,
            f"sources in progress without a checkpoint for more than {_duration(stalled_after)}",
            "where a run writes the source, look at it in the UI; else backfill resume SOURCE carries on, and for a day"
            " of a bank backfill sync run BANK",
        ),
        sql.SQL(
            "SELECT c.source_id, c.source_type, c.total_processed, c.last_checkpoint_at, c.error_message,"
            " EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2"
            " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND l.classid = {space}::bigint::oid"
            " AND l.objid = (hashtext(c.source_id)::bigint & 4294967295)::oid) AS written_by_a_run"
            " FROM ledger_backfill_checkpoints c WHERE c.status = 'IN_PROGRESS'"
            " AND c.last_checkpoint_at < timezone('UTC', now()) - {after}::interval"
        )
        .format(space=sql.Literal(ADVISORY_LOCK_SPACE), after=sql.Literal(stalled_after))
        .as_string(),
        "last_checkpoint_at, source_id",
        ("ledger_backfill_checkpoints",),
    )


def stalled_checkpoints(
    connection: Connection, *, stalled_after: timedelta = STALLED_AFTER, source_id: str | None = None
) -> Check:
    """The check of stalled checkpoints by itself: quick, whatever the ledger holds.

    Args:
        connection: to the ledger.
        stalled_after: how old the latest checkpoint of a source in progress may be.
        source_id: of the source that is looked at, or of the bank whose days are; None means all.
    """
    query = _stalled(stalled_after)
    if source_id is not None:
        query = _of_source(query, source_id)
    with ledger_errors("read progress from"):
        return query.run(connection, frozenset(query.needs))


def lost_rows(connection: Connection, source_id: str) -> Check:
    """The check of the count equation, of every revision of one source or of all days of a bank.

    Args:
        connection: to the ledger.
        source_id: of the source, or of the bank.
    """
    query = _of_source(_COUNTS, source_id)
    with ledger_errors("read progress from"):
        return query.run(connection, frozenset(query.needs))


def _of_source(query: Query, source_id: str) -> Query:
    """The findings that are about one source, or about days of one bank (scb_01@2024-03-01)."""
    select = sql.SQL(
        "SELECT * FROM ({}) AS any_source WHERE source_id = {source} OR starts_with(source_id, {source} || '@')"
    ).format(sql.SQL(query.select), source=sql.Literal(source_id))
    return replace(query, select=select.as_string())


def _duration(span: timedelta) -> str:
    minutes = span // timedelta(minutes=1)
    return f"{minutes // 60:,} h" if minutes >= 60 and minutes % 60 == 0 else f"{minutes:,} min"


def backfill_checks(
    connection: Connection, present: frozenset[str], *, stalled_after: timedelta = STALLED_AFTER
) -> Iterator[Check]:
    """All checks of what backfills recorded, in the caller's snapshot.

    Args:
        connection: in a transaction with one snapshot.
        present: tables, views and functions that are there.
        stalled_after: how old the latest checkpoint of a source in progress may be.
    """
    connection.execute(_BATCH_ENTRIES)
    for query in (
        _UNKNOWN_BATCHES,
        _BATCHES_WITHOUT_ENTRIES,
        _BATCHES_DIFFER,
        _BATCHES_AS_CORRECTED,
        _COUNTS,
        _stalled(stalled_after),
    ):
        yield query.run(connection, present)
