"""What the ledger shows of itself that entries can correct: payments posted twice, accounts below zero.

Belongs here: finding them, over sets.
Does not: entries against their source (`stages/reconcile.py`), proposing (`corrections.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backfill_pipeline.ledger.connection import Connection, ledger_errors


@dataclass(frozen=True, slots=True)
class PostedTwice:
    """An entry that another one, which came another way, repeats in everything but its reference.

    Attributes:
        reference_id: the one that is too many: posted by hand rather than from a source, else the later one.
        kept_reference_id: the one that stays.
        came_from, kept_came_from: the source of each; empty for entries that were posted live.
    """

    ledger_id: str
    reference_id: str
    kept_reference_id: str
    came_from: str
    kept_came_from: str


@dataclass(frozen=True, slots=True)
class BelowZero:
    """An account whose available balance is below zero, and the ledger of its latest entry."""

    account_id: str
    ledger_id: str


@dataclass(frozen=True, slots=True)
class SuspenseAccount:
    """An account that somebody named to take differences."""

    id: str
    currency_code: str
    asset_type: str


# Repeats inside one source are real: it states each of them. Of the ways that an entry came, the one with most of them
# stays, so that two real payments are two afterwards as well.
_POSTED_TWICE = """
WITH entry AS MATERIALIZED (
    SELECT e.id, e.ledger_id, e.reference_id, e.debit_account_id, e.credit_account_id, e.amount, e.currency_code,
           e.asset_type, e.transaction_type, e.timestamp_utc, e.fx_rate,
           coalesce(b.source_id, 'batch ' || e.batch_id, '') AS came_from
    FROM ledger_entries e
    LEFT JOIN backfill_batches b ON b.id = e.batch_id
    WHERE NOT EXISTS (SELECT FROM ledger_correction_entries x WHERE x.entry_id = e.id)
      AND NOT EXISTS (SELECT FROM ledger_corrections c
                      WHERE c.ledger_id = e.ledger_id AND c.reference_id = e.reference_id AND c.status = 'applied')
      AND NOT EXISTS (SELECT FROM ledger_reversals r WHERE r.entry_id = e.id)
      AND NOT EXISTS (SELECT FROM ledger_reversals r WHERE r.reversal_entry_id = e.id)
), repeated AS MATERIALIZED (
    SELECT row_number() OVER () AS number, ledger_id, debit_account_id, credit_account_id, amount, currency_code,
           asset_type, transaction_type, timestamp_utc, coalesce(fx_rate, 0) AS fx_rate
    FROM entry
    GROUP BY ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type, transaction_type,
             timestamp_utc, coalesce(fx_rate, 0)
    HAVING min(came_from) <> max(came_from)
), member AS MATERIALIZED (
    SELECT r.number, e.id, e.ledger_id, e.reference_id, e.came_from,
           row_number() OVER (PARTITION BY r.number, e.came_from ORDER BY e.id) AS place,
           count(*) OVER (PARTITION BY r.number, e.came_from) AS entries,
           min(e.id) OVER (PARTITION BY r.number, e.came_from) AS first_id
    FROM repeated r
    JOIN entry e
      ON (e.ledger_id, e.debit_account_id, e.credit_account_id, e.amount, e.currency_code, e.asset_type,
          e.transaction_type, e.timestamp_utc, coalesce(e.fx_rate, 0))
       = (r.ledger_id, r.debit_account_id, r.credit_account_id, r.amount, r.currency_code, r.asset_type,
          r.transaction_type, r.timestamp_utc, r.fx_rate)
), kept AS (
    SELECT DISTINCT ON (number) number, came_from FROM member
    ORDER BY number, entries DESC, came_from = '', first_id
)
SELECT count(*) OVER (), m.ledger_id, m.reference_id, stays.reference_id, m.came_from, stays.came_from
FROM member m
JOIN kept k ON k.number = m.number AND k.came_from <> m.came_from
JOIN member stays ON stays.number = m.number AND stays.came_from = k.came_from AND stays.place = m.place
ORDER BY m.id LIMIT %s
"""

_BELOW_ZERO = """
SELECT count(*) OVER (), a.id, l.ledger_id
FROM bank_accounts a
JOIN (SELECT DISTINCT ON (account_id) account_id, ledger_id FROM ledger_entry_legs
      WHERE account_id IN (SELECT id FROM bank_accounts WHERE available_balance < 0)
      ORDER BY account_id, timestamp_utc DESC, entry_id DESC) l ON l.account_id = a.id
WHERE a.available_balance < 0
ORDER BY a.id LIMIT %s
"""


def posted_twice(connection: Connection, *, limit: int) -> tuple[int, list[PostedTwice]]:
    """How many entries repeat another one, and the first of them."""
    with ledger_errors("look for repeated entries in"):
        rows = connection.execute(_POSTED_TWICE, [limit]).fetchall()
    return (rows[0][0] if rows else 0), [PostedTwice(*row[1:]) for row in rows]


def below_zero(connection: Connection, *, limit: int) -> tuple[int, list[BelowZero]]:
    """How many accounts are below zero, and the first of them."""
    with ledger_errors("look for negative balances in"):
        rows = connection.execute(_BELOW_ZERO, [limit]).fetchall()
    return (rows[0][0] if rows else 0), [BelowZero(*row[1:]) for row in rows]


def suspense_accounts(connection: Connection, account_ids: Sequence[str]) -> list[SuspenseAccount]:
    """Those of the named accounts that exist."""
    with ledger_errors("read accounts of"):
        rows = connection.execute(
            "SELECT id, currency_code, asset_type FROM bank_accounts WHERE id = ANY(%s) ORDER BY id",
            [list(account_ids)],
        ).fetchall()
    return [SuspenseAccount(*row) for row in rows]


def currencies_of(connection: Connection, account_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Currency and asset type of accounts, by id."""
    return {one.id: (one.currency_code, one.asset_type) for one in suspense_accounts(connection, account_ids)}


def ledger_of(connection: Connection, account_id: str) -> str | None:
    """The ledger of the latest entry of an account; None without any."""
    with ledger_errors("read entries from"):
        row = connection.execute(
            "SELECT ledger_id FROM ledger_entry_legs WHERE account_id = %s"
            " ORDER BY timestamp_utc DESC, entry_id DESC LIMIT 1",
            [account_id],
        ).fetchone()
    return None if row is None else str(row[0])
