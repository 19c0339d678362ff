"""Peak memory of processes, as Linux counts it.

Belongs here: reading /proc. Elsewhere there is none, and nothing is reported.
Does not: starting processes (`processes.py`).

A process's own peak is VmHWM, which the kernel keeps, so no sample can miss it. Of the server's processes, memory of
their own (RssAnon) is added up at each sample, and shared memory, which all of them map, is counted once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

_PROC = Path("/proc")
_KIB_PER_MIB = 1024


@dataclass(slots=True)
class MemoryWatch:
    """Peaks seen so far, in KiB.

    Attributes:
        server_pid_file: the pid file of the PostgreSQL that belongs to the processes watched.
    """

    server_pid_file: Path
    _own: dict[int, int] = field(default_factory=dict)
    _server_anonymous: int = 0
    _server_shared: int = 0

    def sample(self, pid: int) -> None:
        """Looks at a process, its descendants, and the server."""
        for one in _tree(pid):
            if peak := _status(one).get("VmHWM"):
                self._own[one] = max(peak, self._own.get(one, 0))
        postmaster = _read(self.server_pid_file).split("\n", 1)[0]
        if postmaster.isdecimal():
            processes = [_status(one) for one in _tree(int(postmaster))]
            anonymous = sum(one.get("RssAnon", 0) for one in processes)
            self._server_anonymous = max(self._server_anonymous, anonymous)
            self._server_shared = max([self._server_shared, *(one.get("RssShmem", 0) for one in processes)])

    def figures(self) -> dict[str, float]:
        """What was seen, in MiB; empty when nothing was."""
        if not self._own:
            return {}
        return {
            "process_peak_mib": max(self._own.values()) / _KIB_PER_MIB,
            "processes_peak_mib": sum(self._own.values()) / _KIB_PER_MIB,
            "server_anonymous_peak_mib": self._server_anonymous / _KIB_PER_MIB,
            "server_shared_peak_mib": self._server_shared / _KIB_PER_MIB,
        }


def _tree(pid: int) -> list[int]:
    """A process and its descendants. Asked of the kernel per process: going through all of /proc costs too much."""
    found = [pid]
    for parent in found:
        tasks = _PROC / str(parent) / "task"
        for task in _listed(tasks):
            found.extend(int(child) for child in _read(tasks / task / "children").split())
    return found


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:  # ended meanwhile
        return []


def _status(pid: int) -> dict[str, int]:
    """The memory lines of a process, in KiB; empty when it has ended."""
    lines = (line.split() for line in _read(_PROC / str(pid) / "status").splitlines())
    return {words[0][:-1]: int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # ended meanwhile
        return ""
