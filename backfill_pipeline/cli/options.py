"""Arguments and options that several commands share.

Belongs here: their names and help.
Does not: commands (`app.py`, `bank_commands.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

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
