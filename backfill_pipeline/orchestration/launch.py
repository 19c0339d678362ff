"""Launching: Dagster runs from the command line, in this process, on the instance that the UI shows.

Belongs here: creating a run as the UI would (same jobs, same tags, same code location, so that it can be re-executed
there), executing it here, and sweeping the runs of killed processes.
Does not: what is printed (`cli/`), what is run (`assets/`).

A run is executed in process: starting a code server and a run worker for it would cost ten seconds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

import dagster as dg
import psutil
import sqlalchemy.exc
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.errors import DagsterAssetCheckFailedError
from dagster._core.execution.api import execute_run_iterator
from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.workspace.load_target import ModuleTarget
from dagster_postgres.utils import DagsterPostgresException
from dagster_shared.error import SerializableErrorInfo

from backfill_pipeline.errors import TransientLedgerError, UsageError
from backfill_pipeline.orchestration.assets.keys import (
    CONSTRAINTS_KEY,
    DAY_ASSETS,
    RANGE_END_TAG,
    RANGE_START_TAG,
    asset_key,
    days_op_name,
    sync_job_name,
)
from backfill_pipeline.orchestration.leftovers import HOST_TAG, PID_TAG, STARTED_TAG, is_alive
from backfill_pipeline.stages.prepare import STAGES

LOCATION = "ledger_backfill"  # as in workspace.yaml
_REPOSITORY = "__repository__"
_RUNNING = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


# Events go to the instance, where the UI shows them; the terminal belongs to the command.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(slots=True)
class LaunchedRun:
    """A finished run.

    Attributes:
        errors: what failed, one sentence each.
        checks: check name → whether it passed, for the checks that were evaluated.
        metadata: asset key as path → metadata of its last unpartitioned materialization.
    """

    run_id: str
    success: bool
    interrupted: bool = False
    errors: list[str] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)


def launch_manifest(
    defs: dg.Definitions, instance: dg.DagsterInstance, source_id: str, *, accept_changed: bool
) -> LaunchedRun:
    """Materializes a source's manifest, which registers it."""
    return _execute(
        defs,
        instance,
        job_name=f"register_{source_id}",
        asset_keys=[asset_key(source_id, "manifest")],
        run_config={"ops": {f"{source_id}__manifest": {"config": {"accept_changed": accept_changed}}}},
    )


def launch_range(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    source_id: str,
    keys: Sequence[str],
    *,
    finish: bool = True,
) -> LaunchedRun:
    """Takes partitions (a contiguous range, in source order) through everything after the manifest, in one run.

    Without partitions only constraints and reconciliation run.

    Args:
        defs: holds the source.
        instance: where the run is recorded.
        source_id: the source.
        keys: the partitions.
        finish: apply the constraints and reconcile afterwards; False while more ranges are to come.

    Raises:
        KeyboardInterrupt: Ctrl-C; what is committed stays.
    """
    stages = [asset_key(source_id, stage) for stage in STAGES] if keys else []
    tags = {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]} if keys else {}
    ending = [CONSTRAINTS_KEY, asset_key(source_id, "reconciliation")] if finish else []
    return _execute(
        defs,
        instance,
        job_name=f"backfill_{source_id}",
        asset_keys=[*stages, *ending],
        tags=tags,
    )


def launch_days(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    source_id: str,
    days: Sequence[date],
    *,
    refetch: str = "changed",
    finish: bool = True,
) -> LaunchedRun:
    """Takes days of a bank through everything, in one run.

    Args:
        defs: holds the bank.
        instance: where the run is recorded.
        source_id: the bank's source.
        days: from the first to the last, without a gap.
        refetch: changed leaves days alone that are complete, while the bank states the same control totals; always
            fetches all of them again.
        finish: apply the constraints afterwards; False while more ranges or banks are to come.

    Raises:
        UsageError: a day is before the bank's first one, or is not over.
        KeyboardInterrupt: Ctrl-C; what is committed stays.
    """
    assert days, "a run needs a day"
    assert (days[-1] - days[0]).days == len(days) - 1, "a run takes days without a gap"
    partitions = defs.resolve_assets_def(asset_key(source_id, DAY_ASSETS[0])).partitions_def
    assert partitions is not None
    keys = [day.isoformat() for day in days]
    for key in (keys[0], keys[-1]):
        if not partitions.has_partition_key(key):
            raise UsageError(
                f"{key} is no day of {source_id}: its days are {partitions.get_first_partition_key()} (scb.start)"
                f" to {partitions.get_last_partition_key() or 'none yet'} (the last one that is over)"
            )
    return _execute(
        defs,
        instance,
        job_name=sync_job_name(source_id),
        asset_keys=[
            *(asset_key(source_id, name) for name in DAY_ASSETS),
            *([CONSTRAINTS_KEY] if finish else []),
        ],
        run_config={"ops": {days_op_name(source_id): {"config": {"refetch": refetch}}}},
        tags={RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]},
    )


def _execute(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    job_name: str,
    asset_keys: Sequence[dg.AssetKey],
    run_config: dict[str, object] | None = None,
    tags: dict[str, str] | None = None,
) -> LaunchedRun:
    job = defs.resolve_job_def(job_name)
    selection = frozenset(asset_keys)
    run = instance.create_run_for_job(
        job_def=job.get_subset(asset_selection=selection),
        run_config={**(run_config or {}), **_QUIET},
        tags={
            **(tags or {}),
            ".dagster/repository": f"{_REPOSITORY}@{LOCATION}",
            "backfill/launched_by": "backfill command",
            **process_tags(),
        },
        asset_selection=selection,
        remote_job_origin=job_origin(job_name),
    )
    outcome = LaunchedRun(run.run_id, success=False)
    try:
        for event in execute_run_iterator(InMemoryJob(job), run, instance):
            _take(event, outcome)
        if outcome.interrupted:  # Dagster turns Ctrl-C into a failure of the step that was running
            raise KeyboardInterrupt
    except (DagsterPostgresException, sqlalchemy.exc.DBAPIError) as error:
        # Nobody can be told now that the run ended; the next command finds its process gone.
        raise TransientLedgerError(
            "Dagster's records cannot be reached any more, so the run was stopped; what is committed stays:"
            " see that the server runs, then carry on with backfill resume SOURCE"
        ) from error
    except BaseException:
        finish_abandoned(instance, run.run_id, "interrupted")
        raise
    finished = instance.get_run_by_id(run.run_id)
    outcome.success = finished is not None and finished.status is dg.DagsterRunStatus.SUCCESS
    return outcome


def process_tags() -> dict[str, str]:
    """Which process executes a run: by it the next command finds out whether the run is still going on."""
    return {
        HOST_TAG: socket.gethostname(),
        PID_TAG: str(os.getpid()),
        STARTED_TAG: str(psutil.Process().create_time()),
    }


def job_origin(job_name: str) -> RemoteJobOrigin:
    """Where the UI finds the job's code: what workspace.yaml says."""
    (location,) = ModuleTarget(
        module_name="backfill_pipeline.definitions",
        attribute=None,
        working_directory=None,
        location_name=LOCATION,
    ).create_origins()
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, _REPOSITORY), job_name)


def _take(event: dg.DagsterEvent, outcome: LaunchedRun) -> None:
    if event.is_step_failure:
        data = event.step_failure_data
        kind = data.error.cls_name if data.error else None
        if kind == dg.DagsterExecutionInterruptedError.__name__:
            outcome.interrupted = True
        elif kind == DagsterAssetCheckFailedError.__name__:
            return  # a blocking check fails its step as well; the check's verdict says it better
        text = data.user_failure_data.description if data.user_failure_data else None
        outcome.errors.append(text or _unforeseen(data.error) or f"{event.step_key} failed")
    elif event.is_step_materialization:
        materialization = event.step_materialization_data.materialization
        if materialization.partition is None:
            values: dict[str, object] = {key: value.value for key, value in materialization.metadata.items()}
            outcome.metadata["/".join(materialization.asset_key.path)] = values
    elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        evaluation = event.asset_check_evaluation_data
        outcome.checks[evaluation.check_name] = evaluation.passed


def _unforeseen(error: SerializableErrorInfo | None) -> str:
    """What really happened, below the errors that Dagster wraps around it."""
    if error is None:
        return ""
    innermost, cause = error, error.cause
    while cause is not None:
        innermost, cause = cause, cause.cause
    told = innermost.message.strip()
    return told if innermost is error else f"unexpected {told}"


def sweep_orphans(instance: dg.DagsterInstance, *, only_own: bool) -> list[str]:
    """Marks runs as failed whose process is gone, and frees their slots; returns their ids.

    Args:
        instance: where the runs are.
        only_own: look only at runs of the `backfill` command, told by process id and start time. Otherwise runs
            that a code server launched count as orphans too: right when no such server is running, as before
            `backfill up` starts one.
    """
    swept = []
    for run in instance.get_runs(dg.RunsFilter(statuses=list(_RUNNING))):
        pid, started = run.tags.get(PID_TAG), run.tags.get(STARTED_TAG)
        if pid is None:
            orphan = not only_own
        elif run.tags.get(HOST_TAG) != socket.gethostname():
            orphan = False  # another machine shares this instance: only it can tell
        else:
            orphan = not is_alive(int(pid), started)
        if orphan:
            finish_abandoned(instance, run.run_id, "the process that executed it is gone")
            swept.append(run.run_id)
    return swept


def finish_abandoned(instance: dg.DagsterInstance, run_id: str, reason: str) -> None:
    """Marks a run as failed that nobody executes any more, and gives its slots back."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_failed(
            run, f"Marked as failed: {reason}. What it committed stays; the next run carries on."
        )
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def contiguous_ranges(keys: Iterable[str], all_keys: Sequence[str]) -> list[list[str]]:
    """Splits keys into runs of neighbours, in source order: each can be launched as one range."""
    wanted = set(keys)
    ranges: list[list[str]] = []
    previous_taken = False
    for key in all_keys:
        if key in wanted:
            if previous_taken:
                ranges[-1].append(key)
            else:
                ranges.append([key])
        previous_taken = key in wanted
    return ranges
