"""Databases go all the way: captured once, posted, reconciled; and what happens when their tables move on."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import yaml

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.errors import SourceChangedError, SourceFileError, TransientSourceError
from backfill_pipeline.stages.preview import check_files, preview
from backfill_pipeline_tests.mariadb import PASSWORD, MariaDb
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import VARIABLE, execute, sqlite_file, variable
from backfill_pipeline_tests.stages.world import CHECKOUT, FIELDS, World, entries, entry

GOOD = 25
ROWS = [*entries(GOOD), entry(26, amount="-5.00"), entry(27, currency="???")]
COLUMNS = ("ref", "debit", "credit", "amount", "currency", "time", "note")
TABLE = "CREATE TABLE entries (ref {t} PRIMARY KEY, debit {t}, credit {t}, amount {n}, currency {t}, time {d}, note {t})"
POSTGRESQL = TABLE.format(t="text", n="numeric(20,2)", d="timestamptz")
MARIADB = TABLE.format(t="VARCHAR(50)", n="DECIMAL(20,2)", d="TIMESTAMP(3)")
SQLITE = TABLE.format(t="TEXT", n="DECIMAL(20,2)", d="TEXT")
SECTION = {"url_env": VARIABLE, "table": "entries", "key": "ref"}


@pytest.fixture
def legacy(server: Server) -> Iterator[str]:
    """The URL of a PostgreSQL database with an empty table of entries."""
    with server.empty_database() as url, variable(url):
        execute(url, POSTGRESQL)
        yield url


def insert(url: str, rows: Sequence[Sequence[object]]) -> None:
    with psycopg.connect(url) as connection:
        connection.cursor().executemany("INSERT INTO entries VALUES (%s, %s, %s, %s, %s, %s, %s)", rows)


def source(world: World, **settings: object) -> Path:
    return world.write(
        "legacy",
        [],
        **{"type": "database", "file": None, "database": SECTION, "max_error_rate": "1", **settings},
    )


def check(world: World, path: Path) -> None:
    """Posts and reconciles ROWS."""
    world.post(path)
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    assert [(row, code) for row, _, code, _ in world.rejects()] == [
        (26, "amount_not_positive"),
        (27, "currency_unknown"),
    ]
    raw = world.query("SELECT raw FROM backfill_rejects ORDER BY source_row")
    assert str(raw[0][0]).startswith('{"ref": "R000026", "debit": "A", "credit": "B", "amount": "-5.00"')
    report = world.reconcile(path)
    assert report.matches, report
    assert (report.read, report.posted, report.rejected) == (GOOD + 2, GOOD, 2)
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000001'") == "2.00"
    world.post(path)  # again: nothing changes
    assert len(world.references()) == GOOD
    assert world.value("SELECT count(*) FROM backfill_registrations") == 1


# --- every dialect ----------------------------------------------------------------------------------------------


def test_a_table_of_postgresql(world: World, legacy: str) -> None:
    insert(legacy, ROWS)
    check(world, source(world))


def test_a_table_of_mariadb(world: World, mariadb: MariaDb) -> None:
    with mariadb.database() as name, variable(mariadb.url(name)):
        with mariadb.connect(name) as connection, connection.cursor() as cursor:
            cursor.execute(MARIADB)
            cursor.execute("SET time_zone = '+00:00'")
            rows = [[*row[:5], str(row[5]).removesuffix("Z"), row[6]] for row in ROWS]
            cursor.executemany("INSERT INTO entries VALUES (%s, %s, %s, %s, %s, %s, %s)", rows)
        path = source(world)
        check(world, path)
        # Nothing that is kept anywhere holds the URL.
        for (table,) in world.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            text = str(world.query(f"SELECT string_agg(t::text, '') FROM \"{table}\" t"))
            assert PASSWORD not in text
            assert "mysql://" not in text
        for file in world.folder.rglob("*"):
            if file.is_file():
                assert PASSWORD.encode() not in file.read_bytes()


def test_a_table_of_sqlite(world: World) -> None:
    path = source(
        world,
        database={"sqlite": "old.db", "table": "entries", "key": "ref", "float_decimals": {"amount": "2"}},
        fields={
            "ledger_id": {"constant": "MASTER"},
            "debit_account_id": "debit",
            "credit_account_id": "credit",
            # Integers and floats, as SQLite keeps what looks like a number.
            "amount": {"column": "cents", "minor_units": "2"},
            "currency_code": "currency",
            "transaction_type": {"constant": "TRANSFER"},
            "reference_id": "ref",
            "timestamp_utc": {"column": "time"},
        },
    )
    values = [str(tuple(map(str, row))).replace("(", "").replace(")", "") for row in ROWS]
    sqlite_file(
        path.parent / "old.db",
        SQLITE,
        *(f"INSERT INTO entries VALUES ({row})" for row in values),
        "ALTER TABLE entries ADD cents INTEGER",
        "UPDATE entries SET cents = round(amount * 100)",
    )
    world.post(path)
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    assert world.reconcile(path).matches
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000001'") == "2.00"


def test_a_query_with_generated_references(world: World, legacy: str) -> None:
    insert(legacy, ROWS)
    execute(
        legacy,
        "INSERT INTO entries SELECT ref || '-again', debit, credit, amount, currency, time, note FROM entries",
    )
    path = source(
        world,
        database={
            "url_env": VARIABLE,
            "key": ["time", "ref"],
            "query": "SELECT *, to_char(time, 'DD.MM.YYYY HH24:MI') AS local FROM entries WHERE amount > 0 -- no others",
        },
        fields={
            **FIELDS,
            "reference_id": {"generate": "true", "columns": ["time", "amount"]},
            "timestamp_utc": {"column": "local", "format": "%d.%m.%Y %H:%M", "timezone": "UTC"},
        },
    )
    world.post(path)
    assert len(world.references()) == 2 * GOOD
    assert world.reconcile(path).matches


# --- tables that move on ----------------------------------------------------------------------------------------


def test_what_was_registered_is_posted_although_the_table_moved_on(world: World, legacy: str) -> None:
    insert(legacy, ROWS)
    path = source(world)
    first, *others = [report.key for report in world.run(path, selected=["extracted"])]
    world.run(path, keys=[first], register=False)
    execute(
        legacy,
        "DELETE FROM entries WHERE ref IN ('R000002', 'R000015')",
        "UPDATE entries SET amount = 99 WHERE ref = 'R000016'",
    )
    insert(legacy, [entry(90)])
    # The run that takes over registers first, as the command does: the source is still what was captured.
    assert all(report.error is None for report in world.run(path, keys=others))
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000016'") == "17.00"
    assert world.reconcile(path).matches


def test_after_that_new_rows_are_posted_known_ones_are_duplicates_and_changed_ones_conflicts(
    world: World, legacy: str
) -> None:
    insert(legacy, ROWS)
    path = source(world)
    world.post(path)
    execute(
        legacy,
        "UPDATE entries SET amount = 99 WHERE ref = 'R000016'",
        "DELETE FROM entries WHERE ref = 'R000002'",
    )
    insert(legacy, [entry(90), entry(91)])
    world.post(path)
    assert world.references() == [*(row[0] for row in ROWS[:GOOD]), "R000090", "R000091"]
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000016'") == "17.00"
    report = world.reconcile(path)
    assert (report.read, report.posted, report.duplicates, report.conflicts, report.rejected) == (
        28,
        2,
        23,
        1,
        2,
    )
    conflicts = world.query("SELECT raw, reason FROM backfill_rejects WHERE code = 'conflict'")
    assert len(conflicts) == 1
    assert '"ref": "R000016"' in str(conflicts[0][0])
    assert world.value("SELECT max(revision) FROM backfill_registrations") == 2
    # Captures of what is not registered any more are gone.
    assert len(list(world.places.captures_dir("legacy").iterdir())) == 1


def test_a_capture_that_is_lost_is_made_again_from_a_table_that_did_not_move(
    world: World, legacy: str
) -> None:
    insert(legacy, ROWS)
    path = source(world)
    first, *others = [report.key for report in world.run(path, selected=["extracted"])]
    world.run(path, keys=[first], register=False)
    shutil.rmtree(world.places.intermediates_dir)
    assert all(report.error is None for report in world.run(path, keys=others, register=False))
    assert world.reconcile(path).matches
    assert len(world.references()) == GOOD


def test_a_capture_that_is_lost_with_a_table_that_moved_is_refused(world: World, legacy: str) -> None:
    insert(legacy, ROWS)
    path = source(world)
    first, *_ = [report.key for report in world.run(path, selected=["extracted"])]
    world.run(path, keys=[first], register=False)
    shutil.rmtree(world.places.intermediates_dir)
    execute(legacy, "DELETE FROM entries WHERE ref = 'R000015'")
    for register in (True, False):
        with pytest.raises(
            SourceChangedError, match="source legacy changed since it was registered: the content of ent"
        ):
            world.run(path, register=register)
    world.post(path, accept_changed=True)
    assert len(world.references()) == GOOD - 1
    assert world.reconcile(path).matches


# --- what goes wrong --------------------------------------------------------------------------------------------


def test_a_source_that_cannot_be_read_as_a_whole_registers_nothing(world: World, legacy: str) -> None:
    execute(legacy, "ALTER TABLE entries DROP CONSTRAINT entries_pkey")
    insert(legacy, [*ROWS, ROWS[3]])
    path = source(world)
    with pytest.raises(SourceFileError, match="the key ref is not unique: 'R000004' is there more than once"):
        world.register(path)
    assert world.query("SELECT * FROM backfill_registrations") == []
    assert list(world.places.captures_dir("legacy").iterdir()) == []


@pytest.mark.parametrize("reference", ["ref", {"generate": "true", "columns": ["ref"]}])
def test_a_connection_that_is_cut_begins_anew_with_another_snapshot(
    world: World, mariadb: MariaDb, reference: object
) -> None:
    with mariadb.database() as name, mariadb.connect(name) as connection, connection.cursor() as cursor:
        cursor.execute(MARIADB)
        cursor.execute(
            "INSERT INTO entries SELECT CONCAT('R', LPAD(seq, 6, '0')), 'A', 'B', 1, 'USD', '2024-01-01', REPEAT('x', 40)"
            " FROM seq_1_to_6000"
        )

        def changed() -> None:
            cursor.execute("DELETE FROM entries WHERE ref = 'R000500'")

        with (
            cut_once(mariadb.port, after_bytes=300_000, then=changed) as port,
            variable(mariadb.url(name).replace(f":{mariadb.port}/", f":{port}/")),
        ):
            fields = {**FIELDS, "reference_id": reference, "timestamp_utc": {"column": "time"}}
            config = {"max_retries": "2", "retry_delay": "1"}
            path = source(world, config=config, partition_rows="5000", fields=fields)
            world.post(path)
        # Nothing of the first try: that snapshot had 6,000 rows.
        assert len(world.references()) == 5_999
        report = world.reconcile(path)
        assert report.matches
        assert report.read == 5_999


def test_a_server_that_stays_away_is_told_after_the_last_try(world: World) -> None:
    path = source(world, config={"max_retries": "1", "retry_delay": "1"})
    with (
        variable("postgresql://u:hunter2@127.0.0.1:1/d"),
        pytest.raises(
            TransientSourceError, match="database d on 127.0.0.1:1, table entries: cannot be read right now"
        ),
    ):
        world.run(path)


@contextmanager
def cut_once(port: int, *, after_bytes: int, then: object) -> Iterator[int]:
    """A port that leads to a server, and whose first connection breaks after so many bytes."""
    listening = socket.create_server(("127.0.0.1", 0))
    numbers = iter(range(1_000_000))

    def pump(left: socket.socket, right: socket.socket, limit: int | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := left.recv(65536):
                passed += len(data)
                if limit is not None and passed > limit:
                    then()
                    break
                right.sendall(data)
        for one in (left, right):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", port))
                limit = after_bytes if next(numbers) == 0 else None
                threading.Thread(target=pump, args=(client, server, None), daemon=True).start()
                threading.Thread(target=pump, args=(server, client, limit), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()


# --- looking before running -------------------------------------------------------------------------------------


def test_a_look_ahead_reads_the_first_rows(world: World, legacy: str) -> None:
    insert(legacy, ROWS)
    path = source(world)
    found = preview(load_definition(path), rows=3)
    assert [row.after["reference_id"] for row in found.rows] == ["R000001", "R000002", "R000003"]
    assert found.columns == COLUMNS
    assert not found.reached_end
    problems, checked = check_files(check_file(path), rows=100)
    assert problems == []
    assert checked is not None
    assert checked.rejected == {"amount_not_positive": 1, "currency_unknown": 1}


def test_what_is_wrong_with_a_database_is_a_problem_of_its_section(
    world: World, legacy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(world, metadata=["notes"])
    problems, found = check_files(check_file(path), rows=100)
    assert found is None
    assert [problem.key for problem in problems] == ["metadata"]
    assert "reads the column 'notes'" in problems[0].text
    assert problems[0].suggestion == "note"
    monkeypatch.delenv(VARIABLE)
    problems, _ = check_files(check_file(path), rows=100)
    assert f"the environment variable {VARIABLE} is not set" in problems[0].text
    assert problems[0].line is not None


def test_a_missing_column_registers_nothing(world: World, legacy: str) -> None:
    with pytest.raises(SourceFileError, match="has no column 'notes', which metadata in"):
        world.register(source(world, metadata=["notes"]))
    assert world.query("SELECT * FROM backfill_registrations") == []


# --- the documentation ------------------------------------------------------------------------------------------

PAGE = (CHECKOUT / "docs" / "databases.md").read_text(encoding="utf-8")
TABLE_EXAMPLE, QUERY_EXAMPLE, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_documented_examples_run(world: World, legacy: str) -> None:
    execute(
        legacy,
        "CREATE TABLE accounts (id int PRIMARY KEY, number text)",
        "INSERT INTO accounts SELECT i, 'ACC-' || i FROM generate_series(1, 3) i",
        "CREATE TABLE payments AS SELECT i AS id, i + 0.5 AS amount, 'EUR' AS currency, timestamptz '2024-03-01' + i *"
        " interval '1 day' AS booked_at, 1 + i % 3 AS debit_id, 1 + (i + 1) % 3 AS credit_id FROM generate_series(1, 9) i",
        "CREATE TABLE ledger_entries AS SELECT p.*, 'P' || p.id AS reference, NULL AS kind, 'Rent' AS description,"
        " 'ACC-' || debit_id AS debit_account, 'ACC-' || credit_id AS credit_account FROM payments p",
    )
    path = world.folder / "legacy.yaml"
    path.write_text(TABLE_EXAMPLE, encoding="utf-8")
    world.post(path)
    assert world.reconcile(path).matches
    assert len(world.references()) == 9

    definition = (
        yaml.safe_load(TABLE_EXAMPLE) | yaml.safe_load(QUERY_EXAMPLE) | {"id": "joined", "metadata": []}
    )
    definition["fields"] |= {
        "debit_account_id": "debit",
        "credit_account_id": "credit",
        "transaction_type": {"constant": "PAYMENT"},
        "reference_id": {"template": "JOINED-{id}"},
    }
    other = world.folder / "joined.yaml"
    other.write_text(yaml.safe_dump(definition), encoding="utf-8")
    world.post(other)
    assert world.reconcile(other).matches
    assert len(world.references()) == 18


def test_every_key_is_documented() -> None:
    for key in DatabaseSection.model_fields:
        assert f"\n| `{key}` | " in PAGE
