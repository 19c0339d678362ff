"""The tables of an evidence pack, as statements.

Belongs here: their columns and their order. `{source}` is the source's id, `{entries}` its entries with their batches.
Does not: running them (`evidence.py`).

Texts that came from outside go through `spreadsheet_text`. Every statement orders its rows by what is unique.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ENTRIES: Final = """
    (SELECT b.id AS own_batch, b.kind || CASE WHEN b.rollback_id IS NULL THEN '' ELSE ', reversed' END AS kind,
            r.revision
     FROM backfill_batches_ever b
     LEFT JOIN backfill_partitions p ON p.id = b.partition_id
     LEFT JOIN backfill_registrations r ON r.id = p.registration_id
     WHERE b.source_id = {source} AND b.posted > 0) AS own
    JOIN ledger_entries e ON e.batch_id = own.own_batch
"""

TOTALS: Final = """
    SELECT e.ledger_id, e.currency_code, own.kind, count(*), sum(e.amount)::text
    FROM {entries} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

TABLES: Final[Mapping[str, str]] = {
    "revisions": """
        SELECT revision, source_type, spreadsheet_text(file_name) AS file_name, size_bytes, sha256, mapping_sha256,
               row_count, registered_at, completed_at
        FROM backfill_registrations WHERE source_id = {source} ORDER BY revision""",
    "files": """
        SELECT r.revision, f.number, spreadsheet_text(f.name) AS name, f.size_bytes, f.sha256, f.row_count,
               f.registered_at
        FROM backfill_source_files f JOIN backfill_registrations r ON r.id = f.registration_id
        WHERE r.source_id = {source} ORDER BY r.revision, f.number""",
    "partitions": """
        SELECT o.revision, o.partition_key, p.first_row, p.first_line, p.byte_offset, p.byte_length, p.sha256,
               o.status, o.read, o.posted, o.duplicates, o.conflicts, o.rejected, o.filtered, o.batches, p.posted_at,
               spreadsheet_text(p.error) AS error
        FROM backfill_partition_outcomes o JOIN backfill_partitions p ON p.id = o.partition_id
        WHERE o.source_id = {source} ORDER BY o.revision, o.number""",
    "batches": """
        SELECT b.id AS batch_id, r.revision, p.partition_key, b.kind, b.origin, b.first_row, b.last_row, b.read,
               b.posted, b.duplicates, b.conflicts, b.rejected, b.filtered, b.path, b.run_id, b.posted_at,
               b.rollback_id
        FROM (SELECT id, partition_id, source_id, kind, origin, first_row, last_row, read, posted, duplicates,
                     conflicts, rejected, filtered, path, run_id, posted_at, NULL::bigint AS rollback_id
              FROM backfill_batches
              UNION ALL
              SELECT id, partition_id, source_id, kind, origin, first_row, last_row, read, posted, duplicates,
                     conflicts, rejected, filtered, path, run_id, posted_at, rollback_id
              FROM backfill_rolled_back_batches) b
        LEFT JOIN backfill_partitions p ON p.id = b.partition_id
        LEFT JOIN backfill_registrations r ON r.id = p.registration_id
        WHERE b.source_id = {source} ORDER BY b.id""",
    "totals": """
        SELECT spreadsheet_text(e.ledger_id) AS ledger_id, e.currency_code, own.kind, own.revision,
               count(*) AS entries, sum(e.amount) AS amount, min(e.timestamp_utc) AS earliest,
               max(e.timestamp_utc) AS latest
        FROM {entries} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4""",
    "accounts": """
        SELECT spreadsheet_text(a.id) AS account_id, a.currency_code, a.normal_side, l.entries, l.debits, l.credits,
               a.balance
        FROM (SELECT account_id, count(*) AS entries, sum(debit) AS debits, sum(credit) AS credits
              FROM (SELECT e.debit_account_id AS account_id, coalesce(c.amount, e.amount) AS debit, 0 AS credit
                    FROM {entries} LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.side = 'debit'
                    UNION ALL
                    SELECT e.credit_account_id, 0, coalesce(c.amount, e.amount)
                    FROM {entries} LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.side = 'credit'
                   ) AS leg
              GROUP BY account_id) AS l
        JOIN bank_accounts a ON a.id = l.account_id ORDER BY a.id""",
    "rejects": """
        SELECT r.revision, p.partition_key, x.source_row, x.source_line, x.byte_offset, x.stage, x.code,
               spreadsheet_text(x.field) AS field, spreadsheet_text(x.reason) AS reason,
               spreadsheet_text(x.raw) AS raw, x.state, x.replays, x.rejected_at,
               spreadsheet_text(x.replayed_by) AS replayed_by, x.replayed_at
        FROM backfill_rejects_now x
        JOIN backfill_partitions p ON p.id = x.partition_id
        JOIN backfill_registrations r ON r.id = p.registration_id
        WHERE r.source_id = {source} ORDER BY r.revision, x.source_row""",
    "replays": """
        SELECT r.revision, p.partition_key, y.source_row, y.batch_id, y.outcome, y.stage, y.code,
               spreadsheet_text(y.reason) AS reason, spreadsheet_text(y.ledger_id) AS ledger_id,
               spreadsheet_text(y.reference_id) AS reference_id, spreadsheet_text(y.raw) AS raw,
               y.repaired::text AS repaired, spreadsheet_text(y.replayed_by) AS replayed_by, y.replayed_at
        FROM backfill_replays y
        JOIN backfill_partitions p ON p.id = y.partition_id
        JOIN backfill_registrations r ON r.id = p.registration_id
        WHERE r.source_id = {source} ORDER BY y.id""",
    "reconciliations": """
        SELECT r.revision, c.reconciled_at, c.verdict, c.entries_compared, c.break_count, c.details::text AS details
        FROM backfill_reconciliations c JOIN backfill_registrations r ON r.id = c.registration_id
        WHERE r.source_id = {source} ORDER BY c.id""",
    # Of a day of a bank: by which totals it was proven complete, and what the bank knows of it.
    "bank_days": """
        SELECT source_id, bank_id, day, window_from, window_to, fetched, fetched_at,
               control_totals::text AS control_totals, posted, duplicates, conflicts, rejected, filtered,
               acknowledged, acknowledged_at, verdict, reconciled_at, break_count, details::text AS details,
               spreadsheet_text(error) AS error, complete
        FROM sync_status WHERE source_id || '@' || day = {source} ORDER BY source_id, day""",
    "rollbacks": """
        SELECT id AS rollback_id, partition_key, batch_id, mode, reverse_at, plan_hash,
               spreadsheet_text(actor) AS actor, spreadsheet_text(reason) AS reason, rolled_back_at,
               plan::text AS plan, proof::text AS proof
        FROM backfill_rollbacks WHERE source_id = {source} ORDER BY id""",
    # Those of the source, and those that an audit of the whole ledger led to.
    "corrections": """
        SELECT c.id AS correction_id, c.kind, c.source_id, c.partition_key, c.source_row,
               spreadsheet_text(c.ledger_id) AS ledger_id, spreadsheet_text(c.reference_id) AS reference_id,
               spreadsheet_text(c.account_id) AS account_id, spreadsheet_text(c.reason) AS reason, c.status,
               spreadsheet_text(c.proposed_by) AS proposed_by, c.proposed_at, c.four_eyes,
               spreadsheet_text(c.approved_by) AS approved_by, c.approved_at,
               spreadsheet_text(c.closed_by) AS closed_by, c.closed_at,
               spreadsheet_text(c.closing_reason) AS closing_reason, c.state_hash, c.finding::text AS finding,
               (SELECT jsonb_agg(jsonb_build_object(
                           'reference', e.reference_id, 'debit', e.debit_account_id, 'credit', e.credit_account_id,
                           'amount', e.amount::text, 'currency', e.currency_code, 'entry_id', e.entry_id)
                       ORDER BY e.number)::text
                FROM ledger_correction_entries e WHERE e.correction_id = c.id) AS entries
        FROM ledger_corrections c WHERE c.source_id IS NULL OR c.source_id = {source} ORDER BY c.id""",
    "periods": """
        SELECT spreadsheet_text(ledger_id) AS ledger_id, month, closed_at, spreadsheet_text(closed_by) AS closed_by,
               spreadsheet_text(reason) AS reason
        FROM ledger_periods ORDER BY ledger_id, month""",
    # The whole chain of every ledger that the source ever posted to: a part of a chain proves nothing.
    "seals": """
        SELECT spreadsheet_text(s.ledger_id) AS ledger_id, s.number, s.kind, s.batch_id,
               to_char(s.month, 'YYYY-MM') AS month, s.entries, encode(s.digest, 'hex') AS digest, s.plan_hash,
               ledger_utc_text(s.sealed_at) AS sealed_at, s.final_at,
               encode(s.previous_seal, 'hex') AS previous_seal, encode(s.seal, 'hex') AS seal,
               coalesce(b.source_id = {source}, false) AS of_this_source
        FROM ledger_seals s LEFT JOIN backfill_batches_ever b ON b.id = s.batch_id
        WHERE s.ledger_id IN (SELECT o.ledger_id FROM ledger_seals o
                              JOIN backfill_batches_ever v ON v.id = o.batch_id WHERE v.source_id = {source})
        ORDER BY s.ledger_id, s.number""",
    "audit_log": """
        SELECT number, ledger_utc_text(happened_at) AS happened_at, spreadsheet_text(actor) AS actor,
               spreadsheet_text(database_user) AS database_user, action, spreadsheet_text(subject) AS subject,
               spreadsheet_text(reason) AS reason, before::text AS before, after::text AS after, plan_hash,
               encode(previous_hash, 'hex') AS previous_hash, encode(row_hash, 'hex') AS row_hash
        FROM audit_log ORDER BY number""",
    "approvals": """
        SELECT id, action, spreadsheet_text(subject) AS subject, spreadsheet_text(requested_by) AS requested_by,
               requested_at, spreadsheet_text(reason) AS reason, spreadsheet_text(approved_by) AS approved_by,
               approved_at
        FROM ledger_approvals ORDER BY id""",
    "migrations": """
        SELECT version, name, checksum, applied_at FROM ledger_schema_migrations ORDER BY version""",
}
"""File name without .csv → statement."""
