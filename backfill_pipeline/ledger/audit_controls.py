"""The audit's checks of what guards history: the chains of the audit log and of seals, requests, columns that are open.

Belongs here: whether what makes tampering show is itself as it was written.
Does not: computing seals from their entries again (`seals`), which takes reading every entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.findings import Check, Query, Severity

_CONTROLS: Final = (
    Query(
        Check(
            "audit_log_chain",
            Severity.BREAK,
            "places where the audit log is not as it was written",
            "somebody changed the log. Compare it with a backup, and with the hashes in evidence packs that were handed"
            " out",
        ),
        "SELECT number, fault FROM audit_log_faults()",
        "number",
        ("audit_log", "audit_log_head", "audit_log_faults"),
    ),
    Query(
        Check(
            "seal_chain",
            Severity.BREAK,
            "places where the chain of a ledger's seals is not as it was written",
            "somebody changed the seals. Compare them with a backup, and with evidence packs that were handed out;"
            " backfill verify says which entries no longer fit",
        ),
        "SELECT ledger_id, number, fault FROM ledger_seal_chain_faults()",
        "ledger_id, number",
        ("ledger_seals", "ledger_seal_heads", "ledger_seal_chain_faults"),
    ),
    Query(
        Check(
            "sealed_batches_missing",
            Severity.BREAK,
            "batches that were sealed, were never rolled back, and are not recorded any more",
            "rows of backfill_batches were deleted, with or without their entries: restore both from a backup",
        ),
        "SELECT s.ledger_id, s.batch_id, s.entries, s.sealed_at FROM ledger_seals_in_force s"
        " WHERE s.kind = 'batch' AND NOT EXISTS (SELECT FROM backfill_batches_ever b WHERE b.id = s.batch_id)",
        "ledger_id, batch_id",
        ("ledger_seals_in_force", "backfill_batches_ever"),
    ),
    Query(
        Check(
            "linked_entries_missing",
            Severity.BREAK,
            "entries of corrections and reversals that are not in the ledger",
            "they were deleted, or what they reverse was: restore them from a backup, else the correction does not"
            " count",
        ),
        """
        SELECT linked.*
        FROM (SELECT 'correction' AS link, correction_id AS id, ledger_id, reference_id, entry_id
              FROM ledger_correction_entries WHERE entry_id IS NOT NULL
              UNION ALL
              SELECT 'reversed by rollback', rollback_id, ledger_id, reference_id, entry_id FROM ledger_reversals
              UNION ALL
              SELECT 'reversal of rollback', rollback_id, ledger_id, reversal_reference_id, reversal_entry_id
              FROM ledger_reversals) AS linked
        WHERE NOT EXISTS (SELECT FROM ledger_entries e WHERE e.id = linked.entry_id)
        """,
        "link, id, entry_id",
        ("ledger_correction_entries", "ledger_reversals", "ledger_entries"),
    ),
    Query(
        Check(
            "batches_not_sealed",
            Severity.NOTE,
            "batches that posted entries and have no seal yet",
            "the next reconciliation seals them: backfill reconcile SOURCE",
        ),
        "SELECT b.id AS batch_id, b.source_id, b.kind, b.posted, b.posted_at FROM backfill_batches b WHERE b.posted > 0"
        " AND NOT EXISTS (SELECT FROM ledger_seals s WHERE s.kind = 'batch' AND s.batch_id = b.id)",
        "batch_id",
        ("backfill_batches", "ledger_seals"),
    ),
    Query(
        Check(
            "open_columns",
            Severity.NOTE,
            "columns of ledger_entries that a migration is filling, so that they may be written once",
            "backfill db migrate carries on with the fill and closes them",
        ),
        "SELECT column_name::text, opened_at FROM ledger_open_columns",
        "column_name",
        ("ledger_open_columns",),
    ),
    Query(
        Check(
            "open_requests",
            Severity.NOTE,
            "requests that wait for another person",
            "backfill approvals shows them; whoever agrees asks for the same",
        ),
        "SELECT action, subject, requested_by, requested_at, reason FROM ledger_approvals WHERE approved_at IS NULL",
        "requested_at",
        ("ledger_approvals",),
    ),
)


def control_checks(connection: Connection, present: frozenset[str]) -> Iterator[Check]:
    """All of them, in the caller's snapshot.

    Args:
        connection: in a transaction with one snapshot.
        present: tables, views and functions that are there.
    """
    for query in _CONTROLS:
        yield query.run(connection, present)
