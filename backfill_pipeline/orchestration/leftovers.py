"""What crashes leave in Dagster's records, told by looking alone and without Dagster.

Belongs here: which process executes a run (its tags), runs that nobody executes, slots that nobody gives back.
Does not: marking and freeing them (`launch.py`), saying what to do (`doctor/`).

Dagster itself is not imported: it would make its tables where there are none, and take as long as all the rest.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil
import psycopg
from psycopg.rows import TupleRow

# Hidden in the UI, as all of this prefix.
HOST_TAG: Final = ".dagster/backfill_host"
PID_TAG: Final = ".dagster/backfill_pid"
STARTED_TAG: Final = ".dagster/backfill_process_started"

_QUEUED: Final = "QUEUED"
_RUNNING: Final = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
# Runs that ended a moment ago: the daemon gives their slots back within seconds.
_SLOT_PATIENCE_S: Final = 60

_RUNS: Final = """
SELECT r.run_id, r.pipeline_name, r.status,
       max(t.value) FILTER (WHERE t.key = %(host)s), max(t.value) FILTER (WHERE t.key = %(pid)s),
       max(t.value) FILTER (WHERE t.key = %(started)s)
FROM runs r LEFT JOIN run_tags t ON t.run_id = r.run_id AND t.key IN (%(host)s, %(pid)s, %(started)s)
WHERE r.status = ANY(%(statuses)s)
GROUP BY r.id, r.run_id, r.pipeline_name, r.status ORDER BY r.id
"""
_SLOTS: Final = """
SELECT s.concurrency_key, s.run_id FROM concurrency_slots s LEFT JOIN runs r ON r.run_id = s.run_id
WHERE s.run_id IS NOT NULL
  AND (r.run_id IS NULL OR r.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
                           AND r.update_timestamp < (clock_timestamp() AT TIME ZONE 'UTC') - make_interval(secs => %s))
ORDER BY s.id
"""


@dataclass(frozen=True, slots=True)
class RunLeft:
    """A run that Dagster shows as going on, or as waiting.

    Attributes:
        queued: it waits for the daemon.
        orphan: nobody executes it any more, for all that can be told from here.
    """

    run_id: str
    job: str
    queued: bool
    orphan: bool


@dataclass(frozen=True, slots=True)
class SlotLeft:
    """A slot of a pool that is held by a run which is over or gone."""

    pool: str
    run_id: str


def has_records(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether Dagster ever made its tables here."""
    row = connection.execute(
        "SELECT to_regclass('runs') IS NOT NULL AND to_regclass('run_tags') IS NOT NULL"
        " AND to_regclass('concurrency_slots') IS NOT NULL"
    ).fetchone()
    return bool(row and row[0])


def runs_left(connection: psycopg.Connection[TupleRow], *, daemon_runs: bool) -> list[RunLeft]:
    """Runs that are not over, the oldest first.

    Args:
        connection: to Dagster's records, which are there.
        daemon_runs: whether `backfill up` runs: it watches the runs that it launched, and they are no orphans then.
    """
    rows = connection.execute(
        _RUNS,
        {"host": HOST_TAG, "pid": PID_TAG, "started": STARTED_TAG, "statuses": [_QUEUED, *_RUNNING]},
    ).fetchall()
    found = []
    for run_id, job, status, host, pid, started in rows:
        queued = status == _QUEUED
        if queued:
            orphan = False
        elif pid is None:
            orphan = not daemon_runs
        else:  # of another machine, only that one can tell
            orphan = host == socket.gethostname() and not is_alive(int(pid), started)
        found.append(RunLeft(run_id, job, queued, orphan))
    return found


def slots_left(
    connection: psycopg.Connection[TupleRow], patience_s: float = _SLOT_PATIENCE_S
) -> Sequence[SlotLeft]:
    """Slots whose run ended longer ago than `patience_s`, or is gone."""
    return [SlotLeft(*row) for row in connection.execute(_SLOTS, [patience_s]).fetchall()]


def is_alive(pid: int, started: str | None) -> bool:
    """Whether the very process is still there: process ids are used again, start times are not."""
    try:
        return str(psutil.Process(pid).create_time()) == started
    except psutil.Error:
        return False
