"""`backfill report`: a source, a bank or one of its days on one page.

Belongs here: the command, its text, JSON and exit codes.
Does not: what the page holds (`reporting/report/`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.options import Json, Source

if TYPE_CHECKING:
    from backfill_pipeline.reporting.report.outcome import Outcome
    from backfill_pipeline.reporting.report.write import Report


def report(
    source: Source,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE.html", help="The file to write; a report that is there is replaced."),
    ],
    samples: Annotated[
        int,
        typer.Option(
            min=0, max=20, help="Rejected rows of each code to show; 0 keeps them and their reasons out."
        ),
    ] = 5,
    json: Json = False,
) -> None:
    """Write what became of a source, a bank or a day as one page that needs no network, for people.

    Exit codes: 0 complete and equal, 1 it could not be written, 2 usage, 3 something is not done or was rejected, 4
    something does not hold. With 3 and 4 the page is written too, and says so.
    """
    from backfill_pipeline.cli.output import print_json
    from backfill_pipeline.cli.session import named_source, open_session
    from backfill_pipeline.reporting.report.write import refuse_other_files, write_report

    definition = named_source(source)
    refuse_other_files(out)
    with open_session(meanwhile=["matplotlib.figure"]) as session:
        written = write_report(session.connection, definition, out, samples=samples)
    if json:
        print_json(_as_json(written))
    else:
        _print(written)
    raise typer.Exit(exit_code(written.outcome))


def exit_code(outcome: Outcome) -> ExitCode:
    """What a report comes to."""
    from backfill_pipeline.reporting.report.outcome import Level

    if outcome.level is Level.BROKEN:
        return ExitCode.RECONCILIATION_BREAK
    return ExitCode.CLEAN if outcome.level is Level.GOOD else ExitCode.REJECTS_OR_REFUSED


def _as_json(written: Report) -> dict[str, object]:
    return {
        "source_id": written.source_id,
        "path": str(written.path),
        "size_bytes": written.size_bytes,
        "outcome": written.outcome.word,
        "sentence": written.outcome.sentence,
        "findings": [{**asdict(one), "level": one.level.name.lower()} for one in written.outcome.findings],
    }


def _print(written: Report) -> None:
    from rich.markup import escape

    from backfill_pipeline.cli.output import console
    from backfill_pipeline.cli.tables import printable
    from backfill_pipeline.reporting.report.outcome import Level

    outcome = written.outcome
    style = "green" if outcome.level is Level.GOOD else "red" if outcome.level >= Level.FAILED else "yellow"
    console.print(
        f"[{style}]{outcome.word}[/{style}]  report of [bold]{written.source_id}[/bold] in"
        f" {escape(printable(str(written.path)))}"
    )
    console.print(f"  {outcome.sentence}", markup=False)
    for finding in outcome.findings:
        console.print(f"  {finding.text}: {finding.remedy}", markup=False)
