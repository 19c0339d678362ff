"""The columns of the frames between stages as people see them: what each is, and what holds of its values.

Belongs here: names, types, meanings and rules, for the UI.
Does not: checking rows (`ledger_entry.py`), the frames themselves (`frames.py`, `extracted.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from backfill_pipeline.schemas.extracted import RESERVED_FIELDS
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import checked_fields, entry_checks

_READER: Final = {
    "__source_row": "number of the record in the source, from 1; the header is not counted",
    "__source_line": "line on which the record starts, from 1",
    "__byte_offset": "where the record starts in the file, in bytes",
    "__byte_length": "bytes of the record, without its end of line",
    "__error_code": "why the record cannot be read, as a reject code; null for a good one",
    "__error_reason": "the same as a sentence",
}
_TOLD_OF_ROWS: Final = {
    "error_code": "why the row cannot become an entry, as a reject code; null for a good one",
    "error_field": "the field that is wrong",
    "error_reason": "what is wrong, as a sentence",
    "filter_reason": "why the source file leaves the row out on purpose; null for all others",
}


@dataclass(frozen=True, slots=True)
class FrameColumn:
    """A column of a frame.

    Attributes:
        kind: its Arrow type.
        rules: what must hold of each value, in a few words each.
    """

    name: str
    kind: str
    nullable: bool
    meaning: str
    rules: tuple[str, ...] = ()


def extracted_columns(read: Mapping[str, str]) -> tuple[FrameColumn, ...]:
    """What the reader adds to a record, then the columns that the source must have.

    Args:
        read: column of the source → the key of its definition that reads it.
    """
    return (
        *(
            FrameColumn(field.name, str(field.type), bool(field.nullable), _READER[field.name])
            for field in RESERVED_FIELDS
        ),
        *(
            FrameColumn(name, "string", True, f"as the source wrote it; read by {key}")
            for name, key in read.items()
        ),
    )


def transformed_columns() -> tuple[FrameColumn, ...]:
    """Entries that nothing was checked of yet, and what is told of rows that become none."""
    return (
        *(replace(one, nullable=one.name != "source_row", rules=()) for one in entry_columns()),
        *(
            FrameColumn(field.name, str(field.type), True, _TOLD_OF_ROWS[field.name])
            for field in ENTRY_SCHEMA
            if field.name not in VALIDATED_SCHEMA.names
        ),
    )


def entry_columns() -> tuple[FrameColumn, ...]:
    """The columns that a valid entry has, as the pandera schema checks them."""
    checked = entry_checks().columns
    fields = checked_fields()
    rules: dict[str, list[str]] = {name: [] for name in VALIDATED_SCHEMA.names}
    # Rules about two columns are checked on a third, and belong to their field.
    for column in checked.values():
        for check in column.checks:
            rules[fields[str(check.name)]].append(str(check.description))
    return tuple(
        FrameColumn(
            field.name,
            str(field.type),
            bool(checked[field.name].nullable),
            str(checked[field.name].description),
            tuple(rules[field.name]),
        )
        for field in VALIDATED_SCHEMA
    )
