"""Reject files: the rejects of a partition as CSV, for people and their spreadsheets.

Belongs here: the CSV form of rejects, and keeping each partition's file equal to the rejects table.
Does not: what is rejected and why.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple
from typing import TextIO

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.rejects import Reject, list_rejects
from backfill_pipeline.stages.work import SourceWork

HEADER = ("partition", "row", "line", "stage", "code", "field", "reason", "raw")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_rejects(file: TextIO, found: Iterable[Reject]) -> None:
    """Writes reject rows as CSV. A cell that a spreadsheet would run as a formula starts with an apostrophe."""
    writer = csv.writer(file)
    writer.writerow(HEADER)
    for one in found:
        writer.writerow([_spreadsheet_safe(value) for value in astuple(one)])


def refresh_reject_file(connection: Connection, work: SourceWork, partition_key: str) -> None:
    """Writes the file of a partition anew from the rejects table: what validation and what posting refused."""
    partition = work.registration.partition(partition_key)
    path = work.places.rejects_dir / work.definition.id / f"{partition_key}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        write_rejects(file, list_rejects(connection, work.registration.id, partition_id=partition.id))


def _spreadsheet_safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
