"""The cells of a sheet, and their values as exact text.

Belongs here: from the XML of a sheet to rows of cells, from a cell to its text.
Does not: which cells are a table (`xlsx_stream.py`), what all sheets share (`workbook.py`).

A number is text in a workbook: the digits that were written there. They are taken as they are, without an exponent
and without zeros at the end, which say nothing about a double. Nothing is rounded.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Final

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.workbooks.workbook import DateFormat, Workbook, plain_text

COLUMNS_MAX: Final = 16_384
ROWS_MAX: Final = 1_048_576

_DAY_MS: Final = 86_400_000
_ERRORS: Final = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A", "#SPILL!", "#CALC!")
_LAST_DAY: Final = 2_958_465
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,4})?")
_DECIMALS: Final = Context(prec=60)
_EXACT_MAX: Final = 10**15
"""Beyond it, a double holds no decimals to speak of."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as the sheet's XML has it.

    Attributes:
        column: from 1.
        kind: n (number), s (shared text), str, inlineStr, b, e (error) or d (ISO date).
        style: number of its style.
        value: None where there is none.
        is_formula: whether the value was calculated.
    """

    column: int
    kind: str
    style: int
    value: str | None
    is_formula: bool

    @property
    def is_uncalculated(self) -> bool:
        """Whether it is a formula whose value the workbook does not hold. A text may well be empty."""
        return self.is_formula and (self.value is None or (self.value == "" and self.kind != "str"))


class NoValueError(Exception):
    """A cell holds something that is no value; the message goes on after "cell A1 "."""


class SheetRows:
    """An `XmlHandler` that collects the rows of a sheet that hold any value."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.rows: list[tuple[int, list[Cell]]] = []
        self._row = 0
        self._column = 0
        self._cells: list[Cell] = []
        self._kind = "n"
        self._style = 0
        self._parts: list[str] | None = None
        self._value: str | None = None
        self._is_formula = False
        self._inside = False
        self._pronounced = False
        self._columns: dict[str, int] = {}

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        """See `XmlHandler`."""
        if not self._inside:
            self._inside = name == "sheetData"
        elif name == "c":
            self._begin_cell(attributes)
        elif name == "v" or (name == "t" and not self._pronounced):
            self._parts = [] if self._value is None else [self._value]
        elif name == "f":
            self._is_formula = True
        elif name == "row":
            self._begin_row(attributes)
        elif name == "rPh":
            self._pronounced = True

    def text(self, text: str) -> None:
        """See `XmlHandler`."""
        if self._parts is not None:
            self._parts.append(text)

    def end(self, name: str) -> None:
        """See `XmlHandler`."""
        if self._parts is not None:
            self._value, self._parts = "".join(self._parts), None
        elif name == "c":
            if self._value is not None or self._is_formula:
                self._cells.append(Cell(self._column, self._kind, self._style, self._value, self._is_formula))
        elif name == "row":
            if self._inside and self._cells:
                self.rows.append((self._row, self._cells))
        elif name == "rPh":
            self._pronounced = False
        elif name == "sheetData":
            self._inside = False

    def _begin_row(self, attributes: dict[str, str]) -> None:
        number = attributes.get("r")
        row = self._row + 1 if number is None else _count(number)
        if not self._row < row <= ROWS_MAX:
            raise SourceFileError(
                f"{self._place}: row {(number or str(row))[:20]!r} comes after row {self._row}: is it damaged?"
            )
        self._row, self._column, self._cells = row, 0, []

    def _begin_cell(self, attributes: dict[str, str]) -> None:
        reference = attributes.get("r")
        column = self._column + 1 if reference is None else self._column_of(reference)
        if not self._column < column <= COLUMNS_MAX:
            raise SourceFileError(
                f"{self._place}: cell {(reference or str(column))[:20]!r} of row {self._row} is out of order:"
                " is it damaged?"
            )
        self._column = column
        self._kind = attributes.get("t", "n")
        self._style = _count(attributes.get("s", "0"))
        self._value, self._is_formula = None, False

    def _column_of(self, reference: str) -> int:
        letters = reference.rstrip("0123456789")
        column = self._columns.get(letters)
        if column is None:
            column = column_number(letters)
            self._columns[letters] = column
        return column


def _count(text: str) -> int:
    """A number as XML has it; 0 for what is none, and a large one for what is beyond all limits."""
    return 0 if not text.isdecimal() else int(text) if len(text) < 10 else 10**9


def column_number(letters: str) -> int:
    """A is 1; 0 for what is no column."""
    if not letters.isascii() or not letters.isalpha() or len(letters) > 3:
        return 0
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number


def column_letters(number: int) -> str:
    """1 is A."""
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def text_of(cell: Cell, book: Workbook, decimals: int | None) -> str:
    """The value of a cell as text.

    Args:
        cell: with or without a value.
        book: where its text and format are.
        decimals: how many decimals a number stands for; None for those that it has.

    Raises:
        NoValueError: it is an error, a formula that was not calculated, or a date that is none.
    """
    if cell.is_uncalculated:
        raise NoValueError(
            "holds a formula that was never calculated: open the workbook, save it, and take that"
        )
    value = cell.value
    if value is None:
        return ""
    match cell.kind:
        case "s":
            place = _count(value)
            if not value.isdecimal() or place >= len(book.texts):
                raise NoValueError(f"refers to text {value[:20]!r} of {len(book.texts)}")
            return book.texts[place]
        case "n":
            return _text_of_number(value, book, book.date_formats.get(cell.style), decimals)
        case "e":
            raise NoValueError(f"holds the error {value if value in _ERRORS else repr(value[:20])}")
        case "b":
            return {"1": "true", "0": "false"}.get(value, value)
        case "str" | "inlineStr":
            return plain_text(value)
        case _:
            return value


def _text_of_number(value: str, book: Workbook, shown: DateFormat | None, decimals: int | None) -> str:
    value = value.strip()
    if not value:
        return ""
    if not _NUMBER.fullmatch(value):
        raise NoValueError(f"holds {value[:40]!r}, which is no number")
    if shown is not None:
        return _text_of_time(value, shown, is_1904=book.is_1904)
    return plain_number(value) if decimals is None else _with_decimals(value, decimals)


def plain_number(value: str) -> str:
    """Without exponent, and without zeros behind the last decimal."""
    if "e" in value or "E" in value:
        value = format(Decimal(value), "f")
    if "." in value:
        value = value.rstrip("0").rstrip(".")
    value = value.removeprefix("+")
    return "0" if value == "-0" else value


def _with_decimals(value: str, decimals: int) -> str:
    """With all its decimals, when the number is the double next to such a decimal; else with all its digits."""
    number = Decimal(value)
    if abs(number) >= _EXACT_MAX:
        return plain_number(value)
    try:
        stated = number.quantize(Decimal(1).scaleb(-decimals), context=_DECIMALS)
    except InvalidOperation:
        return plain_number(value)
    if float(stated) != float(value):
        return plain_number(value)
    return format(stated if stated else abs(stated), "f")  # no minus before zero


def _text_of_time(value: str, shown: DateFormat, *, is_1904: bool) -> str:
    """ISO 8601, to the millisecond, which is what Excel's own times hold."""
    number = Decimal(value)
    if not 0 <= number <= _LAST_DAY:
        raise NoValueError(f"is shown as a date, and {plain_number(value)[:40]} is none")
    total_ms = int((number * _DAY_MS).to_integral_value())
    if shown.elapsed:
        return _clock(total_ms)
    day, ms = divmod(total_ms, _DAY_MS)
    if not shown.date and day == 0:
        return _clock(ms)
    if not is_1904 and day in (0, 60):  # 1900-01-00 and 1900-02-29, which there never were
        raise NoValueError(f"is shown as a date, and {plain_number(value)[:40]} is none")
    # In the system of 1900, a leap day too many is counted.
    begin = date(1904, 1, 1) if is_1904 else date(1899, 12, 31) if day < 60 else date(1899, 12, 30)
    try:
        text = (begin + timedelta(days=day)).isoformat()
    except OverflowError:
        raise NoValueError(f"is shown as a date, and {plain_number(value)[:40]} is none") from None
    return f"{text}T{_clock(ms)}" if shown.time or ms else text


def _clock(total_ms: int) -> str:
    seconds, ms = divmod(total_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}" + (f".{ms:03}" if ms else "")
