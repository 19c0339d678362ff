"""docs/tutorial.md, and the first source of one's own: the commands do what the pages print, in a reader's order."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.cli.walkthrough import command_folder, differences, steps, working_folder
from backfill_pipeline_tests.stages.world import CHECKOUT

PAGE = (CHECKOUT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# What follows serves until it is stopped; the tests in a browser walk through it.
BEFORE_THE_UI = PAGE.partition("\n## 8. See it in the Dagster UI")[0]


def recipe(target: str) -> str:
    """What `make` runs for a target, with the command from PATH in place of that of .venv."""
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert found, target
    lines = [line.strip().removeprefix("@") for line in found[1].splitlines()]
    return "\n".join(lines).replace("$$", "$").replace(".venv/bin/", "")


@pytest.mark.e2e
@pytest.mark.slow
def test_the_commands_do_what_the_page_prints(embedded: Backfill, tmp_path) -> None:
    environment = embedded.environment
    environment.pop("BACKFILL_SOURCES_DIR")  # that of the checkout, as the page says
    environment["PATH"] = f"{command_folder(tmp_path)}:{environment['PATH']}"
    wanted = [
        replace(step, command=recipe("demo")) if step.command == "make demo" else step
        for step in steps(BEFORE_THE_UI)
    ]
    found = differences(wanted, environment, working_folder(tmp_path))
    assert not found, "\n\n".join(found)


def test_the_page_shows_what_a_newcomer_needs() -> None:
    commands = [step.command for step in steps(PAGE)]
    assert commands[0] == "make demo"
    assert commands[-1] == "backfill up"
    for part in ("rejects replay", "rollback", "status", "resume"):
        assert any(f"backfill {part}" in command for command in commands), part


def test_the_recipe_of_make_is_the_one_that_is_run() -> None:
    assert "backfill run sample" in recipe("demo")
    assert recipe("demo").endswith("backfill status")


@pytest.mark.slow
@pytest.mark.e2e
def test_an_export_of_ones_own_in_five_steps(backfill: Backfill, tmp_path) -> None:
    """docs/new-source.md: the files that it shows, taken through the commands that it shows."""
    text = (CHECKOUT / "docs" / "new-source.md").read_text(encoding="utf-8")
    text = text.partition("\n## From an unknown export to a definition")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL)
    export, accounts = (content for language, content in blocks if not language)
    [definition] = (content for language, content in blocks if language == "yaml")
    folder = tmp_path / "export"
    folder.mkdir()
    for name, content in (
        ("transfers.csv", export),
        ("accounts.csv", accounts),
        ("mybank.yaml", definition),
    ):
        (folder / name).write_text(content, encoding="utf-8")
    environment = backfill.environment
    environment["PATH"] = f"{command_folder(tmp_path)}:{environment['PATH']}"
    found = differences(steps(text), environment, folder)
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("page", ["README.md", "docs/new-source.md"])
def test_the_definition_that_is_shown_loads(page: str, tmp_path) -> None:
    text = re.search(
        r"^```yaml\n(id: .*?)^```", (CHECKOUT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "mybank.yaml").write_text(text[1], encoding="utf-8")
    (tmp_path / "transfers.csv").touch()
    (tmp_path / "accounts.csv").touch()
    assert load_definition(tmp_path / "mybank.yaml").id == "mybank"
