"""Connections to databases that are read as sources: which database, and one snapshot of it that nothing can write to.

Belongs here: URLs, their drivers, session settings, read-only snapshots, and the place that messages name.
Does not: what errors mean (`errors.py`), what is read (`stream.py`).

No message holds a URL, a user or a password: the place is put together from host, port and database alone.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import quote, quote_plus

import psycopg
import psycopg.abc
import psycopg.adapt
import pymysql.converters
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.pool import NullPool

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.errors import SettingsError, SourceFileError
from backfill_pipeline.sources.database.errors import database_errors, scrubbed
from backfill_pipeline.sources.files.content import open_file

Backend = Literal["postgresql", "mysql", "sqlite"]

_DRIVERS: Final[dict[str, tuple[Backend, str]]] = {
    "postgres": ("postgresql", "postgresql+psycopg"),
    "postgresql": ("postgresql", "postgresql+psycopg"),
    "mysql": ("mysql", "mysql+pymysql"),
    "mariadb": ("mysql", "mariadb+pymysql"),
    "sqlite": ("sqlite", "sqlite+pysqlite"),
}
"""First part of a URL's scheme → the backend, and the driver that is installed. One that a URL names is replaced."""

_NAMES: Final[dict[Backend, str]] = {"postgresql": "PostgreSQL", "mysql": "MySQL", "sqlite": "SQLite"}

# Texts are compared as a whole; the server's default looks at their first 1,024 bytes.
_SORT_BYTES_MAX: Final = 8_388_608
_READ_GRACE_S: Final = 30
"""How much longer than a statement may take the client waits for its server, before the connection counts as lost."""
_PROGRESS_STEPS: Final = 100_000
"""SQLite's virtual machine: instructions between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Target:
    """A database that can be connected to.

    Attributes:
        backend: which kind it is.
        place: kind, host, database and what is read, for people; no user and no password.
        url: None for a SQLite file.
        file: the SQLite file; None for a server.
        secrets: texts that no message may hold.
    """

    backend: Backend
    place: str
    url: URL | None
    file: Path | None
    secrets: tuple[str, ...]


def find_target(section: DatabaseSection) -> Target:
    """The database that a definition means.

    Raises:
        SettingsError: the environment variable is not set, or holds no URL of a database that can be read.
    """
    if section.sqlite is not None:
        return _sqlite_target(section.sqlite, section)
    assert section.url_env is not None  # the definition has one of the two
    text = os.environ.get(section.url_env, "").strip()
    if not text:
        raise SettingsError(
            f"{section.place}: the environment variable {section.url_env} is not set: set it to the database's URL, "
            "such as postgresql://user:password@host:5432/database."
        )
    url = _parsed(text, section)
    backend, driver = _DRIVERS[url.get_backend_name()]
    if backend == "sqlite":
        if not Path(url.database or "").is_absolute():
            raise SettingsError(
                f"{section.place}: {section.url_env} names no file by its absolute path: write "
                "sqlite:////path/to/file, or use database.sqlite."
            )
        return _sqlite_target(Path(url.database or ""), section)
    return Target(
        backend,
        _server_place(url, backend, section),
        url.set(drivername=driver),
        None,
        _secrets_of(url, text),
    )


@contextmanager
def snapshot(target: Target, section: DatabaseSection) -> Iterator[Connection]:
    """A connection in one transaction that sees the database as it is now, and can write nothing.

    Raises:
        SourceFileError: it cannot be connected to, and will not be until something is changed.
        TransientSourceError: it may be there when tried again.
    """
    with database_errors(target.place, target.secrets, section):
        engine = _engine(target, section)
        try:
            with _connected(engine, target) as connection:
                _begin(connection, target.backend, section)
                yield connection
                # Nothing is left behind either way; a connection that breaks now has given everything.
                with suppress(sa.exc.SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
        finally:
            engine.dispose()


def _connected(engine: sa.Engine, target: Target) -> Connection:
    try:
        return engine.connect()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        # Options of the URL that its driver does not know, certificates that are not there, a way to log in for which
        # a package is lacking.
        words = scrubbed(str(error), target.secrets)
        raise SourceFileError(f"{target.place}: cannot be connected to ({words}).") from None


def _parsed(text: str, section: DatabaseSection) -> URL:
    with suppress(sa.exc.ArgumentError, ValueError):
        url = make_url(text)
        if url.get_backend_name() in _DRIVERS:
            return url
    raise SettingsError(
        f"{section.place}: {section.url_env} holds no URL of a database that can be read: it must begin with "
        "postgresql://, mysql://, mariadb:// or sqlite://, and special characters in user and password must be "
        "percent-encoded."
    )


def _sqlite_target(file: Path, section: DatabaseSection) -> Target:
    return Target("sqlite", f"{file}, {section.rows_of}", None, file, ())


def _server_place(url: URL, backend: Backend, section: DatabaseSection) -> str:
    host = url.host or url.query.get("host") or url.query.get("unix_socket") or "localhost"
    port = url.port or url.query.get("port")
    where = host if isinstance(host, str) else ", ".join(host)
    name = "MariaDB" if url.get_backend_name() == "mariadb" else _NAMES[backend]
    database = url.database or url.query.get("dbname") or "of the user's name"
    return f"{name} database {database} on {where}{f':{port}' if port else ''}, {section.rows_of}"


def _secrets_of(url: URL, text: str) -> tuple[str, ...]:
    password = url.password or ""
    user = url.username or ""
    found = {
        f"'{user}'",  # as servers write it: a name by itself may be any word
        f'"{user}"',
        text,
        url.render_as_string(hide_password=False),
        password,
        quote(password, safe=""),
        quote_plus(password),
    }
    for name, value in url.query.items():
        if "pass" in name.lower():
            found.update([value] if isinstance(value, str) else value)
    return tuple(sorted((one for one in found if one), key=len, reverse=True))


# --- sessions ---------------------------------------------------------------------------------------------------


def _engine(target: Target, section: DatabaseSection) -> sa.Engine:
    """An engine that keeps no connection, and leaves transactions to us."""
    if target.file is not None:
        return _sqlite_engine(target.file, section)
    assert target.url is not None
    arguments: dict[str, object] = {"connect_timeout": section.connect_timeout_s}
    if target.backend == "postgresql":
        arguments |= {
            "application_name": "backfill source",
            "client_encoding": "utf8",
            "prepare_threshold": None,  # pages differ in their key alone, but poolers lose prepared statements
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
    else:
        arguments |= {
            "charset": "utf8mb4",
            "read_timeout": section.statement_timeout_s + _READ_GRACE_S,
            # Without decoders: every value comes as the server writes it, and numbers are no floats.
            "conv": dict(pymysql.converters.encoders),
        }
    # What the URL says about these wins, but for what exactness depends on.
    kept = {"charset", "conv", "client_encoding", "prepare_threshold"}
    given = {key: value for key, value in arguments.items() if key in kept or key not in target.url.query}
    return sa.create_engine(
        target.url,
        connect_args=given,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )


def _begin(connection: Connection, backend: Backend, section: DatabaseSection) -> None:
    """Begins the one transaction, with settings that make values independent of the server's."""
    if backend == "sqlite":
        connection.exec_driver_sql("BEGIN")
        return
    limit_s = section.statement_timeout_s
    if backend == "postgresql":
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        settings = {
            "statement_timeout": f"{limit_s}s",
            "lock_timeout": f"{limit_s}s",
            "idle_in_transaction_session_timeout": "0",
            "timezone": "UTC",
            "datestyle": "ISO, YMD",
            "intervalstyle": "iso_8601",
            "bytea_output": "hex",
            "extra_float_digits": "1",
            "jit": "off",
        }
        if (connection.dialect.server_version_info or ()) >= (17,):
            settings["transaction_timeout"] = "0"
        # Local to the transaction, so that they also hold, and end, behind a pooler.
        connection.execute(sa.select(*(sa.func.set_config(*one, True) for one in settings.items())))
        if (
            connection.execute(sa.select(sa.func.current_setting("server_encoding"))).scalar_one()
            == "SQL_ASCII"
        ):
            lenient_text(connection)
        return
    is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    timeout = f"max_statement_time={limit_s}" if is_mariadb else f"max_execution_time={limit_s * 1000}"
    connection.exec_driver_sql(
        f"SET SESSION time_zone='+00:00', max_sort_length={_SORT_BYTES_MAX}, {timeout}"
    )
    connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


def _sqlite_engine(file: Path, section: DatabaseSection) -> sa.Engine:
    open_file(file).close()  # a missing file or a folder is told as it is for every other source
    watch = _Watch(section.statement_timeout_s)
    engine = sa.create_engine(
        "sqlite+pysqlite://",
        creator=partial(_open_sqlite, file, section.connect_timeout_s, watch),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )
    sa.event.listen(engine, "before_cursor_execute", lambda *_: watch.start())
    return engine


def _open_sqlite(file: Path, busy_timeout_s: int, watch: "_Watch") -> sqlite3.Connection:
    address = f"file:{quote(str(file))}?mode=ro"
    connection = sqlite3.connect(
        address, uri=True, isolation_level=None, timeout=busy_timeout_s, check_same_thread=False
    )
    connection.set_progress_handler(watch.is_over, _PROGRESS_STEPS)
    with closing(connection.execute("PRAGMA query_only = ON")):
        return connection


class _Watch:
    """Ends a statement of SQLite that takes too long; servers do that themselves."""

    def __init__(self, limit_s: int) -> None:
        self._limit_s = limit_s
        self._until_s = float("inf")

    def start(self) -> None:
        self._until_s = time.monotonic() + self._limit_s

    def is_over(self) -> bool:
        return time.monotonic() > self._until_s


def lenient_text(connection: Connection) -> None:
    """From now on, texts that are not UTF-8 come with surrogates in place of the bytes that are wrong.

    That is slow, and only two databases can hold such texts: SQLite, and PostgreSQL where the encoding is SQL_ASCII.
    """
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):
        driver.text_factory = cast(
            Callable[[bytes], str], partial(str, encoding="utf-8", errors="surrogateescape")
        )
    elif isinstance(driver, psycopg.Connection):
        # As it is: the server would refuse to give it as UTF-8.
        connection.execute(sa.select(sa.func.set_config("client_encoding", "SQL_ASCII", True)))
        for kind in ("text", "varchar", "bpchar", "name", '"char"'):
            driver.adapters.register_loader(kind, _LenientLoader)


class _LenientLoader(psycopg.adapt.Loader):
    def load(self, data: psycopg.abc.Buffer) -> str:
        return bytes(data).decode("utf-8", "surrogateescape")
