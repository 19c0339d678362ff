-- Batches that are posted inside the database: INSERT … SELECT from a table that lies beside the ledger, through the same
-- triggers, with the same record.
ALTER TABLE backfill_batches
    DROP CONSTRAINT backfill_batches_path_check,
    ADD CONSTRAINT backfill_batches_path_check CHECK (path IN ('copy', 'staging', 'in_database'));
COMMENT ON COLUMN backfill_batches.path IS
    'copy: COPY straight into the ledger. in_database: INSERT … SELECT straight into it. staging: row by row told apart.';

-- What the entries of such a batch are expected to be: the digest that its seal has to have, computed from what the rows of the
-- source were mapped to, in the transaction that posted them, and not from the ledger. A batch that is rolled back takes it along.
CREATE TABLE backfill_taken_batches (
    batch_id bigint PRIMARY KEY REFERENCES backfill_batches (id) ON DELETE CASCADE,
    digest   bytea NOT NULL
);
COMMENT ON COLUMN backfill_taken_batches.digest IS
    'SHA-256 over the ledger ids, each with a zero byte and the digest of its entries in the batch (0018), in their order.';
