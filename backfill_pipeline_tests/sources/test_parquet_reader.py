"""A Parquet row is text, exactly; what is no text is a reject or one sentence."""

import datetime
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.formats import ParquetFormat
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.sources.files.parquet_reader import ParquetReader
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX

NOON = datetime.datetime(2024, 1, 1, 12)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def reader_of(
    tmp_path: Path, row_group_size: int = 3, float_decimals: dict[str, int] | None = None, **columns: pa.Array
) -> ParquetReader:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=row_group_size)
    return ParquetReader(file, ParquetFormat(float_decimals=float_decimals or {}), {})


def read(reader: ParquetReader, chunk_rows: int = 100) -> pa.Table:
    visited: list[pa.Table] = []
    manifest = reader.survey(chunk_rows, visit=visited.append)
    tables = [reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks]
    assert tables == visited
    assert reader.fingerprint() == (manifest.size_bytes, manifest.sha256)
    assert sum(chunk.row_count for chunk in manifest.chunks) == manifest.row_count
    return pa.concat_tables(tables)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([Decimal("1.10"), None], pa.decimal128(5, 2)), ["1.10", ""]),
        (pa.array([Decimal("0"), Decimal("1E-18")], pa.decimal128(38, 18)), ["0.000000000000000000", "0.000000000000000001"]),
        (pa.array([2**63 - 1, -5]), ["9223372036854775807", "-5"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([0.1, 1e-7, 1e20, None]), ["0.1", "0.0000001", "100000000000000000000", ""]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["é", ""]).dictionary_encode(), ["é", ""]),
        (pa.array(["x"], pa.large_string()), ["x"]),
        (pa.array([NOON], pa.timestamp("s")), ["2024-01-01T12:00:00"]),
        (pa.array([NOON], pa.timestamp("ms", "UTC")), ["2024-01-01T12:00:00Z"]),
        (pa.array([NOON.replace(microsecond=120)], pa.timestamp("us", "Europe/Berlin")), ["2024-01-01T12:00:00.00012Z"]),
        (pa.array([datetime.date(2024, 2, 29)]), ["2024-02-29"]),
        (pa.array([datetime.date(2024, 2, 29)], pa.date64()), ["2024-02-29"]),
        (pa.nulls(2), ["", ""]),
    ],
)  # fmt: skip
def test_values_become_their_exact_text(tmp_path: Path, values: pa.Array, expected: list[str]) -> None:
    assert read(reader_of(tmp_path, x=values))["x"].to_pylist() == expected


def test_floats_stand_for_the_decimals_that_are_stated(tmp_path: Path) -> None:
    values = [0.29, -1.1, 3.0, 0.1 + 0.2, 1e20, float("inf"), float("nan"), None]
    expected = ["0.29", "-1.10", "3.00", "0.30000000000000004", "100000000000000000000", "inf", "nan", ""]
    assert read(reader_of(tmp_path, float_decimals={"x": 2}, x=pa.array(values)))["x"].to_pylist() == expected
    narrow = pa.array([0.29, 16777216.0], pa.float32())
    found = read(reader_of(tmp_path, float_decimals={"x": 2}, x=narrow))["x"].to_pylist()
    assert found == ["0.29", "16777216.00"]


@QUICK
@given(cents=st.lists(st.integers(-(10**14), 10**14), min_size=1, max_size=20), decimals=st.integers(0, 4))
def test_a_float_next_to_a_decimal_is_that_decimal(tmp_path: Path, cents: list[int], decimals: int) -> None:
    wanted = [format(Decimal(number).scaleb(-decimals), f".{decimals}f") for number in cents]
    column = pa.array([float(text) for text in wanted])
    found = read(reader_of(tmp_path, float_decimals={"x": decimals}, x=column))["x"].to_pylist()
    assert [Decimal(text) for text in found] == [Decimal(text) for text in wanted]


@QUICK
@given(
    rows=st.lists(st.text(max_size=4) | st.none(), min_size=1, max_size=30),
    chunk_rows=st.integers(1, 31),
    row_group_size=st.integers(1, 31),
)
def test_row_groups_and_chunks_do_not_matter(
    tmp_path: Path, rows: list[str | None], chunk_rows: int, row_group_size: int
) -> None:
    reader = reader_of(tmp_path, row_group_size, a=pa.array(rows, pa.string()), b=pa.array(range(len(rows))))
    table = read(reader, chunk_rows)
    assert table["__source_row"].to_pylist() == list(range(1, len(rows) + 1))
    for row, found in zip(rows, table.to_pylist(), strict=True):
        if "\0" in (row or ""):
            assert (found["__error_code"], found["a"], found["b"]) == ("nul_byte", None, None)
        else:
            assert (found["__error_code"], found["a"]) == (None, row or "")
    offsets = table["__byte_offset"].to_pylist()[::-1]
    raw = [json.loads(text) for text in reader.raw_text(offsets, [1] * len(offsets))]
    assert [one["b"] for one in raw] == list(range(len(rows)))[::-1]
    assert [one["a"] for one in raw] == rows[::-1]


def test_text_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    offsets = pa.array([0, 1, 2], pa.int32()).buffers()[1]
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff")])
    reader = reader_of(tmp_path, x=bad)
    assert read(reader)["__error_code"].to_pylist() == [None, "encoding_invalid"]
    assert len(reader.raw_text([1], [1])) == 1


def test_members_of_groups_are_columns_and_lists_are_not(tmp_path: Path) -> None:
    reader = reader_of(
        tmp_path, g=pa.array([{"a": 1, "h": {"b": "x"}}, None]), many=pa.array([[1], []]), raw=pa.array([b"1", b"2"])
    )  # fmt: skip
    table = read(reader)
    assert table.column_names[6:] == ["g.a", "g.h.b"]
    assert table["g.h.b"].to_pylist() == ["x", ""]
    for column in ("many", "raw"):
        wanting = ParquetReader(tmp_path / "x.parquet", ParquetFormat(), {column: "fields.amount"})
        with pytest.raises(
            SourceFileError, match=f"column '{column}', which fields.amount reads, is .* not a single value"
        ):
            wanting.survey(10)


def test_a_changed_row_is_refused(tmp_path: Path) -> None:
    manifest = reader_of(tmp_path, x=pa.array(["a", "b", "c"])).survey(2)
    changed = reader_of(tmp_path, x=pa.array(["a", "bc", ""]))
    with pytest.raises(SourceChangedError, match="rows 1 to 2"):
        changed.read_chunk(manifest.chunks[0], manifest.header)
    with pytest.raises(SourceChangedError, match="rows 3 to 3"):
        reader_of(tmp_path, y=pa.array(["a", "b", "c"])).read_chunk(manifest.chunks[1], manifest.header)


def test_there_are_never_more_chunks_than_allowed(tmp_path: Path) -> None:
    manifest = reader_of(tmp_path, row_group_size=10_000, x=pa.array(range(5000))).survey(1)
    assert len(manifest.chunks) <= CHUNK_COUNT_MAX
    assert manifest.row_count == 5000


@QUICK
@given(position=st.integers(0, 10_000), garbage=st.binary(min_size=1, max_size=20))
def test_a_damaged_file_gives_rows_or_one_sentence(tmp_path: Path, position: int, garbage: bytes) -> None:
    reader = reader_of(tmp_path, a=pa.array(["x", "y", "z", "w"]), b=pa.array([1, 2, 3, 4]))
    file = tmp_path / "x.parquet"
    data = file.read_bytes()
    at = position % len(data)
    file.write_bytes(data[:at] + garbage + data[at + len(garbage) :])
    try:
        read(reader)
    except SourceFileError as error:
        assert "\n" not in str(error)


def test_what_is_no_parquet_is_told(tmp_path: Path) -> None:
    for content in (b"", b"a,b\n1,2\n"):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(SourceFileError, match="is not a whole Parquet file"):
            ParquetReader(tmp_path / "x.parquet", ParquetFormat(), {}).survey(1)
    with pytest.raises(SourceFileError, match="no such file"):
        ParquetReader(tmp_path / "none", ParquetFormat(), {}).survey(1)
