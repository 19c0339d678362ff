"""`backfill up`: the Dagster UI and daemon on this home's ledger.

Belongs here: starting, watching and stopping the two processes.
Does not: what they run (`workspace.yaml`, `dagster.yaml`).
"""

from __future__ import annotations

import fcntl
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, remarks
from backfill_pipeline.cli.session import Session, open_session, set_dagster_environment
from backfill_pipeline.errors import TerminalError, UsageError
from backfill_pipeline.local.ui_processes import end_sessions, left_processes
from backfill_pipeline.settings import checkout_dir

_READY_TIMEOUT_S = 120
_POLL_S = 0.2


def start_ui(host: str, port: int | None) -> ExitCode:
    """Runs until Ctrl-C, SIGTERM, or the end of one of the two processes (exit code 1)."""
    with open_session() as session, _only_one(session):
        set_dagster_environment(session)
        _end_left_processes(session)
        # Nothing of Dagster runs on this home now, so whatever looks as if it did is a leftover of a crash.
        for run_id in _sweep():
            remarks.print(f"run {run_id[:8]} was left over by a crash and is marked as failed")
        port = _free_port(host) if port is None else port
        with _interruptible():
            return _serve(host, port, session)


def _end_left_processes(session: Session) -> None:
    """Ends the UI and daemon of an `up` that was killed: two daemons would both launch what is queued."""
    left = left_processes(session.settings.dagster_dir)
    if left:
        numbers = ", ".join(str(process.pid) for process in left)
        remarks.print(
            f"an earlier backfill up was killed, and what it started still ran ({numbers}): ending it"
        )
        end_sessions([process.pid for process in left])


def _sweep() -> list[str]:
    """Marks runs as failed that a crash left over, and frees their slots; returns their ids."""
    done = subprocess.run(
        [sys.executable, "-m", "backfill_pipeline.cli.sweep"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        why = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        raise TerminalError(f"Dagster's runs cannot be looked through ({why[0]}): see that its database runs")
    return done.stdout.split()


def _serve(host: str, port: int, session: Session) -> ExitCode:
    workspace = (checkout_dir() or Path.cwd()) / "workspace.yaml"
    if not workspace.is_file():
        raise UsageError(f"{workspace} is missing: run this from a checkout of the product")
    logs = session.settings.dagster_dir
    commands = {
        "webserver": [
            sys.executable,
            "-m",
            "dagster_webserver",
            "-w",
            str(workspace),
            "-h",
            host,
            "-p",
            str(port),
        ],
        "daemon": [sys.executable, "-m", "backfill_pipeline.cli.daemon", "run", "-w", str(workspace)],
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("ab") as log:
                processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        url = f"http://{host}:{port}"
        _wait_until_ready(url, processes, logs)
        console.print(f"Dagster UI  {url}", soft_wrap=True)
        console.print(f"ledger      {session.endpoint.description}", soft_wrap=True)
        console.print(f"logs        {logs}/webserver.log, daemon.log   (Ctrl-C stops)", soft_wrap=True)
        while True:
            _raise_if_ended(processes, logs)
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        remarks.print("stopping")
        return ExitCode.CLEAN
    finally:
        _stop(processes)


def _wait_until_ready(url: str, processes: dict[str, subprocess.Popen[bytes]], logs: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        _raise_if_ended(processes, logs)
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=2):  # noqa: S310 - our own loopback URL
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    raise TerminalError(
        f"the Dagster UI did not answer within {_READY_TIMEOUT_S} s: see {logs}/webserver.log"
    )


def _raise_if_ended(processes: dict[str, subprocess.Popen[bytes]], logs: Path) -> None:
    for name, process in processes.items():
        if (code := process.poll()) is not None:
            raise TerminalError(f"Dagster's {name} ended with code {code}: see {logs}/{name}.log")


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Ends both, with the code servers and runs that they started."""
    end_sessions([process.pid for process in processes.values()])
    for process in processes.values():
        process.wait()


@contextmanager
def _only_one(session: Session) -> Iterator[None]:
    """One UI per home: two daemons would both launch what is queued."""
    with (session.settings.dagster_dir / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"backfill up is running on {session.settings.home} already: use that one, or stop it first"
            ) from None
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: both processes are stopped, nothing is left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
