"""A line of fixed width gives its columns, or is a reject."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.formats import FixedFormat
from backfill_pipeline.sources.files.content import PlainFile
from backfill_pipeline.sources.files.fixed_reader import FixedReader

QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COLUMNS = [{"name": "id", "width": 3}, {"name": "text", "from": 5, "to": 7}]


def read(tmp_path: Path, content: bytes, chunk_rows: int = 100, **more: object) -> pa.Table:
    file = tmp_path / "x.txt"
    file.write_bytes(content)
    reader = FixedReader(PlainFile(file), FixedFormat.model_validate({"columns": COLUMNS, **more}))
    visited: list[pa.Table] = []
    manifest = reader.survey(chunk_rows, visit=visited.append)
    tables = [reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks]
    assert tables == visited
    return pa.concat_tables(tables) if tables else pa.table({"__source_row": pa.array([], pa.int64())})


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "shift_jis", "gb18030"])
def test_columns_are_counted_in_characters(tmp_path: Path, encoding: str) -> None:
    text = "日本x" if encoding in ("shift_jis", "gb18030") else "éÿx"
    table = read(tmp_path, f"T1 |{text}|rest\r\n\nT2 |  y\n".encode(encoding), encoding=encoding)
    assert table["id"].to_pylist() == ["T1", "T2"]
    assert table["text"].to_pylist() == [text, "y"]
    assert table["__source_line"].to_pylist() == [1, 3]


def test_a_short_line_costs_itself_only(tmp_path: Path) -> None:
    table = read(tmp_path, b"T1 |abc\nT2 |ab\nT3 |abc\n")
    assert table["__error_code"].to_pylist() == [None, "record_malformed", None]
    assert table["__error_reason"][1].as_py() == "the line has 6 characters, the columns need 7"
    assert table["text"].to_pylist() == ["abc", None, "abc"]


def test_bytes_that_are_no_text_cost_their_line(tmp_path: Path) -> None:
    table = read(tmp_path, b"T1 |abc\nT2 |\xffbc\nT3 |a\0c\nT4 |abc\n")
    assert table["__error_code"].to_pylist() == [None, "encoding_invalid", "nul_byte", None]


@QUICK
@given(
    content=st.lists(st.sampled_from([b"T1 |abc", b"\n", b"\r", b"\r\n", b" ", b"\xc3\xa9"]) | st.binary(max_size=9)).map(b"".join),
    chunk_rows=st.integers(1, 5),
    skipped=st.integers(0, 3),
    footer=st.integers(0, 3),
)  # fmt: skip
def test_any_bytes_give_a_row_for_every_line(
    tmp_path: Path, content: bytes, chunk_rows: int, skipped: int, footer: int
) -> None:
    table = read(tmp_path, content, chunk_rows, skip_lines=skipped, skip_footer_lines=footer)
    data = content[3:] if content.startswith(b"\xef\xbb\xbf") else content
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[skipped:]
    expected = [number for number, line in enumerate(lines, start=1 + skipped) if line]
    expected = expected[: len(expected) - footer] if footer < len(expected) else []
    found = table["__source_line"].to_pylist() if table.num_rows else []
    assert found == expected
