"""Cases of the CSV reader by name; what holds for any file is in the properties beside this."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.sources import protocol
from backfill_pipeline.sources.files import csv_records, records_reader
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.headers import listed


def reader_of(tmp_path: Path, content: bytes, **dialect: object) -> CsvReader:
    file = tmp_path / "export.csv"
    file.write_bytes(content)
    return CsvReader(file, CsvDialect.model_validate(dialect))


def rows(reader: CsvReader, chunk_rows: int = 100) -> list[dict[str, object]]:
    manifest = reader.survey(chunk_rows)
    tables = [reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks]
    return pa.concat_tables(tables).to_pylist() if tables else []


def codes(reader: CsvReader) -> list[object]:
    return [row["__error_code"] for row in rows(reader)]


def test_a_header_alone_gives_no_chunk(tmp_path: Path) -> None:
    manifest = reader_of(tmp_path, b"a,b\n\n").survey(10)
    assert (manifest.header, manifest.row_count, manifest.chunks) == (("a", "b"), 0, ())


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceFileError, match=r"export\.csv: is empty"):
        reader_of(tmp_path, content).survey(10)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b,a\n1,2,3\n", "columns 1 and 3 are both named 'a'"),
        (b"a,,c\n", "column 2 has no name"),
        (b"a,__source_row\n", "reserved"),
        (b'a,"b\n1,2\n', "never closed"),
        (b"a,\xff\n", "is not utf-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "NUL"),
    ],
)
def test_a_header_that_cannot_name_columns_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, words: str
) -> None:
    with pytest.raises(SourceFileError, match=words) as caught:
        reader_of(tmp_path, content).survey(10)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.csv", "no such file"), (tmp_path, "is a directory")):
        reader = CsvReader(path, CsvDialect())
        with pytest.raises(SourceFileError, match=words) as caught:
            reader.survey(1)
        assert str(path) in str(caught.value)
        with pytest.raises(SourceFileError, match=words):
            reader.fingerprint()


@pytest.mark.timeout(30)
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/zero")):
        with pytest.raises(SourceFileError, match="is a pipe, a socket or a device"):
            CsvReader(path, CsvDialect()).survey(10)


def test_a_file_without_header_takes_its_columns_from_the_definition(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, b"1,2\n3,4\n", header=False, columns=["x", "y"])
    assert [(row["__source_row"], row["x"], row["y"]) for row in rows(reader)] == [
        (1, "1", "2"),
        (2, "3", "4"),
    ]


def test_a_record_with_too_few_or_too_many_fields_costs_only_itself(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, b"a,b\n1,2\n3\n4,5,6\n\n7,8\n")
    found = rows(reader)
    assert [row["a"] for row in found] == ["1", None, None, "7"]
    assert [row["__error_code"] for row in found] == [None, "wrong_field_count", "wrong_field_count", None]
    assert found[1]["__error_reason"] == "the record has 1 fields, the header 2"
    assert [row["__source_line"] for row in found] == [2, 3, 4, 6]


def test_a_quote_inside_text_is_text(tmp_path: Path) -> None:
    found = rows(reader_of(tmp_path, b'a,b\n5" pipe,x\n6" rod,"q ""r"" s"\n"t"u"v,w\n'))
    assert [(row["a"], row["b"]) for row in found] == [('5" pipe', "x"), ('6" rod', 'q "r" s'), ('tu"v', "w")]


def test_a_quote_that_is_never_closed_costs_its_line_only(tmp_path: Path) -> None:
    body = b"".join(b"%d,ok\n" % number for number in range(1000))
    found = rows(reader_of(tmp_path, b"a,b\n" + body + b'x,"open\n' + body))
    assert len(found) == 2001
    assert [number for number, row in enumerate(found) if row["__error_code"]] == [1000]
    assert found[1000]["__error_code"] == "quote_unterminated"
    assert found[1001]["a"] == "0"


def test_a_quote_that_is_closed_only_far_away_costs_its_line_only(tmp_path: Path) -> None:
    body = b"".join(b"%07d,ok\n" % number for number in range(200_000))
    found = codes(reader_of(tmp_path, b'a,b\nx,"open\n' + body + b'y,"z"\n' + body))
    assert len(found) == 400_002
    assert [number for number, code in enumerate(found) if code] == [0]


def test_a_line_beyond_a_mebibyte_costs_itself_only(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, b"a,b\n1,2\n" + b"x" * (6 << 20) + b"\n3,4\n")
    assert codes(reader) == [None, "record_too_long", None]
    row = rows(reader)[1]
    (raw,) = reader.raw_text([int(str(row["__byte_offset"]))], [int(str(row["__byte_length"]))])
    assert len(raw) < (1 << 20) + 100
    assert raw.endswith(f"({6 << 20} bytes)")


def test_a_file_without_lines_is_refused_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_records, "LINE_BYTES_MAX", 1 << 20)
    with pytest.raises(SourceFileError, match="line 2 is longer than"):
        reader_of(tmp_path, b"a,b\n" + b"x" * (9 << 20)).survey(10)


def test_bytes_that_are_no_text_cost_only_their_record(tmp_path: Path) -> None:
    found = rows(reader_of(tmp_path, b"a,b\n\xc3\xa9,1\n\xff,2\nx,\x003\n\xe2\x82,4\n\xed\xa0\x80,5\nz,6\n"))
    assert [row["__error_code"] for row in found] == [
        None, "encoding_invalid", "nul_byte", "encoding_invalid", "encoding_invalid", None,
    ]  # fmt: skip
    assert [row["a"] for row in found] == ["é", None, None, None, None, "z"]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", "é£ÿ"),
        ("cp1252", "€é"),
        ("cp1251", "Привет"),
        ("shift_jis", "日本ソ"),
        ("gb18030", "帐户"),
    ],
)
def test_other_encodings_are_read_and_shown(tmp_path: Path, encoding: str, text: str) -> None:
    reader = reader_of(tmp_path, f"a,b\n{text},1\n".encode(encoding), encoding=encoding)
    (row,) = rows(reader)
    assert row["a"] == text
    assert reader.raw_text([4], [len(f"{text},1".encode(encoding))]) == [f"{text},1"]


def test_a_byte_that_cp1252_lacks_costs_only_its_record(tmp_path: Path) -> None:
    assert codes(reader_of(tmp_path, b"a,b\n\x80,1\n\x81,2\nx,3\n", encoding="cp1252")) == [
        None,
        "encoding_invalid",
        None,
    ]


def test_a_byte_order_mark_is_dropped_at_the_start_of_the_file_and_kept_elsewhere(tmp_path: Path) -> None:
    found = rows(reader_of(tmp_path, "\ufeffa,b\n\ufeffx,1\n\ufeffy,2\n".encode()), chunk_rows=1)
    assert [row["a"] for row in found] == ["\ufeffx", "\ufeffy"]


def test_without_quoting_a_quote_is_a_character(tmp_path: Path) -> None:
    found = rows(reader_of(tmp_path, b'a|b\n"x|1\n"y"|2\n', quote=None, delimiter="|"))
    assert [row["a"] for row in found] == ['"x', '"y"']


def test_blank_lines_inside_and_between_chunks_are_no_records(tmp_path: Path) -> None:
    content = b"\n\na,b\r\n\r\n1,2\r\n\r\n\n\r\n3,4\n\n\n5,6\n\n"
    for chunk_rows in (1, 2, 3):
        for block_bytes in (1, 2, 5, 100):
            file = tmp_path / "export.csv"
            file.write_bytes(content)
            reader = CsvReader(file, CsvDialect(), block_bytes=block_bytes)
            found = rows(reader, chunk_rows)
            assert [(row["a"], row["__source_line"]) for row in found] == [("1", 5), ("3", 9), ("5", 12)]


def test_a_chunk_that_changed_is_refused_and_names_its_rows(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, b"a,b\n1,2\n3,4\n5,6\n")
    manifest = reader.survey(2)
    before = reader.fingerprint()
    assert before == (manifest.size_bytes, manifest.sha256)
    (tmp_path / "export.csv").write_bytes(b"a,b\n1,2\n3,9\n5,6\n")
    with pytest.raises(SourceChangedError, match="rows 1 to 2"):
        reader.read_chunk(manifest.chunks[0], manifest.header)
    assert reader.read_chunk(manifest.chunks[1], manifest.header).num_rows == 1
    assert reader.fingerprint() != before
    (tmp_path / "export.csv").write_bytes(b"a,b\n")
    with pytest.raises(SourceChangedError, match="row"):
        reader.read_chunk(manifest.chunks[1], manifest.header)


def test_there_are_never_more_chunks_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = reader_of(tmp_path, b"a\n" + b"1\n" * 30_000).survey(1)
    assert protocol.CHUNK_COUNT_MAX >= len(manifest.chunks) > 500
    long_first = b"a\n" + (b"x" * 5000 + b"\n") * 1000 + b"1\n" * 1_000_000
    manifest = CsvReader(tmp_path / "export.csv", CsvDialect(), block_bytes=1 << 16).survey(1)
    (tmp_path / "export.csv").write_bytes(long_first)
    manifest = CsvReader(tmp_path / "export.csv", CsvDialect(), block_bytes=1 << 16).survey(1)
    assert len(manifest.chunks) <= protocol.CHUNK_COUNT_MAX
    assert sum(chunk.row_count for chunk in manifest.chunks) == manifest.row_count == 1_001_000
    assert [chunk.first_row for chunk in manifest.chunks[:2]] == [1, 1 + manifest.chunks[0].row_count]


def test_wide_records_close_a_chunk_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_reader, "bytes_per_chunk", lambda size, count_max: 1000)
    reader = reader_of(tmp_path, b"a\n" + (b"x" * 99 + b"\n") * 100)
    manifest = reader.survey(1000)
    assert {chunk.row_count for chunk in manifest.chunks} == {10}
    assert len(rows(reader, 1000)) == 100


def test_visit_sees_what_reading_gives(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, b'a,b\n1,2\n"x\ny",3\n4\n')
    visited: list[pa.Table] = []
    manifest = reader.survey(2, visit=visited.append)
    for chunk, table in zip(manifest.chunks, visited, strict=True):
        assert reader.read_chunk(chunk, manifest.header).equals(table)


def test_lines_before_and_after_and_comments_are_passed_over(tmp_path: Path) -> None:
    content = b'Bank "AG\r\n;;\r\n#x,y\na,b\n1,2\n# "bad \xff\0\n\n3,4\n5,6\nTotal,3\nprinted by,x,y\n'
    for block_bytes in (1, 2, 3, 7, 1000):
        file = tmp_path / "export.csv"
        file.write_bytes(content)
        dialect = CsvDialect(skip_lines=2, skip_footer_lines=2, comment="#")
        reader = CsvReader(file, dialect, block_bytes=block_bytes)
        for chunk_rows in (1, 2, 3):
            found = rows(reader, chunk_rows)
            assert [(row["a"], row["b"], row["__source_line"]) for row in found] == [
                ("1", "2", 5), ("3", "4", 8), ("5", "6", 9),
            ]  # fmt: skip
            assert [row["__error_code"] for row in found] == [None] * 3


def test_more_lines_to_pass_over_than_there_are_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="is empty"):
        reader_of(tmp_path, b"a,b\n1,2\n", skip_lines=2).survey(10)
    assert reader_of(tmp_path, b"a,b\n1,2\n", skip_footer_lines=1).survey(10).row_count == 0
    with pytest.raises(SourceFileError, match="is empty"):
        reader_of(tmp_path, b"a,b\n1,2\n", skip_footer_lines=3).survey(10)


def test_text_beyond_ascii_before_blank_lines_at_the_end_is_visited(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, "a,b\né,2\n\n\n".encode())
    visited: list[pa.Table] = []
    reader.survey(10, visit=visited.append)
    assert visited[0]["a"].to_pylist() == ["é"]


def test_column_names_in_messages_stay_in_one_line() -> None:
    assert listed(["a", "b\nc", "d\u2028e", "x" * 100]) == f"a, b\\nc, d\\u2028e, {'x' * 60}"
    assert listed([f"c{number}" for number in range(50)]).endswith("c39 and 10 more")


def test_escapes_of_marks_mean_the_mark_and_a_lone_null_is_empty(tmp_path: Path) -> None:
    content = b'a,b\n"say \\"hi\\"",1\nx\\,y,\\\\\n"two\\\nlines",\\N\n\\N,"\\N"\nN,2\ntab\\\there,"doubled "" quote"\nend,\\"\n'
    found = rows(reader_of(tmp_path, content, escape="\\"))
    assert [(row["a"], row["b"]) for row in found] == [
        ('say "hi"', "1"), ("x,y", "\\"), ("two\nlines", ""), ("", ""), ("N", "2"), ("tab\there", 'doubled " quote'), ("end", '"'),
    ]  # fmt: skip
    assert [row["__source_line"] for row in found] == [2, 3, 4, 6, 7, 8, 9]


def test_an_escape_whose_meaning_is_not_stated_is_one_reject(tmp_path: Path) -> None:
    reader = reader_of(tmp_path, b"a,b\none\\ntwo,1\nok,2\nxN\\N,3\nok,4\n5,end\\", escape="\\")
    found = rows(reader)
    assert [row["__error_code"] for row in found] == [
        "record_malformed",
        None,
        "record_malformed",
        None,
        "record_malformed",
    ]
    assert found[0]["__error_reason"] == "a holds \\n, whose meaning is not stated: only marks may be escaped"
    assert found[4]["__error_reason"] == "the record ends with \\, which stands before nothing"
    assert [row["b"] for row in found] == [None, "2", None, "4", None]
    manifest = reader.survey(1)
    assert sum(chunk.row_count for chunk in manifest.chunks) == 5


def test_without_an_escape_character_nothing_is_escaped(tmp_path: Path) -> None:
    found = rows(reader_of(tmp_path, b'a,b\n\\N,x\\\n"\\",C:\\new\n'))
    assert [(row["a"], row["b"]) for row in found] == [("\\N", "x\\"), ("\\", "C:\\new")]


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        ({"escape": ","}, "must differ from delimiter, quote and comment"),
        ({"escape": '"'}, "must differ from delimiter, quote and comment"),
        ({"escape": "#", "comment": "#"}, "must differ from delimiter, quote and comment"),
        ({"escape": "\\", "encoding": "shift_jis"}, "is not ASCII-compatible"),
        ({"escape": "ab"}, "must be one ASCII character"),
    ],
)
def test_an_escape_character_that_cannot_be_meant(dialect: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CsvDialect.model_validate(dialect)
