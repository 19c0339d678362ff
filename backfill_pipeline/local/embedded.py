"""An embedded PostgreSQL 18: started when the first process needs it, shared, stopped by the last one that leaves.

Belongs here: the life of a server below one `BACKFILL_HOME`.
Does not: binaries and users (`host.py`), databases inside it and servers given by URL (`endpoint.py`).

How processes share it: each holds a *shared* lock on `<home>/postgres.lock` as long as it uses the server. Whoever
leaves tries to turn it into an exclusive one without waiting; that succeeds for nobody but the last, who stops the
server while it holds the lock, so that newcomers wait. The kernel drops the locks of a killed process: nothing can go
stale. A server that a killed process left behind is found by the next user and joined. Start-up happens under a
second, exclusive lock, so that two processes cannot both start one.
"""

import atexit
import contextlib
import fcntl
import hashlib
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from backfill_pipeline.errors import EmbeddedServerError
from backfill_pipeline.local.host import Account, binaries_dir, check_walkable, server_account
from backfill_pipeline.settings import make_walkable_dir

PORT = 5432  # only a part of the socket's name: every server has a socket directory of its own
SUPERUSER = "ledger"
_SOCKET_NAME = f".s.PGSQL.{PORT}"
_NEAR_PREFIX = "run-"
_FAR_PARENT = "/tmp"  # noqa: S108 - short, everywhere, and only entered by mkdtemp; TMPDIR may be as long as any path
_SOCKET_PATH_BYTES_MAX = (
    107  # sun_path of a Unix socket: 108 bytes with its NUL; macOS has less, see _socket_dir
)
_START_TIMEOUT_S = 300.0  # crash recovery replays up to max_wal_size
_STOP_TIMEOUT_S = 120.0
_FAST_SHUTDOWN = signal.SIGINT  # ends sessions, writes the checkpoint, is down in good order
_LOCK_TIMEOUT_S = _START_TIMEOUT_S + _STOP_TIMEOUT_S
_POLL_S = 0.005  # a server starts in 30 ms and stops in 20

_log = logging.getLogger(__name__)


def embedded_server(home: Path) -> "EmbeddedServer":
    """Starts the server of `home`, or joins the running one.

    Use the result as a context manager, or keep it: the interpreter's exit releases it too. Other threads and
    processes may hold it at the same time; two homes share nothing.

    Args:
        home: `BACKFILL_HOME`; created when missing. The server's files go to `home / "postgres"`.

    Raises:
        EmbeddedServerError: with the reason and the remedy in one sentence.
    """
    try:
        return EmbeddedServer(home.absolute())
    except OSError as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL of {home} cannot be prepared ({error.strerror} at {error.filename}): "
            "set BACKFILL_HOME to a directory that you may write to."
        ) from error


class EmbeddedServer:
    """A share in the running server of one home.

    Attributes:
        home: the directory that it belongs to.
        pid: process id of the server.
        socket_dir: directory of its Unix socket; the only way in, and only for the user who runs it, and root.
    """

    def __init__(self, home: Path) -> None:
        """Use `embedded_server()`."""
        self.home = home
        self._files = _ServerFiles(home / "postgres")
        self._lock_path = home / "postgres.lock"
        self._lock: int | None = _lock_file(self._lock_path, fcntl.LOCK_SH)
        self._owner_pid = os.getpid()
        try:
            start_lock = _lock_file(home / "postgres.start.lock", fcntl.LOCK_EX)
            try:
                self._account = server_account(self._files.root, self._files.data)
                running = self._files.find_running() or self._start()
            finally:
                os.close(start_lock)
            self.pid = running.pid
            self.socket_dir = running.socket_dir
            self._pidfd = os.pidfd_open(self.pid) if sys.platform == "linux" else None
        except BaseException:
            os.close(self._lock)
            raise
        atexit.register(self.release)

    def url(self, database: str) -> str:
        """A libpq URL of `database` on this server, for the database's superuser."""
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port={PORT}"

    @property
    def _keep_path(self) -> Path:
        return self.home / "postgres.keep"

    def keep_running(self, wanted: bool) -> None:
        """Whether the server goes on when its last user leaves, so that psql and other programs can use it."""
        if wanted:
            self._keep_path.touch()
        else:
            self._keep_path.unlink(missing_ok=True)

    def release(self) -> None:
        """Leaves the server, and stops it when nobody else uses it. The second call does nothing."""
        if self._lock is None or os.getpid() != self._owner_pid:  # a forked child does not own the share
            return
        lock, self._lock = self._lock, None
        atexit.unregister(self.release)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # others use it
        else:
            home_is_ours = _is_same_file(lock, self._lock_path)
            if not (home_is_ours and self._keep_path.exists()):
                self._stop(home_is_ours=home_is_ours)
        finally:
            os.close(lock)
            if self._pidfd is not None:
                os.close(self._pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.release()

    def _start(self) -> "_Postmaster":
        files, account = self._files, self._account
        make_walkable_dir(files.root)
        check_walkable(account, files.root)
        if not files.data.is_dir():
            self._initialise()
        files.remove_leftovers(account)
        socket_dir = files.make_socket_dir(account)
        files.write_config(socket_dir)
        if not files.log.is_dir():
            account.make_private_dir(files.log)
        started = account.start(
            [binaries_dir(as_other_user=account.switch) / "postgres"],
            cwd=files.root,
            env={"PGDATA": str(files.data)},
            log=files.log / "start.log",
        )
        # Reaps it when it ends before we do: a zombie would look like a running server to who cannot look closer.
        threading.Thread(target=started.wait, name="embedded server", daemon=True).start()
        running = files.wait_until_ready(started)
        if running is None:
            reason = files.last_log_line() or "it ended"
            raise EmbeddedServerError(
                f"The embedded PostgreSQL of {self.home} did not start ({reason}): see {files.log}."
            )
        return running

    def _initialise(self) -> None:
        """Creates the data directory under another name and renames it: a killed try leaves nothing half made."""
        partial = self._files.root / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._account.make_private_dir(partial)
        failure = self._run(
            "initdb",
            f"--username={SUPERUSER}",
            "--auth-local=trust",  # the socket's directory lets nobody in but the server's user and root
            "--auth-host=reject",
            "--encoding=UTF8",
            # Sorts by code point with Unicode's rules for letters, built in: indexes stay valid when the operating
            # system's collations change, and text indexes compare bytes.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
            pgdata=partial,
            timeout_s=_START_TIMEOUT_S,
        )
        if failure:
            raise EmbeddedServerError(
                f"The embedded PostgreSQL of {self.home} cannot be initialised ({failure}): make room or give "
                "permission there, or set BACKFILL_HOME to another directory."
            )
        # Our settings lie outside the data directory: a file in there belongs to the server's user, and root does
        # not write where another user could have put a link.
        with (partial / "postgresql.conf").open("a", encoding="utf-8") as config:
            config.write(f"\ninclude = '../{self._files.config.name}'\n")
        partial.rename(self._files.data)

    def _stop(self, *, home_is_ours: bool) -> None:
        if not home_is_ours:
            # The home was deleted (and perhaps made again by others). The server would notice within a minute.
            if self._pidfd is not None and sys.platform == "linux":
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGQUIT)
            return
        if not self._files.stop():
            _log.warning(
                "The embedded PostgreSQL of %s did not stop within %.0f s and goes on running.",
                self.home,
                _STOP_TIMEOUT_S,
            )
            return
        self._files.remove_socket_dir(self.socket_dir)

    def _run(self, program: str, *arguments: str, timeout_s: float, pgdata: Path) -> str:
        """Runs a program of PostgreSQL; returns "" or the last line of its complaint."""
        result = self._account.run(
            [binaries_dir(as_other_user=self._account.switch) / program, *arguments],
            cwd=self._files.root,
            env={"PGDATA": str(pgdata)},
            timeout_s=timeout_s,
        )
        if result.returncode == 0:
            return ""
        lines = (result.stderr or result.stdout).strip().splitlines()
        return next(
            (line.strip() for line in lines if "error" in line.lower() or "fatal" in line.lower()), ""
        ) or (lines[-1].strip() if lines else f"exit code {result.returncode}")


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What `postmaster.pid` says about a server that is ready."""

    pid: int
    socket_dir: Path


class _ServerFiles:
    """The directories of one server: `data`, `log` and `run-…` are the server user's, what is around them is ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.log = root / "log"
        self.config = root / "server.conf"
        self._pid_file = self.data / "postmaster.pid"

    def find_running(self) -> _Postmaster | None:
        """The running server, waited for while it is starting or stopping; None when there is none."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            lines = self._read_pid_file()
            if len(lines) < 1 or not lines[0].isdigit() or not self._is_alive(int(lines[0])):
                return None
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return self._ready(int(lines[0]), Path(lines[4]))
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"The embedded PostgreSQL below {self.root} (process {lines[0]}) is neither ready nor stopped "
                    f"after {_START_TIMEOUT_S:.0f} s: see {self.log}."
                )
            time.sleep(_POLL_S)

    def wait_until_ready(self, started: subprocess.Popen[bytes]) -> _Postmaster | None:
        """The server that was just started, once it takes connections; None when it ended instead."""
        while started.poll() is None:
            lines = self._read_pid_file()
            if lines[:1] == [str(started.pid)]:
                return self.find_running()
            time.sleep(_POLL_S)
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
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        os.kill(pid, _FAST_SHUTDOWN)
        while self._is_alive(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
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
            return bool(ended.poll(_STOP_TIMEOUT_S * 1000))
        finally:
            os.close(descriptor)

    def _ready(self, pid: int, socket_dir: Path) -> _Postmaster:
        if not (socket_dir / _SOCKET_NAME).exists():
            raise EmbeddedServerError(
                f"The embedded PostgreSQL below {self.root} (process {pid}) runs, but its socket in {socket_dir} was "
                f"removed: end process {pid}, then try again."
            )
        if socket_dir.parent != self.root:
            return _Postmaster(pid, socket_dir)
        return _Postmaster(pid, self._link_to(socket_dir))

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
        socket_dir = socket_dir.resolve()  # it may be our link
        if socket_dir.name.startswith((_NEAR_PREFIX, self._far_prefix())):
            shutil.rmtree(socket_dir, ignore_errors=True)

    def _far_prefix(self) -> str:
        return f"ledger-backfill-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]}-"

    def write_config(self, socket_dir: Path) -> None:
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


def _lock_file(path: Path, operation: int) -> int:
    """Locks `path`, creating it and its directory when missing, and returns the descriptor that holds the lock.

    Closing the descriptor, or dying, gives the lock back. When the home is deleted while we wait, the lock that we
    get is on a file that nobody else will find, so we start over.
    """
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        make_walkable_dir(path.parent)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # the home was deleted just now
            continue
        try:
            _wait_for_lock(descriptor, operation, path, deadline)
        except BaseException:
            os.close(descriptor)
            raise
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)


def _wait_for_lock(descriptor: int, operation: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"Another process has been starting or stopping the embedded PostgreSQL of {path.parent} for more "
                    f"than {_LOCK_TIMEOUT_S:.0f} s: find it with `fuser {path}`, and end it."
                ) from None
            time.sleep(_POLL_S)
        else:
            return


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
