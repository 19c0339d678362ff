"""From a definition to the reader of its type.

Belongs here: the one place that knows which kinds of source there are.
Does not: reading.
"""

from functools import partial
from pathlib import Path

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.sources.compressed import content_of
from backfill_pipeline.sources.csv_reader import CsvReader
from backfill_pipeline.sources.fixed_reader import FixedReader
from backfill_pipeline.sources.jsonl_reader import JsonLinesReader
from backfill_pipeline.sources.parquet_reader import ParquetReader
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceReader
from backfill_pipeline.sources.several import SeveralReader


def open_source(
    definition: SourceDefinition, captures_dir: Path, *, registered_sha256: str | None = None
) -> SourceReader:
    """The reader of a source. Nothing is opened or read yet.

    Args:
        definition: the source.
        captures_dir: where its captures are kept, when it is of a kind that can only be read as a whole.
        registered_sha256: of the registration that is read; None while there is none.
    """
    if definition.files is not None:
        return SeveralReader(definition.files, partial(_open_file, definition, captures_dir))
    assert definition.file is not None  # the definition has one of the two
    return _open_file(definition, captures_dir, definition.file, CHUNK_COUNT_MAX)


def _open_file(
    definition: SourceDefinition, captures_dir: Path, file: Path, chunk_count_max: int
) -> SourceReader:
    if definition.type == "parquet":
        return ParquetReader(
            file, definition.parquet, definition.columns_read(), chunk_count_max=chunk_count_max
        )
    content = content_of(file, definition.member)
    match definition.type:
        case "csv":
            return CsvReader(content, definition.csv, chunk_count_max=chunk_count_max)
        case "jsonl":
            return JsonLinesReader(content, list(definition.columns_read()), chunk_count_max=chunk_count_max)
        case "fixed":
            assert definition.fixed is not None
            return FixedReader(content, definition.fixed, chunk_count_max=chunk_count_max)
