"""A workbook's cells come out as exact text, and what is no value is told, whoever wrote the workbook."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from openpyxl.cell.rich_text import CellRichText, TextBlock
from openpyxl.cell.text import InlineFont
from openpyxl.utils.datetime import CALENDAR_MAC_1904
from openpyxl.worksheet.worksheet import Worksheet

from backfill_pipeline.definition.formats import XlsxFormat
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.capture.captured_reader import CapturedReader
from backfill_pipeline.sources.workbooks import workbook
from backfill_pipeline.sources.workbooks.xlsx_cells import column_letters, column_number, plain_number
from backfill_pipeline.sources.workbooks.xlsx_stream import XlsxStream

RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def save(
    file: Path, rows: Iterable[Sequence[object]], change: Callable[[Worksheet], None] | None = None
) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    for row in rows:
        sheet.append(list(row))
    if change is not None:
        change(sheet)
    book.save(file)
    return file


def write_parts(
    file: Path, sheet: str, *, styles: str = "", strings: str = "", book: str = "", head: str = ""
) -> Path:
    """A workbook from its XML, as other programs than openpyxl write it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{RELATIONS}"><Relationship Id="r1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}">{book}<sheets><sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>',
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{RELATIONS}"><Relationship Id="r1" Type="{OFFICE}/worksheet" Target="worksheets/s.xml"/>'
            f'<Relationship Id="r2" Type="{OFFICE}/styles" Target="/xl/styles.xml"/>'
            f'<Relationship Id="r3" Type="{OFFICE}/sharedStrings" Target="strings.xml"/></Relationships>',
        )
        archive.writestr("xl/styles.xml", f'<styleSheet xmlns="{MAIN}">{styles}</styleSheet>')
        archive.writestr("xl/strings.xml", f'<sst xmlns="{MAIN}">{strings}</sst>')
        archive.writestr(
            "xl/worksheets/s.xml",
            f'{head}<worksheet xmlns="{MAIN}"><sheetData>{sheet}</sheetData></worksheet>',
        )
    return file


def read(file: Path, *, columns_read: Iterable[str] | None = None, **section: object) -> pa.Table:
    """EXTRACTED of the whole sheet; every column is read unless told otherwise."""
    stream = XlsxStream(
        file, XlsxFormat.model_validate(section), ["a"] if columns_read is None else list(columns_read)
    )
    if columns_read is None:
        header = next(stream.records()).fields.column_names
        stream = XlsxStream(file, XlsxFormat.model_validate(section), header)
    reader = CapturedReader(stream, file.parent / "captures")
    manifest = reader.survey(1000)
    assert manifest.row_count == sum(chunk.row_count for chunk in manifest.chunks)
    tables = [reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks]
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in manifest.header})
    return pa.concat_tables(tables)


def column(file: Path, name: str = "a", **section: object) -> list[str | None]:
    values: list[str | None] = read(file, **section)[name].to_pylist()
    return values


def test_every_kind_of_value_is_its_exact_text(tmp_path: Path) -> None:
    rows: list[Mapping[str, object]] = [
        {"value": "00123", "text": "00123"},
        {"value": 10.1, "text": "10.1"},
        {"value": -1234.56, "text": "-1234.56"},
        {"value": 4711.0, "text": "4711"},
        {"value": 123456789012345, "text": "123456789012345"},
        {"value": 1e-7, "text": "0.0000001"},
        {"value": 1e20, "text": "100000000000000000000"},
        {"value": True, "text": "true"},
        {"value": False, "text": "false"},
        {"value": date(2024, 3, 1), "text": "2024-03-01"},
        {"value": datetime(2024, 3, 1, 9, 30), "text": "2024-03-01T09:30:00"},
        {"value": datetime(2024, 3, 1), "text": "2024-03-01T00:00:00"},
        {"value": datetime(2024, 3, 1, 23, 59, 59, 999000), "text": "2024-03-01T23:59:59.999"},
        {"value": time(9, 30), "text": "09:30:00"},
        {"value": timedelta(hours=30, minutes=5), "text": "30:05:00"},
        {"value": " two\nlines é€😀", "text": " two\nlines é€😀"},
        {"value": "'quoted", "text": "'quoted"},
    ]
    file = save(tmp_path / "book.xlsx", [["a"], *([row["value"]] for row in rows)])
    assert column(file) == [row["text"] for row in rows]


def test_decimals_are_stated_and_never_rounded(tmp_path: Path) -> None:
    values = [
        "10.1",
        "10",
        "2.9E-1",
        "0.30000000000000004",
        "1e16",
        "-0.5",
        "1.005",
        "10.100000000000000",
        "-0",
    ]
    cells = [f"<row><c><v>{value}</v></c><c><v>{value}</v></c></row>" for value in ["a", *values]]
    cells[0] = '<row><c t="str"><v>a</v></c><c t="str"><v>b</v></c></row>'
    file = write_parts(tmp_path / "book.xlsx", "".join(cells) + '<row><c t="str"><v>10.1</v></c></row>')
    table = read(file, float_decimals={"a": 2})
    assert table["a"].to_pylist() == [
        "10.10", "10.00", "0.29", "0.30000000000000004", "10000000000000000", "-0.50", "1.005", "10.10", "0.00", "10.1",
    ]  # fmt: skip
    assert table["b"].to_pylist()[0] == "10.1"
    assert column(file, float_decimals={"a": 18})[0] == "10.100000000000000000"
    with pytest.raises(SourceFileError, match=r"has no column 'c', which xlsx\.float_decimals names"):
        read(file, float_decimals={"c": 2})


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("10.10", "10.1"),
        ("4711.0", "4711"),
        ("1.0E7", "10000000"),
        ("1E-3", "0.001"),
        ("+5", "5"),
        ("-0.0", "0"),
        ("0", "0"),
        ("5.", "5"),
    ],
)
def test_numbers_are_written_in_one_way(written: str, text: str) -> None:
    assert plain_number(written) == text


def test_letters_are_columns() -> None:
    assert [column_number(letters) for letters in ("A", "z", "AA", "XFD", "", "1", "AAAA")] == [
        1,
        26,
        27,
        16384,
        0,
        0,
        0,
    ]
    assert all(column_number(column_letters(number)) == number for number in range(1, 17_000))


def test_days_are_counted_from_1904_where_the_workbook_says_so(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.epoch = CALENDAR_MAC_1904
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.append(["a"])
    sheet.append([date(2024, 3, 1)])
    book.save(tmp_path / "mac.xlsx")
    assert column(tmp_path / "mac.xlsx") == ["2024-03-01"]


@pytest.mark.parametrize(
    ("serial", "text"),
    [
        ("1", "1900-01-01"),
        ("59", "1900-02-28"),
        ("61", "1900-03-01"),
        ("45352.375", "2024-03-01T09:00:00"),
        ("45352.39583333334", "2024-03-01T09:30:00"),
        ("45352.999999999", "2024-03-02"),
    ],
)
def test_the_days_of_a_workbook(tmp_path: Path, serial: str, text: str) -> None:
    styles = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
    file = write_parts(
        tmp_path / "book.xlsx",
        f'<row><c t="str"><v>a</v></c></row><row><c s="1"><v>{serial}</v></c></row>',
        styles=styles,
    )
    assert column(file) == [text]


@pytest.mark.parametrize("serial", ["0", "60", "-1", "2958466", "1E9", "x"])
def test_a_day_that_there_never_was_is_a_reject(tmp_path: Path, serial: str) -> None:
    styles = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs>'
    file = write_parts(
        tmp_path / "book.xlsx",
        f'<row><c t="str"><v>a</v></c></row><row><c s="1"><v>{serial}</v></c></row>',
        styles=styles,
    )
    (reason,) = read(file)["__error_reason"].to_pylist()
    assert re.fullmatch(r"cell A2 (is shown as a date, and .* is none|holds .* which is no number)", reason)


def test_number_formats_that_are_no_dates_stay_numbers(tmp_path: Path) -> None:
    formats = ['#,##0.00 "EUR"', "[Red]0.00", '0.00 "days"', "0%", '_-* #,##0.00\\ "€"_-', "@"]

    def change(sheet: Worksheet) -> None:
        for row, code in enumerate(formats, start=2):
            sheet.cell(row, 1).number_format = code

    file = save(tmp_path / "book.xlsx", [["a"], *([45352.25] for _ in formats)], change)
    assert column(file) == ["45352.25"] * len(formats)


def test_rows_are_found_where_they_are(tmp_path: Path) -> None:
    """Rows without a value are no records; a record's line is its row, hidden or not."""

    def change(sheet: Worksheet) -> None:
        sheet["B2"] = "date"
        sheet["C2"] = "amount"
        for row, day in ((4, "d1"), (7, "d2"), (8, "total")):
            sheet[f"B{row}"] = day
            sheet[f"C{row}"] = row
        sheet.row_dimensions[7].hidden = True
        sheet.column_dimensions["C"].hidden = True
        sheet["B9"] = "   "
        sheet["A7"] = "left of the table"
        for row in range(10, 200):
            sheet.cell(row, 3).number_format = "0.00"
        sheet.merge_cells("B8:B9")

    file = save(tmp_path / "book.xlsx", [["My bank"]], change)
    table = read(file, header_row=2, first_column="B", skip_footer_rows=1)
    assert table["date"].to_pylist() == ["d1", "d2"]
    assert table["amount"].to_pylist() == ["4", "7"]
    assert table["__source_line"].to_pylist() == [4, 7]
    assert table["__source_row"].to_pylist() == [1, 2]
    assert read(file, header_row=2, first_column="2", first_row=7)["date"].to_pylist() == ["d2", "total"]
    named = read(file, columns=["x", "y"], first_column="B", first_row=4)
    assert named["x"].to_pylist() == ["d1", "d2", "total"]


def test_a_table_without_records_has_columns(tmp_path: Path) -> None:
    assert read(save(tmp_path / "book.xlsx", [["a", "b"]])).column_names == ["a", "b"]


def test_a_value_in_a_column_without_a_name_is_a_reject_and_not_lost(tmp_path: Path) -> None:
    file = save(
        tmp_path / "book.xlsx",
        [["a", None, "b"], ["1", None, "2"], ["1", "lost?", "2"], ["1", None, "2", "lost?"]],
    )
    table = read(file)
    assert table["b"].to_pylist() == ["2", None, None]
    assert table["__error_reason"].to_pylist() == [
        None, "cell B3 holds a value, but its column has no name", "cell D4 holds a value, but its column has no name",
    ]  # fmt: skip
    assert table["__error_code"].to_pylist()[1:] == ["record_malformed"] * 2


def test_errors_and_uncalculated_formulas_are_told_where_they_are_read(tmp_path: Path) -> None:
    sheet = (
        '<row><c t="str"><v>a</v></c><c t="str"><v>b</v></c></row>'
        '<row><c t="e"><v>#REF!</v></c><c><v>1</v></c></row>'
        "<row><c><f>SUM(B1)</f></c><c><v>2</v></c></row>"
        "<row><c><f>SUM(B1)</f><v></v></c><c><v>3</v></c></row>"
        '<row><c t="str"><f>""</f><v></v></c><c><v>4</v></c></row>'
        "<row><c><f>1+1</f><v>2</v></c><c><v>5</v></c></row>"
        '<row><c t="s"><v>9</v></c><c><v>6</v></c></row>'
        '<row><c t="inlineStr"><is><r><t>in</t></r><r><t>line</t></r><rPh><t>no</t></rPh></is></c><c><v>7</v></c></row>'
    )
    file = write_parts(tmp_path / "book.xlsx", sheet)
    table = read(file)
    assert table["a"].to_pylist() == [None, None, None, "", "2", None, "inline"]
    assert [reason and reason[:40] for reason in table["__error_reason"].to_pylist()] == [
        "cell A2 holds the error #REF!",
        "cell A3 holds a formula that was never c",
        "cell A4 holds a formula that was never c",
        None, None, "cell A7 refers to text '9' of 0", None,
    ]  # fmt: skip
    unread = read(file, columns_read=["b"])
    assert unread["__error_code"].null_count == 7
    assert unread["a"].to_pylist()[0] == "#REF!"


def test_a_reject_shows_its_row(tmp_path: Path) -> None:
    file = write_parts(
        tmp_path / "book.xlsx",
        '<row><c t="str"><v>a</v></c><c t="str"><v>b</v></c></row><row r="7"><c t="e"><v>#N/A</v></c><c><v>1.50</v></c></row>',
    )
    reader = CapturedReader(XlsxStream(file, XlsxFormat(), ["a"]), tmp_path / "captures")
    reader.survey(10)
    assert reader.raw_text([0], [1]) == ['{"a": "#N/A", "b": "1.5"}']


def test_text_as_other_programs_write_it(tmp_path: Path) -> None:
    strings = "<si><t>a</t></si><si><r><t>ri</t></r><r><t>ch</t></r><rPh><t>x</t></rPh></si><si><t>l1_x000D_l2 _x005F_x0041_ _xD800_</t></si><si><t>_x0000_</t></si>"
    sheet = "".join(f'<row><c t="s"><v>{place}</v></c></row>' for place in range(4))
    table = read(write_parts(tmp_path / "book.xlsx", sheet, strings=strings))
    assert table["a"].to_pylist() == ["rich", "l1\rl2 _x0041_ _xD800_", None]
    assert table["__error_code"].to_pylist() == [None, None, "nul_byte"]


def test_rich_text_is_its_text(tmp_path: Path) -> None:
    rich = CellRichText("plain ", TextBlock(InlineFont(b=True), "bold"))
    assert column(save(tmp_path / "book.xlsx", [["a"], [rich]])) == ["plain bold"]


def test_which_sheet_is_never_guessed(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for name in ("first", "2"):
        book.create_sheet(name).append(["a"])
        book[name].append([f"of {name}"])
    del book["Sheet"]
    book["2"].sheet_state = "hidden"
    book.save(tmp_path / "book.xlsx")
    with pytest.raises(SourceFileError, match=r"holds 2 sheets \(first, 2\): say which one with xlsx.sheet"):
        read(tmp_path / "book.xlsx")
    assert column(tmp_path / "book.xlsx", sheet="first") == ["of first"]
    assert column(tmp_path / "book.xlsx", sheet="1") == ["of first"]
    assert column(tmp_path / "book.xlsx", sheet="2") == ["of 2"]
    with pytest.raises(SourceFileError, match="has no sheet '3', which xlsx.sheet names: there are first, 2"):
        read(tmp_path / "book.xlsx", sheet="3")


def test_a_macro_workbook_is_read_like_any_other(tmp_path: Path) -> None:
    file = save(tmp_path / "book.xlsx", [["a"], ["1"]])
    assert column(file.rename(tmp_path / "book.xlsm")) == ["1"]


@pytest.mark.parametrize(
    ("rows", "section", "words"),
    [
        ([[]], {}, "row 1 of the sheet is empty, and should name the columns"),
        ([["a"]], {"header_row": 2}, "row 2 of the sheet is empty"),
        (
            [[None, "a"]],
            {},
            r"cell A1 should name the first column, .* xlsx.header_row and xlsx.first_column",
        ),
        ([["a", "a"]], {}, "columns 1 and 2 are both named 'a'"),
        ([["a", "=1+1"]], {}, "cell B1, which names a column, holds a formula that was never calculated"),
    ],
)
def test_a_table_that_is_not_there_is_told(
    tmp_path: Path, rows: list[list[object]], section: dict[str, object], words: str
) -> None:
    with pytest.raises(SourceFileError, match=words):
        read(save(tmp_path / "book.xlsx", rows), **section)


def test_files_that_are_no_workbooks_are_told_in_one_sentence(tmp_path: Path) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    whole = save(tmp_path / "whole.xlsx", [["a"], ["1"]]).read_bytes()
    cases = {
        b"": "but is empty",
        b"a;b\n1;2\n": "but is none: open it in a spreadsheet program",
        b"<html><table>": "but looks like HTML",
        ole: r"is an old Excel workbook \(\.xls\)",
        ole + "EncryptedPackage".encode("utf-16-le"): "is protected by a password",
        whole[:-40]: "is not a whole Excel workbook",
        whole[: len(whole) // 2]: "is not a whole Excel workbook",
    }
    for content, words in cases.items():
        (tmp_path / "book.xlsx").write_bytes(content)
        with pytest.raises(SourceFileError, match=words):
            read(tmp_path / "book.xlsx")
    with pytest.raises(SourceFileError, match="there is no such file"):
        read(tmp_path / "none.xlsx")
    for member, words in (
        ("content.xml", "an OpenDocument spreadsheet"),
        ("x.txt", "a zip archive, but no Excel workbook"),
    ):
        with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as archive:
            archive.writestr(member, "x")
        with pytest.raises(SourceFileError, match=words):
            read(tmp_path / "book.xlsx")


def test_a_damaged_byte_anywhere_never_gives_a_traceback(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.xlsx", [["a", "b"], *([f"text {n}", n] for n in range(50))]).read_bytes()
    told = 0
    for place in range(0, len(whole), 7):
        spoilt = bytearray(whole)
        spoilt[place] ^= 0x55
        (tmp_path / "book.xlsx").write_bytes(spoilt)
        try:
            assert read(tmp_path / "book.xlsx").num_rows == 50
        except SourceFileError as error:
            told += 1
            assert "\n" not in str(error)
    assert told > 100


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_parts(tmp_path / "book.xlsx", "<row><c><v>" + "1" * (80 << 20) + "</v></c></row>")
    assert file.stat().st_size < 100_000
    with pytest.raises(SourceFileError, match="unpacks to more than 500 times its size"):
        read(file)
    monkeypatch.setattr(workbook, "TEXT_BYTES_MAX", 1000)
    file = write_parts(tmp_path / "book.xlsx", "", strings="<si><t>a</t></si>" * 100)
    with pytest.raises(SourceFileError, match=r"xl/strings.xml unpacks to more than"):
        read(file)


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x SYSTEM "file:///etc/passwd">'


@pytest.mark.parametrize("head", [LAUGHS, OUTSIDE])
def test_entities_are_never_expanded(tmp_path: Path, head: str) -> None:
    file = write_parts(tmp_path / "book.xlsx", '<row><c t="str"><v>a</v></c></row>', head=head)
    with pytest.raises(SourceFileError, match=r"declares a document type \(DOCTYPE\)"):
        read(file)


@pytest.mark.parametrize(
    "sheet",
    [
        '<row r="0"/>', '<row r="5"/><row r="5"/>', '<row r="x"/>', '<row r="1048577"/>', '<row><c r="1A"/></row>',
        '<row><c r="B1"/><c r="A1"/></row>', '<row><c r="XFE1"/></row>', '<row r="' + "9" * 5000 + '"/>',
    ],
)  # fmt: skip
def test_a_sheet_out_of_order_is_refused(tmp_path: Path, sheet: str) -> None:
    file = write_parts(tmp_path / "book.xlsx", sheet)
    with pytest.raises(
        SourceFileError, match="comes after row|is out of order|is not a whole Excel workbook"
    ):
        read(file)


def test_what_follows_the_table_in_the_xml_is_no_row(tmp_path: Path) -> None:
    file = write_parts(
        tmp_path / "book.xlsx",
        '<row><c t="str"><v>a</v></c></row><row><c><v>1</v></c></row></sheetData><ext><row><c><v>2</v></c></row></ext><sheetData>',
    )
    assert column(file) == ["1"]


def test_a_sheet_that_claims_to_be_huge_costs_nothing(tmp_path: Path) -> None:
    file = save(tmp_path / "book.xlsx", [["a"], ["1"]])
    changed = tmp_path / "changed.xlsx"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for part in old.infolist():
            data = old.read(part).replace(b'ref="A1:A2"', b'ref="A1:XFD1048576"')
            new.writestr(part, data)
    assert column(shutil.move(changed, file)) == ["1"]


PEAK = """
import resource, sys
from pathlib import Path
from backfill_pipeline.definition.formats import XlsxFormat
from backfill_pipeline.sources.workbooks.xlsx_stream import XlsxStream
stream = XlsxStream(Path(sys.argv[1]), XlsxFormat(float_decimals={"amount": 2}), ["amount"])
assert sum(piece.fields.num_rows for piece in stream.records()) == int(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_long_sheet_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    def peak_kib_of(rows: int) -> int:
        names = "".join(f'<c t="str"><v>{name}</v></c>' for name in ("id", "from", "to", "amount"))
        record = (
            '<row ht="15" customHeight="1"><c><v>{0}</v></c><c t="inlineStr"><is><t>ACC-1</t></is></c><c/>'
            "<c><v>{0}.5</v></c></row>"
        )
        sheet = f"<row>{names}</row>" + "".join(map(record.format, range(rows)))
        file = write_parts(tmp_path / f"{rows}.xlsx", sheet)
        command = [sys.executable, "-c", PEAK, str(file), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak_kib_of(200_000) < peak_kib_of(20_000) + (24 << 10)
