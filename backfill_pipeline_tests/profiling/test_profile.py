"""What a profile says of files, easy and nasty; nothing that a file leaves open is chosen silently."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import openpyxl
import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.profiling.columns import ColumnProfile
from backfill_pipeline.profiling.draft import draft, source_id
from backfill_pipeline.profiling.profile import SAMPLE_ROWS, FileProfile, profile_file
from backfill_pipeline.stages.preview import preview
from backfill_pipeline_tests.stages.world import AMLSIM_DIR, CHECKOUT, needs_amlsim

GERMAN = """\
Buchungstag;Valutadatum;Auftraggeber;Verwendungszweck;Betrag;Saldo;Währung
240301;240301;Müller GmbH;"Rechnung; 17";1.049,99;10.049,99;EUR
240302;240302;Bäcker;Brot;-4,50;10.045,49;EUR
240315;240315;Miete;März;-750,00;9.295,49;EUR
240331;240401;Lohn;Gehalt;2.500,00;11.795,49;EUR
240331;240401;Ärzte;;-20,00;11.775,49;EUR
"""


def _profile(tmp_path: Path, content: str | bytes, name: str = "export.csv") -> FileProfile:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return profile_file(file)


def _column(profile: FileProfile, name: str) -> ColumnProfile:
    return next(one for one in profile.columns if one.name == name)


def _sure(profile: FileProfile) -> dict[str, str]:
    return {field: ones[0].column for field, ones in profile.candidates.items()}


def _of_values(tmp_path: Path, name: str, *values: str) -> ColumnProfile:
    lines = [f"{name};other", *(f"{value};x" for value in values)]
    return _profile(tmp_path, "\n".join(lines) + "\n").columns[0]


# --- how a file is written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_delimiter_and_line_ends(tmp_path: Path, delimiter: str, ends: str) -> None:
    rows = [["id", "text", "amount"], ["1", "a b", "1.50"], ["2", "c", "2.25"]]
    written = _profile(tmp_path, ends.join(delimiter.join(row) for row in rows) + ends).written
    assert (written.dialect.delimiter, written.dialect.header, written.notes) == (delimiter, True, ())
    assert written.line_ends == {"\n": "LF", "\r\n": "CRLF", "\r": "CR"}[ends]


def test_decimal_commas_are_no_delimiter(tmp_path: Path) -> None:
    profile = _profile(tmp_path, "a;b\n1,50;2,50\n3,25;4,00\n")
    assert [one.name for one in profile.columns] == ["a", "b"]


def test_other_encodings_are_a_decision(tmp_path: Path) -> None:
    profile = _profile(tmp_path, GERMAN.encode("cp1252"))
    assert profile.written.dialect.encoding == "cp1252"
    assert "decide" in profile.written.notes[0]
    assert _column(profile, "Währung").kind == "currency"


def test_utf8_with_a_byte_order_mark_and_with_few_spoilt_bytes(tmp_path: Path) -> None:
    profile = _profile(tmp_path, b"\xef\xbb\xbf" + GERMAN.encode() + b"240401;240401;\xe9;;1,00;1,00;EUR\n")
    assert (profile.written.dialect.encoding, profile.written.byte_order_mark) == ("utf-8", True)
    assert profile.malformed == 1
    assert profile.columns[0].name == "Buchungstag"


def test_a_file_without_header_gets_names(tmp_path: Path) -> None:
    profile = _profile(tmp_path, GERMAN.partition("\n")[2])
    assert profile.written.dialect.header is False
    assert profile.columns[4].name == "column_5"
    assert profile.columns[0].time is not None
    assert profile.rows == 5


def test_lines_before_the_table_are_skipped_and_told(tmp_path: Path) -> None:
    profile = _profile(tmp_path, "Konto;DE12\nZeitraum;2024\n\n" + GERMAN)
    assert profile.written.dialect.skip_lines == 3
    assert "line 4" in profile.written.notes[0]
    assert (profile.rows, _column(profile, "Betrag").kind) == (5, "number")


def test_packed_files_are_read(tmp_path: Path) -> None:
    assert _profile(tmp_path, gzip.compress(GERMAN.encode()), "export.csv.gz").rows == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n \n", "is empty"),
        (GERMAN.encode("utf-16"), "UTF-16"),
        (GERMAN.encode("utf-16-le"), "iconv"),
        (b"PK\x03\x04" + bytes(100), "Excel"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (bytes(range(256)) * 20, "no text"),
        (b"\0" * 5000, "no text"),
        (b'{"a": 1}\n', "JSON"),
        (b"<?xml version='1.0'?>\n", "XML"),
        (b":20:STARTUMS\n:25:1/2\n", "SWIFT"),
        (b";".join([b"a"] * 600) + b"\n", "columns"),
        (b"x" * (2 << 20), "no delimited text"),
    ],
)
def test_what_is_no_table_is_told_in_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(SourceFileError, match=words) as caught:
        _profile(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_places_that_are_no_file(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(SourceFileError):
            profile_file(file)


@pytest.mark.parametrize(
    "content",
    [
        b'"a,b\n1,2\n',
        b'a,b\n"1,2\n3,4\n' * 50,
        b"a,a\n1,2\n",
        b"a,\n1,2\n",
        b"=cmd|' /C calc'!A0,@x\n1,2\n",
        "[red]a[/red],\u202eb\n\x1b[31m1,2\n".encode(),
        b"a,b\n" + b"9" * 60 + b"," + b"-" * 60 + b"\n",
        b"a\n",
        b"a,b\n",
        b"a,b\r1,2\n3,4\r\n",
        b"__source_row,b\n1,2\n",
    ],
)
def test_hostile_tables_end_in_a_profile_or_a_sentence_and_their_draft_is_yaml(
    tmp_path: Path, content: bytes
) -> None:
    try:
        profile = _profile(tmp_path, content)
    except SourceFileError as error:
        assert "\n" not in str(error)
        return
    path = tmp_path / "draft.yaml"
    path.write_text(draft(profile, tmp_path), encoding="utf-8")
    for problem in check_file(path).problems:
        assert "YAML" not in problem.text


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "marks", "line"),
    [
        (["1.50", "-2.25"], (".", None), 2),
        (["1,50", "2,25"], (",", None), 2),
        (["1.049,99", "2,00"], (",", "."), 2),
        (["1,049.99", "2.00"], (".", ","), 2),
        (["1.049", "1.049,50"], (",", "."), 3),
        (["1 049,99", "5"], (",", " "), 2),
        (["1'049.99", "5.00"], (".", "'"), 2),
        (["100", "-7"], (".", None), None),
    ],
)
def test_marks_of_numbers_and_the_row_that_decides(
    tmp_path: Path, values: list[str], marks: tuple[str, str | None], line: int | None
) -> None:
    number = _of_values(tmp_path, "amount", *values).number
    assert number is not None
    assert (number.decimal_mark, number.thousands_mark) == marks
    assert (number.decided_by and number.decided_by.line) == line


def test_numbers_that_no_row_decides_have_both_readings(tmp_path: Path) -> None:
    number = _of_values(tmp_path, "amount", "1,234", "2,500").number
    assert number is not None
    assert number.decimal_mark is None
    assert [one.rsplit(" ", 1)[1] for one in number.readings] == ["1.234", "1234"]


def test_identifiers_with_leading_zeros_are_no_numbers(tmp_path: Path) -> None:
    assert _of_values(tmp_path, "konto", "00123", "00456", "00123").kind != "number"


def test_a_few_spoilt_values_do_not_hide_what_a_column_is(tmp_path: Path) -> None:
    column = _of_values(tmp_path, "amount", *[f"{n}.50" for n in range(100)], "1e3")
    assert column.number is not None
    assert column.number.exceptions == 1


@pytest.mark.parametrize(
    ("values", "formats", "line"),
    [
        (["2024-03-01T09:00:00Z", "2024-03-02T09:00:00+01:00"], ("iso8601",), None),
        (["01.03.2024", "31.03.2024"], ("%d.%m.%Y",), 3),
        (["01/03/2024 09:00", "04/30/2024 10:00"], ("%m/%d/%Y %H:%M",), 3),
        (["03/04/2024", "05/06/2024"], ("%d/%m/%Y", "%m/%d/%Y"), None),
        (["31-Jan-2024", "01-Feb-2024"], ("%d-%b-%Y",), None),
        (["31.12.99", "01.01.00"], ("%d.%m.%y",), 2),
        (["20240131", "20240201"], ("%Y%m%d",), None),
        (["240131", "991231"], ("%y%m%d",), 2),
        (["01/02/2024 11:05 PM", "13/02/2024 01:00 AM"], ("%d/%m/%Y %I:%M %p",), 3),
    ],
)
def test_formats_of_times_and_the_row_that_decides(
    tmp_path: Path, values: list[str], formats: tuple[str, ...], line: int | None
) -> None:
    time = _of_values(tmp_path, "booking date", *values).time
    assert time is not None
    assert time.formats == formats
    assert (time.decided_by and time.decided_by.line) == line


def test_what_is_mostly_no_time_is_none(tmp_path: Path) -> None:
    assert _of_values(tmp_path, "booking date", *["240131", "991332", "no"] * 9).time is None


def test_integers_of_a_time_column_may_count(tmp_path: Path) -> None:
    assert _of_values(tmp_path, "created_at", "1709283600", "1709370000").epoch == "epoch_seconds"
    assert _of_values(tmp_path, "day", "1", "2").epoch is None
    assert _of_values(tmp_path, "time", "1", "2").epoch == "epoch_days"


def test_a_running_balance_is_known_by_its_differences(tmp_path: Path) -> None:
    profile = _profile(tmp_path, GERMAN)
    assert _column(profile, "Saldo").balance_of == "Betrag"
    assert _column(profile, "Betrag").balance_of is None
    assert _sure(profile)["amount"] == "Betrag"


# --- whole files --------------------------------------------------------------------------------------------------


def test_a_german_statement(tmp_path: Path) -> None:
    profile = _profile(tmp_path, GERMAN)
    amount = _column(profile, "Betrag").number
    assert amount is not None
    assert (amount.decimal_mark, amount.thousands_mark, amount.negative) == (",", ".", 3)
    time = _column(profile, "Buchungstag").time
    assert time is not None
    assert time.formats == ("%y%m%d", "%d%m%y")
    text = draft(profile, tmp_path)
    assert "no row tells which of these it is: %y%m%d, %d%m%y" in text
    assert "TODO" not in text
    assert "#   - when: {Betrag: {below: 0}}\n" in text
    path = tmp_path / "draft.yaml"
    path.write_text(text, encoding="utf-8")
    missing = {problem.key for problem in check_file(path).problems}
    assert missing == {"fields.debit_account_id", "fields.credit_account_id", "fields.timestamp_utc"}


def test_the_draft_of_the_sample_loads_and_maps_its_rows(tmp_path: Path) -> None:
    profile = profile_file(CHECKOUT / "data" / "sample" / "entries.csv")
    assert {field: column for field, column in _sure(profile).items() if column != field} == {
        "reference_id": "booking_id",
        "timestamp_utc": "booked_at",
        "debit_account_id": "debit_account",
        "credit_account_id": "credit_account",
        "currency_code": "currency",
        "transaction_type": "kind",
    }
    path = tmp_path / "draft.yaml"
    path.write_text(draft(profile, tmp_path), encoding="utf-8")
    found = preview(load_definition(path), rows=1000)
    assert (found.good, found.rejected) == (995, {"amount_malformed": 5})


@needs_amlsim
def test_amlsim_is_understood_but_for_its_days(tmp_path: Path) -> None:
    profile = profile_file(AMLSIM_DIR / "transactions.csv")
    assert (profile.rows, len(profile.looked_at)) == (120_558, 3)
    assert _sure(profile) == {
        "credit_account_id": "sourceNodeId",
        "debit_account_id": "targetNodeId",
        "amount": "value",
        "timestamp_utc": "time",
    }
    assert "# timestamp_utc: {column: time, format: epoch_days}  # decide" in draft(profile, tmp_path)


def test_of_a_large_file_beginning_middle_and_end_are_looked_at_and_all_rows_are_counted(
    tmp_path: Path,
) -> None:
    count = 10 * SAMPLE_ROWS + 7
    profile = _profile(tmp_path, "id,amount\n" + "".join(f"{n},{n}.50\n" for n in range(1, count + 1)))
    assert profile.rows == count
    assert profile.looked_at[0] == (1, SAMPLE_ROWS)
    assert profile.looked_at[-1][1] == count
    assert sum(one.rows for one in profile.columns) <= 2 * 3 * SAMPLE_ROWS


def test_ids_are_made_of_file_names() -> None:
    names = ["Bank Export (2).csv", "2024-01.csv", "Ü.csv", "a" * 90 + ".csv"]
    assert [source_id(Path(name)) for name in names[:3]] == ["bank_export_2", "source_2024_01", "source"]
    assert len(source_id(Path(names[3]))) == 63


# --- workbooks and statements -------------------------------------------------------------------------------------


def _workbook(file: Path, *sheets: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for number, rows in enumerate(sheets, start=1):
        sheet = book.create_sheet(f"sheet {number}")
        for row in rows:
            sheet.append(row)
    book.save(file)
    return file


TRANSFERS: list[list[object]] = [
    ["id", "booked", "from", "to", "amount", "currency"],
    *(
        [f"T{n:04d}", date(2024, 3, 1 + n % 28), f"ACC-{n % 7}", f"ACC-{n % 5 + 7}", n + 0.25, "EUR"]
        for n in range(40)
    ),
]


def test_a_workbook_gets_a_draft_that_reads_it(tmp_path: Path) -> None:
    above: list[list[object]] = [["My bank"], [], ["Account", "4711"]]
    file = _workbook(tmp_path / "export.xlsx", [["nothing"]], above + TRANSFERS)
    profile = profile_file(file)
    assert profile.rows == 40
    assert profile.written.workbook is not None
    assert (profile.written.workbook.sheet, profile.written.workbook.header_row) == ("sheet 2", 4)
    assert profile.written.notes == (
        "decide: the workbook has the sheets sheet 1, sheet 2; this is about 'sheet 2'",
        "decide: the table seems to begin in row 4; the rows above it are passed over",
    )
    assert _sure(profile)["amount"] == "amount"
    text = draft(profile, tmp_path)
    assert "type: xlsx\n" in text
    assert "\nxlsx: {sheet: sheet 2, header_row: 4}\n" in text
    path = tmp_path / "draft.yaml"
    path.write_text(text)
    assert all("xlsx" not in problem.text for problem in check_file(path).problems)


def test_a_workbook_without_names_gets_some(tmp_path: Path) -> None:
    profile = profile_file(_workbook(tmp_path / "export.xlsx", TRANSFERS[1:]))
    assert [column.name for column in profile.columns] == [f"column_{n}" for n in range(1, 7)]
    assert (
        "xlsx: {columns: [column_1, column_2, column_3, column_4, column_5, column_6], first_row: 1}"
        in draft(profile, tmp_path)
    )


def test_a_workbook_without_a_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="no sheet of it holds a table"):
        profile_file(_workbook(tmp_path / "export.xlsx", [["alone"]], []))
    (tmp_path / "old.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    with pytest.raises(SourceFileError, match="is an old Excel workbook"):
        profile_file(tmp_path / "old.xlsx")


@pytest.mark.parametrize(("name", "words"), [("mt940", "type: mt940"), ("camt053", "type: camt")])
def test_statements_need_no_profile(name: str, words: str) -> None:
    (file,) = [
        one for one in (CHECKOUT / "data" / "examples" / name).iterdir() if one.suffix in (".sta", ".xml")
    ]
    with pytest.raises(SourceFileError, match=f"needs no profile: its columns are fixed .{words}"):
        profile_file(file)
