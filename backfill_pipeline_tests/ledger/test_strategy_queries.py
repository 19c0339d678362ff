"""The queries of the strategy document run on this schema as they are written there.

They are in `strategy_queries.sql`, word for word; where the document itself is at hand, the copy is held against it. The
one change: §6.2 asks ledger_entry_legs, which has the two columns (account_id, side) that it takes entries to have.
"""

import psycopg
import pyarrow as pa
import pytest

from backfill_pipeline.ledger import constraints, source_data
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger import strategy
from backfill_pipeline_tests.ledger.strategy import query
from backfill_pipeline_tests.ledger.world import NOON, Entry, World

RECONCILIATION = query("6.2").replace("FROM ledger_entries\n", "FROM ledger_entry_legs\n")
# Sections whose SQL writes: what became of it is tested where it is done.
WRITING = {
    "3.2",                                              # the checkpoint table: below, and in the migrations
    "5.3",                                              # the probe: test_constraints
    "SQL Backfill Script",                              # post_ledger_entry, row by row
    "Scenario 1: Rollback Before Constraints Applied",
}  # fmt: skip


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


@pytest.mark.skipif(
    not strategy.DOCUMENT.is_file(), reason="the strategy document is not beside this checkout"
)
def test_the_copy_is_what_the_document_says() -> None:
    document = strategy.of_document(strategy.DOCUMENT.read_text(encoding="utf-8"))
    assert strategy.copied() == [statement for statement in document if statement.reads]
    assert {statement.section for statement in document if not statement.reads} == WRITING


def test_every_statement_that_reads_runs(world: World) -> None:
    """On an empty ledger: no column, table or function that the document asks for is missing."""
    statements = strategy.copied()
    assert len(statements) == 16
    for statement in statements:
        world.connection.execute(statement.sql if statement.section != "6.2" else RECONCILIATION)


def test_of_6_2_the_view_serves_two_columns_and_nothing_else_is_changed(world: World) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn, match="account_id"):
        world.connection.execute(query("6.2"))
    entries, legs = (
        {name for (name,) in world.rows("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", table)}
        for table in ("ledger_entries", "ledger_entry_legs")
    )  # fmt: skip
    assert {"account_id", "side"} <= legs - entries
    assert {"debit_account_id", "credit_account_id"} <= entries  # what the rollback asks for


def test_3_2_has_the_columns_of_the_document(world: World) -> None:
    columns = dict(
        world.rows(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'ledger_backfill_checkpoints'"
        )
    )
    assert columns == {
        "id": "integer", "source_id": "character varying", "source_type": "character varying",
        "last_processed_id": "character varying", "last_processed_timestamp": "timestamp without time zone",
        "total_processed": "bigint", "total_successful": "bigint", "total_failed": "bigint", "status": "character varying",
        "started_at": "timestamp without time zone", "last_checkpoint_at": "timestamp without time zone",
        "completed_at": "timestamp without time zone", "error_message": "text", "metadata": "jsonb",
    }  # fmt: skip


def test_1_1_audit(world: World, bank: Registration) -> None:
    assert world.rows(query("1.1", 0)) == [(3, NOON, NOON)]
    assert {row[0] for row in world.rows(query("1.1", 1))} == {"B", "C"}
    assert world.rows(query("1.1", 2)) == []


def test_1_2_schema(world: World, bank: Registration) -> None:
    assert ("ledger_entries_ledger_id_reference_id_key",) in world.rows(query("1.2", 0))
    assert world.rows(query("1.2", 1)) == [(0,)]
    assert world.rows(query("1.2", 2)) == [("post_ledger_entry",)]


def test_5_1_before_constraints(world: World, bank: Registration) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="Found 2 inconsistent balances"):
        world.connection.execute(query("5.1"))
    world.connection.execute("DELETE FROM ledger_entries")
    world.connection.execute(query("5.1"))


def test_5_3_after_constraints(world: World, bank: Registration) -> None:
    world.connection.execute("DELETE FROM ledger_entries")
    constraints.apply(world.connection)
    found = world.rows(query("5.3"))
    assert {(name, "CHECK") for name in constraints.BALANCE_CHECKS} <= set(found)
    with pytest.raises(psycopg.errors.CheckViolation):
        world.connection.execute(
            "UPDATE bank_accounts SET available_balance = -1 WHERE id = (SELECT id FROM bank_accounts LIMIT 1);"
        )


def test_6_1_entries(world: World, bank: Registration) -> None:
    assert world.rows(query("6.1", 0)) == [(3, 3, 1, NOON, NOON)]
    assert world.rows(query("6.1", 1)) == [("bank", "BACKFILL-4")]


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
    assert [row[:2] for row in world.rows(query("6.3", 0))] == [("PENDING", 1)]
    assert {reference for _, reference in world.rows(query("6.3", 1))} == {"BACKFILL-2", "BACKFILL-3"}


def test_monitoring(world: World, bank: Registration) -> None:
    progress, stalled, done = (query("Monitoring Queries", number) for number in range(3))
    rows = world.rows(progress)
    assert [row[:6] for row in rows] == [("bank", "CSV", "IN_PROGRESS", 3, 3, 0)]
    assert 0 <= rows[0][7].total_seconds() < 300
    assert world.rows(stalled) == []
    world.connection.execute(
        "UPDATE ledger_backfill_checkpoints SET last_checkpoint_at = last_checkpoint_at - INTERVAL '2 hours'"
    )
    assert len(world.rows(stalled)) == 1
    assert world.rows(done) == [(3, NOON, NOON)]
