"""The audit's checks of what guards history: chains, decisions and their records, requests, open columns.

Belongs here: whether what makes tampering show is itself as it was written.
Does not: computing seals from their entries again (`seals`), which takes reading every entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backfill_pipeline.ledger.auditing.findings import Check, Query, Severity
from backfill_pipeline.ledger.connection import Connection

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
            "reversals_that_differ",
            Severity.BREAK,
            "reversing entries that do not undo exactly what they reverse",
            "one of the two was changed after the rollback: backfill verify says which, where it was sealed; restore it"
            " from a backup",
        ),
        """
        SELECT r.rollback_id, r.ledger_id, r.reference_id, r.reversal_reference_id
        FROM ledger_reversals r
        JOIN ledger_entries e ON e.id = r.entry_id
        JOIN ledger_entries x ON x.id = r.reversal_entry_id
        WHERE (e.ledger_id, e.reference_id, e.debit_account_id, e.credit_account_id, e.amount, e.currency_code,
               e.asset_type, e.transaction_type, e.fx_rate)
            IS DISTINCT FROM (x.ledger_id, r.reference_id, x.credit_account_id, x.debit_account_id, x.amount,
                              x.currency_code, x.asset_type, x.transaction_type, x.fx_rate)
           OR x.reference_id <> r.reversal_reference_id
        """,
        "rollback_id, ledger_id, reference_id",
        ("ledger_reversals", "ledger_entries"),
    ),
    Query(
        Check(
            "decisions_without_record",
            Severity.BREAK,
            "what only a recorded decision can bring about, and no row of the audit log tells of",
            "somebody wrote to these tables directly, around the procedures. Find out who (the server's log may say),"
            " and have what was done decided, or undone",
        ),
        """
        SELECT 'batch annulled' AS what,
               format('seal %s of ledger %s, batch %s', s.number, s.ledger_id, s.batch_id) AS subject
        FROM ledger_seals s
        WHERE s.kind = 'annulment' AND s.batch_id IS NOT NULL AND NOT EXISTS (
                  SELECT FROM audit_log l JOIN backfill_rollbacks r ON r.plan_hash = l.plan_hash
                  JOIN backfill_rolled_back_batches b ON b.rollback_id = r.id
                  WHERE l.action = 'rollback' AND l.plan_hash = s.plan_hash AND b.id = s.batch_id)
        UNION ALL
        SELECT 'rolled back', format('rollback %s of %s', r.id, r.source_id)
        FROM backfill_rollbacks r
        WHERE NOT EXISTS (SELECT FROM audit_log l WHERE l.action = 'rollback' AND l.plan_hash = r.plan_hash)
        UNION ALL
        SELECT 'period seal annulled', period.subject
        FROM (SELECT ledger_id || ' ' || to_char(month, 'YYYY-MM') AS subject, count(*) AS annulled
              FROM ledger_seals WHERE kind = 'annulment' AND month IS NOT NULL GROUP BY ledger_id, month) AS period
        WHERE annulled > (SELECT count(*) FROM audit_log l
                          WHERE l.action = 'period_reopen' AND l.subject = period.subject)
        UNION ALL
        SELECT 'period opened', s.ledger_id || ' ' || to_char(s.month, 'YYYY-MM')
        FROM ledger_seals_in_force s
        WHERE s.kind = 'period'
          AND NOT EXISTS (SELECT FROM ledger_periods p WHERE p.ledger_id = s.ledger_id AND p.month = s.month)
        UNION ALL
        SELECT 'seal no longer final', format('batch %s', batch_id)
        FROM (SELECT DISTINCT jsonb_array_elements_text(l.after -> 'final_batches')::bigint AS batch_id
              FROM audit_log l WHERE l.action = 'seal') AS made
        WHERE NOT ledger_batch_is_final(made.batch_id)
        UNION ALL
        SELECT CASE WHEN now_on.four_eyes THEN 'four eyes switched on' ELSE 'four eyes switched off' END, 'ledger'
        FROM (VALUES ((SELECT bool_and(four_eyes) FROM ledger_controls))) AS now_on (four_eyes)
        WHERE now_on.four_eyes IS DISTINCT FROM coalesce(
                  (SELECT (l.after ->> 'four_eyes')::boolean FROM audit_log l
                   WHERE l.action IN ('four_eyes_on', 'four_eyes_off') ORDER BY l.number DESC LIMIT 1), true)
        UNION ALL
        SELECT 'correction ' || needed.action, format('correction %s', c.id)
        FROM ledger_corrections c
        CROSS JOIN LATERAL (
            SELECT 'approved' AS action, c.approved_by AS actor WHERE c.approved_by IS NOT NULL
            UNION ALL SELECT 'applied', NULL WHERE c.status IN ('applied', 'undone')) AS needed
        WHERE NOT EXISTS (SELECT FROM audit_log l
                          WHERE l.action = 'correction_' || needed.action AND l.subject = format('correction %s', c.id)
                            AND (needed.actor IS NULL OR l.actor = needed.actor))
        UNION ALL
        SELECT 'column opened', 'ledger_entries.' || o.column_name
        FROM ledger_open_columns o
        WHERE NOT EXISTS (SELECT FROM audit_log l
                          WHERE l.action = 'column_opened' AND l.subject = 'ledger_entries.' || o.column_name)
        """,
        "what, subject",
        (
            "audit_log",
            "backfill_rollbacks",
            "backfill_rolled_back_batches",
            "ledger_controls",
            "ledger_corrections",
            "ledger_open_columns",
            "ledger_periods",
            "ledger_seals",
            "ledger_seals_in_force",
            "ledger_batch_is_final",
        ),
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
            "unfinished_data_steps",
            Severity.NOTE,
            "migrations whose data step is not finished",
            "backfill db migrate carries on with it; postings may go on meanwhile",
        ),
        "SELECT version, name, table_name, done_upto, last_key, rows_done, last_batch_at FROM ledger_data_steps"
        " WHERE finished_at IS NULL",
        "version",
        ("ledger_data_steps",),
    ),
    Query(
        Check(
            "open_requests",
            Severity.NOTE,
            "requests that wait for another person",
            "backfill approvals shows them; whoever agrees asks for the same, who asked may withdraw it",
        ),
        "SELECT id, action, subject, requested_by, requested_at, reason FROM ledger_approvals"
        " WHERE approved_at IS NULL",
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
