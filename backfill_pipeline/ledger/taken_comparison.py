"""Rows of a table beside the ledger held against their entries by the database itself.

A row is proven when one entry of the partition's batches carries its number and has, in every field, what the row is
mapped to. Only equality is told here: rows that are not proven, for whatever reason, are compared the ordinary way,
which says what differs. So a fault of this comparison can hide nothing but an entry that is equal.

Belongs here: the comparison, and the proof that the rows are those that were registered.
Does not: what is expected of the other rows (`stages/taken_reconciliation.py`), the mapping (`taken_rows.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import pyarrow as pa
from psycopg import sql

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.read_back import LEDGER_SCHEMA, read_entries
from backfill_pipeline.ledger.taken_rows import TakenFrom, mapped_rows, write_rows_alike

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

# Where a repaired or reversed entry is concerned, more than the table says what is expected.
_SIMPLE: Final = """
SELECT NOT EXISTS (SELECT FROM ledger_reversals)
   AND NOT EXISTS (SELECT FROM backfill_batches WHERE partition_id = %(partition)s AND kind <> 'entries')
   AND NOT EXISTS (SELECT FROM backfill_rejects WHERE partition_id = %(partition)s AND stage = 'post'
                   AND NOT source_row = ANY(%(others)s))
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
        simple = connection.execute(_SIMPLE, {"partition": partition_id, "others": others}).fetchone()
        if not (simple and simple[0]):
            return None
        summed = connection.execute(_TOTALS, among).fetchall()
        entries = read_entries(
            connection,
            "FROM ledger_entries e WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s)"
            " AND e.source_row = ANY(%(others)s::bigint[])",
            {"others": others, **among},
        )
    proven = count - len(others)
    if sum(number for _, number, _ in summed) != proven + entries.num_rows:  # there are entries of no row
        return None
    totals = {currency: amount for currency, _, amount in summed}
    for currency, amount in zip(
        entries.column("currency_code").to_pylist(), entries.column("amount").to_pylist(), strict=True
    ):
        totals[currency] -= amount
    return ProvenRows(proven, totals, others, entries)


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
