"""What the inbox saw of each file.

Belongs here: statements on `backfill_inbox_files`.
Does not: looking at files, deciding what to do with them (`stages/inbox.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from backfill_pipeline.ledger.connection import Connection, ledger_errors


@dataclass(frozen=True, slots=True)
class Observation:
    """A file as it was seen.

    Attributes:
        modified_ns: nanoseconds since 1970.
        since: when it was seen first with this size and time.
        sha256: of its bytes; None until it was at rest.
    """

    size_bytes: int
    modified_ns: int
    since: datetime
    sha256: str | None = None


def load(connection: Connection) -> dict[str, Observation]:
    """Path → what was seen of it."""
    with ledger_errors("read the inbox from"):
        rows = connection.execute(
            "SELECT path, size_bytes, modified_ns, since, sha256 FROM backfill_inbox_files"
        ).fetchall()
    return {path: Observation(*seen) for path, *seen in rows}


def store(connection: Connection, seen: Mapping[str, Observation], gone: Iterable[str]) -> None:
    """Writes what is new or changed, and forgets files that are gone."""
    with ledger_errors("record the inbox in"), connection.transaction():
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO backfill_inbox_files (path, size_bytes, modified_ns, since, sha256)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (path) DO UPDATE SET size_bytes = excluded.size_bytes,"
                " modified_ns = excluded.modified_ns, since = excluded.since, sha256 = excluded.sha256",
                [
                    (path, one.size_bytes, one.modified_ns, one.since, one.sha256)
                    for path, one in seen.items()
                ],
            )
        connection.execute("DELETE FROM backfill_inbox_files WHERE path = ANY(%s)", [list(gone)])
