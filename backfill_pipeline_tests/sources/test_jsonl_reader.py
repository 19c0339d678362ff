"""A JSON line is a row with the very text of the file, or a reject; both parsers agree."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.sources.files import json_records, jsonl_reader
from backfill_pipeline.sources.files.content import PlainFile
from backfill_pipeline.sources.files.jsonl_reader import JsonLinesReader

COLUMNS = ("a", "b.c")
QUICK = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LINES = {
    '{"a":1.10,"b":{"c":1e5}}': ("1.10", "1e5"),
    r'{"a":"x\"y\\","b":{"c":true},"z":[1,{"q":2}]}': ('x"y\\', "true"),
    '{"a": -0.00 , "b" : null }': ("-0.00", ""),
    '{"a":12345678901234567890123.000}': ("12345678901234567890123.000", ""),
    r'{"a":"\u00e9\n"}': ("é\n", ""),
    "{}": ("", ""),
    '{"a":null,"b":{}}': ("", ""),
    '{"a":"1.10","z":1,"z":2}': ("1.10", ""),
    '{"a":1,"a":2}': "a is given 2 times",
    '{"a":null,"a":2}': "a is given 2 times",
    '{"b":{"c":"1","c":"2"}}': "b.c is given 2 times",
    '{"b":{"c":1},"b":{}}': "b is given 2 times",
    '{"a":{"q":1}}': "a is an object, not a single value",
    '{"a":[]}': "a is a list, not a single value",
    '{"b":5}': "b is a single value, not an object",
    "[1]": "a list, not an object",
    "null": "null, not an object",
    "5": "a single value, not an object",
    '{"a":"1"} 5': "no JSON",
    '{"a":"1"}{"a":2}': "no JSON",
    '{"a":': "no JSON",
    "1}": "no JSON",
    "}{": "no JSON",
    "{1:2}": "no JSON",
    "{true:2}": "no JSON",
    '{"a":"x': "no JSON",
    '{"a":01}': "no JSON",
    '{"a":1.}': "no JSON",
    '{"a":+1}': "no JSON",
    '{"a":NaN}': "NaN is no number",
    '{"a":1,}': "no JSON",
    '{"a" 1}': "no JSON",
    '{"a":1"b"}': "no JSON",
    '{"a":"\t"}': "no JSON",
    '{"a":1}/**/': "no JSON",
    r'{"a":"\x"}': "no JSON",
    r'{"a":"\u0000"}': "NUL character",
    r'{"a":"\ud800"}': "half of a surrogate pair",
    '{"z":' + "[" * 70 + "]" * 70 + "}": ("", ""),
    '{"z":' + "[" * 100_000 + "]" * 100_000 + "}": "nested too deeply",
    "\ufeff{}": "no JSON",
}


def read(path: Path, content: bytes, chunk_rows: int = 1000) -> pa.Table:
    path.write_bytes(content)
    reader = JsonLinesReader(PlainFile(path), COLUMNS)
    visited: list[pa.Table] = []
    manifest = reader.survey(chunk_rows, visit=visited.append)
    assert manifest.header == COLUMNS
    empty = pa.table({"__source_row": pa.array([], pa.int64())})
    tables = [reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks]
    assert tables == visited
    assert sum(chunk.row_count for chunk in manifest.chunks) == manifest.row_count
    return pa.concat_tables(tables) if tables else empty


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:40])
@pytest.mark.parametrize("few_lines", [0, 1000], ids=["many at once", "one by one"])
def test_a_line_gives_its_text_or_a_reason_and_spoils_no_other(
    tmp_path: Path, line: str, few_lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_records, "FEW_LINES", max(1, few_lines))
    good = b'{"a":"good","b":{"c":0.10}}\n'
    table = read(tmp_path / "x.jsonl", good * 20 + line.encode() + b"\r\n" + good * 20)
    assert table["__source_line"].to_pylist() == list(range(1, 42))
    assert table["a"].to_pylist()[:20] == ["good"] * 20 == table["a"].to_pylist()[21:]
    assert table["b.c"].to_pylist()[:20] == ["0.10"] * 20 == table["b.c"].to_pylist()[21:]
    assert table["__error_code"].null_count == (41 if isinstance(LINES[line], tuple) else 40)
    row = table.slice(20, 1).to_pylist()[0]
    if isinstance(LINES[line], tuple):
        assert (row["a"], row["b.c"]) == LINES[line]
    else:
        assert LINES[line] in row["__error_reason"]
        assert (row["a"], row["b.c"]) == (None, None)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
PIECES = [
    b"{",
    b"}",
    b'"',
    b":",
    b",",
    b"[",
    b"]",
    b"\n",
    b"\\",
    b"1",
    b"-0.10",
    b"null",
    b"true",
    b" ",
    b'"a":',
    b'{"a":',
]


@QUICK
@given(
    lines=st.lists(
        st.dictionaries(st.sampled_from("abz"), VALUES, max_size=3).map(
            lambda value: json.dumps(value, ensure_ascii=False).encode(errors="replace")
        )
        | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
        | st.binary(max_size=8),
        max_size=30,
    ),
    chunk_rows=st.integers(1, 40),
)
def test_both_parsers_give_the_same_rows_for_any_lines(
    tmp_path: Path, lines: list[bytes], chunk_rows: int
) -> None:
    content = b"\n".join(lines)
    tables = []
    for few in (1, 10_000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json_records, "FEW_LINES", few)
            tables.append(read(tmp_path / "x.jsonl", content, chunk_rows))
    assert tables[0].equals(tables[1])
    records = [one for one in content.replace(b"\r", b"\n").split(b"\n") if one]
    assert tables[0].num_rows == len(records)


def test_windows_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(b'{"a":%d.%02d,"b":{"c":"x"}}\n' % (number, number % 100) for number in range(3000))
    whole = read(tmp_path / "x.jsonl", content)
    monkeypatch.setattr(jsonl_reader, "WINDOW_BYTES", 1000)
    assert read(tmp_path / "x.jsonl", content).equals(whole)
    assert whole["a"].to_pylist()[-1] == "2999.99"


def test_a_path_through_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceDefinitionError, match="'a' and 'a.b' are both read"):
        JsonLinesReader(PlainFile(tmp_path / "x"), ["a", "a.b"])
