-- Corrections: what audit and reconciliation find is proposed as entries, approved by another person, and posted. Nothing is
-- ever edited. A proposal holds the state of the ledger that it was made from; once that changed, it is refused.
--
-- A correction is about one reference, or about the balance of one account. What a reference stands for is its entry, or,
-- after a correction, the `target` of the latest one: NULL when nothing should be there. The entries themselves stay.
CREATE TABLE ledger_corrections (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind               text NOT NULL CHECK (kind IN ('missing', 'amount', 'accounts', 'content', 'unexpected', 'left_over',
                                                     'posted_twice', 'stated_balance', 'below_zero', 'balance')),
    source_id          text COLLATE "C",                -- NULL: found by the audit of the whole ledger
    partition_key      text COLLATE "C",
    source_row         bigint,
    ledger_id          text COLLATE "C",                -- NULL: about a balance in all ledgers
    reference_id       text COLLATE "C",                -- NULL: about a balance
    account_id         text COLLATE "C",                -- NULL: about a reference
    corrected_entry_id bigint,                          -- the entry that is wrong; NULL when it is missing
    finding            jsonb NOT NULL,                  -- what was found, so that it can be looked at again
    reason             text NOT NULL,
    target             jsonb,
    state              jsonb NOT NULL,
    state_hash         text NOT NULL,
    status             text NOT NULL DEFAULT 'proposed'
                       CHECK (status IN ('proposed', 'approved', 'rejected', 'stale', 'applied', 'undone')),
    proposed_by        text NOT NULL CHECK (proposed_by <> ''),
    proposed_at        timestamptz NOT NULL DEFAULT now(),
    four_eyes          boolean,                         -- whether they were on when it was approved
    approved_by        text,
    approved_at        timestamptz,
    closed_by          text,                            -- who applied it, rejected it or found it stale
    closed_at          timestamptz,
    closing_reason     text,
    undone_by          bigint REFERENCES ledger_corrections (id),
    CONSTRAINT ledger_corrections_about_one CHECK ((reference_id IS NULL) <> (account_id IS NULL)),
    CONSTRAINT ledger_corrections_of_a_ledger CHECK ((ledger_id IS NULL) = (kind = 'balance')),
    CONSTRAINT ledger_corrections_approved CHECK ((approved_by IS NULL) = (approved_at IS NULL)
        AND (approved_by IS NULL) = (four_eyes IS NULL)),
    CONSTRAINT ledger_corrections_by_another CHECK (NOT four_eyes OR NOT same_person(approved_by, proposed_by)),
    CONSTRAINT ledger_corrections_applied_after_approval
        CHECK (status NOT IN ('approved', 'applied', 'undone') OR approved_by IS NOT NULL)
);
-- One open proposal about the same thing.
CREATE UNIQUE INDEX ledger_corrections_open ON ledger_corrections
    (coalesce(ledger_id, ''), coalesce(reference_id, ''), coalesce(account_id, '')) WHERE status IN ('proposed', 'approved');
CREATE INDEX ledger_corrections_reference_idx ON ledger_corrections (ledger_id, reference_id) WHERE status IN ('applied', 'undone');

COMMENT ON COLUMN ledger_corrections.target IS 'The entry that its reference stands for once this is applied; NULL for none.';
COMMENT ON COLUMN ledger_corrections.state IS 'Exactly what the proposal was made from; any change of it makes it stale.';

CREATE TABLE ledger_correction_entries (
    correction_id     bigint NOT NULL REFERENCES ledger_corrections (id),
    number            integer NOT NULL CHECK (number >= 1),
    ledger_id         text COLLATE "C" NOT NULL,
    debit_account_id  text COLLATE "C" NOT NULL,
    credit_account_id text COLLATE "C" NOT NULL,
    amount            numeric NOT NULL,
    currency_code     text COLLATE "C" NOT NULL,
    asset_type        text NOT NULL,
    transaction_type  text NOT NULL,
    reference_id      text COLLATE "C" NOT NULL,
    fx_rate           numeric,
    metadata          jsonb,
    timestamp_utc     timestamptz NOT NULL,             -- as it should be; in a closed period, the next open one is taken
    entry_id          bigint UNIQUE,                    -- the entry that was posted
    PRIMARY KEY (correction_id, number)
);

-- Who proposed what stays as it was written; only a proposal's way goes on, and only forwards. Four eyes are looked at here,
-- so that no other way to the table goes around them.
CREATE FUNCTION ledger_corrections_guard() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION '% on % is refused: reject a correction instead', TG_OP, TG_TABLE_NAME
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.id, NEW.kind, NEW.source_id, NEW.partition_key, NEW.source_row, NEW.ledger_id, NEW.reference_id, NEW.account_id,
        NEW.corrected_entry_id, NEW.finding, NEW.reason, NEW.target, NEW.state, NEW.state_hash, NEW.proposed_by,
        NEW.proposed_at)
       IS DISTINCT FROM
       (OLD.id, OLD.kind, OLD.source_id, OLD.partition_key, OLD.source_row, OLD.ledger_id, OLD.reference_id, OLD.account_id,
        OLD.corrected_entry_id, OLD.finding, OLD.reason, OLD.target, OLD.state, OLD.state_hash, OLD.proposed_by,
        OLD.proposed_at)
       OR OLD.approved_by IS NOT NULL AND (NEW.approved_by, NEW.approved_at, NEW.four_eyes)
          IS DISTINCT FROM (OLD.approved_by, OLD.approved_at, OLD.four_eyes) THEN
        RAISE EXCEPTION 'correction % stays as it was proposed and approved: propose another one', OLD.id
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
           ('proposed', 'approved'), ('proposed', 'rejected'), ('proposed', 'stale'), ('approved', 'rejected'),
           ('approved', 'stale'), ('approved', 'applied'), ('applied', 'undone')) THEN
        RAISE EXCEPTION 'correction % is %, it cannot become %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.status = 'proposed' AND NEW.status = 'approved' THEN
        NEW.four_eyes := (SELECT four_eyes FROM ledger_controls);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER ledger_corrections_guard BEFORE UPDATE OR DELETE ON ledger_corrections
    FOR EACH ROW EXECUTE FUNCTION ledger_corrections_guard();
CREATE TRIGGER ledger_corrections_keep BEFORE TRUNCATE ON ledger_corrections
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_corrections_guard();

-- A proposal begins as one: nobody inserts what is approved already.
CREATE FUNCTION ledger_corrections_begin() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> 'proposed' OR NEW.approved_by IS NOT NULL OR NEW.closed_by IS NOT NULL THEN
        RAISE EXCEPTION 'a correction begins as a proposal' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER ledger_corrections_begin BEFORE INSERT ON ledger_corrections
    FOR EACH ROW EXECUTE FUNCTION ledger_corrections_begin();

-- What was approved is what is posted: entries come with their proposal, in its transaction, so that nobody slips one in
-- after another person looked at it. They stay, and are told once which entry they became.
CREATE FUNCTION ledger_correction_entries_guard() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND NEW.entry_id IS NULL
       AND (SELECT status = 'proposed' AND proposed_at = now() FROM ledger_corrections WHERE id = NEW.correction_id) THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.entry_id IS NULL AND to_jsonb(NEW) - 'entry_id' = to_jsonb(OLD) - 'entry_id'
       AND (SELECT status FROM ledger_corrections WHERE id = NEW.correction_id) = 'approved' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on % is refused: what was proposed stays as it was written', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER ledger_correction_entries_guard BEFORE INSERT OR UPDATE OR DELETE ON ledger_correction_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_correction_entries_guard();
CREATE TRIGGER ledger_correction_entries_keep BEFORE TRUNCATE ON ledger_correction_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_correction_entries_guard();

-- What an entry moves, per account: debits less credits in the account's currency, as posting it would.
CREATE FUNCTION correction_movements(entry ledger_entries) RETURNS TABLE (account_id text, net numeric)
LANGUAGE sql STABLE AS $$
    SELECT a.id, leg.sign * CASE WHEN a.currency_code = entry.currency_code THEN entry.amount
                                 ELSE round_half_even(entry.amount * entry.fx_rate, coalesce(c.minor_units, 18)) END
    FROM (VALUES (entry.debit_account_id, 1), (entry.credit_account_id, -1)) AS leg (id, sign)
    JOIN bank_accounts a ON a.id = leg.id
    JOIN currencies c ON c.code = a.currency_code
$$;

-- The corrections of a reference that count, the latest last.
CREATE FUNCTION corrections_of_reference(p_ledger_id text, p_reference_id text) RETURNS SETOF ledger_corrections
LANGUAGE sql STABLE AS $$
    SELECT * FROM ledger_corrections
    WHERE ledger_id = p_ledger_id AND reference_id = p_reference_id AND status = 'applied' ORDER BY id
$$;

-- Whether the corrections of a reference say the truth: their entries are in the ledger as they were approved, and together
-- with the reference's own entry (and what reversed that one) they move every account by exactly what the target moves.
CREATE FUNCTION corrections_hold(p_ledger_id text, p_reference_id text) RETURNS boolean
LANGUAGE sql STABLE AS $$
    WITH applied AS MATERIALIZED (
        SELECT id, kind, finding, target, max(id) OVER () = id AS is_latest
        FROM corrections_of_reference(p_ledger_id, p_reference_id)
    ), recorded AS MATERIALIZED (
        SELECT x.* FROM ledger_correction_entries x WHERE x.correction_id IN (SELECT id FROM applied)
    ), concerned AS MATERIALIZED (
        -- Those of undone ones too: the entries that took them back are there with them.
        SELECT x.entry_id AS id
        FROM ledger_correction_entries x JOIN ledger_corrections c ON c.id = x.correction_id
        WHERE c.ledger_id = p_ledger_id AND c.reference_id = p_reference_id AND c.status IN ('applied', 'undone')
        UNION
        SELECT e.id FROM ledger_entries e WHERE e.ledger_id = p_ledger_id AND e.reference_id = p_reference_id
        UNION
        SELECT r.reversal_entry_id FROM ledger_reversals r JOIN ledger_entries e ON e.id = r.entry_id
        WHERE e.ledger_id = p_ledger_id AND e.reference_id = p_reference_id
    ), movement AS (
        SELECT leg.account_id, leg.sign * coalesce(converted.amount, e.amount) AS net
        FROM concerned
        JOIN ledger_entries e ON e.id = concerned.id
        CROSS JOIN LATERAL (
            VALUES (e.debit_account_id, 'debit', 1), (e.credit_account_id, 'credit', -1)) AS leg (account_id, side, sign)
        LEFT JOIN ledger_entry_conversions converted ON converted.entry_id = e.id AND converted.side = leg.side
        UNION ALL
        SELECT m.account_id, -m.net
        FROM applied CROSS JOIN LATERAL correction_movements(jsonb_populate_record(NULL::ledger_entries, target)) AS m
        WHERE is_latest AND target IS NOT NULL
    )
    SELECT NOT EXISTS (
               SELECT FROM recorded r LEFT JOIN ledger_entries e ON e.id = r.entry_id
               WHERE (e.ledger_id, e.reference_id, e.debit_account_id, e.credit_account_id, e.amount, e.currency_code,
                      e.asset_type, e.transaction_type, e.fx_rate)
                     IS DISTINCT FROM
                     (r.ledger_id, r.reference_id, r.debit_account_id, r.credit_account_id, r.amount, r.currency_code,
                      r.asset_type, r.transaction_type, r.fx_rate))
       AND NOT EXISTS (SELECT FROM movement GROUP BY account_id HAVING sum(net) <> 0)
       -- Of what was posted twice, the other entry has to be there still.
       AND NOT EXISTS (
               SELECT FROM applied a LEFT JOIN ledger_entries kept
                 ON kept.ledger_id = a.finding ->> 'kept_ledger_id' AND kept.reference_id = a.finding ->> 'kept_reference_id'
               WHERE a.is_latest AND a.kind = 'posted_twice'
                 AND (kept.id IS NULL OR EXISTS (SELECT FROM ledger_reversals r WHERE r.entry_id = kept.id)))
$$;

-- What each corrected reference stands for, for those who compare the ledger with a source. `holds` is false when a
-- correction fits its reference no longer: its entry was taken back or posted again since.
CREATE VIEW ledger_corrected_references AS
SELECT c.id AS correction_id, c.kind, c.source_id, c.partition_key, c.source_row, c.ledger_id, c.reference_id, c.target,
       corrections_hold(c.ledger_id, c.reference_id) AS holds
FROM ledger_corrections c
WHERE c.status = 'applied' AND c.reference_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM ledger_corrections later
                  WHERE later.ledger_id = c.ledger_id AND later.reference_id = c.reference_id
                    AND later.status = 'applied' AND later.id > c.id);

-- What corrected references would be as entries of the batch that posted them, had they been right from the start: what a seal
-- that is older than their correction speaks of. `entry_id` is the one that bears the reference now.
CREATE FUNCTION corrected_entries_as_posted(p_sealed_at timestamptz)
RETURNS TABLE (correction_id bigint, ledger_id text, reference_id text, entry_id bigint, restored ledger_entries)
LANGUAGE sql STABLE AS $$
    SELECT r.correction_id, r.ledger_id, r.reference_id, e.id,
           CASE WHEN r.target IS NOT NULL THEN jsonb_populate_record(NULL::ledger_entries, r.target || CASE
               WHEN own.was_lost THEN jsonb_build_object(
                   'batch_id', b.id, 'source_row', r.source_row, 'posted_at', b.posted_at)
               ELSE jsonb_build_object('batch_id', e.batch_id, 'source_row', e.source_row, 'posted_at', e.posted_at) END) END
    FROM ledger_corrected_references r
    JOIN ledger_corrections c ON c.id = r.correction_id AND c.closed_at > p_sealed_at
    LEFT JOIN ledger_entries e ON e.ledger_id = r.ledger_id AND e.reference_id = r.reference_id
    LEFT JOIN LATERAL (
        SELECT b.id, b.posted_at
        FROM backfill_batches b LEFT JOIN backfill_partitions p ON p.id = b.partition_id
        WHERE e.batch_id IS NULL AND b.source_id = r.source_id AND b.posted > 0 AND CASE b.kind
              WHEN 'entries' THEN p.partition_key = r.partition_key AND r.source_row BETWEEN b.first_row AND b.last_row
              WHEN 'replay' THEN EXISTS (SELECT FROM backfill_replays y WHERE y.batch_id = b.id AND y.outcome = 'posted'
                                         AND p.partition_key = r.partition_key AND y.source_row = r.source_row)
              WHEN 'opening' THEN r.target ->> 'transaction_type' = 'OPENING_BALANCE' END
        ORDER BY b.kind = 'replay' DESC, b.id LIMIT 1) AS b ON true
    -- The batch's own entry is gone; what bears its reference was posted later, by the correction or by hand.
    CROSS JOIN LATERAL (SELECT e.id IS NULL OR b.id IS NOT NULL AND e.posted_at > b.posted_at AS was_lost) AS own
    WHERE r.holds
$$;

-- How many entries corrections brought back to a batch, less those that they took out of it.
CREATE VIEW ledger_corrected_batches AS
SELECT coalesce((x.restored).batch_id, e.batch_id) AS batch_id,
       sum(((x.restored).batch_id IS NOT NULL)::int - (e.batch_id IS NOT NULL)::int) AS entries
FROM corrected_entries_as_posted('-infinity') x
LEFT JOIN ledger_entries e ON e.id = x.entry_id
GROUP BY 1;

-- What a seal would be of today's entries of its batch or month, if what corrections made since are about had been right from
-- the start. Where that is what was sealed, they brought back exactly what was there, field for field: it is proven, not
-- promised. No row when no correction concerns it.
CREATE FUNCTION ledger_seal_as_corrected(p_ledger_id text, p_number bigint)
RETURNS TABLE (entries bigint, digest bytea, corrections bigint[])
LANGUAGE plpgsql STABLE
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    sealed ledger_seals;
    starts timestamptz;
    ends   timestamptz;
BEGIN
    SELECT s.* INTO sealed FROM ledger_seals s WHERE s.ledger_id = p_ledger_id AND s.number = p_number;
    IF NOT EXISTS (SELECT FROM ledger_corrections c WHERE c.status = 'applied' AND c.closed_at > sealed.sealed_at) THEN
        RETURN;
    END IF;
    starts := sealed.month::timestamp AT TIME ZONE 'UTC';
    ends := (sealed.month::timestamp + interval '1 month') AT TIME ZONE 'UTC';
    RETURN QUERY
    WITH corrected AS MATERIALIZED (
        SELECT * FROM corrected_entries_as_posted(sealed.sealed_at) AS x WHERE x.ledger_id = p_ledger_id
    ), own AS MATERIALIZED (
        SELECT e AS entry
        FROM ledger_entries e
        WHERE e.ledger_id = p_ledger_id
          AND (e.batch_id = sealed.batch_id OR e.timestamp_utc >= starts AND e.timestamp_utc < ends)
    ), one AS (
        SELECT ledger_entry_digest(own.entry, (
                   SELECT string_agg(ROW(c.side, c.account_id, c.currency_code, c.amount)::text, '' ORDER BY c.side)
                   FROM ledger_entry_conversions c WHERE c.entry_id = (own.entry).id)) AS digest
        FROM own
        WHERE NOT EXISTS (SELECT FROM corrected x WHERE x.entry_id = (own.entry).id)
        UNION ALL
        SELECT ledger_entry_digest(x.restored, (
                   SELECT string_agg(ROW(leg.side, a.id, a.currency_code, round_half_even(
                              (x.restored).amount * (x.restored).fx_rate, coalesce(u.minor_units, 18)))::text,
                          '' ORDER BY leg.side)
                   FROM (VALUES ('debit', (x.restored).debit_account_id), ('credit', (x.restored).credit_account_id))
                        AS leg (side, account_id)
                   JOIN bank_accounts a ON a.id = leg.account_id AND a.currency_code <> (x.restored).currency_code
                   JOIN currencies u ON u.code = a.currency_code))
        FROM corrected x
        WHERE (x.restored).batch_id = sealed.batch_id
           OR (x.restored).timestamp_utc >= starts AND (x.restored).timestamp_utc < ends
    ), part AS (
        SELECT get_byte(one.digest, 0) AS bucket, count(*) AS entries,
               sha256(string_agg(one.digest, '' ORDER BY one.digest)) AS digest
        FROM one GROUP BY bucket
    ), concerned AS (
        SELECT array_agg(x.correction_id ORDER BY x.correction_id) AS ids
        FROM corrected x
        WHERE EXISTS (SELECT FROM own WHERE (own.entry).id = x.entry_id)
           OR (x.restored).batch_id = sealed.batch_id
           OR (x.restored).timestamp_utc >= starts AND (x.restored).timestamp_utc < ends
    )
    SELECT coalesce(sum(part.entries), 0)::bigint, sha256(coalesce(string_agg(part.digest, '' ORDER BY part.bucket), '')),
           (SELECT ids FROM concerned)
    FROM part
    HAVING (SELECT ids FROM concerned) IS NOT NULL;
END
$$;

-- Exactly what a proposal about a reference is made from.
CREATE FUNCTION correction_reference_state(p_finding jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'entry', (SELECT to_jsonb(e) || jsonb_build_object('conversions', (
                             SELECT jsonb_agg(to_jsonb(c) ORDER BY c.side) FROM ledger_entry_conversions c
                             WHERE c.entry_id = e.id))
                  FROM ledger_entries e
                  WHERE e.ledger_id = p_finding ->> 'ledger_id' AND e.reference_id = p_finding ->> 'reference_id'),
        'reversals', (SELECT jsonb_agg(r.reversal_entry_id ORDER BY r.generation) FROM ledger_reversals r
                      WHERE r.ledger_id = p_finding ->> 'ledger_id' AND r.reference_id = p_finding ->> 'reference_id'),
        'corrections', (SELECT jsonb_agg(jsonb_build_object('id', c.id, 'entries', (
                                   SELECT jsonb_agg(to_jsonb(e) ORDER BY e.id) FROM ledger_entries e
                                   WHERE e.id IN (SELECT entry_id FROM ledger_correction_entries
                                                  WHERE correction_id = c.id))) ORDER BY c.id)
                        FROM corrections_of_reference(p_finding ->> 'ledger_id', p_finding ->> 'reference_id') c),
        'kept entry', (SELECT to_jsonb(e) FROM ledger_entries e
                       WHERE e.ledger_id = p_finding ->> 'kept_ledger_id'
                         AND e.reference_id = p_finding ->> 'kept_reference_id'),
        'source', (SELECT jsonb_build_object('revision', r.revision, 'sha256', r.sha256, 'mapping', r.mapping_sha256,
                                             'partition posted at', p.posted_at)
                   FROM backfill_registrations r
                   LEFT JOIN backfill_partitions p
                     ON p.registration_id = r.id AND p.partition_key = p_finding ->> 'partition_key'
                   WHERE r.source_id = p_finding ->> 'source_id' ORDER BY r.revision DESC LIMIT 1))
$$;

-- The same for a balance: what the account moved by up to a moment, or what it holds now.
CREATE FUNCTION correction_balance_state(p_finding jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT CASE p_finding ->> 'kind'
        WHEN 'stated_balance' THEN (
            SELECT jsonb_build_object('legs', count(l.entry_id), 'balance', coalesce(
                       sum(CASE WHEN l.side = a.normal_side THEN l.amount ELSE -l.amount END), 0))
            FROM bank_accounts a
            LEFT JOIN ledger_entry_legs l
              ON l.account_id = a.id AND l.timestamp_utc <= (p_finding ->> 'as_of')::timestamptz
            WHERE a.id = p_finding ->> 'account_id')
        WHEN 'balance' THEN (       -- whatever is posted moves both, and leaves these as they are
            SELECT jsonb_build_object('balance less entries', a.balance - legs.net,
                                      'available balance less entries', a.available_balance + a.reserved_balance - legs.net)
            FROM bank_accounts a
            CROSS JOIN LATERAL (
                SELECT coalesce(sum(CASE WHEN l.side = a.normal_side THEN l.amount ELSE -l.amount END), 0) AS net
                FROM ledger_entry_legs l WHERE l.account_id = a.id) AS legs
            WHERE a.id = p_finding ->> 'account_id')
        ELSE (
            SELECT jsonb_build_object('balance', a.balance, 'available balance', a.available_balance,
                                      'reserved balance', a.reserved_balance)
            FROM bank_accounts a WHERE a.id = p_finding ->> 'account_id')
        END
$$;

CREATE FUNCTION correction_state(p_finding jsonb) RETURNS jsonb
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_finding ? 'account_id' THEN correction_balance_state(p_finding)
                ELSE correction_reference_state(p_finding) END
$$;

CREATE FUNCTION correction_state_hash(p_state jsonb) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT encode(sha256(convert_to(p_state::text, 'UTF8')), 'hex')
$$;

-- An entry against another one: sides swapped, all else the same.
CREATE FUNCTION correction_reverse(entry ledger_entries) RETURNS ledger_entries
LANGUAGE plpgsql STABLE AS $$
DECLARE
    debit text := entry.debit_account_id;
BEGIN
    entry.debit_account_id := entry.credit_account_id;
    entry.credit_account_id := debit;
    entry.metadata := NULL;
    RETURN entry;
END
$$;

-- Fields in which two entries differ, as a source states them.
CREATE FUNCTION correction_differences(ours ledger_entries, theirs ledger_entries) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT array_remove(ARRAY[
        CASE WHEN ours.amount <> theirs.amount THEN 'amount' END,
        CASE WHEN ours.debit_account_id <> theirs.debit_account_id THEN 'debit_account_id' END,
        CASE WHEN ours.credit_account_id <> theirs.credit_account_id THEN 'credit_account_id' END,
        CASE WHEN ours.currency_code <> theirs.currency_code THEN 'currency_code' END,
        CASE WHEN ours.fx_rate IS DISTINCT FROM theirs.fx_rate THEN 'fx_rate' END,
        CASE WHEN ours.asset_type <> theirs.asset_type THEN 'asset_type' END,
        CASE WHEN ours.transaction_type <> theirs.transaction_type THEN 'transaction_type' END,
        CASE WHEN ours.timestamp_utc <> theirs.timestamp_utc THEN 'timestamp_utc' END,
        CASE WHEN ours.metadata IS DISTINCT FROM theirs.metadata THEN 'metadata' END], NULL)
$$;

CREATE TYPE correction_draft AS (
    kind               text,
    reason             text,
    corrected_entry_id bigint,
    target             jsonb,
    entries            ledger_entries[],
    skipped            text         -- why no entry can correct it; all else is NULL then, and when nothing is wrong
);

-- What corrects a finding about a reference: computed from what is in the ledger, never from what somebody says is there.
CREATE FUNCTION draft_reference_correction(p_finding jsonb) RETURNS correction_draft
LANGUAGE plpgsql STABLE AS $$
DECLARE
    draft   correction_draft;
    posted  ledger_entries;         -- the reference's own entry
    stands  ledger_entries;         -- what the reference stands for now
    wanted  ledger_entries;
    one     ledger_entries;
    latest  ledger_corrections;
    origin  text;
    bank    text;
    differ  text[];
    taken_back text;
    unknown text;
BEGIN
    SELECT * INTO posted FROM ledger_entries
    WHERE ledger_id = p_finding ->> 'ledger_id' AND reference_id = p_finding ->> 'reference_id';
    IF NOT EXISTS (SELECT FROM ledger_reversals r WHERE r.entry_id = posted.id) THEN
        stands := posted;
    END IF;
    SELECT * INTO latest FROM corrections_of_reference(p_finding ->> 'ledger_id', p_finding ->> 'reference_id')
    ORDER BY id DESC LIMIT 1;
    IF latest.id IS NOT NULL THEN
        IF corrections_hold(latest.ledger_id, latest.reference_id) THEN
            stands := CASE WHEN latest.target IS NOT NULL THEN jsonb_populate_record(NULL::ledger_entries, latest.target) END;
        ELSE
            -- What they corrected is gone, or was posted again: they are taken back, and what is there is looked at alone.
            FOR one IN SELECT e.* FROM ledger_entries e
                       JOIN ledger_correction_entries x ON x.entry_id = e.id
                       JOIN corrections_of_reference(latest.ledger_id, latest.reference_id) c ON c.id = x.correction_id
                       WHERE e.reference_id <> latest.reference_id ORDER BY e.id DESC LOOP
                draft.entries := draft.entries || correction_reverse(one);
            END LOOP;
            draft.kind := 'left_over';
            taken_back := format('what correction %s corrected is no longer there as it was: its entries are taken back',
                                 latest.id);
        END IF;
    END IF;
    wanted := CASE WHEN p_finding ? 'keep' THEN stands
                   WHEN p_finding ->> 'target' IS NOT NULL
                   THEN jsonb_populate_record(NULL::ledger_entries, (p_finding -> 'target') - 'metadata') END;
    IF NOT p_finding ? 'keep' THEN      -- JSON in a text, so that no reader on the way touches its numbers
        wanted.metadata := (p_finding -> 'target' ->> 'metadata')::jsonb;
    END IF;

    -- A bank keeps its own book: what is missing of it is posted; what differs is for the bank's next word, not for ours.
    SELECT b.origin INTO origin FROM backfill_batches b WHERE b.id = posted.batch_id;
    SELECT d.bank_id INTO bank FROM dual_ledgers d WHERE d.ledger_id = p_finding ->> 'ledger_id';
    IF origin = bank THEN
        draft := NULL;
        draft.skipped := format('it is an entry of %s, which keeps this ledger too: fetch its day again instead', bank);
        RETURN draft;
    END IF;

    draft.corrected_entry_id := stands.id;
    draft.target := CASE WHEN wanted.reference_id IS NOT NULL
                         THEN to_jsonb(wanted) - ARRAY['id', 'posted_at', 'batch_id', 'source_row'] END;
    IF stands.reference_id IS NULL AND wanted.reference_id IS NULL THEN
        NULL;
    ELSIF stands.reference_id IS NULL THEN
        draft.kind := 'missing';
        draft.reason := 'the source has it, the ledger does not';
        draft.entries := draft.entries || wanted;
    ELSIF wanted.reference_id IS NULL THEN
        draft.kind := CASE WHEN p_finding ? 'kept_reference_id' THEN 'posted_twice' ELSE 'unexpected' END;
        draft.reason := CASE draft.kind
            WHEN 'posted_twice' THEN format('the same as %s: posted twice', p_finding ->> 'kept_reference_id')
            ELSE 'the ledger has it, the source does not' END;
        draft.entries := draft.entries || correction_reverse(stands);
    ELSE
        differ := correction_differences(stands, wanted);
        IF differ = '{}' THEN
            NULL;
        ELSIF differ = '{amount}' AND stands.fx_rate IS NULL THEN
            one := CASE WHEN wanted.amount > stands.amount THEN wanted ELSE correction_reverse(stands) END;
            one.amount := abs(wanted.amount - stands.amount);
            draft.kind := 'amount';
            draft.entries := draft.entries || one;
        ELSE
            draft.kind := CASE WHEN 'amount' = ANY (differ) THEN 'amount'
                               WHEN differ && ARRAY['debit_account_id', 'credit_account_id'] THEN 'accounts'
                               ELSE 'content' END;
            draft.entries := draft.entries || correction_reverse(stands) || wanted;
        END IF;
        IF differ <> '{}' THEN
            draft.reason := (
                SELECT 'the ledger has ' || string_agg(format('%s %s instead of %s', field,
                           coalesce(to_jsonb(stands) ->> field, 'none'), coalesce(to_jsonb(wanted) ->> field, 'none')), ', ')
                FROM unnest(differ) AS field);
        END IF;
    END IF;
    draft.reason := concat_ws('; ', taken_back, draft.reason);
    SELECT a INTO unknown FROM unnest(draft.entries) AS e, unnest(ARRAY[e.debit_account_id, e.credit_account_id]) AS a
    WHERE NOT EXISTS (SELECT FROM bank_accounts WHERE id = a) LIMIT 1;
    IF unknown IS NOT NULL THEN
        draft := NULL;
        draft.skipped := format('the ledger does not have the account %s: open it first', unknown);
    END IF;
    RETURN draft;
END
$$;

-- What corrects a balance: one entry between the account and another one that was named for it. A balance is never made to
-- fit by itself.
CREATE FUNCTION draft_balance_correction(p_finding jsonb, p_state jsonb) RETURNS correction_draft
LANGUAGE plpgsql STABLE AS $$
DECLARE
    draft    correction_draft;
    account  bank_accounts;
    suspense bank_accounts;
    entry    ledger_entries;
    missing  numeric;
BEGIN
    SELECT * INTO account FROM bank_accounts WHERE id = p_finding ->> 'account_id';
    -- A balance is what its entries add up to. When somebody changed it without them, no entry can correct it: an entry moves
    -- both. The entries are the truth, and the balance is set to what they say.
    IF p_finding ->> 'kind' = 'balance' AND account.id IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM jsonb_each_text(p_state) WHERE value::numeric <> 0) THEN
            RETURN NULL;
        END IF;
        draft.kind := 'balance';
        draft.entries := '{}';
        draft.reason := format('its balance is %s, its entries say %s: somebody changed one of both without the other; the'
            ' balance is computed anew from the entries, which stay', account.balance,
            account.balance - (p_state ->> 'balance less entries')::numeric);
        RETURN draft;
    END IF;
    SELECT * INTO suspense FROM bank_accounts WHERE id = p_finding ->> 'suspense_account_id';
    IF account.id IS NULL THEN
        draft.skipped := 'the ledger does not have the account';
    ELSIF suspense.id IS NULL THEN
        draft.skipped := format('the suspense account %s does not exist: open it first',
                                coalesce(p_finding ->> 'suspense_account_id', '(none given)'));
    ELSIF suspense.id = account.id THEN
        draft.skipped := 'it is the suspense account itself';
    ELSIF (suspense.currency_code, suspense.asset_type) <> (account.currency_code, account.asset_type) THEN
        draft.skipped := format('the suspense account %s is in %s (%s), the account in %s (%s): name one that fits',
                                suspense.id, suspense.currency_code, suspense.asset_type, account.currency_code,
                                account.asset_type);
    END IF;
    IF draft.skipped IS NOT NULL THEN
        RETURN draft;
    END IF;
    IF p_finding ->> 'kind' = 'stated_balance' THEN
        IF (p_state ->> 'balance')::numeric <> (p_finding ->> 'ledger_balance')::numeric THEN
            draft.skipped := format(
                'the rows of its statement are not in the order of their times: up to %s the account moved to %s, not to %s',
                p_finding ->> 'as_of', p_state ->> 'balance', p_finding ->> 'ledger_balance');
            RETURN draft;
        END IF;
        missing := (p_finding ->> 'stated_balance')::numeric - (p_finding ->> 'ledger_balance')::numeric;
        draft.kind := 'stated_balance';
        draft.reason := format(
            'the source states %s after its last row, the ledger says %s: the difference of %s goes to %s. It explains nothing:'
            ' look for its cause there', p_finding ->> 'stated_balance', p_finding ->> 'ledger_balance', missing, suspense.id);
        entry.timestamp_utc := (p_finding ->> 'as_of')::timestamptz;
    ELSE
        missing := -least(account.available_balance, 0);
        draft.kind := 'below_zero';
        draft.reason := format('the account is at %s, below zero: it is brought to zero at the expense of %s, which is to be'
                               ' cleared', account.available_balance, suspense.id);
        entry.timestamp_utc := statement_timestamp();
    END IF;
    IF missing = 0 THEN
        RETURN NULL;
    END IF;
    -- Raising an account is its normal side's movement.
    IF (missing > 0) = (account.normal_side = 'debit') THEN
        entry.debit_account_id := account.id;
        entry.credit_account_id := suspense.id;
    ELSE
        entry.debit_account_id := suspense.id;
        entry.credit_account_id := account.id;
    END IF;
    entry.ledger_id := p_finding ->> 'ledger_id';
    entry.amount := abs(missing);
    entry.currency_code := account.currency_code;
    entry.asset_type := account.asset_type;
    entry.transaction_type := 'CORRECTION';
    draft.entries := ARRAY[entry];
    RETURN draft;
END
$$;

-- One at a time: whoever decides about corrections sees what others decided before.
CREATE FUNCTION lock_corrections() RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('ledger_corrections', 0))
$$;

-- Proposes what corrects the findings: each an object with source_id, partition_key, source_row (or none of them: the audit's),
-- ledger_id and reference_id with the target that the source has (none: the source has none; keep: what is there is right), or
-- kind, account_id, suspense_account_id and the balances. An open proposal that was made from the same state stays; one that
-- was made from another state is stale, and a new one takes its place. One row for each finding, in their order.
CREATE FUNCTION propose_corrections(p_findings jsonb, p_actor text, p_reason text DEFAULT NULL)
RETURNS TABLE (finding_number bigint, correction_id bigint, outcome text, detail text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found     record;
    before    ledger_corrections;
    draft     correction_draft;
    now_state jsonb;
    now_hash  text;
    stem      text;
    proposed  bigint[] := '{}';
BEGIN
    PERFORM lock_corrections();
    FOR found IN SELECT value AS finding, ordinality AS number FROM jsonb_array_elements(p_findings) WITH ORDINALITY LOOP
        finding_number := found.number;
        correction_id := NULL;
        detail := NULL;
        now_state := correction_state(found.finding);
        now_hash := correction_state_hash(now_state);
        draft := CASE WHEN found.finding ? 'account_id' THEN draft_balance_correction(found.finding, now_state)
                      ELSE draft_reference_correction(found.finding) END;
        SELECT * INTO before FROM ledger_corrections
        WHERE coalesce(ledger_id, '') = coalesce(found.finding ->> 'ledger_id', '')
          AND status IN ('proposed', 'approved')
          AND coalesce(reference_id, '') = coalesce(found.finding ->> 'reference_id', '')
          AND coalesce(account_id, '') = coalesce(found.finding ->> 'account_id', '')
        FOR UPDATE;
        -- A balance is computed anew in the same way, whoever found that it drifted: a source's proposal or the audit.
        IF before.id IS NOT NULL AND before.state_hash = now_hash
           AND (before.finding = found.finding OR before.kind = 'balance' AND found.finding ->> 'kind' = 'balance') THEN
            correction_id := before.id;
            outcome := 'open already';
            RETURN NEXT;
            CONTINUE;
        ELSIF before.id IS NOT NULL THEN
            UPDATE ledger_corrections SET status = 'stale', closed_by = p_actor, closed_at = now(),
                   closing_reason = 'proposed anew' WHERE id = before.id;
            PERFORM write_audit_log(p_actor, 'correction_stale', format('correction %s', before.id), 'proposed anew');
        END IF;
        IF draft.entries IS NULL THEN
            outcome := CASE WHEN draft.skipped IS NULL THEN 'nothing' ELSE 'skipped' END;
            detail := draft.skipped;
            RETURN NEXT;
            CONTINUE;
        END IF;
        INSERT INTO ledger_corrections (kind, source_id, partition_key, source_row, ledger_id, reference_id, account_id,
                                        corrected_entry_id, finding, reason, target, state, state_hash, proposed_by)
        VALUES (draft.kind, found.finding ->> 'source_id', found.finding ->> 'partition_key',
                (found.finding ->> 'source_row')::bigint, found.finding ->> 'ledger_id', found.finding ->> 'reference_id',
                found.finding ->> 'account_id', draft.corrected_entry_id, found.finding, draft.reason, draft.target,
                now_state, now_hash, p_actor)
        RETURNING id INTO correction_id;
        -- The same finding in the same state has the same references: it could never be posted twice.
        stem := 'CORR-' || upper(left(correction_state_hash(jsonb_build_array(
            found.finding ->> 'ledger_id', found.finding ->> 'reference_id', found.finding ->> 'account_id', draft.kind,
            now_hash)), 20));
        INSERT INTO ledger_correction_entries (correction_id, number, ledger_id, debit_account_id, credit_account_id, amount,
                                               currency_code, asset_type, transaction_type, reference_id, fx_rate, metadata,
                                               timestamp_utc)
        SELECT correction_id, e.number, e.ledger_id, e.debit_account_id, e.credit_account_id, e.amount, e.currency_code,
               coalesce(e.asset_type, 'fiat'), e.transaction_type,
               CASE WHEN own.is_it THEN e.reference_id ELSE stem || '-' || e.number END, e.fx_rate,
               CASE WHEN own.is_it THEN e.metadata
                    ELSE coalesce(e.metadata, '{}') || jsonb_build_object(
                        'corrects', coalesce(found.finding ->> 'reference_id', found.finding ->> 'account_id')) END,
               e.timestamp_utc
        FROM unnest(draft.entries) WITH ORDINALITY AS e (id, ledger_id, debit_account_id, credit_account_id, amount,
                 currency_code, asset_type, transaction_type, reference_id, timestamp_utc, posted_at, fx_rate, metadata,
                 batch_id, source_row, number)
        -- What is missing is posted under its own reference, as the source has it: whoever posts it later finds it there.
        CROSS JOIN LATERAL (
            SELECT draft.kind = 'missing' AND e.reference_id = found.finding ->> 'reference_id'
                   AND now_state -> 'entry' = 'null' AS is_it) AS own;
        proposed := proposed || correction_id;
        outcome := 'proposed';
        detail := draft.reason;
        RETURN NEXT;
    END LOOP;
    IF proposed <> '{}' THEN
        PERFORM write_audit_log(p_actor, 'corrections_proposed',
                                coalesce(p_findings -> 0 ->> 'source_id', 'ledger'), p_reason, NULL,
                                jsonb_build_object('corrections', to_jsonb(proposed)));
    END IF;
END
$$;

-- What changed since a proposal was made, in words; NULL when nothing did.
CREATE FUNCTION correction_change(c ledger_corrections) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN correction_state_hash(now_state) <> c.state_hash THEN coalesce((
        SELECT string_agg(key, ', ' ORDER BY key)
        FROM jsonb_object_keys(coalesce(c.state, '{}') || coalesce(now_state, '{}')) AS key
        WHERE c.state -> key IS DISTINCT FROM now_state -> key), 'the account') END
    FROM correction_state(c.finding) AS now_state
$$;

-- A proposal whose state changed is refused for good, and proposed anew from the state of now. For stated balances the source
-- has to be compared again first. Returns the new proposal, if there is still something to correct.
CREATE FUNCTION correction_is_stale(c ledger_corrections, p_actor text, p_change text) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    anew        bigint;
    same_source boolean := (c.state -> 'source') IS NOT DISTINCT FROM (correction_state(c.finding) -> 'source');
BEGIN
    UPDATE ledger_corrections SET status = 'stale', closed_by = p_actor, closed_at = now(),
           closing_reason = format('changed since: %s', p_change) WHERE id = c.id;
    PERFORM write_audit_log(p_actor, 'correction_stale', format('correction %s', c.id), format('changed since: %s', p_change),
                            c.state, correction_state(c.finding), c.state_hash);
    IF same_source AND c.kind <> 'stated_balance' THEN
        SELECT correction_id INTO anew
        FROM propose_corrections(jsonb_build_array(c.finding), c.proposed_by, format('anew after correction %s', c.id));
    END IF;
    RETURN jsonb_build_object('id', c.id, 'outcome', 'stale', 'changed', p_change, 'proposed_anew', anew);
END
$$;

-- Approves a proposal; the outcome says whether: approved, stale (refused and proposed anew), same person (four eyes), or
-- closed, with its status.
CREATE FUNCTION approve_correction(p_id bigint, p_actor text, p_reason text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    c      ledger_corrections;
    change text;
BEGIN
    PERFORM lock_corrections();
    SELECT * INTO c FROM ledger_corrections WHERE id = p_id FOR UPDATE;
    IF c.id IS NULL THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'unknown');
    ELSIF c.status = 'approved' THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'approved already');
    ELSIF c.status <> 'proposed' THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'closed', 'why', c.status);
    END IF;
    change := correction_change(c);
    IF change IS NOT NULL THEN
        RETURN correction_is_stale(c, p_actor, change);
    END IF;
    IF same_person(p_actor, c.proposed_by) AND (SELECT four_eyes FROM ledger_controls FOR SHARE) THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'same person', 'proposed_by', c.proposed_by);
    END IF;
    UPDATE ledger_corrections SET status = 'approved', approved_by = p_actor, approved_at = now() WHERE id = p_id;
    PERFORM write_audit_log(p_actor, 'correction_approved', format('correction %s', p_id), p_reason,
                            jsonb_build_object('status', 'proposed', 'proposed_by', c.proposed_by),
                            jsonb_build_object('status', 'approved'), c.state_hash);
    RETURN jsonb_build_object('id', p_id, 'outcome', 'approved');
END
$$;

-- Rejects a proposal that is not applied; whoever proposed it may do that too.
CREATE FUNCTION reject_correction(p_id bigint, p_actor text, p_reason text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    c ledger_corrections;
BEGIN
    PERFORM lock_corrections();
    SELECT * INTO c FROM ledger_corrections WHERE id = p_id FOR UPDATE;
    IF c.id IS NULL THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'unknown');
    ELSIF c.status = 'rejected' THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'rejected already');
    ELSIF c.status NOT IN ('proposed', 'approved') THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'closed', 'why', c.status);
    END IF;
    UPDATE ledger_corrections SET status = 'rejected', closed_by = p_actor, closed_at = now(), closing_reason = p_reason
    WHERE id = p_id;
    PERFORM write_audit_log(p_actor, 'correction_rejected', format('correction %s', p_id), p_reason,
                            jsonb_build_object('status', c.status), jsonb_build_object('status', 'rejected'), c.state_hash);
    RETURN jsonb_build_object('id', p_id, 'outcome', 'rejected');
END
$$;

-- What the bank that keeps this ledger too was told of a reference: 'nothing', 'the truth' (all of it together moves what the
-- target moves, at its time and with its type, or it is an entry of the bank's own), or 'something else'. What another row takes
-- back is no truth any more, also while that one still waits for an answer.
CREATE FUNCTION correction_bank_knows(p_ledger_id text, p_reference_id text, p_target jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
    WITH told AS MATERIALIZED (
        SELECT o.kind, o.payload
        FROM dual_ledger_outbox o
        WHERE o.ledger_id = p_ledger_id AND NOT o.withdraws AND o.compensated_by IS NULL
          AND o.status NOT IN ('CANCELLED', 'COMPENSATED')
          AND o.reference_id IN (
              SELECT p_reference_id
              UNION ALL
              SELECT x.reference_id
              FROM ledger_corrections c JOIN ledger_correction_entries x ON x.correction_id = c.id
              WHERE c.ledger_id = p_ledger_id AND c.reference_id = p_reference_id AND c.status IN ('applied', 'undone'))
    ), said AS (
        SELECT payload ->> 'debit_account' AS debit, payload ->> 'credit_account' AS credit,
               (payload ->> 'amount')::numeric AS amount, payload ->> 'currency' AS currency,
               (payload ->> 'fx_rate')::numeric AS fx_rate, payload ->> 'type' AS type,
               -- An entry of a closed period is dated in an open one.
               coalesce(payload -> 'metadata' ->> 'happened_at', payload ->> 'booked_at')::timestamptz AS at
        FROM told WHERE kind = 'entry'
        UNION ALL
        SELECT p_target ->> 'credit_account_id', p_target ->> 'debit_account_id', (p_target ->> 'amount')::numeric,
               p_target ->> 'currency_code', (p_target ->> 'fx_rate')::numeric, p_target ->> 'transaction_type',
               (p_target ->> 'timestamp_utc')::timestamptz
        WHERE p_target IS NOT NULL
    ), left_over AS (
        SELECT FROM said CROSS JOIN LATERAL (VALUES (debit, amount), (credit, -amount)) AS leg (account_id, net)
        GROUP BY leg.account_id, currency, fx_rate, type, at HAVING sum(leg.net) <> 0
    )
    SELECT CASE WHEN NOT EXISTS (SELECT FROM told) THEN 'nothing'
                WHEN EXISTS (SELECT FROM told WHERE kind = 'acknowledgement') OR NOT EXISTS (SELECT FROM left_over)
                THEN 'the truth'
                ELSE 'something else' END
$$;

-- Whether the bank must not hear of a correction: it knows the truth, and only our ledger was wrong; or it was never told of the
-- reference because it is an opening balance, with which both sides begin. What is posted anew under a reference that it was
-- told of cannot be told once more: comparing both ledgers says what differs then.
CREATE FUNCTION correction_is_untold(c ledger_corrections) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT c.reference_id IS NOT NULL AND EXISTS (SELECT FROM dual_ledgers d WHERE d.ledger_id = c.ledger_id)
       AND CASE correction_bank_knows(c.ledger_id, c.reference_id, c.target)
           WHEN 'the truth' THEN true
           WHEN 'nothing' THEN coalesce(c.target, c.state -> 'entry') ->> 'transaction_type' = 'OPENING_BALANCE'
           ELSE EXISTS (SELECT FROM ledger_correction_entries x JOIN dual_ledger_outbox o
                          ON o.ledger_id = x.ledger_id AND o.reference_id = x.reference_id
                         AND NOT o.withdraws AND o.compensated_by IS NULL AND o.status NOT IN ('CANCELLED', 'COMPENSATED')
                        WHERE x.correction_id = c.id) END
$$;

-- Notes of entries that the bank does not hear of that this is so, else they would be told when the ledger is marked anew, and
-- missed when both ledgers are compared.
CREATE FUNCTION cancel_correction_for_bank(p_id bigint) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload, status, last_error)
    SELECT e.ledger_id, e.reference_id, d.bank_id, 'LOCAL', dual_ledger_payload(e, false), 'CANCELLED',
           format('correction %s brings only this ledger to what the bank knows', p_id)
    FROM ledger_correction_entries x
    JOIN ledger_entries e ON e.id = x.entry_id
    JOIN dual_ledgers d ON d.ledger_id = e.ledger_id
    WHERE x.correction_id = p_id
      AND NOT EXISTS (SELECT FROM dual_ledger_outbox o
                      WHERE o.ledger_id = e.ledger_id AND o.reference_id = e.reference_id AND o.destination = d.bank_id
                        AND NOT o.withdraws AND o.compensated_by IS NULL AND o.status NOT IN ('CANCELLED', 'COMPENSATED'))
    ORDER BY x.number
$$;
COMMENT ON COLUMN dual_ledger_outbox.status IS
    'PENDING: not sent yet. SENT: in a request whose answer is not known. ACKNOWLEDGED: the bank has it. FAILED: refused,'
    ' will be tried again. DEAD: given up, for a person to look at. CANCELLED: the bank will not hear of it, since the entry'
    ' was taken back before it did, or corrects what only this ledger had wrong. COMPENSATED: the bank has it, and another row'
    ' takes it back.';

-- Corrected references of which the bank was told the truth, though this ledger's own entry is not what was told: the entry as
-- the bank has it. Both ledgers agree as long as what it was told is what the reference stands for.
CREATE VIEW ledger_entries_as_told AS
SELECT e.ledger_id, e.reference_id, told.destination AS bank_id, jsonb_populate_record(e, jsonb_build_object(
           'debit_account_id', told.payload -> 'debit_account', 'credit_account_id', told.payload -> 'credit_account',
           'amount', told.payload -> 'amount', 'currency_code', told.payload -> 'currency',
           'transaction_type', told.payload -> 'type', 'timestamp_utc', told.payload -> 'booked_at',
           'fx_rate', told.payload -> 'fx_rate', 'metadata', told.payload -> 'metadata')) AS entry
FROM ledger_corrected_references r
JOIN ledger_entries e ON e.ledger_id = r.ledger_id AND e.reference_id = r.reference_id
JOIN dual_ledger_outbox told ON told.ledger_id = e.ledger_id AND told.reference_id = e.reference_id AND told.kind = 'entry'
 AND NOT told.withdraws AND told.compensated_by IS NULL AND told.status NOT IN ('CANCELLED', 'COMPENSATED')
WHERE r.holds AND correction_bank_knows(r.ledger_id, r.reference_id, r.target) = 'the truth';

-- Posts the entries of a correction through post_ledger_entry. When the ledger refuses one, nothing is posted, and why is
-- returned: a balance that breaks a constraint in between may not do so in the other order.
CREATE FUNCTION post_correction_entries(p_id bigint, p_backwards boolean) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    one    ledger_correction_entries;
    moment timestamptz;
    posted bigint;
BEGIN
    FOR one IN SELECT * FROM ledger_correction_entries WHERE correction_id = p_id
               ORDER BY CASE WHEN p_backwards THEN -number ELSE number END LOOP
        moment := ledger_open_moment(one.ledger_id, one.timestamp_utc);
        posted := post_ledger_entry(
            one.ledger_id, one.debit_account_id, one.credit_account_id, one.amount, one.currency_code, one.asset_type,
            one.transaction_type, one.reference_id, one.fx_rate,
            -- An entry of a closed period says when it happened.
            CASE WHEN moment = one.timestamp_utc THEN one.metadata
                 ELSE coalesce(one.metadata, '{}') || jsonb_build_object('happened_at', ledger_utc_text(one.timestamp_utc)) END,
            moment);
        UPDATE ledger_correction_entries SET entry_id = posted WHERE correction_id = p_id AND number = one.number;
    END LOOP;
    RETURN NULL;
EXCEPTION
    WHEN check_violation OR foreign_key_violation OR unique_violation THEN
        RETURN SQLERRM;
END
$$;

-- Sets a balance to what its entries say; why not, when a constraint stands against it.
CREATE FUNCTION compute_balance_anew(p_account_id text, p_state jsonb) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE bank_accounts
    SET balance = balance - (p_state ->> 'balance less entries')::numeric,
        available_balance = available_balance - (p_state ->> 'available balance less entries')::numeric
    WHERE id = p_account_id;
    RETURN NULL;
EXCEPTION
    WHEN check_violation THEN
        RETURN SQLERRM;
END
$$;

-- Applies an approved correction: its entries, its status, its link and the audit log in one transaction. The outcome says
-- what became of it: applied, applied already, stale, refused (by a constraint), not approved, or closed, with its status.
CREATE FUNCTION apply_correction(p_id bigint, p_actor text, p_reason text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    c       ledger_corrections;
    change  text;
    refused text;
    untold  boolean;
    entries jsonb;
BEGIN
    -- Entries first and accounts second, in id order, as all who post. From here on nobody moves these accounts, so what the
    -- proposal was made from stays as it is looked at below.
    PERFORM lock_corrections();
    LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE;
    SELECT * INTO c FROM ledger_corrections WHERE id = p_id FOR UPDATE;
    IF c.id IS NULL THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'unknown');
    ELSIF c.status = 'applied' THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'applied already');
    ELSIF c.status = 'proposed' THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'not approved');
    ELSIF c.status <> 'approved' THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'closed', 'why', c.status);
    END IF;
    PERFORM 1 FROM bank_accounts
    WHERE id IN (SELECT debit_account_id FROM ledger_correction_entries WHERE correction_id = p_id
                 UNION SELECT credit_account_id FROM ledger_correction_entries WHERE correction_id = p_id
                 UNION SELECT c.account_id)
    ORDER BY id FOR NO KEY UPDATE;
    PERFORM 1 FROM ledger_entries
    WHERE ledger_id = c.ledger_id AND reference_id IN (c.reference_id, c.finding ->> 'kept_reference_id')
    ORDER BY id FOR KEY SHARE;
    change := correction_change(c);
    IF change IS NOT NULL THEN
        RETURN correction_is_stale(c, p_actor, change);
    END IF;

    untold := correction_is_untold(c);
    IF untold THEN
        PERFORM set_config('backfill.origin', 'OPENING', true);     -- nobody is told
    ELSIF c.kind = 'missing' THEN
        PERFORM set_config('backfill.origin', coalesce((
            SELECT b.origin FROM backfill_batches_ever b JOIN backfill_partitions p ON p.id = b.partition_id
            WHERE b.source_id = c.source_id AND p.partition_key = c.partition_key LIMIT 1), ''), true);
    END IF;
    IF c.kind = 'balance' THEN
        refused := compute_balance_anew(c.account_id, c.state);
    ELSE
        refused := post_correction_entries(p_id, false);
        IF refused IS NOT NULL THEN
            refused := post_correction_entries(p_id, true);
        END IF;
    END IF;
    PERFORM set_config('backfill.origin', '', true);
    IF refused IS NOT NULL THEN
        RETURN jsonb_build_object('id', p_id, 'outcome', 'refused', 'why', refused);
    ELSIF untold THEN
        PERFORM cancel_correction_for_bank(p_id);
    END IF;

    UPDATE ledger_corrections SET status = 'undone', undone_by = p_id
    WHERE ledger_id = c.ledger_id AND reference_id = c.reference_id AND status = 'applied'
      AND NOT corrections_hold(ledger_id, reference_id);
    UPDATE ledger_corrections SET status = 'applied', closed_by = p_actor, closed_at = now(), closing_reason = p_reason
    WHERE id = p_id;
    IF c.reference_id IS NOT NULL AND NOT corrections_hold(c.ledger_id, c.reference_id) THEN
        RAISE EXCEPTION 'correction % would not bring % to what it should be: nothing is posted', p_id, c.reference_id
            USING ERRCODE = 'data_exception';
    END IF;
    SELECT jsonb_agg(jsonb_build_object('id', e.id, 'reference_id', e.reference_id, 'timestamp_utc', e.timestamp_utc)
                     ORDER BY x.number)
    INTO entries
    FROM ledger_correction_entries x JOIN ledger_entries e ON e.id = x.entry_id WHERE x.correction_id = p_id;
    PERFORM write_audit_log(p_actor, 'correction_applied', format('correction %s', p_id), p_reason, c.state,
                            jsonb_build_object('kind', c.kind, 'entries', entries, 'proposed_by', c.proposed_by,
                                               'approved_by', c.approved_by), c.state_hash);
    RETURN jsonb_build_object('id', p_id, 'outcome', 'applied', 'entries', entries);
END
$$;

-- As in 0002: the functions work on the tables beside them, whatever the session's search_path says. States are hashed, so
-- their times are written in one time zone.
CALL pin_functions(ARRAY[
    'ledger_corrections_guard', 'ledger_corrections_begin', 'ledger_correction_entries_guard', 'correction_movements',
    'corrections_of_reference', 'corrections_hold', 'corrected_entries_as_posted', 'ledger_seal_as_corrected',
    'correction_reference_state', 'correction_balance_state', 'correction_state', 'correction_reverse',
    'correction_differences', 'draft_reference_correction', 'draft_balance_correction', 'propose_corrections',
    'correction_change', 'correction_is_stale', 'approve_correction', 'reject_correction', 'correction_bank_knows',
    'correction_is_untold', 'cancel_correction_for_bank', 'post_correction_entries', 'compute_balance_anew',
    'apply_correction'
], ARRAY['timezone = ''UTC''']);
-- They look up single entries by their keys. Without statistics of these tables, the planner would read all entries.
CALL pin_functions(
    ARRAY['corrections_hold', 'correction_reference_state', 'draft_reference_correction', 'correction_bank_knows',
          'correction_is_untold', 'cancel_correction_for_bank', 'apply_correction'],
    ARRAY['enable_hashjoin = off', 'enable_mergejoin = off']
);
