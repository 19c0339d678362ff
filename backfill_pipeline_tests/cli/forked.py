"""Commands in processes of their own that need not import Dagster and pandas again.

Belongs here: one process per test session that has imported the libraries, and commands forked from it.
Does not: what is run and what is made of its end (`command.py`).

Importing libraries is half of what a command costs, and the tests start hundreds of them. A forked command has its own
arguments, environment, folder, standard files and process id, and ends as any interpreter does. Nothing of the product
is imported before it is forked: each command still imports every module of ours itself, in its own order.
"""

from __future__ import annotations

import array
import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_LIBRARIES = (
    "alembic.command", "cryptography.hazmat.primitives.asymmetric.ed25519", "dagster", "dagster_postgres.event_log",
    "dagster_postgres.run_storage", "dagster_postgres.schedule_storage", "httpx", "openpyxl", "pandas",
    "pandera.pandas", "pgpq", "psutil", "psycopg", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet",
    "pydantic_settings", "pymysql", "rich.live", "rich.progress", "rich.table", "sqlalchemy.dialects.postgresql",
    "stamina", "typer.rich_utils",
)  # fmt: skip
# The interpreter and libraries read these when they start: a command that is given others is no fork of this process.
_READ_AT_START = (
    "PYTHON",
    "LC_",
    "LANG",
    "LD_",
    "MALLOC_",
    "ARROW_",
    "OMP_",
    "OPENBLAS_",
    "FORCE_COLOR",
    "TERM",
)
_MESSAGE_BYTES_MAX = 1 << 20


def can_fork(environment: dict[str, str]) -> bool:
    """Whether a command with this environment is the same when it is forked from a process with ours."""
    ours = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return hasattr(os, "fork") and _read_at_start(environment) == _read_at_start(ours)


def _read_at_start(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def run_forked(
    module: str, arguments: list[str], *, environment: dict[str, str], folder: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments`, waited for as `subprocess.run(..., capture_output=True, text=True)` does.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout_s`; it was killed.
    """
    global _parent
    with _lock:
        if _parent is None:
            _parent = _Parent()
        parent = _parent
    readers, writers = zip(*(os.pipe() for _ in range(3)), strict=True)
    try:
        parent.ask(
            {"module": module, "arguments": arguments, "environment": environment, "folder": folder}, writers
        )
    finally:
        for writer in writers:
            os.close(writer)
    command = [sys.executable, "-m", module, *arguments]
    stdout, stderr, ended = _read_all(readers, command, timeout_s)
    _pid, code = ended.split()
    return subprocess.CompletedProcess(command, int(code), _text(stdout), _text(stderr))


def _text(printed: bytes) -> str:
    return printed.decode().replace("\r\n", "\n").replace("\r", "\n")


def _read_all(readers: tuple[int, ...], command: list[str], timeout_s: float) -> list[bytes]:
    """Everything from standard output, standard error, and the pipe with process id and exit code."""
    deadline = time.monotonic() + timeout_s
    read = {reader: b"" for reader in readers}
    with selectors.DefaultSelector() as selector:
        for reader in readers:
            selector.register(reader, selectors.EVENT_READ)
        try:
            while selector.get_map():
                for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                    if piece := os.read(key.fd, 1 << 16):
                        read[key.fd] += piece
                    else:
                        selector.unregister(key.fd)
                if selector.get_map() and time.monotonic() > deadline:
                    if (ended := read[readers[2]].split()) and len(ended) == 1:
                        os.kill(int(ended[0]), signal.SIGKILL)
                    raise subprocess.TimeoutExpired(command, timeout_s, read[readers[0]], read[readers[1]])
        finally:
            for reader in readers:
                os.close(reader)
    return [read[reader] for reader in readers]


class _Parent:
    """The process that commands are forked from; it ends when the socket to it is closed."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        atexit.register(self._close)

    def ask(self, request: dict[str, object], files: tuple[int, ...]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        with self._lock:
            self._socket.sendmsg([json.dumps(request).encode()], ancillary)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()


_parent: _Parent | None = None
_lock = threading.Lock()


def _serve(requests: socket.socket) -> None:
    """Forks a command for each request. Returns at the end of the tests; in a command, when that has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which close the socket
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is shared is not written to by every child's collector
    while True:
        message, files, _flags, _address = socket.recv_fds(requests, _MESSAGE_BYTES_MAX, 3)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            _run(json.loads(message), files)
            return
        for file in files:
            os.close(file)
        _reap()


def _reap() -> None:
    """Children that have ended: each is only the one who waited for a command."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _run(request: dict[str, object], files: list[int]) -> None:
    """Forks the command, and waits for it on behalf of who asked. Returns in the command, at its end, alone."""
    stdout, stderr, ended = files
    if pid := os.fork():
        os.close(stdout)
        os.close(stderr)
        os.write(ended, f"{pid} ".encode())
        _, status = os.waitpid(pid, 0)
        os.write(ended, str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for file in files:
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert not [name for name in sys.modules if name.partition(".")[0] == "backfill_pipeline"]
    gc.unfreeze()
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    sys.argv = ["", *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        _serve(asked)
