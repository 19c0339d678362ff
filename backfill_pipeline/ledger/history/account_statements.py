"""Statements of account: what a balance was, and the legs that made it so.

Belongs here: reading `account_statement` and `balance_as_of`, line by line, however many there are.
Does not: the SQL of them (`migrations/0021_history.sql`), how a statement is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.connection import Connection, ledger_errors

# Lines that are fetched at a time: a hot account has millions.
_LINES_PER_FETCH: Final = 5_000


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One line: what the account begins with, a leg, or what it ends with.

    Attributes:
        kind: opening, leg or closing. Only legs have all that follows; the others have `balance`, and the
            closing line `movement`.
        timestamp_utc: of the leg; of the other two the bound of the statement, None without one.
        side: of the account: debit or credit.
        amount: of the leg, in the account's currency.
        movement: the amount in the account's direction, below zero where it lowers the balance; of the closing line,
            all of them together.
        balance: after the line.
        entry_amount: of the entry, in the entry's currency; differs from `amount` where it was converted.
    """

    line: int
    kind: str
    timestamp_utc: datetime | None
    posted_at: datetime | None
    ledger_id: str | None
    reference_id: str | None
    transaction_type: str | None
    other_account_id: str | None
    side: str | None
    amount: Decimal | None
    movement: Decimal | None
    balance: Decimal
    currency_code: str
    entry_amount: Decimal | None
    entry_currency_code: str | None
    fx_rate: Decimal | None
    batch_id: int | None
    entry_id: int | None


@dataclass(frozen=True, slots=True)
class Statement:
    """An account and its lines, which can be read once: opening, legs by event time, closing."""

    account_id: str
    currency_code: str
    normal_side: str
    lines: Iterator[StatementLine]


@contextmanager
def account_statement(
    connection: Connection, account_id: str, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Statement]:
    """The statement of an account, in one snapshot that is open as long as the block.

    Args:
        connection: to the ledger, not in a transaction.
        account_id: whose.
        since: the first moment of it; None for all history.
        until: the moment that ends it, itself not part of it; None for all that is known.

    Raises:
        UsageError: there is no such account.
    """
    with ledger_errors("read a statement from"), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        account = connection.execute(
            "SELECT id, currency_code, normal_side FROM bank_accounts WHERE id = %s", [account_id]
        ).fetchone()
        if account is None:
            raise UsageError(
                f"account {account_id} is not in the ledger: its id is compared letter by letter"
            )
        with connection.cursor(name="account_statement") as cursor:
            cursor.itersize = _LINES_PER_FETCH
            cursor.execute(
                "SELECT * FROM account_statement(%s, coalesce(%s::timestamptz, '-infinity'),"
                " coalesce(%s::timestamptz, 'infinity'))",
                [account_id, since, until],
            )
            yield Statement(account[0], account[1], account[2], (StatementLine(*row) for row in cursor))


def balance_as_of(connection: Connection, account_id: str, moment: datetime) -> Decimal | None:
    """The balance at the end of a moment, from the legs; None for an account that does not exist."""
    with ledger_errors("read a balance from"):
        row = connection.execute("SELECT balance_as_of(%s, %s)", [account_id, moment]).fetchone()
    return None if row is None else row[0]
