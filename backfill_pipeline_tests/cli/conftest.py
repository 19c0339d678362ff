"""Fixtures for the command: homes and databases of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.dagster_tables import dagster_tables_beside
from backfill_pipeline_tests.postgresql import Server, walkable_directory
from backfill_pipeline_tests.stages.world import World, whole_database


@pytest.fixture
def backfill(server: Server, tmp_path: Path) -> Iterator[Backfill]:
    """The command on a new, empty ledger beside new tables of Dagster, with an empty home and a sources folder for `world`."""
    sources = tmp_path / "sources"
    sources.mkdir()
    with whole_database(server) as url:
        dagster_tables_beside(server, url)
        yield Backfill(tmp_path / "home", url, sources)


@pytest.fixture
def world(backfill: Backfill, tmp_path: Path) -> World:
    """Writes sources for `backfill`, and looks into its ledger."""
    assert backfill.url is not None
    return World(backfill.url, tmp_path)


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Backfill]:
    """The command as it is without any settings but a home: on an embedded server."""
    with walkable_directory() as directory:
        yield Backfill(directory / "home", None, tmp_path)
