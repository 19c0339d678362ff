-- Rows for banks that were given up are few, and are asked for at every scrape of the metrics.
CREATE INDEX dual_ledger_outbox_dead_idx ON dual_ledger_outbox (destination, kind) WHERE status = 'DEAD';
