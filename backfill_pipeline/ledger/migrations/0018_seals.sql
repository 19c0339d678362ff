-- Seals. What was posted is sealed: a hash over every entry of a batch, chained to the seal before it in the same ledger, so
-- that an entry that is edited, taken away or slipped in shows, and so does a seal that is.
--
-- The hash of an entry is SHA-256 over its text, in which every value has one form; that of a batch or a period is SHA-256
-- over 256 partial ones (by the first byte of the entries' hashes, in the order of these), so that no text gets large
-- and the order of rows in the table does not matter. The id of an entry is no part of it, what an account in another
-- currency moved by is.
CREATE TABLE ledger_seals (
    ledger_id     text COLLATE "C" NOT NULL,
    number        bigint NOT NULL,              -- from 1, without gaps
    kind          text NOT NULL CHECK (kind IN ('batch', 'period', 'annulment')),
    batch_id      bigint,
    month         date,
    entries       bigint NOT NULL,
    digest        bytea NOT NULL,
    plan_hash     text,
    previous_seal bytea NOT NULL,
    seal          bytea NOT NULL,
    sealed_at     timestamptz NOT NULL,
    final_at      timestamptz,
    PRIMARY KEY (ledger_id, number),
    CONSTRAINT ledger_seals_of_one_thing CHECK ((batch_id IS NULL) <> (month IS NULL)),
    CONSTRAINT ledger_seals_kind_fits CHECK ((kind <> 'batch' OR batch_id IS NOT NULL) AND (kind <> 'period' OR month IS NOT NULL)),
    CONSTRAINT ledger_seals_final_batch CHECK (final_at IS NULL OR kind = 'batch')
);
CREATE UNIQUE INDEX ledger_seals_batch_idx ON ledger_seals (batch_id, ledger_id) WHERE kind = 'batch';
COMMENT ON COLUMN ledger_seals.kind IS
    'batch: the entries that a batch posted to this ledger. period: all entries of a closed month. annulment: the batch was'
    ' rolled back, or the month reopened; its seal before this one no longer counts.';
COMMENT ON COLUMN ledger_seals.final_at IS
    'Since when the batch can no longer be deleted, only reversed. NULL while its seal is provisional.';

CREATE TABLE ledger_seal_heads (
    ledger_id text COLLATE "C" PRIMARY KEY,
    number    bigint NOT NULL,
    seal      bytea NOT NULL
);
COMMENT ON TABLE ledger_seal_heads IS 'The last seal of each ledger, so that one that was cut off the end shows.';

-- Everything in the row but final_at, which is set later.
CREATE FUNCTION ledger_seal_hash(sealed ledger_seals) RETURNS bytea
LANGUAGE sql STABLE AS $$
    SELECT sha256(sealed.previous_seal || convert_to(jsonb_build_array(
        sealed.ledger_id, sealed.number, sealed.kind, sealed.batch_id, to_char(sealed.month, 'YYYY-MM'), sealed.entries,
        encode(sealed.digest, 'hex'), sealed.plan_hash, ledger_utc_text(sealed.sealed_at))::text, 'UTF8'))
$$;

-- Whoever inserts states what was sealed; number, time and hashes are given here. Others wait at the head until commit.
CREATE FUNCTION ledger_seals_chain() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger_seal_heads (ledger_id, number, seal) VALUES (NEW.ledger_id, 0, '\x') ON CONFLICT DO NOTHING;
    SELECT number + 1, seal INTO NEW.number, NEW.previous_seal
    FROM ledger_seal_heads WHERE ledger_id = NEW.ledger_id FOR UPDATE;
    NEW.sealed_at := clock_timestamp();
    NEW.seal := ledger_seal_hash(NEW);
    UPDATE ledger_seal_heads SET number = NEW.number, seal = NEW.seal WHERE ledger_id = NEW.ledger_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER ledger_seals_chain BEFORE INSERT ON ledger_seals FOR EACH ROW EXECUTE FUNCTION ledger_seals_chain();

CREATE FUNCTION ledger_seals_refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: what was sealed stays sealed', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER ledger_seals_append_only BEFORE DELETE OR TRUNCATE ON ledger_seals
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_seals_refuse_change();
CREATE TRIGGER ledger_seals_only_become_final BEFORE UPDATE ON ledger_seals
    FOR EACH ROW WHEN (OLD.final_at IS NOT NULL OR NEW.final_at IS NULL
                       OR to_jsonb(OLD) - 'final_at' <> to_jsonb(NEW) - 'final_at')
    EXECUTE FUNCTION ledger_seals_refuse_change();

-- One form for every entry; times are in UTC because whoever calls this says so. `conversions` is what its accounts in another
-- currency moved by. Without settings of its own, so that it is inlined: a call would cost more than the hash.
CREATE FUNCTION ledger_entry_digest(entry ledger_entries, conversions text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to(ROW(
        entry.ledger_id, entry.reference_id, entry.debit_account_id, entry.credit_account_id, entry.amount,
        entry.currency_code, entry.asset_type, entry.transaction_type, entry.timestamp_utc, entry.posted_at, entry.fx_rate,
        entry.metadata, entry.batch_id, entry.source_row, conversions)::text, 'UTF8'))
$$;

-- What the ledger holds of these batches now. Linear, whatever the planner thinks of tables that it never looked at:
-- conversions are met by hash, and only those in the range of the entries' ids. In parallel wherever the server may: it does
-- not know that hashing takes longer than reading.
CREATE FUNCTION ledger_batch_digests(p_batch_ids bigint[])
RETURNS TABLE (ledger_id text, batch_id bigint, entries bigint, digest bytea)
LANGUAGE plpgsql STABLE
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
SET enable_nestloop = off
SET parallel_setup_cost = 0
SET parallel_tuple_cost = 0
AS $$
DECLARE
    first_id bigint;
    last_id  bigint;
BEGIN
    SELECT min(e.id), max(e.id) INTO first_id, last_id FROM ledger_entries e WHERE e.batch_id = ANY (p_batch_ids);
    RETURN QUERY
    WITH conversion AS (
        SELECT c.entry_id, string_agg(ROW(c.side, c.account_id, c.currency_code, c.amount)::text, '' ORDER BY c.side) AS said
        FROM ledger_entry_conversions c
        WHERE c.entry_id BETWEEN first_id AND last_id
        GROUP BY c.entry_id
    ), one AS MATERIALIZED (    -- so that an entry is hashed once, and rows are sorted without their columns
        SELECT e.ledger_id, e.batch_id, ledger_entry_digest(e, conversion.said) AS digest
        FROM ledger_entries e
        LEFT JOIN conversion ON conversion.entry_id = e.id
        WHERE e.batch_id = ANY (p_batch_ids)
    ), part AS (
        SELECT one.ledger_id, one.batch_id, get_byte(one.digest, 0) AS bucket, count(*) AS entries,
               sha256(string_agg(one.digest, '' ORDER BY one.digest)) AS digest
        FROM one
        GROUP BY one.batch_id, bucket, one.ledger_id
    )
    SELECT part.ledger_id, part.batch_id, sum(part.entries)::bigint,
           sha256(string_agg(part.digest, '' ORDER BY part.bucket))
    FROM part
    GROUP BY part.batch_id, part.ledger_id;
END
$$;

-- What the ledger holds of a month now. One row, also when that is nothing.
CREATE FUNCTION ledger_period_digest(p_ledger_id text, p_month date) RETURNS TABLE (entries bigint, digest bytea)
LANGUAGE plpgsql STABLE
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
SET enable_nestloop = off
SET parallel_setup_cost = 0
SET parallel_tuple_cost = 0
AS $$
DECLARE
    starts   timestamptz := p_month::timestamp AT TIME ZONE 'UTC';
    ends     timestamptz := (p_month::timestamp + interval '1 month') AT TIME ZONE 'UTC';
    first_id bigint;
    last_id  bigint;
BEGIN
    SELECT min(e.id), max(e.id) INTO first_id, last_id
    FROM ledger_entries e
    WHERE e.ledger_id = p_ledger_id AND e.timestamp_utc >= starts AND e.timestamp_utc < ends;
    RETURN QUERY
    WITH conversion AS (
        SELECT c.entry_id, string_agg(ROW(c.side, c.account_id, c.currency_code, c.amount)::text, '' ORDER BY c.side) AS said
        FROM ledger_entry_conversions c
        WHERE c.entry_id BETWEEN first_id AND last_id
        GROUP BY c.entry_id
    ), one AS MATERIALIZED (
        SELECT ledger_entry_digest(e, conversion.said) AS digest
        FROM ledger_entries e
        LEFT JOIN conversion ON conversion.entry_id = e.id
        WHERE e.ledger_id = p_ledger_id AND e.timestamp_utc >= starts AND e.timestamp_utc < ends
    ), part AS (
        SELECT get_byte(one.digest, 0) AS bucket, count(*) AS entries,
               sha256(string_agg(one.digest, '' ORDER BY one.digest)) AS digest
        FROM one
        GROUP BY bucket
    )
    SELECT coalesce(sum(part.entries), 0)::bigint, sha256(coalesce(string_agg(part.digest, '' ORDER BY part.bucket), ''))
    FROM part;
END
$$;

-- Seals the batches that are not sealed yet, all or of those given, in their order; returns how many seals that took. The
-- hashes are made before anybody has to wait: the entries of a batch stay as they are, unless it is rolled back, and
-- whether it was is looked at while nobody else seals or annuls.
CREATE FUNCTION seal_batches(p_batch_ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    unsealed   bigint[];
    ledger_ids text[];
    batch_ids  bigint[];
    counts     bigint[];
    digests    bytea[];
    appended   bigint;
BEGIN
    SELECT array_agg(b.id ORDER BY b.id) INTO unsealed
    FROM backfill_batches b
    WHERE b.posted > 0 AND (p_batch_ids IS NULL OR b.id = ANY (p_batch_ids))
      AND NOT EXISTS (SELECT 1 FROM ledger_seals s WHERE s.kind = 'batch' AND s.batch_id = b.id);
    IF unsealed IS NULL THEN
        RETURN 0;
    END IF;
    SELECT array_agg(d.ledger_id), array_agg(d.batch_id), array_agg(d.entries), array_agg(d.digest)
    INTO ledger_ids, batch_ids, counts, digests
    FROM ledger_batch_digests(unsealed) d;
    LOCK TABLE ledger_seals IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO ledger_seals (ledger_id, kind, batch_id, entries, digest)
    SELECT d.ledger_id, 'batch', d.batch_id, d.entries, d.digest
    FROM unnest(ledger_ids, batch_ids, counts, digests) AS d (ledger_id, batch_id, entries, digest)
    WHERE EXISTS (SELECT 1 FROM backfill_batches b WHERE b.id = d.batch_id)
      AND NOT EXISTS (SELECT 1 FROM ledger_seals s WHERE s.kind = 'batch' AND s.batch_id = d.batch_id)
    ORDER BY d.batch_id, d.ledger_id;
    GET DIAGNOSTICS appended = ROW_COUNT;
    RETURN appended;
END
$$;

CREATE FUNCTION ledger_batch_is_final(p_batch_id bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM ledger_seals WHERE kind = 'batch' AND batch_id = p_batch_id AND final_at IS NOT NULL)
$$;

-- Seals these batches, where they are not, and makes it final: from then on they are reversed, never deleted. Returns how
-- many of them became final by this.
CREATE FUNCTION finalize_seals(p_batch_ids bigint[], p_actor text, p_subject text, p_reason text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    became bigint[];
BEGIN
    PERFORM seal_batches(p_batch_ids);
    LOCK TABLE ledger_seals IN SHARE ROW EXCLUSIVE MODE;
    WITH finalized AS (
        UPDATE ledger_seals s SET final_at = clock_timestamp()
        WHERE s.kind = 'batch' AND s.batch_id = ANY (p_batch_ids) AND s.final_at IS NULL
          AND NOT EXISTS (SELECT 1 FROM ledger_seals a WHERE a.kind = 'annulment' AND a.batch_id = s.batch_id)
        RETURNING s.batch_id
    )
    SELECT array_agg(DISTINCT f.batch_id) INTO became FROM finalized f;
    IF became IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM write_audit_log(p_actor, 'seal', p_subject, p_reason, NULL, jsonb_build_object('final_batches', to_jsonb(became)));
    RETURN cardinality(became);
END
$$;

-- The batches are rolled back: their seals stay in the chain, and say from here on that they no longer count. In the
-- transaction that takes the entries away; nobody seals meanwhile. Returns how many seals were annulled.
CREATE FUNCTION annul_seals(p_batch_ids bigint[], p_plan_hash text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    final    bigint;
    annulled bigint;
BEGIN
    LOCK TABLE ledger_seals IN SHARE ROW EXCLUSIVE MODE;
    SELECT min(s.batch_id) INTO final FROM ledger_seals s
    WHERE s.kind = 'batch' AND s.batch_id = ANY (p_batch_ids) AND s.final_at IS NOT NULL;
    IF final IS NOT NULL THEN
        RAISE EXCEPTION 'batch % is sealed for good: reverse it, its entries stay', final
            USING ERRCODE = 'check_violation', TABLE = 'ledger_seals', CONSTRAINT = 'ledger_seals_final';
    END IF;
    INSERT INTO ledger_seals (ledger_id, kind, batch_id, entries, digest, plan_hash)
    SELECT s.ledger_id, 'annulment', s.batch_id, s.entries, s.digest, p_plan_hash
    FROM ledger_seals s
    WHERE s.kind = 'batch' AND s.batch_id = ANY (p_batch_ids)
      AND NOT EXISTS (SELECT 1 FROM ledger_seals a
                      WHERE a.kind = 'annulment' AND a.batch_id = s.batch_id AND a.ledger_id = s.ledger_id)
    ORDER BY s.batch_id, s.ledger_id;
    GET DIAGNOSTICS annulled = ROW_COUNT;
    RETURN annulled;
END
$$;

-- Closes a ledger's month: it takes no entries any more, the batches that posted to it become final, and all its entries,
-- live ones too, are sealed. Returns false when it was closed already.
CREATE FUNCTION close_period(p_ledger_id text, p_month date, p_actor text, p_reason text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    closed_month date := date_trunc('month', p_month::timestamp)::date;
    month_text   text := to_char(p_month, 'YYYY-MM');
    starts       timestamptz := closed_month::timestamp AT TIME ZONE 'UTC';
    ends         timestamptz := (closed_month::timestamp + interval '1 month') AT TIME ZONE 'UTC';
    fingerprints text[] := '{}';    -- which entries the month had: before anybody has to wait, and after
    batches      bigint[];
    sealed       record;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a period is closed in a transaction that is read committed: others post until it is'
            USING ERRCODE = 'invalid_transaction_state';
    ELSIF ends > clock_timestamp() THEN
        RAISE EXCEPTION 'period % of ledger % is not over: it can be closed from %', month_text, p_ledger_id,
                ledger_utc_text(ends)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF NOT EXISTS (SELECT 1 FROM ledger_entries WHERE ledger_id = p_ledger_id) THEN
        RAISE EXCEPTION 'ledger % has no entries: there is nothing to close', p_ledger_id
            USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF EXISTS (SELECT 1 FROM ledger_periods WHERE ledger_id = p_ledger_id AND month = closed_month) THEN
        RETURN false;
    END IF;
    -- Twice, before the lock and behind it. Entries are never changed, so the same ids are the same entries; only when some
    -- came or went meanwhile the long work is done while others wait.
    FOR attempt IN 1 .. 2 LOOP
        IF attempt = 2 THEN
            LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE;
            PERFORM seal_batches();
        END IF;
        SELECT fingerprints || format('%s %s %s', sum(part.entries), sum(part.ids), sum(part.seeded)),
               array_agg(part.batch_id) FILTER (WHERE part.batch_id IS NOT NULL)
        INTO fingerprints, batches
        FROM (SELECT e.batch_id, count(*) AS entries, sum(hashint8extended(e.id, 1)) AS ids,
                     sum(hashint8extended(e.id, 2)) AS seeded
              FROM ledger_entries e
              WHERE e.ledger_id = p_ledger_id AND e.timestamp_utc >= starts AND e.timestamp_utc < ends
              GROUP BY e.batch_id) AS part;
        IF attempt = 1 OR fingerprints[1] <> fingerprints[2] THEN
            SELECT * INTO sealed FROM ledger_period_digest(p_ledger_id, closed_month);
        END IF;
    END LOOP;
    UPDATE ledger_period_closings SET closings = closings + 1;
    INSERT INTO ledger_periods (ledger_id, month, closed_by, reason)
    VALUES (p_ledger_id, closed_month, p_actor, p_reason)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;   -- somebody else closed it while this waited
    END IF;
    LOCK TABLE ledger_seals IN SHARE ROW EXCLUSIVE MODE;
    UPDATE ledger_seals SET final_at = clock_timestamp()
    WHERE kind = 'batch' AND batch_id = ANY (batches) AND final_at IS NULL;
    INSERT INTO ledger_seals (ledger_id, kind, month, entries, digest)
    VALUES (p_ledger_id, 'period', closed_month, sealed.entries, sealed.digest);
    PERFORM write_audit_log(
        p_actor, 'period_close', p_ledger_id || ' ' || month_text, p_reason, jsonb_build_object('closed', false),
        jsonb_build_object('closed', true, 'entries', sealed.entries, 'digest', encode(sealed.digest, 'hex')));
    RETURN true;
END
$$;

-- Opens a closed month again. Takes two people, unless four eyes are off: the first call notes the request and returns false,
-- that of another person opens it and returns true. Batches that became final stay so.
CREATE FUNCTION reopen_period(p_ledger_id text, p_month date, p_actor text, p_reason text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    closed_month date := date_trunc('month', p_month::timestamp)::date;
    subject      text := p_ledger_id || ' ' || to_char(p_month, 'YYYY-MM');
    reopened     ledger_periods;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM ledger_periods WHERE ledger_id = p_ledger_id AND month = closed_month) THEN
        RETURN true;
    ELSIF NOT confirmed_by_another('period_reopen', subject, p_actor, p_reason) THEN
        RETURN false;
    END IF;
    LOCK TABLE ledger_seals IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM ledger_periods WHERE ledger_id = p_ledger_id AND month = closed_month RETURNING * INTO reopened;
    IF NOT FOUND THEN
        RETURN true;    -- somebody else reopened it while this waited
    END IF;
    INSERT INTO ledger_seals (ledger_id, kind, month, entries, digest)
    SELECT s.ledger_id, 'annulment', s.month, s.entries, s.digest
    FROM ledger_seals s
    WHERE s.ledger_id = p_ledger_id AND s.kind = 'period' AND s.month = closed_month
    ORDER BY s.number DESC
    LIMIT 1;
    PERFORM write_audit_log(
        p_actor, 'period_reopen', subject, p_reason,
        jsonb_build_object('closed', true, 'closed_by', reopened.closed_by, 'closed_at', ledger_utc_text(reopened.closed_at)),
        jsonb_build_object('closed', false));
    RETURN true;
END
$$;

-- Seals that still count: not annulled, and of a period the last one.
CREATE VIEW ledger_seals_in_force AS
SELECT s.*
FROM ledger_seals s
WHERE s.kind <> 'annulment'
  AND NOT EXISTS (SELECT 1 FROM ledger_seals later
                  WHERE later.batch_id = s.batch_id AND later.ledger_id = s.ledger_id AND later.number > s.number)
  AND NOT EXISTS (SELECT 1 FROM ledger_seals later
                  WHERE later.month = s.month AND later.ledger_id = s.ledger_id AND later.number > s.number);

-- What is wrong with the chains of seals; nothing, as long as nobody touched them. The entries are another matter.
CREATE FUNCTION ledger_seal_chain_faults() RETURNS TABLE (ledger_id text, number bigint, fault text)
LANGUAGE sql STABLE AS $$
    WITH linked AS (
        SELECT s.ledger_id, s.number, s.previous_seal, s.seal, ledger_seal_hash(s) AS computed,
               lag(s.number, 1, 0::bigint) OVER ordered AS before_it,
               lag(s.seal, 1, ''::bytea) OVER ordered AS expected_previous
        FROM ledger_seals s
        WINDOW ordered AS (PARTITION BY s.ledger_id ORDER BY s.number)
    ), latest AS (
        SELECT DISTINCT ON (l.ledger_id) l.ledger_id, l.number, l.seal FROM linked l ORDER BY l.ledger_id, l.number DESC
    )
    SELECT l.ledger_id, l.number, 'was edited: it does not fit its hash' FROM linked l WHERE l.seal <> l.computed
    UNION ALL
    SELECT l.ledger_id, l.number, CASE WHEN l.number > l.before_it + 1
                                       THEN format('seals %s to %s before it were removed', l.before_it + 1, l.number - 1)
                                       ELSE 'does not follow the seal before it' END
    FROM linked l WHERE l.previous_seal <> l.expected_previous OR l.number > l.before_it + 1
    UNION ALL
    SELECT coalesce(head.ledger_id, latest.ledger_id), coalesce(head.number, latest.number),
           CASE WHEN head.ledger_id IS NULL THEN 'is the last one, which the ledger does not know'
                WHEN coalesce(latest.number, 0) < head.number
                THEN format('seals after %s were removed', coalesce(latest.number, 0))
                ELSE 'is not the seal that was made last' END
    FROM ledger_seal_heads head
    FULL JOIN latest ON latest.ledger_id = head.ledger_id
    WHERE (head.number, head.seal) IS DISTINCT FROM (latest.number, latest.seal)
    ORDER BY 1, 2
$$;

-- As in 0002: the functions work on the tables beside them, whatever the session's search_path says. ledger_entry_digest
-- names none; it would not be inlined any more.
CALL pin_functions(ARRAY[
    'ledger_seal_hash', 'ledger_seals_chain', 'ledger_batch_digests', 'ledger_period_digest', 'seal_batches',
    'ledger_batch_is_final', 'finalize_seals', 'annul_seals', 'close_period', 'reopen_period',
    'ledger_seal_chain_faults'
]);
