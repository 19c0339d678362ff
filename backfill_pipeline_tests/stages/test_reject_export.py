"""The repair file: every cell survives the way through a spreadsheet's hands exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipeline.errors import UsageError
from backfill_pipeline.schemas.reject_hints import hint
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.stages import reject_export
from backfill_pipeline.stages.reject_export import read_repaired
from backfill_pipeline_tests.stages.repair import export, rows_of
from backfill_pipeline_tests.stages.world import HEADER, World, entries, entry

_AWKWARD = st.text(st.sampled_from("'=+-@\t\r\n a1\"✓,;"), max_size=8)


@given(st.lists(_AWKWARD | st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=20))
def test_what_is_escaped_comes_back_and_never_begins_as_a_formula(cells: list[str]) -> None:
    import pyarrow as pa

    escaped = reject_export._escaped(pa.array(cells, pa.string()))
    assert not [cell for cell in escaped.to_pylist() if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell]
    assert reject_export._unescaped(escaped).to_pylist() == cells


def test_every_code_has_a_hint_of_one_sentence() -> None:
    for code in RejectCode:
        assert hint(code), code
        assert ". " not in hint(code).removesuffix("."), code


@pytest.fixture
def source(world: World) -> Path:
    rows = entries(20)
    rows[3] = entry(4, amount="-12.50", note="=SUM(A1)")
    rows[6] = entry(7, amount="1e3", note="'=quoted")
    rows[9] = [*entry(10), "one too many"]
    path = world.write("bank", rows, max_error_rate="1")
    world.post(path)
    return path


def test_the_export_has_the_source_s_own_columns_and_a_hint(world: World, source: Path) -> None:
    first, second, third = rows_of(export(world, source))
    assert list(first) == [
        "reject.source", "reject.revision", "reject.partition", "reject.row", "reject.line", "reject.code",
        "reject.field", "reject.reason", "reject.hint", *HEADER, "reject.raw", "reject.identity",
    ]  # fmt: skip
    assert (first["reject.row"], first["reject.line"], first["reject.code"]) == (
        "4",
        "5",
        "amount_not_positive",
    )
    assert (first["amount"], first["note"]) == ("'-12.50", "'=SUM(A1)")
    assert second["note"] == "''=quoted"
    assert [third[name] for name in HEADER] == [""] * len(HEADER)
    assert third["reject.raw"].endswith("one too many")
    assert all(row["reject.hint"].endswith(".") for row in (first, second, third))


def test_the_stored_values_come_back_from_the_export(world: World, source: Path) -> None:
    cells = read_repaired(export(world, source), HEADER).cells.to_pylist()
    assert [(cell["amount"], cell["note"]) for cell in cells] == [
        ("-12.50", "=SUM(A1)"),
        ("1e3", "'=quoted"),
        ("", ""),
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_file_that_a_spreadsheet_saved_in_its_own_way_is_read(
    world: World, source: Path, delimiter: str
) -> None:
    import csv

    file = export(world, source)
    expected = read_repaired(file, HEADER)
    rows = list(csv.reader(file.open(newline="", encoding="utf-8")))
    with file.open("w", newline="", encoding="utf-8-sig") as opened:
        csv.writer(opened, delimiter=delimiter).writerows(rows)
    assert read_repaired(file, HEADER).cells == expected.cells


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has not the columns of an export"),
        (b"a,b\n1,2\n", "has not the columns of an export"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a\0", "holds a NUL byte"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "other.csv"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        read_repaired(file, HEADER)


def test_a_file_that_is_not_there_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_repaired(tmp_path / "none.csv", HEADER)


def test_a_record_with_too_few_columns_is_named(world: World, source: Path) -> None:
    file = export(world, source)
    file.write_bytes(file.read_bytes() + b"bank,1,0001\n")
    with pytest.raises(UsageError, match="record 4 has 3 columns, the export 18"):
        read_repaired(file, HEADER)
