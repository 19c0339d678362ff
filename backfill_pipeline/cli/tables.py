"""Text and tables on the terminal.

Belongs here: rows as a rich table; texts of others are made harmless (`wording.printable`).
Does not: what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from backfill_pipeline.cli.output import console
from backfill_pipeline.wording import printable

__all__ = ["plain_table", "printable"]

_ANY_WIDTH: Final = 1_000_000


def plain_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """Rows with equal keys as a table without lines; numbers are right-aligned, nothing is read as markup.

    Nothing is ever cut: a terminal that is too narrow folds cells, and a pipe or a file gets whole lines.
    """
    table = Table(box=None, pad_edge=True, header_style="bold")
    for name in rows[0] if rows else ():
        value = next((row[name] for row in rows if row[name] is not None), None)
        table.add_column(
            name.replace("_", " "),
            justify="right" if isinstance(value, (int, float, Decimal)) else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(printable(_text(value))) for value in row.values()))
    if not console.is_terminal:
        table.width = Measurement.get(console, console.options.update(max_width=_ANY_WIDTH), table).maximum
    return table


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, Decimal)):
        return f"{value:,}"
    return str(value)
