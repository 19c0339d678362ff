"""Entries as the ledger holds them, read back as whole columns.

Belongs here: the query that gives columns of `ledger_entries`, and their way into Arrow.
Does not: which entries are read (`reconciliation`), comparing them (`stages/comparison.py`).

COPY sends a message per row and every value with a length of its own, and somebody has to take them apart again. Here
the server strings the values of a column together, all columns in one scan and so in the same order, and one row
brings them all. Between texts stands a byte that no text can hold, so that the positions of these bytes make an Arrow
column of them: no value is taken in hand one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.money import AMOUNT_DIGITS, AMOUNT_SCALE, AMOUNT_TYPE

LEDGER_SCHEMA: Final = pa.schema(
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
"""Every field of an entry that a source states, in the order of the columns read back."""

PIECE_BYTES: Final = 64 << 20
"""About what one row brings, unless the ledger holds more than expected. PostgreSQL's limit for a row is 1 GiB."""
_PIECES_MAX: Final = 1 << 16

# Of text: no text in PostgreSQL holds the byte 0, and no UTF-8 the byte 255.
_TEXT_END = b"\x00"
_TEXT_NULL = b"\xff"
# Of numbers and JSON: neither is ever empty nor written with a line break (in a JSON string it is two characters, \n).
_LINE_END = b"\n"
_LINE_NULL = b""
# Of 8-byte integers. As a time it is -infinity, which no entry can have: its source cannot state it.
_INT64_NULL = -(2**63)
_POSTGRESQL_EPOCH_US = 946_684_800_000_000  # 2000-01-01, from where its times are counted
_LAST_TIME_US = 2**63 - 1 - _POSTGRESQL_EPOCH_US

_WHOLE_DIGITS = AMOUNT_DIGITS - AMOUNT_SCALE
_FITTING = rf"^-?[0-9]{{1,{_WHOLE_DIGITS}}}(\.|$)"

_TEXT_SQL = r"string_agg(coalesce(textsend({0}), '\xff'::bytea), '\x00'::bytea)"
_LINES_SQL = r"string_agg(coalesce({0}::text, ''), E'\n')"
_INTEGER_SQL = f"string_agg(int8send(coalesce({{0}}, {_INT64_NULL})), ''::bytea)"
_TIME_SQL = "string_agg(timestamptz_send(coalesce({0}, '-infinity')), ''::bytea)"


def read_entries(
    connection: Connection,
    entries: str,
    parameters: Mapping[str, object],
    *,
    source_row: str = "e.source_row",
    size_bytes: int = 0,
) -> pa.Table:
    """Reads entries in full (LEDGER_SCHEMA, any order).

    Args:
        connection: to the ledger.
        entries: the query from FROM on, with a WHERE; `ledger_entries` is called `e` in it.
        parameters: of that query.
        source_row: what stands for an entry's source row.
        size_bytes: about how large the entries are; more than PIECE_BYTES are read in pieces.

    Raises:
        LedgerError: an entry holds what the ledger's own constraints forbid, an amount that is no number for example.
        psycopg.Error: the query failed.
    """
    pieces = 1 + size_bytes // PIECE_BYTES
    while True:
        try:
            with connection.transaction():  # the caller's may go on after a failure
                return pa.concat_tables(
                    _read_piece(connection, entries, parameters, source_row, piece, pieces)
                    for piece in range(pieces)
                )
        except psycopg.errors.ProgramLimitExceeded:  # larger than they should be: in smaller pieces then
            if pieces > _PIECES_MAX:
                raise
            pieces *= 4


def _read_piece(
    connection: Connection,
    entries: str,
    parameters: Mapping[str, object],
    source_row: str,
    piece: int,
    pieces: int,
) -> pa.Table:
    """One of several parts of the entries, told apart by their ids, which are never null."""
    columns = ", ".join(
        _expression(field).format(source_row if field.name == "source_row" else f"e.{field.name}")
        for field in LEDGER_SCHEMA
    )
    part = " AND abs(mod(e.id, %(pieces)s)) = %(piece)s" if pieces > 1 else ""
    cursor = connection.cursor(binary=True)
    cursor.execute(
        f"SELECT count(*), {columns} {entries}{part}",
        {**parameters, "piece": piece, "pieces": pieces},
    )
    result = cursor.pgresult
    assert result is not None
    count = int.from_bytes(result.get_value(0, 0) or b"", "big")
    if not count:
        return LEDGER_SCHEMA.empty_table()
    return pa.table(
        [
            _column(field, result.get_value(0, number) or b"", count)
            for number, field in enumerate(LEDGER_SCHEMA, 1)
        ],
        schema=LEDGER_SCHEMA,
    )


def _expression(field: pa.Field) -> str:
    """The aggregate that gives a column of this type."""
    if pa.types.is_timestamp(field.type):
        return _TIME_SQL
    if pa.types.is_integer(field.type):
        return _INTEGER_SQL
    if pa.types.is_decimal(field.type) or field.name == "metadata":
        return _LINES_SQL
    return _TEXT_SQL


def _column(field: pa.Field, values: bytes, count: int) -> pa.Array:
    """What such an aggregate gave, as Arrow."""
    if pa.types.is_timestamp(field.type):
        return _times(values, count)
    if pa.types.is_integer(field.type):
        return _integers(values, count)
    if pa.types.is_decimal(field.type):
        return _decimals(_texts(values, count, _LINE_END, _LINE_NULL), field.name)
    if field.name == "metadata":
        return _texts(values, count, _LINE_END, _LINE_NULL)
    return _texts(values, count, _TEXT_END, _TEXT_NULL)


def _texts(values: bytes, count: int, end: bytes, null: bytes) -> pa.Array:
    """Texts out of `values`, in which `end` stands between one and the next; `null` stands for null."""
    ends = np.flatnonzero(np.frombuffer(values, np.uint8) == end[0])
    _check_count(len(ends) + 1, count)
    offsets = np.zeros(count + 1, np.int32)
    offsets[1:-1] = ends - np.arange(count - 1)
    offsets[-1] = len(values) - (count - 1)
    joined = values.replace(end, b"")
    texts = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(joined))
    if null and null not in joined:
        return texts
    return pc.if_else(pc.equal(texts.view(pa.binary()), null), None, texts)


def _decimals(texts: pa.Array, name: str) -> pa.Array:
    """Numbers as the server writes them, exactly: none is rounded or cut."""
    try:
        # Arrow finds most numbers that are too large, but not all: of thirty nines it makes another number.
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > _WHOLE_DIGITS:
            fit = pc.fill_null(pc.match_substring_regex(texts, _FITTING), True)
            if not pc.all(fit).as_py():
                raise pa.ArrowInvalid(f"{texts.filter(pc.invert(fit))[0]} is too large")
        return pc.cast(texts, AMOUNT_TYPE)
    except pa.ArrowInvalid as error:
        raise LedgerError(
            f"an entry has {'an' if name == 'amount' else 'a'} {name} that the ledger does not allow ({error}):"
            f" restore the constraint ledger_entries_{name}_check, and correct the entry"
        ) from error


def _integers(values: bytes, count: int) -> pa.Array:
    numbers = np.frombuffer(values, ">i8").astype(np.int64)
    _check_count(len(numbers), count)
    return pa.array(numbers, mask=numbers == _INT64_NULL)


def _times(values: bytes, count: int) -> pa.Array:
    """Microseconds from 2000 on become those from 1970 on; what is too late for that (infinity) becomes the last."""
    since_2000 = np.frombuffer(values, ">i8").astype(np.int64)
    _check_count(len(since_2000), count)
    since_1970 = np.minimum(since_2000, _LAST_TIME_US) + _POSTGRESQL_EPOCH_US
    return pa.array(since_1970, mask=since_2000 == _INT64_NULL).view(pa.timestamp("us"))


def _check_count(found: int, expected: int) -> None:
    """A column with a value too many or too few would shift all that follow."""
    if found != expected:
        raise AssertionError(f"a column of {expected} entries came back with {found} values")
