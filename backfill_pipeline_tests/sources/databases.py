"""Reading real databases as sources, for tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.sources.database.stream import DatabaseStream
from backfill_pipeline.sources.record_stream import StreamedRecords

VARIABLE = "LEGACY_DATABASE_URL"


@dataclass(frozen=True)
class Read:
    """All records of a stream."""

    rows: list[dict[str, str]]
    problems: dict[int, tuple[str, str]]
    raw: dict[int, str]
    page_sizes: list[int]

    def column(self, name: str) -> list[str]:
        return [row[name] for row in self.rows]


def stream(columns_read: Mapping[str, str] | None = None, **section: object) -> DatabaseStream:
    """`section` as in YAML; the URL is that of VARIABLE unless it names a file."""
    if "sqlite" not in section:
        section.setdefault("url_env", VARIABLE)
    return DatabaseStream(DatabaseSection.model_validate(section), columns_read or {})


def read(columns_read: Mapping[str, str] | None = None, **section: object) -> Read:
    return collected(stream(columns_read, **section).records())


def collected(records: Iterator[StreamedRecords]) -> Read:
    pieces = list(records)
    found = Read([], {}, {}, [len(piece.fields) for piece in pieces])
    for piece in pieces:
        begin = len(found.rows)
        codes, reasons = (column.to_pylist() for column in piece.problems.columns())
        for place, (code, reason) in enumerate(zip(codes, reasons, strict=True)):
            if code is not None:
                found.problems[begin + place] = (code, reason)
                found.raw[begin + place] = piece.raw[place].as_py()
        assert piece.lines.to_pylist() == list(range(begin + 1, begin + len(piece.fields) + 1))
        assert all(column.null_count == 0 for column in piece.fields.columns)
        assert all(kind == pa.string() for kind in piece.fields.schema.types)
        found.rows.extend(piece.fields.to_pylist())
    return found


def execute(url: str, *statements: str) -> None:
    """Runs statements in a PostgreSQL database."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def sqlite_file(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


@contextmanager
def variable(value: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, value)
        yield
