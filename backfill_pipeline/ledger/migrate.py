"""Migrations: plain SQL files, applied in order, each in its own transaction, recorded with a checksum.

Belongs here: applying and verifying `migrations/*.sql`.
Does not: the SQL itself, or data fixes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors

_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_MIGRATION_LOCK = 1


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file. `checksum` is the SHA-256 of its bytes."""

    version: int
    name: str
    checksum: str
    sql: str


def bundled_migrations() -> tuple[Migration, ...]:
    """All migrations of this release, by version."""
    found = []
    for entry in files(__package__).joinpath("migrations").iterdir():
        if match := _NAME.match(entry.name):
            content = entry.read_bytes()
            found.append(
                Migration(
                    int(match[1]), match[2], hashlib.sha256(content).hexdigest(), content.decode("utf-8")
                )
            )
    return tuple(sorted(found, key=lambda migration: migration.version))


def migrate(connection: Connection, migrations: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """Brings the ledger's schema up to date; returns what was applied (nothing, when it was up to date).

    Safe to call from several processes at once: a session lock makes the others wait.

    Raises:
        LedgerError: an applied migration was edited since, or the database is newer than this release.
    """
    migrations = bundled_migrations() if migrations is None else tuple(migrations)
    with ledger_errors("migrate"):
        connection.execute("SELECT pg_advisory_lock(%s, %s)", [ADVISORY_LOCK_SPACE, _MIGRATION_LOCK])
        try:
            recorded = _recorded(connection)
            _check_recorded(migrations, recorded)
            applied = tuple(migration for migration in migrations if migration.version not in recorded)
            for migration in applied:
                _apply(connection, migration)
        finally:
            if (
                not connection.closed
            ):  # else the lock is gone, and why the connection is gone is the better error
                connection.execute(
                    "SELECT pg_advisory_unlock(%s, %s)", [ADVISORY_LOCK_SPACE, _MIGRATION_LOCK]
                )
    return applied


def pending(connection: Connection) -> tuple[Migration, ...]:
    """What `migrate` would apply, by looking alone: everything, when there is no ledger yet.

    Raises:
        LedgerError: as `migrate`.
    """
    migrations = bundled_migrations()
    with ledger_errors("inspect"):
        row = connection.execute("SELECT to_regclass('ledger_schema_migrations') IS NOT NULL").fetchone()
        recorded = _read_recorded(connection) if row and row[0] else {}
    _check_recorded(migrations, recorded)
    return tuple(migration for migration in migrations if migration.version not in recorded)


def _recorded(connection: Connection) -> dict[int, tuple[str, str]]:
    with connection.transaction():
        connection.execute("SET LOCAL client_min_messages = warning")  # not a notice that the table exists
        connection.execute(
            "CREATE TABLE IF NOT EXISTS ledger_schema_migrations ("
            " version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
    return _read_recorded(connection)


def _read_recorded(connection: Connection) -> dict[int, tuple[str, str]]:
    rows = connection.execute("SELECT version, name, checksum FROM ledger_schema_migrations").fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}


def _check_recorded(migrations: Sequence[Migration], recorded: dict[int, tuple[str, str]]) -> None:
    known = {migration.version: migration for migration in migrations}
    for version, (name, checksum) in sorted(recorded.items()):
        migration = known.get(version)
        if migration is None:
            raise LedgerError(
                f"the ledger has migration {version:04d}_{name}, which this release does not know:"
                " install the release that applied it, or a newer one"
            )
        if migration.checksum != checksum:
            raise LedgerError(
                f"migration {version:04d}_{migration.name} was edited after it had been applied:"
                " restore the file, and put the change into a new migration"
            )


def _apply(connection: Connection, migration: Migration) -> None:
    with connection.transaction():
        connection.execute(migration.sql.encode())
        connection.execute(
            "INSERT INTO ledger_schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            [migration.version, migration.name, migration.checksum],
        )
