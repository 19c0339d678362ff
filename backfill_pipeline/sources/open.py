"""From a definition to the reader of its type.

Belongs here: the one place that knows which kinds of source there are.
Does not: reading.
"""

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.sources.csv_reader import CsvReader
from backfill_pipeline.sources.protocol import SourceReader


def open_source(definition: SourceDefinition) -> SourceReader:
    """The reader of a source. Nothing is opened or read yet."""
    return CsvReader(definition.file, definition.csv)
