"""`backfill run` and `backfill resume`.

Belongs here: choosing partitions, launching, showing progress, and the run's result with its exit code.
Does not: the stages; Dagster's API (`orchestration/launch.py`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from backfill_pipeline.cli.banks import refuse_banks
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks, state
from backfill_pipeline.cli.progress import posting_progress
from backfill_pipeline.cli.session import Session, dagster_instance, named_source, open_session
from backfill_pipeline.cli.stated import coloured
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import reconciliation, registrations, status
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.wording import counted

if TYPE_CHECKING:
    import dagster as dg

    from backfill_pipeline.definition.models import SourceDefinition
    from backfill_pipeline.orchestration.launch import LaunchedRun

_RANGE = re.compile(r"^([^.]+?)(?:\.\.([^.]+))?$")
_FAILED_SHOWN = 10
# What a run needs of Dagster and of the stages: imported while the server starts.
_HEAVY = (
    "dagster_postgres",
    "backfill_pipeline.build",
    "backfill_pipeline.orchestration.connections",
    "backfill_pipeline.orchestration.launch",
)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What `run --json` prints. `read` equals the sum of the next five.

    Attributes:
        stated_balances: how they compare with the ledger's (`stages.stated`); None for a source that states none, and
            when nothing was reconciled. They never decide the exit code.
    """

    source_id: str
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    opening_entries: int
    seconds: float
    entries_per_second: float
    reconciliation: str
    constraints: str
    partitions: int
    failed_partitions: list[str]
    offending_accounts: int
    errors: list[str]
    stated_balances: Mapping[str, object] | None = None

    @property
    def exit_code(self) -> ExitCode:
        """A break outweighs a failure, a failure outweighs rejects."""
        if self.reconciliation == "break":
            return ExitCode.RECONCILIATION_BREAK
        if self.errors or self.failed_partitions or self.reconciliation == "not run":
            return ExitCode.FAILED
        if self.rejected or self.conflicts or self.constraints == "refused":
            return ExitCode.REJECTS_OR_REFUSED
        return ExitCode.CLEAN


def run_source(name: str, partitions: str | None, *, as_json: bool, accept_changed: bool) -> ExitCode:
    """Registers a source and takes the wanted partitions through everything."""
    started = time.monotonic()
    definition = named_source(name)
    refuse_banks(definition)
    with open_session(meanwhile=_HEAVY) as session:
        from backfill_pipeline.stages.manifest import check_can_be_asked

        current = registrations.load(session.connection, definition.id)
        check_can_be_asked(definition, current, accept_changed=accept_changed)
        with _launcher(session, definition) as (defs, instance):
            from backfill_pipeline.orchestration.launch import launch_manifest

            manifest = launch_manifest(defs, instance, definition.id, accept_changed=accept_changed)
            if not manifest.success:
                return _print_result(_failed_result(definition.id, manifest, started), as_json=as_json)
            registration = session.registration(definition.id)
            keys = choose_partitions([partition.key for partition in registration.partitions], partitions)
            result = _launch(
                session, defs, instance, registration, [keys], started, before=manifest, quiet=as_json
            )
    return _print_result(result, as_json=as_json)


def resume_source(name: str, *, as_json: bool) -> ExitCode:
    """Takes the partitions that are not posted yet through everything."""
    started = time.monotonic()
    definition = named_source(name)
    refuse_banks(definition)
    with open_session(meanwhile=_HEAVY) as session:
        registration = session.registration(definition.id)
        with _launcher(session, definition) as (defs, instance):
            from backfill_pipeline.orchestration.launch import contiguous_ranges
            from backfill_pipeline.orchestration.partitions import show_posted, sync_partitions

            sync_partitions(instance, registration)
            show_posted(instance, registration)
            keys = [partition.key for partition in registration.partitions]
            missing = [partition.key for partition in registration.partitions if not partition.posted]
            if not missing:
                remarks.print(
                    f"everything of {definition.id} is posted ({counted(len(keys), 'partition')}): constraints and"
                    " reconciliation only"
                )
            ranges = contiguous_ranges(missing, keys) or [[]]
            result = _launch(session, defs, instance, registration, ranges, started, quiet=as_json)
    return _print_result(result, as_json=as_json)


@contextmanager
def _launcher(
    session: Session, definition: SourceDefinition
) -> Iterator[tuple[dg.Definitions, dg.DagsterInstance]]:
    """Definitions of one source and Dagster's instance, with the runs of killed commands swept, and what they left."""
    with dagster_instance(session) as instance:
        from backfill_pipeline.build import build_defs
        from backfill_pipeline.orchestration.launch import sweep_orphans
        from backfill_pipeline.orchestration.rollbacks import show_rolled_back

        for run_id in sweep_orphans(instance, only_own=True):
            remarks.print(f"run {run_id[:8]} of a killed command is marked as failed")
        show_rolled_back(instance, session.connection, definition.id)
        yield build_defs({definition.id: definition}), instance


def choose_partitions(keys: Sequence[str], partitions: str | None) -> list[str]:
    """Those of a source's keys that `A..B` names, by key or by number; all without it.

    Raises:
        UsageError: it names none.
    """
    if partitions is None:
        return list(keys)
    match = _RANGE.match(partitions)
    if match is None:
        raise UsageError(f"--partitions {partitions} is not a range: write it as 3..7, or as 3 for one")
    first = _position(keys, match[1])
    last = _position(keys, match[2] or match[1])
    if first > last:
        raise UsageError(f"--partitions {partitions} ends before it begins: write the smaller key first")
    return list(keys[first : last + 1])


def _position(keys: Sequence[str], name: str) -> int:
    if name in keys:
        return keys.index(name)
    if name.isdecimal() and 1 <= int(name) <= len(keys):
        return int(name) - 1
    known = f"{keys[0]} to {keys[-1]}" if keys else "none"
    raise UsageError(f"there is no partition {name}: this source has {known}")


def _launch(
    session: Session,
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    registration: Registration,
    ranges: Sequence[Sequence[str]],
    started: float,
    *,
    before: LaunchedRun | None = None,
    quiet: bool,
) -> RunResult:
    """Launches one run per range (one, unless partitions in the middle were missing) and adds up what they did."""
    from backfill_pipeline.orchestration.launch import launch_range

    # The run that registered the source counts too: it posts the opening balances of one without rows.
    runs: list[LaunchedRun] = [] if before is None else [before]
    rows = sum(
        partition.plan.row_count
        for keys in ranges
        for partition in registration.partitions
        if partition.key in set(keys)
    )
    with posting_progress(session.endpoint.ledger_url, registration.source_id, rows, show=not quiet):
        for keys in ranges:
            # Once, after the last range: constraints that are applied between two ranges would judge a half-told
            # history, and refuse rows of the second one that a single run posts.
            last = keys is ranges[-1]
            runs.append(launch_range(defs, instance, registration.source_id, keys, finish=last))
    return _result(session, registration, ranges, runs, started)


def _result(
    session: Session,
    registration: Registration,
    ranges: Sequence[Sequence[str]],
    runs: Sequence[LaunchedRun],
    started: float,
) -> RunResult:
    keys = [key for keys in ranges for key in keys]
    counts = status.run_counts(session.connection, registration.id, keys, [run.run_id for run in runs])
    outcomes = {
        outcome.partition_key: outcome
        for outcome in status.partition_outcomes(session.connection, registration.id)
    }
    metadata: dict[str, dict[str, object]] = {}
    for run in runs:
        metadata.update(run.metadata)
    constraints = metadata.get("balance_constraints", {})
    reconciled = metadata.get(f"{registration.source_id}/reconciliation")
    seconds = time.monotonic() - started
    return RunResult(
        source_id=registration.source_id,
        **asdict(counts),
        seconds=round(seconds, 3),
        entries_per_second=round(counts.posted / seconds, 1),
        reconciliation=str((reconciled or {}).get("verdict", "not run")),
        constraints=str(constraints.get("state", "not run")),
        partitions=len(keys),
        failed_partitions=[key for key in keys if outcomes[key].status != "posted"],
        offending_accounts=int(str(constraints.get("offending_accounts", 0))),
        errors=[error for run in runs for error in run.errors],
        stated_balances=None if reconciled is None else _stated_balances(session, registration),
    )


def _stated_balances(session: Session, registration: Registration) -> Mapping[str, object] | None:
    """What the reconciliation of this run found out about them."""
    verdict = reconciliation.latest(session.connection, registration.id)
    found = None if verdict is None else verdict.details.get("stated_balances")
    return found if isinstance(found, Mapping) else None


def _failed_result(source_id: str, manifest: LaunchedRun, started: float) -> RunResult:
    return RunResult(
        source_id=source_id,
        **asdict(status.RunCounts(0, 0, 0, 0, 0, 0, 0)),
        seconds=round(time.monotonic() - started, 3),
        entries_per_second=0.0,
        reconciliation="not run",
        constraints="not run",
        partitions=0,
        failed_partitions=[],
        offending_accounts=0,
        errors=manifest.errors,
    )


def _print_result(result: RunResult, *, as_json: bool) -> ExitCode:
    if as_json:
        print_json(asdict(result))
    elif result.partitions or not result.errors:  # otherwise nothing happened, and the error says why
        _print_text(result, console.print)
    for error in result.errors:
        remarks.print("[red]failed:[/red] ", end="")
        # It may quote the source, in which brackets are no markup.
        remarks.print(error, markup=False, soft_wrap=True)
    return result.exit_code


def _print_text(result: RunResult, line: Callable[..., None]) -> None:
    line(
        f"[bold]{result.source_id}[/bold]  read {result.read:,} = posted {result.posted:,}"
        f" + duplicates {result.duplicates:,} + conflicts {result.conflicts:,}"
        f" + rejected {result.rejected:,} + filtered {result.filtered:,}",
        soft_wrap=True,
    )
    failed = f", {len(result.failed_partitions)} of them not posted" if result.failed_partitions else ""
    line(f"  partitions      {result.partitions}{failed}")
    line(f"  opening entries {result.opening_entries:,}")
    offending = f", offending accounts: {result.offending_accounts:,}" if result.offending_accounts else ""
    line(f"  constraints     {state(result.constraints)}{offending}")
    line(f"  reconciliation  {state(result.reconciliation)}")
    if (stated := result.stated_balances) is not None:
        line(
            f"  stated balances {coloured(str(stated['sentence']), agrees=bool(stated['agrees']))}",
            soft_wrap=True,
        )
    line(
        f"  time            {result.seconds:.1f} s, {counted(round(result.entries_per_second), 'entry', 'entries')}/s"
    )
    for advice in _next_steps(result):
        line(f"  next            {advice}", soft_wrap=True)


def _next_steps(result: RunResult) -> list[str]:
    """Commands for what is left to do; an error comes with its own advice."""
    steps = []
    if result.failed_partitions and not result.errors:
        shown = ", ".join(result.failed_partitions[:_FAILED_SHOWN])
        steps.append(f"backfill resume {result.source_id}   (not posted: {shown})")
    if result.rejected or result.conflicts:
        steps.append(f"backfill rejects list {result.source_id}")
    if result.constraints == "refused":
        steps.append("backfill constraints apply   (lists the accounts; correct them by entries first)")
    if result.reconciliation == "break":
        steps.append(f"backfill reconcile {result.source_id}   (shows the breaks)")
    if result.stated_balances is not None and not result.stated_balances["agrees"]:
        steps.append(
            f"backfill reconcile {result.source_id}   (shows where stated balances part from the ledger)"
        )
    return steps
