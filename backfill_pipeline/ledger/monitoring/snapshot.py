"""One look at the ledger: everything that is monitored, of one moment, whole or not at all.

Belongs here: the transaction around the queries, how long it may take, and why it could not be made.
Does not: the queries (the modules beside this one), how often somebody looks (`reporting/metrics/exporter.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar, get_args

import psycopg

from backfill_pipeline.errors import BackfillError, LedgerError, TransientLedgerError
from backfill_pipeline.ledger.connection import Connection, connect, ledger_errors
from backfill_pipeline.ledger.migrate import pending
from backfill_pipeline.ledger.monitoring import banks, controls, sources, work

_Found = TypeVar("_Found")

Reason = Literal["unreachable", "schema", "timeout", "failed"]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
"""unreachable: no connection. schema: of another release. timeout: it took too long. failed: a query was refused."""

LOOK_TIMEOUT_S: Final = 8.0
"""All queries together. Prometheus itself gives up after ten seconds, unless it is told otherwise."""

# Constraints are applied, and tables migrated, under a lock that readers wait for: not for longer than this.
_LOCK_TIMEOUT_MS: Final = 3_000
_IDLE_TIMEOUT_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is monitored, as it was at one moment.

    Attributes:
        taken_at: when that was.
        query_seconds: how long each query took, by the name of its field.
        server_version: of PostgreSQL.
    """

    taken_at: datetime
    server_version: str
    source_rows: tuple[sources.SourceRows, ...]
    source_progress: tuple[sources.SourceProgress, ...]
    open_rejects: tuple[sources.OpenRejects, ...]
    reconciliation_breaks: tuple[sources.Breaks, ...]
    batch_work: tuple[work.BatchWork, ...]
    checkpoint_work: tuple[work.CheckpointWork, ...]
    last_runs: tuple[work.LastRun, ...]
    rolled_back: tuple[work.RolledBack, ...]
    bank_days: tuple[banks.BankDaysState, ...]
    bank_connections: tuple[banks.BankConnection, ...]
    waiting: tuple[banks.Waiting, ...]
    ledger: controls.LedgerState
    seal_counts: tuple[controls.SealCount, ...]
    unsealed_batches: tuple[controls.Named, ...]
    correction_counts: tuple[controls.Named, ...]
    query_seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why there is no snapshot. `sentence` is for people, and holds no secret."""

    reason: Reason
    sentence: str


def look(url: str, *, timeout_s: float = LOOK_TIMEOUT_S) -> Snapshot | Unavailable:
    """Takes a snapshot over a connection of its own. It changes nothing, and waits for nobody for long.

    Args:
        url: of the ledger.
        timeout_s: for all queries together.
    """
    try:
        connection = connect(url, application_name="backfill metrics")
    except BackfillError as error:
        return Unavailable("unreachable", str(error))
    with connection:
        try:
            lacking = pending(connection)
        except LedgerError as error:
            return Unavailable("schema", str(error))
        except TransientLedgerError as error:
            return Unavailable("unreachable", str(error))
        if lacking:
            one = lacking[0]
            return Unavailable(
                "schema",
                f"the ledger lacks {len(lacking)} of the migrations of this release, the first is"
                f" {one.version:04d}_{one.name}: backfill db migrate applies them",
            )
        try:
            with ledger_errors("read metrics from"), connection.transaction():
                return _take(connection, time.monotonic() + timeout_s)
        except BackfillError as error:
            return Unavailable(_reason(error, connection), str(error))


def _reason(error: BackfillError, connection: Connection) -> Reason:
    if isinstance(error.__cause__, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return "timeout"
    return "unreachable" if connection.broken else "failed"


def _take(connection: Connection, deadline: float) -> Snapshot:
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    # One core at most: whoever posts has the others.
    connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{_LOCK_TIMEOUT_MS}ms"])
    # Should this end of the connection be lost: until the server notices, nobody could apply constraints or migrate.
    connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_TIMEOUT_MS}")
    seconds: dict[str, float] = {}

    def asked(name: str, query: Callable[[Connection], _Found]) -> _Found:
        began = time.monotonic()
        # Never 0, which would mean without end.
        left_ms = max(1, int((deadline - began) * 1000))
        connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{left_ms}ms"])
        found = query(connection)
        seconds[name] = time.monotonic() - began
        return found

    return Snapshot(
        taken_at=datetime.now(UTC),
        server_version=str(connection.info.parameter_status("server_version")),
        source_rows=tuple(asked("source_rows", sources.source_rows)),
        source_progress=tuple(asked("source_progress", sources.source_progress)),
        open_rejects=tuple(asked("open_rejects", sources.open_rejects)),
        reconciliation_breaks=tuple(asked("reconciliation_breaks", sources.reconciliation_breaks)),
        batch_work=tuple(asked("batch_work", work.batch_work)),
        checkpoint_work=tuple(asked("checkpoint_work", work.checkpoint_work)),
        last_runs=tuple(asked("last_runs", work.last_runs)),
        rolled_back=tuple(asked("rolled_back", work.rolled_back)),
        bank_days=tuple(asked("bank_days", banks.bank_days)),
        bank_connections=tuple(asked("bank_connections", banks.bank_connections)),
        waiting=tuple(asked("waiting", banks.waiting)),
        ledger=asked("ledger", controls.ledger_state),
        seal_counts=tuple(asked("seal_counts", controls.seal_counts)),
        unsealed_batches=tuple(asked("unsealed_batches", controls.unsealed_batches)),
        correction_counts=tuple(asked("correction_counts", controls.correction_counts)),
        query_seconds=seconds,
    )
