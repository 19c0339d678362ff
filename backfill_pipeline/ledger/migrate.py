"""Migrations: plain SQL files, applied in order, each in its own transaction, recorded with a checksum.

`NNNN_name.sql` changes the schema. What has to be done to rows that are there is in `NNNN_name.data.sql`, and what may
be said of the table only afterwards in `NNNN_name.finish.sql`; the release works before these two are done.

Belongs here: finding, verifying and applying migrations.
Does not: the SQL itself, going through rows (`data_steps.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import data_steps
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors
from backfill_pipeline.ledger.data_steps import DataStep, patiently, read_data_step

_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)(\.data|\.finish)?\.sql$")
_MIGRATION_LOCK = 1


@dataclass(frozen=True, slots=True)
class Migration:
    """One change. `checksum` is the SHA-256 of its file; of several, that of their SHA-256s one after another."""

    version: int
    name: str
    checksum: str
    sql: str
    data_step: DataStep | None = None


def bundled_migrations() -> tuple[Migration, ...]:
    """All migrations of this release, by version."""
    return read_migrations(files(__package__).joinpath("migrations"))


def read_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """The migrations of a folder, by version.

    Raises:
        LedgerError: a data step does not say what it goes over, or belongs to nothing.
    """
    parts: dict[tuple[int, str], dict[str, bytes]] = {}
    for entry in folder.iterdir():
        if match := _NAME.match(entry.name):
            parts.setdefault((int(match[1]), match[2]), {})[match[3] or ""] = entry.read_bytes()
    return tuple(_migration(version, name, found) for (version, name), found in sorted(parts.items()))


def data_steps_of(migrations: Sequence[Migration]) -> list[DataStep]:
    """What the migrations do to rows that are there."""
    return [migration.data_step for migration in migrations if migration.data_step is not None]


def _migration(version: int, name: str, parts: dict[str, bytes]) -> Migration:
    if "" not in parts or (".finish" in parts and ".data" not in parts):
        raise LedgerError(
            f"migration {version:04d}_{name} has {', '.join(sorted(f'{part}.sql' for part in parts))} without the part"
            " before it: .sql, then .data.sql, then .finish.sql"
        )
    digests = [hashlib.sha256(parts[part]) for part in ("", ".data", ".finish") if part in parts]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(one.digest() for one in digests))
    texts = {part: content.decode("utf-8") for part, content in parts.items()}
    step = read_data_step(version, name, texts[".data"], texts.get(".finish")) if ".data" in texts else None
    return Migration(version, name, whole.hexdigest(), texts[""], step)


def migrate(connection: Connection, migrations: Sequence[Migration] | None = None) -> tuple[Migration, ...]:
    """Brings the ledger's schema up to date; returns what was applied (nothing, when it was up to date).

    Safe to call from several processes at once: a session lock makes the others wait. A data step is done only where it
    is one batch at most; `data_steps.run` does the others.

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
            data_steps.run_small(connection, data_steps_of(migrations))
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """This release's migrations beside those that a ledger has; each as `0001_name`.

    Attributes:
        applied: how many the ledger has.
        pending: that this release would apply.
        unknown: that the ledger has and this release does not know.
        changed: whose files differ from what was applied.
    """

    applied: int
    pending: tuple[str, ...]
    unknown: tuple[str, ...]
    changed: tuple[str, ...]


def compare(connection: Connection) -> Comparison:
    """How the ledger's schema stands, by looking alone; nothing of it is an error here."""
    with ledger_errors("inspect"):
        row = connection.execute("SELECT to_regclass('ledger_schema_migrations') IS NOT NULL").fetchone()
        recorded = _read_recorded(connection) if row and row[0] else {}
    known = {migration.version: migration for migration in bundled_migrations()}
    return Comparison(
        len(recorded),
        tuple(f"{version:04d}_{one.name}" for version, one in known.items() if version not in recorded),
        tuple(f"{version:04d}_{name}" for version, (name, _) in recorded.items() if version not in known),
        tuple(
            f"{version:04d}_{name}"
            for version, (name, checksum) in recorded.items()
            if version in known and known[version].checksum != checksum
        ),
    )


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
    rows = connection.execute(
        "SELECT version, name, checksum FROM ledger_schema_migrations ORDER BY version"
    ).fetchall()
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
    def apply() -> None:
        connection.execute(migration.sql.encode())
        if migration.data_step is not None:
            data_steps.register(connection, migration.data_step)
        connection.execute(
            "INSERT INTO ledger_schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
            [migration.version, migration.name, migration.checksum],
        )

    patiently(connection, apply)
