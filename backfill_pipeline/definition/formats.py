"""How a source is written: the sections of a definition that only a reader looks at.

Belongs here: names, types, ranges and defaults of these keys.
Does not: what columns mean (`fields.py`), reading (`sources/`).
"""

from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, model_validator

from backfill_pipeline.definition.base import Character, Model, Name, between, problem
from backfill_pipeline.definition.encodings import check_encoding

_SHEET_ROWS_MAX: Final = 1_048_576
_SHEET_COLUMNS_MAX: Final = 16_384


def _column_number(value: object) -> object:
    """A spreadsheet's letters as a number: C is 3."""
    if not isinstance(value, str) or not value.isalpha() or not value.isascii() or len(value) > 3:
        return value
    number = 0
    for letter in value.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number


class CsvDialect(Model):
    """How a delimited file is written. A quote inside a quoted field is doubled, as in RFC 4180, or stands behind the
    escape character.
    """

    delimiter: Character = ","
    quote: Character | None = '"'
    escape: Character | None = None
    encoding: str = "utf-8"
    header: bool = True
    columns: tuple[Name, ...] | None = None
    comment: Character | None = None
    skip_lines: Annotated[int, between(0, 1000)] = 0
    skip_footer_lines: Annotated[int, between(0, 1000)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delimiter == self.quote:
            raise problem("must differ from delimiter", "quote", self.quote)
        if self.comment is not None and self.comment in (self.delimiter, self.quote):
            raise problem("must differ from delimiter and quote", "comment", self.comment)
        if self.escape is not None and self.escape in (self.delimiter, self.quote, self.comment):
            raise problem("must differ from delimiter, quote and comment", "escape", self.escape)
        if self.header and self.columns is not None:
            raise problem(
                'is only for files without a header line: remove it, or set "header: false"', "columns"
            )
        if not self.header and not self.columns:
            raise problem('is needed with "header: false": the names of the columns in file order', "columns")
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise problem("names a column twice", "columns", ", ".join(self.columns))
        if reason := check_encoding(self.encoding, self.delimiter, (self.quote or "") + (self.escape or "")):
            raise problem(reason, "encoding", self.encoding)
        return self


class ParquetFormat(Model):
    """What a Parquet file does not say itself: how many decimals the floats of a column stand for."""

    float_decimals: dict[Name, Annotated[int, between(0, 18)]] = Field(default_factory=dict)


class XlsxFormat(Model):
    """Where the table is in a workbook, and what its numbers stand for. Rows and columns are counted from 1."""

    sheet: Name | None = None
    header_row: Annotated[int, between(1, _SHEET_ROWS_MAX)] | None = None
    columns: tuple[Name, ...] | None = None
    first_row: Annotated[int, between(1, _SHEET_ROWS_MAX)] | None = None
    first_column: Annotated[int, BeforeValidator(_column_number), between(1, _SHEET_COLUMNS_MAX)] = 1
    skip_footer_rows: Annotated[int, between(0, 1000)] = 0
    float_decimals: dict[Name, Annotated[int, between(0, 18)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.columns is not None:
            if not self.columns:
                raise problem("must name the columns from left to right", "columns")
            if self.header_row is not None:
                raise problem("is given beside header_row: remove one of them", "columns")
            if len(set(self.columns)) != len(self.columns):
                raise problem("names a column twice", "columns", ", ".join(self.columns))
        elif self.first_row is not None and self.first_row <= self.named_in():
            raise problem("must lie below header_row", "first_row", str(self.first_row))
        return self

    def named_in(self) -> int:
        """The row that names the columns; 0 when the definition does."""
        return 0 if self.columns is not None else self.header_row or 1

    def begins_in(self) -> int:
        """The first row that may hold a record."""
        return self.first_row or self.named_in() + 1


class FixedColumn(Model):
    """A column of a fixed-width file: from and to (characters, counted from 1, both included), or its width."""

    name: Name
    from_: Annotated[int, between(1, 100_000)] | None = Field(default=None, alias="from")
    to: Annotated[int, between(1, 100_000)] | None = None
    width: Annotated[int, between(1, 100_000)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.to is None) == (self.width is None):
            raise problem("needs either to or width", value=self.name)
        if self.to is not None and self.from_ is None:
            raise problem("is needed with to", "from")
        if self.to is not None and self.from_ is not None and self.to < self.from_:
            raise problem("must not be less than from", "to", str(self.to))
        return self


class FixedFormat(Model):
    """How a fixed-width file is written."""

    columns: Annotated[tuple[FixedColumn, ...], Field(min_length=1)]
    encoding: str = "utf-8"
    skip_lines: Annotated[int, between(0, 1000)] = 0
    skip_footer_lines: Annotated[int, between(0, 1000)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.places()) != len(self.columns):
            raise problem("names a column twice", "columns", ", ".join(one.name for one in self.columns))
        if reason := check_encoding(self.encoding, "\n", None):
            raise problem(reason, "encoding", self.encoding)
        return self

    def places(self) -> dict[str, tuple[int, int]]:
        """Column → the characters [first, stop) that it takes, counted from 0. Without from, it begins where the column
        before ends.
        """
        found: dict[str, tuple[int, int]] = {}
        stop = 0
        for column in self.columns:
            first = stop if column.from_ is None else column.from_ - 1
            stop = first + column.width if column.width is not None else column.to or 0
            found[column.name] = (first, stop)
        return found
