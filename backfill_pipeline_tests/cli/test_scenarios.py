"""docs/scenarios: each of the strategy's four scenarios is a page whose commands do what the page prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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

SCENARIOS = CHECKOUT / "docs" / "scenarios"
# What a page has to show, by the scenario that it is about.
SHOWN = {
    "initial-setup": (
        *(
            "audit",
            "plan",
            "run",
            "rollback",
            "resume",
            "verify",
            "period close",
            "period reopen",
            "evidence",
        ),
        "audit-log",
    ),
    "schema-migration": ("audit", "sources check", "plan", "run", "rollback", "verify", "db migrate"),
    "corrections": (
        *("audit", "verify", "reconcile", "corrections propose", "corrections show", "corrections approve"),
        *("corrections apply", "audit-log"),
    ),
    "dual-ledger-sync": (
        "scb-simulator",
        "sync run",
        "rollback",
        "outbox dispatch",
        "sync reconcile",
        "verify",
    ),
}
pytestmark = pytest.mark.e2e


def page(name: str) -> str:
    return (SCENARIOS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("psql"), reason="the pages use psql: install it")
@pytest.mark.parametrize("name", SHOWN)
def test_the_commands_do_what_the_page_prints(name: str, backfill: Backfill, tmp_path: Path) -> None:
    environment = backfill.environment
    environment.pop("BACKFILL_SOURCES_DIR")  # that of the checkout, as the pages say
    environment["PATH"] = f"{command_folder(tmp_path)}:{environment['PATH']}"
    folder = working_folder(tmp_path)
    first, *rest = steps(page(name))
    if "scb-simulator" in first.command:
        with served(first.command, "scb_01.yaml", folder, environment) as log:
            assert missing(first.expected, log.read_text()) == []
            found = differences(rest, environment, folder)
    else:
        found = differences([first, *rest], environment, folder)
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("name", SHOWN)
def test_a_page_shows_every_step(name: str) -> None:
    commands = " ".join(step.command for step in steps(page(name)))
    assert [part for part in SHOWN[name] if f"backfill {part}" not in commands] == []


def test_there_is_a_page_for_each_scenario_and_no_other() -> None:
    assert {file.stem for file in SCENARIOS.glob("*.md")} == SHOWN.keys()
