"""The section `database` of a source definition: which rows of which database are the source.

Belongs here: the model of the section, and which of its keys contradict each other.
Does not: connecting to databases or reading them (`sources/database_*.py`).
"""

import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from backfill_pipeline.definition.base import Model, Name, between, problem

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variable_name(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        # Not shown: whoever mistakes the key writes a URL with a password here.
        raise problem("must be the name of an environment variable that holds the URL, not the URL itself")
    return text


def _one_or_more(value: object) -> object:
    """One column is short for a list of it."""
    return (value,) if isinstance(value, str) else value


class DatabaseSection(Model):
    """Where the rows are, and the key in whose order they are read.

    Where the database is, how long it may take and where rows are mapped is no part of what they become: these keys are
    left out of the mapping's hash.
    """

    url_env: Annotated[str, AfterValidator(_variable_name)] | None = Field(default=None, exclude=True)
    sqlite: Path | None = Field(default=None, exclude=True)
    table: Name | None = None
    query: Name | None = None
    key: Annotated[tuple[Name, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    columns: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    where: Name | None = None
    float_decimals: dict[Name, Annotated[int, between(0, 18)]] = Field(default_factory=dict)
    in_database: bool = Field(default=False, exclude=True)
    connect_timeout_s: Annotated[int, between(1, 600)] = Field(default=10, exclude=True)
    statement_timeout_s: Annotated[int, between(1, 86_400)] = Field(default=600, exclude=True)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.url_env is None) == (self.sqlite is None):
            raise problem("needs one of url_env, the name of an environment variable, and sqlite, a file")
        if (self.table is None) == (self.query is None):
            raise problem("needs one of table and query")
        for key in ("columns", "where"):
            if self.query is not None and getattr(self, key) is not None:
                raise problem("is only for a table: say it in the query", key)
        if self.in_database and (self.url_env is None or self.table is None or self.columns is not None):
            raise problem(
                "is only for a whole table (table, without columns) of a server (url_env)", "in_database"
            )
        for key, names in (("key", self.key), ("columns", self.columns or ())):
            if repeated := next((one for one in names if names.count(one) > 1), None):
                raise problem("names a column twice", key, repeated)
        if self.table is not None and "" in self.table_path():
            raise problem("must be table, or schema.table", "table", self.table)
        return self

    def table_path(self) -> tuple[str | None, str]:
        """Schema, if there is one, and table."""
        schema, dot, name = (self.table or "").partition(".")
        return (schema, name) if dot else (None, schema)

    @property
    def rows_of(self) -> str:
        """What is read, for people: the table, or "a query"."""
        return "a query" if self.table is None else f"table {self.table}"

    @property
    def place(self) -> str:
        """Where it is, as far as the definition says."""
        return f"{self.rows_of} of the database {self.sqlite or self.url_env}"
