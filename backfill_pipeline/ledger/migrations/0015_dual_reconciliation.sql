-- Comparing a day of a dual ledger with the bank's: entries and what was noted of them are found by the time of booking.

-- Entries are mostly posted in the order of their times, so a few pages of BRIN find a day and cost nothing while posting.
CREATE INDEX ledger_entries_timestamp_utc_idx ON ledger_entries USING brin (timestamp_utc) WITH (pages_per_range = 32);

-- What was sent for a day is found although its entry is gone. Only entries that were posted here first carry their time.
CREATE INDEX dual_ledger_outbox_booked_at_idx ON dual_ledger_outbox
    (destination, ledger_id, ((payload ->> 'booked_at') COLLATE "C")) WHERE kind = 'entry';
