"""`backfill sync run`: days of banks through everything, as Dagster runs that the UI shows.

Belongs here: which banks and days are meant, launching, and the result with its exit code.
Does not: what is done with a day (`dual_ledger/`), Dagster's API (`orchestration/launch.py`), looking at days that were
synchronised (`sync_show.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal

from backfill_pipeline.cli.banks import (
    Span,
    check_banks,
    chosen_banks,
    chosen_spans,
    contiguous,
    why_incomplete,
)
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks, state
from backfill_pipeline.cli.progress import days_progress
from backfill_pipeline.cli.session import Session, dagster_instance, open_session
from backfill_pipeline.cli.tables import printable
from backfill_pipeline.ledger.banks import bank_days, sync_status
from backfill_pipeline.wording import counted

if TYPE_CHECKING:
    import dagster as dg

    from backfill_pipeline.definition.models import SourceDefinition
    from backfill_pipeline.ledger.banks.sync_status import SyncStatus
    from backfill_pipeline.orchestration.launch import LaunchedRun

_HEAVY = (
    "dagster_postgres",
    "backfill_pipeline.build",
    "backfill_pipeline.orchestration.connections",
    "backfill_pipeline.orchestration.launch",
)
_DAYS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class IncompleteDay:
    """A day that is not done: its state (break, failed, open, not tried), and why."""

    day: date
    state: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class BankResult:
    """What a run did about the days of one bank. `read` equals the sum of the next five.

    Attributes:
        read: entries of the days that were not left alone; those that an earlier run posted are duplicates.
        synced: days that something was done about, and that are complete.
        unchanged: days that were complete, and of which the bank still says the same.
        not_asked: days that were complete, and of which the bank could not be asked.
        acknowledged: entries of all these days that the bank knows to be posted.
        rejects: the first day of the run that has rejects or conflicts.
    """

    source_id: str
    bank_id: str
    first: date | None
    last: date | None
    days: int
    synced: int
    unchanged: int
    not_asked: int
    incomplete: list[IncompleteDay]
    read: int = 0
    posted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    filtered: int = 0
    acknowledged: int = 0
    opening_entries: int = 0
    seconds: float = 0.0
    run_ids: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    rejects: date | None = None

    def said_by_its_days(self, error: str) -> bool:
        """Whether an error of the run says no more than the reasons of the days."""
        if self.not_asked or not all(one.reason for one in self.incomplete):
            return False
        told = (f"of {self.source_id} {verb} not complete" for verb in ("is", "are"))
        return bool(self.incomplete) and any(one in error for one in told)

    @property
    def ledgers(self) -> str:
        """Whether both ledgers are equal, as far as they were compared."""
        if any(one.state == "break" for one in self.incomplete):
            return "break"
        return "not run" if self.incomplete or self.not_asked or self.errors else "match"


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What `sync run --json` prints."""

    banks: list[BankResult]
    constraints: str
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """A break outweighs a failure, a failure outweighs rejects."""
        found = {bank.ledgers for bank in self.banks}
        if "break" in found:
            return ExitCode.RECONCILIATION_BREAK
        if "not run" in found:
            return ExitCode.FAILED
        if self.constraints == "refused" or any(bank.rejected or bank.conflicts for bank in self.banks):
            return ExitCode.REJECTS_OR_REFUSED
        return ExitCode.CLEAN


def run_sync(
    names: Sequence[str],
    first: str | None,
    last: str | None,
    *,
    refetch: Literal["changed", "always"],
    as_json: bool,
) -> ExitCode:
    """Takes days of banks through everything.

    Args:
        names: of banks, or none for all.
        first: the first day, or "start"; None with `last` too means what a night takes up.
        last: the last day; the latest one that is over when None.
        refetch: always fetches days again that the bank says nothing new of.
        as_json: one JSON object instead of text.
    """
    started = time.monotonic()
    now = datetime.now(UTC)
    banks = chosen_banks(names)
    spans = chosen_spans(banks, first, last, now)
    check_banks(banks)
    with open_session(meanwhile=_HEAVY) as session, dagster_instance(session) as instance:
        from backfill_pipeline.build import build_defs
        from backfill_pipeline.orchestration.launch import sweep_orphans
        from backfill_pipeline.orchestration.rollbacks import show_rolled_back

        for run_id in sweep_orphans(instance, only_own=True):
            remarks.print(f"run {run_id[:8]} of a killed command is marked as failed")
        for bank in banks:
            show_rolled_back(instance, session.connection, bank.id)
        defs = build_defs({bank.id: bank for bank in banks})
        launcher = _Launcher(session, instance, defs, refetch, quiet=as_json)
        results = [launcher.sync(bank, spans[bank.id], now, is_last=bank is banks[-1]) for bank in banks]
    result = SyncResult(results, launcher.constraints, round(time.monotonic() - started, 3))
    if as_json:
        print_json({**asdict(result), "exit_code": result.exit_code})
    else:
        _print_text(result)
    return result.exit_code


@dataclass(slots=True)
class _Launcher:
    """Launches one bank after the other; the constraints come once, behind the last, when nothing failed before."""

    session: Session
    instance: dg.DagsterInstance
    defs: dg.Definitions
    refetch: str
    quiet: bool
    constraints: str = "not run"
    all_went_well: bool = True

    def sync(self, bank: SourceDefinition, span: Span | None, now: datetime, *, is_last: bool) -> BankResult:
        """Launches a run for each stretch of days without a gap."""
        from backfill_pipeline.dual_ledger.days import nightly_days
        from backfill_pipeline.orchestration.launch import launch_days

        started = time.monotonic()
        days = span.days() if span is not None else nightly_days(self.session.connection, bank, now)
        runs: list[LaunchedRun] = []
        ranges = contiguous(days)
        with days_progress(self.session.endpoint.ledger_url, bank.id, days, show=not self.quiet):
            for stretch in ranges:
                finish = is_last and stretch is ranges[-1] and self.all_went_well
                run = launch_days(
                    self.defs, self.instance, bank.id, stretch, refetch=self.refetch, finish=finish
                )
                runs.append(run)
                self.all_went_well &= run.success
                if (found := run.metadata.get("balance_constraints")) is not None:
                    self.constraints = str(found.get("state", "not run"))
        return _result(self.session, bank, days, runs, time.monotonic() - started)


def _result(
    session: Session,
    bank: SourceDefinition,
    days: Sequence[date],
    runs: Sequence[LaunchedRun],
    seconds: float,
) -> BankResult:
    assert bank.scb is not None
    if not days:
        return BankResult(bank.id, bank.scb.bank_id, None, None, 0, 0, 0, 0, [])
    run_ids = [run.run_id for run in runs]
    wanted = set(days)
    noted = {
        one.day: one
        for one in sync_status.load(session.connection, bank.id, days[0], days[-1])
        if one.day in wanted
    }
    done = [one for one in noted.values() if one.complete]
    touched = {one.day for one in noted.values() if one.run_id in run_ids}
    counted = [
        one
        for one in bank_days.days_of_runs(session.connection, bank.id, days[0], days[-1], run_ids)
        if one.day in touched
    ]
    names = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")
    sums = {name: sum(getattr(one, name) for one in counted) for name in names}
    return BankResult(
        source_id=bank.id,
        bank_id=bank.scb.bank_id,
        first=days[0],
        last=days[-1],
        days=len(days),
        synced=sum(one.run_id in run_ids for one in done),
        unchanged=sum(one.run_id not in run_ids and one.checked_by in run_ids for one in done),
        not_asked=sum(one.run_id not in run_ids and one.checked_by not in run_ids for one in done),
        incomplete=[
            _incomplete(day, noted.get(day)) for day in days if day not in noted or not noted[day].complete
        ],
        **sums,
        acknowledged=sum(one.acknowledged or 0 for one in noted.values()),
        opening_entries=bank_days.opening_entries(session.connection, run_ids),
        seconds=round(seconds, 3),
        run_ids=run_ids,
        errors=[error for run in runs for error in run.errors],
        rejects=next((one.day for one in counted if one.rejected or one.conflicts), None),
    )


def _incomplete(day: date, noted: SyncStatus | None) -> IncompleteDay:
    if noted is None:
        return IncompleteDay(day, "not tried", None)
    return IncompleteDay(day, noted.state, why_incomplete(noted))


# --- for people -------------------------------------------------------------------------------------------------


def _print_text(result: SyncResult) -> None:
    for bank in result.banks:
        _print_bank(bank)
    if result.constraints != "not run":
        console.print(f"balance constraints  {state(result.constraints)}")
    console.print(f"time                 {result.seconds:.1f} s")


def _print_bank(bank: BankResult) -> None:
    if not bank.days:
        console.print(f"[bold]{bank.source_id}[/bold]  no day of it is over yet")
        return
    span = f"{bank.first}" if bank.days == 1 else f"{bank.first} to {bank.last}"
    told = [f"{bank.synced:,} synced"] if bank.synced else []
    told += [f"{bank.unchanged:,} unchanged"] if bank.unchanged else []
    told += [f"[red]{bank.not_asked:,} complete before, not asked now[/red]"] if bank.not_asked else []
    told += [f"[red]{len(bank.incomplete):,} not complete[/red]"] if bank.incomplete else []
    console.print(f"[bold]{bank.source_id}[/bold]  {counted(bank.days, 'day')}, {span}: {', '.join(told)}")
    if bank.unchanged + bank.not_asked < bank.days:
        _print_counts(bank)
    console.print(f"  acknowledged    {bank.acknowledged:,}")
    console.print(f"  both ledgers    {state(bank.ledgers)}")
    for one in bank.incomplete[:_DAYS_SHOWN]:
        console.print(f"  [bold]{one.day}[/bold]  {state(one.state)}  ", end="")
        console.print(printable(one.reason or ""), markup=False)
    if len(bank.incomplete) > _DAYS_SHOWN:
        console.print(
            f"  and {len(bank.incomplete) - _DAYS_SHOWN:,} more: backfill sync status {bank.source_id}"
        )
    rate = (
        counted(round(bank.posted / bank.seconds), "entry", "entries") if bank.posted and bank.seconds else ""
    )
    console.print(f"  time            {bank.seconds:.1f} s{rate and f', {rate}/s'}")
    for advice in _next_steps(bank):
        console.print(f"  next            {advice}")
    for error in bank.errors:
        # What its days say already needs no second sentence.
        if not bank.said_by_its_days(error):
            remarks.print("[red]failed:[/red] ", end="")
            remarks.print(error, markup=False)


def _print_counts(bank: BankResult) -> None:
    console.print(
        f"  read {bank.read:,} = posted {bank.posted:,} + duplicates {bank.duplicates:,}"
        f" + conflicts {bank.conflicts:,} + rejected {bank.rejected:,} + filtered {bank.filtered:,}"
    )
    if bank.opening_entries:
        console.print(f"  opening entries {bank.opening_entries:,}")


def _next_steps(bank: BankResult) -> list[str]:
    steps = []
    if bank.rejects is not None:
        steps.append(f"backfill rejects list {bank.source_id}@{bank.rejects}")
    broken = [one.day for one in bank.incomplete if one.state == "break"]
    if broken:
        steps.append(
            f"backfill sync reconcile {bank.source_id} --from {broken[0]} --to {broken[-1]}   (shows the breaks)"
        )
    left = [one.day for one in bank.incomplete if one.state != "break"]
    if left:
        steps.append(
            f"backfill sync run {bank.source_id} --from {left[0]} --to {left[-1]}   (the next night does it too)"
        )
    return steps
