"""Tables on the terminal.

Belongs here: rows as a rich table.
Does not: what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from rich.table import Table


def plain_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """Rows with equal keys as a table without lines; numbers are right-aligned, nothing is read as markup."""
    from rich.text import Text

    table = Table(box=None, pad_edge=True, header_style="bold")
    for name in rows[0] if rows else ():
        value = next((row[name] for row in rows if row[name] is not None), None)
        table.add_column(
            name.replace("_", " "), justify="right" if isinstance(value, (int, float, Decimal)) else "left"
        )
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    return table


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, Decimal)):
        return f"{value:,}"
    return str(value)
