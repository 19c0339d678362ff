"""What the commands say about stated balances.

Belongs here: their lines and their table.
Does not: comparing (`stages/stated.py`).
"""

from __future__ import annotations

from rich.markup import escape

from backfill_pipeline.cli.output import console
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.stages.stated import StatedReport, step_rows


def print_stated(report: StatedReport | None) -> None:
    """The section of `backfill reconcile`; nothing for a source that states no balances."""
    if report is None:
        return
    console.print(f"  stated balances: {coloured(report.sentence, agrees=report.agrees)}", soft_wrap=True)
    if report.differing:
        console.print(
            f"  stated minus ledger: {report.smallest:,f} to {report.largest:,f}, {report.last:,f} at the last row;"
            f" accounts that differ at theirs: {report.accounts_differing:,} of {report.accounts:,}"
        )
        more = report.step_count - len(report.steps)
        console.print(
            f"  where it begins and changes{f' (the first, of {report.step_count:,})' if more else ''}:"
        )
        console.print(plain_table(step_rows(report)))
    for reason in report.unread_sample:
        console.print(f"    {reason}", markup=False, soft_wrap=True)


def coloured(sentence: str, *, agrees: bool) -> str:
    """The outcome in its colour: a drift is no failure, and must be seen all the same."""
    return f"[green]{escape(sentence)}[/green]" if agrees else f"[yellow]{escape(sentence)}[/yellow]"
