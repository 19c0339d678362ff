"""The files of the inbox: which there are, which of them are at rest, and what their content is.

Belongs here: looking at the folder and remembering what was seen, from one look to the next.
Does not: what a source makes of its files (`inbox.py`).

Nothing says that a file is complete. One that has kept its size and time for a while, by this product's own clock, is
taken for it: clocks of other machines, and times that a copy kept, do not count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.ledger import inbox
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.inbox import Observation
from backfill_pipeline.sources.files.content import file_fingerprint
from backfill_pipeline.sources.several import as_text, is_unfinished, present_files

HASH_S: Final = 20.0
"""After so long, a look begins to read no further file: Dagster gives a sensor a minute."""

HASH_BYTES_MAX: Final = 2 << 30
"""Larger files are not read by a look. They are told by name and size alone."""

FILES_LISTED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of the inbox at this moment.

    Attributes:
        rested_since: since when it is known to be complete; None while it is not.
        sha256: of its bytes; None while it is not at rest, not read yet, or too large to be read by a look.
        is_readable: whether this process may read it.
    """

    path: Path
    size_bytes: int
    rested_since: datetime | None
    sha256: str | None
    is_readable: bool = True

    @property
    def is_read(self) -> bool:
        """Whether its content is known, as far as it will be."""
        return self.rested_since is not None and (self.sha256 is not None or self.size_bytes > HASH_BYTES_MAX)


def is_in_inbox(definition: SourceDefinition, inbox_dir: Path) -> bool:
    """Whether the source takes files from the inbox."""
    folder = inbox_dir.resolve()
    return any(_folder_of(pattern).is_relative_to(folder) for pattern in patterns_of(definition))


def patterns_of(definition: SourceDefinition) -> Sequence[Path]:
    """The path of a source's file, or its patterns; none of a live one."""
    return definition.files or ((definition.file,) if definition.file is not None else ())


def _folder_of(pattern: Path) -> Path:
    """The part of a path before any wildcard, without the file's own name."""
    parts = pattern.parts[:-1]
    plain = next((place for place, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return Path(*parts[:plain])


def look(
    connection: Connection,
    definitions: Iterable[SourceDefinition],
    inbox_dir: Path,
    *,
    now: datetime,
    settle_s: int,
    remember: bool,
) -> dict[Path, FoundFile]:
    """Every file that one of the sources takes, as it is now.

    Args:
        connection: to the ledger, which remembers what was seen.
        definitions: sources of the inbox.
        inbox_dir: the folder; what other homes saw of others is left alone.
        now: the time of this look.
        settle_s: for how long a file must have been as it is.
        remember: keep what is seen, and read files that are at rest; False only looks.
    """
    before = inbox.load(connection)
    began = time.monotonic()
    found: dict[Path, FoundFile] = {}
    news: dict[str, Observation] = {}
    for path in {path for one in definitions for path in present_files(patterns_of(one))}:
        try:
            stat = path.stat()
        except OSError:
            continue  # it went away meanwhile
        key = path_key(path)
        seen = before.pop(key, None)
        if seen is None or (seen.size_bytes, seen.modified_ns) != (stat.st_size, stat.st_mtime_ns):
            seen = news[key] = Observation(stat.st_size, stat.st_mtime_ns, now)
        rests = stat.st_size > 0 and seen.since < now and seen.since + timedelta(seconds=settle_s) <= now
        if rests and seen.sha256 is None and remember and time.monotonic() - began < HASH_S:
            sha256 = _hash(path, stat)
            if sha256 is not None:
                seen = news[key] = replace(seen, sha256=sha256)
        rested = seen.since + timedelta(seconds=settle_s) if rests else None
        found[path] = FoundFile(path, stat.st_size, rested, seen.sha256, os.access(path, os.R_OK))
    if remember:
        below = path_key(inbox_dir.resolve()) + "/"
        inbox.store(connection, news, [path for path in before if path.startswith(below)])
    return found


def _hash(path: Path, before: os.stat_result) -> str | None:
    """The content of a file that stays as it is while it is read; None when it does not, or is too large."""
    if before.st_size > HASH_BYTES_MAX:
        return None
    try:
        _, sha256 = file_fingerprint(path)
        after = path.stat()
    except (SourceFileError, OSError):
        return None
    same = (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return sha256 if same else None


def path_key(path: Path) -> str:
    """A path as the ledger keeps it and messages show it."""
    return as_text(str(path))


def strangers(inbox_dir: Path, known: Iterable[Path]) -> list[Path]:
    """Files of the inbox that no source takes, in order; neither hidden ones nor those that are still being sent."""
    taken = {path_key(path) for path in known}
    found: list[Path] = []
    for folder, folders, names in os.walk(inbox_dir.resolve()):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not is_unfinished(name) and path_key(path) not in taken:
                found.append(path)
            if len(found) >= FILES_LISTED_MAX:
                return found
    return found
