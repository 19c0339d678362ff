-- Posting: balances follow entries, whatever writes them: COPY, post_ledger_entry, or a person in psql.
-- Statement-level throughout, so that a batch of 250,000 entries costs two aggregates and one UPDATE per touched account.

-- Banker's rounding (IEEE 754 roundTiesToEven); PostgreSQL's own round() takes ties away from zero.
CREATE FUNCTION round_half_even(value numeric, decimals integer) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE
        WHEN abs(value - trunc(value, decimals)) * 2 = power(10::numeric, -decimals)
             AND mod(trunc(value, decimals) * power(10::numeric, decimals), 2) = 0
        THEN trunc(value, decimals)
        ELSE round(value, decimals)
    END
$$;

-- Serves both triggers below: `changed_entries` are the rows that came or, on DELETE, the rows that went.
CREATE FUNCTION ledger_entries_apply_balances() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    direction      integer := CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END;
    movement_count bigint;
    matched_count  bigint;
    bad            record;
BEGIN
    -- The usual case, in one statement: every account exists and has the currency of its entries. Only the aggregate
    -- (one row per account and currency) is checked, never the single entries.
    WITH movement AS MATERIALIZED (
        SELECT account_id, currency_code, sum(net) AS net
        FROM (SELECT debit_account_id AS account_id, currency_code, sum(amount) AS net
              FROM changed_entries GROUP BY 1, 2
              UNION ALL
              SELECT credit_account_id, currency_code, -sum(amount)
              FROM changed_entries GROUP BY 1, 2) AS side
        GROUP BY account_id, currency_code
    ), locked AS MATERIALIZED (     -- always in id order: two batches can wait for each other, never deadlock
        SELECT id, currency_code, normal_side
        FROM bank_accounts
        WHERE id IN (SELECT account_id FROM movement)
        ORDER BY id
        FOR NO KEY UPDATE
    ), matched AS MATERIALIZED (
        SELECT id, direction * CASE normal_side WHEN 'debit' THEN net ELSE -net END AS delta
        FROM movement JOIN locked ON id = account_id AND locked.currency_code = movement.currency_code
    ), applied AS (                 -- all or, when one group has no match, nothing
        UPDATE bank_accounts AS account
        SET balance = account.balance + matched.delta,
            available_balance = account.available_balance + matched.delta
        FROM matched
        WHERE account.id = matched.id
          AND (SELECT count(*) FROM movement) = (SELECT count(*) FROM matched)
    )
    SELECT (SELECT count(*) FROM movement), (SELECT count(*) FROM matched)
    INTO movement_count, matched_count;

    IF movement_count = matched_count THEN
        RETURN NULL;
    END IF;

    -- From here on at least one account is unknown or has another currency than its entry. All accounts that exist are
    -- locked already; entries are looked at one by one (still in sets).
    IF TG_OP = 'INSERT' THEN
        SELECT e.reference_id, CASE WHEN debit.id IS NULL THEN e.debit_account_id ELSE e.credit_account_id END AS account_id
        INTO bad
        FROM changed_entries e
        LEFT JOIN bank_accounts debit ON debit.id = e.debit_account_id
        LEFT JOIN bank_accounts credit ON credit.id = e.credit_account_id
        WHERE debit.id IS NULL OR credit.id IS NULL
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'entry % names account %, which does not exist', bad.reference_id, bad.account_id
                USING ERRCODE = 'foreign_key_violation', TABLE = 'ledger_entries',
                      CONSTRAINT = 'ledger_entries_account_exists';
        END IF;

        SELECT e.reference_id, e.currency_code, debit.currency_code AS debit_currency, credit.currency_code AS credit_currency,
               e.currency_code NOT IN (debit.currency_code, credit.currency_code) AS mismatched
        INTO bad
        FROM changed_entries e
        JOIN bank_accounts debit ON debit.id = e.debit_account_id
        JOIN bank_accounts credit ON credit.id = e.credit_account_id
        WHERE e.currency_code NOT IN (debit.currency_code, credit.currency_code)
           OR (e.fx_rate IS NULL AND debit.currency_code <> credit.currency_code)
        LIMIT 1;
        IF FOUND AND bad.mismatched THEN
            RAISE EXCEPTION 'entry % is in %, its accounts are in % and %',
                    bad.reference_id, bad.currency_code, bad.debit_currency, bad.credit_currency
                USING ERRCODE = 'check_violation', TABLE = 'ledger_entries',
                      CONSTRAINT = 'ledger_entries_currency_fits_accounts';
        ELSIF FOUND THEN
            RAISE EXCEPTION 'entry % moves between % and % without an fx_rate',
                    bad.reference_id, bad.debit_currency, bad.credit_currency
                USING ERRCODE = 'check_violation', TABLE = 'ledger_entries',
                      CONSTRAINT = 'ledger_entries_fx_rate_given';
        END IF;

        INSERT INTO ledger_entry_conversions (entry_id, side, account_id, currency_code, amount)
        SELECT e.id, leg.side, account.id, account.currency_code,
               round_half_even(e.amount * e.fx_rate, coalesce(currency.minor_units, 18))
        FROM changed_entries e
        CROSS JOIN LATERAL (VALUES ('debit', e.debit_account_id), ('credit', e.credit_account_id)) AS leg (side, account_id)
        JOIN bank_accounts account ON account.id = leg.account_id AND account.currency_code <> e.currency_code
        JOIN currencies currency ON currency.code = account.currency_code;
    END IF;

    WITH leg AS (
        SELECT e.debit_account_id AS account_id, coalesce(c.amount, e.amount) AS net
        FROM changed_entries e LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.side = 'debit'
        UNION ALL
        SELECT e.credit_account_id, -coalesce(c.amount, e.amount)
        FROM changed_entries e LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.side = 'credit'
    ), movement AS (
        SELECT account_id, sum(net) AS net FROM leg GROUP BY account_id
    )
    UPDATE bank_accounts AS account
    SET balance = account.balance + signed.delta,
        available_balance = account.available_balance + signed.delta
    FROM (SELECT id, direction * CASE normal_side WHEN 'debit' THEN net ELSE -net END AS delta
          FROM movement JOIN bank_accounts ON id = account_id) AS signed
    WHERE account.id = signed.id;

    IF TG_OP = 'DELETE' THEN
        DELETE FROM ledger_entry_conversions WHERE entry_id IN (SELECT id FROM changed_entries);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER ledger_entries_apply_balances_on_insert AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS changed_entries FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_apply_balances();

-- Rolling back a batch deletes its entries; the balances go back in the same statement.
CREATE TRIGGER ledger_entries_apply_balances_on_delete AFTER DELETE ON ledger_entries
    REFERENCING OLD TABLE AS changed_entries FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_apply_balances();

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
