"""Simulated banks, served on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from backfill_pipeline.scb_simulator.options import make_options
from backfill_pipeline.scb_simulator.server import running
from backfill_pipeline_tests.scb_simulator.client import Client

SMALL = {"start": "2024-03-29", "days": 4, "entries_per_day": 60, "timezone": "Europe/Paris"}
"""Four days around the night of 2024-03-31, which has 23 hours in Paris."""

Served = Callable[..., Client]


@pytest.fixture
def served() -> Iterator[Served]:
    """Starts banks: options by name, and what `running` takes under the same names."""
    with ExitStack() as stack:

        def serve(**given: Any) -> Client:
            about_running = {
                key: given.pop(key)
                for key in ("state", "credentials", "faults", "token_lifetime_s")
                if key in given
            }
            options = make_options({**SMALL, **given}, "test")
            client = Client(stack.enter_context(running(options, **about_running)), options.ledgers[0].id)
            stack.callback(client.close)
            return client

        yield serve


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    """One bank for tests that change nothing."""
    with running(make_options(SMALL, "test")) as simulator:
        client = Client(simulator)
        yield client
        client.close()


@pytest.fixture(scope="module")
def changeable() -> Iterator[Client]:
    with running(make_options(SMALL, "test")) as simulator:
        client = Client(simulator)
        yield client
        client.close()


@pytest.fixture
def client(changeable: Client) -> Client:
    """A bank as it was on the first day."""
    assert changeable.admin.post("/admin/reset").status_code == 200
    return changeable
