"""docs/dual-ledger.md: its month in one command does what is printed there, and its tables name what there is."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.scb import NightlySync, ScbSection
from backfill_pipeline_tests.cli.command import Backfill, wait_until
from backfill_pipeline_tests.stages.world import CHECKOUT

DOCS = CHECKOUT / "docs"
PAGE = (DOCS / "dual-ledger.md").read_text(encoding="utf-8")
KEYS = (DOCS / "source-definition.md").read_text(encoding="utf-8")
WALK = PAGE[PAGE.index("## A month in one command") : PAGE.index("## A day")]
# What differs from one machine and hour to the next.
VOLATILE = re.compile(r"^ *time |━|://127\.0\.0\.1")


def commands() -> list[tuple[str, list[str]]]:
    """Each command of the walk-through with the lines that are printed below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", WALK, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip("… ") and not VOLATILE.search(line):
                found[-1][1].append(line)
    return found


def missing(expected: list[str], printed: str) -> list[str]:
    """Lines of the page that were not printed, in their order; … stands for anything."""
    lines = iter([re.sub(" +", " ", line).strip() for line in printed.splitlines()])
    left = []
    for line in expected:
        pattern = re.escape(re.sub(" +", " ", line).strip()).replace("…", ".*")
        if not any(re.fullmatch(pattern, one) for one in lines):
            left.append(line)
    return left


@contextmanager
def served(command: str, folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """The first command, in a terminal of its own, once it says where its definitions are."""
    log = folder / "bank.log"
    with log.open("w") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], env=environment, cwd=folder, stdout=out)
        try:
            wait_until(lambda: "scb_03.yaml" in log.read_text() or process.poll() is not None)
            yield log
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.skipif(
    not (shutil.which("psql") and shutil.which("curl")), reason="the page uses psql and curl: install them"
)
def test_the_walk_through_prints_what_the_page_says(backfill: Backfill, tmp_path: Path) -> None:
    binaries, folder = tmp_path / "bin", tmp_path / "work"
    binaries.mkdir()
    folder.mkdir()
    command = binaries / "backfill"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m backfill_pipeline.cli "$@"\n')
    command.chmod(0o755)
    environment = backfill.environment
    environment["PATH"] = f"{binaries}:{environment['PATH']}"
    (simulator, shown), *rest = commands()
    assert "scb-simulator" in simulator
    with served(simulator, folder, environment) as log:
        assert missing(shown, log.read_text()) == []
        # One shell for all of them, as a reader has: each command sees the exit code of the one before.
        marked = [
            f"code=$?; printf '\\n@@{number}\\n'; (exit $code)\n{text}"
            for number, (text, _) in enumerate(rest)
        ]
        done = subprocess.run(
            ["bash", "-c", "\n".join(marked)],
            env=environment, cwd=folder, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        printed = re.split(r"^@@\d+\n", done.stdout, flags=re.MULTILINE)[1:]
        assert len(printed) == len(rest), done.stderr
        for (text, expected), output in zip(rest, printed, strict=True):
            assert missing(expected, output) == [], f"$ {text}\n{output}\n{done.stderr}"


def test_the_walk_through_is_about_every_step() -> None:
    text = " ".join(one for one, _ in commands())
    for part in ("scb-simulator", "sources check", "sync run", "outbox dispatch", "sync reconcile"):
        assert f"backfill {part}" in text
    assert len(commands()) >= 10


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
