"""The files of an embedded server's directory, and what they say about the server.

Belongs here: where data, log and socket are; finding, awaiting and ending the server that the data directory names.
Does not: who may start or stop it and when (`embedded.py`), binaries and users (`host.py`).
"""

import hashlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path

from backfill_pipeline.errors import EmbeddedServerError
from backfill_pipeline.local.host import Account

PORT = 5432  # only a part of the socket's name: every server has a socket directory of its own
_SOCKET_NAME = f".s.PGSQL.{PORT}"
_NEAR_PREFIX = "run-"
_FAR_PARENT = "/tmp"  # noqa: S108 - short, everywhere, and only entered by mkdtemp; TMPDIR may be as long as any path
_SOCKET_PATH_BYTES_MAX = (
    107  # sun_path of a Unix socket: 108 bytes with its NUL; macOS has less, see make_socket_dir
)
START_TIMEOUT_S = 300.0  # crash recovery replays up to max_wal_size
STOP_TIMEOUT_S = 120.0
_FAST_SHUTDOWN = signal.SIGINT  # ends sessions, writes the checkpoint, is down in good order
POLL_S = 0.005  # a server starts in 30 ms and stops in 20


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What `postmaster.pid` says about a server that is ready."""

    pid: int
    socket_dir: Path


class ServerState(StrEnum):
    """What the files say of a server at one moment."""

    NEVER_MADE = "never made"
    STOPPED = "stopped"
    KILLED = "killed"  # its next start recovers it from its log
    CHANGING = "starting or stopping"
    RUNNING = "running"


class ServerFiles:
    """The directories of one server: `data`, `log` and `run-…` are the server user's, what is around them is ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.log = root / "log"
        self.config = root / "server.conf"
        self._pid_file = self.data / "postmaster.pid"

    def find_running(self) -> Postmaster | None:
        """The running server, waited for while it is starting or stopping; None when there is none."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            lines = self._read_pid_file()
            if len(lines) < 1 or not lines[0].isdigit() or not self._is_alive(int(lines[0])):
                return None
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return self._ready(int(lines[0]), Path(lines[4]))
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"The embedded PostgreSQL below {self.root} (process {lines[0]}) is neither ready nor stopped "
                    f"after {START_TIMEOUT_S:.0f} s: see {self.log}."
                )
            time.sleep(POLL_S)

    def glance(self) -> tuple[ServerState, Postmaster | None]:
        """How the server stands at this moment, and the server if it runs; waits for nothing and changes nothing.

        Raises:
            OSError: the data directory belongs to somebody else, and cannot be looked into.
        """
        if not self.data.exists():
            return ServerState.NEVER_MADE, None
        os.scandir(self.data).close()  # a directory that is closed to us looks like one without files
        lines = self._read_pid_file()
        if not lines or not lines[0].isdigit():
            return ServerState.STOPPED, None
        if not self._is_alive(int(lines[0])):
            return ServerState.KILLED, None
        if len(lines) >= 8 and lines[7].strip() == "ready":
            return ServerState.RUNNING, Postmaster(int(lines[0]), Path(lines[4]))
        return ServerState.CHANGING, None

    def wait_until_ready(self, started: subprocess.Popen[bytes]) -> Postmaster | None:
        """The server that was just started, once it takes connections; None when it ended instead."""
        while started.poll() is None:
            lines = self._read_pid_file()
            if lines[:1] == [str(started.pid)]:
                return self.find_running()
            time.sleep(POLL_S)
        return None

    def stop(self) -> bool:
        """Ends sessions and server in good order, and waits until it is gone; False when it takes too long."""
        lines = self._read_pid_file()
        if not lines or not lines[0].isdigit():
            return True
        try:
            if sys.platform == "linux":
                return self._stop_by_descriptor(int(lines[0]))
            else:
                return self._stop_by_number(int(lines[0]))
        except ProcessLookupError:  # it is gone
            return True

    def _stop_by_number(self, pid: int) -> bool:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        os.kill(pid, _FAST_SHUTDOWN)
        while self._is_alive(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _stop_by_descriptor(self, pid: int) -> bool:
        assert sys.platform == "linux"
        descriptor = os.pidfd_open(pid)
        try:
            if not self._is_alive(pid):  # asked after opening: from here on nobody else can have this number
                return True
            signal.pidfd_send_signal(descriptor, _FAST_SHUTDOWN)
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            return bool(ended.poll(STOP_TIMEOUT_S * 1000))
        finally:
            os.close(descriptor)

    def _ready(self, pid: int, socket_dir: Path) -> Postmaster:
        if not (socket_dir / _SOCKET_NAME).exists():
            raise EmbeddedServerError(
                f"The embedded PostgreSQL below {self.root} (process {pid}) runs, but its socket in {socket_dir} was "
                f"removed: end process {pid}, then try again."
            )
        if socket_dir.parent != self.root:
            return Postmaster(pid, socket_dir)
        return Postmaster(pid, self._link_to(socket_dir))

    def _link_to(self, socket_dir: Path) -> Path:
        """A link with a fixed name: addresses that were handed out stay valid when the server is started again."""
        link = self.root / "run"
        if not link.is_symlink() or link.readlink() != Path(socket_dir.name):
            partial = self.root / "run.partial"
            partial.unlink(missing_ok=True)
            partial.symlink_to(socket_dir.name)
            partial.replace(link)
        return link

    def _read_pid_file(self) -> list[str]:
        try:
            return self._pid_file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_alive(self, pid: int) -> bool:
        """Whether `pid` is the server of this data directory, and not a later process with the same number."""
        if not Path("/proc/self/cwd").exists():  # not Linux: its number has to do
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
            return True
        try:
            return os.path.samefile(
                f"/proc/{pid}/cwd", self.data
            )  # a postmaster works inside its data directory
        except OSError:
            return False

    def remove_leftovers(self, account: Account) -> None:
        """Removes what a killed server left. Only called when none runs, under the start lock."""
        self._pid_file.unlink(missing_ok=True)
        far = Path(_FAR_PARENT).glob(f"{self._far_prefix()}*")
        for directory in (*self.root.glob(f"{_NEAR_PREFIX}*"), *far):
            status = directory.lstat()
            # Anybody can make a directory of that name below /tmp; only the server's own is removed.
            if status.st_uid == account.uid and directory.is_dir() and not directory.is_symlink():
                shutil.rmtree(directory, ignore_errors=True)

    def make_socket_dir(self, account: Account) -> Path:
        """A directory with mode 0700 for the socket: near the data, or below /tmp when that path cannot be one.

        A socket's path is short by law of the kernel, and both PostgreSQL and libpq read commas, quotes and spaces in
        it as syntax. It is a new one at every start: the server of a deleted home removes its socket by name when it
        ends, and that must not be the name of its successor's.
        """
        near = str(self.root / f"{_NEAR_PREFIX}12345678" / _SOCKET_NAME)
        plain = all(character.isalnum() or character in "/._-" for character in near) and near.isascii()
        # macOS allows 103 bytes; using its limit there only moves a few sockets to /tmp.
        if plain and len(near) <= _SOCKET_PATH_BYTES_MAX - (0 if sys.platform == "linux" else 4):
            made = tempfile.mkdtemp(prefix=_NEAR_PREFIX, dir=self.root)  # mkdtemp: mode 0700
        else:
            made = tempfile.mkdtemp(prefix=self._far_prefix(), dir=_FAR_PARENT)
        if account.switch:
            os.chown(made, account.uid, account.gid)
        return Path(made)

    def remove_socket_dir(self, socket_dir: Path) -> None:
        """Removes a socket directory of a server that ended, unless it is none that we made."""
        socket_dir = socket_dir.resolve()  # it may be our link
        if socket_dir.name.startswith((_NEAR_PREFIX, self._far_prefix())):
            shutil.rmtree(socket_dir, ignore_errors=True)

    def _far_prefix(self) -> str:
        return f"ledger-backfill-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]}-"

    def write_config(self, socket_dir: Path) -> None:
        """Writes the settings that the product ships, with where the socket is; the data directory includes them."""
        shipped = resources.files(__package__).joinpath("postgresql.conf").read_text(encoding="utf-8")
        partial = self.config.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.write_text(f"{shipped}\nunix_socket_directories = '{socket_dir}'\n", encoding="utf-8")
        partial.chmod(0o644)  # holds no secret, and the server's user has to read it
        partial.replace(self.config)

    def last_log_line(self) -> str:
        """The newest FATAL line of the newest log, or its last line, for an error message."""
        try:
            newest = max(self.log.glob("*.log"), key=lambda log: log.stat().st_mtime_ns)
            lines = newest.read_text(encoding="utf-8", errors="replace").splitlines()[-50:]
        except (OSError, ValueError):
            return ""
        telling = [line for line in lines if "FATAL" in line or "PANIC" in line] or lines
        return telling[-1].strip() if telling else ""
