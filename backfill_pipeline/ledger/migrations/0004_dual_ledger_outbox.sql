-- Entries that another ledger (a Sovereign Central Bank's) has yet to hear of or has acknowledged. It knows each entry's
-- origin, so that nothing is echoed back to the bank that it came from.
CREATE TABLE dual_ledger_outbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ledger_id       text COLLATE "C" NOT NULL,
    reference_id    text COLLATE "C" NOT NULL,
    destination     text NOT NULL,
    origin          text NOT NULL,
    payload         jsonb NOT NULL,
    status          text NOT NULL DEFAULT 'PENDING'
                    CHECK (status IN ('PENDING', 'SENT', 'ACKNOWLEDGED', 'FAILED', 'DEAD')),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    sent_at         timestamptz,
    acknowledged_at timestamptz,
    UNIQUE (ledger_id, reference_id, destination)
);
CREATE INDEX dual_ledger_outbox_status_idx ON dual_ledger_outbox (status, next_attempt_at);
