"""Chunks of a capture: cutting it, and reading one as it was registered.

Belongs here: what the readers that keep captures have in common.
Does not: making captures (`captures.py`), whose they are (`captured_reader.py`, `grouping/grouped_reader.py`).

In such a chunk, `byte_offset` and `byte_length` count records of the capture.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.schemas.extracted import SOURCE_LINE
from backfill_pipeline.sources.capture.captures import RAW, Capture, CaptureSummary, text_of
from backfill_pipeline.sources.digests import table_sha256
from backfill_pipeline.sources.files.chunks import CHUNK_BYTES_MAX
from backfill_pipeline.sources.protocol import SourceChunk


def cut_chunks(
    capture: Capture, summary: CaptureSummary, chunk_rows: int, chunk_count_max: int
) -> tuple[SourceChunk, ...]:
    """A capture in chunks; records that are joined stay together.

    Raises:
        SourceFileError: the capture cannot be read.
    """
    chunks = []
    for number, (first, stop) in enumerate(_cuts(summary, chunk_rows, chunk_count_max), start=1):
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
    return tuple(chunks)


def registered_rows(capture: Capture, chunk: SourceChunk, header: Sequence[str]) -> pa.Table | None:
    """A chunk as `Capture.rows` gives it; None when the capture does not have it as it was registered."""
    table = capture.rows(chunk.byte_offset, chunk.row_count)
    if table is None or not set(header) <= set(table.column_names):
        return None
    return table if table_sha256(text_of(table, header)) == chunk.sha256 else None


def as_extracted(table: pa.Table, chunk: SourceChunk) -> pa.Table:
    """Captured records as EXTRACTED. In a source of several files, the chunk knows its first row in all of them."""
    rows = np.arange(chunk.first_row, chunk.first_row + chunk.row_count, dtype=np.int64)
    return table.drop_columns([RAW]).set_column(0, table.schema.field(0), pa.array(rows))


def _cuts(summary: CaptureSummary, chunk_rows: int, chunk_count_max: int) -> list[tuple[int, int]]:
    """Row numbers [first, stop) of the chunks."""
    rows = summary.row_count
    if not rows:
        return []
    within = max(1, CHUNK_BYTES_MAX * rows // max(1, summary.size_bytes))
    # Whatever the row asks for, the limit on chunks counts more.
    wanted = max(1, min(chunk_rows, within), -(-rows // chunk_count_max))
    begins = np.flatnonzero(~summary.joined)
    cuts = [0]
    while cuts[-1] + wanted < rows:
        place = int(np.searchsorted(begins, cuts[-1] + wanted))
        if place == len(begins):
            break
        cuts.append(int(begins[place]))
    return list(zip(cuts, [*cuts[1:], rows], strict=True))
