-- Two batches at a time leave pages to each other, and later ones fill what earlier ones left free: a page in a hundred
-- holds a batch that lies elsewhere. With nothing but a lowest and a highest batch per range of pages, one such page
-- made the range belong to every batch between, and a batch of a ledger of five million entries was found in 83,000
-- pages. With the batches told one by one it is found in 3,600, of which it fills 2,800.
DROP INDEX ledger_entries_batch_id_idx;
CREATE INDEX ledger_entries_batch_id_idx ON ledger_entries
    USING brin (batch_id int8_minmax_multi_ops (values_per_range = 16)) WITH (pages_per_range = 32);
