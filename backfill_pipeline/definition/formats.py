"""How a source is written: the sections of a definition that only a reader looks at.

Belongs here: names, types, ranges and defaults of these keys.
Does not: what columns mean (`fields.py`), reading (`sources/`).
"""

from typing import Self

from pydantic import model_validator

from backfill_pipeline.definition.base import Character, Model, Name, problem
from backfill_pipeline.definition.encodings import check_encoding


class CsvDialect(Model):
    """How a delimited file is written. A quote inside a quoted field is doubled, as in RFC 4180."""

    delimiter: Character = ","
    quote: Character | None = '"'
    encoding: str = "utf-8"
    header: bool = True
    columns: tuple[Name, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delimiter == self.quote:
            raise problem("must differ from delimiter", "quote", self.quote)
        if self.header and self.columns is not None:
            raise problem(
                'is only for files without a header line: remove it, or set "header: false"', "columns"
            )
        if not self.header and not self.columns:
            raise problem('is needed with "header: false": the names of the columns in file order', "columns")
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise problem("names a column twice", "columns", ", ".join(self.columns))
        if reason := check_encoding(self.encoding, self.delimiter, self.quote):
            raise problem(reason, "encoding", self.encoding)
        return self
