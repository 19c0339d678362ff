-- History: what an account's balance was at any moment, how it came about, and when it was below zero. All of it is summed
-- from the legs by their event time, so it is exact after any backdated backfill; nothing is kept that could go stale.

-- The balance at the end of a moment, in the account's own direction and currency: conversions count as they were stored.
-- NULL for an account that does not exist.
CREATE FUNCTION balance_as_of(p_account_id text, p_moment timestamptz) RETURNS numeric
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce((
        SELECT sum(CASE WHEN (e.debit_account_id = p_account_id) = (a.normal_side = 'debit') THEN 1 ELSE -1 END
                   * coalesce(c.amount, e.amount))
        FROM ledger_entries e
        LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.account_id = p_account_id
        WHERE (e.debit_account_id = p_account_id OR e.credit_account_id = p_account_id) AND e.timestamp_utc <= p_moment
    ), 0)
    FROM bank_accounts a WHERE a.id = p_account_id
$$;
COMMENT ON FUNCTION balance_as_of IS 'The balance of an account at the end of a moment, from its legs by event time.';

-- An account from one moment up to another, which is not part of it, so that statements that follow one another meet:
-- a line with what it begins with, one for each leg with the balance after it, one with what it ends with.
-- Legs of one moment are in the order of their ids. No line at all for an account that does not exist. Without a bound, the
-- first or last line has no time.
CREATE FUNCTION account_statement(
    p_account_id text, p_from timestamptz DEFAULT '-infinity', p_to timestamptz DEFAULT 'infinity'
) RETURNS TABLE (
    line bigint, kind text, timestamp_utc timestamptz, posted_at timestamptz, ledger_id text, reference_id text,
    transaction_type text, other_account_id text, side text, amount numeric, movement numeric, balance numeric,
    currency_code text, entry_amount numeric, entry_currency_code text, fx_rate numeric, batch_id bigint, entry_id bigint
)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH account AS MATERIALIZED (
        SELECT a.id, a.normal_side, a.currency_code FROM bank_accounts a WHERE a.id = p_account_id
    ), leg AS MATERIALIZED (
        SELECT e.*, x.side, x.amount AS leg_amount,
               CASE WHEN x.side = a.normal_side THEN x.amount ELSE -x.amount END AS movement
        FROM account a
        JOIN ledger_entries e ON e.debit_account_id = p_account_id OR e.credit_account_id = p_account_id
        LEFT JOIN ledger_entry_conversions c ON c.entry_id = e.id AND c.account_id = p_account_id
        CROSS JOIN LATERAL (
            SELECT CASE e.debit_account_id WHEN p_account_id THEN 'debit' ELSE 'credit' END AS side,
                   coalesce(c.amount, e.amount) AS amount
        ) AS x
        WHERE e.timestamp_utc < p_to
    ), opening AS MATERIALIZED (
        SELECT coalesce(sum(l.movement), 0) AS balance FROM leg l WHERE l.timestamp_utc < p_from
    ), shown AS (
        SELECT l.*, row_number() OVER statement AS line,
               (SELECT o.balance FROM opening o) + sum(l.movement) OVER statement AS balance
        FROM leg l WHERE l.timestamp_utc >= p_from
        WINDOW statement AS (ORDER BY l.timestamp_utc, l.id ROWS UNBOUNDED PRECEDING)
    ), total AS (
        SELECT count(*) AS legs, coalesce(sum(l.movement), 0) AS movement FROM leg l WHERE l.timestamp_utc >= p_from
    )
    SELECT 0, 'opening', nullif(p_from, '-infinity'), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, o.balance, a.currency_code, NULL, NULL,
           NULL, NULL, NULL
    FROM account a, opening o
    UNION ALL
    SELECT s.line, 'leg', s.timestamp_utc, s.posted_at, s.ledger_id, s.reference_id, s.transaction_type,
           CASE s.side WHEN 'debit' THEN s.credit_account_id ELSE s.debit_account_id END, s.side, s.leg_amount,
           s.movement, s.balance, a.currency_code, s.amount, s.currency_code, s.fx_rate, s.batch_id, s.id
    FROM account a, shown s
    UNION ALL
    SELECT t.legs + 1, 'closing', nullif(p_to, 'infinity'), NULL, NULL, NULL, NULL, NULL, NULL, NULL, t.movement, o.balance + t.movement,
           a.currency_code, NULL, NULL, NULL, NULL, NULL
    FROM account a, opening o, total t
    ORDER BY 1
$$;
COMMENT ON FUNCTION account_statement IS
    'Opening balance, legs with the balance after each, closing balance of an account from p_from up to p_to (exclusive).';

-- Who was below zero, and when. What counts is the balance at the end of a moment: the order of entries of one moment says
-- nothing. An entry that is posted today with a time of last year may well have made a dip of last year.
CREATE FUNCTION ledger_balance_dips() RETURNS TABLE (
    account_id text, currency_code text, normal_side text, dips bigint, first_dip_at timestamptz, lowest_balance numeric,
    lowest_at timestamptz, last_dip_at timestamptz, ended_at timestamptz
)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH running AS (
        SELECT l.account_id, l.timestamp_utc AS at,
               sum(CASE WHEN l.side = a.normal_side THEN l.amount ELSE -l.amount END)
                   OVER (PARTITION BY l.account_id ORDER BY l.timestamp_utc) AS balance
        FROM ledger_entry_legs l JOIN bank_accounts a ON a.id = l.account_id
    ), turn AS MATERIALIZED (       -- where an account's balance fell below zero, lay below it, or came back
        SELECT r.account_id, r.at, r.balance, r.before
        FROM (SELECT running.*, lag(running.balance, 1, 0::numeric) OVER (PARTITION BY running.account_id ORDER BY at)
                     AS before
              FROM running) AS r
        WHERE r.balance < 0 OR r.before < 0
    ), dipped AS (
        SELECT t.account_id, count(*) FILTER (WHERE t.balance < 0 AND t.before >= 0) AS dips,
               min(t.at) FILTER (WHERE t.balance < 0) AS first_at, min(t.balance) AS lowest,
               max(t.at) FILTER (WHERE t.balance < 0 AND t.before >= 0) AS last_at,
               max(t.at) FILTER (WHERE t.balance >= 0) AS back_at
        FROM turn t GROUP BY t.account_id
    ), deepest AS (
        SELECT d.account_id, min(t.at) AS at
        FROM dipped d JOIN turn t ON t.account_id = d.account_id AND t.balance = d.lowest GROUP BY d.account_id
    )
    SELECT d.account_id, a.currency_code, a.normal_side, d.dips, d.first_at, d.lowest, deepest.at, d.last_at,
           CASE WHEN d.back_at > d.last_at THEN d.back_at END
    FROM dipped d
    JOIN deepest ON deepest.account_id = d.account_id
    JOIN bank_accounts a ON a.id = d.account_id
$$;
COMMENT ON FUNCTION ledger_balance_dips IS
    'Accounts that were below zero at the end of a moment: how often, since when, how deep. ended_at is NULL for one that'
    ' still is.';

CALL pin_functions(ARRAY[
    'balance_as_of', 'account_statement', 'ledger_balance_dips'
]);
