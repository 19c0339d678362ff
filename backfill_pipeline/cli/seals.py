"""`backfill seal` and `backfill verify`.

Belongs here: the commands, their text, JSON and exit codes.
Does not: sealing (`ledger/seals.py`), verifying (`stages/verify.py`).
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.options import Actor, Json, Reason, Source

if TYPE_CHECKING:
    from backfill_pipeline.stages.verify import VerificationReport

seals_app = typer.Typer()

_SHOWN: Final = 20


@seals_app.command("seal")
def seal(
    source: Source,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Only this batch, by its id.")] = None,
    by: Actor = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Seal what is posted of a source for good: from then on it can only be reversed, never be deleted.

    Every run seals what it posted, provisionally. Exit codes: 0 all of it is sealed for good, 1 nothing is posted,
    2 usage.
    """
    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.cli.person import person
    from backfill_pipeline.cli.session import named_source, open_session
    from backfill_pipeline.errors import UsageError
    from backfill_pipeline.ledger import seals
    from backfill_pipeline.wording import are, counted

    source_id = named_source(source).id
    with open_session() as session:
        batches = seals.batches_of(session.connection, source_id, batch)
        if batch is not None and not batches:
            raise UsageError(f"source {source_id} has no batch {batch} that posted entries")
        became = seals.make_final(
            session.connection,
            batches,
            actor=person(by),
            subject=source_id if batch is None else f"{source_id} batch {batch}",
            reason=reason,
        )
    if json:
        print_json({"source_id": source_id, "batches": batches, "sealed_now": became})
    elif not batches:
        console.print(f"nothing of {source_id} is posted: there is nothing to seal")
    else:
        before = len(batches) - became
        also = f"; {before:,} {are(before)} already" if before else ""
        console.print(f"{counted(became, 'batch', 'batches')} of {source_id} sealed for good{also}")
    raise typer.Exit(ExitCode.CLEAN if batches else ExitCode.FAILED)


@seals_app.command("verify")
def verify(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="Only what this source posted; the whole ledger by default."),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Only what was sealed from this day (UTC) on.")
    ] = None,
    json: Json = False,
) -> None:
    """Hash what was sealed anew, and name the batch and the entry that were touched since. Changes nothing.

    Exit codes: 0 everything is as it was sealed, 1 failed, 2 usage, 3 it is so together with corrections, or a closed
    period has no seal, 4 something was touched.
    """
    from backfill_pipeline.cli.output import print_json
    from backfill_pipeline.cli.session import named_source, open_session
    from backfill_pipeline.stages.verify import verify as verify_seals

    source_id = None if source is None else named_source(source).id
    moment = None if since is None else parse_since(since)
    with open_session() as session:
        report = verify_seals(
            session.connection,
            session.places,
            lambda name: named_source(name, register=False),
            source_id=source_id,
            since=moment,
        )
    if json:
        print_json({"verdict": report.verdict, **asdict(report)})
    else:
        _print(report)
    raise typer.Exit(exit_code(report))


def exit_code(report: VerificationReport) -> ExitCode:
    """What a verification comes to."""
    if report.corrected:
        return ExitCode.REJECTS_OR_REFUSED
    if not report.intact:
        return ExitCode.RECONCILIATION_BREAK
    unsealed = report.unsealed
    return ExitCode.REJECTS_OR_REFUSED if unsealed is not None and unsealed.periods else ExitCode.CLEAN


def parse_since(text: str) -> datetime:
    """A day, or a moment, in UTC unless it says otherwise.

    Raises:
        UsageError: it is neither.
    """
    from backfill_pipeline.errors import UsageError

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text} is no day: write it as 2024-03-01") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _print(report: VerificationReport) -> None:
    from backfill_pipeline.cli.output import console
    from backfill_pipeline.cli.tables import plain_table
    from backfill_pipeline.wording import counted

    colour = {"intact": "green", "corrected": "yellow", "touched": "red"}[report.verdict]
    console.print(
        f"[{colour}]{report.verdict}[/{colour}]  {counted(report.seals, 'seal')}"
        f" over {counted(report.entries, 'entry', 'entries')}, {report.seconds:.1f} s"
    )
    for fault in report.chain_faults[:_SHOWN]:
        console.print(f"  ledger {fault.ledger_id}: seal {fault.number} {fault.fault}", markup=False)
    for one in report.touched:
        console.print(
            f"  ledger {one.ledger_id}: {one.subject} is not as it was sealed:"
            f" {counted(one.sealed, 'entry', 'entries')} sealed, {one.found:,} found",
            markup=False,
        )
        if one.corrected_by:
            numbers = ", ".join(str(number) for number in one.corrected_by)
            console.print(
                f"    corrected: with correction {numbers} it is what was sealed, field for field",
                markup=False,
            )
        if one.breaks:
            console.print(plain_table([asdict(each) for each in one.breaks[:_SHOWN]]))
        if one.unexplained is not None and not one.corrected_by:
            console.print(f"    no entry is named: {one.unexplained}", markup=False)
    if report.unsealed is None:
        return
    for period in report.unsealed.periods:
        console.print(
            f"  period {period} is closed without a seal: reopen and close it with backfill period",
            markup=False,
        )
    if report.unsealed.batches:
        console.print(
            f"  {counted(len(report.unsealed.batches), 'batch', 'batches')} not sealed yet: the next run does it"
        )
    if report.unsealed.live_entries:
        console.print(
            f"  {counted(report.unsealed.live_entries, 'entry', 'entries')} posted live in open periods:"
            " sealed when these are closed"
        )
