"""Generated references are the same in every export of the same rows, and keep real repeats apart."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.mapping.references import (
    OccurrenceIndex,
    content_hashes,
    read_occurrences,
    render_references,
    spread_occurrences,
)
from backfill_pipeline_tests.mapping.conftest import extracted

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUE = st.text("ab\x1e\x1f01", max_size=3)


def table_of(rows: list[tuple[str, str]], names: tuple[str, str] = ("x", "y")) -> pa.Table:
    return extracted(**{name: [row[place] for row in rows] for place, name in enumerate(names)})


def references(
    table: pa.Table,
    directory: Path,
    chunk_rows: int,
    spill_rows: int = 1_000_000,
    columns: tuple[str, ...] | None = None,
) -> list[str]:
    path = directory / "occurrences.parquet"
    chunks = [table.slice(at, chunk_rows) for at in range(0, table.num_rows, chunk_rows)]
    with OccurrenceIndex(directory, columns, spill_rows=spill_rows) as index:
        for chunk in chunks:
            index.add(chunk)
        index.finish(path)
    assert sorted(one.name for one in directory.iterdir()) == ["occurrences.parquet"], "bucket files are left"
    found: list[str] = []
    for chunk in chunks:
        rows = chunk["__source_row"].to_numpy()
        part = read_occurrences(path, int(rows[0]), len(rows))
        assert set(part["source_row"].to_pylist()) <= set(rows.tolist())
        found += render_references(
            "bank", content_hashes(chunk, columns), spread_occurrences(part, rows)
        ).to_pylist()
    return found


@QUICK
@given(
    rows=st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=40),
    chunk_rows=st.integers(1, 9),
    data=st.data(),
)
def test_a_re_export_in_another_order_gives_the_same_references_and_repeats_stay_apart(
    tmp_path: Path, rows: list[tuple[str, str]], chunk_rows: int, data: st.DataObject
) -> None:
    first = references(table_of(rows), tmp_path, chunk_rows)
    assert len(set(first)) == len(rows)
    assert len({one.rsplit("-", 1)[0] for one in first}) == len(set(rows)), (
        "equal content means equal hash, and only then"
    )
    shuffled = data.draw(st.permutations(rows))
    swapped = table_of([(y, x) for x, y in shuffled], names=("y", "x"))
    again = references(swapped, tmp_path, chunk_rows=5, spill_rows=data.draw(st.integers(1, 50)))
    assert sorted(again) == sorted(first)


def test_occurrences_count_in_source_order(tmp_path: Path) -> None:
    found = references(table_of([("a", "b"), ("c", "d"), ("a", "b"), ("a", "b")]), tmp_path, 2, spill_rows=1)
    assert [one[-1] for one in found] == ["0", "0", "1", "2"]


def test_only_the_stated_columns_identify_a_row(tmp_path: Path) -> None:
    found = references(table_of([("a", "b"), ("a", "c")]), tmp_path, 2, columns=("x",))
    assert found[0][:-2] == found[1][:-2]
    assert [one[-1] for one in found] == ["0", "1"]


def test_references_of_released_versions_never_change(tmp_path: Path) -> None:
    assert references(table_of([("1", "é")]), tmp_path, 1) == [
        "BACKFILL-bank-ef76b1432f891e9890b09ac0f6dda76e-0"
    ]


def test_malformed_records_do_not_count(tmp_path: Path) -> None:
    table = table_of([("a", "b"), ("a", "b")])
    codes = pa.array(["wrong_field_count", None], pa.string())
    table = table.set_column(table.column_names.index("__error_code"), "__error_code", codes)
    with OccurrenceIndex(tmp_path) as index:
        index.add(table)
        assert index.finish(tmp_path / "o.parquet") == 0


@pytest.mark.parametrize("spill_rows", [10, 100_000])
def test_a_survey_that_was_killed_leaves_nothing_that_is_counted(tmp_path: Path, spill_rows: int) -> None:
    killed = OccurrenceIndex(tmp_path, spill_rows=1)
    killed.add(table_of([("a", "b")]))
    with OccurrenceIndex(tmp_path, spill_rows=spill_rows) as index:
        index.add(table_of([("a", "b")] * 20))
        assert index.finish(tmp_path / "o.parquet") == 19
    killed.close()
