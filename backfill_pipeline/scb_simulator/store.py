"""The state of a simulator: one SQLite file, for one process at a time.

Belongs here: the tables, connections and transactions, and whom a file belongs to.
Does not: what the tables mean (`changes.py`, `told.py`, `fault_switches.py`, `tokens.py`).

What could be made again from the options is not stored. WAL with synchronous=NORMAL: what was committed survives the
end of the process, however it ends; a power cut may take the last moments.
"""

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, LifoQueue
from typing import IO, Final

from backfill_pipeline.errors import UsageError
from backfill_pipeline.scb_simulator.options import Options

_BUSY_TIMEOUT_S: Final = 30
_VERSION: Final = "1"
_APPLICATION_ID: Final = 0x53434253  # where SQLite's file format has a place for it: "SCBS"
_TOLD: Final = ("acknowledgements", "received", "late", "changed", "idempotency", "tokens", "faults")
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS identity (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

-- The latest acknowledgement of each entry; a new one gets a new sequence, so that readers of pages meet it.
CREATE TABLE IF NOT EXISTS acknowledgements (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    ledger      TEXT NOT NULL,
    reference   TEXT NOT NULL,
    status      TEXT NOT NULL,
    at          TEXT,
    detail      TEXT,
    received_at TEXT NOT NULL,
    UNIQUE (ledger, reference)
) STRICT;

-- Entries sent to the bank. Amounts are text: they may be wider than SQLite's integers.
CREATE TABLE IF NOT EXISTS received (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    ledger      TEXT NOT NULL,
    reference   TEXT NOT NULL,
    booked_us   INTEGER NOT NULL,
    minor       TEXT NOT NULL,
    currency    TEXT NOT NULL,
    content     TEXT NOT NULL,     -- the entry as JSON, in one way of writing it
    received_at TEXT NOT NULL,
    UNIQUE (ledger, reference)
) STRICT;
CREATE INDEX IF NOT EXISTS received_booked ON received (ledger, booked_us);

CREATE TABLE IF NOT EXISTS late (
    ledger    TEXT NOT NULL,
    day       TEXT NOT NULL,
    number    INTEGER NOT NULL,
    booked_s  INTEGER NOT NULL,
    visible_s REAL NOT NULL,
    PRIMARY KEY (ledger, day, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS late_booked ON late (ledger, booked_s, number);

-- Entries that are no longer what they were: the whole of what can change.
CREATE TABLE IF NOT EXISTS changed (
    ledger   TEXT NOT NULL,
    booked_s INTEGER NOT NULL,
    late     INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    debit    TEXT NOT NULL,
    credit   TEXT NOT NULL,
    minor    INTEGER NOT NULL,
    PRIMARY KEY (ledger, booked_s, late, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS idempotency (
    key     TEXT PRIMARY KEY,
    request TEXT NOT NULL,         -- SHA-256 of path and body
    status  INTEGER NOT NULL,
    answer  BLOB NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS tokens (sha256 TEXT PRIMARY KEY, expires_s REAL NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS faults (
    position INTEGER PRIMARY KEY,
    fault    TEXT NOT NULL,
    seen     INTEGER NOT NULL DEFAULT 0,
    fired    INTEGER NOT NULL DEFAULT 0,
    until_s  REAL NOT NULL DEFAULT 0
) STRICT;
"""


class Store:
    """An open state file. Close it, or use it as a context manager."""

    def __init__(self, path: Path, options: Options) -> None:
        """Opens a state file, and makes it where there is none.

        Raises:
            UsageError: it is in use, belongs to a simulator with other options, or is no state file.
        """
        self.path = path
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        self._writing = threading.Lock()
        self._lock = _locked(path)
        try:
            _refuse_others(path)
            with self.write() as connection:
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                _check_identity(connection, path, {"version": _VERSION, **options.identity()})
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise UsageError(
                f"{path} cannot be used as the simulator's state ({error}): name another file with --state"
            ) from error
        except UsageError:
            self.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection that is not in use, and gives the file free."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                break
        self._lock.close()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection whose statements all see one moment."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes beside: all of it, or with an exception nothing."""
        with self._writing, self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk may have ended it already
                    connection.execute("ROLLBACK")
                raise

    def forget(self) -> None:
        """Empties everything but whom the file belongs to."""
        with self.write() as connection:
            for table in _TOLD:
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - the constants of _TOLD
            connection.execute("DELETE FROM sqlite_sequence")  # sequences begin with 1 again

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = self._connect()
        try:
            yield connection
        finally:
            self._idle.put(connection)

    def _connect(self) -> sqlite3.Connection:
        # Used by one thread at a time, and closed by another one.
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        # First of all, while the file is new: it must be in the file itself, not in the log beside it.
        if connection.execute("PRAGMA application_id").fetchone() != (_APPLICATION_ID,):
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection


def _locked(path: Path) -> IO[bytes]:
    """A lock that ends with the process, beside the file: SQLite's own locks are taken per transaction."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock").open("wb")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be used as the simulator's state ({error.strerror}): name another file with --state"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UsageError(
            f"{path} is in use by another simulator: stop that one, or name another file with --state"
        ) from None
    return lock


def _refuse_others(path: Path) -> None:
    """A file of somebody else is not written to, not even one of SQLite's; nor is one that SQLite takes for empty."""
    if not path.exists():
        return
    with path.open("rb") as file:
        header = file.read(72)
    if header and int.from_bytes(header[68:72], "big") != _APPLICATION_ID:
        raise UsageError(
            f"{path} is not the state of a simulator: name another file with --state, and a new one is made"
        )


def _check_identity(connection: sqlite3.Connection, path: Path, identity: dict[str, str]) -> None:
    rows: list[tuple[str, str]] = connection.execute("SELECT key, value FROM identity").fetchall()
    if not rows:
        connection.executemany("INSERT INTO identity VALUES (?, ?)", identity.items())
        return
    found = dict(rows)
    for key in [*identity, *found]:
        if found.get(key) != identity.get(key):
            raise UsageError(
                f"{path} belongs to a simulator whose {key} is {found.get(key, 'not given')}, not"
                f" {identity.get(key, 'not given')}: start with the same options, or name another file with --state"
            )
