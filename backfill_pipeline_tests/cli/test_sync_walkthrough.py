"""docs/dual-ledger.md: its month in one command does what is printed there, and its tables name what there is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.scb import NightlySync, ScbSection
from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.cli.walkthrough import (
    command_folder,
    differences,
    missing,
    served,
    steps,
    working_folder,
)
from backfill_pipeline_tests.stages.world import CHECKOUT

DOCS = CHECKOUT / "docs"
PAGE = (DOCS / "dual-ledger.md").read_text(encoding="utf-8")
KEYS = (DOCS / "source-definition.md").read_text(encoding="utf-8")
WALK = PAGE[PAGE.index("## A month in one command") : PAGE.index("## A day")]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.skipif(
    not (shutil.which("psql") and shutil.which("curl")), reason="the page uses psql and curl: install them"
)
def test_the_walk_through_prints_what_the_page_says(backfill: Backfill, tmp_path: Path) -> None:
    folder = working_folder(tmp_path)
    environment = backfill.environment
    environment["PATH"] = f"{command_folder(tmp_path)}:{environment['PATH']}"
    simulator, *rest = steps(WALK)
    assert "scb-simulator" in simulator.command
    with served(simulator.command, "scb_03.yaml", folder, environment) as log:
        assert missing(simulator.expected, log.read_text()) == []
        assert differences(rest, environment, folder) == []


def test_the_walk_through_is_about_every_step() -> None:
    text = " ".join(one.command for one in steps(WALK))
    for part in ("scb-simulator", "sources check", "sync run", "outbox dispatch", "sync reconcile"):
        assert f"backfill {part}" in text
    assert len(steps(WALK)) >= 10


def test_every_command_has_a_row() -> None:
    from backfill_pipeline.cli.bank_commands import outbox_app, sync_app

    for name, app in (("sync", sync_app), ("outbox", outbox_app)):
        for one in app.registered_commands:
            assert f"| `backfill {name} {one.name}" in PAGE


def test_every_key_has_a_row_and_the_example_loads(tmp_path: Path) -> None:
    table = KEYS[KEYS.index("### Banks that keep the ledger too") : KEYS.index("## Fields")]
    for key in {*ScbSection.model_fields} - {"nightly"}:
        assert f"`{key}`" in table, key
    for key in NightlySync.model_fields:
        assert f"| `nightly.{key}` |" in table, key
    (example,) = re.findall(r"```yaml\n# example: scb\n(.*?)```", table, re.DOTALL)
    (tmp_path / "scb_01.yaml").write_text(example)
    definition = load_definition(tmp_path / "scb_01.yaml")
    assert (definition.dual_ledger_id, definition.place) == (
        "SOVEREIGN",
        "https://scb.example.org/v1/ledgers/main",
    )
    schema = json.loads((DOCS / "source-definition.schema.json").read_text())
    assert set(schema["$defs"]["ScbSection"]["properties"]) == set(ScbSection.model_fields)
