"""Captures: the records of a source that can only be read as a whole, kept as they were when they were read.

Belongs here: writing and reading one file of captured records.
Does not: which capture belongs to which source (`captured_reader.py`), what is captured (the streams).

A capture is an Arrow IPC file of record batches of BATCH_ROWS rows, so that the batch that holds a row is known from
its number alone. Its columns are those of EXTRACTED, and each record's own text.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.schemas.extracted import (
    BYTE_LENGTH,
    BYTE_OFFSET,
    ERROR_CODE,
    ERROR_REASON,
    RESERVED_NAMES,
    SOURCE_LINE,
    SOURCE_ROW,
    extracted_schema,
)
from backfill_pipeline.sources.digests import digest_table
from backfill_pipeline.sources.files.content import os_reason
from backfill_pipeline.sources.headers import listed
from backfill_pipeline.sources.record_stream import StreamedRecords

BATCH_ROWS: Final = 8192
"""Rows of a batch: what is read to get at one row."""

RAW: Final = "__raw"
"""string, the record as the source holds it; null where the fields say it all."""

_DIGESTED: Final = (ERROR_CODE, ERROR_REASON, RAW)


@dataclass(frozen=True, slots=True)
class CaptureSummary:
    """What was written.

    Attributes:
        header: the source's columns.
        row_count: records.
        size_bytes: of their text.
        sha256: of their text; depends on values and their order alone.
        joined: per record, whether it must lie in the same chunk as the one before it.
    """

    header: tuple[str, ...]
    row_count: int
    size_bytes: int
    sha256: str
    joined: npt.NDArray[np.bool_]


class CaptureWriter:
    """Writes a capture to a temporary name; `keep` gives it its own, whole or not at all."""

    def __init__(self, folder: Path, place: str) -> None:
        """
        Args:
            folder: where captures are.
            place: what is captured, for messages.
        """
        self._place = place
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SourceFileError(f"{folder}: cannot be made: {os_reason(error)}.") from None
        self.path = folder / f"{os.getpid()}-{threading.get_ident()}.tmp"
        self._writer: ipc.RecordBatchFileWriter | None = None
        self._header: tuple[str, ...] = ()
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self._rows = 0
        self._size_bytes = 0
        self._digest = hashlib.sha256()
        self._joined: list[npt.NDArray[np.bool_]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file; what is in it by then can be read, unless there is no room for it."""
        with suppress(OSError, pa.ArrowException):
            self._close()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def add(self, records: StreamedRecords) -> pa.Table:
        """Takes the next records; gives them as EXTRACTED."""
        return self._take(self._captured(records), records.fields.column_names, _joined(records))

    def add_extracted(self, table: pa.Table, joined: npt.NDArray[np.bool_]) -> None:
        """Takes rows that another reader extracted, and knows the text of.

        Args:
            table: EXTRACTED; the rows are numbered anew, and keep their places in their own source.
            joined: per row, whether it must lie in the same chunk as the one before it.
        """
        count = table.num_rows
        numbers = pa.array(np.arange(self._rows + 1, self._rows + count + 1, dtype=np.int64))
        at = table.schema.get_field_index(SOURCE_ROW)
        numbered = table.set_column(at, table.schema.field(at), numbers)
        header = [name for name in table.column_names if name not in RESERVED_NAMES]
        self._take(
            numbered.append_column(pa.field(RAW, pa.string()), pa.nulls(count, pa.string())), header, joined
        )

    def _take(self, table: pa.Table, header: Sequence[str], joined: npt.NDArray[np.bool_]) -> pa.Table:
        if self._writer is None:
            self._header = tuple(header)
            options = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            with self._writing():
                self._writer = ipc.new_file(str(self.path), table.schema, options=options)
        elif tuple(header) != self._header:
            raise SourceFileError(
                f"{self._place}: has other columns from record {self._rows + 1} on: "
                f"{listed(header)} instead of {listed(self._header)}."
            )
        self._rows += table.num_rows
        self._joined.append(joined)
        self._held.append(table)
        self._held_rows += table.num_rows
        while self._held_rows >= BATCH_ROWS:
            self._write(BATCH_ROWS)
        return table.drop_columns([RAW])

    def finish(self) -> CaptureSummary:
        """Writes what is held back; closes the file.

        Raises:
            SourceFileError: the stream gave nothing, not even its columns.
        """
        if self._writer is None:
            raise SourceFileError(f"{self._place}: is empty.")
        if self._held_rows:
            self._write(self._held_rows)
        with self._writing():
            self._close()
        joined = np.concatenate(self._joined) if self._joined else np.zeros(0, dtype=bool)
        return CaptureSummary(self._header, self._rows, self._size_bytes, self._digest.hexdigest(), joined)

    def keep(self, path: Path) -> None:
        """Gives the finished file its name."""
        with self._writing():
            self.path.replace(path)

    def discard(self) -> None:
        """Removes what was written."""
        self.__exit__()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _captured(self, records: StreamedRecords) -> pa.Table:
        count = records.fields.num_rows
        places = np.arange(self._rows, self._rows + count, dtype=np.int64)
        codes, reasons = records.problems.columns()
        bad = codes.is_valid()
        nothing = pa.scalar(None, pa.string())
        fields = [
            column.combine_chunks() if not pc.any(bad).as_py() else pc.if_else(bad, nothing, column)
            for column in records.fields.columns
        ]
        schema = extracted_schema(records.fields.column_names)
        reserved = {
            SOURCE_ROW: pa.array(places + 1),
            SOURCE_LINE: records.lines,
            BYTE_OFFSET: pa.array(places),
            BYTE_LENGTH: pa.array(np.ones(count, dtype=np.int64)),
            ERROR_CODE: codes,
            ERROR_REASON: reasons,
        }
        return pa.table([*reserved.values(), *fields], schema=schema).append_column(
            pa.field(RAW, pa.string()), records.raw
        )

    def _write(self, rows: int) -> None:
        whole = pa.concat_tables(self._held)
        table, rest = whole.slice(0, rows).combine_chunks(), whole.slice(rows)
        self._held, self._held_rows = [rest] if rest.num_rows else [], rest.num_rows
        self._size_bytes += digest_table(self._digest, text_of(table, self._header))
        assert self._writer is not None
        with self._writing():
            # One batch, however Arrow splits its chunks.
            self._writer.write_batch(table.to_batches(max_chunksize=rows)[0])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceFileError(
                f"{self._place}: cannot be captured in {self.path.parent}: {os_reason(error)}."
            ) from None


class Capture:
    """A capture that was written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, first: int, count: int) -> pa.Table | None:
        """Records by number, from 0: EXTRACTED, and RAW; None when they are not there or the file is damaged."""
        try:
            with pa.memory_map(str(self.path)) as file, ipc.open_file(file) as opened:
                batches = [
                    opened.get_batch(number)
                    for number in range(first // BATCH_ROWS, -(-(first + count) // BATCH_ROWS))
                    if number < opened.num_record_batches
                ]
                table = pa.Table.from_batches(batches, schema=opened.schema)
                table = table.slice(first - first // BATCH_ROWS * BATCH_ROWS, count)
        except (pa.ArrowException, OSError):
            return None
        return table.combine_chunks() if table.num_rows == count else None

    def tables(self) -> Iterator[pa.Table]:
        """All of it, batch by batch, as `rows` gives it."""
        with pa.memory_map(str(self.path)) as file, ipc.open_file(file) as opened:
            for number in range(opened.num_record_batches):
                yield pa.Table.from_batches([opened.get_batch(number)])


def text_of(table: pa.Table, header: Sequence[str]) -> pa.Table:
    """What of captured records is their content: the fields, what is wrong with them, and their own text."""
    names = [*header, *_DIGESTED]
    return pa.table([pc.fill_null(table[name], "") for name in names], names=names)


def raw_texts(table: pa.Table) -> list[str]:
    """Captured records for people: their own text, or their fields as a JSON object."""
    names = [name for name in table.column_names if name not in extracted_schema([]).names and name != RAW]
    own = table[RAW].to_pylist()
    objects = table.select(names).to_pylist()
    return [
        json.dumps(fields, ensure_ascii=False) if text is None else text.replace("\0", "\\x00")
        for text, fields in zip(own, objects, strict=True)
    ]


def _joined(records: StreamedRecords) -> npt.NDArray[np.bool_]:
    if records.joined is None:
        return np.zeros(records.fields.num_rows, dtype=bool)
    return np.asarray(records.joined, dtype=bool)
