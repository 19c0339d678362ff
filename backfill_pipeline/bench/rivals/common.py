"""What all rivals share: a ledger with its accounts open, a table without our triggers, and the count at the end.

Belongs here: these.
Does not: any rival.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from psycopg import sql

from backfill_pipeline.bench.figures import insist
from backfill_pipeline.bench.workloads import Bench
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger import accounts
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.mapping.accounts import read_accounts

ENTRIES_TABLE: Final = "rival_entries"
"""A table like `ledger_entries`, keys and checks included, triggers left out."""


@contextmanager
def ledger_with_accounts(bench: Bench) -> Iterator[Connection]:
    """A fresh ledger in which the export's accounts are open, without their opening balances. Not measured."""
    with bench.fresh_ledger() as (connection, _):
        if book := read_accounts(load_definition(bench.source_file)):
            accounts.open_accounts(connection, book.accounts.select(book.equity_accounts.column_names))
        connection.execute("ANALYZE bank_accounts")
        connection.execute("CHECKPOINT")
        yield connection


def create_entries_table(connection: Connection) -> None:
    """Makes `ENTRIES_TABLE`; what the export does not state has a default, as it has in the source definition."""
    table = sql.Identifier(ENTRIES_TABLE)
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE ledger_entries INCLUDING ALL)").format(table))
    connection.execute(sql.SQL("ALTER TABLE {} ALTER ledger_id SET DEFAULT 'MASTER'").format(table))


def export_file(bench: Bench) -> Path:
    """The export itself, which rivals read as it is."""
    file = load_definition(bench.source_file).file
    assert file is not None, "the benchmark's export is one file"
    return file


def insist_on_rows(
    connection: Connection, table: str, rows: int, rival: str, schema: str | None = None
) -> None:
    """Raises BrokenContenderError unless the table holds so many rows."""
    name = sql.Identifier(schema, table) if schema else sql.Identifier(table)
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(name)).fetchone()
    found = row[0] if row else 0
    insist(found == rows, rival, f"loaded {found:,} of {rows:,} rows")
