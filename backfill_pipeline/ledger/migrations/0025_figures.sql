-- Figures of posting that were not kept so far, and an index for a question that is asked again and again.

ALTER TABLE backfill_batches ADD COLUMN checkpoint_seconds numeric CHECK (checkpoint_seconds >= 0);
COMMENT ON COLUMN backfill_batches.checkpoint_seconds IS
    'Part of seconds: writing the checkpoint, with waiting for another batch of the source. NULL for opening balances, replays,'
    ' reversals, and batches from before this was kept.';
ALTER TABLE backfill_rolled_back_batches ADD COLUMN checkpoint_seconds numeric;

-- Rows that were given up are few, and are asked for at every scrape of the metrics.
CREATE INDEX dual_ledger_outbox_dead_idx ON dual_ledger_outbox (destination, kind) WHERE status = 'DEAD';

-- As in 0019, but for how batches move to history.
CREATE OR REPLACE FUNCTION rollback_books(
    p_batch_ids bigint[], p_partition_ids bigint[], p_source_ids text[], p_rollback_id bigint, p_actor text, p_reason text,
    p_now timestamptz
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- Counters are those of the current revision; a partition that was posted in full had entered its early rejects too.
    WITH current AS (
        SELECT DISTINCT ON (r.source_id) r.id, r.source_id, r.source_type FROM backfill_registrations r
        WHERE r.source_id = ANY (p_source_ids) ORDER BY r.source_id, r.revision DESC
    ), part AS (
        SELECT c.source_id, c.source_type,
               CASE b.kind WHEN 'entries' THEN b.read ELSE 0 END AS processed, b.posted + b.duplicates AS successful,
               b.conflicts + b.rejected - CASE b.kind WHEN 'replay' THEN b.read ELSE 0 END AS failed
        FROM current c
        JOIN backfill_partitions p ON p.registration_id = c.id
        JOIN backfill_batches b ON b.partition_id = p.id
        WHERE b.id = ANY (p_batch_ids)
        UNION ALL
        SELECT c.source_id, c.source_type, coalesce(p.rejected_early, 0) + coalesce(p.filtered, 0), 0,
               coalesce(p.rejected_early, 0)
        FROM current c
        JOIN backfill_partitions p ON p.registration_id = c.id
        WHERE p.id = ANY (p_partition_ids) AND p.posted_at IS NOT NULL
    ), total AS (
        SELECT source_id, source_type, sum(processed) AS processed, sum(successful) AS successful, sum(failed) AS failed
        FROM part GROUP BY 1, 2
    )
    UPDATE ledger_backfill_checkpoints k
    SET total_processed = k.total_processed - t.processed, total_successful = k.total_successful - t.successful,
        total_failed = k.total_failed - t.failed,
        status = CASE WHEN cardinality(p_partition_ids) = 0 THEN k.status ELSE 'PAUSED' END,
        completed_at = CASE WHEN cardinality(p_partition_ids) = 0 THEN k.completed_at END,
        last_processed_id = CASE WHEN cardinality(p_partition_ids) = 0 THEN k.last_processed_id END,
        last_processed_timestamp = CASE WHEN cardinality(p_partition_ids) = 0 THEN k.last_processed_timestamp END,
        last_checkpoint_at = timezone('UTC', p_now), error_message = NULL,
        metadata = coalesce(k.metadata, '{}') || jsonb_build_object('rollback', p_rollback_id)
    FROM total t WHERE k.source_id = t.source_id AND k.source_type = t.source_type;

    -- Rows that replays had filtered are rejects again.
    UPDATE backfill_partitions p
    SET filtered_by_reason = (
        SELECT coalesce(jsonb_object_agg(left_over.reason, left_over.count), '{}')
        FROM (SELECT was.reason, sum(was.count) AS count
              FROM (SELECT key AS reason, value::bigint AS count FROM jsonb_each_text(p.filtered_by_reason)
                    UNION ALL
                    SELECT y.reason, -count(*) FROM backfill_replays y
                    WHERE y.partition_id = p.id AND y.outcome = 'filtered' AND y.batch_id = ANY (p_batch_ids)
                    GROUP BY y.reason) AS was
              GROUP BY was.reason HAVING sum(was.count) > 0) AS left_over)
    WHERE p.id IN (SELECT y.partition_id FROM backfill_replays y
                   WHERE y.batch_id = ANY (p_batch_ids) AND y.outcome = 'filtered');

    INSERT INTO backfill_rolled_back_replays SELECT y.*, p_rollback_id FROM backfill_replays y WHERE y.batch_id = ANY (p_batch_ids);
    DELETE FROM backfill_replays WHERE batch_id = ANY (p_batch_ids);
    INSERT INTO backfill_rolled_back_rejects SELECT x.*, p_rollback_id FROM backfill_rejects x
    WHERE x.batch_id = ANY (p_batch_ids) AND x.partition_id IN (
        SELECT b.partition_id FROM backfill_batches b WHERE b.id = ANY (p_batch_ids));
    DELETE FROM backfill_rejects x
    WHERE x.batch_id = ANY (p_batch_ids) AND x.partition_id IN (
        SELECT b.partition_id FROM backfill_batches b WHERE b.id = ANY (p_batch_ids));
    UPDATE backfill_reconciliations c SET rollback_id = p_rollback_id
    FROM backfill_registrations r
    WHERE r.id = c.registration_id AND r.source_id = ANY (p_source_ids) AND c.rollback_id IS NULL
      AND EXISTS (SELECT 1 FROM backfill_batches b WHERE b.id = ANY (p_batch_ids) AND b.source_id = r.source_id);
    UPDATE backfill_registrations r SET completed_at = NULL
    WHERE r.id IN (SELECT p.registration_id FROM backfill_partitions p WHERE p.id = ANY (p_partition_ids));
    -- A day of a bank is taken up again by its next night.
    UPDATE sync_status s
    SET error = format('rolled back by %s%s', p_actor, ': ' || p_reason), verdict = NULL, break_count = NULL,
        reconciled_at = NULL, posted = NULL, posted_at = NULL, duplicates = NULL, conflicts = NULL, rejected = NULL,
        filtered = NULL, acknowledged = NULL, acknowledged_at = NULL, updated_at = p_now
    FROM (SELECT DISTINCT b.source_id FROM backfill_batches b WHERE b.id = ANY (p_batch_ids)
          UNION
          SELECT r.source_id FROM backfill_partitions p JOIN backfill_registrations r ON r.id = p.registration_id
          WHERE p.id = ANY (p_partition_ids)) AS of_day
    WHERE of_day.source_id = s.source_id || '@' || s.day;
    -- By name: the tables do not have their columns in the same order any more.
    INSERT INTO backfill_rolled_back_batches (
        id, partition_id, source_id, kind, first_row, last_row, read, posted, duplicates, conflicts, rejected, filtered,
        taken_rejected, taken_conflicts, run_id, path, started_at, posted_at, seconds, origin, checkpoint_seconds, rollback_id)
    SELECT b.id, b.partition_id, b.source_id, b.kind, b.first_row, b.last_row, b.read, b.posted, b.duplicates, b.conflicts,
           b.rejected, b.filtered, b.taken_rejected, b.taken_conflicts, b.run_id, b.path, b.started_at, b.posted_at, b.seconds,
           b.origin, b.checkpoint_seconds, p_rollback_id
    FROM backfill_batches b WHERE b.id = ANY (p_batch_ids);
    DELETE FROM backfill_batches WHERE id = ANY (p_batch_ids);
    UPDATE backfill_partitions p
    SET posted_at = NULL, error = NULL, rolled_back_at = p_now, rollback_id = p_rollback_id
    WHERE p.id = ANY (p_partition_ids);
END
$$;

CALL pin_functions(ARRAY['rollback_books']);
