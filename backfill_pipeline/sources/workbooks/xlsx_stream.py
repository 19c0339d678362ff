"""Excel workbooks: one table of one sheet as records.

Belongs here: which sheet, which rows and columns; what is wrong with a row.
Does not: the archive (`workbook.py`), cells (`xlsx_cells.py`), chunks (`capture/captured_reader.py`).

A record's line is the number of its row in the sheet.
"""

import json
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa

from backfill_pipeline.definition.formats import XlsxFormat
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.files.content import file_fingerprint
from backfill_pipeline.sources.files.csv_records import RECORD_BYTES_MAX
from backfill_pipeline.sources.headers import listed, named_columns
from backfill_pipeline.sources.malformed import Problems
from backfill_pipeline.sources.record_stream import StreamedRecords
from backfill_pipeline.sources.workbooks.workbook import Workbook, opened_workbook
from backfill_pipeline.sources.workbooks.xlsx_cells import (
    Cell,
    NoValueError,
    SheetRows,
    column_letters,
    text_of,
)
from backfill_pipeline.sources.xml_reading import read_xml

_PIECE_ROWS: Final = 8192
_PIECE_CELLS: Final = 1 << 18


class XlsxStream:
    """The `RecordStream` of a workbook."""

    def __init__(self, file: Path, section: XlsxFormat, columns_read: Collection[str] | None) -> None:
        """
        Args:
            file: absolute path.
            section: where the table is.
            columns_read: what the definition reads; only there does it matter that a cell holds no value. None: all.
        """
        self._file = file
        self._section = section
        self._columns_read = None if columns_read is None else frozenset(columns_read)

    @property
    def place(self) -> str:
        """See `RecordStream.place`."""
        return str(self._file)

    @property
    def name(self) -> str:
        """See `RecordStream.name`."""
        return self._file.name

    def fingerprint(self) -> tuple[int, str]:
        """See `RecordStream.fingerprint`."""
        return file_fingerprint(self._file)

    def records(self) -> Iterator[StreamedRecords]:
        """See `RecordStream.records`."""
        with opened_workbook(self._file) as book:
            rows = self._rows(book, self._sheet(book))
            table = self._table(book, rows)
            records = _without_last(
                (one for number, cells in rows if (one := table.record(number, cells)) is not None),
                self._section.skip_footer_rows,
            )
            size = max(1, min(_PIECE_ROWS, _PIECE_CELLS // len(table.header)))
            yield _piece(table.header, list(islice(records, size)))
            while piece := list(islice(records, size)):
                yield _piece(table.header, piece)

    def _sheet(self, book: Workbook) -> str:
        """The part that holds the sheet."""
        names = listed(list(book.sheets)) or "none"
        wanted = self._section.sheet
        if wanted is None:
            if len(book.sheets) != 1:
                raise SourceFileError(
                    f"{self._file}: holds {len(book.sheets)} sheets ({names}): say which one with xlsx.sheet."
                )
            return next(iter(book.sheets.values()))
        if wanted in book.sheets:
            return book.sheets[wanted]
        if wanted.isdecimal() and 0 < int(wanted) <= len(book.sheets):
            return list(book.sheets.values())[int(wanted) - 1]
        raise SourceFileError(
            f"{self._file}: has no sheet {wanted!r}, which xlsx.sheet names: there are {names}."
        )

    def _rows(self, book: Workbook, part: str) -> Iterator[tuple[int, list[Cell]]]:
        """The rows that hold any value, with their numbers."""
        handler = SheetRows(self.place)
        for _ in read_xml(book.part(part), handler, self.place):
            found, handler.rows = handler.rows, []
            yield from found

    def _table(self, book: Workbook, rows: Iterator[tuple[int, list[Cell]]]) -> "_Table":
        section = self._section
        first = section.first_column
        if section.columns is not None:
            names = dict(enumerate(section.columns, start=first))
        else:
            names = self._names(book, rows)
        if first not in names:
            raise SourceFileError(
                f"{self._file}: cell {column_letters(first)}{section.named_in()} should name the first column, and"
                " holds no text: say where the table begins with xlsx.header_row and xlsx.first_column."
            )
        header = named_columns(self._file, list(names.values()))
        for name in section.float_decimals:
            if name not in header:
                raise SourceFileError(
                    f"{self._file}: has no column {name!r}, which xlsx.float_decimals names: the columns are"
                    f" {listed(header)}."
                )
        columns = {
            column: _Column(place, name, self._is_read(name), section.float_decimals.get(name))
            for place, (column, name) in enumerate(zip(names, header, strict=True))
        }
        return _Table(book, header, columns, section)

    def _is_read(self, column: str) -> bool:
        return self._columns_read is None or column in self._columns_read

    def _names(self, book: Workbook, rows: Iterator[tuple[int, list[Cell]]]) -> dict[int, str]:
        """Column → name, from the row that names them."""
        wanted = self._section.named_in()
        for number, cells in rows:
            if number > wanted:
                break
            if number == wanted:
                return dict(self._named(book, number, cells))
        raise SourceFileError(
            f"{self._file}: row {wanted} of the sheet is empty, and should name the columns: say which row does with"
            " xlsx.header_row, or name them with xlsx.columns."
        )

    def _named(self, book: Workbook, number: int, cells: list[Cell]) -> Iterator[tuple[int, str]]:
        for cell in cells:
            if cell.column < self._section.first_column:
                continue
            try:
                name = text_of(cell, book, None).strip()
            except NoValueError as error:
                place = f"{column_letters(cell.column)}{number}"
                raise SourceFileError(f"{self._file}: cell {place}, which names a column, {error}.") from None
            if name:
                yield cell.column, name


@dataclass(frozen=True, slots=True)
class _Column:
    place: int
    name: str
    is_read: bool
    decimals: int | None


@dataclass(frozen=True, slots=True)
class _Record:
    row: int
    values: list[str]
    problem: tuple[RejectCode, str] | None


@dataclass(frozen=True, slots=True)
class _Table:
    """From rows of cells to records."""

    book: Workbook
    header: tuple[str, ...]
    columns: dict[int, _Column]
    section: XlsxFormat

    def record(self, row: int, cells: list[Cell]) -> _Record | None:
        """A row as a record; None when it lies above the table, or holds nothing."""
        if row < self.section.begins_in():
            return None
        values = [""] * len(self.header)
        problem: tuple[RejectCode, str] | None = None
        for cell in cells:
            column = self.columns.get(cell.column)
            try:
                if column is None:
                    self._check_outside(cell)
                else:
                    values[column.place] = text_of(cell, self.book, column.decimals)
            except NoValueError as error:
                if column is not None:
                    values[column.place] = cell.value or ""
                if column is None or column.is_read:
                    what = f"cell {column_letters(cell.column)}{row} {error}"
                    problem = problem or (RejectCode.RECORD_MALFORMED, what)
        if problem is None and not any(map(str.strip, values)):
            return None
        return _Record(row, values, problem or _unfit(values))

    def _check_outside(self, cell: Cell) -> None:
        """A value right of where the table begins, in a column without a name, belongs to nothing."""
        if cell.column >= self.section.first_column and cell.value and cell.value.strip():
            raise NoValueError("holds a value, but its column has no name")


def _unfit(values: list[str]) -> tuple[RejectCode, str] | None:
    if sum(map(len, values)) > RECORD_BYTES_MAX:
        return RejectCode.RECORD_TOO_LONG, "the cells of the row hold more than 1 MiB"
    if any("\0" in value for value in values):
        return RejectCode.NUL_BYTE, "a cell of the row holds a NUL character"
    return None


def _without_last(records: Iterator[_Record], count: int) -> Iterator[_Record]:
    held: deque[_Record] = deque()
    for record in records:
        held.append(record)
        if len(held) > count:
            yield held.popleft()


def _piece(header: tuple[str, ...], records: list[_Record]) -> StreamedRecords:
    problems = Problems(len(records))
    for place, record in enumerate(records):
        if record.problem is not None:
            problems.add(place, *record.problem)
    columns = [
        pa.array([record.values[place] for record in records], pa.string()) for place in range(len(header))
    ]
    raw = [
        None
        if record.problem is None
        else json.dumps(dict(zip(header, record.values, strict=True)), ensure_ascii=False)
        for record in records
    ]
    return StreamedRecords(
        fields=pa.table(columns, schema=pa.schema([pa.field(name, pa.string()) for name in header])),
        lines=pa.array([record.row for record in records], pa.int64()),
        raw=pa.array(raw, pa.string()),
        problems=problems,
    )
