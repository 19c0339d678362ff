"""Batches that are not as they were sealed: what the ledger itself tells about their entries.

Belongs here: reading such a batch and its entries, and what of them no source states: when they were posted, what their
conversions are, which batch they belong to.
Does not: finding such batches (`seals`), comparing entries with their source (`stages/verify.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pyarrow as pa

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.read_back import read_entries

# What a batch posted bears the time of its transaction, to the microsecond.
_POSTED_AT: Final = """
SELECT e.source_row, e.reference_id, 'posted_at', ledger_utc_text(%(posted_at)s), ledger_utc_text(e.posted_at)
FROM ledger_entries e WHERE e.batch_id = %(batch)s AND e.posted_at <> %(posted_at)s
"""
_ELSEWHERE: Final = """
SELECT e.source_row, e.reference_id, 'batch_id', %(batch)s::text, coalesce(e.batch_id::text, 'none')
FROM ledger_entries e WHERE e.posted_at = %(posted_at)s AND e.batch_id IS DISTINCT FROM %(batch)s
"""
_CONVERSIONS: Final = """
SELECT leg.source_row, leg.reference_id, leg.side || ' conversion',
       CASE WHEN leg.expected IS NULL THEN 'none' ELSE leg.expected::text || ' ' || leg.currency_code END,
       CASE WHEN c.entry_id IS NULL THEN 'none' ELSE c.amount::text || ' ' || c.currency_code END
FROM (SELECT e.id, e.source_row, e.reference_id, moved.side, a.id AS account_id, a.currency_code,
             CASE WHEN a.currency_code <> e.currency_code
                  THEN round_half_even(e.amount * e.fx_rate, coalesce(u.minor_units, 18)) END AS expected
      FROM ledger_entries e
      CROSS JOIN LATERAL (VALUES ('debit', e.debit_account_id), ('credit', e.credit_account_id))
                 AS moved (side, account_id)
      JOIN bank_accounts a ON a.id = moved.account_id
      JOIN currencies u ON u.code = a.currency_code
      WHERE e.batch_id = %(batch)s) AS leg
LEFT JOIN ledger_entry_conversions c ON c.entry_id = leg.id AND c.side = leg.side
WHERE (leg.expected, CASE WHEN leg.expected IS NOT NULL THEN leg.account_id END,
       CASE WHEN leg.expected IS NOT NULL THEN leg.currency_code END)
      IS DISTINCT FROM (c.amount, c.account_id, c.currency_code)
"""


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as it was recorded.

    Attributes:
        kind: entries, opening, replay, reversal.
        partition_id: with its key; None of openings, for example.
        rolled_back: it was taken back; in mode reverse its entries are still in the ledger.
    """

    batch_id: int
    source_id: str
    kind: str
    partition_id: int | None
    partition_key: str | None
    first_row: int
    last_row: int
    posted_at: datetime
    rolled_back: bool


@dataclass(frozen=True, slots=True)
class OddEntry:
    """An entry of which something is not as posting left it; values as text."""

    source_row: int | None
    reference_id: str
    field: str
    expected: str
    actual: str


def batch_record(connection: Connection, batch_id: int) -> BatchRecord | None:
    """The record of a batch; None when there is none any more."""
    with ledger_errors("read batches of"):
        row = connection.execute(
            "SELECT e.id, e.source_id, e.kind, e.partition_id, p.partition_key, coalesce(b.first_row, r.first_row),"
            " coalesce(b.last_row, r.last_row), e.posted_at, e.rollback_id IS NOT NULL"
            " FROM backfill_batches_ever e"
            " LEFT JOIN backfill_batches b ON b.id = e.id"
            " LEFT JOIN backfill_rolled_back_batches r ON r.id = e.id"
            " LEFT JOIN backfill_partitions p ON p.id = e.partition_id WHERE e.id = %s",
            [batch_id],
        ).fetchone()
    return None if row is None else BatchRecord(*row)


def entries_of(connection: Connection, batch_id: int) -> pa.Table:
    """The entries that name a batch, as the ledger has them now (LEDGER_SCHEMA, any order)."""
    with ledger_errors("read entries from"):
        return read_entries(
            connection, "FROM ledger_entries e WHERE e.batch_id = %(batch)s", {"batch": batch_id}
        )


def replayed_rows(connection: Connection, batch_id: int) -> list[int]:
    """Source rows that a replay settled in a batch."""
    with ledger_errors("read replays from"):
        rows = connection.execute(
            "SELECT source_row FROM backfill_replays WHERE batch_id = %s AND outcome IN ('posted', 'duplicate')",
            [batch_id],
        ).fetchall()
    return [one for (one,) in rows]


def odd_entries(connection: Connection, batch: BatchRecord, *, limit: int) -> list[OddEntry]:
    """Entries of a batch of which something differs that their source does not state, at most `limit` of each kind."""
    found: list[OddEntry] = []
    with ledger_errors("read entries from"):
        for statement in (_POSTED_AT, _ELSEWHERE, _CONVERSIONS):
            rows = connection.execute(
                f"{statement} ORDER BY 1, 2 LIMIT %(limit)s",
                {"batch": batch.batch_id, "posted_at": batch.posted_at, "limit": limit},
            ).fetchall()
            found += [OddEntry(*row) for row in rows]
    return found
