"""Fixed-width text: each column at its place in the line.

Belongs here: cutting lines into columns.
Does not: lines and chunks (`records_reader.py`), what columns mean (`mapping/`).
"""

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.encodings import is_utf8
from backfill_pipeline.definition.formats import FixedFormat
from backfill_pipeline.sources.files.chunks import Piece
from backfill_pipeline.sources.files.content import Content
from backfill_pipeline.sources.files.csv_records import RecordScanner
from backfill_pipeline.sources.files.records_reader import BLOCK_BYTES, RecordsReader, joined
from backfill_pipeline.sources.malformed import NOT_AS_STATED, Problems, spread
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX


class FixedReader(RecordsReader):
    """The `SourceReader` of fixed-width files."""

    def __init__(
        self,
        content: Content,
        section: FixedFormat,
        *,
        block_bytes: int = BLOCK_BYTES,
        chunk_count_max: int = CHUNK_COUNT_MAX,
    ) -> None:
        """
        Args:
            content: what is read.
            section: where the columns are.
            block_bytes: as in `RecordsReader`.
            chunk_count_max: as in `RecordsReader`.
        """
        super().__init__(
            content,
            section.encoding,
            block_bytes=block_bytes,
            chunk_count_max=chunk_count_max,
            skip_lines=section.skip_lines,
            skip_footer_lines=section.skip_footer_lines,
        )
        self._places = section.places()

    def _known_header(self) -> tuple[str, ...] | None:
        return tuple(self._places)

    def _parse_header(self, text: bytes, problem: int) -> NoReturn:
        raise AssertionError("fixed-width files have no header line")

    def _scanner(self, offset: int, line: int) -> RecordScanner:
        return RecordScanner(",", None, offset=offset, line=line)

    def _fields(self, piece: Piece, header: Sequence[str], problems: Problems) -> pa.Table:
        """See `RecordsReader`; also finds lines that end before their last column does."""
        good = np.flatnonzero(problems.none())
        lines = self._lines(bytes(joined(piece, good)))
        assert len(lines) == len(good), "a line was lost when its bytes became text"
        needed = max(stop for _, stop in self._places.values())
        lengths = pc.utf8_length(lines).to_numpy()
        for place in np.flatnonzero(lengths < needed).tolist():
            problems.add(
                int(good[place]),
                NOT_AS_STATED,
                f"the line has {lengths[place]} characters, the columns need {needed}",
            )
        lines = lines.filter(pa.array(lengths >= needed))
        columns = [pc.ascii_trim(pc.utf8_slice_codeunits(lines, *self._places[name]), " ") for name in header]
        schema = pa.schema([pa.field(name, pa.string()) for name in header])
        return spread(pa.table(columns, schema=schema), good[lengths >= needed], len(piece.records))

    def _lines(self, data: bytes) -> pa.Array:
        """The lines as text, one value each."""
        if not is_utf8(self._encoding):
            data = data.decode(self._encoding).encode()
        records, _, _ = RecordScanner(",", None).feed(data, last=True)
        if not len(records):
            return pa.array([], pa.string())
        # Every second slice is a line; those between are what ends it.
        edges = pa.array(np.stack([records.start, records.end], axis=1).ravel(), pa.int32())
        slices = pa.Array.from_buffers(
            pa.string(), len(edges) - 1, [None, edges.buffers()[1], pa.py_buffer(data)]
        )
        return slices.take(pa.array(np.arange(0, len(edges) - 1, 2)))
