"""Processes of the Dagster UI that outlive the `backfill up` that started them, as when that alone is killed.

Belongs here: finding them, by their command and the home in their environment, and ending them with all they started.
Does not: starting and stopping them in good order (`cli/up.py`), saying that they are there (`doctor/`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

END_TIMEOUT_S: Final = 20.0
"""For the UI and the daemon to end when asked."""
REST_TIMEOUT_S: Final = 3.0
"""For what they started: without them, and once more when asked. What a run committed stays, and it resumes there."""

_POLL_S: Final = 0.1
_HEADS: Final = ("dagster_webserver", "backfill_pipeline.cli.daemon")


def left_processes(dagster_dir: Path) -> list[psutil.Process]:
    """The UI and daemon of this home, by process id. They are leftovers if no `backfill up` holds its lock.

    Args:
        dagster_dir: where `backfill up` of this home has DAGSTER_HOME; who starts Dagster by hand has it elsewhere.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended just now, or is somebody else's
            if any(head in process.cmdline() for head in _HEADS) and process.environ().get(
                "DAGSTER_HOME"
            ) == str(dagster_dir):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def end_sessions(
    leaders: Collection[int], timeout_s: float = END_TIMEOUT_S, rest_timeout_s: float = REST_TIMEOUT_S
) -> None:
    """Ends the UI and the daemon, and then their code servers and runs: asks, waits, and kills.

    A code server waits for its runs, and when the databases go meanwhile, for ever.

    Args:
        leaders: process ids of the UI and the daemon, which began a session each; also of one that ended already.
        timeout_s: for these to end.
        rest_timeout_s: for the others of their sessions, before they are asked and after that.
    """
    _ask(_running(leaders, leaders_only=True))
    _wait_until_none(leaders, timeout_s, leaders_only=True)
    _kill(_running(leaders, leaders_only=True))
    _wait_until_none(leaders, rest_timeout_s)
    _ask(_running(leaders))
    _wait_until_none(leaders, rest_timeout_s)
    _kill(_running(leaders))
    _wait_until_none(leaders, rest_timeout_s)


def _ask(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _wait_until_none(leaders: Collection[int], timeout_s: float, *, leaders_only: bool = False) -> None:
    deadline = time.monotonic() + timeout_s
    while _running(leaders, leaders_only=leaders_only) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _running(leaders: Collection[int], *, leaders_only: bool = False) -> list[psutil.Process]:
    """Processes of these sessions. One that ended and is not reaped, as where a container has no init, does not run."""
    found = []
    for pid in leaders if leaders_only else psutil.pids():
        with suppress(OSError, psutil.Error):  # it ended just now
            if (
                os.getsid(pid) in leaders
                and (process := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found
