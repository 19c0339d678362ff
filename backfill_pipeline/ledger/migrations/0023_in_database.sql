-- Batches that are posted inside the database: INSERT … SELECT from a table that lies beside the ledger, through the same
-- triggers, with the same record.
ALTER TABLE backfill_batches
    DROP CONSTRAINT backfill_batches_path_check,
    ADD CONSTRAINT backfill_batches_path_check CHECK (path IN ('copy', 'staging', 'in_database'));
COMMENT ON COLUMN backfill_batches.path IS
    'copy: COPY straight into the ledger. in_database: INSERT … SELECT straight into it. staging: row by row told apart.';
