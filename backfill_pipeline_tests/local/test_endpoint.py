"""Database URLs in and out, and databases made when they are missing; on the embedded server and on one's own."""

import glob
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st
from psycopg import conninfo
from pydantic import SecretStr

from backfill_pipeline.errors import SettingsError, TransientLedgerError
from backfill_pipeline.local.endpoint import (
    describe_url,
    ensure_database,
    normalise_url,
    prepare_dagster,
    resolve_ledger,
    sqlalchemy_url,
)
from backfill_pipeline.local.host import server_account
from backfill_pipeline.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
PASSWORD = "p@ss/w:o#r?d %41+&='\"\\"  # everything that means something in a URL


def _database_of(url: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_database()").fetchone()
    return None if row is None else row[0]


# --- URLs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:secret@localhost:5432/ledger",
        "postgresql:///ledger?host=/run/postgresql&user=ada",
        "postgresql://[::1]:5433/ledger?sslmode=disable",
        "postgresql://a:1,b:2/ledger?target_session_attrs=read-write",
        "postgresql://ada@%2Frun%2Fpostgresql/ledger?application_name=a%20b",
    ],
)
def test_url_keeps_its_meaning_for_libpq_and_gets_the_same_one_for_sqlalchemy(url: str) -> None:
    meant = {key: str(value) for key, value in conninfo.conninfo_to_dict(url).items()}
    normal = normalise_url(url, "LEDGER_DATABASE_URL")
    assert {key: str(value) for key, value in conninfo.conninfo_to_dict(normal).items()} == meant
    parsed = sqlalchemy.make_url(sqlalchemy_url(normal))
    assert parsed.drivername == "postgresql+psycopg2"
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    assert {key: str(value) for key, value in arguments.items()} == meant


@given(
    user=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    database=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
)
def test_any_user_password_and_database_survive_the_way_to_both_drivers(
    user: str, password: str, database: str
) -> None:
    url = normalise_url(conninfo_to_url(user, password, database), "LEDGER_DATABASE_URL")
    read = conninfo.conninfo_to_dict(url)
    assert (read["user"], read["password"], read["dbname"]) == (user, password, database)
    parsed = sqlalchemy.make_url(sqlalchemy_url(url))
    assert (parsed.username, parsed.password, parsed.database) == (user, password, database)


def conninfo_to_url(user: str, password: str, database: str) -> str:
    def encode(text: str) -> str:
        return "".join(f"%{byte:02X}" for byte in text.encode())

    return f"postgres://{encode(user)}:{encode(password)}@db.example.org:5432/{encode(database)}"


def test_description_tells_the_place_and_no_secret() -> None:
    url = "postgresql://ada:hunter2@db.example.org:6543/books"
    assert describe_url(url) == 'database "books" on db.example.org:6543 as ada'


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://ada:hunter2%@h/db", "percent-encode"),
        ("postgresql://ada:hun@ter2@h/db", "more than one @"),
        ("postgresql://ada:hunter2@h", "names no database"),
        ("postgresql://ada:hunter2@h:port/db?nonsense=1", "percent-encode"),
    ],
)
def test_unreadable_url_is_refused_without_quoting_it(url: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        normalise_url(url, "LEDGER_DATABASE_URL")
    assert "LEDGER_DATABASE_URL" in str(caught.value)
    assert "ter2" not in str(caught.value).replace("%40", "")


# --- embedded ---------------------------------------------------------------------------------------------------


def _settings(home: Path, ledger: str | None = None, dagster: str | None = None) -> Settings:
    return Settings.model_validate(
        {
            "BACKFILL_HOME": home,
            "LEDGER_DATABASE_URL": SecretStr(ledger) if ledger else None,
            "BACKFILL_DAGSTER_DATABASE_URL": SecretStr(dagster) if dagster else None,
        }
    )


def test_embedded_ledger_has_both_databases_and_dagster_s_url_works_with_its_driver(scratch: Path) -> None:
    with resolve_ledger(_settings(scratch / "home")) as endpoint:
        assert endpoint.embedded
        assert _database_of(endpoint.ledger_url) == "ledger"
        with sqlalchemy.create_engine(endpoint.dagster_url).connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT current_database()")).scalar() == "dagster"
        with resolve_ledger(_settings(scratch / "home")) as again:  # both exist: nothing to do
            assert again == endpoint
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(endpoint.ledger_url)


def test_ledger_waits_for_the_disk_at_every_commit_and_dagster_does_not(scratch: Path) -> None:
    with resolve_ledger(_settings(scratch / "home")) as endpoint:
        with psycopg.connect(endpoint.ledger_url) as ledger:
            assert ledger.execute("SHOW synchronous_commit").fetchone() == ("on",)
        with sqlalchemy.create_engine(endpoint.dagster_url).connect() as connection:
            assert connection.execute(sqlalchemy.text("SHOW synchronous_commit")).scalar() == "off"


def test_stated_dagster_database_is_used_instead(scratch: Path) -> None:
    with resolve_ledger(_settings(scratch / "home")) as first:
        stated = first.ledger_url.replace("/ledger?", "/elsewhere?")
        with resolve_ledger(_settings(scratch / "home", dagster=stated)) as endpoint:
            assert _database_of(stated) == "elsewhere"
            assert endpoint.dagster_url == sqlalchemy_url(stated)


def test_many_at_once_make_one_database(scratch: Path) -> None:
    with resolve_ledger(_settings(scratch / "home")) as endpoint:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ensure_database(endpoint.ledger_url, 'odd "name'), range(8)))
        assert _database_of(endpoint.ledger_url.replace("/ledger?", "/odd%20%22name?")) == 'odd "name'


def test_dagster_s_home_holds_the_checkout_s_configuration(scratch: Path) -> None:
    settings = _settings(scratch / "home")
    with resolve_ledger(settings) as endpoint:
        for _ in range(2):
            environment = prepare_dagster(settings, endpoint)
    assert Path(environment["DAGSTER_HOME"], "dagster.yaml").samefile(CHECKOUT / "dagster.yaml")
    named = {"BACKFILL_DAGSTER_DIR", "BACKFILL_DAGSTER_DATABASE_URL"}
    assert named <= environment.keys()
    assert "LEDGER_DATABASE_URL" not in environment


# --- a server of one's own --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _OwnServer:
    """A PostgreSQL from the system's packages, with passwords, on a socket."""

    socket_dir: Path

    def url(self, database: str, user: str = "postgres", password: str = PASSWORD) -> str:
        return conninfo_to_url(user, password, database).replace("@db.example.org:5432/", "@/") + (
            f"?host={self.socket_dir}"
        )


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_OwnServer]:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"))
    if not found:
        pytest.skip("no PostgreSQL server of one's own: install Debian's package postgresql")
    programs = Path(found[-1]).parent
    directory = Path("/var/tmp") / f"lb-own-{os.getpid()}"
    directory.mkdir(mode=0o711)
    directory.chmod(0o711)
    account = server_account(directory / "none", directory / "data")
    account.make_private_dir(directory / "data")
    (directory / "password").write_text(PASSWORD + "\n", encoding="utf-8")
    (directory / "password").chmod(0o644)

    def run(*command: str) -> None:
        done = account.run([programs / command[0], *command[1:]], cwd=directory, timeout_s=60)
        assert done.returncode == 0, done.stderr

    data = str(directory / "data")
    run("initdb", "-D", data, "-U", "postgres", "--pwfile=password", "--auth=scram-sha-256", "--no-sync")
    run("pg_ctl", "-D", data, "-w", "-l", f"{data}/log", "-o", f"-k {data} -c listen_addresses=''", "start")
    yield _OwnServer(directory / "data")
    run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    shutil.rmtree(directory)


@pytest.mark.own_server
class TestOwnServer:
    def test_missing_databases_are_made_and_password_of_any_kind_works(
        self, own_server: _OwnServer, scratch: Path
    ) -> None:
        with resolve_ledger(_settings(scratch / "home", ledger=own_server.url("books"))) as endpoint:
            assert not endpoint.embedded
            assert _database_of(endpoint.ledger_url) == "books"
            with sqlalchemy.create_engine(endpoint.dagster_url).connect() as connection:
                assert (
                    connection.execute(sqlalchemy.text("SELECT current_database()")).scalar()
                    == "books_dagster"
                )
            assert PASSWORD not in repr(endpoint) + endpoint.description
        assert not (scratch / "home" / "postgres").exists()

    def test_missing_database_that_may_not_be_made_is_explained(
        self, own_server: _OwnServer, scratch: Path
    ) -> None:
        with psycopg.connect(own_server.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'hunter2'")
        settings = _settings(scratch / "home", ledger=own_server.url("missing", "clerk", "hunter2"))
        with (
            pytest.raises(SettingsError, match=r'database "missing" .*may not create it') as caught,
            resolve_ledger(settings),
        ):
            pass
        assert "hunter2" not in str(caught.value)

    def test_database_that_is_not_unicode_is_refused(self, own_server: _OwnServer, scratch: Path) -> None:
        with psycopg.connect(own_server.url("postgres"), autocommit=True) as connection:
            connection.execute(
                "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
            )
        settings = _settings(scratch / "home", ledger=own_server.url("latin"))
        with pytest.raises(SettingsError, match=r'"latin" .*LATIN1.*UTF8'), resolve_ledger(settings):
            pass

    def test_wrong_password_is_explained_without_it(self, own_server: _OwnServer, scratch: Path) -> None:
        settings = _settings(scratch / "home", ledger=own_server.url("books", password="hunter2"))
        with (
            pytest.raises(TransientLedgerError, match="password authentication failed") as caught,
            resolve_ledger(settings),
        ):
            pass
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_server_that_does_not_answer_is_explained(scratch: Path) -> None:
    settings = _settings(scratch / "home", ledger=f"postgresql://ada:hunter2@/books?host={scratch}")
    with pytest.raises(TransientLedgerError, match="cannot be reached") as caught, resolve_ledger(settings):
        pass
    assert "hunter2" not in str(caught.value)
