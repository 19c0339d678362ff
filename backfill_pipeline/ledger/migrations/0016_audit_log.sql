-- Who decided what about the ledger, when and why. Every operation that a person starts (a rollback, a correction, a closed
-- period, …) writes its row in its own transaction, so there is none without the other.
--
-- Each row holds the hash of the one before it and its own, over everything in it. A row that is edited no longer fits its
-- hash, one that is removed leaves a gap, and the last one is known to audit_log_head. Whoever may rewrite all of it (the
-- owner of the tables) is found out by a hash that was written down elsewhere: evidence packs hold it.
CREATE TABLE audit_log (
    number        bigint PRIMARY KEY,               -- from 1, without gaps: rolled back numbers are given again
    happened_at   timestamptz NOT NULL,
    actor         text NOT NULL CHECK (actor <> ''),
    database_user text NOT NULL,
    action        text NOT NULL CHECK (action ~ '^[a-z]+(_[a-z]+)*$'),
    subject       text NOT NULL,
    reason        text,
    before        jsonb,
    after         jsonb,
    plan_hash     text,
    previous_hash bytea NOT NULL,
    row_hash      bytea NOT NULL
);
COMMENT ON COLUMN audit_log.actor IS 'The person, as the command or the run says; database_user is who the database saw.';
COMMENT ON COLUMN audit_log.subject IS 'What it was done to: a source, a batch, a ledger and its month, …';

CREATE TABLE audit_log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number   bigint NOT NULL,
    row_hash bytea NOT NULL
);
INSERT INTO audit_log_head (number, row_hash) VALUES (0, '\x');

-- JSON, because there every value has one form and no two rows the same one.
CREATE FUNCTION audit_log_row_hash(entry audit_log) RETURNS bytea
LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(jsonb_build_array(
        entry.number, ledger_utc_text(entry.happened_at), entry.actor, entry.database_user, entry.action, entry.subject,
        entry.reason, entry.before, entry.after, entry.plan_hash, encode(entry.previous_hash, 'hex'))::text, 'UTF8'))
$$;

-- Whoever inserts states what happened; number, time and hashes are given here. Others wait at the head until commit, so the
-- chain is in the order in which rows became visible.
CREATE FUNCTION audit_log_chain() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    SELECT number + 1, row_hash INTO NEW.number, NEW.previous_hash FROM audit_log_head FOR UPDATE;
    NEW.happened_at := clock_timestamp();
    NEW.database_user := session_user;
    NEW.row_hash := audit_log_row_hash(NEW);
    UPDATE audit_log_head SET number = NEW.number, row_hash = NEW.row_hash;
    RETURN NEW;
END
$$;
CREATE TRIGGER audit_log_chain BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_log_chain();

CREATE FUNCTION audit_log_refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: what was decided stays as it was written', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_change();

CREATE FUNCTION write_audit_log(
    p_actor text, p_action text, p_subject text, p_reason text DEFAULT NULL, p_before jsonb DEFAULT NULL,
    p_after jsonb DEFAULT NULL, p_plan_hash text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO audit_log (actor, action, subject, reason, before, after, plan_hash)
    VALUES (p_actor, p_action, p_subject, p_reason, p_before, p_after, p_plan_hash)
    RETURNING number
$$;

-- What is wrong with the log; nothing, as long as nobody touched it. A head that was taken away says nothing of where it ended.
CREATE FUNCTION audit_log_faults() RETURNS TABLE (number bigint, fault text)
LANGUAGE sql STABLE AS $$
    WITH linked AS (
        SELECT entry.number, entry.previous_hash, entry.row_hash, audit_log_row_hash(entry) AS computed,
               lag(entry.number, 1, 0::bigint) OVER ordered AS before_it,
               lag(entry.row_hash, 1, ''::bytea) OVER ordered AS expected_previous
        FROM audit_log entry
        WINDOW ordered AS (ORDER BY entry.number)
    ), latest AS (
        SELECT max(l.number) AS number, (array_agg(l.row_hash ORDER BY l.number DESC))[1] AS row_hash FROM linked l
    )
    SELECT l.number, 'was edited: it does not fit its hash' FROM linked l WHERE l.row_hash <> l.computed
    UNION ALL
    SELECT l.number, CASE WHEN l.number > l.before_it + 1
                          THEN format('rows %s to %s before it were removed', l.before_it + 1, l.number - 1)
                          ELSE 'does not follow the row before it' END
    FROM linked l WHERE l.previous_hash <> l.expected_previous OR l.number > l.before_it + 1
    UNION ALL
    SELECT coalesce(head.number, latest.number, 0),
           CASE WHEN head.number IS NULL THEN 'is the last one that is there: audit_log_head, which knows the last one, is empty'
                WHEN coalesce(latest.number, 0) < head.number
                THEN format('rows after %s were removed', coalesce(latest.number, 0))
                ELSE 'is not the row that was written last' END
    FROM latest LEFT JOIN audit_log_head head ON true
    WHERE head.number IS NULL OR head.number <> coalesce(latest.number, 0)
       OR head.row_hash <> coalesce(latest.row_hash, ''::bytea)
    ORDER BY 1
$$;

-- Four eyes: what one person asks for, another one confirms. On, unless two people switched it off.
CREATE TABLE ledger_controls (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    four_eyes boolean NOT NULL DEFAULT true
);
INSERT INTO ledger_controls DEFAULT VALUES;

-- Two spellings of a name are no two people.
CREATE FUNCTION same_person(one text, other text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT lower(btrim(regexp_replace(one, '\s+', ' ', 'g'))) = lower(btrim(regexp_replace(other, '\s+', ' ', 'g')))
$$;

CREATE TABLE ledger_approvals (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action       text NOT NULL,
    subject      text NOT NULL,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    reason       text,
    approved_by  text,
    approved_at  timestamptz,
    CONSTRAINT ledger_approvals_by_another CHECK (NOT same_person(approved_by, requested_by)),
    CONSTRAINT ledger_approvals_whole CHECK ((approved_by IS NULL) = (approved_at IS NULL))
);
-- One open request for the same thing.
CREATE UNIQUE INDEX ledger_approvals_open ON ledger_approvals (action, subject) WHERE approved_at IS NULL;
COMMENT ON TABLE ledger_approvals IS 'Requests that another person than who asked has to confirm, by asking for the same.';

-- Whether it may be done now: true when another person asked for the same before, or when one person may do it alone. Else
-- the request is noted (once), and the answer is false. Both are in the audit log. A request that is open when one person may
-- do it alone is served by that: else it would open the way years later to the next one who asks.
CREATE FUNCTION confirmed_by_another(p_action text, p_subject text, p_actor text, p_reason text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    open ledger_approvals;
BEGIN
    -- Two people who ask at the same moment: the second one finds the request of the first.
    LOCK TABLE ledger_approvals IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO open FROM ledger_approvals
    WHERE action = p_action AND subject = p_subject AND approved_at IS NULL;
    IF NOT (SELECT four_eyes FROM ledger_controls) THEN
        DELETE FROM ledger_approvals WHERE id = open.id;    -- that it was asked for stays in the audit log
        RETURN true;
    END IF;
    IF open.id IS NULL THEN
        INSERT INTO ledger_approvals (action, subject, requested_by, reason)
        VALUES (p_action, p_subject, p_actor, p_reason);
        PERFORM write_audit_log(p_actor, p_action || '_requested', p_subject, p_reason);
        RETURN false;
    ELSIF same_person(open.requested_by, p_actor) THEN
        RETURN false;
    END IF;
    UPDATE ledger_approvals SET approved_by = p_actor, approved_at = now() WHERE id = open.id;
    RETURN true;
END
$$;

-- Withdraws an open request; only who made it may do that. The outcome says whether: withdrawn, unknown, another person (with
-- who asked), or confirmed (with by whom). That it was asked for, and withdrawn, stays in the audit log.
CREATE FUNCTION withdraw_request(p_id bigint, p_actor text, p_reason text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    request ledger_approvals;
BEGIN
    -- Of two people, one who confirms and one who withdraws, the second one finds what the first one did.
    LOCK TABLE ledger_approvals IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO request FROM ledger_approvals WHERE id = p_id;
    IF request.id IS NULL THEN
        RETURN jsonb_build_object('outcome', 'unknown');
    ELSIF request.approved_by IS NOT NULL THEN
        RETURN jsonb_build_object('outcome', 'confirmed', 'by', request.approved_by);
    ELSIF NOT same_person(request.requested_by, p_actor) THEN
        RETURN jsonb_build_object('outcome', 'another person', 'by', request.requested_by);
    END IF;
    DELETE FROM ledger_approvals WHERE id = p_id;
    PERFORM write_audit_log(p_actor, request.action || '_withdrawn', request.subject, p_reason, to_jsonb(request));
    RETURN jsonb_build_object('outcome', 'withdrawn');
END
$$;

-- Switching four eyes off takes two people, switching them on one. Returns whether it is done.
CREATE FUNCTION set_four_eyes(p_on boolean, p_actor text, p_reason text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    was boolean;
BEGIN
    SELECT four_eyes INTO was FROM ledger_controls FOR UPDATE;
    IF was = p_on THEN
        RETURN true;
    ELSIF NOT p_on AND NOT confirmed_by_another('four_eyes_off', 'ledger', p_actor, p_reason) THEN
        RETURN false;
    END IF;
    UPDATE ledger_controls SET four_eyes = p_on;
    PERFORM write_audit_log(p_actor, CASE WHEN p_on THEN 'four_eyes_on' ELSE 'four_eyes_off' END, 'ledger', p_reason,
                            jsonb_build_object('four_eyes', was), jsonb_build_object('four_eyes', p_on));
    RETURN true;
END
$$;

-- As in 0002: the functions work on the tables beside them, whatever the session's search_path says. From here on, a migration
-- says so of its functions by name; p_settings are others that they need.
CREATE PROCEDURE pin_functions(p_names text[], p_settings text[] DEFAULT '{}')
LANGUAGE plpgsql AS $$
DECLARE
    name     text;
    setting  text;
    function regprocedure;
BEGIN
    FOREACH name IN ARRAY p_names LOOP
        IF NOT EXISTS (SELECT FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname = name) THEN
            RAISE EXCEPTION 'there is no function %', name USING ERRCODE = 'undefined_function';
        END IF;
        FOR function IN SELECT oid FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname = name LOOP
            EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema());
            FOREACH setting IN ARRAY p_settings LOOP
                EXECUTE format('ALTER FUNCTION %s SET %s', function, setting);
            END LOOP;
        END LOOP;
    END LOOP;
END
$$;

CALL pin_functions(ARRAY[
    'audit_log_row_hash', 'audit_log_chain', 'write_audit_log', 'audit_log_faults', 'confirmed_by_another',
    'withdraw_request', 'set_four_eyes'
]);
