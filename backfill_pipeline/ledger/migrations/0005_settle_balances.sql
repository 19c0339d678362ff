-- Deciding, under balance constraints, which rows of a batch must go.
--
-- Works on two temporary tables of the posting session: backfill_staging (the batch) and backfill_verdicts (rows already
-- told apart). Balances are looked at after the whole batch: a dip inside it is no offence. Only when an account would
-- end below zero are the rows of such accounts taken in event-time order, and each is refused that the account cannot
-- bear at that moment. All other rows go through untouched.
--
-- Posting moves balance and available_balance alike and leaves reserved_balance alone, so of the four constraints only
-- available_balance >= 0 can be broken by an entry.
CREATE FUNCTION backfill_settle_balances() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    available numeric[];        -- by account index, as it stands after the rows decided so far
    names     text[];
    refused   bigint := 0;
    added     bigint;
    r         record;
    offender  integer;
BEGIN
    PERFORM 1 FROM bank_accounts
    WHERE id IN (SELECT debit_account_id FROM backfill_staging UNION SELECT credit_account_id FROM backfill_staging)
    ORDER BY id FOR NO KEY UPDATE;

    CREATE TEMP TABLE backfill_candidates ON COMMIT DROP AS
    SELECT s.source_row, s.timestamp_utc, s.debit_account_id, s.credit_account_id,
           CASE debit.normal_side WHEN 'debit' THEN 1 ELSE -1 END
             * CASE WHEN debit.currency_code = s.currency_code THEN s.amount
                    ELSE round_half_even(s.amount * s.fx_rate, coalesce(dc.minor_units, 18)) END AS debit_delta,
           CASE credit.normal_side WHEN 'credit' THEN 1 ELSE -1 END
             * CASE WHEN credit.currency_code = s.currency_code THEN s.amount
                    ELSE round_half_even(s.amount * s.fx_rate, coalesce(cc.minor_units, 18)) END AS credit_delta
    FROM backfill_staging s
    JOIN bank_accounts debit ON debit.id = s.debit_account_id
    JOIN currencies dc ON dc.code = debit.currency_code
    JOIN bank_accounts credit ON credit.id = s.credit_account_id
    JOIN currencies cc ON cc.code = credit.currency_code
    WHERE NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row);

    CREATE TEMP TABLE backfill_affected ON COMMIT DROP AS
    SELECT account.id
    FROM bank_accounts account
    JOIN (SELECT id, sum(delta) AS delta
          FROM (SELECT debit_account_id AS id, debit_delta AS delta FROM backfill_candidates
                UNION ALL SELECT credit_account_id, credit_delta FROM backfill_candidates) AS leg GROUP BY id) AS net USING (id)
    WHERE account.available_balance + net.delta < 0;
    IF NOT EXISTS (SELECT 1 FROM backfill_affected) THEN
        RETURN 0;
    END IF;

    -- Rows of affected accounts may be refused, so no other account may rely on them: whoever would end below zero
    -- without them is affected as well, until nobody is added.
    LOOP
        INSERT INTO backfill_affected
        SELECT account.id
        FROM bank_accounts account
        JOIN (SELECT leg.id, sum(leg.delta) AS delta
              FROM backfill_candidates c
              CROSS JOIN LATERAL (VALUES (c.debit_account_id, c.debit_delta), (c.credit_account_id, c.credit_delta)) AS leg (id, delta)
              WHERE c.debit_account_id NOT IN (SELECT id FROM backfill_affected)
                AND c.credit_account_id NOT IN (SELECT id FROM backfill_affected)
              GROUP BY leg.id) AS net USING (id)
        WHERE account.available_balance + net.delta < 0
          AND NOT EXISTS (SELECT 1 FROM backfill_affected a WHERE a.id = account.id);
        GET DIAGNOSTICS added = ROW_COUNT;
        EXIT WHEN added = 0;
    END LOOP;

    CREATE TEMP TABLE backfill_balance_index ON COMMIT DROP AS
    SELECT row_number() OVER (ORDER BY account.id)::integer AS i, account.id,
           account.available_balance + coalesce(rest.delta, 0) AS available
    FROM bank_accounts account
    LEFT JOIN (SELECT leg.id, sum(leg.delta) AS delta
               FROM backfill_candidates c
               CROSS JOIN LATERAL (VALUES (c.debit_account_id, c.debit_delta), (c.credit_account_id, c.credit_delta)) AS leg (id, delta)
               WHERE c.debit_account_id NOT IN (SELECT id FROM backfill_affected)
                AND c.credit_account_id NOT IN (SELECT id FROM backfill_affected)
               GROUP BY leg.id) AS rest USING (id)
    WHERE account.id IN (SELECT debit_account_id FROM backfill_candidates UNION SELECT credit_account_id FROM backfill_candidates);
    SELECT array_agg(b.available ORDER BY i), array_agg(b.id ORDER BY i) INTO available, names FROM backfill_balance_index b;

    FOR r IN
        SELECT c.source_row, debit.i AS debit, credit.i AS credit, c.debit_delta, c.credit_delta
        FROM backfill_candidates c
        JOIN backfill_balance_index debit ON debit.id = c.debit_account_id
        JOIN backfill_balance_index credit ON credit.id = c.credit_account_id
        WHERE c.debit_account_id IN (SELECT id FROM backfill_affected)
           OR c.credit_account_id IN (SELECT id FROM backfill_affected)
        ORDER BY c.timestamp_utc, c.source_row
    LOOP
        offender := CASE WHEN available[r.debit] + r.debit_delta < 0 THEN r.debit
                         WHEN available[r.credit] + r.credit_delta < 0 THEN r.credit END;
        IF offender IS NULL THEN
            available[r.debit] := available[r.debit] + r.debit_delta;
            available[r.credit] := available[r.credit] + r.credit_delta;
        ELSE
            refused := refused + 1;
            INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
            VALUES (r.source_row, 'rejected', 'balance_constraint',
                    CASE offender WHEN r.debit THEN 'debit_account_id' ELSE 'credit_account_id' END,
                    format('account %s would fall from %s to %s, below zero', names[offender], available[offender],
                           available[offender] + CASE offender WHEN r.debit THEN r.debit_delta ELSE r.credit_delta END));
        END IF;
    END LOOP;

    -- Rows that repeat a refused one were told apart by it; they go with it.
    UPDATE backfill_verdicts v
    SET verdict = 'rejected', code = 'balance_constraint', field = 'reference_id',
        reason = format('has the reference of row %s, which a balance constraint refused', v.compared_row)
    FROM backfill_verdicts winner
    WHERE winner.source_row = v.compared_row AND winner.code = 'balance_constraint' AND v.source_row <> winner.source_row;
    RETURN refused;
END
$$;
