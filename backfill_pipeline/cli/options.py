"""Arguments and options that several commands share.

Belongs here: their names and help.
Does not: commands (`app.py`, `*_commands.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from backfill_pipeline.cli.person import recordable

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A source's id, or the path of its source file; behind it @ and a day, such as scb_01@2024-03-01, for a"
        " day of a bank.",
    ),
]
Day = Annotated[
    str | None,
    typer.Option(
        metavar="DATE", help="Of a bank, the day to look at; by default the latest one with entries."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output instead of text.")
]
Actor = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        help="Who does this, for the audit log; by default BACKFILL_ACTOR, else your user and host.",
    ),
]
Reason = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Why, for the audit log.",
        callback=lambda text: None if text is None else recordable(text),
    ),
]
