"""The names of a source's columns.

Belongs here: what a header must hold to name columns, and the columns that a definition needs.
Does not: how a header is written (the readers).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.schemas.extracted import RESERVED_NAMES

_NAMES_MAX: Final = 40
_NAME_CHARACTERS_MAX: Final = 60


def named_columns(file: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The names of a header line, trimmed.

    Raises:
        SourceFileError: a column has no name, a reserved one, or that of another column.
    """
    header = tuple(name.strip() for name in names)
    for number, name in enumerate(header, start=1):
        if not name:
            raise SourceFileError(f"{file}: column {number} has no name: the header line must name them all.")
        if name in RESERVED_NAMES:
            raise SourceFileError(f"{file}: column {number} is named {name}, which is reserved: rename it.")
        if name in header[: number - 1]:
            raise SourceFileError(
                f"{file}: columns {header.index(name) + 1} and {number} are both named {name!r}: rename one."
            )
    return header


def listed(header: Sequence[str]) -> str:
    """Column names for a message: in one line, and not without end."""
    names = [
        "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)[:_NAME_CHARACTERS_MAX]
        for name in header[:_NAMES_MAX]
    ]
    more = f" and {len(header) - _NAMES_MAX} more" if len(header) > _NAMES_MAX else ""
    return ", ".join(names) + more


def check_header(definition: SourceDefinition, header: Sequence[str]) -> None:
    """Checks that the source has every column that its definition reads.

    Raises:
        SourceFileError: names column, key, file and the columns that there are.
    """
    for column, key in definition.columns_read().items():
        if column not in header:
            raise SourceFileError(
                f"{definition.place}: has no column {column!r}, which {key} in {definition.path} reads: "
                f"the columns are {listed(header)}."
            )
