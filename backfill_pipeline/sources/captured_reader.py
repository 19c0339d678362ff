"""The reader of sources that can only be read as a whole: they are captured once, and chunks are read from the capture.

Belongs here: when something is captured, which capture is read, cutting it into chunks.
Does not: the file of a capture (`captures.py`), what is captured (the streams).

What a database or an API says may be something else a minute later. So the source is what it said when it was
registered, and a run that resumes goes on with that: its capture. The capture of a file can be made again from the
file; that of a live source only as long as it still says the same.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import SOURCE_LINE
from backfill_pipeline.sources.captures import (
    BATCH_ROWS,
    RAW,
    Capture,
    CaptureSummary,
    CaptureWriter,
    raw_texts,
    text_of,
)
from backfill_pipeline.sources.chunks import CHUNK_BYTES_MAX
from backfill_pipeline.sources.digests import table_sha256
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceChunk, SourceManifest
from backfill_pipeline.sources.record_stream import RecordStream

_RAW_CHARACTERS_MAX: Final = 1 << 20


class CapturedReader:
    """The `SourceReader` of a stream."""

    def __init__(
        self,
        stream: RecordStream,
        folder: Path,
        *,
        registered_sha256: str | None = None,
        chunk_count_max: int = CHUNK_COUNT_MAX,
    ) -> None:
        """
        Args:
            stream: what is captured.
            folder: where the source's captures are kept.
            registered_sha256: of the registration that is read; None while there is none.
            chunk_count_max: chunks that the survey may give at most.
        """
        self._stream = stream
        self._folder = folder
        self._registered = registered_sha256
        self._chunk_count_max = chunk_count_max
        self._capture: Capture | None = None
        self._lock = threading.Lock()

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`. Captures the source anew."""
        before = self._stream.fingerprint()
        summary, size_bytes, sha256 = self._captured_anew(before, visit)
        chunks = []
        capture = self._capture
        assert capture is not None
        for number, (first, stop) in enumerate(self._cut(summary, chunk_rows), start=1):
            table = capture.rows(first, stop - first)
            if table is None:
                raise SourceFileError(f"{capture.path}: was removed or damaged while it was read: try again.")
            chunks.append(
                SourceChunk(
                    number=number,
                    first_row=first + 1,
                    row_count=stop - first,
                    first_line=table[SOURCE_LINE][0].as_py(),
                    byte_offset=first,
                    byte_length=stop - first,
                    sha256=table_sha256(text_of(table, summary.header)),
                )
            )
        return SourceManifest(
            self._stream.name, size_bytes, sha256, summary.header, summary.row_count, tuple(chunks)
        )

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """See `SourceReader.read_chunk`."""
        table = self._rows(chunk, header)
        if table is None:
            with self._lock:
                table = self._rows(chunk, header)
                if table is None:  # gone, damaged, or made under another definition: made again
                    self._captured_anew(self._stream.fingerprint(), None)
                    table = self._rows(chunk, header)
        if table is None:
            raise SourceChangedError(
                f"{self._stream.place}: records {chunk.first_row} to {chunk.first_row + chunk.row_count - 1} are not "
                "what they were when the source was registered, and what was captured then is gone: restore the"
                " source, or register it again."
            )
        names = [name for name in table.column_names if name != RAW]
        # In a source of several files, the chunk knows its first row in all of them.
        rows = np.arange(chunk.first_row, chunk.first_row + chunk.row_count, dtype=np.int64)
        return table.select(names).set_column(0, table.schema.field(0), pa.array(rows))

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`: each record's own text, or its fields as one JSON object."""
        capture = self._current()
        texts = [""] * len(offsets)
        for places in _by_batch(offsets):
            first = offsets[places[0]] // BATCH_ROWS * BATCH_ROWS
            last = max(offsets[place] for place in places)
            table = None if capture is None else capture.rows(first, last - first + 1)
            if table is None:
                continue
            wanted = table.take(pa.array([offsets[place] - first for place in places]))
            for place, text in zip(places, raw_texts(wanted), strict=True):
                texts[place] = text[:_RAW_CHARACTERS_MAX]
        return texts

    def fingerprint(self) -> tuple[int, str]:
        """See `SourceReader.fingerprint`. That of a live source is its capture's, as long as there is one."""
        if (found := self._stream.fingerprint()) is not None:
            return found
        capture = self._current()
        if capture is None:
            with self._lock:
                _, size_bytes, sha256 = self._captured_anew(None, None)
            return size_bytes, sha256
        return _identity_of(capture.path)

    # --- captures -----------------------------------------------------------------------------------------------

    def _captured_anew(
        self, before: tuple[int, str] | None, visit: Callable[[pa.Table], None] | None
    ) -> tuple[CaptureSummary, int, str]:
        """Captures the source; the summary with the size and SHA-256 that identify it.

        A capture that `visit` ends early serves `raw_text` of this reader, and nothing else.
        """
        with CaptureWriter(self._folder, self._stream.place) as writer:
            try:
                for records in self._stream.records():
                    table = writer.add(records)
                    if visit is not None:
                        self._visit(visit, table, writer)
                summary = writer.finish()
            except BaseException:
                if self._capture is None or self._capture.path != writer.path:
                    writer.discard()
                raise
            if before != self._stream.fingerprint():
                writer.discard()
                raise SourceFileError(
                    f"{self._stream.place}: changed while it was read: wait until it is complete, and try again."
                )
            size_bytes, sha256 = before or (summary.size_bytes, summary.sha256)
            path = self._folder / f"{sha256}-{size_bytes}.arrow"
            writer.keep(path)
        self._capture = Capture(path)
        return summary, size_bytes, sha256

    def _visit(self, visit: Callable[[pa.Table], None], table: pa.Table, writer: CaptureWriter) -> None:
        try:
            visit(table)
        except BaseException:
            writer.finish()
            self._capture = Capture(writer.path)
            raise

    def _current(self) -> Capture | None:
        """The capture that belongs to the registration, or to the file as it is."""
        if self._capture is None:
            found = self._stream.fingerprint()
            sha256 = self._registered if found is None else found[1]
            paths = [] if sha256 is None else sorted(self._folder.glob(f"{sha256}-*.arrow"))
            self._capture = Capture(paths[0]) if paths else None
        return self._capture

    def _rows(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table | None:
        """A chunk from the capture; None when there is none, or it is not what was registered."""
        capture = self._current()
        table = None if capture is None else capture.rows(chunk.byte_offset, chunk.row_count)
        if table is None or not set(header) <= set(table.column_names):
            return None
        return table if table_sha256(text_of(table, header)) == chunk.sha256 else None

    # --- chunks -------------------------------------------------------------------------------------------------

    def _cut(self, summary: CaptureSummary, chunk_rows: int) -> list[tuple[int, int]]:
        """Row numbers [first, stop) of the chunks; records that are joined stay together."""
        rows = summary.row_count
        if not rows:
            return []
        within = max(1, CHUNK_BYTES_MAX * rows // max(1, summary.size_bytes))
        # Whatever the row asks for, the limit on chunks counts more.
        wanted = max(1, min(chunk_rows, within), -(-rows // self._chunk_count_max))
        begins = np.flatnonzero(~summary.joined)
        cuts = [0]
        while cuts[-1] + wanted < rows:
            place = int(np.searchsorted(begins, cuts[-1] + wanted))
            if place == len(begins):
                break
            cuts.append(int(begins[place]))
        return list(zip(cuts, [*cuts[1:], rows], strict=True))


def _identity_of(path: Path) -> tuple[int, str]:
    """Size and SHA-256 that a capture's name holds."""
    sha256, _, size_bytes = path.stem.partition("-")
    return int(size_bytes), sha256


def _by_batch(offsets: Sequence[int]) -> list[list[int]]:
    """Places of the offsets, those of one batch together."""
    found: dict[int, list[int]] = {}
    for place, offset in enumerate(offsets):
        found.setdefault(offset // BATCH_ROWS, []).append(place)
    return list(found.values())


def prune_captures(folder: Path, *, older_than_s: float) -> None:
    """Removes captures that were written before a time, and what killed processes left.

    Args:
        folder: a source's captures.
        older_than_s: seconds since 1970.
    """
    for path in folder.glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < older_than_s:
                path.unlink()
