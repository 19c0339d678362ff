"""A look at work as it happens, taken every few seconds: for `backfill status --watch`.

Belongs here: the look, the connection that is kept for it, and why it could not be taken.
Does not: what is made of several looks, such as rates (`cli/watch_board.py`), what is monitored for years
(`snapshot.py`).

It reads what is so now and nothing of what ever was: 2,000 partitions, and the batches of ten million entries, take
some dozens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg
from psycopg import conninfo

from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, connect
from backfill_pipeline.ledger.migrate import pending
from backfill_pipeline.ledger.monitoring import banks, sources
from backfill_pipeline.ledger.monitoring.moment import one_moment
from backfill_pipeline.ledger.monitoring.partitions import CURRENT
from backfill_pipeline.ledger.monitoring.snapshot import Reason, Unavailable

FAILURES_MAX: Final = 5
ERROR_LENGTH_MAX: Final = 500

_STATEMENT_TIMEOUT_S: Final = 5.0
_LOCK_TIMEOUT_S: Final = 1.0
# That a server's machine is gone, or a network swallows packets, is found out within some ten seconds.
_NOTICES_SILENCE: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


@dataclass(frozen=True, slots=True)
class Running:
    """A run that writes a source at this moment.

    Attributes:
        source: its id; of a bank, that of the bank.
        part: of a bank, the day that is being written; else None.
        since: when it took the source's lock; None when the server does not tell this user.
        rows: that batches have decided since then.
    """

    source: str
    part: str | None
    since: datetime | None
    rows: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A partition, or a day of a bank, whose last try failed. `error` is cut, and may hold what a source holds.

    Attributes:
        at: when its source came to its last end, which is not before it failed.
    """

    source: str
    part: str
    at: datetime | None
    error: str


@dataclass(frozen=True, slots=True)
class LiveLook:
    """How everything stands at one moment, by the server's clock.

    Attributes:
        failed: partitions and days in all; `failures` are the newest FAILURES_MAX.
        size_bytes: of the database.
    """

    taken_at: datetime
    source_rows: Sequence[sources.SourceRows]
    source_progress: Sequence[sources.SourceProgress]
    open_rejects: Sequence[sources.OpenRejects]
    running: Sequence[Running]
    failed: int
    failures: Sequence[Failure]
    bank_days: Sequence[banks.BankDaysState]
    bank_connections: Sequence[banks.BankConnection]
    waiting: Sequence[banks.Waiting]
    constraints: str
    size_bytes: int


# By the locks that runs hold, as `connection.source_lock` takes them.
_RUNNING: Final = f"""
    WITH writer AS (
        SELECT l.objid::bigint AS lock, min(a.backend_start) AS since
        FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %(space)s::bigint::oid
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        GROUP BY l.objid
    )
    SELECT c.source, max(c.day), min(w.since), coalesce(sum(b.rows), 0)::bigint
    FROM ({CURRENT}) AS c
    JOIN writer w ON w.lock = (hashtext(c.source_id)::bigint & 4294967295)
    LEFT JOIN LATERAL (SELECT sum(read) AS rows FROM backfill_batches x
                       WHERE x.source_id = c.source_id AND x.kind = 'entries' AND x.posted_at >= w.since) b ON true
    GROUP BY c.source ORDER BY c.source
"""  # noqa: S608 - put together from constants, as the next statement

# A day of a bank has its own error; those of its partitions are the same.
_FAILURES: Final = f"""
    WITH failed AS (
        SELECT c.source, p.partition_key AS part, p.number, p.error, k.last_checkpoint_at AT TIME ZONE 'UTC' AS at
        FROM ({CURRENT}) AS c
        JOIN backfill_partitions p ON p.registration_id = c.id
        LEFT JOIN ledger_backfill_checkpoints k ON k.source_id = c.source_id AND k.source_type = c.source_type
        WHERE c.day IS NULL AND p.error IS NOT NULL AND p.posted_at IS NULL
        UNION ALL
        SELECT source_id, day::text, 0, error, updated_at FROM sync_status WHERE error IS NOT NULL
    )
    SELECT count(*) OVER (), source, part, at, left(error, %(length)s) FROM failed
    ORDER BY at DESC NULLS LAST, source, number DESC, part DESC LIMIT %(limit)s
"""  # noqa: S608


class Looker:
    """Takes looks over one connection, and over a new one once that is lost. It changes nothing."""

    def __init__(self, url: str) -> None:
        """`url` is that of the ledger; nothing is connected yet."""
        given = conninfo.conninfo_to_dict(url)
        self._url = conninfo.make_conninfo(
            url, **{k: v for k, v in _NOTICES_SILENCE.items() if k not in given}
        )
        self._connection: Connection | None = None

    def look(self) -> LiveLook | Unavailable:
        """How everything stands, or why nobody can tell. Waits for nobody for long, unless the server itself hangs."""
        if self._connection is None:
            refused = self._connect()
            if refused is not None:
                return refused
        assert self._connection is not None
        try:
            with one_moment(
                self._connection, statement_timeout_s=_STATEMENT_TIMEOUT_S, lock_timeout_s=_LOCK_TIMEOUT_S
            ):
                return _take(self._connection)
        except BackfillError as error:
            reason: Reason = "unreachable" if self._connection.broken else "failed"
            if isinstance(error.__cause__, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
                reason = "timeout"
            self.close()  # what is wrong with the schema is found out when connecting
            return Unavailable(reason, str(error))

    def close(self) -> None:
        """Ends the connection; the next look opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Unavailable | None:
        try:
            connection = connect(self._url, application_name="backfill watch")
        except BackfillError as error:
            return Unavailable("unreachable", str(error))
        try:
            lacking = pending(connection)
        except BackfillError as error:
            reason: Reason = "unreachable" if connection.broken else "schema"
            connection.close()
            return Unavailable(reason, str(error))
        if lacking:
            connection.close()
            return Unavailable(
                "schema",
                f"the ledger lacks {len(lacking)} of the migrations of this release: backfill db migrate applies them",
            )
        self._connection = connection
        return None


def _take(connection: Connection) -> LiveLook:
    # One core at most: whoever posts has the others.
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    row = connection.execute("SELECT now(), pg_database_size(current_database())").fetchone()
    assert row is not None
    taken_at, size_bytes = row
    failed = connection.execute(_FAILURES, {"limit": FAILURES_MAX, "length": ERROR_LENGTH_MAX}).fetchall()
    return LiveLook(
        taken_at=taken_at,
        source_rows=sources.source_rows(connection),
        source_progress=sources.source_progress(connection),
        open_rejects=sources.open_rejects(connection),
        running=[Running(*one) for one in connection.execute(_RUNNING, {"space": ADVISORY_LOCK_SPACE})],
        failed=failed[0][0] if failed else 0,
        failures=[Failure(*one) for _, *one in failed],
        bank_days=banks.bank_days(connection),
        bank_connections=banks.bank_connections(connection),
        waiting=banks.waiting(connection),
        constraints=constraints.state(connection),
        size_bytes=size_bytes,
    )
