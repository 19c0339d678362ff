"""Every command that a page of the documentation shows is one that the command line takes, down to its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from backfill_pipeline.cli.app import app
from backfill_pipeline_tests.stages.world import CHECKOUT

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
SHOWN = re.compile(r"(?:^|[\s(])backfill ([^|;&)#>`]*)")


def shown(page: Path) -> list[list[str]]:
    """The arguments of each command in a block of a page, quoted as in a shell."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line[2:]
        for block in re.findall(r"```(?:console|bash|sh)\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    return [shlex.split(arguments) for line in lines for arguments in SHOWN.findall(line)]


def problem(arguments: list[str]) -> str | None:
    """What the command line says against these arguments; nothing is run."""
    command, rest = typer.main.get_command(app), list(arguments)
    while isinstance(command, typer.core.TyperGroup):
        if not rest or rest[0] not in command.commands:
            rest = [*filter(None, [getattr(command, "default_command", None)]), *rest]
        if not rest or rest[0] not in command.commands:
            return f"no such command: {' '.join(arguments)}"
        command = command.commands[rest.pop(0)]
    try:
        command.make_context(command.name, rest)
    except typer.Exit:  # --help
        return None
    except Exception as error:  # whatever the parser raises, the page is wrong there
        return f"{' '.join(arguments)}: {error}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_commands_are_taken(page: Path) -> None:
    assert [found for arguments in shown(page) if (found := problem(arguments))] == []


def test_commands_that_are_not_there_are_found() -> None:
    assert problem(["run", "sample", "--no-such-option"]) is not None
    assert problem(["no-such-command"]) is not None
    assert problem(["rejects", "list"]) is not None
    assert problem(["rejects", "list", "sample", "--limit", "3"]) is None
    assert sum(len(shown(page)) for page in PAGES) > 40
