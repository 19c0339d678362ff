"""Parquet files: rows as chunks, values as exact text.

Belongs here: which columns there are, reading runs of rows, showing a row to people.
Does not: how a value is written (`column_text.py`), what columns mean (`mapping/`).

A row's place is its number in the file: its line is counted from 1, its offset from 0, its length is 1. A chunk's hash
is over the text of its rows, because a run of rows has no bytes of its own in the file.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from backfill_pipeline.definition.formats import ParquetFormat
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import extracted_schema
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.column_text import as_text, can_be_text, is_text
from backfill_pipeline.sources.digests import table_sha256
from backfill_pipeline.sources.files.chunks import CHUNK_BYTES_MAX
from backfill_pipeline.sources.files.content import file_fingerprint, open_file, os_reason
from backfill_pipeline.sources.headers import named_columns
from backfill_pipeline.sources.malformed import Problems
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceChunk, SourceManifest

_BATCH_ROWS: Final = 65_536
_RAW_CHARACTERS_MAX: Final = 1 << 20


class ParquetReader:
    """The `SourceReader` of Parquet files."""

    def __init__(
        self,
        file: Path,
        section: ParquetFormat,
        columns_read: Mapping[str, str],
        *,
        chunk_count_max: int = CHUNK_COUNT_MAX,
    ) -> None:
        """
        Args:
            file: absolute path.
            section: what the definition says about floats.
            columns_read: column → the key of the definition that reads it.
            chunk_count_max: chunks that the survey may give at most.
        """
        self._file = file
        self._section = section
        self._columns_read = columns_read
        self._chunk_count_max = chunk_count_max

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`."""
        size_bytes, sha256 = file_fingerprint(self._file)
        with self._opened() as opened:
            header = self._header(opened.schema_arrow)
            rows = opened.metadata.num_rows
            groups = range(opened.metadata.num_row_groups)
            unpacked = sum(opened.metadata.row_group(group).total_byte_size for group in groups)
            within = max(1, CHUNK_BYTES_MAX * rows // max(1, unpacked))
            # Whatever the row asks for, the limit on chunks counts more.
            wanted = max(1, min(chunk_rows, within), -(-rows // self._chunk_count_max))
            chunks = []
            for number, first in enumerate(range(0, rows, wanted), start=1):
                table = self._text(opened, first, min(rows, first + wanted), header)
                chunk = SourceChunk(
                    number, first + 1, len(table), first + 1, first, len(table), table_sha256(table)
                )
                if visit is not None:
                    visit(_extracted(table, chunk, header))
                chunks.append(chunk)
        return SourceManifest(self._file.name, size_bytes, sha256, header, rows, tuple(chunks))

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """See `SourceReader.read_chunk`."""
        first = chunk.byte_offset
        with self._opened() as opened:
            there = first + chunk.row_count <= opened.metadata.num_rows
            same = there and tuple(header) == self._header(opened.schema_arrow)
            table = self._text(opened, first, first + chunk.row_count, header) if same else None
        if table is None or table_sha256(table) != chunk.sha256:
            raise SourceChangedError(
                f"{self._file}: rows {chunk.first_row} to {chunk.first_row + chunk.row_count - 1} are not what they "
                "were when the source was registered: restore the file, or register it again."
            )
        return _extracted(table, chunk, header)

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`: each row as one JSON object."""
        if not len(offsets):
            return []
        wanted = np.unique(np.asarray(offsets, dtype=np.int64))
        found: dict[int, str] = {}
        with self._opened() as opened:
            for first, batch in _batches(opened, int(wanted[0]), int(wanted[-1]) + 1, None):
                inside = wanted[(wanted >= first) & (wanted < first + batch.num_rows)]
                rows = batch.take(pa.array(inside - first))
                for place, row in zip(inside.tolist(), _rows_of(rows), strict=True):
                    text = json.dumps(row, default=str, ensure_ascii=False).replace("\0", "\\u0000")
                    found[place] = text[:_RAW_CHARACTERS_MAX]
        return [found.get(offset, "") for offset in offsets]

    def fingerprint(self) -> tuple[int, str]:
        """See `SourceReader.fingerprint`."""
        return file_fingerprint(self._file)

    # --- the file -----------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with open_file(self._file) as file:
            try:
                with pq.ParquetFile(file) as opened:
                    yield opened
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                reason = os_reason(error) if isinstance(error, OSError) else str(error)
                raise SourceFileError(
                    f"{self._file}: is not a whole Parquet file ({' '.join(reason.split())[:200]})."
                ) from None

    def _header(self, schema: pa.Schema) -> tuple[str, ...]:
        """The columns that have single values; those below a group by dotted paths."""
        leaves = _leaves(schema)
        for name, kind in leaves:
            key = self._columns_read.get(name)
            if key is None:
                continue
            if not can_be_text(kind):
                raise SourceFileError(
                    f"{self._file}: column {name!r}, which {key} reads, is {kind}, not a single value."
                )
            is_stated = key == "metadata" or name in self._section.float_decimals
            if pa.types.is_floating(kind) and not is_stated:
                raise SourceFileError(
                    f"{self._file}: column {name!r}, which {key} reads, is a float ({kind}), which is no exact number: "
                    f"say how many decimals it stands for with parquet.float_decimals: {{{name}: 2}}."
                )
        return named_columns(self._file, [name for name, kind in leaves if can_be_text(kind)])

    def _text(self, opened: pq.ParquetFile, first: int, stop: int, header: Sequence[str]) -> pa.Table:
        """Rows [first, stop) as text."""
        schema = pa.schema([pa.field(name, pa.string()) for name in header])
        tables = [schema.empty_table()]
        for _, batch in _batches(opened, first, stop, sorted({name.split(".")[0] for name in header})):
            flat = _flat(pa.Table.from_batches([batch]))
            columns = [
                as_text(_valid_text(flat[name].combine_chunks()), self._section.float_decimals.get(name))
                for name in header
            ]
            tables.append(pa.table(columns, schema=schema))
        table = pa.concat_tables(tables).combine_chunks()
        if table.num_rows != stop - first:
            raise SourceFileError(f"{self._file}: holds fewer rows than it says.")
        return table


_NO_TEXT: Final = "\0not UTF-8"
"""Stands for text that is none; a NUL is in no good value."""


def _extracted(table: pa.Table, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
    """EXTRACTED; a row with text that no ledger can hold becomes a problem."""
    count = table.num_rows
    problems = Problems(count)
    for name in header:
        has_nul = pc.match_substring(table[name], "\0")
        if pc.any(has_nul).as_py():
            for place in np.flatnonzero(has_nul.to_numpy()).tolist():
                if table[name][place].as_py() == _NO_TEXT:
                    problems.add(place, RejectCode.ENCODING_INVALID, f"{name} is not UTF-8")
                else:
                    problems.add(place, RejectCode.NUL_BYTE, f"{name} holds a NUL character")
    good = problems.none()
    if not good.all():
        table = table.take(pa.array(np.arange(count), mask=~good))
    places = np.arange(chunk.byte_offset, chunk.byte_offset + count, dtype=np.int64)
    rows = np.arange(chunk.first_row, chunk.first_row + count, dtype=np.int64)
    reserved = [pa.array(one) for one in (rows, places + 1, places, np.ones(count, dtype=np.int64))]
    return pa.table([*reserved, *problems.columns(), *table.columns], schema=extracted_schema(header))


def _batches(
    opened: pq.ParquetFile, first: int, stop: int, columns: list[str] | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows [first, stop) in batches, each with the number of its first row; only the row groups that hold them."""
    sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
    begins = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    groups = [group for group in range(len(sizes)) if begins[group] < stop and begins[group + 1] > first]
    if not groups or first >= stop:
        return
    at = int(begins[groups[0]])
    for batch in opened.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
        begin, end = max(first - at, 0), min(stop - at, batch.num_rows)
        if begin < end:
            yield at + begin, batch.slice(begin, end - begin)
        at += batch.num_rows
        if at >= stop:
            return


def _leaves(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    """Columns with their types, members of groups by dotted paths."""
    table = _flat(schema.empty_table())
    return list(zip(table.schema.names, table.schema.types, strict=True))


def _flat(table: pa.Table) -> pa.Table:
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    return table


def _rows_of(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """Rows for people; text that is not UTF-8 as escapes."""
    try:
        rows: list[dict[str, object]] = batch.to_pylist()
    except UnicodeDecodeError:
        table = _flat(pa.Table.from_batches([batch]))
        columns = [_valid_text(column.combine_chunks()) for column in table.columns]
        rows = pa.table(columns, names=table.column_names).to_pylist()
    return rows


def _valid_text(column: pa.Array) -> pa.Array:
    """The column with `_NO_TEXT` in place of text that is not UTF-8, which Arrow does not look at by itself."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_text(column.type):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = pc.cast(column, pa.large_binary()).to_pylist()
        return pa.array([_decoded(value) for value in values], pa.string())
    return column


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _NO_TEXT
