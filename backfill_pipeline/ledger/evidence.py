"""What the ledger says of a source, as tables for auditors.

Belongs here: one snapshot of it, streamed as CSV, and its sums.
Does not: the statements (`evidence_tables.py`), where the files go and what goes with them (`stages/evidence/pack.py`).

Everything is read in one snapshot, so that no two tables of a pack disagree, and in an order of its own, so that the
same ledger always gives the same bytes. The server writes the CSV: rows never pass through Python one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from psycopg import sql

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.evidence_tables import ENTRIES, TABLES, TOTALS


@dataclass(frozen=True, slots=True)
class LedgerTotal:
    """What a source posted to a ledger in a currency, by the kind of its batches; `amount` is exact, as text."""

    ledger_id: str
    currency_code: str
    kind: str
    entries: int
    amount: str


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The last row of a chain: whoever holds it can tell whether what came before was rewritten. Hexadecimal."""

    name: str
    number: int
    value: str


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A transaction that sees the ledger at one moment and changes nothing."""
    with ledger_errors("read evidence from"), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def write_table(connection: Connection, name: str, source_id: str, file: BinaryIO) -> int:
    """Writes a table of TABLES as CSV with a header; returns how many rows.

    Args:
        connection: in a `snapshot`.
        name: of the table.
        source_id: whose.
        file: to write to.
    """
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, HEADER)").format(_about(TABLES[name], source_id))
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for data in copy:
                file.write(data)
        return cursor.rowcount


def totals(connection: Connection, source_id: str) -> list[LedgerTotal]:
    """What the source posted, opening balances included, by ledger and currency."""
    rows = connection.execute(_about(TOTALS, source_id)).fetchall()
    return [LedgerTotal(*row) for row in rows]


def chain_heads(connection: Connection, source_id: str) -> list[ChainHead]:
    """The heads of the audit log and of the seals of the source's ledgers."""
    rows = connection.execute(
        "SELECT 'audit_log', number, encode(row_hash, 'hex') FROM audit_log_head"
        " UNION ALL SELECT 'seals of ' || ledger_id, number, encode(seal, 'hex') FROM ledger_seal_heads"
        " WHERE ledger_id IN (SELECT s.ledger_id FROM ledger_seals s JOIN backfill_batches_ever b ON b.id = s.batch_id"
        " WHERE b.source_id = %s) ORDER BY 1",
        [source_id],
    ).fetchall()
    return [ChainHead(*row) for row in rows]


def seal_counts(connection: Connection, source_id: str) -> dict[str, int]:
    """How many batches of the source have entries, and how many of those are sealed, finally so, or were taken back."""
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE b.rollback_id IS NULL AND b.posted > 0),"
        " count(*) FILTER (WHERE b.rollback_id IS NULL AND s.sealed),"
        " count(*) FILTER (WHERE b.rollback_id IS NULL AND s.final),"
        " count(*) FILTER (WHERE b.rollback_id IS NOT NULL)"
        " FROM backfill_batches_ever b CROSS JOIN LATERAL ("
        " SELECT count(*) > 0 AS sealed, count(final_at) > 0 AS final FROM ledger_seals"
        " WHERE kind = 'batch' AND batch_id = b.id) AS s WHERE b.source_id = %s",
        [source_id],
    ).fetchone()
    assert row is not None
    return dict(zip(("batches", "sealed", "final", "rolled_back"), row, strict=True))


def changed_since(connection: Connection, source_id: str, registration_id: int) -> bool:
    """Whether anything of the source was posted or rolled back after its latest reconciliation (or it has none)."""
    row = connection.execute(
        "SELECT coalesce(max(b.changed_at) >= (SELECT max(reconciled_at) FROM backfill_reconciliations"
        "  WHERE registration_id = %(registration)s), true)"
        " FROM (SELECT posted_at AS changed_at FROM backfill_batches_ever WHERE source_id = %(source)s"
        "  UNION ALL SELECT rolled_back_at FROM backfill_rollbacks WHERE source_id = %(source)s"
        "  UNION ALL SELECT '-infinity') AS b",
        {"source": source_id, "registration": registration_id},
    ).fetchone()
    assert row is not None
    return bool(row[0])


def server_version(connection: Connection) -> str:
    """Of PostgreSQL."""
    row = connection.execute("SELECT current_setting('server_version')").fetchone()
    assert row is not None
    return str(row[0])


def _about(statement: str, source_id: str) -> sql.Composed:
    source = sql.Literal(source_id)
    return sql.SQL(statement).format(source=source, entries=sql.SQL(ENTRIES).format(source=source))
