"""Accounts: opened set-wise for a source, never changed by one.

Belongs here: opening accounts and finding the unknown ones.
Does not: balances (they follow entries), reading accounts files.
"""

from __future__ import annotations

import pyarrow as pa

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection, ledger_errors

ACCOUNTS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("currency_code", pa.string(), nullable=False),
        pa.field("asset_type", pa.string(), nullable=False),
        pa.field("normal_side", pa.string(), nullable=False),
    ]
)


def open_accounts(connection: Connection, accounts: pa.Table) -> int:
    """Opens the accounts that the ledger lacks; returns how many were opened.

    Args:
        connection: to the ledger, autocommit.
        accounts: ACCOUNTS_SCHEMA, unique by id; other columns are ignored.

    Raises:
        LedgerError: an account exists with another currency, asset type or normal side.
    """
    with ledger_errors("open accounts in"), connection.transaction():
        connection.execute(
            'CREATE TEMP TABLE backfill_accounts (id text COLLATE "C", currency_code text, asset_type text,'
            " normal_side text) ON COMMIT DROP"
        )
        columns = [accounts.column(name).to_pylist() for name in ACCOUNTS_SCHEMA.names]
        with connection.cursor().copy("COPY backfill_accounts FROM STDIN") as copy:
            for record in zip(*columns, strict=True):
                copy.write_row(record)
        opened = connection.execute(
            "INSERT INTO bank_accounts (id, currency_code, asset_type, normal_side)"
            " SELECT id, currency_code, asset_type, normal_side FROM backfill_accounts ORDER BY id"
            " ON CONFLICT (id) DO NOTHING"
        ).rowcount
        # Looked at afterwards, so that an account which another session opened meanwhile is seen too.
        different = connection.execute(
            "SELECT count(*) OVER (), a.id, a.currency_code, a.asset_type, a.normal_side,"
            " n.currency_code, n.asset_type, n.normal_side"
            " FROM bank_accounts a JOIN backfill_accounts n USING (id)"
            " WHERE (a.currency_code, a.asset_type, a.normal_side) <> (n.currency_code, n.asset_type, n.normal_side)"
            " ORDER BY a.id LIMIT 1"
        ).fetchone()
        if different:
            count, account_id, *kinds = different
            raise LedgerError(
                f"account {account_id} is {' '.join(kinds[:3])} in the ledger and {' '.join(kinds[3:])} in the"
                f" accounts file{f' (and {count - 1} more differ)' if count > 1 else ''}: correct the accounts file"
            )
    return int(opened)


def unknown_accounts(connection: Connection, account_ids: list[str]) -> list[str]:
    """Those of the ids that the ledger does not have, sorted."""
    with ledger_errors("look up accounts in"):
        rows = connection.execute(
            "SELECT id FROM unnest(%s::text[]) AS wanted (id) WHERE NOT EXISTS"
            ' (SELECT 1 FROM bank_accounts a WHERE a.id = wanted.id) ORDER BY id COLLATE "C"',
            [account_ids],
        ).fetchall()
    return [account_id for (account_id,) in rows]
