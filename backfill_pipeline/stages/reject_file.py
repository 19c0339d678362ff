"""Reject files: the rejects of a partition as CSV, for people and their spreadsheets.

Belongs here: writing them, and keeping each partition's file equal to the rejects table.
Does not: what is rejected and why; files that are repaired and sent again (`reject_export.py`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TextIO

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.rejects import Reject, list_rejects
from backfill_pipeline.schemas.spreadsheets import spreadsheet_safe
from backfill_pipeline.stages.work import SourceWork

HEADER = ("partition", "row", "line", "stage", "code", "field", "reason", "raw")


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
        writer.writerow([spreadsheet_safe(value) for value in cells])


def refresh_reject_file(connection: Connection, work: SourceWork, partition_key: str) -> None:
    """Writes the file of a partition anew from the rejects table: what is refused and was not repaired since."""
    partition = work.registration.partition(partition_key)
    path = work.places.rejects_dir / work.definition.id / f"{partition_key}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        found = list_rejects(connection, work.registration.id, partition_id=partition.id, open_only=True)
        write_rejects(file, found)
