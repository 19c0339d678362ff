"""Reject files: the rejects of a partition as CSV, for people and their spreadsheets.

Belongs here: what a spreadsheet must not run, and keeping each partition's file equal to the rejects table.
Does not: what is rejected and why; files that are repaired and sent again (`reject_export.py`).

A spreadsheet runs cells that begin with = + - @ as formulas. Such a cell gets an apostrophe in front, and so does one
with apostrophes before such a character: so taking one away gives every cell back exactly, -12.50 as well as '=x.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import Final, TextIO

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.rejects import Reject, list_rejects
from backfill_pipeline.stages.work import SourceWork

HEADER = ("partition", "row", "line", "stage", "code", "field", "reason", "raw")
FORMULA: Final = r"^('*[=+\-@\t\r])"
"""What gets an apostrophe in front; in the syntax of both RE2 and Python."""


def write_rejects(file: TextIO, found: Iterable[Reject]) -> None:
    """Writes reject rows as CSV, safe to open in a spreadsheet."""
    writer = csv.writer(file)
    writer.writerow(HEADER)
    for one in found:
        cells = (
            one.partition_key,
            one.source_row,
            one.source_line,
            one.stage,
            one.code,
            one.field,
            one.reason,
            one.raw,
        )
        writer.writerow([_spreadsheet_safe(value) for value in cells])


def refresh_reject_file(connection: Connection, work: SourceWork, partition_key: str) -> None:
    """Writes the file of a partition anew from the rejects table: what is refused and was not repaired since."""
    partition = work.registration.partition(partition_key)
    path = work.places.rejects_dir / work.definition.id / f"{partition_key}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        found = list_rejects(connection, work.registration.id, partition_id=partition.id, open_only=True)
        write_rejects(file, found)


def _spreadsheet_safe(value: object) -> object:
    return re.sub(FORMULA, r"'\1", value) if isinstance(value, str) else value
