"""Where the table is in an unknown workbook.

Belongs here: the sheet, the row that names the columns, the column where they begin.
Does not: reading the table (`sources/workbooks/xlsx_stream.py`), what columns hold (`columns.py`).
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from backfill_pipeline.definition.formats import CsvDialect, XlsxFormat
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.profiling.written import Written
from backfill_pipeline.sources.files.content import open_file
from backfill_pipeline.sources.headers import listed
from backfill_pipeline.sources.workbooks.workbook import Workbook, opened_workbook
from backfill_pipeline.sources.workbooks.xlsx_cells import Cell, NoValueError, SheetRows, text_of
from backfill_pipeline.sources.xml_reading import read_xml

_ROWS: Final = 60
"""Looked at in each sheet; what stands above a table is shorter."""

_TEXT_KINDS: Final = ("s", "str", "inlineStr")
_SUFFIXES: Final = (".xlsx", ".xlsm")

_Rows = list[tuple[int, list[Cell]]]


def is_workbook(file: Path) -> bool:
    """Whether a file is a workbook by its name and its first bytes."""
    if file.suffix.lower() not in _SUFFIXES:
        return False
    with open_file(file) as opened:
        return opened.read(4) in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


def look_at_workbook(file: Path) -> Written:
    """Finds the table: the first sheet that has any, and in it the first row with as many values as any.

    Raises:
        SourceFileError: it is no workbook, or holds no table.
    """
    with opened_workbook(file) as book:
        for name, part in book.sheets.items():
            rows = list(islice(_rows(book, file, part), _ROWS))
            if max((len(cells) for _, cells in rows), default=0) > 1:
                return _written(book, name, rows)
    raise SourceFileError(f"{file}: no sheet of it holds a table.")


def _rows(book: Workbook, file: Path, part: str) -> Iterator[tuple[int, list[Cell]]]:
    """Rows with their cells that hold a value."""
    handler = SheetRows(str(file))
    for _ in read_xml(book.part(part), handler, str(file)):
        found, handler.rows = handler.rows, []
        for number, cells in found:
            if filled := [cell for cell in cells if _text(cell, book)]:
                yield number, filled


def _written(book: Workbook, sheet: str, rows: _Rows) -> Written:
    notes = []
    if len(book.sheets) > 1:
        notes.append(
            f"decide: the workbook has the sheets {listed(list(book.sheets))}; this is about {sheet!r}"
        )
    width = max(len(cells) for _, cells in rows)
    number, cells = next(row for row in rows if len(row[1]) == width)
    first = cells[0].column
    section: dict[str, object] = {"first_column": first} if first > 1 else {}
    if len(book.sheets) > 1:
        section["sheet"] = sheet
    if all(cell.kind in _TEXT_KINDS for cell in cells):
        if number > rows[0][0]:
            notes.append(
                f"decide: the table seems to begin in row {number}; the rows above it are passed over"
            )
        if number > 1:
            section["header_row"] = number
    else:
        notes.append("no row is all text, so there are no names: the columns need some")
        last = max(cell.column for _, row in rows for cell in row)
        first = min(cell.column for _, row in rows for cell in row)
        section |= {
            "columns": [f"column_{place}" for place in range(1, last - first + 2)],
            "first_row": rows[0][0],
            "first_column": first,
        }
    return Written(
        dialect=CsvDialect(),
        byte_order_mark=False,
        line_ends="LF",
        field_count=width,
        first_record_line=number,
        notes=tuple(notes),
        workbook=XlsxFormat.model_validate(section),
    )


def _text(cell: Cell, book: Workbook) -> str:
    try:
        return text_of(cell, book, None).strip()
    except NoValueError:
        return "no value"
