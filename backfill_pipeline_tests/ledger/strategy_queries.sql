-- Every statement of the strategy document that reads, as it is written there, without its comments.

-- section: 1.1
SELECT COUNT(*), MIN(timestamp_utc), MAX(timestamp_utc)
FROM ledger_entries;
SELECT id, balance, available_balance, reserved_balance
FROM bank_accounts
WHERE available_balance < 0
OR reserved_balance < 0
OR available_balance > balance
OR (available_balance + reserved_balance) > balance;
SELECT ledger_id, reference_id, COUNT(*)
FROM ledger_entries
GROUP BY ledger_id, reference_id
HAVING COUNT(*) > 1;

-- section: 1.2
SELECT constraint_name
FROM information_schema.table_constraints
WHERE table_name = 'ledger_entries'
AND constraint_name LIKE '%reference%';
SELECT COUNT(*) FROM dual_ledger_outbox;
SELECT routine_name
FROM information_schema.routines
WHERE routine_name = 'post_ledger_entry';

-- section: 5.1
DO $$
DECLARE
inconsistent_count INTEGER;
BEGIN
SELECT COUNT(*) INTO inconsistent_count
FROM bank_accounts
WHERE available_balance < 0
OR reserved_balance < 0
OR available_balance > balance
OR (available_balance + reserved_balance) > balance;
IF inconsistent_count > 0 THEN
RAISE EXCEPTION 'Found % inconsistent balances. Fix before applying constraints.', inconsistent_count;
END IF;
END $$;

-- section: 5.3
SELECT constraint_name, constraint_type
FROM information_schema.table_constraints
WHERE table_name = 'bank_accounts'
AND constraint_name LIKE '%balance%';

-- section: 6.1
SELECT
COUNT(*) as total_entries,
COUNT(DISTINCT reference_id) as unique_references,
COUNT(DISTINCT ledger_id) as unique_ledgers,
MIN(timestamp_utc) as earliest_entry,
MAX(timestamp_utc) as latest_entry
FROM ledger_entries
WHERE reference_id LIKE 'BACKFILL-%';
SELECT source_id, reference_id
FROM backfill_source_data
WHERE NOT EXISTS (
SELECT 1 FROM ledger_entries
WHERE reference_id = backfill_source_data.reference_id
);

-- section: 6.2
SELECT
account_id,
expected_balance,
actual_balance,
(expected_balance - actual_balance) as difference
FROM (
SELECT
account_id,
SUM(CASE WHEN side = 'debit' THEN amount ELSE -amount END) as expected_balance,
(SELECT balance FROM bank_accounts WHERE id = account_id) as actual_balance
FROM ledger_entries
WHERE account_id IN (SELECT id FROM bank_accounts)
GROUP BY account_id
) reconciliation
WHERE ABS(expected_balance - actual_balance) > 0.01;

-- section: 6.3
SELECT
status,
COUNT(*) as count,
MIN(created_at) as oldest,
MAX(created_at) as newest
FROM dual_ledger_outbox
WHERE created_at >= (SELECT MIN(timestamp_utc) FROM ledger_entries WHERE reference_id LIKE 'BACKFILL-%')
GROUP BY status;
SELECT le.id, le.reference_id
FROM ledger_entries le
WHERE le.reference_id LIKE 'BACKFILL-%'
AND NOT EXISTS (
SELECT 1 FROM dual_ledger_outbox dlo
WHERE dlo.reference_id = le.reference_id
);

-- section: Monitoring Queries
SELECT
source_id,
source_type,
status,
total_processed,
total_successful,
total_failed,
last_checkpoint_at,
NOW() - last_checkpoint_at as time_since_last_checkpoint
FROM ledger_backfill_checkpoints
WHERE status = 'IN_PROGRESS';
SELECT *
FROM ledger_backfill_checkpoints
WHERE status = 'IN_PROGRESS'
AND last_checkpoint_at < NOW() - INTERVAL '1 hour';
SELECT
COUNT(*) as total_entries,
MIN(timestamp_utc) as earliest,
MAX(timestamp_utc) as latest
FROM ledger_entries
WHERE reference_id LIKE 'BACKFILL-%';
