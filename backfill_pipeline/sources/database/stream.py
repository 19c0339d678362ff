"""The rows of a database, from the first to the last, as one snapshot has them.

Belongs here: the pages in which rows are read, and the proof that they are all rows, each once.
Does not: connections (`connect.py`), columns (`columns.py`), values (`text.py`).

A page begins behind the last key of the one before it, which an index finds however many rows there are. That loses
rows when two share a key, or when a key is null. So nothing is taken from the definition's word: rows are counted in
the same snapshot, and unless the table's own constraints say that its key is unique, repeated keys are looked for.
Keys are compared and ordered by the database alone: what is equal or greater is a matter of its collations.
"""

import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.errors import SettingsError, SourceFileError
from backfill_pipeline.schemas.extracted import RESERVED_NAMES
from backfill_pipeline.sources.database.columns import Column, columns_of
from backfill_pipeline.sources.database.connect import Backend, Target, find_target, lenient_text, snapshot
from backfill_pipeline.sources.database.text import FloatFoundError, Wanted, raw_of_row, text_of_column
from backfill_pipeline.sources.malformed import Problems
from backfill_pipeline.sources.record_stream import StreamedRecords
from backfill_pipeline.wording import counted

PAGE_ROWS_FIRST: Final = 1_000
PAGE_ROWS_MAX: Final = 20_000
PAGE_ROWS_MIN: Final = 50
PAGE_BYTES: Final = 32 << 20
"""Text of a page: rows that are wider than most come in smaller pages."""

_KEY_CHARACTERS_SHOWN: Final = 80

_Row = Sequence[Any]


class DatabaseStream:
    """The `RecordStream` of a table or a query."""

    def __init__(self, section: DatabaseSection, columns_read: Mapping[str, str]) -> None:
        """
        Args:
            section: what the definition says.
            columns_read: column → the key of the definition that reads it.
        """
        self._section = section
        self._columns_read = columns_read

    @property
    def place(self) -> str:
        """See `RecordStream.place`."""
        try:
            return find_target(self._section).place
        except SettingsError:  # without a URL that can be read
            return self._section.place

    @property
    def name(self) -> str:
        """See `RecordStream.name`."""
        return self._section.table or "query"

    def fingerprint(self) -> None:
        """None: what a database holds is known when it was read. That of a SQLite file would tell of other tables."""
        return

    def records(self) -> Iterator[StreamedRecords]:
        """See `RecordStream.records`. One snapshot, from the first page to the last count."""
        target = find_target(self._section)
        with snapshot(target, self._section) as connection:
            plan = make_plan(connection, target, self._section, self._columns_read)
            read = 0
            for records in _pages(connection, plan):
                read += records.fields.num_rows
                yield records
            check_whole(connection, plan, read)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a table or query is read.

    Attributes:
        place: for messages.
        backend: kind of database.
        section: of the definition.
        rows: what is read, with all of its columns.
        columns: those that are read, in order.
        wanted: what their values become, likewise.
        key: those in whose order it is read; selected once more behind the others.
        key_of: column → the key of the definition that reads it.
    """

    place: str
    backend: Backend
    section: DatabaseSection
    rows: sa.FromClause
    columns: tuple[Column, ...]
    wanted: tuple[Wanted, ...]
    key: tuple[Column, ...]
    key_of: Mapping[str, str]


def make_plan(
    connection: Connection, target: Target, section: DatabaseSection, columns_read: Mapping[str, str]
) -> Plan:
    """Looks at the columns of what is read.

    Raises:
        SourceFileError: a column is missing, has no single values, or cannot be a key.
    """
    rows, there = columns_of(connection, target.backend, section)
    names = [column.name for column in there]
    _check_names(names, target.place)
    by_name = dict(zip(names, there, strict=True))

    def named(wanted: Sequence[str], key: str) -> list[Column]:
        for name in wanted:
            if name not in by_name:
                raise SourceFileError(
                    f"{target.place}: has no column {name!r}, which database.{key} names: "
                    f"the columns are {', '.join(names)}."
                )
        return [by_name[name] for name in wanted]

    key = named(section.key, "key")
    for column in key:
        if column.key_expression is None:
            raise SourceFileError(
                f"{target.place}: column {column.name!r} is {column.type_name}, which cannot be the key: name columns "
                "that are integers, decimals, texts or times in database.key."
            )
    named(tuple(section.float_decimals), "float_decimals")
    chosen = there if section.columns is None else named(section.columns, "columns")
    for column in chosen:
        if not column.is_single and column.name in columns_read:
            raise SourceFileError(
                f"{target.place}: column {column.name!r}, which {columns_read[column.name]} reads, is "
                f"{column.type_name}, not a single value: take it apart in a query."
            )
    columns = tuple(column for column in chosen if column.is_single)
    wanted = tuple(
        Wanted(
            column.name,
            column.kind,
            columns_read.get(column.name, "metadata") != "metadata",
            section.float_decimals.get(column.name),
        )
        for column in columns
    )
    return Plan(target.place, target.backend, section, rows, columns, wanted, tuple(key), columns_read)


def _check_names(names: Sequence[str], place: str) -> None:
    for name in names:
        if not name.strip() or name in RESERVED_NAMES or names.count(name) > 1:
            raise SourceFileError(
                f"{place}: has {'two columns' if names.count(name) > 1 else 'a column'} named {name!r}: "
                "give every column a name of its own in a query."
            )


# --- pages ------------------------------------------------------------------------------------------------------


def page_statement(plan: Plan, after: _Row | None, limit: int) -> sa.Select[Any]:
    """The rows behind a key, in its order.

    Args:
        plan: what is read.
        after: the key of the last row before; None to begin.
        limit: rows at most. Bound, as all values are; a statement with a bound value is never several statements.
    """
    values = [column.expression.label(f"v{number}") for number, column in enumerate(plan.columns)]
    keys = [_key_expression(column).label(f"k{number}") for number, column in enumerate(plan.key)]
    statement = _filtered(sa.select(*values, *keys), plan)
    order = [plan.rows.c[column.name] for column in plan.key]
    if after is not None:
        # Without a type: the database takes it for what it is compared with.
        bounds: list[sa.BindParameter[Any]] = [
            sa.bindparam(f"after{number}", value, type_=sa.types.NullType())
            for number, value in enumerate(after)
        ]
        statement = statement.where(_behind(plan.backend, order, bounds))
    return statement.order_by(*order).limit(limit)


def _filtered(statement: sa.Select[Any], plan: Plan) -> sa.Select[Any]:
    statement = statement.select_from(plan.rows)
    if plan.section.where is not None:
        statement = statement.where(sa.literal_column(f"({plan.section.where}\n)"))
    return statement


def _behind(
    backend: Backend, order: Sequence[sa.ColumnElement[Any]], bounds: Sequence[sa.BindParameter[Any]]
) -> sa.ColumnElement[bool]:
    """Greater than a key, as an index can tell: rows are compared as such, but by MySQL column by column."""
    if len(order) == 1:
        return order[0] > bounds[0]
    if backend != "mysql":
        return sa.tuple_(*order) > sa.tuple_(*bounds)
    cases = []
    for size in range(len(order)):
        equal = [column == bound for column, bound in zip(order[:size], bounds, strict=False)]
        cases.append(sa.and_(*equal, order[size] > bounds[size]))
    return sa.or_(*cases)


def _key_expression(column: Column) -> sa.ColumnElement[Any]:
    assert column.key_expression is not None  # the plan has looked
    return column.key_expression


def _pages(connection: Connection, plan: Plan) -> Iterator[StreamedRecords]:
    after: _Row | None = None
    began: _Row | None = None
    limit, read = PAGE_ROWS_FIRST, 0
    while True:
        rows = _fetched(connection, plan, after, limit)
        if rows:
            if after is not None and rows[0][len(plan.columns) :] == began:
                raise SourceFileError(
                    f"{plan.place}: the rows behind a page begin as that page does, so reading would never end: check"
                    " the brackets of database.where."
                )
            began = rows[0][len(plan.columns) :]
        if rows or after is None:
            records, key = records_of(plan, rows, read, after)
            yield records
            read += len(rows)
        if len(rows) < limit:
            return
        after = key
        bytes_per_row = max(1, records.fields.nbytes // len(rows))
        limit = max(PAGE_ROWS_MIN, min(PAGE_ROWS_MAX, PAGE_BYTES // bytes_per_row))


def _fetched(connection: Connection, plan: Plan, after: _Row | None, limit: int) -> Sequence[_Row]:
    values = None if after is None else [c.key_value(v) for c, v in zip(plan.key, after, strict=True)]
    statement = page_statement(plan, values, limit)

    def fetch() -> Sequence[_Row]:
        # Tuples of the driver, which are half the price of SQLAlchemy's rows.
        with closing(connection.execute(statement)) as result:
            cursor: Any = result.cursor
            rows: Sequence[_Row] = cursor.fetchall()
            return rows

    try:
        return fetch()
    except sqlite3.OperationalError as error:
        if "decode to UTF-8" not in str(error):
            raise
    lenient_text(connection)
    return fetch()


def records_of(
    plan: Plan, rows: Sequence[_Row], read: int, after: _Row | None
) -> tuple[StreamedRecords, _Row | None]:
    """The rows of a page as records, and the key of the last one."""
    count, width = len(rows), len(plan.columns)
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * (width + len(plan.key))
    _check_keys(plan, columns[width:], read, after)
    problems = Problems(count)
    texts = []
    for wanted, values in zip(plan.wanted, columns, strict=False):
        try:
            texts.append(text_of_column(values, wanted, problems))
        except FloatFoundError as found:
            raise SourceFileError(
                f"{plan.place}: column {wanted.name!r}, which {plan.key_of[wanted.name]} reads, holds a float "
                f"(record {read + found.position + 1}), which is no exact number: say how many decimals it stands for "
                f"with database.float_decimals: {{{wanted.name}: 2}}."
            ) from None
    names = [wanted.name for wanted in plan.wanted]
    raw: list[str | None] = [None] * count
    for place in np.flatnonzero(~problems.none()).tolist():
        raw[place] = raw_of_row(names, rows[place][:width])
    records = StreamedRecords(
        fields=pa.table(texts, schema=pa.schema([pa.field(name, pa.string()) for name in names])),
        lines=pa.array(np.arange(read + 1, read + count + 1, dtype=np.int64)),
        raw=pa.array(raw, pa.string()),
        problems=problems,
    )
    return records, rows[-1][width:] if rows else None


# --- the proof --------------------------------------------------------------------------------------------------


def _check_keys(plan: Plan, keys: Sequence[Sequence[Any]], read: int, after: _Row | None) -> None:
    """Refuses nulls, and neighbours whose keys are the very same. What else is equal, `check_whole` finds."""
    for column, values in zip(plan.key, keys, strict=True):
        if None in values:
            raise SourceFileError(
                f"{plan.place}: the key is empty in record {read + list(values).index(None) + 1} (column "
                f"{column.name!r} is NULL), so rows could be lost: name columns in database.key that are never NULL."
            )
    if not keys or not keys[0]:
        return
    before = [[value] if after is not None else [] for value in after or [None] * len(keys)]
    same = np.ones(len(keys[0]) + (after is not None) - 1, dtype=bool)
    for first, values in zip(before, keys, strict=True):
        all_values = np.array([*first, *values, None], dtype=object)[:-1]
        same &= (all_values[1:] == all_values[:-1]).astype(np.bool_)
    if same.any():
        place = int(np.flatnonzero(same)[0]) + (after is None)
        raise _not_unique(plan, [values[place] for values in keys])


def check_whole(connection: Connection, plan: Plan, read: int) -> None:
    """Proves, in the snapshot that was read, that every row was read once.

    Raises:
        SourceFileError: the key is not unique, is null somewhere, or rows were lost for another reason.
    """
    keys = [plan.rows.c[column.name] for column in plan.key]
    # A limit that changes nothing: with a bound value, no text of a definition is ever several statements.
    all_rows = _filtered(sa.select(sa.func.count()), plan).limit(1)
    count = int(connection.execute(all_rows).scalar_one())
    if count != read or not _is_unique(connection, plan):
        shown = [_key_expression(column) for column in plan.key]
        repeated = _filtered(sa.select(*(sa.func.min(one) for one in shown), sa.func.count()), plan)
        repeated = repeated.group_by(*keys).having(sa.func.count() > 1).limit(1)
        if (found := connection.execute(repeated).first()) is not None:
            raise _not_unique(plan, found[:-1])
    if count != read:
        empty = _filtered(sa.select(sa.func.count()), plan)
        nulls = connection.execute(
            empty.where(sa.or_(*(key.is_(None) for key in keys))).limit(1)
        ).scalar_one()
        what = (
            f"the key is empty (NULL) in {counted(int(nulls), 'row')}: name columns in database.key that are never NULL"
            if int(nulls)
            else "the order of the key is not the one in which it is compared: rebuild its index (REINDEX), or name "
            "another key"
        )
        raise SourceFileError(
            f"{plan.place}: has {counted(count, 'row')}, of which {read:,} were read: {what}."
        )


def _is_unique(connection: Connection, plan: Plan) -> bool:
    """Whether the table itself promises that no two rows share the key."""
    if plan.section.query is not None:
        return False
    schema, table = plan.section.table_path()
    promised: list[list[str]] = []
    with (
        warnings.catch_warnings(),
        suppress(sa.exc.NoSuchTableError),
    ):  # a kind of view that has no constraints
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # of types that SQLAlchemy does not know
        inspector = sa.inspect(connection)
        promised += [inspector.get_pk_constraint(table, schema=schema).get("constrained_columns") or []]
        promised += [one["column_names"] for one in inspector.get_unique_constraints(table, schema=schema)]
    key = {column.name for column in plan.key}
    return any(columns and set(columns) <= key for columns in promised)


def _not_unique(plan: Plan, values: Sequence[object]) -> SourceFileError:
    names = ", ".join(column.name for column in plan.key)
    shown = ", ".join(repr(value if isinstance(value, str | int) else str(value)) for value in values)
    return SourceFileError(
        f"{plan.place}: the key {names} is not unique: {shown[:_KEY_CHARACTERS_SHOWN]} is there more than once (as the "
        "database compares it), so rows could be lost: name columns in database.key that tell all rows apart."
    )
