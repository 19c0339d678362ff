"""The ledger's server, the role, the schema and what was left there: each problem made on a real server, and found."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from backfill_pipeline.doctor.finding import Finding, Outcome
from backfill_pipeline.doctor.server import LedgerLook
from backfill_pipeline.doctor.server_facts import clock_finding
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import Connection, connect, source_lock
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.embedded import embedded_server
from backfill_pipeline_tests.postgresql import Server, walkable_directory

# The tests' servers have these off, and so each of them is a finding of its own here.
OF_THE_TESTS_SERVER = {"durability": Outcome.PROBLEM, "autovacuum": Outcome.WARNING}


def look(
    url: str, *, idle_s: float = 600, lock_s: float = 14_400, timeout_s: float = 30
) -> dict[str, Finding]:
    """What is not as it should be, by check."""
    found = LedgerLook(url, idle_s=idle_s, lock_s=lock_s, timeout_s=timeout_s).findings()
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found if one.outcome is not Outcome.OK}


def only(url: str, name: str, outcome: Outcome) -> str:
    """Sentence and remedy of the one check that finds something, beside what the tests' server has."""
    found = look(url)
    assert {one.name: one.outcome for one in found.values()} == {**OF_THE_TESTS_SERVER, name: outcome}
    return f"{found[name].sentence} $ {found[name].remedy}"


def as_role(url: str, role: str, password: str = "") -> str:
    parameters = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    login = role + (f":{password}" if password else "")
    return f"postgresql://{login}@/{parameters['dbname']}?host={parameters['host']}&port={parameters['port']}"


@pytest.fixture
def role(connection: Connection) -> Iterator[str]:
    """An ordinary role that owns nothing."""
    name = f"{connection.info.dbname}_role"
    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name
    connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
    connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_a_ledger_that_is_well_but_for_its_server(ledger_url: str) -> None:
    found = look(ledger_url)
    assert {one.name: one.outcome for one in found.values()} == OF_THE_TESTS_SERVER
    assert "fsync is off, full_page_writes is off, synchronous_commit is off" in found["durability"].sentence
    assert '-c "ALTER SYSTEM SET fsync = on"' in (found["durability"].remedy or "")


def test_the_oldest_server_that_is_supported_without_checksums(postgresql_15: Server) -> None:
    with postgresql_15.ledger_database() as url:
        found = look(url)
    assert {one.name: one.outcome for one in found.values()} == {
        **OF_THE_TESTS_SERVER,
        "checksums": Outcome.WARNING,
    }
    assert "pg_checksums --enable -D /" in (found["checksums"].remedy or "")


def test_a_look_changes_nothing(ledger_url: str, server: Server) -> None:
    with server.empty_database() as url:
        assert look(url)["migrations"].sentence == "the database has no ledger yet"
        with psycopg.connect(url) as connection:
            assert connection.execute(
                "SELECT count(*) FROM pg_class WHERE relname ~ 'ledger'"
            ).fetchone() == (0,)


def test_half_the_migrations(connection: Connection, ledger_url: str) -> None:
    connection.execute("DELETE FROM ledger_schema_migrations WHERE version >= 24")
    found = look(ledger_url)
    assert found["migrations"].outcome is Outcome.WARNING
    assert "not applied yet, from 0024_current_references" in found["migrations"].sentence
    assert found["migrations"].remedy == "backfill db migrate"
    assert found["rollbacks"].outcome is Outcome.NOT_LOOKED


def test_the_schema_of_a_newer_release(connection: Connection, ledger_url: str) -> None:
    connection.execute("INSERT INTO ledger_schema_migrations VALUES (9999, 'to_come', 'x')")
    found = look(ledger_url)
    assert found["migrations"].outcome is Outcome.PROBLEM
    assert "9999_to_come, which this release does not know" in found["migrations"].sentence


def test_an_edited_migration(connection: Connection, ledger_url: str) -> None:
    connection.execute("UPDATE ledger_schema_migrations SET checksum = 'x' WHERE version = 7")
    found = look(ledger_url)
    assert found["migrations"].outcome is Outcome.PROBLEM
    assert "0007_batch_index was edited" in found["migrations"].sentence


def test_half_a_data_step(connection: Connection, ledger_url: str) -> None:
    connection.execute(
        "INSERT INTO ledger_data_steps (version, name, table_name, first_key, last_key, done_upto)"
        " VALUES (31, 'month', 'ledger_entries', 1, 100, 25)"
    )
    text = only(ledger_url, "data steps", Outcome.WARNING)
    assert text.startswith("the data step of 0031_month is 25% done")
    assert text.endswith("$ backfill db migrate")


def test_a_trigger_that_was_switched_off(connection: Connection, ledger_url: str) -> None:
    connection.execute("ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_apply_balances_on_insert")
    assert "1 part of the ledger's schema missing or switched off" in only(
        ledger_url, "schema", Outcome.PROBLEM
    )


def test_constraints_suspended_and_refused(connection: Connection, ledger_url: str) -> None:
    constraints.apply(connection)
    constraints.suspend(connection)
    assert only(ledger_url, "constraints", Outcome.WARNING).endswith("$ backfill constraints apply")
    connection.execute("INSERT INTO ledger_constraint_events (event, offending) VALUES ('refused', 1)")
    assert "were refused" in only(ledger_url, "constraints", Outcome.WARNING)


def test_a_role_that_may_not_make_tables(ledger_url: str, role: str) -> None:
    found = look(as_role(ledger_url, role))["permissions"]
    assert found.outcome is Outcome.PROBLEM
    assert f"{role} may not make tables in schema public" in found.sentence
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {role}" in (found.remedy or "")


def test_a_role_that_does_not_own_the_tables(connection: Connection, ledger_url: str, role: str) -> None:
    connection.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(role)))
    found = look(as_role(ledger_url, role))["permissions"]
    assert found.outcome is Outcome.PROBLEM
    assert f"{role} does not own audit_log, audit_log_head, backfill_batches and others" in found.sentence


def test_a_role_without_temporary_tables(connection: Connection, server: Server, role: str) -> None:
    with server.empty_database() as url, psycopg.connect(url, autocommit=True) as owner:
        database = sql.Identifier(owner.info.dbname)
        owner.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
        owner.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(sql.Identifier(role)))
        found = look(as_role(url, role))["permissions"]
        owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
    assert found.outcome is Outcome.PROBLEM
    assert "GRANT TEMPORARY ON DATABASE" in (found.remedy or "")


def test_a_database_that_is_read_only(connection: Connection, ledger_url: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(
            sql.Identifier(connection.info.dbname)
        )
    )
    assert "are read-only here" in only(ledger_url, "permissions", Outcome.PROBLEM)


def test_a_transaction_that_nobody_ends(ledger_url: str) -> None:
    with psycopg.connect(ledger_url, application_name="somebody") as idle:
        idle.execute("SELECT 1")
        pid = idle.info.backend_pid
        found = look(ledger_url, idle_s=0)["transactions"]
        assert "transactions" not in look(ledger_url)
    assert found.outcome is Outcome.WARNING
    assert f'session {pid} ("somebody") has done nothing' in found.sentence


def test_the_lock_of_a_source_that_is_held_for_too_long(ledger_url: str) -> None:
    with source_lock(ledger_url, "books") as held:
        pid = held.info.backend_pid
        found = look(ledger_url, lock_s=0)["locks"]
        assert "locks" not in look(ledger_url)
    assert found.outcome is Outcome.WARNING
    assert f'session {pid} ("backfill lock books") has held a lock' in found.sentence
    assert f"pg_terminate_backend({pid})" in (found.remedy or "")


@pytest.mark.parametrize(
    ("source_id", "remedy"),
    [
        ("books", "backfill resume books"),
        ("scb_01@2024-03-01", "backfill sync run scb_01 --from 2024-03-01 --to 2024-03-01"),
    ],
)
def test_a_source_that_stands_still(
    connection: Connection, ledger_url: str, source_id: str, remedy: str
) -> None:
    connection.execute(
        "INSERT INTO ledger_backfill_checkpoints (source_id, source_type) VALUES (%s, 'CSV')", [source_id]
    )
    with source_lock(ledger_url, source_id):
        assert "sources in progress" not in look(ledger_url)
    text = only(ledger_url, "sources in progress", Outcome.WARNING)
    assert f"source {source_id} was begun" in text
    assert text.endswith(f"$ {remedy}")


def test_what_waits_for_a_second_person(connection: Connection, ledger_url: str) -> None:
    connection.execute(
        "INSERT INTO ledger_approvals (action, subject, requested_by) VALUES ('reopen period', 'main 2024-01', 'ana')"
    )
    assert '"reopen period main 2024-01" waits' in only(ledger_url, "requests", Outcome.WARNING)


def test_texts_that_are_not_utf_8(server: Server) -> None:
    database = f"odd_texts_{os.getpid()}"
    name = sql.Identifier(database)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C' BUILTIN_LOCALE 'C'"
            ).format(name)
        )
        try:
            found = look(server.url(database))["ledger"]
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
    assert found.outcome is Outcome.PROBLEM
    assert "encoded in SQL_ASCII" in found.sentence


def test_a_database_that_is_not_there(server: Server) -> None:
    found = look(server.url("nowhere"))
    assert found["ledger"].outcome is Outcome.WARNING
    assert "does not exist yet" in found["ledger"].sentence
    assert {one.outcome for name, one in found.items() if name != "ledger"} == {Outcome.NOT_LOOKED}


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = look(f"postgresql://ana:hidden-word@127.0.0.1:{port}/ledger")
    assert found["ledger"].outcome is Outcome.PROBLEM
    assert f"on 127.0.0.1:{port} as ana cannot be reached" in found["ledger"].sentence
    assert found["ledger"].remedy == f"pg_isready --host=127.0.0.1 --port={port}"
    assert "hidden-word" not in str(found)


def test_a_server_that_hangs_is_waited_for_once() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"postgresql://ana@127.0.0.1:{silent.getsockname()[1]}/ledger"
        found = look(url, timeout_s=0.2)
    assert found["ledger"].outcome is Outcome.PROBLEM
    assert found["ledger"].sentence.startswith("no answer within 0.2 s")
    assert {one.outcome for name, one in found.items() if name != "ledger"} == {Outcome.NOT_LOOKED}


def test_clocks_that_disagree() -> None:
    assert clock_finding(-1.9, "UTC").outcome is Outcome.OK
    assert clock_finding(2.0, "UTC").outcome is Outcome.WARNING
    behind = clock_finding(-7200.0, "Asia/Tokyo")
    assert behind.outcome is Outcome.PROBLEM
    assert "the server's clock is 2:00:00 behind this machine's" in behind.sentence
    assert "server Asia/Tokyo" in behind.sentence


def test_a_server_with_odd_settings() -> None:
    """Too few connections, little memory, damaged pages passed over, a transaction prepared for ever, a password."""
    with walkable_directory() as home:
        with (
            embedded_server(home) as server,
            psycopg.connect(server.url("postgres"), autocommit=True) as owner,
        ):
            for setting, value in {
                "max_connections": "20",
                "max_prepared_transactions": "1",
                "shared_buffers": "16MB",
                "zero_damaged_pages": "on",
            }.items():
                owner.execute(
                    sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(setting), sql.Literal(value))
                )
            owner.execute("CREATE ROLE ana LOGIN PASSWORD 'right-word'")
            owner.execute("CREATE DATABASE ledger")
            access = home / "postgres" / "data" / "pg_hba.conf"
            access.write_text(f"local all ana scram-sha-256\n{access.read_text()}")
        with embedded_server(home) as server:
            url = server.url("ledger")
            with connect(url) as connection:
                migrate(connection)
                connection.execute("BEGIN")
                connection.execute("SELECT 1")
                connection.execute("PREPARE TRANSACTION 'left over'")
            found = look(url)
            refused = look(as_role(url, "ana", "wrong-word"))
    assert {name: one.outcome for name, one in found.items()} == {
        "durability": Outcome.PROBLEM,
        "connections": Outcome.WARNING,
        "server memory": Outcome.WARNING,
        "transactions": Outcome.PROBLEM,
    }
    assert "zero_damaged_pages is on" in found["durability"].sentence
    assert "20 connections are in use" in found["connections"].sentence
    assert "ROLLBACK PREPARED 'left over'" in (found["transactions"].remedy or "")
    assert refused["ledger"].outcome is Outcome.PROBLEM
    assert "refuses the login" in refused["ledger"].sentence
    assert "wrong-word" not in str(refused)
