"""The columns of a table or a query: how each is asked for, so that its values come as exact text.

Belongs here: which columns there are, what each dialect calls their types, and what a key's value is compared as.
Does not: what the values become (`text.py`), reading rows (`stream.py`).

PostgreSQL writes every type as text itself, exactly, under the session's settings. So does MySQL, whose driver is told
to leave values alone. SQLite has types per value, so its values come as Python has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

import pymysql.constants.FIELD_TYPE as FIELD
import pymysql.constants.FLAG as FLAG
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.sources.database.connect import Backend

Kind = Literal["text", "time", "time_utc", "float", "float32", "dynamic"]
"""What a value that arrives stands for. `dynamic`: whatever type each value has."""

_Expression = sa.ColumnElement[Any]
_ALIAS: Final = "source_rows"
"""Qualified by it, a column is never taken for a label of the statement."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of what is read.

    Attributes:
        name: as the database has it.
        expression: what is selected for its value.
        kind: how the value is to be taken.
        type_name: for messages.
        is_single: whether it has single values; those that have not (arrays, rows, shapes) are not read.
        key_expression: what is selected for its value as a key; None when it cannot be one.
        key_value: from what arrives for a key to what it is compared with.
    """

    name: str
    expression: _Expression
    kind: Kind
    type_name: str
    is_single: bool
    key_expression: _Expression | None
    key_value: Callable[[Any], object]


def selectable(section: DatabaseSection, names: Sequence[str] = ()) -> sa.FromClause:
    """What is read, under an alias, with its columns as far as they are known."""
    columns = [_untyped(name) for name in names]
    if section.query is None:
        schema, name = section.table_path()
        return sa.table(name, *columns, schema=schema).alias(_ALIAS)
    # A colon is no parameter of ours. On a line of its own, the bracket behind it is not part of a comment.
    text = section.query.strip().removesuffix(";").replace(":", "\\:")
    return sa.text(f"{text}\n").columns(*columns).subquery(_ALIAS)


def columns_of(
    connection: Connection, backend: Backend, section: DatabaseSection
) -> tuple[sa.FromClause, list[Column]]:
    """What is read, and all of its columns in its order."""
    wanted: sa.Select[Any] = sa.select(sa.literal_column("*")).select_from(selectable(section)).limit(0)
    with connection.execute(wanted) as result:
        cursor: Any = result.cursor
        names = [str(one[0]) for one in cursor.description]
        types = [one[1] for one in cursor.description]
        fields = cursor._result.fields if backend == "mysql" else []
    rows = selectable(section, names)
    if backend == "sqlite":
        return rows, [_of_sqlite(rows.c[name]) for name in names]
    if backend == "mysql":
        return rows, [
            _of_mysql(rows.c[name], one.type_code, one.flags, one.charsetnr)
            for name, one in zip(names, fields, strict=True)
        ]
    known = _types_of_postgresql(connection, sorted(set(types)))
    return rows, [_of_postgresql(rows.c[name], *known[oid]) for name, oid in zip(names, types, strict=True)]


def _untyped(name: str) -> sa.ColumnClause[Any]:
    """A column by name, whose values come as the driver gives them."""
    return sa.column(name)


def _name(column: _Expression) -> str:
    return str(column.name)


def _as_it_is(value: object) -> object:
    return value


# --- PostgreSQL -------------------------------------------------------------------------------------------------

# Categories of pg_type: arrays, composites, geometric types, pseudo-types, ranges.
_NOT_SINGLE: Final = frozenset("ACGPR")


def _types_of_postgresql(connection: Connection, oids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Type → name and category."""
    catalogue = sa.table("pg_type", *map(sa.column, ("oid", "typname", "typcategory")), schema="pg_catalog")
    wanted = sa.select(catalogue).where(catalogue.c.oid.in_(oids))
    return {oid: (str(name), str(category)) for oid, name, category in connection.execute(wanted)}


def _of_postgresql(column: _Expression, type_name: str, category: str) -> Column:
    kind: Kind = "text"
    expression: _Expression = sa.cast(column, sa.Text)
    if type_name in ("float4", "float8"):
        # The driver reads the shortest text that gives the same float again.
        kind, expression = "float", column
    elif type_name == "money":
        expression = sa.cast(sa.cast(column, sa.Numeric), sa.Text)
    elif type_name == "bytea":
        expression = sa.func.encode(column, "hex")
    elif type_name in ("timestamp", "timestamptz"):
        kind = "time" if type_name == "timestamp" else "time_utc"
    is_single = category not in _NOT_SINGLE
    # As text without a type, which the server takes for one of the column's type: compared as the column is ordered.
    key = sa.cast(column, sa.Text) if is_single and kind != "float" else None
    return Column(_name(column), expression, kind, type_name, is_single, key, _as_it_is)


# --- MySQL and MariaDB ------------------------------------------------------------------------------------------

_MYSQL_INTEGERS: Final = frozenset(
    {FIELD.TINY, FIELD.SHORT, FIELD.LONG, FIELD.LONGLONG, FIELD.INT24, FIELD.YEAR}
)
_MYSQL_DECIMALS: Final = frozenset({FIELD.DECIMAL, FIELD.NEWDECIMAL})
_MYSQL_TEXTS: Final = frozenset(
    {
        FIELD.VARCHAR, FIELD.VAR_STRING, FIELD.STRING,
        FIELD.BLOB, FIELD.TINY_BLOB, FIELD.MEDIUM_BLOB, FIELD.LONG_BLOB,
    }
)  # fmt: skip
_MYSQL_KEYS: Final = _MYSQL_TEXTS | {FIELD.DATE, FIELD.NEWDATE, FIELD.DATETIME, FIELD.TIMESTAMP}
_MYSQL_BINARY: Final = 63
"""The character set of bytes."""

_MYSQL_NAMES: Final[Mapping[int, str]] = {
    value: name.lower() for name, value in vars(FIELD).items() if isinstance(value, int)
}


def _of_mysql(column: _Expression, code: int, flags: int, charset: int) -> Column:
    kind: Kind = "text"
    expression: _Expression = column
    if code == FIELD.BIT:
        expression = column + sa.literal_column("0")
    elif code == FIELD.FLOAT:
        # The server writes six digits of a FLOAT, whatever it holds; of a DOUBLE it writes all.
        kind, expression = "float32", sa.cast(column, sa.Double)
    elif code == FIELD.DOUBLE:
        kind = "float"
    elif code in (FIELD.DATETIME, FIELD.TIMESTAMP):
        kind = "time" if code == FIELD.DATETIME else "time_utc"
    is_choice = bool(flags & (FLAG.ENUM | FLAG.SET))
    if charset == _MYSQL_BINARY and code in _MYSQL_TEXTS:
        expression = sa.func.lower(sa.func.hex(column))
    type_name = "enum" if is_choice else _MYSQL_NAMES.get(code, "unknown")
    key, value = (None, _as_it_is) if is_choice else _mysql_key(column, code)
    return Column(_name(column), expression, kind, type_name, code != FIELD.GEOMETRY, key, value)


def _mysql_key(column: _Expression, code: int) -> tuple[_Expression | None, Callable[[Any], object]]:
    """Numbers are compared as numbers: a number and a text meet as floats there.

    No keys are floats and bits; and ENUM and SET, which are ordered by number and compared as text.
    """
    if code in _MYSQL_INTEGERS:
        return column, int
    if code in _MYSQL_DECIMALS:
        return column, Decimal
    return (column if code in _MYSQL_KEYS else None), _as_it_is


# --- SQLite -----------------------------------------------------------------------------------------------------


def _of_sqlite(column: _Expression) -> Column:
    return Column(_name(column), column, "dynamic", "of any type", True, column, _as_it_is)
