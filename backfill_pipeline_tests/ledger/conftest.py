"""The ledger's tests run on every PostgreSQL that the product supports: 15 and the embedded 18."""

from collections.abc import Iterator

import pytest

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline_tests.ledger.world import World
from backfill_pipeline_tests.postgresql import Server


@pytest.fixture(scope="session", params=["18", "15"])
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(f"postgresql_{request.param}")
    return server


@pytest.fixture
def world(ledger_url: str, connection: Connection) -> Iterator[World]:
    """A fresh ledger with a connection and words to talk about it."""
    world = World(ledger_url, connection)
    yield world
    world.close()
