"""An embedded PostgreSQL 18: started when the first process needs it, shared, stopped by the last one that leaves.

Belongs here: the life of a server below one `BACKFILL_HOME`.
Does not: its files (`server_files.py`), binaries and users (`host.py`), databases inside it and servers given by URL
(`endpoint.py`).

How processes share it: each holds a *shared* lock on `<home>/postgres.lock` as long as it uses the server. Whoever
leaves tries to turn it into an exclusive one without waiting; that succeeds for nobody but the last, who stops the
server while it holds the lock, so that newcomers wait. The kernel drops the locks of a killed process: nothing can go
stale. A server that a killed process left behind is found by the next user and joined. Start-up happens under a
second, exclusive lock, so that two processes cannot both start one.
"""

import atexit
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from backfill_pipeline.errors import EmbeddedServerError
from backfill_pipeline.local.host import binaries_dir, check_walkable, server_account
from backfill_pipeline.local.server_files import (
    POLL_S,
    PORT,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Postmaster,
    ServerFiles,
)
from backfill_pipeline.settings import make_walkable_dir

SUPERUSER = "ledger"
_LOCK_TIMEOUT_S = START_TIMEOUT_S + STOP_TIMEOUT_S

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


def server_url(socket_dir: Path, database: str) -> str:
    """A libpq URL of `database` on the server whose socket lies in `socket_dir`, for the database's superuser."""
    host = quote(str(socket_dir), safe="")
    return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port={PORT}"


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
        self._files = ServerFiles(home / "postgres")
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
        return server_url(self.socket_dir, database)

    @property
    def _keep_path(self) -> Path:
        return self.home / "postgres.keep"

    def keep_running(self, wanted: bool) -> None:
        """Whether the server goes on when its last user leaves, so that psql and other programs can use it."""
        if wanted:
            self._keep_path.touch()
        else:
            self._keep_path.unlink(missing_ok=True)

    def release(self, *, stop_kept: bool = False) -> None:
        """Leaves the server, and stops it when nobody else uses it. The second call does nothing.

        Args:
            stop_kept: stop it also when it was wanted to go on: for who found it stopped and leaves it as it was.
        """
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
            if stop_kept or not (home_is_ours and self._keep_path.exists()):
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

    def _start(self) -> Postmaster:
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
            timeout_s=START_TIMEOUT_S,
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
                STOP_TIMEOUT_S,
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
            time.sleep(POLL_S)
        else:
            return


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
