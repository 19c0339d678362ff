"""The commands about source definitions: `backfill sources`.

Belongs here: their names, arguments and help.
Does not: what they do (`sources.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from backfill_pipeline.cli.options import Day, Json, Source

sources_app = typer.Typer(no_args_is_help=True, help="Source definitions: list, check and try them.")


@sources_app.command("list")
def sources_list(json: Json = False) -> None:
    """List every source: its file, what was run of it, or what is wrong with its definition."""
    from backfill_pipeline.cli.sources import list_sources

    raise typer.Exit(list_sources(as_json=json))


@sources_app.command("check")
def sources_check(
    source: Source,
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows to map and validate.")] = 1000,
    day: Day = None,
    json: Json = False,
) -> None:
    """Say everything that is wrong with a definition and its files, and what its first rows would become.

    Exit codes: 0 good, 2 the definition or a file is wrong, 3 rows would be rejected. Needs no database.
    """
    from backfill_pipeline.cli.banks import parse_day
    from backfill_pipeline.cli.sources import check_source

    raise typer.Exit(check_source(source, rows, parse_day(day, "--day"), as_json=json))


@sources_app.command("preview")
def sources_preview(
    source: Source,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many rows.")] = 10,
    from_line: Annotated[
        int, typer.Option("--from", min=1, metavar="LINE", help="The line of the file to begin with.")
    ] = 1,
    day: Day = None,
    json: Json = False,
) -> None:
    """Show rows before and after mapping, with what is wrong below them. Posts nothing and needs no database."""
    from backfill_pipeline.cli.banks import parse_day
    from backfill_pipeline.cli.sources import preview_source

    raise typer.Exit(preview_source(source, rows, from_line, parse_day(day, "--day"), as_json=json))


@sources_app.command("schema")
def sources_schema() -> None:
    """Print the JSON Schema of a source definition, for editors."""
    from backfill_pipeline.cli.sources import print_schema

    print_schema()
