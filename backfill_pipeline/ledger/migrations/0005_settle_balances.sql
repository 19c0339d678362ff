-- Deciding, under balance constraints, which rows of a batch must go.
--
-- Works on two temporary tables of the posting session: backfill_staging (the batch) and backfill_verdicts (rows already
-- told apart). Balances are looked at after the whole batch: a dip inside it is no offence. Only when an account would
-- end below zero are the rows of such accounts taken in event-time order, and each is refused that an account cannot
-- bear at that moment. All other rows go through untouched.
--
-- Posting moves balance and available_balance alike and leaves reserved_balance alone, so of the four constraints only
-- available_balance >= 0 can be broken by an entry.
--
-- Rows and accounts are numbered and held in arrays: every step below visits a row once or twice, whatever the number of
-- accounts concerned and however they depend on one another.
CREATE FUNCTION backfill_settle_balances() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    -- by account
    names         text[];
    available     numeric[];    -- what it holds after the rows that count so far
    affected      boolean[];
    last_leg      integer[];    -- its legs as a chain; leg 2i - 1 is row i's debit, leg 2i its credit; 0 ends it
    -- by row, in event-time order
    source_rows   bigint[];
    debits        integer[];
    credits       integer[];
    debit_deltas  numeric[];
    credit_deltas numeric[];
    contested     boolean[];    -- it moves an affected account
    -- by leg
    next_leg      integer[];
    --
    row_count     integer;
    concerned     integer[];    -- accounts found affected in this round
    touched       integer[];    -- accounts that lost a row in this round
    account       integer;
    leg           integer;
    row_number    integer;
    offender      integer;
    refused_rows  bigint[] := '{}';
    fields        text[] := '{}';
    reasons       text[] := '{}';
BEGIN
    PERFORM 1 FROM bank_accounts
    WHERE id IN (SELECT debit_account_id FROM backfill_staging UNION SELECT credit_account_id FROM backfill_staging)
    ORDER BY id FOR NO KEY UPDATE;

    WITH candidate AS MATERIALIZED (
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
        WHERE NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row)
    ), numbered AS MATERIALIZED (
        SELECT a.id, a.available_balance, row_number() OVER (ORDER BY a.id)::integer AS i
        FROM bank_accounts a
        WHERE a.id IN (SELECT debit_account_id FROM candidate UNION SELECT credit_account_id FROM candidate)
    ), ordered AS (
        SELECT c.source_row, debit.i AS debit, credit.i AS credit, c.debit_delta, c.credit_delta
        FROM candidate c
        JOIN numbered debit ON debit.id = c.debit_account_id
        JOIN numbered credit ON credit.id = c.credit_account_id
        ORDER BY c.timestamp_utc, c.source_row
    )
    SELECT by_account.*, by_row.*
    INTO names, available, source_rows, debits, credits, debit_deltas, credit_deltas
    FROM (SELECT array_agg(id ORDER BY i), array_agg(available_balance ORDER BY i) FROM numbered) AS by_account
    CROSS JOIN (SELECT array_agg(source_row), array_agg(debit), array_agg(credit), array_agg(debit_delta),
                       array_agg(credit_delta) FROM ordered) AS by_row;
    IF names IS NULL THEN
        RETURN 0;
    END IF;

    row_count := cardinality(source_rows);
    last_leg := array_fill(0, ARRAY[cardinality(names)]);
    next_leg := array_fill(0, ARRAY[2 * row_count]);
    FOR i IN 1 .. row_count LOOP
        available[debits[i]] := available[debits[i]] + debit_deltas[i];
        next_leg[2 * i - 1] := last_leg[debits[i]];
        last_leg[debits[i]] := 2 * i - 1;
        available[credits[i]] := available[credits[i]] + credit_deltas[i];
        next_leg[2 * i] := last_leg[credits[i]];
        last_leg[credits[i]] := 2 * i;
    END LOOP;

    affected := array_fill(false, ARRAY[cardinality(names)]);
    contested := array_fill(false, ARRAY[row_count]);
    concerned := ARRAY(SELECT n FROM unnest(available) WITH ORDINALITY AS a (after, n) WHERE after < 0 ORDER BY n);
    -- Rows of affected accounts may be refused, so no other account may rely on them: whoever would end below zero
    -- without them is affected as well. Round by round, until nobody is added.
    WHILE cardinality(concerned) > 0 LOOP
        FOREACH account IN ARRAY concerned LOOP
            affected[account] := true;
        END LOOP;
        touched := '{}';
        FOREACH account IN ARRAY concerned LOOP
            leg := last_leg[account];
            WHILE leg > 0 LOOP
                row_number := (leg + 1) / 2;
                IF NOT contested[row_number] THEN
                    contested[row_number] := true;
                    available[debits[row_number]] := available[debits[row_number]] - debit_deltas[row_number];
                    available[credits[row_number]] := available[credits[row_number]] - credit_deltas[row_number];
                    touched := array_append(touched, debits[row_number]);
                    touched := array_append(touched, credits[row_number]);
                END IF;
                leg := next_leg[leg];
            END LOOP;
        END LOOP;
        concerned := ARRAY(SELECT DISTINCT n FROM unnest(touched) AS t (n) WHERE NOT affected[n] AND available[n] < 0);
    END LOOP;

    FOR i IN 1 .. row_count LOOP
        CONTINUE WHEN NOT contested[i];
        offender := CASE WHEN available[debits[i]] + debit_deltas[i] < 0 THEN debits[i]
                         WHEN available[credits[i]] + credit_deltas[i] < 0 THEN credits[i] END;
        IF offender IS NULL THEN
            available[debits[i]] := available[debits[i]] + debit_deltas[i];
            available[credits[i]] := available[credits[i]] + credit_deltas[i];
        ELSE
            refused_rows := array_append(refused_rows, source_rows[i]);
            fields := array_append(
                fields, CASE offender WHEN debits[i] THEN 'debit_account_id' ELSE 'credit_account_id' END);
            reasons := array_append(reasons, format(
                'account %s would fall from %s to %s, below zero', names[offender], available[offender],
                available[offender] + CASE offender WHEN debits[i] THEN debit_deltas[i] ELSE credit_deltas[i] END));
        END IF;
    END LOOP;

    INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
    SELECT r.source_row, 'rejected', 'balance_constraint', r.field, r.reason
    FROM unnest(refused_rows, fields, reasons) AS r (source_row, field, reason);

    -- Rows that repeat a refused one were told apart by it; they go with it.
    UPDATE backfill_verdicts v
    SET verdict = 'rejected', code = 'balance_constraint', field = 'reference_id',
        reason = format('has the reference of row %s, which a balance constraint refused', v.compared_row)
    FROM backfill_verdicts winner
    WHERE winner.source_row = v.compared_row AND winner.code = 'balance_constraint' AND v.source_row <> winner.source_row;
    RETURN cardinality(refused_rows);
END
$$;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION backfill_settle_balances() SET search_path = %I, pg_temp', current_schema());
END
$$;
