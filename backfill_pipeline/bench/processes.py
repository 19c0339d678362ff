"""The `backfill` command in processes of its own, measured from start to end.

Belongs here: homes that exist for one contender, running the command in them, killing it on purpose, cleaning up.
Does not: which commands are measured (`commands.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from backfill_pipeline.bench.figures import Figures, insist
from backfill_pipeline.bench.memory import MemoryWatch
from backfill_pipeline.local.embedded import SUPERUSER, embedded_server
from backfill_pipeline.local.endpoint import EMBEDDED_LEDGER_DATABASE
from backfill_pipeline.local.server_files import PORT
from backfill_pipeline.settings import make_walkable_dir

_POLL_S = 0.05
_OURS = ("BACKFILL", "LEDGER", "DAGSTER")
_ERROR_LINES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended. `code` is negative when a signal ended it."""

    arguments: tuple[str, ...]
    code: int
    seconds: float
    stdout: str
    stderr: str
    memory: Figures

    def result(self, contender: str) -> Mapping[str, object]:
        """What `--json` printed.

        Raises:
            BrokenContenderError: the command failed, or ended with anything but "clean".
        """
        told = " / ".join(self.stderr.strip().splitlines()[-_ERROR_LINES_SHOWN:])
        command = f"backfill {' '.join(self.arguments)}"
        insist(self.code == 0, contender, f"{command} ended with {self.code}: {told or self.stdout.strip()}")
        printed = json.loads(self.stdout)
        assert isinstance(printed, dict)
        return printed


@dataclass(frozen=True, slots=True)
class Home:
    """A BACKFILL_HOME of its own, with the embedded server that the commands start there."""

    path: Path

    @property
    def _pid_file(self) -> Path:
        return self.path / "postgres" / "data" / "postmaster.pid"

    def ledger_url(self) -> str | None:
        """Where the ledger is while its server runs. Looking does not join the server, which would keep it running."""
        try:
            lines = self._pid_file.read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        return f"postgresql://{SUPERUSER}@/{EMBEDDED_LEDGER_DATABASE}?host={quote(lines[4], safe='')}&port={PORT}"

    def backfill(self, *arguments: str, kill_when: Callable[[], bool] | None = None) -> Finished:
        """Runs the command as a user does, from the interpreter's start to its end.

        Args:
            arguments: of the command.
            kill_when: asked every 50 ms; when it says so, the command's process group is killed (SIGKILL).
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        memory = MemoryWatch(self._pid_file)
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "backfill_pipeline.cli", *arguments],
            env={**inherited, "BACKFILL_HOME": str(self.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, memory, kill_when, ended), daemon=True)
        watcher.start()
        try:
            stdout, stderr = process.communicate()
            seconds = time.monotonic() - started
        finally:
            ended.set()
            watcher.join()
            if process.poll() is None:  # this benchmark was interrupted
                _kill(process.pid)
                process.wait()
        return Finished(arguments, process.returncode, seconds, stdout, stderr, memory.figures())

    def stop_server(self) -> None:
        """Stops a server that a killed command left."""
        if self._pid_file.exists():
            with embedded_server(self.path):
                pass  # the last one who leaves stops it


@contextmanager
def fresh_home(path: Path) -> Iterator[Home]:
    """A new, empty home; afterwards its server is stopped and everything is removed."""
    shutil.rmtree(path, ignore_errors=True)
    make_walkable_dir(path)
    home = Home(path)
    try:
        yield home
    finally:
        home.stop_server()
        shutil.rmtree(path, ignore_errors=True)


def _watch(
    pid: int, memory: MemoryWatch, kill_when: Callable[[], bool] | None, ended: threading.Event
) -> None:
    while not ended.wait(_POLL_S):
        memory.sample(pid)
        if kill_when is not None and kill_when():
            _kill(pid)
            return


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
