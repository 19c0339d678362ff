-- How the outbox reaches the banks: one delivery is one request, with a key by which the bank knows it again. A request whose
-- answer was lost is sent once more with the same key and the same body.
CREATE TABLE dual_ledger_deliveries (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination     text COLLATE "C" NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('acknowledgement', 'entry')),
    idempotency_key uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    body            text,                                   -- NULL once it is answered
    first_item_id   bigint NOT NULL,                        -- of dual_ledger_outbox: entries go in this order
    item_count      integer NOT NULL CHECK (item_count > 0),
    attempts        integer NOT NULL DEFAULT 0,             -- that ended, with an answer or without one
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    last_error      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    answered_at     timestamptz,
    CONSTRAINT dual_ledger_deliveries_open_has_body CHECK ((body IS NULL) = (answered_at IS NOT NULL))
);
COMMENT ON TABLE dual_ledger_deliveries IS
    'Requests to banks. While one is under way, its sender holds a lock on its row; a lock vanishes with its holder, and then'
    ' the next sender repeats the request as it is.';
CREATE INDEX dual_ledger_deliveries_open_idx ON dual_ledger_deliveries (destination, kind, first_item_id)
    WHERE answered_at IS NULL;

ALTER TABLE dual_ledger_outbox
    ADD CONSTRAINT dual_ledger_outbox_delivery_fkey FOREIGN KEY (delivery_id) REFERENCES dual_ledger_deliveries (id);
COMMENT ON COLUMN dual_ledger_outbox.attempts IS
    'How often it was judged: by the bank, or here because it could not be sent. A bank that does not answer judges nothing.';
DROP INDEX dual_ledger_outbox_status_idx;
CREATE INDEX dual_ledger_outbox_open_idx ON dual_ledger_outbox (destination, kind, id)
    WHERE status IN ('PENDING', 'FAILED');
CREATE INDEX dual_ledger_outbox_failed_idx ON dual_ledger_outbox (destination, kind, next_attempt_at)
    WHERE status = 'FAILED';
CREATE INDEX dual_ledger_outbox_delivery_idx ON dual_ledger_outbox (delivery_id) WHERE status = 'SENT';

-- One row per bank. Whether it can be reached is known to all dispatchers: after some failures in a row nobody asks it before
-- open_until, and then one of them tries.
CREATE TABLE dual_ledger_banks (
    bank_id              text COLLATE "C" PRIMARY KEY,
    consecutive_failures integer NOT NULL DEFAULT 0,
    open_until           timestamptz,
    last_error           text,
    last_success_at      timestamptz
);
