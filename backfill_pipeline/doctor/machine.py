"""Checks of the machine: versions, directories, room, memory.

Belongs here: what can be seen without any server.
Does not: variables and files that people write (`environment.py`), servers (`server.py`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import psycopg
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from backfill_pipeline.doctor.finding import Finding, not_looked, ok, problem, warning
from backfill_pipeline.settings import Settings, checkout_dir
from backfill_pipeline.wording import counted

DISTRIBUTION: Final = "backfill-pipeline"
GIB: Final = 1 << 30
FREE_BYTES_MIN: Final = GIB
"""Less than this is free: the next run may stop in the middle."""
ROOM_FACTOR: Final = 6
"""Bytes that the ledger, its log and the intermediates take for one byte of a source."""
AVAILABLE_BYTES_MIN: Final = GIB + (512 << 20)
"""A run stays below 1 GiB beside the 512 MiB of the embedded server."""
SHARED_BYTES_MIN: Final = 128 << 20

_INSTALL: Final = "make"
_PIN: Final = re.compile(
    r"(?P<name>[a-z0-9-]+)(?:\[[^\]]*\])?==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+))?"
)
_NAMED_MAX: Final = 4
_MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_PRIVATE: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class _Product:
    version: str
    python: str
    needs: tuple[Requirement, ...]


def _product() -> _Product:
    """What the product says of itself: the checkout that runs, or else the installed package."""
    root = checkout_dir()
    if root is not None:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return _Product(
            project["version"], project["requires-python"], tuple(map(Requirement, project["dependencies"]))
        )
    needs = map(Requirement, importlib.metadata.requires(DISTRIBUTION) or ())
    return _Product(
        importlib.metadata.version(DISTRIBUTION),
        importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"] or "",
        tuple(one for one in needs if one.marker is None or one.marker.evaluate({"extra": ""})),
    )


def check_python() -> Finding:
    """The interpreter against what the product asks for."""
    wanted = _product().python
    told = f"Python {platform.python_version()}"
    if not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        return problem(
            "python", f"{told} is not what the product asks for ({wanted})", "make PYTHON=python3.11"
        )
    return ok("python", f"{told} ({wanted} is asked for)")


def check_packages(lock: Path | None = None) -> Finding:
    """The product's version, and packages against requirements.lock and the product's own lower bounds."""
    product = _product()
    told = f"ledger backfill {product.version}"
    installed = {
        one.name.lower().replace("_", "-").replace(".", "-"): one.version
        for one in importlib.metadata.distributions()
    }
    unmet = sorted(str(one) for one in product.needs if not _is_met(one, installed))
    if unmet:
        return problem("packages", f"{told} needs {_some(unmet)}, which is not installed", _INSTALL)
    root = checkout_dir()
    lock = lock or (root / "requirements.lock" if root is not None else None)
    if lock is None:
        return ok(
            "packages", f"{told}, installed without a checkout: there is no requirements.lock to compare with"
        )
    pins = dict(_pins(lock))
    differ = sorted(
        f"{name} {installed.get(name, 'is missing')} (locked: {version})"
        for name, version in pins.items()
        if installed.get(name) != version
    )
    if differ:
        return warning(
            "packages",
            f"{told} was tried with the versions of {lock.name}, and {counted(len(differ), 'package')}"
            f" {'differs' if len(differ) == 1 else 'differ'}: {_some(differ)}",
            _INSTALL,
        )
    return ok("packages", f"{told}, {len(pins):,} packages as in {lock.name}")


def _is_met(wanted: Requirement, installed: dict[str, str]) -> bool:
    version = installed.get(wanted.name.lower().replace("_", "-"))
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def _pins(lock: Path) -> Iterator[tuple[str, str]]:
    for line in lock.read_text(encoding="utf-8").splitlines():
        match = _PIN.match(line)
        if match is None:
            continue
        marker = match["marker"]
        if marker is None or Marker(marker.strip()).evaluate({"extra": ""}):
            yield match["name"], match["version"]


def check_client() -> Finding:
    """The PostgreSQL client that the ledger is spoken to through."""
    number = psycopg.pq.version()
    told = f"libpq {number // 10000}.{number % 10000}, psycopg {psycopg.__version__} ({psycopg.pq.__impl__})"
    if psycopg.pq.__impl__ == "python":
        return warning("client", f"{told}: rows are read in Python, which takes many times as long", _INSTALL)
    return ok("client", told)


def check_home(settings: Settings) -> Finding:
    """The home: there or to be made, ours, writable, and closed to others where it holds data."""
    home = settings.home
    there = _nearest(home)
    if not there.is_dir():
        return problem(
            "home",
            f"BACKFILL_HOME {home} cannot be made, because {there} is not a directory",
            "export BACKFILL_HOME=/var/tmp/ledger-backfill",
        )
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        return problem(
            "home",
            f"BACKFILL_HOME {home} cannot be written: {there} is read-only for this user",
            f"ls -ld {_quoted(there)}; id; mount | grep -w ro"
            "  # or export BACKFILL_HOME=/var/tmp/ledger-backfill",
        )
    if there != home:
        return ok("home", f"{home} is not there yet; the first command makes it")
    status = home.stat()
    if status.st_uid != os.geteuid():
        return problem(
            "home",
            f"{home} belongs to user {status.st_uid} and not to you ({os.geteuid()}): the embedded server does not"
            " start in it, and files would get mixed owners",
            f"sudo chown {os.geteuid()} {_quoted(home)}  # or run backfill as user {status.st_uid}",
        )
    inner = (
        settings.dagster_dir,
        settings.intermediates_dir,
        settings.rejects_dir,
        settings.registered_sources_dir,
    )
    closed = [one for one in inner if one.is_dir()]
    foreign = [one for one in closed if one.stat().st_uid != os.geteuid()]
    if foreign:
        return problem(
            "home",
            f"{foreign[0]} belongs to user {foreign[0].stat().st_uid} and not to you",
            f"sudo chown -R {os.geteuid()} {_quoted(*foreign)}",
        )
    open_dirs = [one for one in closed if one.stat().st_mode & _PRIVATE]
    if home.stat().st_mode & stat.S_IWOTH and not home.stat().st_mode & stat.S_ISVTX:
        return problem(
            "home", f"{home} can be written by every user of this machine", f"chmod o-w {_quoted(home)}"
        )
    if open_dirs:
        return problem(
            "home",
            f"{counted(len(open_dirs), 'directory', 'directories')} with ledger data can be read by other users of this"
            f" machine: {_some([str(one) for one in open_dirs])}",
            f"chmod 700 {_quoted(*open_dirs)}",
        )
    return ok("home", f"{home} is yours, writable, and closed where it holds data")


def check_storage(settings: Settings) -> Finding:
    """What the home lies on: nothing that a power cut clears."""
    kind = _file_system(_nearest(settings.home))
    if kind is None:
        return not_looked("storage", "this system does not say what file systems it has")
    if kind in _MEMORY_FILE_SYSTEMS:
        sentence = (
            f"{settings.home} lies in memory ({kind}): all of it is gone after the next start of the machine"
        )
        return warning("storage", sentence, "export BACKFILL_HOME=/var/tmp/ledger-backfill")
    return ok("storage", f"{settings.home} lies on {kind}")


def check_disk(settings: Settings, source_bytes: int, free_bytes: int | None = None) -> Finding:
    """The room for the next run.

    Args:
        settings: where the home is.
        source_bytes: of the largest source file.
        free_bytes: what is free there; by default asked of the system.
    """
    place = _nearest(settings.home)
    free = shutil.disk_usage(place).free if free_bytes is None else free_bytes
    look = f"df -h {_quoted(place)}; du -xsh {_quoted(settings.home)}/*"
    if free < FREE_BYTES_MIN:
        return problem(
            "disk", f"only {size(free)} are free at {place}: a run would stop for want of room", look
        )
    inodes = os.statvfs(place)
    if inodes.f_files and inodes.f_favail < 1_000:
        return problem(
            "disk", f"only {inodes.f_favail:,} more files can be made at {place}", f"df -i {_quoted(place)}"
        )
    needed = ROOM_FACTOR * source_bytes
    if free < needed:
        return warning(
            "disk",
            f"{size(free)} are free at {place}, and the largest source ({size(source_bytes)}) may take about"
            f" {size(needed)} there",
            look,
        )
    about = f", the largest source may take about {size(needed)}" if source_bytes else ""
    return ok("disk", f"{size(free)} are free at {place}{about}")


def check_memory(available_bytes: int | None = None) -> Finding:
    """The memory that a run beside the embedded server finds; a container's limit counts."""
    available = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        available = min(available, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    available = available if available_bytes is None else available_bytes
    if available < AVAILABLE_BYTES_MIN:
        return warning(
            "memory",
            f"{size(available)} are available, and a run with the embedded server takes up to"
            f" {size(AVAILABLE_BYTES_MIN)}: it may be killed, and carries on when it is started again",
            "ps -eo pid,rss,comm --sort=-rss | head  # or lower batch_size and parallel_workers in the source file",
        )
    return ok("memory", f"{size(available)} are available")


def check_shared_memory(place: Path = Path("/dev/shm"), total_bytes: int | None = None) -> Finding:  # noqa: S108 - looked at
    """Where PostgreSQL puts what its parallel workers share; containers give it little."""
    if not place.is_dir():
        return not_looked("shared memory", f"there is no {place} on this system")
    usage = shutil.disk_usage(place)
    total = usage.total if total_bytes is None else total_bytes
    if total < SHARED_BYTES_MIN:
        return warning(
            "shared memory",
            f"{place} has {size(total)}, and PostgreSQL's parallel queries may want {size(SHARED_BYTES_MIN)}: they fail"
            ' with "could not resize shared memory segment"',
            "docker run --shm-size=1g …  # or: sudo mount -o remount,size=1G /dev/shm",
        )
    return ok("shared memory", f"{place} has {size(total)}, {size(usage.free)} of it free")


def size(number: int) -> str:
    """Bytes for people."""
    value, unit = float(number), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{number:,} bytes" if unit == "bytes" else f"{value:,.1f} {unit}"


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest thing above it that is there."""
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), path)


def _file_system(place: Path) -> str | None:
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = place.resolve()
    best, kind = -1, None
    for line in mounts:
        _, mounted, found, *_ = line.split(" ")
        mount = Path(mounted.replace("\\040", " "))
        if real.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), found
    return kind


def _quoted(*paths: Path) -> str:
    return shlex.join(map(str, paths))


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more:,} more" if more > 0 else "")
