"""The queries of the strategy document run on this schema as they are written there.

Its section numbers are in the names. The one change: §6.2 asks ledger_entry_legs, since entries hold both accounts.
"""

import psycopg
import pyarrow as pa
import pytest

from backfill_pipeline.ledger import constraints, source_data
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import NOON, Entry, World

AUDIT_INCONSISTENT = """
SELECT id, balance, available_balance, reserved_balance
FROM bank_accounts
WHERE available_balance < 0
OR reserved_balance < 0
OR available_balance > balance
OR (available_balance + reserved_balance) > balance;
"""
PRE_CONSTRAINT = """
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
"""
RECONCILIATION = """
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
FROM ledger_entry_legs
WHERE account_id IN (SELECT id FROM bank_accounts)
GROUP BY account_id
) reconciliation
WHERE ABS(expected_balance - actual_balance) > 0.01; -- Allow small rounding differences
"""


@pytest.fixture
def bank(world: World) -> Registration:
    world.open("A", "B", "C")
    registration = world.register(1000)
    rows = [Entry("BACKFILL-1"), Entry("BACKFILL-2", "B", "C", "3.50"), Entry("BACKFILL-3", "A", "C", "0.07")]
    world.post(registration, rows)
    wanted = pa.table({
        "source_row": [1, 2, 3, 4], "ledger_id": ["MASTER"] * 4, "reference_id": [f"BACKFILL-{n}" for n in range(1, 5)],
    })  # fmt: skip
    source_data.replace(world.connection, "bank", registration.partitions[0].id, wanted)
    return registration


def test_1_1_audit(world: World, bank: Registration) -> None:
    assert world.rows("SELECT COUNT(*), MIN(timestamp_utc), MAX(timestamp_utc)\nFROM ledger_entries;") == [
        (3, NOON, NOON)
    ]
    assert {row[0] for row in world.rows(AUDIT_INCONSISTENT)} == {"B", "C"}
    assert world.rows(
        "SELECT ledger_id, reference_id, COUNT(*) FROM ledger_entries GROUP BY ledger_id, reference_id HAVING COUNT(*) > 1;"
    ) == []  # fmt: skip


def test_1_2_schema(world: World, bank: Registration) -> None:
    assert ("ledger_entries_ledger_id_reference_id_key",) in world.rows(
        "SELECT constraint_name FROM information_schema.table_constraints WHERE table_name = 'ledger_entries'"
        " AND constraint_name LIKE '%reference%';"
    )
    assert world.rows("SELECT COUNT(*) FROM dual_ledger_outbox;") == [(0,)]
    assert world.rows(
        "SELECT routine_name FROM information_schema.routines WHERE routine_name = 'post_ledger_entry';"
    ) == [("post_ledger_entry",)]


def test_5_1_before_constraints(world: World, bank: Registration) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="Found 2 inconsistent balances"):
        world.connection.execute(PRE_CONSTRAINT)
    world.connection.execute("DELETE FROM ledger_entries")
    world.connection.execute(PRE_CONSTRAINT)


def test_5_3_after_constraints(world: World, bank: Registration) -> None:
    world.connection.execute("DELETE FROM ledger_entries")
    constraints.apply(world.connection)
    found = world.rows(
        "SELECT constraint_name, constraint_type FROM information_schema.table_constraints"
        " WHERE table_name = 'bank_accounts' AND constraint_name LIKE '%balance%';"
    )
    assert {(name, "CHECK") for name in constraints.BALANCE_CHECKS} <= set(found)
    with pytest.raises(psycopg.errors.CheckViolation):
        world.connection.execute(
            "UPDATE bank_accounts SET available_balance = -1 WHERE id = (SELECT id FROM bank_accounts LIMIT 1);"
        )


def test_6_1_entries(world: World, bank: Registration) -> None:
    assert world.rows(
        "SELECT COUNT(*) as total_entries, COUNT(DISTINCT reference_id) as unique_references,"
        " COUNT(DISTINCT ledger_id) as unique_ledgers, MIN(timestamp_utc) as earliest_entry,"
        " MAX(timestamp_utc) as latest_entry FROM ledger_entries WHERE reference_id LIKE 'BACKFILL-%';"
    ) == [(3, 3, 1, NOON, NOON)]
    assert world.rows(
        "SELECT source_id, reference_id FROM backfill_source_data WHERE NOT EXISTS ("
        " SELECT 1 FROM ledger_entries WHERE reference_id = backfill_source_data.reference_id );"
    ) == [("bank", "BACKFILL-4")]


def test_6_2_balances(world: World, bank: Registration) -> None:
    assert world.rows(RECONCILIATION) == []
    world.connection.execute("UPDATE bank_accounts SET balance = balance + 5 WHERE id = 'C'")
    assert [(row[0], row[3]) for row in world.rows(RECONCILIATION)] == [("C", -5)]


def test_6_2_knows_debit_normal_accounts_only(world: World, bank: Registration) -> None:
    """The document has one sign convention: a credit-normal account shows with the opposite sign, by design."""
    world.open("LIAB", normal_side="credit")
    world.post_one(Entry("r1", "A", "LIAB", "10"))
    assert [(row[0], row[1], row[2]) for row in world.rows(RECONCILIATION)] == [("LIAB", -10, 10)]
    world.assert_balances_follow_entries()


def test_6_3_outbox(world: World, bank: Registration) -> None:
    world.connection.execute(
        "INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload)"
        " VALUES ('MASTER', 'BACKFILL-1', 'SCB', 'backfill', '{}')"
    )
    rows = world.rows(
        "SELECT status, COUNT(*) as count, MIN(created_at) as oldest, MAX(created_at) as newest FROM dual_ledger_outbox"
        " WHERE created_at >= (SELECT MIN(timestamp_utc) FROM ledger_entries WHERE reference_id LIKE 'BACKFILL-%')"
        " GROUP BY status;"
    )
    assert [row[:2] for row in rows] == [("PENDING", 1)]
    missing = world.rows(
        "SELECT le.id, le.reference_id FROM ledger_entries le WHERE le.reference_id LIKE 'BACKFILL-%' AND NOT EXISTS ("
        " SELECT 1 FROM dual_ledger_outbox dlo WHERE dlo.reference_id = le.reference_id );"
    )
    assert {reference for _, reference in missing} == {"BACKFILL-2", "BACKFILL-3"}


def test_monitoring(world: World, bank: Registration) -> None:
    progress = world.rows(
        "SELECT source_id, source_type, status, total_processed, total_successful, total_failed, last_checkpoint_at,"
        " NOW() - last_checkpoint_at as time_since_last_checkpoint FROM ledger_backfill_checkpoints"
        " WHERE status = 'IN_PROGRESS';"
    )
    assert [row[:6] for row in progress] == [("bank", "CSV", "IN_PROGRESS", 3, 3, 0)]
    assert 0 <= progress[0][7].total_seconds() < 300
    stalled = (
        "SELECT * FROM ledger_backfill_checkpoints WHERE status = 'IN_PROGRESS'"
        " AND last_checkpoint_at < NOW() - INTERVAL '1 hour';"
    )
    assert world.rows(stalled) == []
    world.connection.execute(
        "UPDATE ledger_backfill_checkpoints SET last_checkpoint_at = last_checkpoint_at - INTERVAL '2 hours'"
    )
    assert len(world.rows(stalled)) == 1
