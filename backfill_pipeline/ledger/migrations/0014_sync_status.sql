-- How far each day of each bank is. The truth about entries is in the ledger and its batches; here is what was last found out
-- about a day, and what of it is still to do.
CREATE TABLE sync_status (
    source_id       text COLLATE "C" NOT NULL,
    bank_id         text COLLATE "C" NOT NULL,
    day             date NOT NULL,
    window_from     timestamptz NOT NULL,       -- the day in the bank's time zone: [window_from, window_to)
    window_to       timestamptz NOT NULL,
    fetched         bigint,                     -- records that the bank served, as they were when they were proven complete
    fetched_at      timestamptz,
    control_totals  jsonb,                      -- of the bank, which proved that
    mapping_sha256  text,                       -- what they were mapped by
    posted          bigint,                     -- entries of the day in the ledger that came from the bank
    posted_at       timestamptz,
    duplicates      bigint,                     -- of the records fetched: what became of the others
    conflicts       bigint,
    rejected        bigint,
    filtered        bigint,
    acknowledged    bigint,                     -- of the entries posted, how many the bank knows to be posted
    acknowledged_at timestamptz,                -- when the last one became known
    verdict         text CHECK (verdict IN ('match', 'break')),
    reconciled_at   timestamptz,
    break_count     bigint,
    details         jsonb NOT NULL DEFAULT '{}',
    attempts        integer NOT NULL DEFAULT 0, -- since the day was last complete
    error           text,                       -- why the last try failed; NULL after a success
    run_id          text,
    begun_at        timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,                -- NULL while a run works on the day, and when it was killed or failed
    complete        boolean NOT NULL GENERATED ALWAYS AS
        (finished_at IS NOT NULL AND error IS NULL AND verdict IS NOT DISTINCT FROM 'match') STORED,
    checked_at      timestamptz,                -- when the bank last stated what the day was proven with
    checked_by      text,                       -- the run that asked
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, day),
    CONSTRAINT sync_status_window CHECK (window_from < window_to)
);
-- Entries that were posted here first are few beside a bank's own, and each may reopen the day that it is booked on.
CREATE INDEX dual_ledger_outbox_entries_idx ON dual_ledger_outbox (destination) WHERE kind = 'entry';
COMMENT ON COLUMN sync_status.complete IS
    'Fetched, proven, posted, acknowledged and reconciled without a break. Every other day is taken up again by the next night.';

-- The latest revision of each day of a bank that was registered.
CREATE FUNCTION bank_day_registrations(p_source_id text) RETURNS TABLE (id bigint, source_id text, day date)
LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (r.source_id) r.id, r.source_id, split_part(r.source_id, '@', 2)::date
    FROM backfill_registrations r
    -- All days of the bank and nothing else, by the index: A follows @ in ASCII.
    WHERE r.source_id > p_source_id || '@' AND r.source_id < p_source_id || 'A'
    ORDER BY r.source_id, r.revision DESC
$$;
