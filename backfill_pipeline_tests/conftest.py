"""A real PostgreSQL for every test that asks for one; nothing is mocked.

`ledger_url` is a fresh, migrated ledger on the embedded PostgreSQL 18. The tests below `ledger/` ask for the same
fixtures and get each server that the product supports in turn.
"""

import signal
from collections.abc import Iterator

import pytest

from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline_tests import mariadb as mariadb_server
from backfill_pipeline_tests import postgresql
from backfill_pipeline_tests.mariadb import MariaDb
from backfill_pipeline_tests.postgresql import Server


def pytest_configure() -> None:
    """Shells have what they put into the background ignore Ctrl-C, and the commands that are tested inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgresql_18() -> Iterator[Server]:
    with postgresql.embedded_18() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_15() -> Iterator[Server]:
    if not postgresql.DEBIAN_15.is_dir():
        pytest.skip("PostgreSQL 15 is not installed: install Debian 12's package postgresql-15")
    with postgresql.debian_15() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDb]:
    if mariadb_server.PROGRAM is None or mariadb_server.INSTALL is None:
        pytest.skip("MariaDB is not installed: install Debian's package mariadb-server")
    with mariadb_server.running_mariadb() as server:
        yield server


@pytest.fixture(scope="session")
def server(postgresql_18: Server) -> Server:
    return postgresql_18


@pytest.fixture
def ledger_url(server: Server) -> Iterator[str]:
    """The URL of a fresh, migrated ledger, dropped after the test."""
    with server.ledger_database() as url:
        yield url


@pytest.fixture
def connection(ledger_url: str) -> Iterator[Connection]:
    with connect(ledger_url) as connection:
        yield connection
