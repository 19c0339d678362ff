"""Processes of the UI that outlive `backfill up`: found by command and home, ended with all that they started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from backfill_pipeline.local.ui_processes import end_sessions, left_processes

# It ignores being asked, as a daemon that hangs, and has a child that nobody asks.
HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("ready", flush=True)
time.sleep(600)
"""
ENDS = "import time; print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for one in started:
        with suppress(psutil.Error):
            for child in psutil.Process(one.pid).children(recursive=True):
                child.kill()
        one.kill()
        one.communicate()


def start(started: list[subprocess.Popen[str]], home: Path, code: str, *words: str) -> int:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env={"DAGSTER_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process.pid


def test_only_the_uis_processes_of_this_home_are_found(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    ours = [
        start(processes, here, ENDS, "dagster_webserver"),
        start(processes, here, ENDS, "backfill_pipeline.cli.daemon"),
    ]
    start(processes, elsewhere, ENDS, "dagster_webserver")
    start(processes, here, ENDS, "backfill_pipeline.cli")
    assert [one.pid for one in left_processes(here)] == sorted(ours)


def test_one_that_hangs_is_killed_with_what_it_started(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    start(processes, tmp_path, HANGS, "backfill_pipeline.cli.daemon")
    start(processes, tmp_path, ENDS, "dagster_webserver")
    heads = left_processes(tmp_path)
    (child,) = heads[0].children()
    end_sessions([one.pid for one in heads], timeout_s=0.5, rest_timeout_s=0.5)
    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE
    assert left_processes(tmp_path) == []


def test_what_one_that_crashed_had_started_is_ended(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    leader = start(processes, tmp_path, HANGS, "backfill_pipeline.cli.daemon")
    (child,) = psutil.Process(leader).children()
    processes[0].kill()
    processes[0].wait()
    end_sessions([leader], rest_timeout_s=0.5)
    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE


def test_one_that_ended_meanwhile_is_no_error(tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    start(processes, tmp_path, ENDS, "dagster_webserver")
    heads = left_processes(tmp_path)
    processes[0].kill()
    processes[0].wait()
    end_sessions([one.pid for one in heads])
