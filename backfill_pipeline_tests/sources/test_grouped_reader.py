"""Rows that belong together come side by side, whatever their order in the source, and no chunk cuts them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import BYTE_OFFSET, ERROR_CODE, SOURCE_LINE, SOURCE_ROW
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.grouping import arranging, runs
from backfill_pipeline.sources.grouping.grouped_reader import TRANSACTION_ROWS_MAX, GroupedReader
from backfill_pipeline.sources.grouping.runs import RunIndex
from backfill_pipeline.sources.grouping.transaction_ids import transaction_ids
from backfill_pipeline.sources.protocol import SourceManifest

Row = tuple[str, str]


def write(folder: Path, rows: Sequence[Row], *, bad: Sequence[int] = ()) -> Path:
    path = folder / "export.csv"
    lines = [
        "id,text",
        *(f"{id_},{text}" + (",too much" if place in bad else "") for place, (id_, text) in enumerate(rows)),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def open_(
    path: Path, folder: Path, columns: Sequence[str] = ("id",), *, longest: int = TRANSACTION_ROWS_MAX
) -> GroupedReader:
    return GroupedReader(
        CsvReader(path, CsvDialect()), columns, folder, place=str(path), transaction_rows_max=longest
    )


def read_all(reader: GroupedReader, manifest: SourceManifest) -> pa.Table:
    return pa.concat_tables([reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks])


def arranged(rows: Sequence[Row]) -> list[Row]:
    """What the order should be: groups by first appearance; a row without an id is a group of its own."""
    groups: dict[object, list[Row]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row[0] or place, []).append(row)
    return [row for group in groups.values() for row in group]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", ""]), min_size=1, max_size=40),
    st.integers(1, 6),
    st.booleans(),
)
def test_rows_come_by_id_in_the_order_of_first_appearance(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], chunk_rows: int, spilled: bool
) -> None:
    folder = tmp_path_factory.mktemp("grouped")
    rows = [(id_, f"t{place}") for place, id_ in enumerate(ids)]
    reader = open_(write(folder, rows), folder / "captures")
    with pytest.MonkeyPatch.context() as patch:
        if spilled:
            patch.setattr(RunIndex.__init__, "__kwdefaults__", {"held_runs": 2})
        manifest = reader.survey(chunk_rows)
    table = read_all(reader, manifest)
    assert list(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)) == arranged(rows)
    assert table[SOURCE_ROW].to_pylist() == list(range(1, len(rows) + 1))
    assert table[SOURCE_LINE].to_pylist() == [int(text[1:]) + 2 for text in table["text"].to_pylist()]
    assert manifest.row_count == len(rows)
    first_ids = [reader.read_chunk(chunk, manifest.header)["id"] for chunk in manifest.chunks]
    for one, two in itertools.pairwise(first_ids):
        assert not one[-1].as_py() or one[-1].as_py() != two[0].as_py()


def test_many_rows_are_put_in_order_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arranging, "SORTED_ROWS", 8192)
    monkeypatch.setattr(runs, "RANGE_ROWS", 16384)
    monkeypatch.setattr(arranging, "RANGE_ROWS", 16384)
    rows = [(f"T{number // 3}", f"t{number}") for number in range(50_000)]
    random.Random(4).shuffle(rows)
    reader = open_(write(tmp_path, rows), tmp_path / "captures")
    manifest = reader.survey(1_000)
    table = read_all(reader, manifest)
    assert list(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)) == arranged(rows)
    assert not list((tmp_path / "captures").glob("arranging-*"))


def test_two_ids_with_one_hash_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def same(values: np.ndarray, **_: object) -> np.ndarray:
        return np.zeros(len(values), dtype=np.uint64)

    monkeypatch.setattr(runs, "hash_array", same)
    rows = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")]
    reader = open_(write(tmp_path, rows), tmp_path / "captures")
    table = read_all(reader, reader.survey(1))
    assert sorted(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)) == sorted(rows)


def test_rows_in_order_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("arranged")

    monkeypatch.setattr("backfill_pipeline.sources.grouping.grouped_reader.arranged", never)
    rows = [("a", "1"), ("a", "2"), ("", "3"), ("", "4"), ("b", "5")]
    reader = open_(write(tmp_path, rows), tmp_path / "captures")
    manifest = reader.survey(1)
    assert [chunk.row_count for chunk in manifest.chunks] == [2, 1, 1, 1]


def test_malformed_records_are_groups_of_their_own_and_keep_their_text(tmp_path: Path) -> None:
    rows = [("a", "1"), ("a", "2"), ("a", "3")]
    reader = open_(write(tmp_path, rows, bad=[1]), tmp_path / "captures")
    manifest = reader.survey(10)
    table = read_all(reader, manifest)
    assert table["text"].to_pylist() == ["1", "3", None]
    assert table[ERROR_CODE].to_pylist() == [None, None, "wrong_field_count"]
    offsets, lengths = table[BYTE_OFFSET].to_pylist(), table["__byte_length"].to_pylist()
    assert reader.raw_text(offsets, lengths) == ["a,1", "a,3", "a,2,too much"]


def test_visit_sees_the_rows_as_they_are_numbered(tmp_path: Path) -> None:
    rows = [("a", "1"), ("b", "2"), ("a", "3")]
    seen: list[pa.Table] = []
    reader = open_(write(tmp_path, rows), tmp_path / "captures")
    reader.survey(10, visit=seen.append)
    table = pa.concat_tables(seen)
    assert table["text"].to_pylist() == ["1", "3", "2"]
    assert table[SOURCE_ROW].to_pylist() == [1, 2, 3]


def test_several_columns_are_one_id(tmp_path: Path) -> None:
    rows = [("a", "1"), ("a", "2"), ("a", "1")]
    reader = open_(write(tmp_path, rows), tmp_path / "captures", ["id", "text"])
    assert [chunk.row_count for chunk in reader.survey(1).chunks] == [2, 1]


def test_ids_of_several_columns_are_not_mistaken_for_each_other() -> None:
    table = pa.table({"a": ["x", "x\x1fy", " x ", ""], "b": ["y\x1fz", "z", "y\x1fz", "z"]})
    ids = transaction_ids(table, ["a", "b"]).to_pylist()
    assert ids[0] == ids[2] != ids[1]
    assert ids[3] == ""


def test_a_transaction_that_is_too_long_is_named(tmp_path: Path) -> None:
    rows = [("b", "0"), *[("long", str(number)) for number in range(5)], ("b", "1"), ("long", "6")]
    reader = open_(write(tmp_path, rows), tmp_path / "captures", longest=5)
    with pytest.raises(SourceFileError, match=r"transaction 'long' has 6 rows, more than 5"):
        reader.survey(10)
    assert not list((tmp_path / "captures").rglob("*.arrow"))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    reader = open_(write(tmp_path, [("a", "1")]), tmp_path / "captures", ["voucher"])
    with pytest.raises(SourceFileError, match="no column 'voucher', which transactions.id reads"):
        reader.survey(10)


def test_a_source_without_rows_has_no_chunks(tmp_path: Path) -> None:
    manifest = open_(write(tmp_path, []), tmp_path / "captures").survey(10)
    assert (manifest.row_count, manifest.chunks, manifest.header) == (0, (), ("id", "text"))


def test_another_reader_finds_the_capture_or_makes_it_again(tmp_path: Path) -> None:
    rows = [("a", "1"), ("b", "2"), ("a", "3")]
    path = write(tmp_path, rows)
    manifest = open_(path, tmp_path / "captures").survey(1)
    wanted = read_all(open_(path, tmp_path / "captures"), manifest)
    for capture in (tmp_path / "captures").glob("*.arrow"):
        capture.write_bytes(b"damaged")
    assert read_all(open_(path, tmp_path / "captures"), manifest).equals(wanted)
    write(tmp_path, [("a", "1"), ("b", "2"), ("a", "4")])
    with pytest.raises(SourceChangedError, match="rows 1 to 2"):
        read_all(open_(path, tmp_path / "captures"), manifest)
