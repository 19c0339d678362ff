"""Databases that are read as sources."""

from collections.abc import Iterator

import pytest

from backfill_pipeline_tests.mariadb import MariaDb
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.sources.databases import variable


@pytest.fixture
def legacy(server: Server) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, which sources find in their environment variable."""
    with server.empty_database() as url, variable(url):
        yield url


@pytest.fixture
def legacy_mariadb(mariadb: MariaDb) -> Iterator[str]:
    """The name of an empty MariaDB database, likewise."""
    with mariadb.database() as name, variable(mariadb.url(name)):
        yield name
