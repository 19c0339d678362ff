"""The profile of a file: how it is written, what its columns hold, which fields they may feed.

Belongs here: choosing the sample and bringing the findings together.
Does not: the findings themselves (the other modules of this package).
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.profiling.candidates import Candidate, find_candidates
from backfill_pipeline.profiling.columns import ColumnProfile, profile_columns
from backfill_pipeline.profiling.workbooks import is_workbook, look_at_workbook
from backfill_pipeline.profiling.written import Written, look
from backfill_pipeline.schemas.extracted import ERROR_CODE, ERROR_REASON, SOURCE_LINE, extracted_schema
from backfill_pipeline.sources.capture.captured_reader import CapturedReader
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.protocol import SourceReader
from backfill_pipeline.sources.workbooks.xlsx_stream import XlsxStream

SAMPLE_ROWS: Final = 10_000
"""Records looked at in each of three places: the beginning, the middle and the end."""

COLUMNS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class FileProfile:
    """What is known of a file.

    Attributes:
        rows: records in the whole file, counted.
        looked_at: ranges of rows that were looked at, 1-based, both ends included.
        malformed: records of the sample that cannot be read, with the first one's line and reason.
        candidates: field → columns, the surest first; "account", "sign" and "balance" are no fields of an entry.
    """

    file: Path
    size_bytes: int
    rows: int
    written: Written
    looked_at: tuple[tuple[int, int], ...]
    malformed: int
    first_malformed: str | None
    columns: tuple[ColumnProfile, ...]
    candidates: dict[str, tuple[Candidate, ...]]


def profile_file(file: Path) -> FileProfile:
    """Profiles a delimited file or a workbook; reads it once to count it, and looks at up to 30,000 records. Executes
    nothing.

    Raises:
        SourceFileError: it is neither, or its header cannot name columns.
    """
    with tempfile.TemporaryDirectory(prefix="backfill-profile-") as scratch:
        return _profile(file, Path(scratch))


def _profile(file: Path, scratch: Path) -> FileProfile:
    written = look_at_workbook(file) if is_workbook(file) else look(file)
    if written.field_count > COLUMNS_MAX:
        raise SourceFileError(
            f"{file}: has {written.field_count} columns; at most {COLUMNS_MAX} are profiled."
        )
    reader: SourceReader
    if written.workbook is None:
        reader = CsvReader(content_of(file, None), written.dialect)
    else:
        reader = CapturedReader(XlsxStream(file, written.workbook, None), scratch)
    manifest = reader.survey(SAMPLE_ROWS)
    chunks = manifest.chunks
    chosen = sorted({0, len(chunks) // 2, len(chunks) - 1}) if chunks else []
    parts, ranges = [], []
    for at in chosen:
        chunk = chunks[at]
        part = reader.read_chunk(chunk, manifest.header)
        skipped = max(0, part.num_rows - SAMPLE_ROWS) if at and at == len(chunks) - 1 else 0
        part = part.slice(skipped, SAMPLE_ROWS)
        parts.append(part)
        first = chunk.first_row + skipped
        ranges.append((first, first + part.num_rows - 1))
    table = (
        pa.concat_tables(parts).combine_chunks() if parts else extracted_schema(manifest.header).empty_table()
    )
    bad = table.filter(pc.is_valid(table[ERROR_CODE]))
    told = None
    if bad.num_rows:
        told = f"line {bad[SOURCE_LINE][0].as_py()}: {bad[ERROR_REASON][0].as_py()}"
    good = table.filter(pc.is_null(table[ERROR_CODE])).combine_chunks()
    named = written.dialect.header if written.workbook is None else written.workbook.columns is None
    columns = profile_columns(good, list(manifest.header), named=named)
    return FileProfile(
        file,
        manifest.size_bytes,
        manifest.row_count,
        written,
        tuple(ranges),
        bad.num_rows,
        told,
        tuple(columns),
        find_candidates(columns, good),
    )
