"""`backfill plan`: what a run would do, on one screen or as JSON.

Belongs here: the command's text, JSON and exit code.
Does not: finding it out (`stages/plan.py`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from backfill_pipeline.cli.banks import refuse_whole_banks
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks, state
from backfill_pipeline.cli.session import named_source, open_session
from backfill_pipeline.cli.tables import plain_table, printable
from backfill_pipeline.definition.catalogue import split_day
from backfill_pipeline.wording import counted

if TYPE_CHECKING:
    from backfill_pipeline.ledger.outlook import Total
    from backfill_pipeline.stages.plan import Progress as ToldProgress
    from backfill_pipeline.stages.plan_report import Plan, PlannedPartition, RejectSample

_HEAVY = ("backfill_pipeline.stages.plan",)
# Lines of each table that people are shown; JSON has more, and every count is complete.
_ROWS_SHOWN = 8
_SAMPLES_SHOWN = 16
_TEXT_SHOWN = 120


def plan_source(name: str, *, as_json: bool, accept_changed: bool) -> ExitCode:
    """Plans a source and says what a run would do."""
    definition = named_source(name, register=False)
    refuse_whole_banks(definition, "plan")
    bank = definition if definition.scb is None else named_source(split_day(name)[0], register=False)
    # With a handler there, what psycopg remarks about a session that is interrupted does not reach standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    with (
        open_session(migrated=False, meanwhile=_HEAVY) as session,
        _progress(definition.id, show=not as_json) as told,
    ):
        from backfill_pipeline.stages.plan import make_plan

        plan = make_plan(
            definition,
            session.connection,
            session.places,
            accounts_of=bank,
            accept_changed=accept_changed,
            progress=told,
        )
    if as_json:
        ahead = {"outcome": plan.outcome, "exit_code": plan.exit_code, "ending": plan.ending}
        print_json({**ahead, **asdict(plan)})
    else:
        _print(plan)
    return ExitCode(plan.exit_code)


@contextmanager
def _progress(source_id: str, *, show: bool) -> Iterator[ToldProgress]:
    if not (show and remarks.is_terminal):
        yield lambda _done, _rows: None
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=remarks, transient=True
    )
    with bar:
        task = bar.add_task(f"planning {source_id}", total=None)
        yield lambda done, rows: bar.update(task, completed=done, total=rows)


# --- for people -------------------------------------------------------------------------------------------------


def _print(plan: Plan) -> None:
    from backfill_pipeline.stages.plan_report import some

    counts = plan.counts
    console.print(f"[bold]{plan.source_id}[/bold]  {plan.outcome}")
    for remark in _remarks(plan):
        console.print(f"  {printable(remark)}", markup=False)
    console.print(
        f"  read {counts.read:,} = posted {counts.posted:,} + duplicates {counts.duplicates:,}"
        f" + conflicts {counts.conflicts:,} + rejected {counts.rejected:,} + filtered {counts.filtered:,}"
    )
    console.print(f"  partitions      {_partitions(plan.partitions)}")
    console.print(f"  opening entries {plan.opening_entries:,}{_sums(plan.opening_totals)}")
    console.print(f"  new accounts    {_new_accounts(plan)}", markup=False)
    if plan.unknown_accounts:
        shown = _listed(plan.unknown_sample, plan.unknown_accounts)
        console.print(f"  unknown         {some(plan.unknown_accounts, 'account')}: {shown}", markup=False)
    console.print(f"  constraints     {_constraints(plan)}")
    console.print(
        f"  time            {plan.estimate.low_s:,} to {plan.estimate.high_s:,} s"
        f" (an estimate from {plan.estimate.based_on})"
    )
    _print_totals(plan.totals)
    _print_low(plan)
    _print_counts("filtered", plan.filtered_by_reason)
    _print_rejects(plan)
    for failed in plan.failed[:_ROWS_SHOWN] if not plan.errors else []:
        console.print(f"  [red]{failed.key}[/red]: ", end="")
        console.print(printable(str(failed.error)), markup=False)
    for error in plan.errors:
        console.print("  [red]failed:[/red] ", end="")
        console.print(printable(error), markup=False)


def _remarks(plan: Plan) -> list[str]:
    told = [f"revision {plan.revision} of {plan.place}"]
    if plan.is_registered and plan.changes:
        told[0] += f", which grew: {' and '.join(plan.changes)}"
    elif plan.changes:
        told[0] += f", a new one: {' and '.join(plan.changes)}"
    elif not plan.is_registered:
        told[0] += ", not registered yet"
    if plan.is_new_ledger:
        told.append("there is no ledger in this database yet: a run makes it first")
    if plan.is_live and not plan.is_registered:
        told.append("a run reads this source anew: what it says then is what is posted")
    if plan.is_running:
        told.append("a run writes this source right now: this plan is about what was open when it looked")
    return told


def _partitions(partitions: Sequence[PlannedPartition]) -> str:
    states = Counter(one.state for one in partitions)
    failing = sum(one.error is not None for one in partitions)
    told = [f"{count:,} {state(name)}" for name, count in states.items()]
    if failing:
        told.append(f"[red]{failing:,} would fail[/red]")
    return ", ".join(told) or "none: the source has no rows"


def _sums(totals: Sequence[Total]) -> str:
    shown = ", ".join(f"{one.amount:,f} {one.currency_code}" for one in totals[:_ROWS_SHOWN])
    more = f" and {len(totals) - _ROWS_SHOWN} more currencies" if len(totals) > _ROWS_SHOWN else ""
    return f": {shown}{more}" if totals else ""


def _new_accounts(plan: Plan) -> str:
    count = sum(plan.new_accounts.values())
    if not count:
        return "0"
    by = ", ".join(f"{number:,} by the {opener}" for opener, number in plan.new_accounts.items())
    return f"{count:,} ({by}): {_listed([one.account_id for one in plan.account_sample], count)}"


def _listed(names: Sequence[str], count: int) -> str:
    shown = names[:_ROWS_SHOWN]
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    return ", ".join(_short(name) for name in shown) + more


def _constraints(plan: Plan) -> str:
    outlook = plan.constraints
    if plan.ending == "failed":
        return f"{state(outlook.now)}; a run that fails leaves them so"
    if outlook.now == outlook.after == "applied":
        refused = plan.rejects_by_code.get("balance_constraint", 0)
        return state("applied") + (f", and refuse {counted(refused, 'row')}" if refused else "")
    if outlook.after == "refused":
        return f"{state(outlook.now)}, and would be {state('refused')}: {outlook.offending:,} of the accounts below"
    return f"{state(outlook.now)}, and would be {state('applied')}"


def _print_totals(totals: Sequence[Total]) -> None:
    if not totals:
        return
    rows = [
        {
            "ledger": one.ledger_id,
            "currency": one.currency_code,
            "entries": one.entries,
            "amount": one.amount,
            "from": one.earliest.strftime("%Y-%m-%d"),
            "to": one.latest.strftime("%Y-%m-%d"),
        }
        for one in totals[:_ROWS_SHOWN]
    ]
    _print_table("would be posted", rows, len(totals))


def _print_low(plan: Plan) -> None:
    outlook = plan.constraints
    if not outlook.sample or plan.ending == "failed":
        return
    rows = [
        {
            "account": _short(one.account_id),
            "currency": one.currency_code,
            "available now": "new" if one.available_now is None else f"{one.available_now:,f}",
            "afterwards": one.available_balance,
        }
        for one in outlook.sample[:_ROWS_SHOWN]
    ]
    _print_table("accounts that would break a balance constraint", rows, outlook.offending)


def _print_table(title: str, rows: Sequence[Mapping[str, object]], count: int) -> None:
    more = f", the first {len(rows)} of {count:,}" if count > len(rows) else ""
    console.print(f"{title}{more}")
    console.print(plain_table(rows))


def _print_counts(title: str, counts: Mapping[str, int]) -> None:
    if counts:
        console.print(
            f"{title}: " + ", ".join(f"{_short(why)} {count:,}" for why, count in counts.items()),
            markup=False,
        )


def _print_rejects(plan: Plan) -> None:
    if not plan.rejects_by_code:
        return
    _print_counts("rejects and conflicts", plan.rejects_by_code)
    shown = 0
    for code in plan.rejects_by_code:
        for sample in [one for one in plan.reject_samples if one.code == code]:
            if shown < _SAMPLES_SHOWN:
                _print_sample(sample)
            shown += 1
    if shown > _SAMPLES_SHOWN:
        console.print(f"  and {shown - _SAMPLES_SHOWN} more samples with --json")


def _print_sample(sample: RejectSample) -> None:
    console.print(f"  row {sample.row:,}, line {sample.line:,}  [yellow]{sample.code}[/yellow]  ", end="")
    console.print(_short(sample.reason), markup=False)


def _short(text: str) -> str:
    return printable(text, _TEXT_SHOWN)
