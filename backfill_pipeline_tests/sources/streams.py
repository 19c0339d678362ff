"""Reading a stream as a run does: captured, cut into chunks, read again."""

from pathlib import Path

import pyarrow as pa

from backfill_pipeline.sources.capture.captured_reader import CapturedReader
from backfill_pipeline.sources.record_stream import RecordStream


def read_all(stream: RecordStream, folder: Path, *, chunk_rows: int = 3) -> pa.Table:
    """EXTRACTED of a whole stream."""
    reader = CapturedReader(stream, folder)
    manifest = reader.survey(chunk_rows)
    tables = [reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks]
    assert sum(table.num_rows for table in tables) == manifest.row_count
    if not tables:
        return pa.table(
            {name: pa.array([], pa.string()) for name in [*manifest.header, "__error_reason", "__error_code"]}
        )
    return pa.concat_tables(tables)


def raw_of(stream: RecordStream, folder: Path) -> list[str]:
    """The raw text of all records."""
    reader = CapturedReader(stream, folder)
    count = reader.survey(1000).row_count
    return reader.raw_text(list(range(count)), [1] * count)
