"""Runs that failed, as alerts.

Belongs here: which failed runs people are told of, and in which words.
Does not: sending (`reporting/alerts`), when it is looked (`sensors`).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import partial
from typing import Final

import dagster as dg

from backfill_pipeline.orchestration.assets.keys import (
    BANK_TAG,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
)
from backfill_pipeline.orchestration.failures import why_failed
from backfill_pipeline.orchestration.rollbacks import ROLLBACK_TAG
from backfill_pipeline.reporting.alerts.message import Alert, Kind, Severity, alert
from backfill_pipeline.reporting.alerts.postbox import Happening

_RUNS_AT_ONCE: Final = 500
_JOB_PREFIXES: Final = ("register_", "backfill_")
_SENSOR_TAG: Final = "dagster/sensor_name"
_WILL_RETRY_TAG: Final = "dagster/will_retry"
_LAUNCHED_BY_TAG: Final = "backfill/launched_by"


def run_failures(instance: dg.DagsterInstance, since: datetime) -> list[Happening]:
    """Runs that failed since a moment, the one that was begun first at the front.

    A run that shows a rollback did not fail, and one that a person cancelled is no news. What a sensor launches
    again and again, such as the dispatch to a bank that is away, is told once an hour for each reason.

    Args:
        instance: where runs are recorded.
        since: the moment.
    """
    found = []
    for record in reversed(_failed(instance, since)):
        run = record.dagster_run
        at = (
            datetime.fromtimestamp(record.end_time, UTC)
            if record.end_time
            else record.update_timestamp.astimezone(UTC)
        )
        if ROLLBACK_TAG in run.tags or at < since:
            continue
        key = f"run_failed/{run.run_id}"
        if _SENSOR_TAG in run.tags:
            reason, _ = _reason(instance, run.run_id)
            same = hashlib.sha256(f"{run.job_name}/{reason}".encode()).hexdigest()[:16]
            key = f"run_failed/{run.job_name}/{same}/{at:%Y%m%dT%H}"
        found.append(Happening(key, at, partial(_tell, instance, key, run, at)))
    return found


def _failed(instance: dg.DagsterInstance, since: datetime) -> list[dg.RunRecord]:
    """All of them: a limit would leave out those that were begun first, whenever they failed."""
    of = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    found: list[dg.RunRecord] = []
    while True:
        cursor = found[-1].dagster_run.run_id if found else None
        some = instance.get_run_records(of, limit=_RUNS_AT_ONCE, cursor=cursor)
        found += some
        if len(some) < _RUNS_AT_ONCE:
            return found


def _reason(instance: dg.DagsterInstance, run_id: str) -> tuple[str, bool]:
    """Why a run failed; of one without a failed step, what its end says."""
    if (known := why_failed(instance, run_id)) is not None:
        return known
    ends = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    told = ends[-1].dagster_event.message if ends and ends[-1].dagster_event is not None else None
    return " ".join((told or "its process died").split()), True


def _tell(instance: dg.DagsterInstance, key: str, run: dg.DagsterRun, at: datetime) -> Alert:
    reason, may_succeed = _reason(instance, run.run_id)
    source_id = _source(run)
    named = None if run.job_name.startswith("__") else run.job_name
    first, last = run.tags.get(RANGE_START_TAG), run.tags.get(RANGE_END_TAG)
    partitions = run.tags.get(PARTITION_TAG) or (f"{first} to {last}" if first != last else first)
    return alert(
        key,
        Kind.RUN_FAILED,
        Severity.ERROR,
        title=f"run {run.run_id[:8]} of {source_id or named or 'assets'} failed",
        text=reason if reason.endswith((".", "!", "?")) else f"{reason}.",
        remedy=_remedy(run, source_id, reason, may_succeed=may_succeed),
        at=at,
        facts={
            "source": source_id,
            "job": named,
            "run": run.run_id,
            "partitions": partitions,
            "launched by": run.tags.get(_LAUNCHED_BY_TAG),
        },
        source_id=source_id,
        run_id=run.run_id,
    )


def _remedy(run: dg.DagsterRun, source_id: str | None, reason: str, *, may_succeed: bool) -> str:
    if f"backfill resume {source_id}" in reason:
        return ""  # the sentence says what to do already, and better
    if BANK_TAG in run.tags and source_id is not None:
        again = f"backfill sync run {source_id} takes the days that are not complete"
    elif source_id is not None:
        again = f"backfill resume {source_id}, or failed and missing partitions in the UI, carries on where it stopped"
    else:
        again = "the UI launches it again"
    if run.tags.get(_WILL_RETRY_TAG) == "true":
        return f"Dagster starts it again by itself where backfill up runs; else {again}"
    return again if may_succeed else f"Put right what the sentence names; then {again}"


def _source(run: dg.DagsterRun) -> str | None:
    """The source that a run was about; None when it was about none, or about several."""
    if BANK_TAG in run.tags:
        return run.tags[BANK_TAG]
    selected = {key.path[0] for key in run.asset_selection or () if len(key.path) == 2}
    if len(selected) == 1:
        return next(iter(selected))
    named = [run.job_name.removeprefix(prefix) for prefix in _JOB_PREFIXES if run.job_name.startswith(prefix)]
    return named[0] if named else None
