-- Posts a table into the ledger, for those who can run nothing but psql. The table lies in the ledger's own database.
--
--   psql "$LEDGER_DATABASE_URL" -v source=ledger_entries_legacy -v source_id=legacy -f scripts/backfill_ledger.sql
--
-- variable      default
-- source        required   a table or a view, as schema.name; other shapes become this one by a view of yours
-- source_id     legacy     what the ledger calls it: batches, rejects and the checkpoint are recorded under it
-- key           id         the column in whose order rows are posted; unique, never NULL, best with an index
-- batch_size    10000      rows of a transaction
--
-- Columns: ledger_id, debit_account_id, credit_account_id, amount (numeric or integer), currency_code, transaction_type,
-- reference_id, timestamp_utc (timestamptz), and where they are there asset_type, fx_rate, metadata (json or jsonb).
--
-- What it does is what `backfill run` does with such a table, with the same records: rows that the ledger has already are
-- duplicates when they are identical, conflicts when they are not, bad rows are rejects, and nothing is lost without being
-- counted. Each batch commits with its record, its rejects and the checkpoint. Stopped at any moment, it goes on behind the
-- last batch when it is started again; started after its end, it posts nothing.
--
-- Exit status: 0 everything is in the ledger. 3 an error, or rows that are not posted (the last line says which, and how to
-- list them). 1 and 2 are psql's own: a file that cannot be read, a server that cannot be reached.

\set ON_ERROR_STOP on
\set AUTOCOMMIT on
\set QUIET on
\pset pager off
\if :{?source} \else \set source '' \endif
\if :{?source_id} \else \set source_id legacy \endif
\if :{?key} \else \set key id \endif
\if :{?batch_size} \else \set batch_size 10000 \endif

SELECT set_config('backfill.source', :'source', false) AS source_, set_config('backfill.source_id', :'source_id', false) AS id_,
       set_config('backfill.key', :'key', false) AS key_, set_config('backfill.batch_size', :'batch_size', false) AS size_,
       set_config('timezone', 'UTC', false) AS zone_, set_config('datestyle', 'ISO, YMD', false) AS style_,
       set_config('work_mem', '128MB', false) AS memory_, set_config('lock_timeout', '60s', false) AS wait_,
       set_config('jit', 'off', false) AS jit_, set_config('backfill.origin', 'LOCAL', false) AS origin_,
       set_config('default_transaction_isolation', 'read committed', false) AS isolation_,
       -- In what the text of a row is written, from which it is hashed: whoever goes on may have other settings.
       set_config('intervalstyle', 'postgres', false) AS interval_, set_config('bytea_output', 'hex', false) AS bytea_,
       set_config('extra_float_digits', '1', false) AS floats_ \gset

-- --- what is read ----------------------------------------------------------------------------------------------------

DO $$
DECLARE
    source    regclass := to_regclass(nullif(current_setting('backfill.source'), ''));
    source_id text := current_setting('backfill.source_id');
    key       text := current_setting('backfill.key');
    names     text[];
    types     text[];
    kind      text;
    white     CONSTANT text := E' \t\n\r\f\v';
    selected  text := '';
    wanted    record;
BEGIN
    IF current_setting('backfill.source') = '' THEN
        RAISE EXCEPTION 'no table is named: psql -v source=ledger_entries_legacy -f scripts/backfill_ledger.sql';
    ELSIF source IS NULL THEN
        RAISE EXCEPTION 'there is no table or view %', current_setting('backfill.source');
    ELSIF source_id !~ '^[a-z][a-z0-9_]{0,62}$' THEN
        RAISE EXCEPTION 'source_id % must be lower-case letters, digits and _, and begin with a letter', source_id;
    ELSIF current_setting('backfill.batch_size') !~ '^[1-9][0-9]{0,6}$' THEN
        RAISE EXCEPTION 'batch_size % must be a number from 1 to 9999999', current_setting('backfill.batch_size');
    ELSIF to_regclass('backfill_rollbacks') IS NULL THEN
        RAISE EXCEPTION 'this database holds no ledger, or not all of its migrations: backfill db migrate';
    ELSIF NOT pg_try_advisory_lock(1818584950, hashtext(source_id)) THEN
        RAISE EXCEPTION 'source % is being written by another run: wait for it to end', source_id;
    END IF;
    SELECT array_agg(attname ORDER BY attnum), array_agg(format_type(atttypid, NULL) ORDER BY attnum) INTO names, types
    FROM pg_attribute WHERE attrelid = source AND attnum > 0 AND NOT attisdropped;
    kind := types[array_position(names, key)];
    IF kind IS NULL THEN
        RAISE EXCEPTION '% has no column %, which is the key: -v key=…', source, key;
    ELSIF kind IN ('real', 'double precision') THEN
        RAISE EXCEPTION 'column % of % is a float, which cannot be the key', key, source;
    END IF;
    FOR wanted IN
        SELECT * FROM (VALUES
            ('ledger_id', 'text', NULL), ('debit_account_id', 'text', NULL), ('credit_account_id', 'text', NULL),
            ('amount', 'numeric', NULL), ('currency_code', 'text', NULL), ('asset_type', 'text', '''fiat'''),
            ('transaction_type', 'text', NULL), ('reference_id', 'text', NULL), ('timestamp_utc', 'timestamptz', NULL),
            ('fx_rate', 'numeric', 'NULL'), ('metadata', 'jsonb', 'NULL')
        ) AS field (name, type, fallback)
    LOOP
        kind := types[array_position(names, wanted.name)];
        IF kind IS NULL AND wanted.fallback IS NULL THEN
            RAISE EXCEPTION '% has no column %: make a view that has it', source, wanted.name;
        ELSIF wanted.type = 'numeric' AND kind NOT IN ('numeric', 'smallint', 'integer', 'bigint')
           OR wanted.type = 'timestamptz' AND kind <> 'timestamp with time zone'
           OR wanted.type = 'jsonb' AND kind NOT IN ('json', 'jsonb') THEN
            RAISE EXCEPTION 'column % of % is %: make a view in which it is %', wanted.name, source, kind, wanted.type;
        END IF;
        selected := selected || CASE
            WHEN kind IS NULL THEN format(', %s::%s AS %I', wanted.fallback, wanted.type, wanted.name)
            WHEN wanted.type = 'text' AND wanted.name = 'asset_type' THEN
                format(', coalesce(nullif(btrim(s.%I::text, %L), ''''), ''fiat'') AS %1$I', wanted.name, white)
            WHEN wanted.type = 'text' THEN format(', btrim(s.%I::text, %L) AS %1$I', wanted.name, white)
            ELSE format(', s.%I::%s AS %1$I', wanted.name, wanted.type) END;
    END LOOP;
    EXECUTE format('CREATE TEMP VIEW backfill_rows AS SELECT s.%I AS key%s, to_jsonb(s)::text AS raw FROM %s s',
                   key, selected, source);
END
$$;

-- How its columns are read, as a hash; the same whichever schemas are on the path of whoever asks.
CREATE FUNCTION pg_temp.backfill_mapping() RETURNS text
LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT encode(sha256(convert_to(pg_get_viewdef('pg_temp.backfill_rows'::regclass), 'UTF8')), 'hex')
$$;

-- How many rows there are, and one hash over all of them in the order of the key. In three steps, so that no text grows large.
CREATE FUNCTION pg_temp.backfill_fingerprint(OUT rows bigint, OUT bytes bigint, OUT sha256 text)
LANGUAGE sql AS $$
    SELECT coalesce(sum(n), 0)::bigint, coalesce(sum(length), 0)::bigint,
           encode(sha256(coalesce(string_agg(digest, '' ORDER BY part), '')), 'hex')
    FROM (SELECT (place - 1) / 100000 AS part, count(*) AS n, sum(length) AS length,
                 sha256(string_agg(digest, '' ORDER BY place)) AS digest
          FROM (SELECT row_number() OVER (ORDER BY key) AS place, octet_length(raw) AS length,
                       sha256(convert_to(raw, 'UTF8')) AS digest
                FROM pg_temp.backfill_rows) AS hashed
          GROUP BY 1) AS parts
$$;

CREATE TEMP TABLE backfill_staging (
    ledger_id text COLLATE "C", debit_account_id text COLLATE "C", credit_account_id text COLLATE "C", amount numeric,
    currency_code text COLLATE "C", asset_type text, transaction_type text, reference_id text COLLATE "C",
    timestamp_utc timestamptz, fx_rate numeric, metadata jsonb, source_row bigint, raw text,
    entry_id bigint                         -- the entry of the ledger that has its reference
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE backfill_verdicts (
    source_row bigint PRIMARY KEY, verdict text, code text, field text, reason text,
    compared_row bigint                     -- the row of the batch that it repeats
) ON COMMIT DELETE ROWS;

-- --- a batch: its rows told apart in sets -------------------------------------------------------------------------------

-- Rows that cannot be entries, whatever the ledger holds. The first field that is wrong gives the code.
CREATE FUNCTION pg_temp.backfill_refuse_bad_rows() RETURNS void
LANGUAGE sql AS $$
    INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
    SELECT source_row, 'rejected', told.code,
           CASE WHEN told.code LIKE 'time%' THEN 'timestamp_utc' WHEN told.code LIKE 'amount%' THEN 'amount'
                WHEN told.code LIKE 'fx_rate%' THEN 'fx_rate' WHEN told.code LIKE 'currency%' THEN 'currency_code'
                WHEN told.code = 'same_account' THEN 'credit_account_id'
                ELSE regexp_replace(told.code, '_(missing|too_long|unknown)$', '') END,
           CASE WHEN told.code LIKE '%_missing' THEN 'is empty'
                WHEN told.code LIKE '%_too_long' THEN 'is longer than the ledger''s column'
                WHEN told.code LIKE 'amount%' THEN format('amount %s of %s is not allowed', amount, currency_code)
                WHEN told.code LIKE 'fx_rate%' THEN format('fx_rate %s is not allowed', fx_rate)
                WHEN told.code = 'same_account' THEN format('debits and credits the same account %s', debit_account_id)
                WHEN told.code = 'time_out_of_range' THEN format('time %s is not between 1900 and 2199', timestamp_utc)
                ELSE format('currency %s or asset type %s is unknown', currency_code, asset_type) END
    FROM backfill_staging s
    LEFT JOIN currencies c ON c.code = s.currency_code
    CROSS JOIN LATERAL (SELECT CASE
        WHEN coalesce(ledger_id, '') = '' THEN 'ledger_id_missing'
        WHEN coalesce(debit_account_id, '') = '' THEN 'debit_account_id_missing'
        WHEN coalesce(credit_account_id, '') = '' THEN 'credit_account_id_missing'
        WHEN amount IS NULL THEN 'amount_missing'
        WHEN amount IN ('NaN', 'Infinity', '-Infinity') THEN 'amount_malformed'
        WHEN abs(amount) >= 100000000000000000000 OR scale(trim_scale(amount)) > 18 THEN 'amount_out_of_range'
        WHEN coalesce(s.currency_code, '') = '' THEN 'currency_code_missing'
        WHEN coalesce(transaction_type, '') = '' THEN 'transaction_type_missing'
        WHEN coalesce(reference_id, '') = '' THEN 'reference_id_missing'
        WHEN timestamp_utc IS NULL THEN 'time_missing'
        WHEN NOT isfinite(timestamp_utc) THEN 'time_malformed'
        WHEN fx_rate IN ('NaN', 'Infinity', '-Infinity') THEN 'fx_rate_malformed'
        WHEN abs(fx_rate) >= 100000000000000000000 OR scale(trim_scale(fx_rate)) > 18 THEN 'fx_rate_out_of_range'
        WHEN length(ledger_id) > 64 THEN 'ledger_id_too_long'
        WHEN length(debit_account_id) > 255 THEN 'debit_account_id_too_long'
        WHEN length(credit_account_id) > 255 THEN 'credit_account_id_too_long'
        WHEN debit_account_id = credit_account_id THEN 'same_account'
        WHEN amount <= 0 THEN 'amount_not_positive'
        WHEN scale(trim_scale(amount)) > c.minor_units THEN 'amount_too_many_decimals'
        WHEN c.code IS NULL THEN 'currency_unknown'
        WHEN asset_type NOT IN ('fiat', 'cbdc', 'commodity', 'security') THEN 'asset_type_unknown'
        WHEN length(transaction_type) > 64 THEN 'transaction_type_too_long'
        WHEN length(reference_id) > 255 THEN 'reference_id_too_long'
        WHEN timestamp_utc < '1900-01-01Z' OR timestamp_utc >= '2200-01-01Z' THEN 'time_out_of_range'
        WHEN fx_rate <= 0 THEN 'fx_rate_not_positive' END AS code) AS told
    WHERE told.code IS NOT NULL
$$;

-- What differs between two rows of one reference; empty when they are the same entry.
CREATE TYPE pg_temp.backfill_payload AS (
    debit_account_id text, credit_account_id text, amount numeric, currency_code text, asset_type text,
    transaction_type text, timestamp_utc timestamptz, fx_rate numeric, metadata jsonb
);
CREATE FUNCTION pg_temp.backfill_differences(ours pg_temp.backfill_payload, theirs pg_temp.backfill_payload) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT concat_ws(', ',
        CASE WHEN ours.debit_account_id <> theirs.debit_account_id THEN
            format('debit_account_id (%s, not %s)', ours.debit_account_id, theirs.debit_account_id) END,
        CASE WHEN ours.credit_account_id <> theirs.credit_account_id THEN
            format('credit_account_id (%s, not %s)', ours.credit_account_id, theirs.credit_account_id) END,
        CASE WHEN ours.amount <> theirs.amount THEN format('amount (%s, not %s)', ours.amount, theirs.amount) END,
        CASE WHEN ours.currency_code <> theirs.currency_code THEN
            format('currency_code (%s, not %s)', ours.currency_code, theirs.currency_code) END,
        CASE WHEN ours.asset_type <> theirs.asset_type THEN
            format('asset_type (%s, not %s)', ours.asset_type, theirs.asset_type) END,
        CASE WHEN ours.transaction_type <> theirs.transaction_type THEN
            format('transaction_type (%s, not %s)', ours.transaction_type, theirs.transaction_type) END,
        CASE WHEN ours.timestamp_utc <> theirs.timestamp_utc THEN
            format('timestamp_utc (%s, not %s)', ours.timestamp_utc, theirs.timestamp_utc) END,
        CASE WHEN ours.fx_rate IS DISTINCT FROM theirs.fx_rate THEN 'fx_rate' END,
        CASE WHEN ours.metadata IS DISTINCT FROM theirs.metadata THEN 'metadata' END)
$$;

-- Rows whose reference is taken: by an entry of the ledger, or by an earlier row of the batch that can be posted.
CREATE FUNCTION pg_temp.backfill_compare_references() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE backfill_staging s SET entry_id = e.id
    FROM ledger_entries e
    WHERE e.ledger_id = s.ledger_id AND e.reference_id = s.reference_id
      AND NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row);

    -- What was reversed is there, and yet not posted: under which reference it is posted again, the pipeline knows.
    IF EXISTS (SELECT 1 FROM ledger_reversals r JOIN backfill_staging s ON s.entry_id = r.entry_id) THEN
        RAISE EXCEPTION 'entries of these rows were reversed by a rollback: post them again with backfill run';
    END IF;

    -- Accounts, for rows that would be new.
    INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
    SELECT source_row, 'rejected', code,
           CASE code WHEN 'unknown_account' THEN
                    CASE WHEN debit_id IS NULL THEN 'debit_account_id' ELSE 'credit_account_id' END
                WHEN 'currency_mismatch' THEN 'currency_code' WHEN 'fx_rate_missing' THEN 'fx_rate'
                ELSE 'timestamp_utc' END,
           CASE code WHEN 'unknown_account' THEN
                    format('account %s does not exist', CASE WHEN debit_id IS NULL THEN debit_account_id ELSE credit_account_id END)
                WHEN 'currency_mismatch' THEN
                    format('is in %s, but its accounts are in %s and %s', currency_code, debit_currency, credit_currency)
                WHEN 'fx_rate_missing' THEN
                    format('moves between %s and %s and has no fx_rate', debit_currency, credit_currency)
                ELSE format('is dated %s, and period %s of ledger %s is closed', ledger_utc_text(timestamp_utc),
                            to_char(ledger_month(timestamp_utc), 'YYYY-MM'), ledger_id) END
    FROM (SELECT s.*, debit.id AS debit_id, debit.currency_code AS debit_currency, credit.currency_code AS credit_currency,
                 CASE WHEN period.month IS NOT NULL THEN 'period_closed'
                      WHEN debit.id IS NULL OR credit.id IS NULL THEN 'unknown_account'
                      WHEN s.currency_code NOT IN (debit.currency_code, credit.currency_code) THEN 'currency_mismatch'
                      WHEN debit.currency_code <> credit.currency_code AND s.fx_rate IS NULL THEN 'fx_rate_missing' END AS code
          FROM backfill_staging s
          LEFT JOIN bank_accounts debit ON debit.id = s.debit_account_id
          LEFT JOIN bank_accounts credit ON credit.id = s.credit_account_id
          LEFT JOIN ledger_periods period ON period.ledger_id = s.ledger_id
                AND period.month = ledger_month(s.timestamp_utc)
          WHERE s.entry_id IS NULL
            AND NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row)) AS judged
    WHERE code IS NOT NULL;

    INSERT INTO backfill_verdicts AS v (source_row, verdict, code, field, reason, compared_row)
    SELECT later.source_row, told.kind, told.kind, 'reference_id',
           CASE told.kind WHEN 'duplicate' THEN format('identical to row %s', later.winner)
                ELSE format('same reference as row %s with other %s', later.winner, differences) END,
           later.winner
    FROM (SELECT s.source_row, min(s.source_row) FILTER (WHERE v.code IS NULL) OVER same AS winner, v.code
          FROM backfill_staging s LEFT JOIN backfill_verdicts v USING (source_row)
          WHERE s.entry_id IS NULL AND (v.code IS NULL OR v.code IN ('unknown_account', 'currency_mismatch', 'fx_rate_missing', 'period_closed'))
          WINDOW same AS (PARTITION BY s.ledger_id, s.reference_id)) AS later
    JOIN backfill_staging s ON s.source_row = later.source_row
    JOIN backfill_staging w ON w.source_row = later.winner
    CROSS JOIN LATERAL (SELECT pg_temp.backfill_differences(
                             ROW(s.debit_account_id, s.credit_account_id, s.amount, s.currency_code, s.asset_type,
                                 s.transaction_type, s.timestamp_utc, s.fx_rate, s.metadata)::pg_temp.backfill_payload,
                             ROW(w.debit_account_id, w.credit_account_id, w.amount, w.currency_code, w.asset_type,
                                 w.transaction_type, w.timestamp_utc, w.fx_rate, w.metadata)::pg_temp.backfill_payload) AS differences) AS compared
    CROSS JOIN LATERAL (SELECT CASE differences WHEN '' THEN 'duplicate' ELSE 'conflict' END AS kind) AS told
    WHERE later.source_row > later.winner
    ON CONFLICT (source_row) DO UPDATE
    SET verdict = excluded.verdict, code = excluded.code, field = excluded.field, reason = excluded.reason,
        compared_row = excluded.compared_row;

    INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
    SELECT source_row, kind, kind, 'reference_id',
           CASE kind WHEN 'duplicate' THEN 'identical to the ledger'
                ELSE format('same reference as the ledger with other %s', differences) END
    FROM (SELECT s.source_row, compared.differences,
                 CASE compared.differences WHEN '' THEN 'duplicate' ELSE 'conflict' END AS kind
          FROM backfill_staging s JOIN ledger_entries e ON e.id = s.entry_id
          CROSS JOIN LATERAL (SELECT pg_temp.backfill_differences(
                                 ROW(s.debit_account_id, s.credit_account_id, s.amount, s.currency_code, s.asset_type,
                                 s.transaction_type, s.timestamp_utc, s.fx_rate, s.metadata)::pg_temp.backfill_payload,
                                 ROW(e.debit_account_id, e.credit_account_id, e.amount, e.currency_code, e.asset_type,
                                 e.transaction_type, e.timestamp_utc, e.fx_rate, e.metadata)::pg_temp.backfill_payload) AS differences) AS compared
         ) AS told;
END
$$;

-- --- registering --------------------------------------------------------------------------------------------------------

-- The source as it is now, as one part. What is registered already at the same fingerprint goes on; what changed becomes a
-- new revision, unless only a part of the old one is posted.
DO $$
DECLARE
    source      text := current_setting('backfill.source');
    this          text := current_setting('backfill.source_id');
    found       record;
    current     record;
    mapping     text := pg_temp.backfill_mapping();
    keys        record;
    new_id      bigint;
    new_number  integer;
BEGIN
    SELECT count(*) AS rows, count(key) AS given, count(DISTINCT key) AS different INTO keys FROM pg_temp.backfill_rows;
    IF keys.given < keys.rows OR keys.different < keys.rows THEN
        RAISE EXCEPTION 'column % of % does not tell all rows apart: % rows, % keys, % different ones',
            current_setting('backfill.key'), source, keys.rows, keys.given, keys.different;
    END IF;
    SELECT * INTO found FROM pg_temp.backfill_fingerprint();
    SELECT r.id, r.revision, r.sha256, r.mapping_sha256, r.completed_at, r.source_type,
           EXISTS (SELECT 1 FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id
                   WHERE p.registration_id = r.id) AS begun
    INTO current FROM backfill_registrations r WHERE r.source_id = this ORDER BY r.revision DESC LIMIT 1;
    IF current.sha256 = found.sha256 AND current.mapping_sha256 = mapping THEN
        RETURN;
    ELSIF current.begun AND current.completed_at IS NULL THEN
        RAISE EXCEPTION '% changed since it was registered as %, and a part of it is posted: restore it and go on, or roll it back'
            ' (backfill rollback %)', source, this, this;
    END IF;
    new_number := coalesce(current.revision, 0) + 1;
    INSERT INTO backfill_registrations (source_id, source_type, revision, file_name, size_bytes, sha256, mapping_sha256,
                                        mapping_parts, header, row_count)
    SELECT this, 'DATABASE', new_number, source, found.bytes, found.sha256, mapping, jsonb_build_object('script', mapping),
           array_agg(attname ORDER BY attnum), found.rows
    FROM pg_attribute WHERE attrelid = source::regclass AND attnum > 0 AND NOT attisdropped
    RETURNING backfill_registrations.id INTO new_id;
    DELETE FROM backfill_source_references s WHERE s.source_id = this;
    INSERT INTO backfill_partitions (registration_id, partition_key, number, first_row, row_count, first_line, byte_offset,
                                     byte_length, sha256, rejected_early, filtered, valid_rows, validated_at)
    VALUES (new_id, CASE new_number WHEN 1 THEN '0001' ELSE format('r%s-0001', new_number) END, 1, 1, found.rows, 1, 0, found.bytes,
            found.sha256, 0, 0, found.rows, now());
    INSERT INTO ledger_backfill_checkpoints (source_id, source_type, started_at, last_checkpoint_at, metadata)
    VALUES (this, 'DATABASE', timezone('UTC', now()), timezone('UTC', now()),
            jsonb_build_object('revision', new_number, 'sha256', found.sha256, 'rows', found.rows))
    ON CONFLICT (source_id, source_type) DO UPDATE
    SET last_processed_id = NULL, last_processed_timestamp = NULL, total_processed = 0, total_successful = 0, total_failed = 0,
        status = 'IN_PROGRESS', started_at = excluded.started_at, last_checkpoint_at = excluded.last_checkpoint_at,
        completed_at = NULL, error_message = NULL, metadata = excluded.metadata;
END
$$;

-- --- posting ------------------------------------------------------------------------------------------------------------

-- Transactions that commit inside need psql's autocommit: neither -1 nor BEGIN around this script.
DO $$
DECLARE
    this         text := current_setting('backfill.source_id');
    batch_size bigint := current_setting('backfill.batch_size')::bigint;
    run        text := 'psql ' || gen_random_uuid();
    began      timestamptz;
    part       record;
    from_row   bigint;
    to_row     bigint;
    after_key  text;            -- of the row before the batch
    behind     bigint := 0;     -- its number, when after_key is known
    batch      bigint;
    told       record;
    inserted   bigint;
BEGIN
    SELECT p.id, p.partition_key AS key, p.row_count INTO STRICT part
    FROM backfill_partitions p JOIN backfill_registrations r ON r.id = p.registration_id
    WHERE r.source_id = this ORDER BY r.revision DESC LIMIT 1;
    LOOP
        began := clock_timestamp();
        -- A batch of a run that was killed may still be committing: wait for it, then look.
        PERFORM pg_advisory_xact_lock(1818584950, hashtext('partition ' || part.id));
        -- The first rows that no batch covers: behind the last batch, or where one was rolled back.
        SELECT min(open.row) INTO from_row
        FROM (SELECT 1 AS row UNION ALL SELECT last_row + 1 FROM backfill_batches
              WHERE partition_id = part.id AND kind = 'entries') AS open
        WHERE open.row <= part.row_count AND NOT EXISTS (
            SELECT 1 FROM backfill_batches b
            WHERE b.partition_id = part.id AND b.kind = 'entries' AND b.first_row = open.row);
        EXIT WHEN from_row IS NULL;
        SELECT least(from_row + batch_size - 1, min(first_row) - 1, part.row_count) INTO to_row
        FROM backfill_batches WHERE partition_id = part.id AND kind = 'entries' AND first_row > from_row;
        IF behind <> from_row - 1 THEN
            SELECT r.key::text INTO STRICT after_key FROM pg_temp.backfill_rows r ORDER BY r.key OFFSET from_row - 2 LIMIT 1;
        END IF;

        EXECUTE format(
            'INSERT INTO backfill_staging (ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,'
            ' transaction_type, reference_id, timestamp_utc, fx_rate, metadata, source_row, raw)'
            ' SELECT ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type, transaction_type,'
            ' reference_id, timestamp_utc, fx_rate, metadata, %s - 1 + row_number() OVER (ORDER BY key), raw'
            ' FROM (SELECT * FROM pg_temp.backfill_rows %s ORDER BY key LIMIT %s) AS page',
            from_row, CASE WHEN from_row > 1 THEN format('WHERE key > %L', after_key) ELSE '' END, to_row - from_row + 1);
        EXECUTE format('SELECT r.key::text FROM pg_temp.backfill_rows r %s ORDER BY r.key OFFSET %s LIMIT 1',
                       CASE WHEN from_row > 1 THEN format('WHERE key > %L', after_key) ELSE '' END, to_row - from_row)
        INTO after_key;
        behind := to_row;
        ANALYZE backfill_staging;

        LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE;
        PERFORM pg_temp.backfill_refuse_bad_rows();
        PERFORM pg_temp.backfill_compare_references();
        IF EXISTS (SELECT 1 FROM pg_constraint WHERE conrelid = 'bank_accounts'::regclass
                   AND conname = 'bank_accounts_available_balance_nonnegative') THEN
            PERFORM backfill_settle_balances();
        END IF;

        batch := nextval(pg_get_serial_sequence('backfill_batches', 'id'));
        INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,
                                    transaction_type, reference_id, timestamp_utc, fx_rate, metadata, batch_id, source_row)
        SELECT s.ledger_id, s.debit_account_id, s.credit_account_id, s.amount, s.currency_code, s.asset_type, s.transaction_type,
               s.reference_id, s.timestamp_utc, s.fx_rate, s.metadata, batch, s.source_row
        FROM backfill_staging s
        WHERE NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row)
        ORDER BY s.source_row;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        SELECT count(*) FILTER (WHERE verdict = 'duplicate') AS duplicates, count(*) FILTER (WHERE verdict = 'conflict') AS conflicts,
               count(*) FILTER (WHERE verdict = 'rejected') AS rejected,
               (SELECT count(*) FROM backfill_staging) AS read
        INTO told FROM backfill_verdicts;
        IF told.read <> to_row - from_row + 1 THEN
            RAISE EXCEPTION 'rows % to % were asked for and % came: the table changed while it was read', from_row, to_row, told.read;
        END IF;
        -- read = posted + duplicates + conflicts + rejected, or the record is refused and nothing of the batch is posted.
        INSERT INTO backfill_batches (id, partition_id, source_id, kind, first_row, last_row, read, posted, duplicates, conflicts,
                                      rejected, run_id, path, started_at, seconds)
        VALUES (batch, part.id, this, 'entries', from_row, to_row, told.read, inserted, told.duplicates, told.conflicts,
                told.rejected, run, 'staging', now(), extract(epoch FROM clock_timestamp() - began));
        INSERT INTO backfill_rejects (partition_id, batch_id, source_row, source_line, byte_offset, stage, code, field, reason, raw)
        SELECT part.id, batch, v.source_row, v.source_row, v.source_row - 1,
               CASE WHEN v.code ~ '(_malformed|amount_out_of_range|fx_rate_out_of_range)$'
                      OR v.code ~ '_missing$' AND v.code <> 'fx_rate_missing' THEN 'transform'
                    WHEN v.code IN ('unknown_account', 'currency_mismatch', 'fx_rate_missing', 'balance_constraint', 'conflict',
                                    'period_closed') THEN 'post'
                    ELSE 'validate' END,
               v.code, v.field, v.reason, s.raw
        FROM backfill_verdicts v JOIN backfill_staging s USING (source_row) WHERE v.verdict <> 'duplicate';
        INSERT INTO backfill_source_references (source_id, partition_id, source_rows, ledger_ids, reference_ids)
        SELECT this, part.id, array_agg(s.source_row ORDER BY s.source_row), array_agg(s.ledger_id ORDER BY s.source_row),
               array_agg(s.reference_id ORDER BY s.source_row)
        FROM backfill_staging s
        WHERE NOT EXISTS (SELECT 1 FROM backfill_rejects x
                          WHERE x.partition_id = part.id AND x.source_row = s.source_row AND x.stage <> 'post')
        HAVING count(*) > 0;
        UPDATE ledger_backfill_checkpoints
        SET total_processed = total_processed + told.read, total_successful = total_successful + inserted + told.duplicates,
            total_failed = total_failed + told.conflicts + told.rejected, last_processed_id = after_key,
            last_processed_timestamp = coalesce((SELECT timezone('UTC', max(timestamp_utc)) FROM backfill_staging
                                                 WHERE isfinite(timestamp_utc)), last_processed_timestamp),
            status = 'IN_PROGRESS', completed_at = NULL, error_message = NULL, last_checkpoint_at = timezone('UTC', now()),
            metadata = metadata || jsonb_build_object('partition', part.key, 'batch_id', batch, 'last_row', to_row)
        WHERE source_id = this AND source_type = 'DATABASE';
        COMMIT;
        RAISE NOTICE 'rows % to %: % posted, % duplicates, % conflicts, % rejected',
            from_row, to_row, inserted, told.duplicates, told.conflicts, told.rejected;
    END LOOP;
    COMMIT;
END
$$;

-- --- proving ------------------------------------------------------------------------------------------------------------

-- Complete only when the table is still what was registered, every row of it is an entry of the same content or a recorded
-- reject, and every balance is what its legs say.
DO $$
DECLARE
    this        text := current_setting('backfill.source_id');
    found     record;
    outcome   record;
    lost      bigint;
    off       bigint;
BEGIN
    SELECT * INTO found FROM pg_temp.backfill_fingerprint();
    SELECT o.*, r.sha256 INTO STRICT outcome
    FROM backfill_partition_outcomes o JOIN backfill_registrations r ON r.id = o.registration_id
    WHERE o.source_id = this ORDER BY o.revision DESC LIMIT 1;
    IF found.sha256 <> outcome.sha256 THEN
        RAISE EXCEPTION 'the table changed while it was posted: what is posted stays; run this again when nobody writes to it';
    END IF;
    SELECT count(*) INTO lost
    FROM (SELECT r.*, row_number() OVER (ORDER BY key) AS source_row FROM pg_temp.backfill_rows r) AS s
    LEFT JOIN ledger_entries e ON e.ledger_id = s.ledger_id AND e.reference_id = s.reference_id
        AND (e.debit_account_id, e.credit_account_id, e.amount, e.currency_code, e.asset_type, e.transaction_type, e.timestamp_utc)
            = (s.debit_account_id, s.credit_account_id, s.amount, s.currency_code, s.asset_type, s.transaction_type, s.timestamp_utc)
        AND e.fx_rate IS NOT DISTINCT FROM s.fx_rate AND e.metadata IS NOT DISTINCT FROM s.metadata
    LEFT JOIN backfill_rejects x ON x.partition_id = outcome.partition_id AND x.source_row = s.source_row
    WHERE e.id IS NULL AND x.id IS NULL;
    SELECT count(*) INTO off
    FROM bank_accounts a
    LEFT JOIN (SELECT l.account_id, sum(CASE WHEN l.side = b.normal_side THEN l.amount ELSE -l.amount END) AS expected
               FROM ledger_entry_legs l JOIN bank_accounts b ON b.id = l.account_id GROUP BY l.account_id) AS legs
        ON legs.account_id = a.id
    WHERE a.balance <> coalesce(legs.expected, 0);
    IF lost > 0 OR off > 0 THEN
        RAISE EXCEPTION '% rows are neither entries nor recorded as rejected, and % balances are not what their legs say', lost, off;
    ELSIF outcome.read <> outcome.posted + outcome.duplicates + outcome.conflicts + outcome.rejected + outcome.filtered
          OR outcome.rejects_recorded <> outcome.conflicts + outcome.rejected THEN
        RAISE EXCEPTION 'partition % of % does not add up: %', outcome.partition_key, this, to_jsonb(outcome);
    END IF;
    UPDATE backfill_partitions SET posted_at = coalesce(posted_at, now()), error = NULL WHERE backfill_partitions.id = outcome.partition_id;
    UPDATE backfill_registrations SET completed_at = coalesce(completed_at, now()) WHERE backfill_registrations.id = outcome.registration_id;
    UPDATE ledger_backfill_checkpoints
    SET status = 'COMPLETED', completed_at = coalesce(completed_at, timezone('UTC', now())), error_message = NULL
    WHERE source_id = this AND source_type = 'DATABASE';
    PERFORM seal_batches();
END
$$;

SELECT o.source_id, o.read, o.posted, o.duplicates, o.conflicts, o.rejected
FROM backfill_partition_outcomes o WHERE o.source_id = :'source_id' ORDER BY o.revision DESC LIMIT 1;

SELECT x.code, count(*) AS rows, min(x.source_row) AS first_row, (array_agg(x.reason ORDER BY x.source_row))[1] AS first_reason
FROM backfill_rejects x
WHERE x.partition_id = (SELECT o.partition_id FROM backfill_partition_outcomes o WHERE o.source_id = :'source_id'
                        ORDER BY o.revision DESC LIMIT 1)
GROUP BY x.code ORDER BY 2 DESC, 1;

-- The exit status never calls a loss a success.
DO $$
DECLARE
    outcome record;
BEGIN
    SELECT * INTO STRICT outcome FROM backfill_partition_outcomes
    WHERE source_id = current_setting('backfill.source_id') ORDER BY revision DESC LIMIT 1;
    IF outcome.conflicts + outcome.rejected > 0 THEN
        RAISE EXCEPTION '% of % rows are not posted: SELECT source_row, code, reason, raw FROM backfill_rejects WHERE partition_id = %',
            outcome.conflicts + outcome.rejected, outcome.read, outcome.partition_id;
    END IF;
END
$$;
