"""The limits that posting is measured against: a plain COPY of the same rows, without triggers.

Belongs here: a table like `ledger_entries` that nothing else uses, filled and dropped.
Does not: measuring more than the COPY itself (`bench/`).
"""

from __future__ import annotations

import time

import pyarrow as pa
from psycopg import sql

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.constraints import FOREIGN_KEYS
from backfill_pipeline.ledger.entries import COPY_SQL, copy_entries

_TABLE = "ledger_entries_without_triggers"


def time_plain_copy(connection: Connection, entries: pa.Table, *, foreign_keys: bool = False) -> float:
    """Seconds that one COPY takes into a table with the columns, keys and checks of the ledger, but no triggers.

    Args:
        connection: to the ledger, autocommit.
        entries: VALIDATED_SCHEMA.
        foreign_keys: with the ledger's foreign keys as well; their accounts must be open.
    """
    with ledger_errors("measure a plain COPY into"):
        connection.execute(f"DROP TABLE IF EXISTS {_TABLE}")
        connection.execute(f"CREATE TABLE {_TABLE} (LIKE ledger_entries INCLUDING ALL)")
        if foreign_keys:
            for column in FOREIGN_KEYS.values():
                connection.execute(
                    sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES bank_accounts (id)").format(
                        sql.Identifier(_TABLE), sql.Identifier(column)
                    )
                )
        connection.execute("CHECKPOINT")
        started = time.monotonic()
        copy_entries(
            connection, COPY_SQL.replace("COPY ledger_entries ", f"COPY {_TABLE} "), entries, batch_id=0
        )
        seconds = time.monotonic() - started
        connection.execute(f"DROP TABLE {_TABLE}")
    return seconds
