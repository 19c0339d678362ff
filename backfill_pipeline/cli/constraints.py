"""`backfill constraints apply|suspend|verify`.

Belongs here: the commands' text, JSON and exit codes.
Does not: SQL (`ledger/constraints.py`).
"""

from __future__ import annotations

from dataclasses import asdict

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, state
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.constraints import ConstraintReport


def apply_constraints(*, as_json: bool) -> ExitCode:
    """Applies and verifies; refused is exit code 3."""
    with open_session() as session:
        report = constraints.apply(session.connection)
    _print(report, as_json=as_json)
    return ExitCode.CLEAN if report.state == "applied" else ExitCode.REJECTS_OR_REFUSED


def suspend_constraints() -> None:
    """Lifts them."""
    with open_session() as session:
        lifted = constraints.suspend(session.connection)
    if lifted:
        console.print(f"constraints are {state('suspended')}: backfill constraints apply puts them back")
    else:
        console.print("there is nothing to suspend: no constraint is applied")


def verify_constraints(*, as_json: bool) -> ExitCode:
    """Verifies; anything but applied is exit code 1."""
    with open_session() as session:
        report = constraints.verify(session.connection)
    _print(report, as_json=as_json)
    return ExitCode.CLEAN if report.state == "applied" else ExitCode.FAILED


def _print(report: ConstraintReport, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    console.print(f"constraints are {state(report.state)}")
    if report.missing:
        console.print("  not enforced: " + ", ".join(report.missing), soft_wrap=True)
    if report.sample:
        console.print(f"  accounts that offend: {report.offending:,}, the worst first")
        console.print(plain_table([asdict(offender) for offender in report.sample]))
