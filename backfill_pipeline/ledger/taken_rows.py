"""Taken rows: entries that are in the database already, mapped by it, and posted from there.

A partition of a table beside the ledger is taken into a temporary table in one statement: numbered, mapped, hashed. So
what is posted is what was hashed, whatever happens to the table meanwhile. Batches are slices of it.

Belongs here: taking rows, the proof that they are what was registered, and handing slices on to COPY's place.
Does not: what a batch's transaction does (`posting`), telling its rows apart (`staging`), compiling mappings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.csv as pacsv
from psycopg import sql

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.entries import COPY_COLUMNS, COPY_SQL, STAGING_COPY_SQL, copy_entries

IN_DATABASE_PATH: Final = "in_database"
"""How a batch was posted whose rows were taken."""

_ENTRIES_PER_ROW: Final = 10_000
_COLUMNS: Final = tuple(column for column in COPY_COLUMNS if column != "batch_id")
_TARGETS: Final = {COPY_SQL: "ledger_entries", STAGING_COPY_SQL: "backfill_staging"}

_CREATE: Final = """
DROP TABLE IF EXISTS pg_temp.backfill_taken;
CREATE TEMP TABLE backfill_taken (
    ledger_id text COLLATE "C", debit_account_id text COLLATE "C", credit_account_id text COLLATE "C",
    amount numeric, currency_code text COLLATE "C", asset_type text, transaction_type text,
    reference_id text COLLATE "C",
    timestamp_utc timestamptz, fx_rate numeric, metadata jsonb, batch_id bigint, source_row bigint,
    is_plain boolean, digest bytea
);
"""

_TAKE: Final = sql.SQL("INSERT INTO backfill_taken ({columns}, source_row, is_plain, digest) {rows}")

# The inner query is not flattened: every expression is computed once, in the order in which an index gives the rows.
_MAPPED: Final = sql.SQL("""
SELECT {columns}, %(first_row)s - 1 + place AS source_row,
       coalesce(is_plain AND {checks} AND c.code IS NOT NULL
                AND scale(trim_scale(amount)) <= coalesce(c.minor_units, 18), false) AS is_plain,
       digest
FROM (SELECT {values}, row_number() OVER (ORDER BY {key}) AS place, {plain} AS is_plain,
             sha256(convert_to({row_text}, 'UTF8')) AS digest
      FROM {rows} {behind} ORDER BY {key} LIMIT %(count)s) AS mapped
LEFT JOIN currencies c ON c.code = currency_code
""")

_PROVE: Final = """
SELECT count(*), encode(sha256(string_agg(digest, '' ORDER BY source_row)), 'hex'),
       count(*) FILTER (WHERE NOT is_plain)
FROM pg_temp.backfill_taken
"""

_REFERENCES: Final = """
INSERT INTO backfill_source_references (source_id, partition_id, source_rows, ledger_ids, reference_ids)
SELECT %(source)s, %(partition)s, array_agg(source_row ORDER BY source_row), array_agg(ledger_id ORDER BY source_row),
       array_agg(reference_id ORDER BY source_row)
FROM pg_temp.backfill_taken
GROUP BY (source_row - 1) / %(size)s
"""


@dataclass(frozen=True, slots=True)
class TakenFrom:
    """A table beside the ledger, and what its rows become.

    Attributes:
        rows: for FROM: the table, its alias and its condition.
        key: columns in whose order rows are numbered.
        row_text: one text of a row, from which it is hashed.
        columns: field of an entry → expression.
        plain: conditions on columns of the table under which the expressions count.
        checks: likewise on the fields, by their names.
    """

    rows: sql.Composable
    key: tuple[sql.Composable, ...]
    row_text: sql.Composable
    columns: Mapping[str, sql.Composable]
    plain: tuple[sql.Composable, ...]
    checks: tuple[sql.Composable, ...]


@dataclass(frozen=True, slots=True)
class TakenRows:
    """A batch: the taken rows from one to another, both included. Only for the connection that took them.

    Attributes:
        in_order: they lie in their order already.
    """

    first_row: int
    last_row: int
    num_rows: int
    in_order: bool


def prepare(connection: Connection) -> None:
    """Makes room for a partition's rows in memory; before anything temporary is made in the session."""
    connection.execute("SET temp_buffers = '64MB'; SET work_mem = '64MB'")


def identity(connection: Connection, table: str) -> tuple[object, ...]:
    """What tells this server, database and table from others, and the server's encoding."""
    row = connection.execute(
        "SELECT (SELECT system_identifier FROM pg_control_system())::text, current_database()::text,"
        " to_regclass(%s)::oid::bigint, current_setting('server_encoding')",
        [table],
    ).fetchone()
    assert row is not None
    return tuple(row)


def can_be_read(connection: Connection, table: str) -> bool:
    """Whether the ledger's user may select from the table."""
    row = connection.execute("SELECT has_table_privilege(to_regclass(%s), 'SELECT')", [table]).fetchone()
    return bool(row and row[0])


def take(
    connection: Connection,
    source: TakenFrom,
    *,
    behind: sql.Composable,
    bounds: Mapping[str, object],
    first_row: int,
    count: int,
    in_slices: bool,
) -> tuple[int, str | None, int]:
    """Takes a partition, in the caller's transaction; the rows stay for the session.

    Args:
        connection: to the ledger.
        source: where from, and what they become.
        behind: the condition that begins behind a key; its values are in `bounds`.
        bounds: see there.
        first_row: number of the first one.
        count: rows at most.
        in_slices: they will be posted in several batches.

    Returns:
        How many there were, the SHA-256 of their hashes in order, and how many are not plain.
    """
    connection.execute(_CREATE)
    write_rows_alike(connection)
    connection.execute(
        _TAKE.format(
            columns=sql.SQL(", ").join(map(sql.Identifier, source.columns)), rows=mapped_rows(source, behind)
        ),
        {"first_row": first_row, "count": count, **bounds},
    )
    found = connection.execute(_PROVE).fetchone()
    assert found is not None
    if in_slices:
        connection.execute("CREATE INDEX ON pg_temp.backfill_taken (source_row)")
    return found


def write_rows_alike(connection: Connection) -> None:
    """Has the text of rows written as it was when they were registered, in the caller's transaction."""
    connection.execute(
        "SELECT set_config('intervalstyle', 'iso_8601', true), set_config('bytea_output', 'hex', true)"
    )


def mapped_rows(source: TakenFrom, behind: sql.Composable) -> sql.Composable:
    """The query that maps rows: their columns as `source` has them, source_row, is_plain, digest.

    Its parameters are first_row and count (see `take`), and those of `behind`.
    """
    return _MAPPED.format(
        columns=sql.SQL(", ").join(map(sql.Identifier, source.columns)),
        values=_named(source.columns),
        key=sql.SQL(", ").join(source.key),
        plain=sql.SQL(" AND ").join([sql.SQL("true"), *source.plain]),
        checks=sql.SQL(" AND ").join(source.checks),
        row_text=source.row_text,
        rows=source.rows,
        behind=behind,
    )


def _named(expressions: Mapping[str, sql.Composable]) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(value, sql.Identifier(name)) for name, value in expressions.items()
    )


def leave_out_unusual(connection: Connection) -> list[int]:
    """Takes the rows out that are not plain; returns their numbers, ascending."""
    rows = connection.execute(
        "WITH unusual AS (DELETE FROM pg_temp.backfill_taken WHERE NOT is_plain RETURNING source_row)"
        " SELECT source_row FROM unusual ORDER BY 1"
    ).fetchall()
    return [row for (row,) in rows]


def add(connection: Connection, entries: pa.Table) -> None:
    """Adds entries that were mapped elsewhere.

    Args:
        connection: in the caller's transaction.
        entries: VALIDATED_SCHEMA.
    """
    copy_entries(
        connection,
        f"COPY pg_temp.backfill_taken ({', '.join(COPY_COLUMNS)}) FROM STDIN (FORMAT binary)",
        entries,
        batch_id=0,
    )


def source_rows(connection: Connection) -> pa.Table:
    """The numbers of all rows that are to be posted, ascending: one column, source_row."""
    # Plans rest on the number of rows from here on.
    connection.execute("ANALYZE pg_temp.backfill_taken (source_row)")
    sink = pa.BufferOutputStream()
    with connection.cursor().copy(
        "COPY (SELECT source_row FROM pg_temp.backfill_taken ORDER BY 1) TO STDOUT"
    ) as copy:
        for block in copy:
            sink.write(block)
    text = sink.getvalue()
    schema = pa.schema([pa.field("source_row", pa.int64())])
    if not text.size:
        return schema.empty_table()
    return pacsv.read_csv(
        pa.BufferReader(text),
        read_options=pacsv.ReadOptions(column_names=schema.names),
        convert_options=pacsv.ConvertOptions(column_types=schema),
    )


def record_references(connection: Connection, source_id: str, partition_id: int) -> None:
    """As `source_data.replace`, from the taken rows."""
    connection.execute("DELETE FROM backfill_source_references WHERE partition_id = %s", [partition_id])
    connection.execute(
        _REFERENCES, {"source": source_id, "partition": partition_id, "size": _ENTRIES_PER_ROW}
    )


def accounts_named(connection: Connection) -> list[str]:
    """All accounts that the taken rows move."""
    rows = connection.execute(
        "SELECT debit_account_id FROM pg_temp.backfill_taken UNION SELECT credit_account_id FROM pg_temp.backfill_taken"
    ).fetchall()
    return [account for (account,) in rows]


def rows_naming(connection: Connection, account_ids: Sequence[str], first_row: int, last_row: int) -> int:
    """How many of the rows from one to another move any of the accounts."""
    row = connection.execute(
        "SELECT count(*) FROM pg_temp.backfill_taken WHERE source_row BETWEEN %(first)s AND %(last)s"
        " AND (debit_account_id = ANY(%(ids)s) OR credit_account_id = ANY(%(ids)s))",
        {"ids": list(account_ids), "first": first_row, "last": last_row},
    ).fetchone()
    assert row is not None
    return int(row[0])


# --- a batch ----------------------------------------------------------------------------------------------------


def put_entries(connection: Connection, statement: str, entries: pa.Table | TakenRows, batch_id: int) -> None:
    """Brings a batch into a table: by COPY, or from the taken rows.

    Args:
        connection: inside the batch's transaction.
        statement: the COPY statement of the table (`entries`).
        entries: VALIDATED_SCHEMA, or a slice of the taken rows.
        batch_id: stored with every entry.

    Raises:
        LedgerError: the server took another number of rows than there are.
    """
    if not isinstance(entries, TakenRows):
        copy_entries(connection, statement, entries, batch_id)
        return
    connection.execute("DISCARD PLANS")  # as in copy_entries: this statement fires the triggers as well
    names = sql.SQL(", ").join(map(sql.Identifier, _COLUMNS))
    inserted = connection.execute(
        sql.SQL(
            "INSERT INTO {} ({}, batch_id) SELECT {}, %s FROM pg_temp.backfill_taken"
            " WHERE source_row BETWEEN %s AND %s {}"
        ).format(
            sql.Identifier(_TARGETS[statement]),
            names,
            names,
            sql.SQL("" if entries.in_order else "ORDER BY source_row"),
        ),
        [batch_id, entries.first_row, entries.last_row],
    ).rowcount
    if inserted != entries.num_rows:
        raise LedgerError(
            f"{inserted} of {entries.num_rows} entries were inserted: nothing of the batch is posted"
        )


# What `ledger_batch_digests` gives. Sorted once, by a single value, and then grouped by hash, which keeps that order
# and takes two thirds of the time. If it ever did not, the digest would be another, and rows be compared one by one.
_EXPECT: Final = """
WITH part AS (
    SELECT ledger_id, get_byte(digest, 0) AS bucket, sha256(string_agg(digest, '')) AS digest
    FROM (SELECT t.ledger_id, sha256(convert_to(ROW(
                     t.ledger_id, t.reference_id, t.debit_account_id, t.credit_account_id, t.amount, t.currency_code,
                     t.asset_type, t.transaction_type, t.timestamp_utc, now(), t.fx_rate, t.metadata, %(batch)s::bigint,
                     t.source_row, NULL::text)::text, 'UTF8')) AS digest
          FROM pg_temp.backfill_taken t
          WHERE t.source_row BETWEEN %(first)s AND %(last)s
          ORDER BY digest) AS one
    GROUP BY bucket, ledger_id
), whole AS (
    SELECT ledger_id, sha256(string_agg(digest, '' ORDER BY bucket)) AS digest FROM part GROUP BY ledger_id
)
INSERT INTO backfill_taken_batches (batch_id, digest)
SELECT %(batch)s,
       sha256(string_agg(convert_to(ledger_id, 'UTF8') || '\\x00' || digest, '' ORDER BY ledger_id COLLATE "C"))
FROM whole
"""


def expect_entries(connection: Connection, entries: TakenRows, batch_id: int) -> None:
    """Keeps what the entries of a batch, all of whose rows were posted, must be, as its seal would say it.

    Args:
        connection: inside the batch's transaction, which gave the entries their `posted_at`; the batch is recorded.
        entries: its rows.
        batch_id: of the batch.
    """
    connection.execute(  # a session of ours writes times as seals do
        _EXPECT, {"batch": batch_id, "first": entries.first_row, "last": entries.last_row}
    )


def references_at(connection: Connection, entries: TakenRows, count: int) -> tuple[list[str], list[str]]:
    """Ledgers and references of so many rows of a batch at most, evenly spaced, with the first and the last."""
    step = max(1, -(-(entries.last_row - entries.first_row) // (count - 1)))
    wanted = [*range(entries.first_row, entries.last_row, step), entries.last_row]
    rows = connection.execute(
        # Of the column's own type: else every row is held against every number.
        "SELECT ledger_id, reference_id FROM pg_temp.backfill_taken WHERE source_row = ANY(%s::bigint[])",
        [wanted],
    ).fetchall()
    return [ledger for ledger, _ in rows], [reference for _, reference in rows]


def last_of(connection: Connection, entries: TakenRows) -> tuple[str, datetime]:
    """The last reference of a batch, and the latest event time."""
    row = connection.execute(
        "SELECT (array_agg(reference_id) FILTER (WHERE source_row = %(last)s))[1], max(timestamp_utc)"
        " FROM pg_temp.backfill_taken WHERE source_row BETWEEN %(first)s AND %(last)s",
        {"first": entries.first_row, "last": entries.last_row},
    ).fetchone()
    assert row is not None
    return row[0], row[1]


_REVERSED: Final = """
SELECT EXISTS (SELECT 1 FROM ledger_reversals) AND EXISTS (
    SELECT 1 FROM pg_temp.backfill_taken t
    JOIN ledger_reversals r ON r.ledger_id = t.ledger_id AND t.reference_id IN (r.base_reference, r.reference_id)
    WHERE t.source_row BETWEEN %s AND %s)
"""


def any_reversed(connection: Connection, first_row: int, last_row: int) -> bool:
    """Whether a rollback reversed an entry that one of these rows is: it takes another reference now."""
    row = connection.execute(_REVERSED, [first_row, last_row]).fetchone()
    return bool(row and row[0])


def refuse_reversed(connection: Connection, entries: TakenRows) -> None:
    """Raises LedgerError when a rollback reversed entries of a batch since its rows were taken."""
    if any_reversed(connection, entries.first_row, entries.last_row):
        raise LedgerError("a rollback reversed entries while their rows were posted: run it again")
