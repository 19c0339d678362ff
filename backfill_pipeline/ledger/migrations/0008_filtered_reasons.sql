-- Rows that a source definition leaves out on purpose are counted by the reason that it gives them.
ALTER TABLE backfill_partitions ADD COLUMN filtered_by_reason jsonb NOT NULL DEFAULT '{}';
