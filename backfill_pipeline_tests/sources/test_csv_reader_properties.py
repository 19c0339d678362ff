"""Whatever a CSV holds, each record comes out exactly once, at its place."""

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.schemas.extracted import RESERVED_NAMES
from backfill_pipeline.sources.files import csv_records
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.files.csv_records import RecordScanner
from backfill_pipeline.sources.protocol import SourceManifest

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NASTY = st.text(st.sampled_from("\",;\n\r\t 'ab5é€😀\ufeff"), max_size=6)
ANYTHING = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


def read_all(reader: CsvReader, manifest: SourceManifest) -> pa.Table:
    tables = [reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks]
    assert [table.num_rows for table in tables] == [chunk.row_count for chunk in manifest.chunks]
    return pa.concat_tables(tables) if tables else pa.table({"__source_row": pa.array([], pa.int64())})


def cells(table: pa.Table, header: tuple[str, ...]) -> list[list[str]]:
    return [list(row) for row in zip(*(table[name].to_pylist() for name in header), strict=True)]


@QUICK
@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(NASTY | ANYTHING, min_size=width, max_size=width), min_size=1, max_size=12
        )
    ),
    terminator=st.sampled_from(["\n", "\r\n", "\r"]),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    chunk_rows=st.integers(1, 5),
    block_bytes=st.integers(1, 40),
    with_bom=st.booleans(),
    cut_last_terminator=st.booleans(),
)
def test_any_csv_that_python_writes_reads_back_cell_for_cell(
    tmp_path: Path,
    rows: list[list[str]],
    terminator: str,
    delimiter: str,
    quoting: int,
    chunk_rows: int,
    block_bytes: int,
    with_bom: bool,
    cut_last_terminator: bool,
) -> None:
    header = tuple(f"column {number}" for number in range(len(rows[0])))
    if any({*"\r\n"} & {*cell} for row in rows for cell in row):
        quoting = csv.QUOTE_ALL  # csv leaves line breaks other than its own terminator without quotes
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=terminator, delimiter=delimiter, quoting=quoting)
    writer.writerows([header, *rows])
    content = text.getvalue()
    if cut_last_terminator:
        content = content.removesuffix(terminator)
    data = b"\xef\xbb\xbf" * with_bom + content.encode()
    file = tmp_path / "export.csv"
    file.write_bytes(data)

    reader = CsvReader(file, CsvDialect(delimiter=delimiter), block_bytes=block_bytes)
    visited: list[pa.Table] = []
    manifest = reader.survey(chunk_rows, visit=visited.append)
    table = read_all(reader, manifest)

    parsed = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    expected, lines, before = [], [], 0
    for row in parsed:
        if row:  # a blank line is no record
            expected.append(row)
            lines.append(before + 1)
        before = parsed.line_num
    assert manifest.header == header
    assert manifest.sha256 == hashlib.sha256(data).hexdigest()
    assert manifest.size_bytes == len(data)
    assert cells(table, header) == expected[1:] == rows
    assert table["__source_line"].to_pylist() == lines[1:]
    assert table["__source_row"].to_pylist() == list(range(1, len(rows) + 1))
    assert table["__error_code"].null_count == len(rows)
    assert pa.concat_tables(visited).equals(table)
    for offset, length, row in zip(
        table["__byte_offset"].to_pylist(), table["__byte_length"].to_pylist(), expected[1:], strict=True
    ):
        record = data[offset : offset + length].decode()
        assert next(csv.reader(io.StringIO(record, newline=""), delimiter=delimiter)) == row


@QUICK
@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(
                st.text(st.sampled_from("\",;\\\n\r\t 'abN5é€😀"), max_size=6) | ANYTHING,
                min_size=width,
                max_size=width,
            ),
            min_size=1,
            max_size=12,
        )
    ),
    terminator=st.sampled_from(["\n", "\r\n", "\r"]),
    escape=st.sampled_from("\\!"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE]),
    chunk_rows=st.integers(1, 5),
    block_bytes=st.integers(1, 40),
    cut_last_terminator=st.booleans(),
)
def test_any_csv_with_escapes_that_python_writes_reads_back_cell_for_cell(
    tmp_path: Path,
    rows: list[list[str]],
    terminator: str,
    escape: str,
    quoting: int,
    chunk_rows: int,
    block_bytes: int,
    cut_last_terminator: bool,
) -> None:
    header = tuple(f"column {number}" for number in range(len(rows[0])))
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        lineterminator=terminator,
        quoting=quoting,
        doublequote=False,
        escapechar=escape,
        quotechar=None if quoting == csv.QUOTE_NONE else '"',
    )
    if quoting != csv.QUOTE_NONE and any({*"\r\n"} & {*cell} for row in rows for cell in row):
        # csv leaves line breaks other than its own terminator as they are.
        writer = csv.writer(
            text, lineterminator=terminator, quoting=csv.QUOTE_ALL, doublequote=False, escapechar=escape
        )
    elif quoting == csv.QUOTE_NONE:
        rows = [[cell.replace("\r", " ").replace("\n", " ") for cell in row] for row in rows]
        # Without quotes, nothing tells a row of one empty cell from a blank line.
        rows = [row if len(row) > 1 or row[0] else ["x"] for row in rows]
    writer.writerows([header, *rows])
    content = text.getvalue()
    if cut_last_terminator:
        content = content.removesuffix(terminator)
    file = tmp_path / "export.csv"
    file.write_bytes(content.encode())
    quote = None if quoting == csv.QUOTE_NONE else '"'
    reader = CsvReader(file, CsvDialect(escape=escape, quote=quote), block_bytes=block_bytes)
    visited: list[pa.Table] = []
    manifest = reader.survey(chunk_rows, visit=visited.append)
    table = read_all(reader, manifest)
    assert table["__error_reason"].to_pylist() == [None] * len(rows)
    assert cells(table, header) == rows
    assert pa.concat_tables(visited).equals(table)


ESCAPED = st.lists(
    st.sampled_from(['"', '""', '\\"', "\\\\", "\\,", "\\\n", "\\\r\n", "\\", ",", "\n", "\r", "\r\n", "a", "é", ' "x'])
    | st.text(st.sampled_from("ab ;"), max_size=3),
    max_size=40,
).map("".join)  # fmt: skip


@QUICK
@given(body=ESCAPED, chunk_rows=st.integers(1, 6), block_bytes=st.integers(1, 64))
def test_records_with_escapes_are_those_of_a_parser_that_looks_at_every_character(
    tmp_path: Path, body: str, chunk_rows: int, block_bytes: int
) -> None:
    """Whatever stands there: escapes of quotes, marks and line breaks, inside quotes and outside."""
    file = tmp_path / "escaped.csv"
    file.write_bytes(("x,y\n" + body).encode())
    reader = CsvReader(file, CsvDialect(escape="\\"), block_bytes=block_bytes)
    manifest = reader.survey(chunk_rows)
    assert manifest == CsvReader(file, CsvDialect(escape="\\"), block_bytes=7).survey(chunk_rows)
    table = read_all(reader, manifest)
    codes = table["__error_code"].to_pylist() if table.num_rows else []
    if "quote_unterminated" in codes or "record_malformed" in codes:
        return  # one line is given up then, which the parser below does not know
    expected = parsed_one_by_one(body)
    assert len(expected) == table.num_rows
    good = [row for row in cells(table, ("x", "y")) if row != [None, None]] if table.num_rows else []
    assert good == [row for row in expected if len(row) == 2]


def parsed_one_by_one(text: str) -> list[list[str]]:
    """The rules of the reader, character by character: comma, double quote, backslash."""
    records: list[list[str]] = [[]]
    field, at, inside, at_start, has_any = "", 0, False, True, False
    while at < len(text):
        one, at = text[at], at + 1
        if one == "\\":
            assert at < len(text), "an escape of nothing is a problem"
            field, at, at_start, has_any = field + text[at], at + 1, False, True
        elif one == '"' and inside:
            if text[at : at + 1] == '"':
                field, at = field + one, at + 1
            else:
                inside = False
        elif one == '"' and at_start:
            inside, at_start, has_any = True, False, True
        elif inside or one not in ",\r\n":
            field, at_start, has_any = field + one, False, True
        elif one == ",":
            records[-1].append(field)
            field, at_start, has_any = "", True, True
        else:
            if has_any:
                records[-1].append(field)
                records.append([])
            field, at_start, has_any = "", True, False
    if has_any:
        records[-1].append(field)
    return [record for record in records if record]


PIECES = st.lists(
    st.sampled_from(
        [b'"', b'""', b",", b"\n", b"\r", b"\r\n", b"a", b"bc", b"\xff", b"\xc3\xa9", b"\x00", b'5" x']
    )
    | st.binary(max_size=3),
    max_size=60,
).map(b"".join)


@pytest.fixture
def short_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits small enough for a test to reach."""
    monkeypatch.setattr(csv_records, "RECORD_BYTES_MAX", 24)


@QUICK
@given(body=PIECES, chunk_rows=st.integers(1, 6), block_bytes=st.integers(1, 64))
@pytest.mark.usefixtures("short_records")
def test_any_bytes_after_a_header_give_rows_and_no_byte_is_lost(
    tmp_path: Path, body: bytes, chunk_rows: int, block_bytes: int
) -> None:
    file = tmp_path / "fuzzed.csv"
    data = b"x,y\n" + body
    file.write_bytes(data)
    reader = CsvReader(file, CsvDialect(), block_bytes=block_bytes)
    manifest = reader.survey(chunk_rows)
    table = read_all(reader, manifest)
    covered = np.zeros(len(data), dtype=bool)
    covered[:4] = True
    offsets, lengths = (
        table[name].to_pylist() if table.num_rows else [] for name in ("__byte_offset", "__byte_length")
    )
    for offset, length in zip(offsets, lengths, strict=True):
        assert length > 0
        assert not covered[offset : offset + length].any(), "two records share bytes"
        covered[offset : offset + length] = True
    left = bytes(np.frombuffer(data, dtype=np.uint8)[~covered])
    assert left.strip(b"\r\n") == b"", "bytes that belong to no record"
    if table.num_rows:
        good = pa.compute.is_null(table["__error_code"])
        for name in set(table.column_names) - RESERVED_NAMES:
            assert table[name].null_count == table.num_rows - pa.compute.sum(good).as_py()
        raw = reader.raw_text(offsets, lengths)
        assert all("\0" not in text for text in raw)
    other = CsvReader(file, CsvDialect(), block_bytes=7).survey(chunk_rows)
    assert other == manifest, "the size of blocks must not matter"


@QUICK
@given(body=PIECES, cuts=st.lists(st.integers(1, 30), min_size=1))
def test_records_do_not_depend_on_where_blocks_are_cut(body: bytes, cuts: list[int]) -> None:
    scanner = RecordScanner(",", '"')
    whole, _, _ = RecordScanner(",", '"').feed(body, last=True)
    parts: list[csv_records.Records] = []
    position = 0
    while position < len(body):
        size = cuts[len(parts) % len(cuts)]
        parts.append(scanner.feed(body[position : position + size])[0])
        position += size
    parts.append(scanner.feed(b"", last=True)[0])
    found = csv_records.concat_records(parts)
    for name in ("start", "end", "following", "line", "problem"):
        assert getattr(found, name).tolist() == getattr(whole, name).tolist(), name
