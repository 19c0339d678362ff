"""The rows that a preview shows, read without reading more of the source than that takes.

Belongs here: reading some rows from a line on, and with them whole transactions.
Does not: what becomes of them (`preview.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.mapping.references import OccurrenceIndex, read_occurrences
from backfill_pipeline.mapping.transform import generated_reference_columns
from backfill_pipeline.schemas.extracted import RESERVED_NAMES, SOURCE_LINE, SOURCE_ROW, extracted_schema
from backfill_pipeline.sources.grouping.grouped_reader import TRANSACTION_ROWS_MAX, GroupedReader
from backfill_pipeline.sources.grouping.transaction_ids import belongs_with_the_one_before, transaction_ids
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.sources.protocol import SourceReader

_SKIPPING_ROWS: Final = 20_000
"""Rows read at once while looking for the line to begin with."""

_ROWS_BEHIND: Final = 5_000
"""Rows that are read on to find the end of a transaction, at first."""

_LINES_BEFORE: Final = 1_000
"""Lines that are looked at to find the beginning of a transaction."""


@dataclass(frozen=True, slots=True)
class RowsRead:
    """Rows of a source, with what a mapping needs to know about the rows before them.

    Attributes:
        columns: of the source, in its order.
        extracted: EXTRACTED.
        occurrences: OCCURRENCE_SCHEMA; None when references are not generated.
        reached_end: no rows follow.
        reader: of the source, for the text of the rows.
        is_sure: no row of a transaction can be among those that were not read.
    """

    columns: tuple[str, ...]
    extracted: pa.Table
    occurrences: pa.Table | None
    reached_end: bool
    reader: SourceReader
    is_sure: bool = True


class _EnoughError(Exception):
    """Ends a survey early: as many rows are read as were asked for."""


def read_rows(
    definition: SourceDefinition, rows: int, from_line: int, scratch: Path, *, surely: bool = False
) -> RowsRead:
    """The first rows from a line on. Only what comes before them is read, and the chunk that they lie in.

    Of a source with transactions, whole ones: those that begin there, up to the end of the one with the last row. Rows
    that lie far behind the others of their transaction are only found when all of the source is read.

    Args:
        definition: the source.
        rows: at most so many, or a few more, to the end of a transaction.
        from_line: physical line of the source to begin with.
        scratch: for temporary files.
        surely: read all of a source with transactions.
    """
    reader = open_source(definition, scratch)
    if not isinstance(reader, GroupedReader):
        return _read(reader, definition, rows, from_line, scratch)
    line = max(1, from_line - _LINES_BEFORE) if from_line > 1 else 1
    for inner, more in ((reader.inner, _ROWS_BEHIND), (reader, _ROWS_BEHIND), (reader, TRANSACTION_ROWS_MAX)):
        if surely and inner is not reader:
            continue
        read = _read(inner, definition, rows + _LINES_BEFORE + more, line, scratch)
        if not set(_ids(definition)) <= set(read.columns):
            break  # which the caller tells
        found = _whole_transactions(read, _ids(definition), rows, from_line, arranged=inner is reader)
        if found is not None:
            return found
    return replace(read, extracted=read.extracted.slice(0, rows), reached_end=False)


def _ids(definition: SourceDefinition) -> Sequence[str]:
    assert definition.transactions is not None
    return definition.transactions.id


def _whole_transactions(
    read: RowsRead, columns: Sequence[str], rows: int, from_line: int, *, arranged: bool
) -> RowsRead | None:
    """The rows of whole transactions among those that were read; None when that cannot be told yet.

    Args:
        read: more rows than are wanted.
        columns: of the transaction's id.
        rows: wanted.
        from_line: transactions begin here or later.
        arranged: all rows of a transaction lie side by side; otherwise only the rows that were read can tell.
    """
    ids = transaction_ids(read.extracted, columns)
    starts = np.flatnonzero(~belongs_with_the_one_before(ids, None))
    named = ids.take(pa.array(starts))
    named = named.filter(pc.fill_null(pc.not_equal(named, ""), False))
    if not arranged and pc.count_distinct(named).as_py() < len(named):
        return None
    begins = starts[read.extracted[SOURCE_LINE].to_numpy()[starts] >= from_line]
    if not len(begins):
        return None if not read.reached_end else replace(read, extracted=read.extracted.slice(0, 0))
    stops = begins[begins >= begins[0] + rows]
    if not len(stops) and not read.reached_end:
        return None
    stop = int(stops[0]) if len(stops) else read.extracted.num_rows
    whole = read.extracted.slice(int(begins[0]), stop - int(begins[0]))
    end = read.reached_end and not len(stops)
    return replace(read, extracted=whole, reached_end=end, is_sure=arranged or read.reached_end)


def _read(
    reader: SourceReader, definition: SourceDefinition, rows: int, from_line: int, scratch: Path
) -> RowsRead:
    generated, columns = generated_reference_columns(definition)
    kept: list[pa.Table] = []
    held = 0
    with OccurrenceIndex(scratch, columns) as index:
        # Generated references number equal rows from the first row of the source on; columns that are missing are
        # told by the caller, with the others.
        known: bool | None = None if generated else False

        def visit(table: pa.Table) -> None:
            nonlocal held, known
            if known is None:
                known = columns is None or set(columns) <= set(table.column_names)
            if known:
                index.add(table)
            wanted = table.filter(pc.greater_equal(table[SOURCE_LINE], from_line)).slice(0, rows + 1 - held)
            if wanted.num_rows or not kept:
                kept[:] = [one for one in kept if one.num_rows] + [wanted]
                held += wanted.num_rows
            if held > rows:  # one more than asked for tells that the end is not reached
                raise _EnoughError

        try:
            chunk_rows = rows + 1 if from_line == 1 else max(rows + 1, _SKIPPING_ROWS)
            header = reader.survey(chunk_rows, visit=visit).header
        except _EnoughError:
            header = _columns_of(kept[0])
        extracted = pa.concat_tables(kept).slice(0, rows).combine_chunks() if kept else None
        occurrences = None
        if known and extracted is not None and extracted.num_rows:
            target = scratch / "occurrences.parquet"
            index.finish(target)
            occurrences = read_occurrences(target, extracted[SOURCE_ROW][0].as_py(), extracted.num_rows)
    if extracted is None:
        extracted = extracted_schema(header).empty_table()
    return RowsRead(header, extracted, occurrences, held <= rows, reader)


def _columns_of(table: pa.Table) -> tuple[str, ...]:
    return tuple(name for name in table.column_names if name not in RESERVED_NAMES)
