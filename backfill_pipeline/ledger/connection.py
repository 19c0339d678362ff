"""Connections to the ledger, and what their errors mean.

Belongs here: session settings, the single-writer lock of a source, and the translation of PostgreSQL errors into the
two families of `errors`.
Does not: statements about ledger data.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import TupleRow

from backfill_pipeline.errors import LedgerError, SourceBusyError, TransientLedgerError

Connection = psycopg.Connection[TupleRow]

# Kept in memory per session: the batch's transition table (about 250 bytes an entry) and its aggregates.
WORK_MEM = "128MB"
LOCK_TIMEOUT_S = 60
CONNECT_TIMEOUT_S = 10
# How long a new run waits for the lock of a killed one: the server notices a vanished client within moments.
SOURCE_LOCK_WAIT_S = 10.0
# First key of the two-key advisory locks, so that other users of the same database do not meet ours by chance.
ADVISORY_LOCK_SPACE = 1_818_584_950

# SQLSTATEs that start with one of these. psycopg's classes of a family (08, 40, 57P) are not derived from one another,
# so families are told by their codes. Of 53 (resources), a full disk stays full; the others pass.
_TRANSIENT = (
    "08",     # connection lost or not established
    "40",     # serialization failure, deadlock
    "53200",  # out of memory
    "53300",  # too many connections
    "55P03",  # lock timeout
    "57014",  # cancelled
    "57P",    # the server is shutting down, starting, or ended the session
    "25P03",  # idle in transaction for too long: the session was ended
    "25P04",  # transaction timeout: the session was ended
)  # fmt: skip


def connect(url: str, *, application_name: str = "backfill") -> Connection:
    """Opens an autocommit connection with the session settings that posting and reconciliation rely on.

    Raises:
        TransientLedgerError: the server cannot be reached or is starting.
        LedgerError: it refuses the user, password or database.
    """
    with ledger_errors("connect to"):
        connection = psycopg.connect(
            url,
            autocommit=True,
            application_name=application_name,
            connect_timeout=CONNECT_TIMEOUT_S,
        )
        connection.execute(
            "SELECT set_config('timezone', 'UTC', false), set_config('datestyle', 'ISO, YMD', false),"
            " set_config('work_mem', %s, false), set_config('lock_timeout', %s, false),"
            " set_config('jit', 'off', false), set_config('extra_float_digits', '1', false),"
            " set_config('default_transaction_isolation', 'read committed', false)",
            [WORK_MEM, f"{LOCK_TIMEOUT_S}s"],
        )
        return connection


@contextmanager
def ledger_errors(doing: str) -> Iterator[None]:
    """Translates psycopg errors: transient ones may be retried, all others are terminal.

    Args:
        doing: completes the sentence "cannot … the ledger", for example "post a batch to".
    """
    try:
        yield
    except psycopg.Error as error:
        message = _one_line(error)
        if is_transient(error):
            raise TransientLedgerError(f"cannot {doing} the ledger right now: {message}") from error
        raise LedgerError(f"cannot {doing} the ledger: {message}") from error


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed when it is tried again."""
    if error.sqlstate is not None:
        return error.sqlstate.startswith(_TRANSIENT)
    # Errors without a code come from the client's side of the connection: refused, lost, reset. A refused login has no
    # code either when it happens while connecting, so it is told by its text.
    if isinstance(error, psycopg.OperationalError):
        text = str(error)
        return not any(
            mark in text for mark in ("authentication failed", "does not exist", "no password supplied")
        )
    return False


def _one_line(error: psycopg.Error) -> str:
    primary = error.diag.message_primary or str(error) or type(error).__name__
    detail = error.diag.message_detail
    return " ".join(f"{primary} ({detail})".split() if detail else primary.split())


def safe_location(url: str) -> str:
    """Server and database of a URL without user and password, for messages."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'local socket'}{f':{parts.port}' if parts.port else ''}{parts.path}"


@contextmanager
def source_lock(url: str, source_id: str) -> Iterator[Connection]:
    """Makes the caller the only writer of a source until the block ends; gives the connection that holds the lock.

    A session-level advisory lock: it dies with its connection, so a killed run never leaves it behind.

    Raises:
        SourceBusyError: another run holds it.
    """
    with connect(url, application_name=f"backfill lock {source_id}"[:63]) as connection:
        deadline = time.monotonic() + SOURCE_LOCK_WAIT_S
        while not _try_lock(connection, source_id):
            if time.monotonic() > deadline:
                raise SourceBusyError(
                    f"source {source_id} is being written by another run: wait for it to end, or cancel it,"
                    " and try again"
                )
            time.sleep(0.2)
        try:
            yield connection
        finally:
            # The server notices a closed connection a moment later, and whoever asks then would find the source busy.
            with suppress(psycopg.Error):
                connection.execute(
                    "SELECT pg_advisory_unlock(%s, hashtext(%s))", [ADVISORY_LOCK_SPACE, source_id]
                )


def is_being_written(connection: Connection, source_id: str) -> bool:
    """Whether a run holds the source's lock right now; takes none."""
    with ledger_errors("look for runs in"):
        row = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid = %s::bigint::oid AND objid = (hashtext(%s)::bigint & 4294967295)::oid)",
            [ADVISORY_LOCK_SPACE, source_id],
        ).fetchone()
    return bool(row and row[0])


def _try_lock(connection: Connection, source_id: str) -> bool:
    with ledger_errors("lock a source in"):
        row = connection.execute(
            "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [ADVISORY_LOCK_SPACE, source_id]
        ).fetchone()
    return bool(row and row[0])
