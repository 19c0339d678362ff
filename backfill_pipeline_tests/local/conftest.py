"""Homes for embedded servers, and a way to run Python as an ordinary user."""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A new directory that every user may walk through. pytest's own are closed, and root's server is another user."""
    directory = Path(tempfile.mkdtemp(prefix="lb-", dir="/var/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


class RunPython(Protocol):
    def __call__(self, code: str, *arguments: object) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def ordinary_user() -> pwd.struct_passwd:
    """Ourselves, or `nobody` when the tests run as root."""
    return pwd.getpwuid(os.geteuid()) if os.geteuid() != 0 else pwd.getpwnam("nobody")


@pytest.fixture
def user_home(scratch: Path, ordinary_user: pwd.struct_passwd) -> Path:
    home = scratch / "user"
    home.mkdir(mode=0o700)
    os.chown(home, ordinary_user.pw_uid, ordinary_user.pw_gid)
    return home


@pytest.fixture
def run_as_user(ordinary_user: pwd.struct_passwd, user_home: Path) -> RunPython:
    """Runs Python code as an ordinary user with a HOME of its own."""
    as_root = os.geteuid() == 0
    interpreter = _interpreter_for_everybody() if as_root else sys.executable
    environment = {
        "PATH": os.defpath,
        "HOME": str(user_home),
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), sysconfig.get_path("purelib")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [interpreter, "-c", code, *map(str, arguments)],
            cwd="/",
            env=environment,
            user=ordinary_user.pw_uid if as_root else None,
            group=ordinary_user.pw_gid if as_root else None,
            extra_groups=[] if as_root else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def _interpreter_for_everybody() -> str:
    """A Python of our version that `nobody` may run; root's own may lie below /root."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    nobody = pwd.getpwnam("nobody")
    places = [str(CHECKOUT), sysconfig.get_path("purelib")]
    readable = f"import sys; sys.path[:0] = {places!r}; import psycopg, pydantic, backfill_pipeline"
    for candidate in (os.path.realpath(sys.executable), f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        try:
            probe = subprocess.run(
                [candidate, "-c", readable],
                user=nobody.pw_uid,
                group=nobody.pw_gid,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if probe.returncode == 0:
            return candidate
    pytest.skip(f"no {name} that an ordinary user can run, with the packages of this one")
