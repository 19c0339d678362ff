"""Entries on the wire: their binary COPY encoding.

Belongs here: the column order of `ledger_entries` as COPY sees it, and encoding entries for it.
Does not: transactions, or what happens when the ledger refuses a row.
"""

from __future__ import annotations

from collections.abc import Iterator

import pgpq
import pyarrow as pa
import pyarrow.compute as pc
from pgpq.encoders import StringEncoderBuilder
from pgpq.schema import Jsonb

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.money import rescaled
from backfill_pipeline.schemas.frames import VALIDATED_SCHEMA
from backfill_pipeline.schemas.row_errors import combined

CONTENT_COLUMNS = (
    "ledger_id",
    "debit_account_id",
    "credit_account_id",
    "amount",
    "currency_code",
    "asset_type",
    "transaction_type",
    "reference_id",
    "timestamp_utc",
    "fx_rate",
    "metadata",
)
"""What an entry says; all else is where it came from."""
COPY_COLUMNS = (*CONTENT_COLUMNS, "batch_id", "source_row")
COPY_SQL = f"COPY ledger_entries ({', '.join(COPY_COLUMNS)}) FROM STDIN (FORMAT binary)"
STAGING_COPY_SQL = f"COPY backfill_staging ({', '.join(COPY_COLUMNS)}) FROM STDIN (FORMAT binary)"

_ROWS_PER_BUFFER = 10_000
_TRAILER = b"\xff\xff"  # ends a binary COPY


def encode_entries(entries: pa.Table, batch_id: int) -> Iterator[bytes]:
    """Encodes entries for binary COPY, a few megabytes at a time.

    A binary numeric carries its number of decimals, which Arrow keeps per column, not per value. Rows are therefore
    encoded in groups of equal decimals; a file has one or two of them.

    Args:
        entries: VALIDATED_SCHEMA.
        batch_id: stored with every entry.
    """
    first = True
    for amount_scale, fx_rate_scale, group in _by_scale(entries):
        columns = {name: group.column(name) for name in COPY_COLUMNS if name != "batch_id"}
        columns["amount"] = rescaled(combined(group.column("amount")), amount_scale)
        columns["fx_rate"] = rescaled(combined(group.column("fx_rate")), fx_rate_scale)
        columns["batch_id"] = pa.repeat(pa.scalar(batch_id, pa.int64()), group.num_rows)
        table = pa.table({name: columns[name] for name in COPY_COLUMNS})
        encoder = _encoder(table.schema)
        header = encoder.write_header()
        if first:
            yield header
            first = False
        for record_batch in table.to_batches(max_chunksize=_ROWS_PER_BUFFER):
            yield encoder.write_batch(record_batch)
        # The encoder holds back what does not fill its buffer; finishing gives it, with a trailer that only the last
        # group may send.
        yield encoder.finish().removesuffix(_TRAILER)
    if first:
        yield _encoder(_empty_schema()).write_header()
    yield _TRAILER


def copy_entries(connection: Connection, statement: str, entries: pa.Table, batch_id: int) -> None:
    """Copies entries with one of the two COPY statements above.

    Raises:
        LedgerError: the server took another number of rows than were sent.
    """
    with connection.cursor() as cursor:
        # A trigger's statement is planned once per session, for as many rows as it met first. Planned for one row, it
        # would go through 50,000 quadratically.
        cursor.execute("DISCARD PLANS")
        with cursor.copy(statement) as copy:
            for buffer in encode_entries(entries, batch_id):
                copy.write(buffer)
        if cursor.rowcount != entries.num_rows:
            raise LedgerError(
                f"COPY took {cursor.rowcount} of {entries.num_rows} entries: nothing of the batch is posted"
            )


def _encoder(schema: pa.Schema) -> pgpq.ArrowToPostgresBinaryEncoder:
    encoders = {
        field.name: pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(field)
        if field.name != "metadata"
        else StringEncoderBuilder.new_with_output(field, Jsonb())
        for field in schema
    }
    return pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(schema, encoders)


def _empty_schema() -> pa.Schema:
    types = {field.name: field.type for field in VALIDATED_SCHEMA} | {"batch_id": pa.int64()}
    return pa.schema([(name, types[name]) for name in COPY_COLUMNS])


def _by_scale(entries: pa.Table) -> Iterator[tuple[int, int, pa.Table]]:
    """Splits entries into groups with one number of decimals each, keeping source order inside a group."""
    if not entries.num_rows:
        return
    key = pc.add(
        pc.multiply(pc.cast(entries.column("amount_scale"), pa.int32()), 100),
        pc.fill_null(pc.cast(entries.column("fx_rate_scale"), pa.int32()), 0),
    )
    scales = sorted(pc.unique(key).to_pylist())
    for scale in scales:
        group = entries if len(scales) == 1 else entries.filter(pc.equal(key, scale))
        yield scale // 100, scale % 100, group
