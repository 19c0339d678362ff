"""`backfill audit`.

Belongs here: the command's text, JSON and exit code.
Does not: the checks (`ledger/auditing/audit.py` and what it puts together).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

from rich.markup import escape

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, state
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.ledger.auditing.audit import Audit, audit
from backfill_pipeline.ledger.auditing.findings import Check, Severity
from backfill_pipeline.wording import counted

_DAYS_SHOWN: Final = 10
_SAMPLE_SHOWN: Final = 5


def show_audit(*, as_json: bool) -> ExitCode:
    """Makes the audit; the worst finding decides the exit code."""
    with open_session() as session:
        found = audit(session.connection)
    if as_json:
        print_json(_as_json(found))
    else:
        _print_text(found)
    if found.breaks:
        return ExitCode.RECONCILIATION_BREAK
    if found.skipped:
        return ExitCode.FAILED
    return ExitCode.REJECTS_OR_REFUSED if found.findings(Severity.WARNING) else ExitCode.CLEAN


def _as_json(found: Audit) -> dict[str, object]:
    return {
        "clean": found.clean,
        "entries": found.entries,
        "earliest": found.earliest,
        "latest": found.latest,
        "accounts": found.accounts,
        "inconsistent_balances": found.inconsistent_balances,
        "inconsistent_sample": [asdict(one) for one in found.inconsistent_sample],
        "duplicate_references": found.duplicate_references,
        "missing": found.missing,
        "constraints": found.constraints,
        "checks": [{**asdict(check), "outcome": check.outcome} for check in found.checks],
        "currencies": [
            {**asdict(one), "difference": one.difference, "drift": one.drift} for one in found.currencies
        ],
        "totals": [asdict(one) for one in found.totals.ledgers],
        "days": [asdict(one) for one in found.totals.days],
        "day_count": found.totals.day_count,
        "seconds": round(found.seconds, 3),
    }


def _print_text(found: Audit) -> None:
    console.print(
        f"entries              {found.entries:,}"
        + (f"  ({found.earliest} to {found.latest})" if found.earliest else "")
    )
    console.print(f"accounts             {found.accounts:,}")
    console.print(f"balance constraints  {state(found.constraints)}")
    console.print(f"checks               {_summary(found)}, {found.seconds:.1f} s")
    for check in _by_severity(found.checks):
        _print_finding(check)
    if found.totals.ledgers:
        console.print("totals")
        console.print(plain_table([asdict(one) for one in found.totals.ledgers]))
        more = found.totals.day_count - _DAYS_SHOWN
        console.print(
            "by day"
            + (f" (the last ones, of {found.totals.day_count:,}; --json has them)" if more > 0 else "")
        )
        console.print(plain_table([asdict(one) for one in found.totals.days[-_DAYS_SHOWN:]]))


def _summary(found: Audit) -> str:
    passed = sum(check.outcome == "passed" for check in found.checks)
    parts = [f"{passed:,} of {len(found.checks):,} found nothing"]
    for severity, style in ((Severity.BREAK, "red"), (Severity.WARNING, "yellow"), (Severity.NOTE, "dim")):
        if number := len(found.findings(severity)):
            parts.append(f"[{style}]{counted(number, severity.value)}[/{style}]")
    if found.skipped:
        parts.append(f"[red]{len(found.skipped):,} could not be made[/red]")
    return ", ".join(parts)


def _by_severity(checks: Iterable[Check]) -> list[Check]:
    """Findings, the worst first."""
    order = ("break", "skipped", "warning", "note")
    return sorted(
        (check for check in checks if check.outcome != "passed"), key=lambda check: order.index(check.outcome)
    )


def _print_finding(check: Check) -> None:
    style = {"break": "red", "skipped": "red", "warning": "yellow", "note": "dim"}[check.outcome]
    if check.skipped is not None:
        console.print(f"[{style}]skipped[/{style}]  {escape(check.looks_for)}: {escape(check.skipped)}")
        return
    console.print(f"[{style}]{check.outcome}[/{style}]  {check.count:,}  {escape(check.looks_for)}")
    console.print(plain_table(check.sample[:_SAMPLE_SHOWN]))
    if check.count > _SAMPLE_SHOWN:
        console.print("  …")
    console.print(f"  {check.remedy}", markup=False)
