-- What an entry is called that is posted again. Entries keep their references, so one that was reversed n times comes back as
-- <base>~<n + 1>; ledger/reversed_references.py says the same where entries are posted. These views say it to whoever asks in
-- SQL.

CREATE VIEW ledger_current_references AS
SELECT r.ledger_id, r.base_reference, r.base_reference || '~' || r.generation + 1 AS reference_id
FROM ledger_reversals r
WHERE NOT EXISTS (SELECT FROM ledger_reversals later
                  WHERE later.ledger_id = r.ledger_id AND later.base_reference = r.base_reference
                    AND later.generation = r.generation + 1);
COMMENT ON VIEW ledger_current_references IS
    'Base references of which an entry was reversed, and the reference that it has, or gets, when it is posted again.';

-- What a source says should be in the ledger is looked for there under its current reference.
CREATE OR REPLACE VIEW backfill_source_data AS
SELECT s.source_id, s.partition_id, said.source_row, said.ledger_id,
       coalesce(c.reference_id, said.reference_id) AS reference_id
FROM backfill_source_references s
CROSS JOIN LATERAL unnest(s.source_rows, s.ledger_ids, s.reference_ids) AS said (source_row, ledger_id, reference_id)
LEFT JOIN ledger_current_references c ON c.ledger_id = said.ledger_id AND c.base_reference = said.reference_id
WHERE NOT EXISTS (SELECT 1 FROM backfill_replays y
                  WHERE y.partition_id = s.partition_id AND y.source_row = said.source_row
                    AND y.outcome IN ('posted', 'duplicate', 'filtered'))
UNION ALL
SELECT r.source_id, y.partition_id, y.source_row, y.ledger_id, coalesce(c.reference_id, y.reference_id)
FROM backfill_replays y
JOIN backfill_partitions p ON p.id = y.partition_id
JOIN backfill_registrations r ON r.id = p.registration_id
LEFT JOIN ledger_current_references c ON c.ledger_id = y.ledger_id AND c.base_reference = y.reference_id
WHERE y.outcome IN ('posted', 'duplicate')
  AND r.revision = (SELECT max(latest.revision) FROM backfill_registrations latest
                    WHERE latest.source_id = r.source_id);
