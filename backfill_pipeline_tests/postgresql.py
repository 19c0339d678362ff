"""Real PostgreSQL servers for tests, and cheap fresh ledgers on them.

Belongs here: starting and stopping the servers, databases made from a migrated template.
Does not: what is in a ledger (`ledger/world.py`).
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.embedded import embedded_server
from backfill_pipeline.local.host import server_account

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")

_MEMORY_BYTES_MIN = 4 << 30

# Nothing a test does has to survive a power cut. Without autovacuum no statistics appear by chance: plans are what a
# fresh, never analyzed database gets, which is when they go wrong.
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
}


class Server:
    """One running server. Names of databases carry our process id, so that workers may share it."""

    def __init__(self, name: str, url: Callable[[str], str]) -> None:
        self.name = name
        self.url = url
        self._prefix = f"t{os.getpid()}"
        self._numbers = itertools.count(1)
        self._template: str | None = None
        self.dagster_template: str | None = None
        with self._administer() as connection:
            for setting, value in _SETTINGS.items():
                connection.execute(
                    sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(setting), sql.Literal(value))
                )
            connection.execute("SELECT pg_reload_conf()")

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """A new database without our schema; yields its URL and drops it afterwards."""
        with self._database(None) as url:
            yield url

    @contextmanager
    def ledger_database(self) -> Iterator[str]:
        """A new, migrated database; yields its URL and drops it afterwards."""
        if self._template is None:
            template = f"{self._prefix}_template"
            with self._administer() as connection:
                self._create(connection, template, None)
            with connect(self.url(template)) as connection:
                migrate(connection)
            self._template = template
        with self._database(self._template) as url:
            yield url

    def copy_database(self, template: str, name: str) -> None:
        """A database that its user drops; nobody may be connected to the one that is copied."""
        with self._administer() as connection:
            self._create(connection, name, template)

    @contextmanager
    def _database(self, template: str | None) -> Iterator[str]:
        name = f"{self._prefix}_{next(self._numbers)}"
        with self._administer() as connection:
            self._create(connection, name, template)
        try:
            yield self.url(name)
        finally:
            with self._administer() as connection:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _administer(self) -> psycopg.Connection:
        return psycopg.connect(self.url("postgres"), autocommit=True)

    @staticmethod
    def _create(connection: psycopg.Connection, name: str, template: str | None) -> None:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy ENCODING 'UTF8'").format(
                sql.Identifier(name), sql.Identifier(template or "template0")
            )
        )


def _parent() -> Path:
    """Memory when there is plenty, which makes a fresh ledger ten times cheaper; else a disk that is not cleared."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _MEMORY_BYTES_MIN:
        return memory
    return Path("/var/tmp")


@contextmanager
def walkable_directory() -> Iterator[Path]:
    """A new directory that every user may walk through: as root, the servers run as somebody else."""
    directory = Path(tempfile.mkdtemp(prefix="lb-", dir=_parent()))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def embedded_18() -> Iterator[Server]:
    """The product's own embedded server, in a home of its own."""
    with walkable_directory() as home, embedded_server(home) as server:
        yield Server("PostgreSQL 18", server.url)


@contextmanager
def debian_15() -> Iterator[Server]:
    """A temporary cluster of Debian's PostgreSQL 15, as an unprivileged user when we are root."""
    with walkable_directory() as directory:
        data = directory / "data"
        account = server_account(directory, data)
        account.make_private_dir(data)

        def run(program: str, *arguments: str) -> None:
            done = account.run(
                [DEBIAN_15 / program, "--pgdata", str(data), *arguments], cwd=directory, timeout_s=60
            )
            assert done.returncode == 0, done.stderr

        # A linguistic collation as the default: what we compare byte by byte must say so itself.
        run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8",
            "--locale-provider=icu", "--icu-locale=en-US", "--locale=C")  # fmt: skip
        run("pg_ctl", "--wait", f"--log={data}/log", "-o", f"-k {data} -c listen_addresses=''", "start")
        try:
            yield Server("PostgreSQL 15", lambda database: f"postgresql://postgres@/{database}?host={data}")
        finally:
            run("pg_ctl", "--wait", "--mode=immediate", "stop")
