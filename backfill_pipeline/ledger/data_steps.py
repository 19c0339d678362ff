"""Data steps: what a migration does to rows that are there, batch by batch, while others post.

Belongs here: running them, resuming them, and how far they are.
Does not: the schema part of a migration (`migrate.py`), the SQL itself (`migrations/*.data.sql`).

Each batch is a transaction that also records how far it came, so a step that was killed carries on behind its last
commit. Nobody waits for it: it locks no table that posting needs, gives way when it cannot have a lock at once, and
rests between two batches.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, is_transient, ledger_errors

T = TypeVar("T")

# The first line of a data step: what it goes over.
_OVER = re.compile(r"-- over ([a-z_]+) by ([a-z_]+), ([1-9][0-9]*) rows a batch\n")
# Whoever waits for a lock on a table keeps all others waiting behind him. So the first tries are short, and each next
# one has twice the time, until even a ledger that is never idle lets it through.
_LOCK_TRIES_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_LOCK_REST_S: Final = 0.5
# Of the time that a batch took: so much longer the disk and the processors are left to others.
_REST_SHARE: Final = 0.5
# Old versions of rows are cleared away whenever so many of a table's rows were changed: later batches use their place.
_VACUUM_SHARE: Final = 0.1
_VACUUM_ROWS_MIN: Final = 50_000
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class DataStep:
    """What a migration does to the rows of a table.

    Attributes:
        table: whose rows.
        key: a bigint that is unique and has an index.
        batch_rows: rows a transaction.
        statement: does it to the rows with $1 < key <= $2.
        finish: what may only be said of the table when all rows are done; run once, in a transaction.
    """

    version: int
    name: str
    table: str
    key: str
    batch_rows: int
    statement: str
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a data step is. `share` is between 0 and 1, by keys; `rows_done` were changed."""

    version: int
    name: str
    rows_done: int
    batches: int
    share: float
    finished: bool


Report = Callable[[StepProgress], None]


def read_data_step(version: int, name: str, statement: str, finish: str | None) -> DataStep:
    """A data step from the text of its file.

    Raises:
        LedgerError: its first line does not say what it goes over.
    """
    match = _OVER.match(statement)
    if match is None:
        raise LedgerError(
            f'the first line of {version:04d}_{name}.data.sql must be "-- over TABLE by KEY, N rows a batch"'
        )
    return DataStep(version, name, match[1], match[2], int(match[3]), statement, finish)


def register(connection: Connection, step: DataStep) -> None:
    """Notes what there is to do, in the transaction of the migration's schema part.

    Nobody writes to the table while this is looked at. So every row is either counted in here, or made by somebody who
    has the new schema.
    """
    connection.execute(
        sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(sql.Identifier(step.table))
    )
    connection.execute(
        sql.SQL(
            "INSERT INTO ledger_data_steps (version, name, table_name, first_key, last_key, done_upto)"
            " SELECT %s, %s, %s, coalesce(min({key}), 1), coalesce(max({key}), 0), coalesce(min({key}), 1) - 1"
            " FROM {table}"
        ).format(key=sql.Identifier(step.key), table=sql.Identifier(step.table)),
        [step.version, step.name, step.table],
    )


def progress(connection: Connection) -> list[StepProgress]:
    """All data steps that this ledger ever had, in order."""
    with ledger_errors("read data steps of"):
        rows = connection.execute(
            "SELECT version, name, rows_done, batches, CASE WHEN last_key < first_key THEN 1"
            " ELSE (done_upto - first_key + 1)::float8 / (last_key - first_key + 1) END, finished_at IS NOT NULL"
            " FROM ledger_data_steps ORDER BY version"
        ).fetchall()
    return [StepProgress(*row) for row in rows]


def run_small(connection: Connection, steps: Sequence[DataStep]) -> None:
    """Does the unfinished steps that are one batch at most, so that a new ledger has nothing left to do.

    A step that another process is doing is left to it.
    """
    for step in _unfinished(connection, steps):
        if _fits_one_batch(connection, step) and _try_lock(connection, step):
            try:
                _run(connection, step, lambda _: None, rest_share=0)
            finally:
                _unlock(connection, step)


def run(
    connection: Connection, steps: Sequence[DataStep], report: Report, *, rest_share: float = _REST_SHARE
) -> list[StepProgress]:
    """Does all unfinished steps to their end; returns those that are finished now and were not before.

    Where another process is at one, its progress is reported until it ends, and taken over if it ends early.

    Args:
        connection: to the ledger, autocommit, not in a transaction.
        steps: of the release.
        report: is told after every batch.
        rest_share: how long to rest after a batch, as a share of what it took.

    Raises:
        TransientLedgerError: locks could not be had, or the connection was lost: the next call carries on.
        LedgerError: a row does not take what the step does to it. Everything before is done.
    """
    todo = _unfinished(connection, steps)
    with ledger_errors("migrate the rows of"), _gently(connection):
        for step in todo:
            while not _try_lock(connection, step):
                report(_progress_of(connection, step))
                time.sleep(_POLL_S)
            try:
                _run(connection, step, report, rest_share=rest_share)
            finally:
                _unlock(connection, step)
    versions = {step.version for step in todo}
    return [one for one in progress(connection) if one.version in versions]


def patiently(connection: Connection, action: Callable[[], T]) -> T:
    """Does something that needs locks which posting holds too, in a transaction, and lets others pass when it cannot.

    Args:
        connection: to the ledger. In a transaction already, there is one try only.
        action: is called in a transaction, again whenever the last try found no room.
    """
    tries = (
        _LOCK_TRIES_S
        if connection.info.transaction_status == TransactionStatus.IDLE
        else (_LOCK_TRIES_S[-1],)
    )
    for number, lock_timeout_s in enumerate(tries, 1):
        try:
            with connection.transaction():
                connection.execute(
                    "SELECT set_config('lock_timeout', %s, true)", [f"{round(lock_timeout_s * 1000)}ms"]
                )
                return action()
        except psycopg.Error as error:
            if number == len(tries) or connection.closed or not is_transient(error):
                raise
            time.sleep(_LOCK_REST_S)
    raise AssertionError("unreachable: the last try returns or raises")


def _run(connection: Connection, step: DataStep, report: Report, *, rest_share: float) -> None:
    since_vacuum = 0
    while True:
        started = time.monotonic()
        changed = patiently(connection, lambda: _batch(connection, step))
        if changed is None:
            break
        took_s = time.monotonic() - started
        report(_progress_of(connection, step))
        since_vacuum += changed
        if since_vacuum > _VACUUM_ROWS_MIN and since_vacuum > _VACUUM_SHARE * _row_estimate(connection, step):
            since_vacuum = 0
            _vacuum(connection, step)
        time.sleep(took_s * rest_share)
    if not _progress_of(connection, step).finished:
        patiently(connection, lambda: _finish(connection, step))
        if since_vacuum > _VACUUM_ROWS_MIN:
            _vacuum(connection, step)
    report(_progress_of(connection, step))


def _batch(connection: Connection, step: DataStep) -> int | None:
    """One batch in the caller's transaction: how many rows it changed; None when there are no rows left."""
    # Without statistics, as after a load, the planner would read the whole table for every batch.
    connection.execute("SET LOCAL enable_seqscan = off")
    row = connection.execute(
        sql.SQL(
            "SELECT s.done_upto, (SELECT max(k) FROM (SELECT {key} AS k FROM {table} WHERE {key} > s.done_upto"
            " AND {key} <= s.last_key ORDER BY {key} LIMIT %s) AS batch)"
            " FROM ledger_data_steps s WHERE s.version = %s AND s.finished_at IS NULL FOR UPDATE"
        ).format(key=sql.Identifier(step.key), table=sql.Identifier(step.table)),
        [step.batch_rows, step.version],
    ).fetchone()
    if row is None or row[1] is None:
        return None
    with psycopg.RawCursor(connection) as cursor:
        cursor.execute(step.statement.encode(), row)
        changed = cursor.rowcount
    connection.execute(
        "UPDATE ledger_data_steps SET done_upto = %s, rows_done = rows_done + %s, batches = batches + 1,"
        " last_batch_at = clock_timestamp() WHERE version = %s",
        [row[1], changed, step.version],
    )
    return changed


def _finish(connection: Connection, step: DataStep) -> None:
    if step.finish is not None:
        connection.execute(step.finish.encode())
    connection.execute(
        "UPDATE ledger_data_steps SET finished_at = clock_timestamp(), done_upto = last_key WHERE version = %s",
        [step.version],
    )


def _unfinished(connection: Connection, steps: Sequence[DataStep]) -> list[DataStep]:
    if not steps:
        return []
    open_versions = {one.version for one in progress(connection) if not one.finished}
    return [step for step in steps if step.version in open_versions]


def _fits_one_batch(connection: Connection, step: DataStep) -> bool:
    row = connection.execute(
        sql.SQL(
            "SELECT count(*) <= %s FROM (SELECT 1 FROM ledger_data_steps s JOIN {table} t"
            " ON t.{key} > s.done_upto AND t.{key} <= s.last_key WHERE s.version = %s LIMIT %s) AS rest"
        ).format(key=sql.Identifier(step.key), table=sql.Identifier(step.table)),
        [step.batch_rows, step.version, step.batch_rows + 1],
    ).fetchone()
    assert row is not None
    return bool(row[0])


def _progress_of(connection: Connection, step: DataStep) -> StepProgress:
    return next(one for one in progress(connection) if one.version == step.version)


def _row_estimate(connection: Connection, step: DataStep) -> float:
    row = connection.execute(
        "SELECT reltuples::float8 FROM pg_class WHERE oid = %s::regclass", [step.table]
    ).fetchone()
    assert row is not None
    return float(row[0])


def _vacuum(connection: Connection, step: DataStep) -> None:
    # TRUNCATE would keep everybody out for a moment. Autovacuum, or a person's, may be at it: then that one does it.
    try:
        connection.execute(sql.SQL("VACUUM (ANALYZE, TRUNCATE false) {}").format(sql.Identifier(step.table)))
    except psycopg.errors.LockNotAvailable:
        return


@contextmanager
def _gently(connection: Connection) -> Iterator[None]:
    """Clears away old rows as autovacuum does, with pauses, and waits for no lock for long."""
    settings = connection.execute(
        "SELECT current_setting('vacuum_cost_delay'), current_setting('lock_timeout')"
    ).fetchone()
    assert settings is not None
    _set(connection, "2ms", "2s")
    try:
        yield
    finally:
        if not connection.closed:
            _set(connection, *settings)


def _set(connection: Connection, vacuum_cost_delay: str, lock_timeout: str) -> None:
    connection.execute(
        "SELECT set_config('vacuum_cost_delay', %s, false), set_config('lock_timeout', %s, false)",
        [vacuum_cost_delay, lock_timeout],
    )


def _lock_key(step: DataStep) -> str:
    return f"data step {step.version}"


def _try_lock(connection: Connection, step: DataStep) -> bool:
    row = connection.execute(
        "SELECT pg_try_advisory_lock(%s, hashtext(%s))", [ADVISORY_LOCK_SPACE, _lock_key(step)]
    ).fetchone()
    assert row is not None
    return bool(row[0])


def _unlock(connection: Connection, step: DataStep) -> None:
    if not connection.closed and connection.info.transaction_status != TransactionStatus.INERROR:
        connection.execute(
            "SELECT pg_advisory_unlock(%s, hashtext(%s))", [ADVISORY_LOCK_SPACE, _lock_key(step)]
        )
