"""The reader of sources that can only be read as a whole: they are captured once, and chunks are read from the capture.

Belongs here: when something is captured, and which capture is read.
Does not: the file of a capture (`captures.py`), its chunks (`captured_chunks.py`), what is captured (the streams).

What a database or an API says may be something else a minute later. So the source is what it said when it was
registered, and a run that resumes goes on with that: its capture. The capture of a file can be made again from the
file; that of a live source only as long as it still says the same.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa

from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.sources.capture.captured_chunks import as_extracted, cut_chunks, registered_rows
from backfill_pipeline.sources.capture.captures import (
    BATCH_ROWS,
    Capture,
    CaptureSummary,
    CaptureWriter,
    raw_texts,
)
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceChunk, SourceManifest
from backfill_pipeline.sources.record_stream import RecordStream, Reporting

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
        assert self._capture is not None
        chunks = cut_chunks(self._capture, summary, chunk_rows, self._chunk_count_max)
        return SourceManifest(
            self._stream.name,
            size_bytes,
            sha256,
            summary.header,
            summary.row_count,
            chunks,
            details=self._stream.report() if isinstance(self._stream, Reporting) else {},
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
        return as_extracted(table, chunk)

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`: each record's own text, or its fields as one JSON object.

        Raises:
            SourceChangedError: what was captured is gone, and the source is not what it was.
        """
        texts = [""] * len(offsets)
        for places in _by_batch(offsets):
            first = offsets[places[0]] // BATCH_ROWS * BATCH_ROWS
            last = max(offsets[place] for place in places)
            table = self._records(first, last - first + 1)
            wanted = table.take(pa.array([offsets[place] - first for place in places]))
            for place, text in zip(places, raw_texts(wanted), strict=True):
                texts[place] = text[:_RAW_CHARACTERS_MAX]
        return texts

    def _records(self, first: int, count: int) -> pa.Table:
        """Records by number, from 0, as `Capture.rows` gives them; from a capture that is made again when need be."""
        capture = self._current()
        table = None if capture is None else capture.rows(first, count)
        if table is None:
            with self._lock:
                _, _, sha256 = self._captured_anew(self._stream.fingerprint(), None)
                assert self._capture is not None
                table = self._capture.rows(first, count)
            if table is None or self._registered not in (None, sha256):
                raise SourceChangedError(
                    f"{self._stream.place}: is not what it was when it was registered, and what was captured then is"
                    " gone: restore the source, or register it again."
                )
        return table

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

    def captured(self) -> Capture | None:
        """The capture that is read; after a survey the one that it made. None when there is none."""
        return self._current()

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
        return None if capture is None else registered_rows(capture, chunk, header)


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
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < older_than_s:
                path.unlink()
