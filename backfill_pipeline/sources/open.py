"""From a definition to the reader of its type.

Belongs here: the one place that knows which kinds of source there are.
Does not: reading.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.sources.capture.captured_reader import CapturedReader
from backfill_pipeline.sources.database.connect import find_target
from backfill_pipeline.sources.database.in_place import InPlaceReader
from backfill_pipeline.sources.database.stream import DatabaseStream
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.files.fixed_reader import FixedReader
from backfill_pipeline.sources.files.jsonl_reader import JsonLinesReader
from backfill_pipeline.sources.files.parquet_reader import ParquetReader
from backfill_pipeline.sources.grouping.grouped_reader import GroupedReader
from backfill_pipeline.sources.http.client import ApiClient
from backfill_pipeline.sources.http.credentials import check_variables
from backfill_pipeline.sources.http.stream import ApiStream
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceReader
from backfill_pipeline.sources.record_stream import RecordStream
from backfill_pipeline.sources.several import RegisteredFiles, SeveralReader
from backfill_pipeline.sources.statements.camt_stream import CamtStream
from backfill_pipeline.sources.statements.mt940_stream import Mt940Stream
from backfill_pipeline.sources.workbooks.xlsx_stream import XlsxStream

GROUPED: Final = "grouped"
"""Below the folder of captures: those whose rows were brought together."""


def open_source(
    definition: SourceDefinition,
    captures_dir: Path,
    *,
    registered_sha256: str | None = None,
    registered_files: RegisteredFiles | None = None,
    names: Sequence[str] | None = None,
    client: ApiClient | None = None,
) -> SourceReader:
    """The reader of a source. Nothing is opened or read yet.

    Args:
        definition: the source.
        captures_dir: where its captures are kept, when it is of a kind that can only be read as a whole.
        registered_sha256: of the registration that is read; None while there is none.
        registered_files: what is known of the files of a source of several.
        names: only these files of such a source; all that match when None.
        client: asks the API of such a source; it stays open.
    """
    section = definition.transactions
    if section is None:
        return _open(definition, captures_dir, registered_sha256, registered_files, names, client)
    # How its files were cut before does not matter: chunks are those of the rows brought together.
    files = None if registered_files is None else replace(registered_files, chunks=())
    return GroupedReader(
        _open(definition, captures_dir, registered_sha256, files, names, client),
        section.id,
        captures_dir / GROUPED,
        place=definition.place,
        registered_sha256=registered_sha256,
    )


def check_environment(definition: SourceDefinition) -> None:
    """Looks whether a live source could be asked; asks nothing.

    Raises:
        SettingsError: an environment variable that it needs is missing or cannot be used.
    """
    if definition.database is not None:
        find_target(definition.database)
    if definition.api is not None:
        check_variables(definition.api.auth)
    if definition.scb is not None:
        check_variables(definition.scb.auth)


def _open(
    definition: SourceDefinition,
    captures_dir: Path,
    registered_sha256: str | None,
    registered_files: RegisteredFiles | None,
    names: Sequence[str] | None,
    client: ApiClient | None,
) -> SourceReader:
    if definition.files is not None:
        return SeveralReader(
            definition.files,
            partial(_open_file, definition, captures_dir),
            registered=registered_files,
            names=names,
        )
    if definition.database is not None:
        if definition.database.in_database:
            return InPlaceReader(
                definition.database,
                definition.columns_read(),
                captures_dir,
                registered_sha256=registered_sha256,
            )
        stream = DatabaseStream(definition.database, definition.columns_read())
        return CapturedReader(stream, captures_dir, registered_sha256=registered_sha256)
    if definition.api is not None:
        return CapturedReader(
            ApiStream(definition.api, list(definition.columns_read()), client=client),
            captures_dir,
            registered_sha256=registered_sha256,
        )
    assert definition.file is not None  # the definition has one of the two
    return _open_file(definition, captures_dir, definition.file, CHUNK_COUNT_MAX)


def _open_file(
    definition: SourceDefinition, captures_dir: Path, file: Path, chunk_count_max: int
) -> SourceReader:
    if definition.type == "parquet":
        return ParquetReader(
            file, definition.parquet, definition.columns_read(), chunk_count_max=chunk_count_max
        )
    if (stream := _file_stream(definition, file)) is not None:
        return CapturedReader(stream, captures_dir, chunk_count_max=chunk_count_max)
    content = content_of(file, definition.member)
    match definition.type:
        case "csv":
            return CsvReader(content, definition.csv, chunk_count_max=chunk_count_max)
        case "jsonl":
            return JsonLinesReader(content, list(definition.columns_read()), chunk_count_max=chunk_count_max)
        case "fixed":
            assert definition.fixed is not None
            return FixedReader(content, definition.fixed, chunk_count_max=chunk_count_max)
        case _:
            raise AssertionError(f"a source of type {definition.type} is no file")


def _file_stream(definition: SourceDefinition, file: Path) -> RecordStream | None:
    """What reads a file of a kind that can only be read as a whole; None for other kinds."""
    match definition.type:
        case "xlsx":
            return XlsxStream(file, definition.xlsx, definition.columns_read())
        case "mt940":
            return Mt940Stream(content_of(file, definition.member), definition.mt940)
        case "camt":
            return CamtStream(content_of(file, definition.member), definition.camt)
        case _:
            return None
