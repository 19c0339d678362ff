-- Posting: balances follow entries, whatever writes them: COPY, post_ledger_entry, or a person in psql.
-- Statement-level throughout, so that a batch of 250,000 entries costs two aggregates and one UPDATE per touched account.

-- Banker's rounding (IEEE 754 roundTiesToEven); PostgreSQL's own round() takes ties away from zero.
-- Powers of ten are written as literals: power() with a negative exponent keeps too few decimals before PostgreSQL 16.
CREATE FUNCTION round_half_even(value numeric, decimals integer) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE
        WHEN abs(value - trunc(value, decimals)) * 2 = ('1e-' || decimals)::numeric
             AND mod(trunc(value, decimals) * ('1e' || decimals)::numeric, 2) = 0
        THEN trunc(value, decimals)
        ELSE round(value, decimals)
    END
$$;

-- One aggregate per side and one UPDATE per touched account for a whole batch. Only the aggregate (a row per account and
-- currency) is held against the accounts; single entries are looked at only where an account turns out to be in another
-- currency than its entries.
--
-- A session keeps the plans of its first call, and planners guess badly about rows that were just copied. So the joins are
-- such that every plan is linear: accounts are met by their key, one entry or 250,000; and where entries meet the converted
-- accounts, nested loops are off.
CREATE FUNCTION ledger_entries_apply_balances() RETURNS trigger
LANGUAGE plpgsql
SET enable_mergejoin = off      -- would sort the batch by text
SET enable_nestloop = on        -- so that what is switched below is switched back
AS $$
DECLARE
    unknown_accounts   bigint;
    converted_accounts bigint;
    ids                text[];      -- of all touched accounts, once per currency of their entries
    account_currencies text[];
    entry_currencies   text[];
    nets               numeric[];   -- debits less credits, in the entries' currency
    converted_ids      text[];
    converted_nets     numeric[];
    problems           bigint;
    bad                record;
BEGIN
    WITH movement AS MATERIALIZED (
        SELECT account_id, currency_code, sum(net) AS net
        FROM (SELECT debit_account_id AS account_id, currency_code, sum(amount) AS net
              FROM new_entries GROUP BY 1, 2
              UNION ALL
              SELECT credit_account_id, currency_code, -sum(amount)
              FROM new_entries GROUP BY 1, 2) AS side
        GROUP BY account_id, currency_code
    ), locked AS MATERIALIZED (     -- always in id order: two batches can wait for each other, never deadlock
        SELECT account.id, account.normal_side, account.currency_code AS account_currency, movement.currency_code, net
        FROM movement
        JOIN bank_accounts account ON account.id = movement.account_id
        ORDER BY account.id
        FOR NO KEY UPDATE OF account
    ), counted AS MATERIALIZED (
        SELECT (SELECT count(*) FROM movement) - count(*) AS unknown,
               count(*) FILTER (WHERE account_currency <> currency_code) AS converted
        FROM locked
    ), applied AS (                 -- nothing, unless every account exists and is in the currency of its entries
        UPDATE bank_accounts AS account
        SET balance = account.balance + signed.delta,
            available_balance = account.available_balance + signed.delta
        FROM (SELECT id, CASE normal_side WHEN 'debit' THEN net ELSE -net END AS delta FROM locked) AS signed
        WHERE account.id = signed.id AND (SELECT unknown + converted FROM counted) = 0
    )
    SELECT counted.unknown, counted.converted, kept.*
    INTO unknown_accounts, converted_accounts, ids, account_currencies, entry_currencies, nets
    FROM counted
    CROSS JOIN LATERAL (
        SELECT array_agg(id), array_agg(account_currency), array_agg(currency_code), array_agg(net)
        FROM locked WHERE counted.converted > 0
    ) AS kept;

    IF unknown_accounts + converted_accounts = 0 THEN
        RETURN NULL;
    END IF;

    IF unknown_accounts = 0 THEN
        -- Entries of accounts in another currency move them by the converted amount, which is kept.
        PERFORM set_config('enable_nestloop', 'off', true);
        WITH converted AS MATERIALIZED (
            SELECT a.id, a.entry_currency, a.account_currency, coalesce(c.minor_units, 18) AS decimals
            FROM unnest(ids, account_currencies, entry_currencies) AS a (id, account_currency, entry_currency)
            JOIN currencies c ON c.code = a.account_currency
            WHERE a.account_currency <> a.entry_currency
        ), leg AS MATERIALIZED (    -- amount is NULL without a rate
            SELECT e.id AS entry_id, 'debit' AS side, a.id AS account_id, a.account_currency,
                   round_half_even(e.amount * e.fx_rate, a.decimals) AS amount
            FROM new_entries e JOIN converted a ON a.id = e.debit_account_id AND a.entry_currency = e.currency_code
            UNION ALL
            SELECT e.id, 'credit', a.id, a.account_currency, round_half_even(e.amount * e.fx_rate, a.decimals)
            FROM new_entries e JOIN converted a ON a.id = e.credit_account_id AND a.entry_currency = e.currency_code
        ), problem AS MATERIALIZED (
            SELECT (SELECT count(*) FROM leg WHERE amount IS NULL)
                 + (SELECT count(*) FROM (SELECT 1 FROM leg GROUP BY entry_id HAVING count(*) > 1) AS both_sides) AS count
        ), stored AS (
            INSERT INTO ledger_entry_conversions (entry_id, side, account_id, currency_code, amount)
            SELECT entry_id, side, account_id, account_currency, amount FROM leg
            WHERE (SELECT count FROM problem) = 0
        )
        SELECT (SELECT count FROM problem), array_agg(account_id), array_agg(net)
        INTO problems, converted_ids, converted_nets
        FROM (SELECT account_id, sum(CASE side WHEN 'debit' THEN amount ELSE -amount END) AS net
              FROM leg GROUP BY account_id) AS per_account;
        PERFORM set_config('enable_nestloop', 'on', true);

        IF problems = 0 THEN
            -- Movements in the account's own currency and converted ones together, so that no constraint sees a part.
            UPDATE bank_accounts AS account
            SET balance = account.balance
                    + CASE account.normal_side WHEN 'debit' THEN moved.net ELSE -moved.net END,
                available_balance = account.available_balance
                    + CASE account.normal_side WHEN 'debit' THEN moved.net ELSE -moved.net END
            FROM (SELECT id, sum(net) AS net
                  FROM (SELECT a.id, a.net
                        FROM unnest(ids, account_currencies, entry_currencies, nets)
                             AS a (id, account_currency, entry_currency, net)
                        WHERE a.account_currency = a.entry_currency
                        UNION ALL
                        SELECT * FROM unnest(converted_ids, converted_nets)) AS part (id, net)
                  GROUP BY id) AS moved
            WHERE account.id = moved.id;
            RETURN NULL;
        END IF;
    END IF;

    SELECT e.reference_id, e.currency_code, e.debit_account_id, e.credit_account_id,
           debit.currency_code AS debit_currency, credit.currency_code AS credit_currency
    INTO bad
    FROM new_entries e
    LEFT JOIN bank_accounts debit ON debit.id = e.debit_account_id
    LEFT JOIN bank_accounts credit ON credit.id = e.credit_account_id
    WHERE debit.id IS NULL OR credit.id IS NULL
       OR e.currency_code NOT IN (debit.currency_code, credit.currency_code)
       OR (e.fx_rate IS NULL AND debit.currency_code <> credit.currency_code)
    ORDER BY e.id
    LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'an account of these entries was opened while they were posted: post them again'
            USING ERRCODE = 'serialization_failure';
    ELSIF bad.debit_currency IS NULL OR bad.credit_currency IS NULL THEN
        RAISE EXCEPTION 'entry % names account %, which does not exist', bad.reference_id,
                CASE WHEN bad.debit_currency IS NULL THEN bad.debit_account_id ELSE bad.credit_account_id END
            USING ERRCODE = 'foreign_key_violation', TABLE = 'ledger_entries',
                  CONSTRAINT = 'ledger_entries_account_exists';
    ELSIF bad.currency_code NOT IN (bad.debit_currency, bad.credit_currency) THEN
        RAISE EXCEPTION 'entry % is in %, its accounts are in % and %',
                bad.reference_id, bad.currency_code, bad.debit_currency, bad.credit_currency
            USING ERRCODE = 'check_violation', TABLE = 'ledger_entries',
                  CONSTRAINT = 'ledger_entries_currency_fits_accounts';
    ELSE
        RAISE EXCEPTION 'entry % moves between % and % without an fx_rate',
                bad.reference_id, bad.debit_currency, bad.credit_currency
            USING ERRCODE = 'check_violation', TABLE = 'ledger_entries',
                  CONSTRAINT = 'ledger_entries_fx_rate_given';
    END IF;
END
$$;

CREATE TRIGGER ledger_entries_apply_balances_on_insert AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS new_entries FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_apply_balances();

-- The mirror: rolling back a batch deletes its entries, and the balances go back in the same statement, by what each
-- entry had moved (conversions are stored, not computed again).
CREATE FUNCTION ledger_entries_take_back_balances() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    WITH movement AS MATERIALIZED (
        SELECT account_id, sum(net) AS net
        FROM (SELECT e.debit_account_id AS account_id, coalesce(c.amount, e.amount) AS net
              FROM old_entries e LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.side = 'debit'
              UNION ALL
              SELECT e.credit_account_id, -coalesce(c.amount, e.amount)
              FROM old_entries e LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.side = 'credit') AS leg
        GROUP BY account_id
    ), locked AS MATERIALIZED (     -- in id order, as above
        SELECT account.id, CASE normal_side WHEN 'debit' THEN net ELSE -net END AS delta
        FROM movement
        JOIN bank_accounts account ON account.id = movement.account_id
        ORDER BY account.id
        FOR NO KEY UPDATE OF account
    )
    UPDATE bank_accounts AS account
    SET balance = account.balance - locked.delta,
        available_balance = account.available_balance - locked.delta
    FROM locked
    WHERE account.id = locked.id;

    DELETE FROM ledger_entry_conversions WHERE entry_id IN (SELECT id FROM old_entries);
    RETURN NULL;
END
$$;

CREATE TRIGGER ledger_entries_apply_balances_on_delete AFTER DELETE ON ledger_entries
    REFERENCING OLD TABLE AS old_entries FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_take_back_balances();

-- History is not edited: what is wrong is corrected by another entry.
CREATE FUNCTION ledger_refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: the ledger is append-only, post a correcting entry instead', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();
CREATE TRIGGER ledger_entry_conversions_append_only BEFORE UPDATE OR TRUNCATE ON ledger_entry_conversions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change();

-- What an account's balance means (its currency, its normal side) is fixed when it is opened.
CREATE FUNCTION bank_accounts_keep_identity() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'account % keeps its id, currency and normal side: open another account instead', OLD.id
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER bank_accounts_keep_identity BEFORE UPDATE OF id, currency_code, normal_side ON bank_accounts
    FOR EACH ROW WHEN ((OLD.id, OLD.currency_code, OLD.normal_side) IS DISTINCT FROM (NEW.id, NEW.currency_code, NEW.normal_side))
    EXECUTE FUNCTION bank_accounts_keep_identity();

-- The atomic posting function: the strategy's ten arguments (§4.1) and the event time that they lack.
-- Returns the entry's id. Raises 23505 when (ledger_id, reference_id) is taken, 23503 for an unknown account, 23514 for
-- anything else that the ledger does not allow. The default event time serves live postings; history states its own.
CREATE FUNCTION post_ledger_entry(
    p_ledger_id text, p_debit_account_id text, p_credit_account_id text, p_amount numeric, p_currency_code text,
    p_asset_type text, p_transaction_type text, p_reference_id text, p_fx_rate numeric DEFAULT NULL,
    p_metadata jsonb DEFAULT NULL, p_timestamp_utc timestamptz DEFAULT now()
) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,
                                transaction_type, reference_id, fx_rate, metadata, timestamp_utc)
    VALUES (p_ledger_id, p_debit_account_id, p_credit_account_id, p_amount, p_currency_code, p_asset_type,
            p_transaction_type, p_reference_id, p_fx_rate, p_metadata, p_timestamp_utc)
    RETURNING id
$$;

-- The functions work on the tables beside them, whatever the session's search_path says: a temporary table that is
-- called bank_accounts, or another ledger in another schema, must not take the movements.
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace
          AND proname IN ('ledger_entries_apply_balances', 'ledger_entries_take_back_balances', 'post_ledger_entry')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
END
$$;
