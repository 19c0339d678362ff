-- How far each day of each bank is. The truth about entries is in the ledger and its batches; here is what was last found out
-- about a day, and what of it is still to do.
CREATE TABLE sync_status (
    source_id       text COLLATE "C" NOT NULL,
    bank_id         text COLLATE "C" NOT NULL,
    day             date NOT NULL,
    window_from     timestamptz NOT NULL,       -- the day in the bank's time zone: [window_from, window_to)
    window_to       timestamptz NOT NULL,
    fetched         bigint,                     -- entries that the bank served
    fetched_at      timestamptz,
    control_totals  jsonb,                      -- of the bank, as they were when what it served was proven complete
    posted          bigint,                     -- entries of the day in the ledger that came from the bank
    posted_at       timestamptz,
    acknowledged    bigint,                     -- of those, how many the bank knows to be posted
    acknowledged_at timestamptz,                -- when the last one became known
    verdict         text CHECK (verdict IN ('match', 'break')),
    reconciled_at   timestamptz,
    break_count     bigint,
    details         jsonb NOT NULL DEFAULT '{}',
    attempts        integer NOT NULL DEFAULT 0, -- since the day was last complete
    error           text,                       -- why the last try failed; NULL after a success
    run_id          text,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, day),
    CONSTRAINT sync_status_window CHECK (window_from < window_to)
);
