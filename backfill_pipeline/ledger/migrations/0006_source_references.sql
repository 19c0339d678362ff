-- What each source says should be in the ledger, ten thousand entries a row: a row for each entry cost more than a
-- sixth of posting it. The strategy's query (§6.1) sees one row per entry all the same, through the view.

CREATE TABLE backfill_source_references (
    source_id     text COLLATE "C" NOT NULL,
    partition_id  bigint NOT NULL,
    source_rows   bigint[] NOT NULL,            -- the three arrays are parallel
    ledger_ids    text[] COLLATE "C" NOT NULL,
    reference_ids text[] COLLATE "C" NOT NULL
);
-- Written once and hardly read: compressing them would cost more than writing them.
ALTER TABLE backfill_source_references
    ALTER source_rows SET STORAGE EXTERNAL, ALTER ledger_ids SET STORAGE EXTERNAL, ALTER reference_ids SET STORAGE EXTERNAL;
CREATE INDEX backfill_source_references_partition_idx ON backfill_source_references (partition_id);

INSERT INTO backfill_source_references (source_id, partition_id, source_rows, ledger_ids, reference_ids)
SELECT source_id, partition_id, array_agg(source_row ORDER BY source_row), array_agg(ledger_id ORDER BY source_row),
       array_agg(reference_id ORDER BY source_row)
FROM backfill_source_data
GROUP BY source_id, partition_id, source_row / 10000;

DROP TABLE backfill_source_data;
CREATE VIEW backfill_source_data AS
SELECT s.source_id, s.partition_id, said.source_row, said.ledger_id, said.reference_id
FROM backfill_source_references s
CROSS JOIN LATERAL unnest(s.source_rows, s.ledger_ids, s.reference_ids) AS said (source_row, ledger_id, reference_id);

COMMENT ON VIEW backfill_source_data IS
    'What each source says should be in the ledger, one row per valid entry, written before it is posted.';
