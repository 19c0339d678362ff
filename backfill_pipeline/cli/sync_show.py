"""`backfill sync status` and `backfill sync reconcile`: how far banks are, and whether both ledgers are equal.

Belongs here: the commands' text, JSON and exit codes.
Does not: the queries (`ledger/banks/`), comparing (`dual_ledger/reconcile.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from backfill_pipeline.cli.banks import check_banks, chosen_banks, chosen_spans, usable_banks, why_incomplete
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks, state
from backfill_pipeline.cli.session import Session, open_session
from backfill_pipeline.cli.tables import plain_table, printable
from backfill_pipeline.definition.scb_days import last_ended_day, scb_of
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.banks import bank_progress, outbox, sync_status
from backfill_pipeline.wording import counted

if TYPE_CHECKING:
    from backfill_pipeline.definition.models import SourceDefinition
    from backfill_pipeline.dual_ledger.dual_report import DualReport
    from backfill_pipeline.ledger.banks.bank_progress import BankProgress
    from backfill_pipeline.ledger.banks.sync_status import SyncStatus

_DAYS_SHOWN = 10
_BREAKS_SHOWN = 20
# Of more days than these, only those that differ are told one by one.
_MATCHES_SHOWN = 31


# --- status -----------------------------------------------------------------------------------------------------


def show_sync_status(name: str | None, *, as_json: bool) -> ExitCode:
    """How far every bank is, or one of them day by day.

    Returns:
        Failed when a day is not complete, when a night was missed, or when the bank refuses what it is told.
    """
    now = datetime.now(UTC)
    source_id = None if name is None else chosen_banks([name])[0].id
    nights = {one.id: night for one in usable_banks() if (night := _missed_night(one, now)) is not None}
    with open_session() as session:
        banks = [
            one
            for one in bank_progress.progress(session.connection, now)
            if source_id in (None, one.source_id)
        ]
        days = [] if source_id is None else sync_status.load(session.connection, source_id)
        noted = {one.source_id: _incomplete_days(session, one) for one in banks}
        refused = {one.source_id: _refused(session, one.bank_id) for one in banks}
    behind = {one.source_id for one in banks if one.last_day < nights.get(one.source_id, one.last_day)}
    never = sorted(set(nights) - {one.source_id for one in banks}) if source_id is None else []
    if as_json:
        shown = {} if source_id is None else {"days": [_day_json(one) for one in days]}
        found = [
            {
                **_bank_json(one, noted[one.source_id]),
                "refused": refused[one.source_id],
                "behind": one.source_id in behind,
            }
            for one in banks
        ]
        print_json({"banks": found, "never_synchronised": never, **shown})
    elif not banks:
        whose = "no bank" if source_id is None else source_id
        console.print(
            f"{whose} was synchronised here yet: backfill sync run {source_id or '[BANK]'}", markup=False
        )
    else:
        for one in banks:
            _print_bank(one, noted[one.source_id], limit=_DAYS_SHOWN if source_id is None else None)
            if refused[one.source_id]:
                told = ", ".join(f"{status} {count:,}" for status, count in refused[one.source_id].items())
                console.print(f"  [red]the bank refuses what it is told[/red]: {told}")
                console.print(
                    f"  next: backfill outbox show --bank {one.bank_id} --status DEAD --status FAILED"
                )
            if one.source_id in behind:
                console.print(f"  [red]a night was missed[/red]: the last day is {one.last_day}")
                console.print(f"  next: backfill sync run {one.source_id}")
        if days:
            console.print(plain_table([_day_row(one) for one in days]))
    if not as_json:
        for one_name in never if banks else ():
            console.print(f"[bold]{one_name}[/bold]  was never synchronised: backfill sync run {one_name}")
    wrong = behind or never or any(one.incomplete or refused[one.source_id] for one in banks)
    return ExitCode.FAILED if wrong else ExitCode.CLEAN


def _missed_night(bank: SourceDefinition, now: datetime) -> date | None:
    """The day that a bank must have got to by now, when it has nights; the latest one may still be to come."""
    section = scb_of(bank)
    due = last_ended_day(section, now) - timedelta(days=1)
    return due if section.nightly.enabled and due >= section.start else None


def _refused(session: Session, bank_id: str) -> dict[str, int]:
    """Status → rows that the bank refuses, for now or for good."""
    found: Counter[str] = Counter()
    for one in outbox.counts(session.connection, bank_id):
        if one.status in ("FAILED", "DEAD"):
            found[one.status] += one.count
    return dict(found)


def _incomplete_days(session: Session, bank: BankProgress) -> dict[date, SyncStatus]:
    if not bank.incomplete:
        return {}
    found = sync_status.load(session.connection, bank.source_id, bank.incomplete[0], bank.incomplete[-1])
    return {one.day: one for one in found if not one.complete}


def _bank_json(bank: BankProgress, noted: dict[date, SyncStatus]) -> dict[str, object]:
    return {
        **asdict(bank),
        "lag": round(bank.lag.total_seconds()),
        "incomplete": [
            {"day": day, "state": one.state, "reason": why_incomplete(one)}
            if (one := noted.get(day)) is not None
            else {"day": day, "state": "never begun", "reason": None}
            for day in bank.incomplete
        ],
    }


def _day_json(day: SyncStatus) -> dict[str, object]:
    names = ("day", "fetched", "posted", "duplicates", "conflicts", "rejected", "filtered", "acknowledged")
    return {
        **{name: getattr(day, name) for name in names},
        "state": day.state,
        "verdict": day.verdict,
        "reason": None if day.complete else why_incomplete(day),
        "attempts": day.attempts,
        "run_id": day.run_id,
        "updated_at": day.updated_at,
    }


def _day_row(day: SyncStatus) -> dict[str, object]:
    return {
        "day": str(day.day),
        "state": day.state,
        "fetched": day.fetched or 0,
        "posted": day.posted or 0,
        "told": day.acknowledged or 0,
        "conflicts": day.conflicts or 0,
        "rejected": day.rejected or 0,
        "tries": day.attempts,
    }


def _print_bank(bank: BankProgress, noted: dict[date, SyncStatus], *, limit: int | None) -> None:
    until = "no day from the first on" if bank.complete_to is None else f"complete to {bank.complete_to}"
    console.print(
        f"[bold]{bank.source_id}[/bold]  {bank.bank_id}  {counted(bank.complete, 'day')} {state('complete')},"
        f" {bank.first_day} to {bank.last_day}; {until}, {readable_lag(bank.lag)} behind now"
    )
    console.print(f"  entries {bank.entries:,}, of which the bank does not know {bank.unacknowledged:,}")
    for day in bank.incomplete[:limit]:
        one = noted.get(day)
        told = "never begun" if one is None else one.state
        console.print(f"  [bold]{day}[/bold]  {state(told)}  ", end="")
        console.print(printable("" if one is None else why_incomplete(one) or ""), markup=False)
    if limit is not None and len(bank.incomplete) > limit:
        more = counted(len(bank.incomplete) - limit, "more day")
        console.print(f"  and {more}: backfill sync status {bank.source_id}")
    differ = [day for day in bank.incomplete if day in noted and noted[day].state == "break"]
    left = [day for day in bank.incomplete if day not in differ]
    for days, command, why in ((differ, "reconcile", "   (shows the breaks)"), (left, "run", "")):
        if days:
            span = f"--from {days[0]} --to {days[-1]}"
            console.print(f"  next: backfill sync {command} {bank.source_id} {span}{why}")


def readable_lag(lag: timedelta) -> str:
    """How far behind, for people: "3 days", "7 hours"."""
    hours = int(lag.total_seconds() // 3600)
    if hours >= 48:
        return f"{hours // 24:,} days"
    return f"{hours} hours" if hours != 1 else "1 hour"


# --- reconcile --------------------------------------------------------------------------------------------------


def reconcile_days(names: Sequence[str], first: str | None, last: str | None, *, as_json: bool) -> ExitCode:
    """Compares days of both ledgers again; changes nothing, on neither side.

    Returns:
        A break is 4; days that could not be compared are 1.
    """
    banks = chosen_banks(names)
    spans = chosen_spans(banks, first, last, datetime.now(UTC))
    check_banks(banks)
    reports: list[DualReport] = []
    failed: list[tuple[str, date | None, str]] = []
    with open_session() as session:
        for bank in banks:
            span = spans[bank.id]
            days = span.days() if span is not None else []
            if first is None or last is None:
                begun = [one.day for one in sync_status.load(session.connection, bank.id)]
                days = [day for day in begun if span is None or span.first <= day <= span.last]
            _compare(session, bank, days, reports, failed, quiet=as_json)
    if as_json:
        _print_json(reports, failed)
    elif not reports and not failed:
        console.print("no day was synchronised here yet: backfill sync run")
    elif reports:
        _print_sums(reports)
    for source_id, day, error in failed:
        remarks.print(f"[red]failed:[/red] {source_id}{'' if day is None else f' {day}'}: ", end="")
        remarks.print(error, markup=False)
    if any(not report.matches for report in reports):
        return ExitCode.RECONCILIATION_BREAK
    return ExitCode.FAILED if failed else ExitCode.CLEAN


def _compare(
    session: Session,
    bank: SourceDefinition,
    days: Sequence[date],
    reports: list[DualReport],
    failed: list[tuple[str, date | None, str]],
    *,
    quiet: bool,
) -> None:
    """Compares day by day; what stands in the way of one day is told, and the next one is tried."""
    from backfill_pipeline.dual_ledger.client import BankClient
    from backfill_pipeline.dual_ledger.reconcile import reconcile_day

    with ExitStack() as stack:
        client: BankClient | None = None
        for day in days:
            try:
                if client is None:
                    client = stack.enter_context(BankClient(scb_of(bank)))
                report = reconcile_day(bank, session.places, day, client)
            except BackfillError as error:
                failed.append((bank.id, None if client is None else day, str(error)))
                if client is None:
                    return
                continue
            reports.append(report)
            if not quiet and (not report.matches or len(days) <= _MATCHES_SHOWN):
                _print_day(report)


def _print_day(report: DualReport) -> None:
    console.print(f"{state(report.verdict)}  ", end="")
    console.print(printable(report.sentence), markup=False)
    if report.breaks:
        console.print(plain_table(report.break_rows()[:_BREAKS_SHOWN]))


def _print_sums(reports: Sequence[DualReport]) -> None:
    verdicts = Counter(report.verdict for report in reports)
    told = ", ".join(f"{count:,} {state(verdict)}" for verdict, count in sorted(verdicts.items()))
    equal = sum(report.equal for report in reports)
    entries = counted(equal, "entry", "entries")
    console.print(
        f"{counted(len(reports), 'day')} compared: {told or 'none'}; {entries} equal in every field"
    )


def _print_json(reports: Sequence[DualReport], failed: Sequence[tuple[str, date | None, str]]) -> None:
    print_json(
        {
            "days": [
                {
                    "source_id": report.source_id,
                    "day": report.day,
                    "verdict": report.verdict,
                    "break_count": report.break_count,
                    **report.details(),
                }
                for report in reports
            ],
            "failed": [
                {"source_id": source_id, "day": day, "error": error} for source_id, day, error in failed
            ],
        }
    )
