-- Data steps: what a migration does to rows that are there, in batches, each in a transaction of its own, while postings go
-- on. How far each one has come is here, and commits together with its batches.
CREATE TABLE ledger_data_steps (
    version       integer PRIMARY KEY,              -- of the migration that it belongs to
    name          text NOT NULL,
    table_name    text NOT NULL,
    first_key     bigint NOT NULL,
    last_key      bigint NOT NULL,                  -- rows behind it came when the new schema was in force already
    done_upto     bigint NOT NULL,
    rows_done     bigint NOT NULL DEFAULT 0,        -- rows that were changed
    batches       bigint NOT NULL DEFAULT 0,
    registered_at timestamptz NOT NULL DEFAULT now(),
    last_batch_at timestamptz,
    finished_at   timestamptz,                      -- all rows are done, and so is the finish of the migration
    CHECK (done_upto BETWEEN first_key - 1 AND last_key)
);
COMMENT ON TABLE ledger_data_steps IS 'How far the data steps of migrations are; backfill db migrate carries on with them.';

-- Columns of ledger_entries that were added later and follow from the others, while entries that were there before are being
-- filled. That is no change of history, and nothing else is let through: see ledger_entries_keep_history.
CREATE TABLE ledger_open_columns (
    column_name name PRIMARY KEY,
    opened_at   timestamptz NOT NULL DEFAULT now()
);

-- Opens a column for filling. What it may hold must be said by a CHECK (NOT VALID is enough: it counts for what is filled), so
-- that no fill can put anything else there; and no column that tells what happened can be opened.
CREATE FUNCTION ledger_open_column(p_column name) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF p_column IN ('id', 'ledger_id', 'debit_account_id', 'credit_account_id', 'amount', 'currency_code', 'asset_type',
                    'transaction_type', 'reference_id', 'timestamp_utc', 'posted_at', 'fx_rate', 'metadata', 'batch_id',
                    'source_row') THEN
        RAISE EXCEPTION 'column % of ledger_entries is history and stays as it is: only columns that follow from it are filled',
                        p_column USING ERRCODE = 'restrict_violation';
    ELSIF NOT EXISTS (SELECT FROM pg_constraint c
                      JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                      WHERE c.conrelid = 'ledger_entries'::regclass AND c.contype = 'c' AND a.attname = p_column) THEN
        RAISE EXCEPTION 'ledger_entries has no CHECK that says what its column % holds: add one, NOT VALID', p_column
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO ledger_open_columns (column_name) VALUES (p_column);
    PERFORM write_audit_log(session_user, 'column_opened', 'ledger_entries.' || p_column,
                            'entries that are there are filled by a migration');
END
$$;

CREATE FUNCTION ledger_close_column(p_column name) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM ledger_open_columns WHERE column_name = p_column;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column % of ledger_entries is not open', p_column
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM write_audit_log(session_user, 'column_closed', 'ledger_entries.' || p_column,
                            'entries that were there are filled');
END
$$;

-- As ledger_refuse_change, but for what ledger_entries_keep_history looks at afterwards.
CREATE FUNCTION ledger_entries_refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND EXISTS (SELECT FROM ledger_open_columns) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% on % is refused: the ledger is append-only, post a correcting entry instead', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE OR REPLACE TRIGGER ledger_entries_append_only BEFORE UPDATE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_refuse_change();

-- With its open columns emptied again, every entry must be what it was, byte for byte: what was filled was empty, and nothing
-- else moved, not even the decimals of an amount.
CREATE FUNCTION ledger_entries_keep_history() RETURNS trigger
LANGUAGE plpgsql
SET enable_nestloop = off       -- plans are kept: one that was made for a single entry must not meet a batch
AS $$
DECLARE
    emptied jsonb := (SELECT jsonb_object_agg(column_name, NULL::text) FROM ledger_open_columns);
BEGIN
    IF (SELECT count(*) FROM new_entries)
       <> (SELECT count(*) FROM old_entries o JOIN new_entries n ON n.id = o.id
           WHERE jsonb_populate_record(n::ledger_entries, emptied) *= o::ledger_entries) THEN
        RAISE EXCEPTION 'UPDATE on ledger_entries is refused: the ledger is append-only, and only empty fields of % may be'
                        ' filled now', (SELECT string_agg(column_name, ', ' ORDER BY column_name) FROM ledger_open_columns)
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER ledger_entries_keep_history AFTER UPDATE ON ledger_entries
    REFERENCING OLD TABLE AS old_entries NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_keep_history();

-- A text that came from outside, for a CSV: no spreadsheet takes it for a formula. As in the files of rejects, a text with
-- apostrophes in front of such a character gets one more, so that taking one away gives every text back.
CREATE FUNCTION spreadsheet_text(outside text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT regexp_replace(outside, '^(''*[=+@\t\r-])', '''\1')
$$;

CALL pin_functions(ARRAY[
    'ledger_open_column', 'ledger_close_column', 'ledger_entries_refuse_change', 'ledger_entries_keep_history'
]);
