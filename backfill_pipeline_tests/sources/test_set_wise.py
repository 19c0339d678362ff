"""Readers do not loop over rows: four times the rows run hardly more lines of Python."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.definition.formats import CsvDialect, FixedFormat, ParquetFormat
from backfill_pipeline.sources.capture.captured_reader import CapturedReader
from backfill_pipeline.sources.database.stream import DatabaseStream
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.files.content import PlainFile
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.files.fixed_reader import FixedReader
from backfill_pipeline.sources.files.jsonl_reader import JsonLinesReader
from backfill_pipeline.sources.files.parquet_reader import ParquetReader
from backfill_pipeline.sources.protocol import SourceReader
from backfill_pipeline.sources.several import SeveralReader
from backfill_pipeline_tests.stages.test_set_wise import lines_executed

_FEW, _MANY = 1_000, 4_000


def csv(rows: int) -> bytes:
    return b"a,b\n" + b"".join(b"%d,x\n" % number for number in range(rows))


def plain(file: Path, rows: int) -> SourceReader:
    file.write_bytes(csv(rows))
    return CsvReader(file, CsvDialect())


def compressed(file: Path, rows: int) -> SourceReader:
    packed = file.with_suffix(".gz")
    packed.write_bytes(gzip.compress(csv(rows)))
    return CsvReader(content_of(packed, None), CsvDialect())


def several(file: Path, rows: int) -> SourceReader:
    for name in ("1.part", "2.part"):
        (file.parent / name).write_bytes(csv(rows // 2))
    return SeveralReader([file.parent / "*.part"], lambda one, most: CsvReader(one, CsvDialect()))


def jsonl(file: Path, rows: int) -> SourceReader:
    file.write_bytes(b"".join(b'{"a":%d.10,"b":{"c":"x"}}\n' % number for number in range(rows)))
    return JsonLinesReader(PlainFile(file), ["a", "b.c"])


def fixed(file: Path, rows: int) -> SourceReader:
    file.write_bytes(b"".join(b"%8dx\n" % number for number in range(rows)))
    section = {"columns": [{"name": "a", "width": "8"}, {"name": "b", "width": "1"}]}
    return FixedReader(PlainFile(file), FixedFormat.model_validate(section))


def database(file: Path, rows: int) -> SourceReader:
    """Of SQLite, whose values may be of any type: here integers, floats, texts, bytes and nulls in one column."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, amount DECIMAL(10, 2), v)")
        values = (1, 2.5, "x", b"y", None)
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?)",
            ((number, number / 100, values[number % len(values)]) for number in range(rows)),
        )
        connection.commit()
    section = {"sqlite": file, "table": "t", "key": "id", "float_decimals": {"amount": "2"}}
    stream = DatabaseStream(DatabaseSection.model_validate(section), {"amount": "fields.amount"})
    return CapturedReader(stream, file.parent / "captures")


def parquet(file: Path, rows: int) -> SourceReader:
    pq.write_table(pa.table({"a": range(rows)}), file)
    return ParquetReader(file, ParquetFormat(), {})


@pytest.mark.parametrize("make", [plain, compressed, several, jsonl, fixed, parquet, database])
def test_lines_run_do_not_grow_with_rows(tmp_path: Path, make: Callable[[Path, int], SourceReader]) -> None:
    def read(reader: SourceReader) -> None:
        manifest = reader.survey(10_000)
        assert (
            sum(len(reader.read_chunk(chunk, manifest.header)) for chunk in manifest.chunks)
            == manifest.row_count
        )

    measured = []
    read(make(tmp_path / "warm", 10))
    for rows in (_FEW, _MANY):
        reader = make(tmp_path / "x", rows)
        measured.append(lines_executed(lambda reader=reader: read(reader)))
    few, many = measured
    grown = {name: (few[name], count) for name, count in many.items() if count > few[name] + _FEW // 10}
    assert not grown
    assert few.total() > 30
