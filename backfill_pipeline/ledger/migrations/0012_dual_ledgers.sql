-- Dual ledgers: a ledger that a Sovereign Central Bank keeps as well. What is posted to it here has to be told to the bank,
-- and the database itself notes that, in the very statement that posts.

-- Who entries come from. A batch of a bank's entries says so; everything else was posted here first.
ALTER TABLE backfill_batches ADD COLUMN origin text COLLATE "C" NOT NULL DEFAULT 'LOCAL' CHECK (origin <> '');
UPDATE backfill_batches SET origin = 'OPENING' WHERE kind = 'opening';
COMMENT ON COLUMN backfill_batches.origin IS
    'The bank whose entries these are; LOCAL for those that were posted here first, OPENING for opening balances.';

CREATE TABLE dual_ledgers (
    ledger_id    text COLLATE "C" PRIMARY KEY,
    bank_id      text COLLATE "C" NOT NULL UNIQUE CHECK (bank_id NOT IN ('', 'LOCAL', 'OPENING')),
    send_entries boolean NOT NULL DEFAULT true,     -- whether entries that were posted here first are sent to the bank
    marked_at    timestamptz NOT NULL DEFAULT now()
);

-- One row that changes with every mark. A transaction whose snapshot is older than a mark cannot see it, and what it posted
-- would be told to nobody: it fails at this row instead, as such transactions do, and posts again.
CREATE TABLE dual_ledger_marks (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    marks    bigint NOT NULL DEFAULT 0
);
INSERT INTO dual_ledger_marks DEFAULT VALUES;

-- The origin decides what the bank is told of an entry: its own are acknowledged, never sent back as new ones.
ALTER TABLE dual_ledger_outbox
    ALTER COLUMN destination TYPE text COLLATE "C",
    ALTER COLUMN origin TYPE text COLLATE "C";
ALTER TABLE dual_ledger_outbox
    ADD COLUMN kind text NOT NULL
        GENERATED ALWAYS AS (CASE WHEN origin = destination THEN 'acknowledgement' ELSE 'entry' END) STORED,
    ADD COLUMN delivery_id bigint;
COMMENT ON COLUMN dual_ledger_outbox.status IS
    'PENDING: not sent yet. SENT: in a request whose answer is not known. ACKNOWLEDGED: the bank has it. FAILED: refused,'
    ' will be tried again. DEAD: given up, for a person to look at.';

-- An event time as both ledgers write it: UTC, with decimals of a second only where there are any.
CREATE FUNCTION ledger_utc_text(moment timestamptz) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
    SELECT rtrim(rtrim(to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '0'), '.') || 'Z'
$$;

-- What the bank is told of an entry: of its own that it is posted, of others all that it needs to book them.
CREATE FUNCTION dual_ledger_payload(entry ledger_entries, acknowledged boolean) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN acknowledged THEN jsonb_build_object('reference', entry.reference_id, 'status', 'posted')
        ELSE jsonb_build_object(
            'reference', entry.reference_id,
            'booked_at', ledger_utc_text(entry.timestamp_utc),
            'debit_account', entry.debit_account_id,
            'credit_account', entry.credit_account_id,
            'amount', entry.amount::text,
            'currency', entry.currency_code,
            'type', entry.transaction_type)
            || CASE WHEN entry.fx_rate IS NULL THEN '{}' ELSE jsonb_build_object('fx_rate', entry.fx_rate::text) END
            || CASE WHEN entry.metadata IS NULL THEN '{}' ELSE jsonb_build_object('metadata', entry.metadata) END
    END
$$;

-- In the same statement as the entries, whatever writes them: COPY, post_ledger_entry, or a person in psql. The session says
-- whose entries it posts (backfill.origin); unless it does, they were posted here first.
CREATE FUNCTION ledger_entries_tell_banks() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    posted_origin text := coalesce(nullif(current_setting('backfill.origin', true), ''), 'LOCAL');
    dual          dual_ledgers;
BEGIN
    -- Opening balances are what both sides begin with. Ledgers that no bank keeps pay for one look at an empty table.
    IF posted_origin = 'OPENING' THEN
        RETURN NULL;
    END IF;
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM 1 FROM dual_ledger_marks FOR SHARE;
    END IF;
    -- Without a join, rows are numbered as they are read: in the order of their posting, while their accounts are locked.
    FOR dual IN SELECT * FROM dual_ledgers ORDER BY ledger_id LOOP
        INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload)
        SELECT e.ledger_id, e.reference_id, dual.bank_id, posted_origin,
               dual_ledger_payload(e::ledger_entries, posted_origin = dual.bank_id)
        FROM new_entries e
        WHERE e.ledger_id = dual.ledger_id AND (dual.send_entries OR posted_origin = dual.bank_id);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER ledger_entries_tell_banks AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS new_entries FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_tell_banks();

-- Marks a ledger as kept by a bank too. What was posted to it before is noted for the bank as well, by the origin of its batch;
-- entries of ours only from p_since on: what happened before both ledgers were kept is no news, and the bank might book it once
-- more. Returns how many entries were noted. Marking again changes nothing but send_entries.
CREATE FUNCTION mark_dual_ledger(
    p_ledger_id text, p_bank_id text, p_send_entries boolean DEFAULT true, p_since timestamptz DEFAULT '-infinity'
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    kept_with text;
    sent      boolean;
    noted     bigint;
BEGIN
    -- Every synchronisation asks for the mark, and nearly always it is there: nobody has to wait for that.
    SELECT bank_id, send_entries INTO kept_with, sent FROM dual_ledgers WHERE ledger_id = p_ledger_id;
    IF kept_with = p_bank_id AND (sent = p_send_entries OR NOT p_send_entries) THEN
        UPDATE dual_ledgers SET send_entries = p_send_entries WHERE ledger_id = p_ledger_id AND sent <> p_send_entries;
        RETURN 0;
    END IF;
    -- No entry may come between looking at those that are there and the mark that makes the trigger see new ones.
    LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE;
    UPDATE dual_ledger_marks SET marks = marks + 1;
    INSERT INTO dual_ledgers (ledger_id, bank_id, send_entries) VALUES (p_ledger_id, p_bank_id, p_send_entries)
    ON CONFLICT (ledger_id) DO UPDATE SET send_entries = excluded.send_entries
    RETURNING bank_id INTO kept_with;
    IF kept_with <> p_bank_id THEN
        RAISE EXCEPTION 'ledger % is kept with bank % already, not with %', p_ledger_id, kept_with, p_bank_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload)
    SELECT e.ledger_id, e.reference_id, p_bank_id, coalesce(b.origin, 'LOCAL'),
           dual_ledger_payload(e, coalesce(b.origin, 'LOCAL') = p_bank_id)
    FROM ledger_entries e
    LEFT JOIN backfill_batches b ON b.id = e.batch_id
    WHERE e.ledger_id = p_ledger_id AND coalesce(b.origin, 'LOCAL') <> 'OPENING'
      AND (b.origin = p_bank_id OR p_send_entries AND e.timestamp_utc >= p_since)
    ORDER BY e.id
    ON CONFLICT (ledger_id, reference_id, destination) DO NOTHING;
    GET DIAGNOSTICS noted = ROW_COUNT;
    RETURN noted;
END
$$;

-- As in 0002: the functions work on the tables beside them, whatever the session's search_path says.
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace
          AND proname IN ('ledger_entries_tell_banks', 'mark_dual_ledger')
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
END
$$;
