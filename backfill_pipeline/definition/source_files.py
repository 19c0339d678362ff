"""The files that hold source definitions: where they are, and whether they changed. None of them is read.

Belongs here: finding them in a folder, what tells a changed one.
Does not: reading one (`load.py`), which sources they make (`catalogue.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SUFFIXES = (".yaml", ".yml")


def source_files(folder: Path) -> list[Path]:
    """The source files of a folder, in order; none where it is missing. A link whose file is gone is no source."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.exists())


def versions(folders: Iterable[Path]) -> frozenset[tuple[str, int, int, int]]:
    """Compared with an earlier one, tells whether a source file was added, changed, replaced or removed.

    Returns:
        path, inode, bytes, and time of change in nanoseconds, of each.
    """
    found = set()
    for folder in folders:
        for path in source_files(folder):
            with suppress(OSError):  # removed just now
                stat = path.stat()
                found.add((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)
