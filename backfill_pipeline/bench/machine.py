"""What the figures depend on: the machine, its software, and the server's settings.

Belongs here: describing them.
Does not: judging them.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from psycopg.rows import TupleRow

from backfill_pipeline.ledger.connection import Connection

_SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "data_checksums",
    "wal_level",
    "wal_compression",
    "shared_buffers",
    "work_mem",
    "maintenance_work_mem",
    "max_wal_size",
    "checkpoint_timeout",
    "jit",
)


def machine(scratch: Path, connection: Connection) -> dict[str, str]:
    """Name → value, for people; `scratch` is where the servers' data is."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{_processor()}, {_cores()} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "disk": _disk(scratch),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "PostgreSQL": _one(connection.execute("SHOW server_version").fetchone()).split()[0],
    }


def settings(connection: Connection) -> dict[str, str]:
    """The server's settings that move the figures, as a session of the product sees them."""
    return {
        name: _one(connection.execute("SELECT current_setting(%s)", [name]).fetchone()) for name in _SETTINGS
    }


def _one(row: TupleRow | None) -> str:
    assert row is not None
    return str(row[0])


def _cores() -> int:
    """Those that this process may use, which in a container are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _disk(path: Path) -> str:
    """File system and kind of disk that hold a path, as far as Linux tells; never names or paths of the machine."""
    number = path.stat().st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    file_systems = [line.partition(" - ")[2].split()[0] for line in mounts if line.split()[2] == wanted]
    kind = _disk_kind((Path("/sys/dev/block") / wanted).resolve())
    return f"{file_systems[-1] if file_systems else 'unknown file system'}{f' on {kind}' if kind else ''}"


def _disk_kind(device: Path) -> str:
    if not device.is_dir():
        return ""
    if device.name.startswith(("vd", "xvd")):
        return "a virtual disk"
    if device.name.startswith("nvme"):
        return "NVMe"
    for folder in (device, device.parent):  # a partition's queue is its disk's
        if (flag := folder / "queue" / "rotational").is_file():
            return "a hard disk" if flag.read_text(encoding="utf-8").strip() == "1" else "an SSD"
    return ""
