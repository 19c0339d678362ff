"""The files of a source of several, as they were registered, and what a registration was before it grew.

Belongs here: statements on `backfill_source_files` and `backfill_growths`.
Does not: deciding what a growth is (`registrations.py`), reading files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backfill_pipeline.ledger.connection import Connection


@dataclass(frozen=True, slots=True)
class RegisteredFile:
    """A file of a source of several: `name` is the last part of its path, `sha256` is over its bytes as they are."""

    name: str
    size_bytes: int
    sha256: str
    row_count: int


def load(connection: Connection, registration_id: int) -> tuple[RegisteredFile, ...]:
    """In the order in which they are read; none of a source that is one file, or that is from before they were kept."""
    rows = connection.execute(
        "SELECT name, size_bytes, sha256, row_count FROM backfill_source_files WHERE registration_id = %s"
        " ORDER BY number",
        [registration_id],
    ).fetchall()
    return tuple(RegisteredFile(*row) for row in rows)


def add(
    connection: Connection, registration_id: int, files: Sequence[RegisteredFile], *, known: int = 0
) -> None:
    """Keeps the files after the first `known` ones, in the caller's transaction."""
    with connection.cursor().copy(
        "COPY backfill_source_files (registration_id, number, name, size_bytes, sha256, row_count) FROM STDIN"
    ) as copy:
        for number, file in enumerate(files[known:], start=known):
            copy.write_row((registration_id, number, file.name, file.size_bytes, file.sha256, file.row_count))


def record_growth(connection: Connection, registration_id: int) -> None:
    """Keeps what a registration is now, in the transaction that changes it."""
    connection.execute(
        "INSERT INTO backfill_growths (registration_id, size_bytes, sha256, row_count, completed_at, partitions)"
        " SELECT id, size_bytes, sha256, row_count, completed_at,"
        " (SELECT count(*) FROM backfill_partitions p WHERE p.registration_id = r.id)"
        " FROM backfill_registrations r WHERE id = %s",
        [registration_id],
    )


def has_replays(connection: Connection, registration_id: int) -> bool:
    """Whether a rejected row of a registration was repaired and is in the ledger."""
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM backfill_replays y JOIN backfill_partitions p ON p.id = y.partition_id"
        " WHERE p.registration_id = %s AND y.outcome IN ('posted', 'duplicate'))",
        [registration_id],
    ).fetchone()
    return bool(row and row[0])
