"""The commands about rejected rows: `backfill rejects`.

Belongs here: their names, arguments and help.
Does not: what they do (`rejects.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backfill_pipeline.cli.options import Json, Source

rejects_app = typer.Typer(no_args_is_help=True, help="Rows that were rejected, with their reasons.")


@rejects_app.command("list")
def rejects_list(
    source: Source,
    code: Annotated[str | None, typer.Option(help="Only rejects with this code.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 50,
    json: Json = False,
) -> None:
    """List rejected rows with line, code, field and reason, and how those ended that were repaired."""
    from backfill_pipeline.cli.rejects import list_rejects

    list_rejects(source, code, limit, as_json=json)


@rejects_app.command("export")
def rejects_export(
    source: Source,
    out: Annotated[
        Path | None, typer.Option(help="The CSV file to write; by default standard output.")
    ] = None,
) -> None:
    """Write all open rejects as CSV, with the source's columns and a hint each, safe to open in a spreadsheet."""
    from backfill_pipeline.cli.rejects import export_rejects

    export_rejects(source, out)


@rejects_app.command("replay")
def rejects_replay(
    source: Source,
    file: Annotated[Path, typer.Option(help="An export of rejects whose cells were repaired.")],
    json: Json = False,
) -> None:
    """Send repaired rows through the pipeline again: the same mapping, the same checks, each row once.

    Exit codes: 0 every row of the file is in the ledger, 1 failed, 2 usage, 3 some stay rejected, 4 reconciliation
    break.
    """
    from backfill_pipeline.cli.rejects import replay

    raise typer.Exit(replay(source, file, as_json=json))
