"""Walk-throughs: the commands of a documentation page, run in one shell as a reader would, held against what is printed.

A page's `console` blocks are commands (`$ …`, continued by lines that begin with `> `) with the lines that they print.
`…` stands for anything; a line with nothing else for any number of lines.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backfill_pipeline_tests.cli.command import wait_until
from backfill_pipeline_tests.stages.world import CHECKOUT

# What differs from one machine and hour to the next.
VOLATILE = re.compile(r"^ *time |━|://127\.0\.0\.1")


@dataclass(frozen=True)
class Step:
    """A command and the lines that the page shows below it."""

    command: str
    expected: tuple[str, ...]


def steps(text: str) -> list[Step]:
    """The commands of a page, or of a part of it, in their order."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.startswith("> ") and not found[-1][1]:
                found[-1] = (f"{found[-1][0]}\n{line[2:]}", [])
            elif line.strip("… ") and not VOLATILE.search(line):
                found[-1][1].append(line)
    return [Step(command, tuple(expected)) for command, expected in found]


def missing(expected: tuple[str, ...], printed: str) -> list[str]:
    """Lines of the page that were not printed, in their order."""
    lines = iter([_plain(line) for line in printed.splitlines()])
    left = []
    for line in expected:
        pattern = re.escape(_plain(line)).replace("…", ".*")
        if not any(re.fullmatch(pattern, one) for one in lines):
            left.append(line)
    return left


def _plain(line: str) -> str:
    return re.sub(" +", " ", line).strip()


def command_folder(folder: Path) -> Path:
    """A folder for PATH that holds `backfill`, as of this checkout."""
    binaries = folder / "bin"
    binaries.mkdir()
    command = binaries / "backfill"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m backfill_pipeline.cli "$@"\n')
    command.chmod(0o755)
    return binaries


def working_folder(folder: Path) -> Path:
    """A folder like a checkout to somebody who only reads its data."""
    work = folder / "work"
    work.mkdir()
    for name in ("data", "scripts"):
        (work / name).symlink_to(CHECKOUT / name)
    return work


@contextmanager
def served(command: str, until: str, folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A command that serves, in a terminal of its own, once it has printed `until`; gives what it printed, as a file."""
    log = folder / "served.log"
    with log.open("w") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], env=environment, cwd=folder, stdout=out)
        try:
            wait_until(lambda: until in log.read_text() or process.poll() is not None)
            yield log
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0


def differences(
    wanted: list[Step], environment: dict[str, str], folder: Path, *, timeout_s: float = 280
) -> list[str]:
    """Runs the commands and says which of them printed something else; empty when all is as the page says.

    One shell runs all of them, as a reader's does: each sees the exit code and the variables of those before it.
    """
    marked = [
        f"code=$?; printf '\\n@@{number}\\n'; (exit $code)\n{step.command}"
        for number, step in enumerate(wanted)
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(marked)],
        env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout, done.stdout
    printed = re.split(r"^@@\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(printed) == len(wanted), done.stdout
    return [
        f"$ {step.command}\n{output}\nmissing: {left}"
        for step, output in zip(wanted, printed, strict=True)
        if (left := missing(step.expected, output))
    ]
