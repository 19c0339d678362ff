"""What a rehearsal adds up to: sums, accounts, and who would stand against the balance constraints.

Belongs here: queries on the tables of a rehearsal, when all batches are in.
Does not: making or filling these tables (`rehearsal_tables`, `rehearsal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from psycopg import sql

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.rehearsal_tables import ACCOUNTS, ENTRIES, OPENING

SAMPLE_SIZE = 20


@dataclass(frozen=True, slots=True)
class Total:
    """Entries of one ledger and currency that would be posted: their number, sum, and first and last event time."""

    ledger_id: str
    currency_code: str
    entries: int
    amount: Decimal
    earliest: datetime
    latest: datetime


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account that would be opened, with its balance afterwards; `opened_by` is accounts file or entries."""

    account_id: str
    currency_code: str
    normal_side: str
    opened_by: str
    balance: Decimal


@dataclass(frozen=True, slots=True)
class LowAccount:
    """An account that would end in breach of a balance constraint.

    Attributes:
        available_now: before; None when it would be opened.
    """

    account_id: str
    currency_code: str
    available_now: Decimal | None
    available_balance: Decimal
    balance: Decimal
    reserved_balance: Decimal


@dataclass(frozen=True, slots=True)
class ConstraintOutlook:
    """The balance constraints now and after a run.

    Attributes:
        now: applied, suspended, refused or not applied.
        after: applied or refused.
        offending: accounts that stand against them; `sample` has the worst.
    """

    now: str
    after: str
    offending: int
    sample: tuple[LowAccount, ...]


def totals(connection: Connection, *, opening: bool) -> list[Total]:
    """What would be posted, per ledger and currency: opening entries, or all others."""
    with ledger_errors("rehearse in"):
        rows = connection.execute(
            sql.SQL(
                "SELECT ledger_id, currency_code, count(*), sum(amount), min(timestamp_utc), max(timestamp_utc)"
                " FROM {} WHERE (batch_id = %s) = %s GROUP BY 1, 2 ORDER BY 1, 2"
            ).format(sql.Identifier(ENTRIES)),
            [OPENING, opening],
        ).fetchall()
    return [Total(*row) for row in rows]


def new_accounts(connection: Connection) -> tuple[dict[str, int], list[NewAccount]]:
    """How many accounts would be opened by what, and the first of them by id; of each kind at most SAMPLE_SIZE."""
    with ledger_errors("rehearse in"):
        rows = connection.execute(
            "SELECT count, id, currency_code, normal_side, opened_by, balance FROM"
            " (SELECT *, count(*) OVER (PARTITION BY opened_by) AS count,"
            " row_number() OVER (PARTITION BY opened_by ORDER BY id) AS place"
            " FROM bank_accounts WHERE available_before IS NULL) AS new"
            " WHERE place <= %s ORDER BY opened_by, id",
            [SAMPLE_SIZE],
        ).fetchall()
    found = [NewAccount(*row[1:]) for row in rows]
    return {account.opened_by: row[0] for row, account in zip(rows, found, strict=True)}, found


def unknown_accounts(connection: Connection) -> tuple[int, list[str]]:
    """How many accounts are named that neither the ledger has nor the source opens, and the first by id."""
    with ledger_errors("rehearse in"):
        rows = connection.execute(
            "SELECT count(*) OVER (), id FROM backfill_unknown_accounts ORDER BY id LIMIT %s",
            [SAMPLE_SIZE],
        ).fetchall()
    return (rows[0][0] if rows else 0), [account_id for _, account_id in rows]


def constraint_outlook(connection: Connection, now: str) -> ConstraintOutlook:
    """Which accounts would stand against the balance constraints at the end; all accounts count, as in a run."""
    if now == "applied":
        return ConstraintOutlook("applied", "applied", 0, ())
    report = constraints.offenders(connection, ACCOUNTS)
    with ledger_errors("rehearse in"):
        rows = connection.execute(
            "SELECT id, available_before FROM bank_accounts WHERE id = ANY(%s)",
            [[one.account_id for one in report.sample]],
        ).fetchall()
    met: dict[str, Decimal | None] = dict(rows)
    return ConstraintOutlook(
        now,
        report.state,
        report.offending,
        tuple(
            LowAccount(
                one.account_id,
                one.currency_code,
                met.get(one.account_id, one.available_balance),
                one.available_balance,
                one.balance,
                one.reserved_balance,
            )
            for one in report.sample
        ),
    )
