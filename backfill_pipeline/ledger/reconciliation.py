"""The ledger's side of reconciliation: entries read back in full, and the record of what was found.

Belongs here: reading entries by batch or by reference, storing and loading verdicts.
Does not: comparing (`stages/reconcile.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
import pyarrow as pa
import pyarrow.csv as pacsv
from psycopg.types.json import Jsonb

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.money import AMOUNT_TYPE

# Every field of an entry that a source states. The order is that of the columns read back.
LEDGER_SCHEMA = pa.schema(
    [
        ("source_row", pa.int64()),
        ("ledger_id", pa.string()),
        ("debit_account_id", pa.string()),
        ("credit_account_id", pa.string()),
        ("amount", AMOUNT_TYPE),
        ("currency_code", pa.string()),
        ("asset_type", pa.string()),
        ("transaction_type", pa.string()),
        ("reference_id", pa.string()),
        ("timestamp_utc", pa.timestamp("us")),
        ("fx_rate", AMOUNT_TYPE),
        ("metadata", pa.string()),
    ]
)
_COLUMNS = (
    "e.ledger_id, e.debit_account_id, e.credit_account_id, e.amount, e.currency_code, e.asset_type, e.transaction_type,"
    " e.reference_id, e.timestamp_utc AT TIME ZONE 'UTC', e.fx_rate, e.metadata"
)


# Arrow fails on a record that does not fit a block. A source record has up to 1 MiB, and escapes make it longer.
_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """A stored reconciliation."""

    verdict: str
    entries_compared: int
    break_count: int
    details: Mapping[str, object]
    reconciled_at: datetime


def prepare(connection: Connection) -> None:
    """Brings the batch index up to date, so that reading a batch touches only its own pages."""
    with ledger_errors("prepare reconciling"):
        connection.execute("SELECT brin_summarize_new_values('ledger_entries_batch_id_idx')")


def posted_entries(connection: Connection, partition_id: int) -> pa.Table:
    """All entries that the batches of a partition posted (LEDGER_SCHEMA, any order)."""
    with ledger_errors("read entries from"):
        batch_ids = [
            batch_id
            for (batch_id,) in connection.execute(
                "SELECT id FROM backfill_batches WHERE partition_id = %s", [partition_id]
            ).fetchall()
        ]
        # The bounds let a BRIN scan take one contiguous stretch of pages.
        return _copy_out(
            connection,
            f"SELECT e.source_row, {_COLUMNS} FROM ledger_entries e"  # noqa: S608 - constants of this module only
            " WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s)",
            {"low": min(batch_ids, default=0), "high": max(batch_ids, default=0), "batches": batch_ids},
        )


def opening_entry_counts(connection: Connection, source_id: str) -> tuple[int, int]:
    """How many opening entries a source's batches recorded as posted, and how many entries name those batches."""
    with ledger_errors("read entries from"):
        row = connection.execute(
            "WITH batch AS (SELECT id, posted FROM backfill_batches WHERE source_id = %s AND kind = 'opening')"
            " SELECT (SELECT coalesce(sum(posted), 0)::bigint FROM batch),"
            "        (SELECT count(*) FROM ledger_entries e WHERE e.batch_id = ANY (ARRAY(SELECT id FROM batch)))",
            [source_id],
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def entries_by_reference(connection: Connection, wanted: pa.Table) -> pa.Table:
    """Entries with the wanted (ledger_id, reference_id), whoever posted them (LEDGER_SCHEMA).

    Args:
        connection: to the ledger, autocommit.
        wanted: source_row, ledger_id, reference_id; the result carries the wanted row's source_row.
    """
    with ledger_errors("read entries from"), connection.transaction():
        connection.execute(
            'CREATE TEMP TABLE backfill_wanted (source_row bigint, ledger_id text COLLATE "C",'
            ' reference_id text COLLATE "C") ON COMMIT DROP'
        )
        columns = [wanted.column(name).to_pylist() for name in ("source_row", "ledger_id", "reference_id")]
        with connection.cursor().copy("COPY backfill_wanted FROM STDIN") as copy:
            for record in zip(*columns, strict=True):
                copy.write_row(record)
        connection.execute("ANALYZE backfill_wanted")
        return _copy_out(
            connection,
            f"SELECT w.source_row, {_COLUMNS} FROM backfill_wanted w"  # noqa: S608 - constants of this module only
            " JOIN ledger_entries e ON e.ledger_id = w.ledger_id AND e.reference_id = w.reference_id",
            {},
        )


def _copy_out(connection: Connection, query: str, parameters: Mapping[str, object]) -> pa.Table:
    sink = pa.BufferOutputStream()
    with connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv)", parameters):
        # The server sends a message per row. Taking them from libpq itself costs a third of what psycopg's own loop
        # does, which waits for the socket before each.
        size, block = connection.pgconn.get_copy_data(0)
        while size > 0:
            sink.write(block)
            size, block = connection.pgconn.get_copy_data(0)
        _check_copied(connection)
    buffer = sink.getvalue()
    if not buffer.size:
        return LEDGER_SCHEMA.empty_table()
    return pacsv.read_csv(
        pa.BufferReader(buffer),
        read_options=pacsv.ReadOptions(column_names=LEDGER_SCHEMA.names, block_size=_BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=LEDGER_SCHEMA,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            check_utf8=False,
        ),
    )


def _check_copied(connection: Connection) -> None:
    """Takes the end of a COPY from the server, and raises its error if it ended with one."""
    error: psycopg.Error | None = None
    while (result := connection.pgconn.get_result()) is not None:
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            error = psycopg.errors.error_from_result(result)
    if error is not None:
        raise error


def record(
    connection: Connection,
    registration_id: int,
    *,
    verdict: str,
    entries_compared: int,
    break_count: int,
    details: Mapping[str, object],
) -> None:
    """Keeps the outcome of a reconciliation."""
    with ledger_errors("record a reconciliation in"):
        connection.execute(
            "INSERT INTO backfill_reconciliations (registration_id, verdict, entries_compared, break_count, details)"
            " VALUES (%s, %s, %s, %s, %s)",
            [registration_id, verdict, entries_compared, break_count, Jsonb(dict(details))],
        )


def latest(connection: Connection, registration_id: int) -> Verdict | None:
    """The newest reconciliation of a registration, or None."""
    with ledger_errors("read a reconciliation from"):
        row = connection.execute(
            "SELECT verdict, entries_compared, break_count, details, reconciled_at FROM backfill_reconciliations"
            " WHERE registration_id = %s ORDER BY id DESC LIMIT 1",
            [registration_id],
        ).fetchone()
    return Verdict(*row) if row else None
