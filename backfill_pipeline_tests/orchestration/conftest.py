"""A real Dagster instance, configured by the product, on a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.endpoint import prepare_dagster, resolve_ledger
from backfill_pipeline.settings import load_settings
from backfill_pipeline_tests.dagster_tables import dagster_tables_beside
from backfill_pipeline_tests.dual_ledger.world import Dual, running_dual
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import World, whole_database


@pytest.fixture
def world(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A ledger that the environment names, as in production."""
    with whole_database(server) as url:
        dagster_tables_beside(server, url)
        (tmp_path / "sources").mkdir()
        monkeypatch.setenv("LEDGER_DATABASE_URL", url)
        monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("BACKFILL_SOURCES_DIR", str(tmp_path / "sources"))
        monkeypatch.delenv("BACKFILL_DAGSTER_DATABASE_URL", raising=False)
        yield World(url, tmp_path)


@pytest.fixture
def instance(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance of this home: dagster-postgres, as `dagster.yaml` says."""
    settings = load_settings()
    with resolve_ledger(settings) as endpoint:
        for name, value in prepare_dagster(settings, endpoint).items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            yield instance


@pytest.fixture
def dual(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dual]:
    """One bank, SCB-01, with 3 days of 40 entries, beside the ledger that the environment names."""
    with connect(world.url) as connection:
        migrate(connection)
    with running_dual(world.url, world.folder, monkeypatch=monkeypatch) as dual:
        yield dual
