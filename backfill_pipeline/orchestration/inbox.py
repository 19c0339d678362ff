"""The inbox's runs: which step of a source is next, and which were tried.

Belongs here: looking at Dagster's runs, and the run request of a step.
Does not: deciding what there is to do (`stages/inbox.py`), when to look (`sensors.py`).

Dagster's runs are the memory of what was tried: each carries the signature of its step. A step that failed for a reason
is not tried again until the files, the definition or the ledger change; one whose process died is tried again, a few
times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.ledger.connection import Connection, is_being_written
from backfill_pipeline.orchestration.assets.keys import (
    CONSTRAINTS_KEY,
    RANGE_END_TAG,
    RANGE_START_TAG,
    asset_key,
)
from backfill_pipeline.orchestration.failures import why_failed
from backfill_pipeline.stages.inbox import SourceInbox, Step, examine
from backfill_pipeline.stages.inbox_files import FoundFile, is_in_inbox, look, strangers
from backfill_pipeline.stages.prepare import STAGES

INBOX_TAG: Final = "backfill/inbox"
INBOX_SOURCE_TAG: Final = "backfill/inbox_source"
ATTEMPTS_MAX: Final = 3

IN_PROGRESS: Final = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_CANCELLED: Final = "its run was cancelled: backfill run or resume carries on, and so does a new file"
_JOBS: Final = ("register_", "backfill_")
# How long Dagster is given to start a run again whose worker died.
_RETRY_GRACE_S: Final = 120
_WILL_RETRY_TAG: Final = "dagster/will_retry"
_RETRIED_BY_TAG: Final = "dagster/auto_retry_run_id"

InboxState = Literal["empty", "waiting", "ready", "running", "refused", "done"]


@dataclass(frozen=True, slots=True)
class SourceState:
    """How a source of the inbox stands.

    Attributes:
        state: ready means that `step` is to be launched now; refused, that people must look at `note`.
        step: what is to be launched.
        attempt: of that step, from 1.
        note: why, in a sentence.
    """

    inbox: SourceInbox
    state: InboxState
    step: Step | None = None
    attempt: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class InboxOverview:
    """All sources that take files from the inbox, and files that no source takes."""

    sources: tuple[SourceState, ...]
    strangers: tuple[Path, ...]


def inbox_sources(definitions: Iterable[SourceDefinition], inbox_dir: Path) -> list[SourceDefinition]:
    """Those that take files from the inbox."""
    return [one for one in definitions if is_in_inbox(one, inbox_dir)]


def overview(
    connection: Connection,
    instance: dg.DagsterInstance,
    sources: Sequence[SourceDefinition],
    inbox_dir: Path,
    *,
    settle_s: int,
    remember: bool,
) -> InboxOverview:
    """Looks at the inbox.

    Args:
        connection: to the ledger.
        instance: where runs are recorded.
        sources: those that take files from it.
        inbox_dir: the folder.
        settle_s: for how long a file must have been as it is.
        remember: keep what is seen for the next look, as the sensor does.
    """
    now = datetime.now(UTC)
    found = look(connection, sources, inbox_dir, now=now, settle_s=settle_s, remember=remember)
    busy = _busy(instance)
    states = []
    for definition in sources:
        state = _settled(connection, instance, definition, found, now)
        if definition.id in busy or is_being_written(connection, definition.id):
            state = SourceState(state.inbox, "running", note="a run is in progress")
        states.append(state)
    return InboxOverview(tuple(states), tuple(strangers(inbox_dir, found)))


def _settled(
    connection: Connection,
    instance: dg.DagsterInstance,
    definition: SourceDefinition,
    found: Mapping[Path, FoundFile],
    now: datetime,
) -> SourceState:
    """How a source stands when files that made a run fail are left out."""
    refused: dict[Path, str] = {}
    while True:
        inbox = examine(connection, definition, found, now, refused)
        state, reason = _next(instance, inbox)
        culprit = _culprit(inbox, reason)
        if state.step is not None or culprit is None:
            return state
        refused[culprit] = reason


def _culprit(inbox: SourceInbox, reason: str) -> Path | None:
    """The new file that a failure is about; its sentence begins with the file then."""
    news = [file.path for file in inbox.files if file.state == "new"]
    return next((path for path in news if len(inbox.files) > 1 and reason.startswith(f"{path}: ")), None)


def run_request(state: SourceState) -> dg.RunRequest:
    """The run that takes the next step of a source."""
    step, source_id = state.step, state.inbox.source_id
    assert step is not None
    tag = _tag(source_id, step)
    tags = {INBOX_TAG: tag, INBOX_SOURCE_TAG: source_id, "backfill/launched_by": "inbox"}
    run_key = f"{tag}/{state.attempt}"
    if step.kind == "register":
        config = {"ops": {f"{source_id}__manifest": {"config": {"files": list(step.names)}}}}
        return dg.RunRequest(run_key, config, tags, job_name=f"register_{source_id}")
    ending = [CONSTRAINTS_KEY, asset_key(source_id, "reconciliation")]
    stages = []
    if step.kind == "post":
        tags |= {RANGE_START_TAG: step.first_key, RANGE_END_TAG: step.last_key}
        stages = [asset_key(source_id, stage) for stage in STAGES]
    return dg.RunRequest(
        run_key, tags=tags, job_name=f"backfill_{source_id}", asset_selection=[*stages, *ending]
    )


def _tag(source_id: str, step: Step) -> str:
    return f"{source_id}/{step.kind}/{step.signature}"


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Sources that a run is working on, or will."""
    busy: set[str] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=list(IN_PROGRESS))):
        busy |= {key.path[0] for key in run.asset_selection or ()}
        busy |= {run.job_name.removeprefix(job) for job in _JOBS if run.job_name.startswith(job)}
    return busy


def _next(instance: dg.DagsterInstance, inbox: SourceInbox) -> tuple[SourceState, str]:
    """The first step that may still succeed; and why registering failed, when it did."""
    refusals: list[str] = []
    register_failure = ""
    for step in inbox.steps:
        runs = instance.get_runs(dg.RunsFilter(tags={INBOX_TAG: _tag(inbox.source_id, step)}))
        if not runs:
            if step.kind != "register" and _was_cancelled(instance, inbox.source_id):
                refusals.append(_CANCELLED)
                continue
            return SourceState(inbox, "ready", step, 1, _told(step)), register_failure
        last = runs[0]  # the newest
        if last.status is dg.DagsterRunStatus.SUCCESS:
            continue
        if _is_about_to_be_retried(instance, last):
            return SourceState(inbox, "running", note="Dagster starts its run again"), ""
        reason, may_succeed = _why(instance, last)
        if may_succeed and len(runs) < ATTEMPTS_MAX:
            again = f"{_told(step)} again: {reason}"
            return SourceState(inbox, "ready", step, len(runs) + 1, again), register_failure
        if step.kind == "register":
            register_failure = reason
        refusals.append(f"{reason} (run {last.run_id[:8]}, {_told(step)})")
    files = [file.note for file in inbox.files if file.state == "refused"]
    if troubles := [one for one in (inbox.trouble, *refusals, *files) if one]:
        return SourceState(inbox, "refused", note="; ".join(troubles[:3])), register_failure
    if waiting := sum(file.state == "waiting" for file in inbox.files):
        return SourceState(
            inbox, "waiting", note=f"{waiting} {'file' if waiting == 1 else 'files'} may still grow"
        ), ""
    return SourceState(inbox, "done" if inbox.files else "empty"), ""


def _told(step: Step) -> str:
    match step.kind:
        case "register":
            return "registers it"
        case "post":
            return f"posts {step.first_key} to {step.last_key}"
        case "finish":
            return "applies constraints and reconciles"


def _was_cancelled(instance: dg.DagsterInstance, source_id: str) -> bool:
    """Whether a person stopped the last run that the inbox launched; what it did until then does not count."""
    runs = instance.get_runs(dg.RunsFilter(tags={INBOX_SOURCE_TAG: source_id}), limit=1)
    return bool(runs) and runs[0].status is dg.DagsterRunStatus.CANCELED


def _is_about_to_be_retried(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    if run.tags.get(_WILL_RETRY_TAG) != "true" or _RETRIED_BY_TAG in run.tags:
        return False
    record = instance.get_run_record_by_id(run.run_id)
    ended = record.end_time if record is not None else None
    return ended is not None and datetime.now(UTC).timestamp() - ended < _RETRY_GRACE_S


def _why(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[str, bool]:
    """Why a run did not succeed, and whether the same again may."""
    if run.status is dg.DagsterRunStatus.CANCELED:
        return _CANCELLED, False
    return why_failed(instance, run.run_id) or ("its process died", True)
