"""Processes of the Dagster UI that outlive the `backfill up` that started them, as when that alone is killed.

Belongs here: finding them, by their command and the home in their environment, and ending them with all they started.
Does not: starting and stopping them in good order (`cli/up.py`), saying that they are there (`doctor/`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

END_TIMEOUT_S: Final = 20.0
"""For them to end when asked; then they are killed. Whatever a run committed stays, and it resumes after that."""

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


def end_processes(heads: list[psutil.Process], timeout_s: float = END_TIMEOUT_S) -> None:
    """Asks them to end, waits, and kills what is left of them and of what they started."""
    family = list(heads)
    for head in heads:
        with suppress(psutil.Error):
            family += head.children(recursive=True)
    for head in heads:
        with suppress(psutil.Error):
            head.terminate()
    for process in _still_running(family, timeout_s):
        with suppress(psutil.Error):
            process.kill()
    _still_running(family, timeout_s)


def _still_running(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that run after `timeout_s`, or none as soon as that is so.

    One that ended and is not reaped, as where a container has no init, is no longer running; `psutil.wait_procs` would
    wait for it.
    """
    deadline = time.monotonic() + timeout_s
    while (left := [one for one in processes if _runs(one)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
