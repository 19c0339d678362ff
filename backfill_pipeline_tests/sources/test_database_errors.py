"""What goes wrong with a database is one sentence with a remedy, holds no secret, and is tried again only if that helps."""

from __future__ import annotations

import sqlite3
import time
import traceback
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from backfill_pipeline.errors import BackfillError, SettingsError, SourceFileError, TransientSourceError
from backfill_pipeline.sources.database.connect import find_target
from backfill_pipeline_tests.mariadb import PASSWORD, MariaDb
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import VARIABLE, execute, read, sqlite_file, stream, variable

ENDLESS = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT max(id) AS id FROM n"


def sentence(error: BackfillError, *secrets: str) -> str:
    """The message, once no secret is found in all that a log would show of it."""
    shown = "".join(traceback.format_exception(error))
    for secret in secrets:
        assert secret not in shown
    assert str(error).endswith(".")
    assert "\n" not in str(error)
    return str(error)


# --- URLs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "driver", "place"),
    [
        ("postgres://u:pw@h/d", "postgresql+psycopg", "PostgreSQL database d on h, table t"),
        (
            "postgresql://u:pw@h:5433/d?sslmode=require",
            "postgresql+psycopg",
            "PostgreSQL database d on h:5433, table t",
        ),
        (
            "postgresql+psycopg2://u:pw@/d?host=/run/pg&port=5433",
            "postgresql+psycopg",
            "database d on /run/pg:5433,",
        ),
        (
            "postgresql+asyncpg://u:pw@h",
            "postgresql+psycopg",
            "PostgreSQL database of the user's name on h, table t",
        ),
        ("mysql://u:pw@h/d", "mysql+pymysql", "MySQL database d on h, table t"),
        ("mysql+mysqldb://u:pw@h/d", "mysql+pymysql", "MySQL database d on h, table t"),
        ("mariadb://u:pw@h:3307/d", "mariadb+pymysql", "MariaDB database d on h:3307, table t"),
    ],
)
def test_a_url_finds_the_driver_that_is_there(url: str, driver: str, place: str) -> None:
    with variable(url):
        target = find_target(stream(table="t", key="id")._section)
        assert target.url is not None
        assert target.url.drivername == driver
        assert place in stream(table="t", key="id").place
        assert "pw" not in target.place


@pytest.mark.parametrize(
    "url",
    [
        "oracle://u:hunter2@h/d",
        "mssql+pyodbc://u:hunter2@h/d",
        "hunter2",
        "postgresql//u:hunter2@h",
        "mysql://u:hunter2@h:port/d",
    ],
)
def test_a_url_of_something_else_is_not_shown(url: str) -> None:
    with variable(url), pytest.raises(SettingsError) as raised:
        read(table="t", key="id")
    text = sentence(raised.value, "hunter2", url)
    assert text == (
        f"table t of the database {VARIABLE}: {VARIABLE} holds no URL of a database that can be read: it must begin with "
        "postgresql://, mysql://, mariadb:// or sqlite://, and special characters in user and password must be "
        "percent-encoded."
    )


def test_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(
        SettingsError, match=f"the environment variable {VARIABLE} is not set: set it to the database"
    ):
        read(table="t", key="id")
    assert stream(table="t", key="id").place == f"table t of the database {VARIABLE}"


def test_a_sqlite_file_by_url(tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "a.db", "CREATE TABLE t (id)", "INSERT INTO t VALUES (1)")
    with variable(f"sqlite:///{file}"):
        assert read(table="t", key="id").rows == [{"id": "1"}]
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///a.db", "sqlite:///file:a.db?uri=true"):
        with variable(url), pytest.raises(SettingsError, match="names no file by its absolute path"):
            read(table="t", key="id")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_an_option_that_the_driver_does_not_know(scheme: str) -> None:
    with variable(f"{scheme}://u:hunter2@127.0.0.1:1/d?nosuch=1"), pytest.raises(SourceFileError) as raised:
        read(table="t", key="id")
    assert "nosuch" in sentence(raised.value, "hunter2")


# --- what may pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb"])
def test_a_server_that_is_not_there_may_come(scheme: str) -> None:
    with (
        variable(f"{scheme}://somebody:hunter2@127.0.0.1:1/d"),
        pytest.raises(TransientSourceError) as raised,
    ):
        read(table="t", key="id", connect_timeout_s="2")
    text = sentence(raised.value, "hunter2")
    assert "database d on 127.0.0.1:1, table t: cannot be read right now" in text


def test_a_connection_that_is_lost_half_way_in_postgresql(legacy: str) -> None:
    execute(legacy, "CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 5000) i")
    records = iter(stream(table="t", key="id").records())
    next(records)
    execute(
        legacy,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backfill source'"
        " AND datname = current_database()",
    )
    with pytest.raises(TransientSourceError, match="cannot be read right now"):
        list(records)


def test_a_connection_that_is_lost_half_way_in_mariadb(mariadb: MariaDb, legacy_mariadb: str) -> None:
    mariadb.execute(
        "CREATE TABLE t (id INT PRIMARY KEY) SELECT seq AS id FROM seq_1_to_5000", database=legacy_mariadb
    )
    records = iter(stream(table="t", key="id").records())
    next(records)
    with mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'reader'")
        for (number,) in cursor.fetchall():
            cursor.execute(f"KILL {number}")
    with pytest.raises(TransientSourceError, match="cannot be read right now"):
        list(records)


def test_a_locked_sqlite_file_may_be_free_later(tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "a.db", "CREATE TABLE t (id)")
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TransientSourceError, match="database is locked"):
        read(sqlite=file, table="t", key="id", connect_timeout_s="1")
    holder.close()


# --- what will not ----------------------------------------------------------------------------------------------


def test_a_login_that_is_refused(mariadb: MariaDb, legacy_mariadb: str) -> None:
    url = mariadb.url(legacy_mariadb, password="hunter2")
    with variable(url), pytest.raises(SourceFileError) as raised:
        read(table="t", key="id")
    assert sentence(raised.value, "hunter2", PASSWORD, url).endswith(
        f"table t: the database refuses the login: correct user and password in {VARIABLE}."
    )


@pytest.mark.own_server
def test_a_login_that_postgresql_refuses(postgresql_15: Server) -> None:
    with postgresql_15.empty_database() as url, psycopg.connect(url, autocommit=True) as admin:
        name = f"locked_{admin.info.dbname}"
        found = admin.execute(
            "SELECT current_setting('hba_file'), pg_read_file(current_setting('hba_file'))"
        ).fetchone()
        assert found is not None
        file, lines = found
        write = sql.SQL("COPY (SELECT unnest({}::text[])) TO {}")
        asking = [f"local all {name} scram-sha-256", *lines.splitlines()]
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'right'").format(sql.Identifier(name)))
        admin.execute(write.format(sql.Literal(asking), sql.Literal(file)))
        loaded = "SELECT pg_conf_load_time()"
        before = admin.execute(loaded).fetchone()
        admin.execute("SELECT pg_reload_conf()")
        while admin.execute(loaded).fetchone() == before:  # the server reads its files before its sessions do
            time.sleep(0.01)
        try:
            for password, message in (("hunter2", "refuses the login"), (None, "refuses the login")):
                login = name if password is None else f"{name}:{password}"
                with (
                    variable(url.replace("postgres@", f"{login}@")),
                    pytest.raises(SourceFileError) as raised,
                ):
                    read(table="t", key="id")
                assert message in sentence(raised.value, "hunter2")
            with (
                variable(url.replace("postgres@", f"{name}:right@")),
                pytest.raises(SourceFileError) as raised,
            ):
                read(table="pg_catalog.pg_authid", key="oid")
            assert sentence(raised.value).endswith("this user may not read it: GRANT SELECT on it.")
        finally:
            admin.execute(write.format(sql.Literal(lines.splitlines()), sql.Literal(file)))
            admin.execute("SELECT pg_reload_conf()")
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_words_of_the_server_do_not_name_the_user(legacy: str) -> None:
    with psycopg.connect(legacy, autocommit=True) as admin:
        login = sql.Identifier(f"crowded_{admin.info.dbname}")
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 0").format(login))
        try:
            url = (
                make_url(legacy)
                .set(username=login.as_string().strip('"'))
                .render_as_string(hide_password=False)
            )
            with variable(url), pytest.raises(TransientSourceError, match="too many connections") as raised:
                read(table="t", key="id")
            sentence(raised.value, "crowded_")
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(login))


def test_databases_and_users_that_do_not_exist(legacy: str, mariadb: MariaDb) -> None:
    message = f"there is no such database, or this user may not use it: correct the URL in {VARIABLE}"
    with variable(legacy.replace("/t", "/nosuch_t", 1)), pytest.raises(SourceFileError, match=message):
        read(table="t", key="id")
    with variable(mariadb.url("nosuch")), pytest.raises(SourceFileError, match=message):
        read(table="t", key="id")


def test_tables_that_do_not_exist(legacy: str, mariadb: MariaDb, tmp_path: Path) -> None:
    message = "table nosuch: there is no such table or view: correct its name, with its schema"
    with pytest.raises(SourceFileError, match=message):
        read(table="nosuch", key="id")
    with pytest.raises(SourceFileError, match=r"table no.such: there is no such table or view"):
        read(table="no.such", key="id")
    with pytest.raises(SourceFileError, match=message):
        read(sqlite=sqlite_file(tmp_path / "a.db", "CREATE TABLE t (id)"), table="nosuch", key="id")
    with (
        mariadb.database() as name,
        variable(mariadb.url(name)),
        pytest.raises(SourceFileError, match=message),
    ):
        read(table="nosuch", key="id")
    with pytest.raises(
        SourceFileError, match=r'no such table or view: .* \(relation "nosuch" does not exist\)'
    ):
        read(query="SELECT * FROM nosuch", key="id")


def test_a_table_that_may_not_be_read(mariadb: MariaDb) -> None:
    with mariadb.database() as name, mariadb.database() as other:
        mariadb.execute("CREATE TABLE t (id INT)", database=other)
        mariadb.execute(f"REVOKE SELECT ON {other}.* FROM 'reader'@'%'")
        with (
            variable(mariadb.url(name)),
            pytest.raises(SourceFileError, match="this user may not read it: GRANT SELECT"),
        ):
            read(table=f"{other}.t", key="id")


@pytest.mark.timeout(60)
def test_a_condition_that_leaves_its_brackets_does_not_read_for_ever(tmp_path: Path) -> None:
    rows = (
        "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 3000) SELECT id FROM n"
    )
    file = sqlite_file(tmp_path / "a.db", f"CREATE TABLE t AS {rows}")
    for condition in ("id > 0) OR (id > 0", "id < 5) OR (id > 0"):
        with pytest.raises(SourceFileError, match=r"check the brackets of database\.where"):
            read(sqlite=file, table="t", key="id", where=condition)


@pytest.mark.parametrize("key", ["query", "where"])
def test_sql_that_is_wrong_names_the_key(legacy: str, key: str) -> None:
    execute(legacy, "CREATE TABLE t (id int)")
    chosen = {"query": "SELEC 1 AS id"} if key == "query" else {"table": "t", "where": "idd = 1"}
    with pytest.raises(SourceFileError, match=rf"the database refuses it \(.*\): correct database\.{key}\."):
        read(key="id", **chosen)


def test_files_that_are_no_databases(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="there is no such file"):
        read(sqlite=tmp_path / "nosuch.db", table="t", key="id")
    with pytest.raises(SourceFileError, match="is a directory"):
        read(sqlite=tmp_path, table="t", key="id")
    (tmp_path / "a.csv").write_text("id,amount\n" * 100)
    with pytest.raises(SourceFileError, match="file is not a database"):
        read(sqlite=tmp_path / "a.csv", table="t", key="id")
    odd = sqlite_file(tmp_path / "a?mode=rwc#%20.db", "CREATE TABLE t (id)", "INSERT INTO t VALUES (1)")
    assert read(sqlite=odd, table="t", key="id").rows == [{"id": "1"}]


def test_a_statement_may_not_take_for_ever(legacy: str, mariadb: MariaDb, tmp_path: Path) -> None:
    message = r"took longer than database.statement_timeout_s: .* \(it is 1\)"
    with pytest.raises(SourceFileError, match=message):
        read(query=ENDLESS, key="id", statement_timeout_s="1")
    with pytest.raises(SourceFileError, match=message):
        read(
            sqlite=sqlite_file(tmp_path / "a.db", "CREATE TABLE t (id)"),
            query=ENDLESS,
            key="id",
            statement_timeout_s="1",
        )
    with (
        mariadb.database() as name,
        variable(mariadb.url(name)),
        pytest.raises(SourceFileError, match=message),
    ):
        read(query="SELECT 1 AS id, SLEEP(20) AS v", key="id", statement_timeout_s="1")


# --- nothing is written -----------------------------------------------------------------------------------------


def test_nothing_can_be_written_to_postgresql(legacy: str) -> None:
    execute(
        legacy,
        "CREATE TABLE t AS SELECT 1 AS id",
        "CREATE FUNCTION write() RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES (2) RETURNING id'",
        "CREATE FUNCTION open_up() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN SET TRANSACTION READ WRITE; INSERT INTO t VALUES (2); RETURN 1; END $$",
        "CREATE SEQUENCE s",
    )
    with pytest.raises(
        SourceFileError, match="reading it would write to the database: a source is only read"
    ):
        read(query="SELECT write() AS id", key="id")
    for query in (
        "SELECT open_up() AS id",
        "SELECT nextval('s') AS id",
        "SELECT id FROM t FOR UPDATE",
        "WITH w AS (INSERT INTO t VALUES (2) RETURNING id) SELECT id FROM w",
        "DELETE FROM t RETURNING id",
        "SELECT 1 AS id; DROP TABLE t",
        "SELECT 1 AS id) AS x; COMMIT; DROP TABLE t; SELECT (1",
        "SELECT 1 AS id) AS x; COMMIT; DROP TABLE t; --",
    ):
        with pytest.raises(SourceFileError):
            read(query=query, key="id")
    with pytest.raises(SourceFileError):
        read(table="t", key="id", where="true) ; COMMIT; DROP TABLE t; --")
    with psycopg.connect(legacy) as connection:
        assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]


def test_nothing_can_be_written_to_mariadb(mariadb: MariaDb, legacy_mariadb: str) -> None:
    mariadb.execute("CREATE TABLE t AS SELECT 1 AS id", database=legacy_mariadb)
    mariadb.execute(
        "CREATE FUNCTION `write`() RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO t VALUES (2); RETURN 1; END",
        database=legacy_mariadb,
    )
    mariadb.execute(f"GRANT ALL ON {legacy_mariadb}.* TO 'reader'@'%'")
    with pytest.raises(
        SourceFileError, match="reading it would write to the database: a source is only read"
    ):
        read(query="SELECT `write`() AS id", key="id")
    for query in (
        "DELETE FROM t",
        "SELECT 1 AS id; DROP TABLE t",
        "SELECT 1 AS id) AS x; COMMIT; DROP TABLE t; -- ",
        "SELECT 1 AS id INTO OUTFILE '/tmp/x'",
    ):
        with pytest.raises(SourceFileError):
            read(query=query, key="id")
    with mariadb.connect(legacy_mariadb) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM t")
        assert list(cursor.fetchall()) == [(1,)]


def test_nothing_can_be_written_to_sqlite(tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "a.db", "CREATE TABLE t (id)", "INSERT INTO t VALUES (1)")
    before = file.read_bytes()
    for query in (
        "DELETE FROM t",
        "SELECT 1 AS id) AS x; DROP TABLE t; --",
        "INSERT INTO t VALUES (2) RETURNING id",
    ):
        with pytest.raises(SourceFileError):
            read(sqlite=file, query=query, key="id")
    assert read(sqlite=file, table="t", key="id").rows == [{"id": "1"}]
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.db"]
