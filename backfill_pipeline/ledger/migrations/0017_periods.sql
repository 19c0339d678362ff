-- Closed periods. A ledger's month (UTC) that is closed takes no entries any more and gives none away: the database refuses
-- both, whoever asks. What has to be corrected is corrected by an entry in a month that is open.

-- The months that are closed. An open one has no row; who closed and reopened what is in audit_log.
CREATE TABLE ledger_periods (
    ledger_id text COLLATE "C" NOT NULL CHECK (ledger_id <> ''),
    month     date NOT NULL CHECK (extract(day FROM month) = 1),
    starts_at timestamptz NOT NULL GENERATED ALWAYS AS (month::timestamp AT TIME ZONE 'UTC') STORED,
    ends_at   timestamptz NOT NULL GENERATED ALWAYS AS ((month::timestamp + interval '1 month') AT TIME ZONE 'UTC') STORED,
    closed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_by text NOT NULL CHECK (closed_by <> ''),
    reason    text,
    PRIMARY KEY (ledger_id, month)
);
COMMENT ON TABLE ledger_periods IS 'Months of ledgers that are closed; close_period() and reopen_period() are the way in and out.';
COMMENT ON COLUMN ledger_periods.ends_at IS 'The first moment of the next month, which no longer belongs to this one.';

-- One row that changes with every closing. A transaction whose snapshot is older than a closing cannot see it: it fails at
-- this row instead, as such transactions do, and posts again.
CREATE TABLE ledger_period_closings (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    closings bigint NOT NULL DEFAULT 0
);
INSERT INTO ledger_period_closings DEFAULT VALUES;

-- The month of a moment, in UTC.
CREATE FUNCTION ledger_month(moment timestamptz) RETURNS date
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT date_trunc('month', moment AT TIME ZONE 'UTC')::date
$$;

CREATE FUNCTION ledger_period_is_closed(p_ledger_id text, p_moment timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM ledger_periods WHERE ledger_id = p_ledger_id AND month = ledger_month(p_moment))
$$;

-- When an entry that belongs to p_wanted can be dated: then, if that month is open; else the first moment of the next month
-- that is; else now.
CREATE FUNCTION ledger_open_moment(p_ledger_id text, p_wanted timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN NOT ledger_period_is_closed(p_ledger_id, p_wanted) THEN p_wanted
        ELSE coalesce(
            (SELECT min(later.month) AT TIME ZONE 'UTC'
             FROM generate_series(ledger_month(p_wanted)::timestamp, now() AT TIME ZONE 'UTC', interval '1 month')
                  AS later (month)
             WHERE NOT EXISTS (SELECT 1 FROM ledger_periods p
                               WHERE p.ledger_id = p_ledger_id AND p.month = later.month::date)),
            now())
    END
$$;

-- Where no month is closed, a statement pays for one look at an empty table. Else the times of its entries are summed up
-- first, and entries are looked at one by one only where a closed month lies between the first and the last of them.
CREATE FUNCTION ledger_entries_keep_to_open_periods() RETURNS trigger
LANGUAGE plpgsql
SET enable_nestloop = off       -- entries meet periods by hash, whatever the planner thinks of rows that were just copied
AS $$
DECLARE
    bad record;
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM 1 FROM ledger_period_closings FOR SHARE;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM ledger_periods) THEN
        RETURN NULL;
    END IF;
    IF NOT EXISTS (
        SELECT 1
        FROM (SELECT ledger_id, min(timestamp_utc) AS earliest, max(timestamp_utc) AS latest
              FROM changed_entries GROUP BY ledger_id) AS span
        JOIN ledger_periods p ON p.ledger_id = span.ledger_id
        WHERE p.starts_at <= span.latest AND p.ends_at > span.earliest
    ) THEN
        RETURN NULL;
    END IF;
    SELECT e.reference_id, e.timestamp_utc, p.ledger_id, to_char(p.month, 'YYYY-MM') AS month INTO bad
    FROM changed_entries e
    JOIN ledger_periods p ON p.ledger_id = e.ledger_id AND p.month = ledger_month(e.timestamp_utc)
    ORDER BY e.id
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' THEN
        RAISE EXCEPTION 'entry % is dated %, and period % of ledger % is closed', bad.reference_id,
                ledger_utc_text(bad.timestamp_utc), bad.month, bad.ledger_id
            USING ERRCODE = 'check_violation', TABLE = 'ledger_entries', CONSTRAINT = 'ledger_entries_period_open',
                  HINT = 'Date it in an open period, or have the period reopened.';
    ELSE
        RAISE EXCEPTION 'entry % stays: it is dated %, and period % of ledger % is closed', bad.reference_id,
                ledger_utc_text(bad.timestamp_utc), bad.month, bad.ledger_id
            USING ERRCODE = 'check_violation', TABLE = 'ledger_entries', CONSTRAINT = 'ledger_entries_period_open',
                  HINT = 'Reverse it by an entry in an open period, or have the period reopened.';
    END IF;
END
$$;

-- Named so that they fire before balances move: an entry is refused for its period before it is for its accounts.
CREATE TRIGGER ledger_entries_admit_on_insert AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS changed_entries FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_keep_to_open_periods();
CREATE TRIGGER ledger_entries_admit_on_delete AFTER DELETE ON ledger_entries
    REFERENCING OLD TABLE AS changed_entries FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_keep_to_open_periods();

CALL pin_functions(ARRAY[
    'ledger_period_is_closed', 'ledger_open_moment', 'ledger_entries_keep_to_open_periods'
]);
