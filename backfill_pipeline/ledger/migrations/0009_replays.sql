-- Repair of rejects. A person repairs the cells of rejected rows, and these rows alone go through the pipeline again: a
-- replay is a batch of its partition, of kind 'replay', and this table keeps what was tried with which row. Rejects are
-- never changed: how one stands today is its latest replay, and until there is one, the reject itself.
CREATE TABLE backfill_replays (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id     bigint NOT NULL REFERENCES backfill_batches (id),
    partition_id bigint NOT NULL REFERENCES backfill_partitions (id),
    source_row   bigint NOT NULL,
    raw          text NOT NULL,         -- what the source says
    repaired     text[] NOT NULL,       -- what was sent instead, in the order of the registration's header
    occurrence   bigint NOT NULL,       -- of a generated reference; 0 for others
    outcome      text NOT NULL CHECK (outcome IN ('posted', 'duplicate', 'filtered', 'conflict', 'rejected')),
    stage        text CHECK (stage IN ('extract', 'transform', 'validate', 'post')),
    code         text,                  -- why it was refused again; NULL when it was not
    field        text,
    reason       text,
    ledger_id    text COLLATE "C",      -- of the entry; NULL when it never was one
    reference_id text COLLATE "C",
    replayed_by  text NOT NULL,
    replayed_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (outcome NOT IN ('conflict', 'rejected') OR (stage IS NOT NULL AND code IS NOT NULL AND reason IS NOT NULL)),
    CHECK (outcome NOT IN ('posted', 'duplicate') OR (ledger_id IS NOT NULL AND reference_id IS NOT NULL))
);
CREATE INDEX backfill_replays_row_idx ON backfill_replays (partition_id, source_row);
CREATE INDEX backfill_replays_batch_idx ON backfill_replays (batch_id);
-- A row is counted once: nothing follows after it was posted, found to be there, or filtered.
CREATE UNIQUE INDEX backfill_replays_settled_once ON backfill_replays (partition_id, source_row)
    WHERE outcome IN ('posted', 'duplicate', 'filtered');

-- The rows of a replay were counted before, as rejected or as conflicts: a replay says how many it took from where.
ALTER TABLE backfill_batches
    ADD COLUMN filtered bigint NOT NULL DEFAULT 0,
    ADD COLUMN taken_rejected bigint NOT NULL DEFAULT 0,
    ADD COLUMN taken_conflicts bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT backfill_batches_kind_check,
    DROP CONSTRAINT backfill_batches_nothing_lost,
    DROP CONSTRAINT backfill_batches_partition_id_first_row_key,
    ADD CONSTRAINT backfill_batches_kind_check CHECK (kind IN ('entries', 'opening', 'replay')),
    ADD CONSTRAINT backfill_batches_nothing_lost
        CHECK (read = posted + duplicates + conflicts + rejected + filtered),
    ADD CONSTRAINT backfill_batches_taken_check
        CHECK (taken_rejected + taken_conflicts = CASE kind WHEN 'replay' THEN read ELSE 0 END);
CREATE UNIQUE INDEX backfill_batches_partition_id_first_row_key ON backfill_batches (partition_id, first_row)
    WHERE kind = 'entries';
CREATE INDEX backfill_batches_partition_idx ON backfill_batches (partition_id);

-- Every reject as it stands: `state` is open, or how the row ended after all.
CREATE VIEW backfill_rejects_now AS
SELECT x.partition_id, x.source_row, x.source_line, x.byte_offset,
       CASE WHEN y.code IS NULL THEN x.stage ELSE y.stage END AS stage,
       coalesce(y.code, x.code) AS code,
       CASE WHEN y.code IS NULL THEN x.field ELSE y.field END AS field,
       CASE WHEN y.code IS NULL THEN x.reason ELSE y.reason END AS reason,
       x.raw, x.rejected_at,
       CASE WHEN y.outcome IN ('posted', 'duplicate', 'filtered') THEN y.outcome ELSE 'open' END AS state,
       coalesce(y.replays, 0) AS replays, y.repaired, y.occurrence, y.batch_id AS replay_batch_id, y.replayed_by,
       y.replayed_at
FROM backfill_rejects x
LEFT JOIN LATERAL (
    SELECT r.*, count(*) OVER () AS replays
    FROM backfill_replays r
    WHERE r.partition_id = x.partition_id AND r.source_row = x.source_row
    ORDER BY r.id DESC LIMIT 1
) y ON true;

COMMENT ON VIEW backfill_rejects_now IS
    'Every rejected row with what became of it: its latest replay, or the reject itself while there is none.';

-- The count equation per partition, each row where it stands now.
CREATE OR REPLACE VIEW backfill_partition_outcomes AS
SELECT p.id AS partition_id, r.id AS registration_id, r.source_id, r.revision, p.partition_key, p.number,
       p.row_count AS read,
       coalesce(b.posted, 0) AS posted, coalesce(b.duplicates, 0) AS duplicates, coalesce(b.conflicts, 0) AS conflicts,
       coalesce(b.rejected, 0) + coalesce(p.rejected_early, 0) AS rejected,
       coalesce(p.filtered, 0) + coalesce(b.filtered, 0) AS filtered,
       coalesce(b.batches, 0) AS batches, coalesce(b.read, 0) AS processed, b.last_row, coalesce(b.seconds, 0) AS seconds,
       (SELECT count(*) FROM backfill_rejects x WHERE x.partition_id = p.id)
         - (SELECT count(*) FROM backfill_replays y
            WHERE y.partition_id = p.id AND y.outcome IN ('posted', 'duplicate', 'filtered')) AS rejects_recorded,
       CASE WHEN p.posted_at IS NOT NULL THEN 'posted'
            WHEN p.error IS NOT NULL THEN 'failed'
            WHEN b.read > 0 THEN 'posting'
            WHEN p.validated_at IS NOT NULL THEN 'validated'
            ELSE 'registered' END AS status,
       p.error, p.posted_at
FROM backfill_partitions p
JOIN backfill_registrations r ON r.id = p.registration_id
LEFT JOIN LATERAL (
    SELECT sum(posted)::bigint AS posted, sum(duplicates)::bigint AS duplicates,
           (sum(conflicts) - sum(taken_conflicts))::bigint AS conflicts,
           (sum(rejected) - sum(taken_rejected))::bigint AS rejected, sum(filtered)::bigint AS filtered,
           (sum(read) FILTER (WHERE kind = 'entries'))::bigint AS read, count(*) AS batches,
           max(last_row) FILTER (WHERE kind = 'entries') AS last_row, sum(seconds) AS seconds
    FROM backfill_batches WHERE partition_id = p.id
) b ON true;

-- What the source says of a row is what was sent for it in the end.
CREATE OR REPLACE VIEW backfill_source_data AS
SELECT s.source_id, s.partition_id, said.source_row, said.ledger_id, said.reference_id
FROM backfill_source_references s
CROSS JOIN LATERAL unnest(s.source_rows, s.ledger_ids, s.reference_ids) AS said (source_row, ledger_id, reference_id)
WHERE NOT EXISTS (SELECT 1 FROM backfill_replays y
                  WHERE y.partition_id = s.partition_id AND y.source_row = said.source_row
                    AND y.outcome IN ('posted', 'duplicate', 'filtered'))
UNION ALL
SELECT r.source_id, y.partition_id, y.source_row, y.ledger_id, y.reference_id
FROM backfill_replays y
JOIN backfill_partitions p ON p.id = y.partition_id
JOIN backfill_registrations r ON r.id = p.registration_id
WHERE y.outcome IN ('posted', 'duplicate')
  AND r.revision = (SELECT max(c.revision) FROM backfill_registrations c WHERE c.source_id = r.source_id);
