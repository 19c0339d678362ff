"""Dagster's history: which of its runs nobody needs any more, and deleting those.

Belongs here: choosing and deleting runs with their events and logs.
Does not: the ledger and its files, of which nothing is ever deleted here; what a command or a job says (`cli/prune.py`,
`operations/history.py`).

Dagster takes what it shows of a partition from events of runs: whether it is green, red or missing, and what its latest
materialization told. Runs that hold such an event stay, however old they are, so that the picture is the same before
and after. A rollback's red partitions stay red, for example, because the run that made them red stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import dagster as dg
import sqlalchemy as sa
from dagster._core.execution.backfill import (
    BULK_ACTION_TERMINAL_STATUSES,
    BulkActionsFilter,
    BulkActionStatus,
)
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from backfill_pipeline.errors import UsageError

OLDER_THAN_DAYS: Final = 90
"""As long as Dagster keeps the ticks that did something (dagster.yaml)."""

_FINISHED: Final = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)
_UNFINISHED: Final = tuple(status for status in dg.DagsterRunStatus if status not in _FINISHED)
# Of each of these, the latest one of every asset and partition is what the UI shows.
_SHOWN: Final = (
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_FAILED_TO_MATERIALIZE,
    dg.DagsterEventType.ASSET_OBSERVATION,
)
_BACKFILL_TAG: Final = "dagster/backfill"
_GROUP_TAGS: Final = ("dagster/root_run_id", "dagster/parent_run_id")
_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class History:
    """What can go.

    Attributes:
        before: runs count that ended before this moment, in UTC.
        run_ids: the runs that nobody needs, the oldest last.
        events: of those runs.
        kept: runs that ended before the moment too, and stay: the UI shows something of theirs, or what is unfinished
            needs them.
    """

    before: datetime
    run_ids: tuple[str, ...]
    events: int
    kept: int


def old_history(instance: dg.DagsterInstance, older_than_days: int, now: datetime | None = None) -> History:
    """Finds out what can go. Changes nothing.

    Args:
        instance: whose history.
        older_than_days: runs that ended less than so many days ago all stay.
        now: the moment from which days are counted; by default this one.

    Raises:
        UsageError: fewer days than one.
    """
    if older_than_days < 1:
        raise UsageError(f"older_than_days is {older_than_days}: it must be 1 or more")
    before = (now or datetime.now(UTC)) - timedelta(days=older_than_days)
    ended = instance.get_run_ids(dg.RunsFilter(statuses=list(_FINISHED), updated_before=before))
    needed = _shown(instance) | _of_unfinished(instance)
    run_ids = tuple(run_id for run_id in ended if run_id not in needed)
    return History(before, run_ids, _event_count(instance, run_ids), len(ended) - len(run_ids))


def delete(instance: dg.DagsterInstance, history: History) -> None:
    """Deletes the runs with their events and logs. Stopped halfway, the rest is found by the next one.

    What was chosen stays right however long ago: a run that ended and shows nothing never begins to again.
    """
    for run_id in history.run_ids:
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        instance.delete_run(run_id)


def _events(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage), "dagster.yaml names PostgreSQL"
    return storage


def _shown(instance: dg.DagsterInstance) -> set[str]:
    """The runs of all events and checks that the UI takes its present picture from: two queries, however many."""
    event, checked = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    latest = (
        sa.select(sa.func.max(event.id))
        .where(event.dagster_event_type.in_([one.value for one in _SHOWN]), event.asset_key.is_not(None))
        .group_by(event.asset_key, event.partition, event.dagster_event_type)
    )
    latest_checks = sa.select(sa.func.max(checked.id)).group_by(
        checked.asset_key, checked.check_name, checked.partition, checked.execution_status
    )
    with _events(instance).index_connection() as connection:
        return {
            *connection.scalars(sa.select(event.run_id).where(event.id.in_(latest)).distinct()),
            *connection.scalars(sa.select(checked.run_id).where(checked.id.in_(latest_checks)).distinct()),
        }


def _of_unfinished(instance: dg.DagsterInstance) -> set[str]:
    """Runs that those which go on refer to: of the same backfill, and those which they repeat."""
    needed: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=list(_UNFINISHED))):
        needed.update(run.tags[tag] for tag in _GROUP_TAGS if tag in run.tags)
    going_on = [status for status in BulkActionStatus if status not in BULK_ACTION_TERMINAL_STATUSES]
    backfills = instance.get_backfills(filters=BulkActionsFilter(statuses=going_on))
    if backfills:
        tags = {_BACKFILL_TAG: [one.backfill_id for one in backfills]}
        needed.update(instance.get_run_ids(dg.RunsFilter(tags=tags)))
    return needed


def _event_count(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> int:
    of = SqlEventLogStorageTable.c
    with _events(instance).index_connection() as connection:
        return sum(
            connection.scalar(sa.select(sa.func.count()).where(of.run_id.in_(some))) or 0
            for some in _portions(run_ids)
        )


def _portions(run_ids: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(run_ids)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
