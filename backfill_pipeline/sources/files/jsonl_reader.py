"""JSON lines: one object per line, its values as the text that the file holds.

Belongs here: the lines of a file, window by window.
Does not: from an object to columns (`json_records.py`), chunks (`records_reader.py`), what columns mean (`mapping/`).
"""

from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backfill_pipeline.sources.files.chunks import Piece
from backfill_pipeline.sources.files.content import Content
from backfill_pipeline.sources.files.csv_records import RecordScanner
from backfill_pipeline.sources.files.json_records import JsonTexts, JsonTree
from backfill_pipeline.sources.files.json_tokens import Positions
from backfill_pipeline.sources.files.records_reader import BLOCK_BYTES, RecordsReader, joined
from backfill_pipeline.sources.malformed import Problems, spread
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX

WINDOW_BYTES: Final = 2 << 20
"""Parsed at once; what is known of every byte takes some ten times as much."""


class JsonLinesReader(RecordsReader):
    """The `SourceReader` of JSON lines."""

    def __init__(
        self,
        content: Content,
        columns: Sequence[str],
        *,
        block_bytes: int = BLOCK_BYTES,
        chunk_count_max: int = CHUNK_COUNT_MAX,
    ) -> None:
        """
        Args:
            content: what is read.
            columns: dotted paths; only these are read.
            block_bytes: as in `RecordsReader`.
            chunk_count_max: as in `RecordsReader`.

        Raises:
            SourceDefinitionError: a path leads through the value of another.
        """
        super().__init__(content, "utf-8", block_bytes=block_bytes, chunk_count_max=chunk_count_max)
        self._columns = tuple(columns)
        JsonTree(self._columns)

    def _known_header(self) -> tuple[str, ...] | None:
        return self._columns

    def _parse_header(self, text: bytes, problem: int) -> NoReturn:
        raise AssertionError("JSON lines have no header line")

    def _scanner(self, offset: int, line: int) -> RecordScanner:
        return RecordScanner(",", None, offset=offset, line=line)

    def _fields(self, piece: Piece, header: Sequence[str], problems: Problems) -> pa.Table:
        """See `RecordsReader`; also finds lines that are no object, or do not hold values where they should."""
        tree = JsonTree(header)
        good = np.flatnonzero(problems.none())
        tables = [tree.schema.empty_table()]
        for window in _windows(good, piece):
            lines = JsonTexts(bytes(joined(piece, window)), _starts(piece, window), tree)
            tables += lines.parse(problems, window)
        kept = np.flatnonzero(problems.none())
        return spread(pa.concat_tables(tables).combine_chunks(), kept, len(piece.records))


def _windows(good: npt.NDArray[np.int64], piece: Piece) -> Iterator[npt.NDArray[np.int64]]:
    """The good records in runs of some WINDOW_BYTES."""
    if not len(good):
        return
    sizes = (piece.records.following - piece.records.start)[good]
    place = np.cumsum(sizes) // WINDOW_BYTES
    yield from np.split(good, np.flatnonzero(np.diff(place)) + 1)


def _starts(piece: Piece, window: npt.NDArray[np.int64]) -> Positions:
    """Where each record begins in the joined bytes."""
    sizes = (piece.records.following - piece.records.start)[window]
    starts: Positions = np.r_[0, np.cumsum(sizes)[:-1]]
    return starts
