"""Statements about a table that is posted where it lies.

Belongs here: how the table, its key and the text of its rows are named, hashing rows inside the database.
Does not: what the hashes are for (`in_place.py`).
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.engine import Connection

from backfill_pipeline.sources.database.stream import Plan

ALIAS: Final = "source_rows"
"""What statements of ours call the table."""

HASHED_ROWS: Final = 100_000
"""Rows that are hashed together: the hash of all does not depend on how they are cut into chunks."""

# Behind OFFSET 0 the text of a row is made once, for its hash and its length; that of a key only where a chunk ends.
SURVEY: Final = sql.SQL("""
    WITH numbered AS (
        SELECT row_number() OVER (ORDER BY {key}) AS __backfill_n, octet_length(__backfill_text) AS __backfill_bytes,
               sha256(convert_to(__backfill_text, 'UTF8')) AS __backfill_digest, {key}
        FROM (SELECT {key}, {row_text} AS __backfill_text FROM {rows} ORDER BY {key} OFFSET 0) AS {alias}
    )
    SELECT (__backfill_n - 1) / %(chunk)s AS chunk, (__backfill_n - 1) / %(part)s AS part, count(*),
           sum(__backfill_bytes)::bigint,
           encode(sha256(string_agg(__backfill_digest, '' ORDER BY __backfill_n)), 'hex'),
           ARRAY[{last_key}], count(*) FILTER (WHERE num_nulls({key}) > 0)
    FROM numbered AS {alias}
    GROUP BY {sets}
    ORDER BY 1 NULLS LAST, 2
""")
_LAST_KEY: Final = sql.SQL("(array_agg({}::text) FILTER (WHERE __backfill_n %% %(chunk)s = 0))[1]")
DIGEST: Final = sql.SQL("""
    SELECT count(*), encode(sha256(string_agg(__backfill_digest, '' ORDER BY {key})), 'hex')
    FROM (SELECT {key}, sha256(convert_to({row_text}, 'UTF8')) AS __backfill_digest
          FROM {rows} {behind} ORDER BY {key} LIMIT %(count)s) AS {alias}
""")
IDENTITY: Final = (
    "SELECT (SELECT system_identifier FROM pg_control_system())::text, current_database()::text,"
    " to_regclass(%s)::oid::bigint, current_setting('server_encoding')"
)


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table as statements name it.

    Attributes:
        rows: for FROM, under ALIAS, with its condition.
        row_text: one text of a row, from which it is hashed.
        key: columns in whose order rows are numbered.
        types: column → the name of its type.
        identity: of the server, the database and the table, and the server's encoding.
    """

    rows: sql.Composable
    row_text: sql.Composable
    key: tuple[sql.Composable, ...]
    types: dict[str, str]
    identity: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Hashed:
    """What the database says of the rows: per chunk count, hash and last key; the hashes of all in fixed parts."""

    chunks: list[tuple[int, str, tuple[str, ...] | None]]
    parts: list[str]
    row_count: int
    size_bytes: int
    nulls: int


def key_column(name: str) -> sql.Composable:
    """A column of the table."""
    return sql.Identifier(ALIAS, name)


def behind_key(key: Sequence[sql.Composable], after: Sequence[str] | None) -> sql.Composable:
    """The condition that begins behind a key, to be added to `rows`; its values are bound as after0, after1, …"""
    if after is None:
        return sql.SQL("")
    bounds = sql.SQL(", ").join(sql.Placeholder(f"after{number}") for number in range(len(after)))
    return sql.SQL("AND ({}) > ({})").format(sql.SQL(", ").join(key), bounds)


def bound(after: Sequence[str] | None) -> dict[str, str]:
    """The values of `behind_key`."""
    return {f"after{number}": value for number, value in enumerate(after or ())}


def names_of(plan: Plan) -> dict[str, sql.Composable]:
    """What statements are formatted with: alias, rows, row_text, key, key_texts."""
    schema, name = plan.section.table_path()
    table = sql.Identifier(schema, name) if schema else sql.Identifier(name)
    condition: sql.Composable = sql.SQL("true")
    if plan.section.where is not None:
        # On lines of its own: the bracket behind it is not part of a comment. A percent sign is no parameter.
        text = plan.section.where.replace("%", "%%")
        condition = sql.SQL(f"({text}\n)")
    key = [key_column(one.name) for one in plan.key]
    return {
        "alias": sql.Identifier(ALIAS),
        "rows": sql.SQL("{} AS {} WHERE {}").format(table, sql.Identifier(ALIAS), condition),
        # Of the row as a whole, which the database writes in a third of the time that its columns take one by one.
        "row_text": sql.SQL("{}::text").format(sql.Identifier(ALIAS)),
        "key": sql.SQL(", ").join(key),
        "key_texts": sql.SQL(", ").join(sql.SQL("{}::text").format(one) for one in key),
    }


def execute(connection: Connection, statement: sql.SQL | sql.Composed, values: Any) -> list[tuple[Any, ...]]:
    """With values, so that it is one statement, whatever a definition's text holds."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver.execute(statement, values).fetchall()


def fetched(connection: Connection, statement: sa.Select[Any]) -> list[tuple[Any, ...]]:
    """Tuples of the driver, which are half the price of SQLAlchemy's rows."""
    with closing(connection.execute(statement)) as result:
        cursor: Any = result.cursor
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def hashed(connection: Connection, plan: Plan, chunk_rows: int) -> Hashed:
    """Has the database hash all rows, by chunks of so many."""
    same = chunk_rows == HASHED_ROWS
    sets = sql.SQL("1, 2" if same else "GROUPING SETS ((1), (2))")
    last_key = sql.SQL(", ").join(_LAST_KEY.format(key_column(one.name)) for one in plan.key)
    rows = execute(
        connection,
        SURVEY.format(sets=sets, last_key=last_key, **names_of(plan)),
        {"chunk": chunk_rows, "part": HASHED_ROWS},
    )
    chunks = [row for row in rows if row[0] is not None]
    return Hashed(
        chunks=[(row[2], row[4], None if row[5][0] is None else tuple(row[5])) for row in chunks],
        parts=[row[4] for row in rows if same or row[0] is None],
        row_count=sum(row[2] for row in chunks),
        size_bytes=sum(row[3] for row in chunks),
        nulls=sum(row[6] for row in chunks),
    )
