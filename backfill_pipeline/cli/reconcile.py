"""`backfill reconcile`.

Belongs here: the command's text, JSON and exit code.
Does not: comparing (`stages/reconcile.py`).
"""

from __future__ import annotations

from dataclasses import asdict

from backfill_pipeline.cli.banks import refuse_whole_banks, sync_command
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, state
from backfill_pipeline.cli.session import named_source, open_session
from backfill_pipeline.cli.stated import print_stated
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.stages.reconcile import (
    ReconciliationReport,
    corrected_text,
    currency_rows,
    equation,
    reconcile,
)
from backfill_pipeline.stages.stated import stated_details
from backfill_pipeline.stages.work import open_work
from backfill_pipeline.wording import are, counted

_SHOWN = 20


def reconcile_source(name: str, *, as_json: bool) -> ExitCode:
    """Compares a source with the ledger: a break is exit code 4, partitions that are not posted yet are 1."""
    definition = named_source(name)
    refuse_whole_banks(definition, "reconcile", instead=sync_command(definition, "reconcile"))
    with open_session() as session:
        session.registration(definition.id)
        report = reconcile(open_work(definition, session.places))
    if as_json:
        print_json(_as_json(report))
    else:
        _print_text(report)
    if not report.matches:
        return ExitCode.RECONCILIATION_BREAK
    return ExitCode.FAILED if report.open_partitions else ExitCode.CLEAN


def _as_json(report: ReconciliationReport) -> dict[str, object]:
    whole = {name: value for name, value in asdict(report).items() if name != "stated"}
    return {
        **whole,
        "reconciliation": report.verdict,
        "break_kinds": dict(report.break_kinds),
        "currency_break_count": len(report.currency_breaks),
        "stated_balances": None if report.stated is None else stated_details(report.stated),
    }


def _print_text(report: ReconciliationReport) -> None:
    console.print(
        f"[bold]{report.source_id}[/bold]  {state(report.verdict)}  {equation(report)}", soft_wrap=True
    )
    corrected = corrected_text(report)
    console.print(
        f"  {counted(report.entries_compared, 'entry', 'entries')} and"
        f" {counted(report.opening_entries_compared, 'opening entry', 'opening entries')}"
        f" compared in every field,{f' {corrected},' if corrected else ''} {report.seconds:.1f} s"
    )
    if report.open_partitions:
        console.print(
            f"  so far: {counted(report.open_partitions, 'partition')} {are(report.open_partitions)} not posted yet"
        )
    if report.breaks:
        console.print(f"  {counted(report.break_count, 'break')}, the first:")
        console.print(plain_table([asdict(one) for one in report.breaks[:_SHOWN]]))
        console.print(f"  next: backfill corrections propose {report.source_id}")
    if report.account_breaks:
        console.print(
            f"  {counted(report.account_break_count, 'account')} whose balance is not what its entries say, the first:"
        )
        console.print(plain_table([asdict(one) for one in report.account_breaks[:_SHOWN]]))
    print_stated(report.stated)
    currencies = currency_rows(report)
    if currencies:
        console.print("  totals of the whole ledger:")
        console.print(plain_table(currencies))
