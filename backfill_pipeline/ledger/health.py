"""The health of the ledger's server and of sessions on it: for `backfill doctor`.

Belongs here: read-only queries about the server, the role's rights, and what sessions hold.
Does not: entries (`auditing/`), progress (`monitoring/`), what is good or bad (`doctor/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg.rows import class_row

from backfill_pipeline.ledger.auditing.schema import TABLES
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection

SETTINGS: Final = (
    "autovacuum",
    "data_checksums",
    "fsync",
    "full_page_writes",
    "ignore_checksum_failure",
    "max_connections",
    "superuser_reserved_connections",
    "synchronous_commit",
    "zero_damaged_pages",
)
"""The settings that `server_facts` reads."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server at one moment.

    Attributes:
        version: such as 18.1.
        major: such as 18.
        at: its clock.
        zone: its time zone for sessions that set none.
        in_recovery: it is a standby, and takes no writes.
        connections: sessions in all databases, ours among them.
        database_bytes: of the ledger.
        shared_buffers_bytes: its own memory.
        checksum_failures: pages of the ledger that it read and found damaged.
        data_directory: None where the role may not know.
        settings: name → value, of SETTINGS.
    """

    version: str
    major: int
    at: datetime
    zone: str
    in_recovery: bool
    connections: int
    database_bytes: int
    shared_buffers_bytes: int
    checksum_failures: int
    data_directory: str | None
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role may do in the ledger's database.

    Attributes:
        role: its name.
        schema: where tables are made; None where there is none that it may use.
        may_create: tables in that schema.
        may_use_temporary: tables.
        read_only: transactions of this role are read-only unless they say otherwise.
        foreign_tables: of the ledger that belong to a role which this one is no member of: it can neither migrate them
            nor apply constraints.
    """

    role: str
    superuser: bool
    schema: str | None
    may_create: bool
    may_use_temporary: bool
    read_only: bool
    foreign_tables: Sequence[str]


@dataclass(frozen=True, slots=True)
class HeldSession:
    """A session that may be in others' way.

    Attributes:
        pid: of the server's process for it.
        name: application_name.
        seconds: for how long.
    """

    pid: int
    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Standstill:
    """A source whose checkpoint is in progress although nobody writes it."""

    source_id: str
    at: datetime


_FACTS: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer / 10000 AS major,
       clock_timestamp() AS at,
       (SELECT coalesce(reset_val, setting) FROM pg_settings WHERE name = 'TimeZone') AS zone,
       pg_is_in_recovery() AS in_recovery,
       (SELECT sum(numbackends)::bigint FROM pg_stat_database) AS connections,
       pg_database_size(current_database()) AS database_bytes,
       pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers_bytes,
       (SELECT coalesce(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database())
           AS checksum_failures,
       (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory,
       (SELECT jsonb_object_agg(name, setting) FROM pg_settings WHERE name = ANY(%s)) AS settings
"""
_RIGHTS: Final = """
SELECT current_user::text AS role, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
       current_schema()::text AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       has_database_privilege(current_database(), 'TEMPORARY') AS may_use_temporary,
       (SELECT setting = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only') AS read_only,
       ARRAY(SELECT relname::text FROM pg_class
             WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(%s)
               AND NOT pg_has_role(relowner, 'USAGE') ORDER BY relname) AS foreign_tables
"""
_SESSIONS: Final = (
    "FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()"
)
_IDLE: Final = f"""
SELECT a.pid, a.application_name AS name, extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS seconds
{_SESSIONS} AND a.state LIKE 'idle in transaction%%' AND a.state_change <= clock_timestamp() - make_interval(secs => %s)
ORDER BY a.state_change
"""  # noqa: S608 - constants of this module only
_WRITERS: Final = f"""
SELECT a.pid, a.application_name AS name, extract(epoch FROM clock_timestamp() - a.backend_start)::float8 AS seconds
{_SESSIONS} AND EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
                        AND l.classid = %s::bigint::oid AND l.objsubid = 2)
ORDER BY a.backend_start
"""  # noqa: S608 - constants of this module only
# Of a day of a bank, whoever writes it may hold the lock of the day or that of the bank.
_STANDSTILLS: Final = """
SELECT c.source_id, (c.last_checkpoint_at AT TIME ZONE 'UTC') AS at FROM ledger_backfill_checkpoints c
WHERE c.status = 'IN_PROGRESS' AND NOT EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s::bigint::oid
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.objid IN ((hashtext(c.source_id)::bigint & 4294967295)::oid,
                      (hashtext(split_part(c.source_id, '@', 1))::bigint & 4294967295)::oid))
ORDER BY c.last_checkpoint_at
"""
_PREPARED: Final = """
SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""
_WAITING_REQUESTS: Final = """
SELECT action || ' ' || subject FROM ledger_approvals WHERE approved_at IS NULL ORDER BY requested_at
"""


def server_facts(connection: Connection) -> ServerFacts:
    """The server as it is now."""
    with connection.cursor(row_factory=class_row(ServerFacts)) as cursor:
        facts = cursor.execute(_FACTS, [list(SETTINGS)]).fetchone()
    assert facts is not None
    return facts


def rights(connection: Connection) -> Rights:
    """What our role may do."""
    with connection.cursor(row_factory=class_row(Rights)) as cursor:
        found = cursor.execute(_RIGHTS, [list(TABLES)]).fetchone()
    assert found is not None
    return found


def idle_transactions(connection: Connection, since_s: float) -> list[HeldSession]:
    """Sessions that began a transaction and have done nothing in it for so long, the longest first."""
    with connection.cursor(row_factory=class_row(HeldSession)) as cursor:
        return cursor.execute(_IDLE, [since_s]).fetchall()


def lock_holders(connection: Connection) -> list[HeldSession]:
    """Sessions that hold an advisory lock of ours: writers of sources, migrations; the longest first."""
    with connection.cursor(row_factory=class_row(HeldSession)) as cursor:
        return cursor.execute(_WRITERS, [ADVISORY_LOCK_SPACE]).fetchall()


def standstills(connection: Connection) -> list[Standstill]:
    """Sources that were begun, are not done, and that nobody writes; the oldest first."""
    with connection.cursor(row_factory=class_row(Standstill)) as cursor:
        return cursor.execute(_STANDSTILLS, [ADVISORY_LOCK_SPACE]).fetchall()


def prepared_transactions(connection: Connection) -> list[str]:
    """Names of transactions that were prepared for a two-phase commit and neither committed nor rolled back."""
    return [gid for (gid,) in connection.execute(_PREPARED).fetchall()]


def waiting_requests(connection: Connection) -> list[str]:
    """What waits for the confirmation of another person, the oldest first."""
    return [text for (text,) in connection.execute(_WAITING_REQUESTS).fetchall()]
