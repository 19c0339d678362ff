"""Fixtures for reports: a ledger with sources, and the page of one of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.reporting.report.write import Report, write_report
from backfill_pipeline_tests.pages.reading import Page
from backfill_pipeline_tests.stages.world import World

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)

Reported = Callable[..., tuple[Report, Page]]


@pytest.fixture
def world(ledger_url: str, tmp_path: Path) -> World:
    """A migrated ledger and empty folders."""
    return World(ledger_url, tmp_path)


@pytest.fixture
def reported(world: World) -> Reported:
    """Writes the report of a source file and reads its page, in which nothing may be wrong."""

    def report(path: Path, **options: int) -> tuple[Report, Page]:
        with connect(world.url) as connection:
            written = write_report(
                connection, load_definition(path), world.folder / "report.html", now=NOW, **options
            )
        page = Page(written.path.read_text(encoding="utf-8"))
        assert page.wrong == []
        return written, page

    return report
