"""Fixtures for whole backfills without an orchestrator."""

from pathlib import Path

import pytest

from backfill_pipeline_tests.stages.world import World


@pytest.fixture
def world(ledger_url: str, tmp_path: Path) -> World:
    """A migrated ledger and empty folders."""
    return World(ledger_url, tmp_path)
