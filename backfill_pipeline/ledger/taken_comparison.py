"""Rows of a table beside the ledger held against their entries by the database itself.

A row is proven when one entry of the partition's batches carries its number and has, in every field, what the row is
mapped to. Only equality is told here: rows that are not proven, for whatever reason, are compared the ordinary way,
which says what differs. So a fault of this comparison can hide nothing but an entry that is equal.

Where all rows of a partition were posted from the table, what their entries had to be was hashed by whoever posted
them. Then their seals tell it, when these have just been made, and nothing is mapped again.

Belongs here: both comparisons, and for the first one the proof that the rows are those that were registered.
Does not: what is expected of the other rows (`stages/taken_reconciliation.py`), the mapping (`taken_rows.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final, LiteralString

import pyarrow as pa
from psycopg import sql

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.join_methods import JOIN_BY_KEY
from backfill_pipeline.ledger.read_back import LEDGER_SCHEMA, read_entries
from backfill_pipeline.ledger.taken_rows import TakenFrom, mapped_rows, write_rows_alike
from backfill_pipeline.money import SUM_DIGITS

_TEXTS: Final = (
    "ledger_id",
    "debit_account_id",
    "credit_account_id",
    "currency_code",
    "asset_type",
    "transaction_type",
    "reference_id",
)
_OPTIONAL: Final = ("fx_rate", "metadata")
_FIELDS: Final = tuple(name for name in LEDGER_SCHEMA.names if name != "source_row")

# Never row by row: right after a load the planner knows nothing of the batches. The batch index finds their pages.
# Without workers: two partitions are compared at a time already.
_SETTINGS: Final = """
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = off; SET LOCAL work_mem = '64MB';
SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL jit = off
"""

# A row that two entries carry comes twice, so that the count and the hash are not those of the registration.
_COMPARE: Final = sql.SQL("""
SELECT count(*), encode(sha256(string_agg(digest, '' ORDER BY source_row)), 'hex'),
       coalesce(array_agg(source_row ORDER BY source_row) FILTER (WHERE NOT is_same), '{{}}')
FROM (SELECT m.source_row, m.digest,
             coalesce(m.is_plain AND (m.source_row - %(first_row)s) %% %(step)s <> 0 AND {same}, false) AS is_same
      FROM ({mapped}) AS m
      LEFT JOIN ledger_entries e
        ON e.source_row = m.source_row AND e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s)
     ) AS held
""")

_TOTALS: Final = """
SELECT currency_code, count(*), sum(amount) FROM ledger_entries e
WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s)
GROUP BY currency_code
"""

# Where a repaired entry is concerned, more than the table says what is expected.
_SIMPLE: Final = """
SELECT NOT EXISTS (SELECT FROM backfill_batches WHERE partition_id = %(partition)s AND kind <> 'entries')
   AND NOT EXISTS (SELECT FROM backfill_rejects WHERE partition_id = %(partition)s AND stage = 'post'
                   AND NOT source_row = ANY(%(others)s))
"""

# What was reversed is expected under another reference. By the key, entry for entry, and only where anything ever was.
_REVERSED: Final = """
SELECT EXISTS (SELECT FROM ledger_reversals) AND EXISTS (
    SELECT FROM ledger_entries e
    JOIN ledger_reversals r ON r.ledger_id = e.ledger_id AND r.base_reference = e.reference_id
    WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s))
"""

_EXPECTED: Final = """
SELECT b.id, b.posted, x.digest
FROM backfill_batches b
LEFT JOIN backfill_taken_batches x ON x.batch_id = b.id AND b.kind = 'entries' AND b.posted = b.read
WHERE b.partition_id = %s
"""

# One digest for each batch, as `backfill_taken_batches` has it.
_SEALED: Final = """
SELECT batch_id,
       sha256(string_agg(convert_to(ledger_id, 'UTF8') || '\\x00' || digest, '' ORDER BY ledger_id COLLATE "C"))
FROM ledger_seals
WHERE kind = 'batch' AND batch_id = ANY(%s)
GROUP BY batch_id
"""


@dataclass(frozen=True, slots=True)
class ProvenRows:
    """What the database found equal, of a partition.

    Attributes:
        count: rows whose entry is equal.
        totals: the sum of their amounts, by currency.
        others: numbers of all other rows, ascending.
        entries: the entries of the other rows (LEDGER_SCHEMA, any order).
    """

    count: int
    totals: Mapping[str, Decimal]
    others: Sequence[int]
    entries: pa.Table


def proven_rows(
    connection: Connection,
    source: TakenFrom,
    partition_id: int,
    *,
    behind: sql.Composable,
    bounds: Mapping[str, object],
    first_row: int,
    count: int,
    sha256: str,
    step: int,
    others_max: int,
) -> ProvenRows | None:
    """Compares a partition; None where it does not come out plainly, and all of it is to go the ordinary way.

    Args:
        connection: to the ledger, autocommit.
        source: where the rows are, and what they become.
        partition_id: of the partition.
        behind: the condition that begins behind a key; its values are in `bounds`.
        bounds: see there.
        first_row: number of the first row.
        count: of the rows.
        sha256: what was registered of them.
        step: of so many rows, one is left to the ordinary way although it may be equal.
        others_max: with more rows than that not proven, the ordinary way is faster.

    Raises:
        TransientLedgerError: the ledger cannot be read right now.
    """
    with ledger_errors("compare entries in"), connection.transaction():
        connection.execute(_SETTINGS)
        write_rows_alike(connection)
        batches = [
            batch
            for (batch,) in connection.execute(
                "SELECT id FROM backfill_batches WHERE partition_id = %s", [partition_id]
            ).fetchall()
        ]
        if not batches:
            return None
        among = {"low": min(batches), "high": max(batches), "batches": batches}
        found = connection.execute(
            _COMPARE.format(same=_same(), mapped=mapped_rows(source, behind)),
            {"first_row": first_row, "count": count, "step": step, **among, **bounds},
        ).fetchone()
        assert found is not None
        rows, digest, others = found
        if (rows, digest) != (count, sha256) or len(others) > others_max:
            return None
        if not _is(connection, _SIMPLE, {"partition": partition_id, "others": others}):
            return None
        return _proven(connection, among, count, others)


def unsealed_partitions(connection: Connection, source_id: str) -> frozenset[int]:
    """The partitions of a source of which something is posted and nothing sealed."""
    with ledger_errors("read seals of"):
        rows = connection.execute(
            "SELECT b.partition_id FROM backfill_batches b"
            " LEFT JOIN ledger_seals s ON s.batch_id = b.id AND s.kind = 'batch'"
            " WHERE b.source_id = %s AND b.partition_id IS NOT NULL"
            " GROUP BY b.partition_id HAVING count(s.batch_id) = 0",
            [source_id],
        ).fetchall()
    return frozenset(partition for (partition,) in rows)


def entries_as_expected(
    connection: Connection, partition_id: int, *, count: int, sample: Sequence[int]
) -> ProvenRows | None:
    """Holds the seals of a partition against what was expected of its entries when they were posted.

    That was computed from what the rows were mapped to, and proves every field of every entry.

    Args:
        connection: to the ledger, autocommit.
        partition_id: of the partition. Its batches were sealed just now: an older seal proves nothing of today.
        count: of its rows.
        sample: rows that are left to the ordinary way although they are equal.

    Returns:
        None where that is not known of all its rows, or not so: then they are compared one by one.

    Raises:
        TransientLedgerError: the ledger cannot be read right now.
    """
    with ledger_errors("compare entries in"), connection.transaction():
        connection.execute(_SETTINGS)
        rows = connection.execute(_EXPECTED, [partition_id]).fetchall()
        expected = {batch: digest for batch, _, digest in rows}
        if None in expected.values() or sum(posted for _, posted, _ in rows) != count:
            return None
        if dict(connection.execute(_SEALED, [list(expected)]).fetchall()) != expected:
            return None
        among = {"low": min(expected), "high": max(expected), "batches": list(expected)}
        return _proven(connection, among, count, sample)


def _proven(
    connection: Connection, among: Mapping[str, object], count: int, others: Sequence[int]
) -> ProvenRows | None:
    """All rows of a partition but the others, with what these need; in the caller's transaction.

    None where there are entries of no row, or of references that were reversed.
    """
    summed = connection.execute(_TOTALS, among).fetchall()
    entries = read_entries(
        connection,
        "FROM ledger_entries e WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s)"
        " AND e.source_row = ANY(%(others)s::bigint[])",
        {"others": list(others), **among},
    )
    connection.execute(JOIN_BY_KEY)
    if _is(connection, _REVERSED, among):
        return None
    proven = count - len(others)
    if sum(number for _, number, _ in summed) != proven + entries.num_rows:  # there are entries of no row
        return None
    totals = {currency: amount for currency, _, amount in summed}
    codes, amounts = (entries.column(name).to_pylist() for name in ("currency_code", "amount"))
    with localcontext(prec=SUM_DIGITS):
        for currency, amount in zip(codes, amounts, strict=True):
            totals[currency] -= amount
    return ProvenRows(proven, totals, others, entries)


def _is(connection: Connection, statement: LiteralString, values: Mapping[str, object]) -> bool:
    row = connection.execute(statement, values).fetchone()
    return bool(row and row[0])


def _same() -> sql.Composable:
    """Whether every field of an entry is what the row is mapped to; a text byte for byte."""
    conditions = []
    for name in _FIELDS:
        form = "m.{0} = e.{0}"
        if name in _TEXTS:
            form = 'm.{0} COLLATE "C" = e.{0}'
        elif name in _OPTIONAL:
            form = "m.{0} IS NOT DISTINCT FROM e.{0}"
        conditions.append(sql.SQL(form).format(sql.Identifier(name)))
    return sql.SQL(" AND ").join(conditions)
