"""A forked command is the command: what a test sees of it is what a new interpreter would have shown."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import MODULE, Backfill, finish
from backfill_pipeline_tests.cli.forked import can_fork, run_forked


@pytest.mark.parametrize("arguments", [["sources", "list", "--json"], ["sources", "check", "none"]])
def test_it_says_and_ends_as_a_new_interpreter_does(tmp_path: Path, arguments: list[str]) -> None:
    backfill = Backfill(tmp_path / "home", "postgresql://nobody@127.0.0.1:9/ledger", tmp_path)
    assert can_fork(backfill.environment)
    with backfill.started(*arguments) as process:
        assert backfill(*arguments) == finish(process)


def test_what_an_interpreter_reads_when_it_starts_is_never_forked(tmp_path: Path) -> None:
    backfill = replace(Backfill(tmp_path, None), extra={"PYTHONUTF8": "0"})
    assert not can_fork(backfill.environment)


def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    environment = Backfill(tmp_path, None).environment
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked(MODULE, ["--help"], environment=environment, folder="/", timeout_s=0.0)
    assert run_forked(MODULE, ["--help"], environment=environment, folder="/", timeout_s=60).returncode == 0
