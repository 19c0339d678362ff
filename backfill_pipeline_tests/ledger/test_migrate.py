"""Migrations: applied once, in order, whole or not at all, and never edited afterwards."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.migrate import Migration, bundled_migrations, migrate
from backfill_pipeline_tests.postgresql import Server


@pytest.fixture
def empty_url(server: Server) -> Iterator[str]:
    with server.empty_database() as url:
        yield url


@pytest.fixture
def empty(empty_url: str) -> Iterator[Connection]:
    with connect(empty_url) as connection:
        yield connection


def migration(version: int, sql: str) -> Migration:
    return Migration(version, f"step_{version}", hashlib.sha256(sql.encode()).hexdigest(), sql)


def relations(connection: Connection) -> set[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    ).fetchall()
    return {name for (name,) in rows}


def versions(connection: Connection) -> list[int]:
    return [
        v for (v,) in connection.execute("SELECT version FROM ledger_schema_migrations ORDER BY 1").fetchall()
    ]


def test_an_empty_database_becomes_a_ledger_and_a_second_time_is_nothing(empty: Connection) -> None:
    applied = migrate(empty)
    assert applied == bundled_migrations()
    assert relations(empty) >= {
        "ledger_entries", "bank_accounts", "dual_ledger_outbox", "ledger_backfill_checkpoints", "backfill_source_data",
        "backfill_batches", "backfill_rejects", "ledger_entry_legs",
    }  # fmt: skip
    assert migrate(empty) == ()
    rows = empty.execute(
        "SELECT version, name, checksum FROM ledger_schema_migrations ORDER BY version"
    ).fetchall()
    assert rows == [(m.version, m.name, m.checksum) for m in applied]


def test_the_bundled_versions_are_consecutive(empty: Connection) -> None:
    found = bundled_migrations()
    assert [m.version for m in found] == list(range(1, len(found) + 1))


def test_only_what_is_new_is_applied(empty: Connection) -> None:
    first, second = migration(1, "CREATE TABLE one ()"), migration(2, "CREATE TABLE two ()")
    assert migrate(empty, [first]) == (first,)
    assert migrate(empty, [first, second]) == (second,)
    assert relations(empty) >= {"one", "two"}


def test_what_sources_said_before_arrays_is_kept(empty: Connection) -> None:
    """Migration 6 turns a row per entry into a row per ten thousand; the view shows what the table held."""
    bundled = bundled_migrations()
    migrate(empty, bundled[:5])
    empty.execute(
        "INSERT INTO backfill_source_data (source_id, partition_id, source_row, ledger_id, reference_id)"
        " SELECT source, part, n, 'L' || n % 3, source || 'R' || n"
        " FROM unnest(ARRAY['a', 'b']) source, generate_series(1, 2) part, generate_series(1, 12000) n"
    )
    content = "SELECT * FROM backfill_source_data ORDER BY source_id, partition_id, source_row"
    before = empty.execute(content).fetchall()
    migrate(empty)
    assert empty.execute(content).fetchall() == before
    assert empty.execute("SELECT count(*) FROM backfill_source_references").fetchone() == (8,)


def test_an_edited_migration_is_refused(empty: Connection) -> None:
    migrate(empty, [migration(1, "CREATE TABLE one ()")])
    with pytest.raises(LedgerError, match="migration 0001_step_1 was edited after it had been applied"):
        migrate(empty, [migration(1, "CREATE TABLE one (id int)"), migration(2, "CREATE TABLE two ()")])
    assert "two" not in relations(empty)


def test_a_database_that_is_newer_than_the_release_is_refused(empty: Connection) -> None:
    migrate(empty, [migration(1, "SELECT 1"), migration(2, "SELECT 2")])
    with pytest.raises(LedgerError, match="has migration 0002_step_2, which this release does not know"):
        migrate(empty, [migration(1, "SELECT 1")])


def test_a_failing_migration_leaves_nothing_half_applied_and_keeps_those_before_it(empty: Connection) -> None:
    steps = [
        migration(1, "CREATE TABLE one ()"),
        migration(2, "CREATE TABLE two (); INSERT INTO one DEFAULT VALUES; SELECT 1 / 0"),
        migration(3, "CREATE TABLE three ()"),
    ]
    with pytest.raises(LedgerError, match="cannot migrate the ledger: division by zero"):
        migrate(empty, steps)
    assert relations(empty) & {"one", "two", "three"} == {"one"}
    assert versions(empty) == [1]
    steps[1] = migration(2, "CREATE TABLE two ()")
    assert migrate(empty, steps) == tuple(steps[1:])


def test_functions_are_pinned_by_names_that_exist(connection: Connection) -> None:
    """A function that was renamed would else be left to the search_path of whoever calls it."""
    with pytest.raises(psycopg.errors.UndefinedFunction, match="there is no function no_such_function"):
        connection.execute("CALL pin_functions(ARRAY['balance_as_of', 'no_such_function'])")
    left = connection.execute(
        "SELECT proconfig FROM pg_proc WHERE proname IN ('balance_as_of', 'withdraw_request', 'apply_correction')"
        " ORDER BY proname"
    ).fetchall()
    pinned = "search_path=public, pg_temp"
    assert left == [
        ([pinned, "TimeZone=UTC", "enable_hashjoin=off", "enable_mergejoin=off"],),
        ([pinned],),
        ([pinned],),
    ]


def test_a_failure_does_not_keep_others_waiting(empty: Connection, empty_url: str) -> None:
    with pytest.raises(LedgerError):
        migrate(empty, [migration(1, "SELECT 1 / 0")])
    with connect(empty_url) as other:
        other.execute("SET lock_timeout = '2s'")
        assert migrate(other, [migration(1, "SELECT 1")])


def test_several_processes_at_once_apply_each_once(empty_url: str) -> None:
    slow = [replace(m, sql=m.sql + "; SELECT pg_sleep(0.05)") for m in bundled_migrations()]
    connections = [connect(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda connection: migrate(connection, slow), connections))
    assert sorted(map(len, applied)) == [0, 0, 0, len(slow)]
    assert versions(connections[0]) == [m.version for m in slow]
    for connection in connections:
        connection.close()


def test_messages_of_the_session_stay_as_they_were(empty: Connection) -> None:
    empty.execute("SET client_min_messages = error")
    migrate(empty)
    row = empty.execute("SHOW client_min_messages").fetchone()
    assert row == ("error",)
