"""The reader of sources whose rows belong together: the rows of a transaction lie side by side, in one chunk.

Belongs here: finding rows that belong together, bringing them together, and chunks that cut no transaction in two.
Does not: reading the source (the reader inside), what transactions become (`mapping/legs.py`).

The source is read once and captured. In most exports the rows of a transaction follow each other already, and the
capture stays as it is. Where they are scattered, it is rewritten: transactions come in the order of their first rows,
and each has its rows in their order. Rows are numbered in the order of the capture; lines, offsets and texts are those
of the source.

Memory does not grow with the source: of each run of rows with one id, a hash is spilled to disk. Two ids with one hash
would come to lie side by side, and that is all: whoever reads the rows tells transactions apart by the ids themselves.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.sources.capture.captured_chunks import as_extracted, cut_chunks, registered_rows
from backfill_pipeline.sources.capture.captures import RAW, Capture, CaptureSummary, CaptureWriter
from backfill_pipeline.sources.grouping.arranging import arranged
from backfill_pipeline.sources.grouping.runs import RunIndex
from backfill_pipeline.sources.grouping.transaction_ids import shown_ids, transaction_ids
from backfill_pipeline.sources.headers import listed
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceChunk, SourceManifest, SourceReader

TRANSACTION_ROWS_MAX: Final = 1_000_000
"""Rows of one transaction, all of which are in memory at once."""


class GroupedReader:
    """The `SourceReader` of a source in which rows with one id belong together."""

    def __init__(
        self,
        inner: SourceReader,
        columns: Sequence[str],
        folder: Path,
        *,
        place: str,
        registered_sha256: str | None = None,
        chunk_count_max: int = CHUNK_COUNT_MAX,
        transaction_rows_max: int = TRANSACTION_ROWS_MAX,
    ) -> None:
        """
        Args:
            inner: reads the source.
            columns: whose texts together are the id.
            folder: where captures of the source are kept, of this kind alone.
            place: where the source is, for messages.
            registered_sha256: of the registration that is read; None while there is none.
            chunk_count_max: chunks that the survey may give at most.
            transaction_rows_max: rows that one id may have.
        """
        self.inner = inner
        self._columns = tuple(columns)
        self._folder = folder
        self._place = place
        self._registered = registered_sha256
        self._chunk_count_max = chunk_count_max
        self._transaction_rows_max = transaction_rows_max
        self._capture: Capture | None = None
        self._lock = threading.Lock()

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`. `visit` sees the rows when all of them are read and in order."""
        manifest, summary = self._captured_anew(chunk_rows)
        if summary is None:
            return replace(manifest, chunks=())
        assert self._capture is not None
        chunks = cut_chunks(self._capture, summary, chunk_rows, self._chunk_count_max)
        if visit is not None:
            for table in self._capture.tables():
                visit(table.drop_columns([RAW]))
        return replace(manifest, chunks=chunks)

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """See `SourceReader.read_chunk`."""
        table = self._rows(chunk, header)
        if table is None:
            with self._lock:
                table = self._rows(chunk, header)
                if table is None:  # gone, damaged, or arranged by other columns: made again
                    self._captured_anew(chunk.row_count)
                    table = self._rows(chunk, header)
        if table is None:
            raise SourceChangedError(
                f"{self._place}: rows {chunk.first_row} to {chunk.first_row + chunk.row_count - 1} are not what they "
                "were when the source was registered: restore the source, or register it again."
            )
        return as_extracted(table, chunk)

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`: the text that the source itself has."""
        return self.inner.raw_text(offsets, lengths)

    def fingerprint(self) -> tuple[int, str]:
        """See `SourceReader.fingerprint`."""
        return self.inner.fingerprint()

    # --- captures -----------------------------------------------------------------------------------------------

    def _captured_anew(self, chunk_rows: int) -> tuple[SourceManifest, CaptureSummary | None]:
        """Reads the source and keeps it with its rows brought together; None for a source without rows."""
        scratch = self._folder / f"arranging-{os.getpid()}-{threading.get_ident()}"
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        try:
            with CaptureWriter(scratch, self._place) as writer:
                index = RunIndex(scratch)
                manifest = self.inner.survey(chunk_rows, visit=lambda table: self._take(table, writer, index))
                if not manifest.row_count:
                    return manifest, None
                summary = writer.finish()
            scattered = index.settle()
            self._refuse_longest(index, Capture(writer.path))
            if scattered:
                with CaptureWriter(scratch / "arranged", self._place) as second:
                    parts = arranged(Capture(writer.path), summary, index, self._place, scratch / "parts")
                    for table, joined in parts:
                        second.add_extracted(table, joined)
                    summary = second.finish()
                writer = second
            path = self._path(manifest.sha256)
            writer.keep(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._capture = Capture(path)
        return manifest, summary

    def _take(self, table: pa.Table, writer: CaptureWriter, index: RunIndex) -> None:
        if missing := next((name for name in self._columns if name not in table.column_names), None):
            known = [name for name in table.column_names if not name.startswith("__")]
            raise SourceFileError(
                f"{self._place}: has no column {missing!r}, which transactions.id reads:"
                f" the columns are {listed(known)}."
            )
        writer.add_extracted(table, index.add(transaction_ids(table, self._columns)))

    def _refuse_longest(self, index: RunIndex, capture: Capture) -> None:
        rows, first = index.longest
        if rows <= self._transaction_rows_max:
            return
        table = capture.rows(first, 1)
        name = (
            "" if table is None else f" {shown_ids(transaction_ids(table, self._columns))[0].as_py()[:60]!r}"
        )
        raise SourceFileError(
            f"{self._place}: the transaction{name} has {rows:,} rows, more than {self._transaction_rows_max:,}:"
            " name columns under transactions.id that tell transactions apart."
        )

    def _rows(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table | None:
        if self._capture is None:
            self._capture = Capture(self._path(self._registered or self.inner.fingerprint()[1]))
        return registered_rows(self._capture, chunk, header)

    def _path(self, sha256: str) -> Path:
        """The capture of a source at a fingerprint, arranged by these columns."""
        columns = hashlib.sha256("\x1f".join(self._columns).encode()).hexdigest()[:16]
        return self._folder / f"{sha256}-{columns}.arrow"
