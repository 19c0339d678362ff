"""The reader of a table that is posted where it lies: nothing is captured, and every chunk is proven when it is read.

Belongs here: fingerprinting a table of PostgreSQL inside the database, and reading its chunks, or some rows of one.
Does not: posting from it (`stages/in_database.py`), how columns and pages are asked for (`columns.py`, `stream.py`).

The database hashes the rows itself, in its own text of them. So a chunk that is not what was registered is
found out by whoever reads it: this reader, or the transaction that posts it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Connection

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import (
    BYTE_LENGTH,
    BYTE_OFFSET,
    ERROR_CODE,
    ERROR_REASON,
    SOURCE_LINE,
    SOURCE_ROW,
    extracted_schema,
)
from backfill_pipeline.sources.capture.captures import RAW, raw_texts
from backfill_pipeline.sources.database.connect import find_target, snapshot
from backfill_pipeline.sources.database.in_place_statements import (
    DIGEST,
    HASHED_ROWS,
    IDENTITY,
    TableShape,
    behind_key,
    bound,
    execute,
    fetched,
    hashed,
    key_column,
    names_of,
)
from backfill_pipeline.sources.database.stream import (
    DatabaseStream,
    Plan,
    check_whole,
    make_plan,
    page_statement,
    records_of,
)
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceChunk, SourceManifest
from backfill_pipeline.sources.record_stream import StreamedRecords

_PAGE_ROWS: Final = 20_000


class InPlaceReader:
    """The `SourceReader` of a table that stays where it is."""

    def __init__(
        self,
        section: DatabaseSection,
        columns_read: dict[str, str],
        folder: Path,
        *,
        registered_sha256: str | None = None,
        chunk_count_max: int = CHUNK_COUNT_MAX,
    ) -> None:
        """
        Args:
            section: what the definition says.
            columns_read: column → the key of the definition that reads it.
            folder: where it is kept between which keys chunks lie: a cache.
            registered_sha256: of the registration that is read; None while there is none.
            chunk_count_max: chunks that the survey may give at most.
        """
        self._section = section
        self._columns_read = columns_read
        self._folder = folder
        self._registered = registered_sha256
        self._chunk_count_max = chunk_count_max
        self._stream = DatabaseStream(section, columns_read)
        self._bounds: dict[int, tuple[str, ...]] | None = None  # first row of a chunk → the key before it

    @property
    def place(self) -> str:
        """What is read, for messages."""
        return self._stream.place

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`. The table is read by the database alone, unless somebody wants to see the rows."""
        with self._planned() as (connection, plan):
            if visit is not None:
                for records, first in _records(connection, plan):
                    visit(_extracted(records, first))
            found = hashed(connection, plan, chunk_rows)
            if found.row_count > chunk_rows * self._chunk_count_max:
                chunk_rows = -(-found.row_count // self._chunk_count_max)
                found = hashed(connection, plan, chunk_rows)
            check_whole(connection, plan, found.row_count - found.nulls)
        header = tuple(column.name for column in plan.columns)
        sha256 = hashlib.sha256("\x1f".join([*header, "", *found.parts]).encode()).hexdigest()
        chunks = tuple(
            SourceChunk(
                number=number,
                first_row=chunk_rows * (number - 1) + 1,
                row_count=count,
                first_line=chunk_rows * (number - 1) + 1,
                byte_offset=chunk_rows * (number - 1),
                byte_length=count,
                sha256=digest,
            )
            for number, (count, digest, _) in enumerate(found.chunks, start=1)
        )
        self._bounds = {
            chunk.first_row + chunk.row_count: key
            for chunk, (_, _, key) in zip(chunks, found.chunks, strict=True)
            if key is not None
        }
        self._keep_bounds(sha256, found.size_bytes)
        return SourceManifest(self._stream.name, found.size_bytes, sha256, header, found.row_count, chunks)

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """See `SourceReader.read_chunk`."""
        with self._planned() as (connection, plan):
            after = self._after(connection, plan, chunk)
            pieces = [
                _extracted(records, first)
                for records, first in _records(
                    connection, plan, after=after, first_row=chunk.first_row, limit=chunk.row_count
                )
            ]
            found = _digest(connection, plan, chunk, after)
        table = pa.concat_tables(pieces)
        if found != (chunk.row_count, chunk.sha256) or not set(header) <= set(table.column_names):
            raise self.changed(chunk)
        return table.combine_chunks()

    def is_as_registered(self, chunk: SourceChunk) -> bool:
        """Whether the rows of a chunk are what they were; the database hashes them, and none is read."""
        with self._planned() as (connection, plan):
            after = self._after(connection, plan, chunk)
            return _digest(connection, plan, chunk, after) == (chunk.row_count, chunk.sha256)

    def rows_at(self, chunk: SourceChunk, source_rows: Sequence[int]) -> pa.Table:
        """Some rows of a chunk as EXTRACTED, in source order. That the chunk is what was registered is not looked at.

        Args:
            chunk: where they lie.
            source_rows: their numbers, ascending, at least one.
        """
        with self._planned() as (connection, plan):
            after = self._after(connection, plan, chunk)
            order = [plan.rows.c[column.name] for column in plan.key]
            page = page_statement(plan, after, chunk.row_count)
            numbered = page.add_columns(sa.func.row_number().over(order_by=order).label("n")).subquery()
            wanted = [row - chunk.first_row + 1 for row in source_rows]
            statement = (
                sa.select(numbered)
                # Of the column's own type: else every row is held against every number.
                .where(numbered.c.n == sa.func.any(sa.cast(wanted, sa.ARRAY(sa.BigInteger))))
                .order_by(numbered.c.n)
            )
            rows = fetched(connection, statement)
            if len(rows) != len(wanted):
                raise self.changed(chunk)
            records, _ = records_of(plan, [row[:-1] for row in rows], 0, None)
        return _extracted(records, chunk.first_row, np.array(source_rows, dtype=np.int64))

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`. Rows have no text of their own: each is shown as an object of its columns."""
        if not offsets:
            return []
        places = np.unique(np.array(offsets, dtype=np.int64))
        texts: dict[int, str] = {}
        # By the nearest chunk that begins before a row.
        known = np.array(sorted({1, *(self._known_bounds() or {})}), dtype=np.int64)
        chunk_of = np.searchsorted(known, places + 1, side="right") - 1
        for number in np.unique(chunk_of).tolist():
            inside = places[chunk_of == number]
            first = int(known[number])
            chunk = SourceChunk(0, first, int(inside[-1]) + 2 - first, first, first - 1, 0, "")
            table = self.rows_at(chunk, (inside + 1).tolist())
            texts |= dict(zip(inside.tolist(), _raw(table), strict=True))
        return [texts[offset] for offset in offsets]

    def fingerprint(self) -> tuple[int, str]:
        """See `SourceReader.fingerprint`. What was registered, while it is known: chunks are proven when read."""
        for path in self._folder.glob(f"{self._registered}-*.keys.json"):
            return int(path.name.split("-")[1].split(".")[0]), str(self._registered)
        manifest = self.survey(HASHED_ROWS)
        return manifest.size_bytes, manifest.sha256

    def shape(self) -> TableShape:
        """The table, for statements of somebody else in the same database."""
        with self._planned() as (connection, plan):
            names = names_of(plan)
            [identity] = execute(connection, sql.SQL(IDENTITY), [self.table_name(plan)])
            return TableShape(
                rows=names["rows"],
                row_text=names["row_text"],
                key=tuple(key_column(one.name) for one in plan.key),
                types={column.name: column.type_name for column in plan.columns},
                identity=identity,
            )

    def key_before(self, chunk: SourceChunk) -> tuple[str, ...] | None:
        """The key of the row before a chunk; None where it is the first."""
        if chunk.first_row == 1:
            return None
        if (key := (self._known_bounds() or {}).get(chunk.first_row)) is not None:
            return key  # without a connection
        with self._planned() as (connection, plan):
            return self._after(connection, plan, chunk)

    def changed(self, chunk: SourceChunk) -> SourceChangedError:
        """What to say of a chunk that is not what was registered."""
        return SourceChangedError(
            f"{self.place}: rows {chunk.first_row:,} to {chunk.first_row + chunk.row_count - 1:,} are not what they"
            " were when the source was registered, and with in_database they are not captured: restore them, or"
            " register them as a new revision: backfill run --accept-changed"
        )

    def table_name(self, plan: Plan) -> str:
        """The table as to_regclass reads it."""
        schema, name = plan.section.table_path()
        parts = sql.Identifier(schema, name) if schema else sql.Identifier(name)
        return parts.as_string(None)

    # --- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _planned(self) -> Iterator[tuple[Connection, Plan]]:
        target = find_target(self._section)
        if target.backend != "postgresql":
            raise SourceFileError(f"{target.place}: in_database is only for PostgreSQL: remove it.")
        with snapshot(target, self._section) as connection:
            plan = make_plan(connection, target, self._section, self._columns_read)
            yield connection, plan

    def _after(self, connection: Connection, plan: Plan, chunk: SourceChunk) -> tuple[str, ...] | None:
        if chunk.first_row == 1:
            return None
        if (key := (self._known_bounds() or {}).get(chunk.first_row)) is not None:
            return key
        found = execute(
            connection,
            sql.SQL("SELECT {texts} FROM {rows} ORDER BY {key} OFFSET %(rows)s LIMIT 1").format(
                texts=names_of(plan)["key_texts"], rows=names_of(plan)["rows"], key=names_of(plan)["key"]
            ),
            {"rows": chunk.first_row - 2},
        )
        if not found:
            raise self.changed(chunk)
        return tuple(found[0])

    def _known_bounds(self) -> dict[int, tuple[str, ...]] | None:
        if self._bounds is None and self._registered is not None:
            for path in self._folder.glob(f"{self._registered}-*.keys.json"):
                with suppress(OSError, ValueError):
                    kept = json.loads(path.read_text(encoding="utf-8"))
                    self._bounds = {int(row): tuple(key) for row, key in kept.items()}
        return self._bounds

    def _keep_bounds(self, sha256: str, size_bytes: int) -> None:
        assert self._bounds is not None
        with suppress(OSError):  # a cache: without it, keys are looked for
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished = self._folder / f"{os.getpid()}.keys.tmp"
            unfinished.write_text(json.dumps(self._bounds), encoding="utf-8")
            unfinished.replace(self._folder / f"{sha256}-{size_bytes}.keys.json")


def _digest(
    connection: Connection, plan: Plan, chunk: SourceChunk, after: Sequence[str] | None
) -> tuple[object, ...]:
    """How many rows a chunk has now, and the SHA-256 of their hashes in order."""
    behind = behind_key([key_column(one.name) for one in plan.key], after)
    return execute(
        connection,
        DIGEST.format(**names_of(plan), behind=behind),
        {"count": chunk.row_count, **bound(after)},
    )[0]


def _records(
    connection: Connection,
    plan: Plan,
    *,
    after: Sequence[str] | None = None,
    first_row: int = 1,
    limit: int | None = None,
) -> Iterator[tuple[StreamedRecords, int]]:
    """Pages of rows behind a key, each with the number of its first row; at least one, which tells the columns."""
    read = 0
    while True:
        wanted = _PAGE_ROWS if limit is None else min(_PAGE_ROWS, limit - read)
        rows = fetched(connection, page_statement(plan, after, wanted))
        if rows or not read:
            records, key = records_of(plan, rows, read, after)
            yield records, first_row + read
            read += len(rows)
            after = key
        if len(rows) < wanted or read == limit:
            return


def _extracted(records: StreamedRecords, first_row: int, source_rows: np.ndarray | None = None) -> pa.Table:
    """Records as EXTRACTED; their places count rows."""
    count = records.fields.num_rows
    rows = np.arange(first_row, first_row + count, dtype=np.int64) if source_rows is None else source_rows
    codes, reasons = records.problems.columns()
    reserved = {
        SOURCE_ROW: pa.array(rows),
        SOURCE_LINE: pa.array(rows),
        BYTE_OFFSET: pa.array(rows - 1),
        BYTE_LENGTH: pa.array(np.ones(count, dtype=np.int64)),
        ERROR_CODE: codes,
        ERROR_REASON: reasons,
    }
    bad, nothing = pa.compute.is_valid(codes), pa.scalar(None, pa.string())
    fields = [
        column if not pa.compute.any(bad).as_py() else pa.compute.if_else(bad, nothing, column)
        for column in records.fields.columns
    ]
    schema = extracted_schema(records.fields.column_names)
    return pa.table([*reserved.values(), *fields], schema=schema)


def _raw(table: pa.Table) -> list[str]:
    return raw_texts(table.append_column(RAW, pa.nulls(table.num_rows, pa.string())))
