"""Periods: months of a ledger that are closed, in which the database takes no entry and gives none away.

Belongs here: closing, reopening and listing them.
Does not: refusing entries (a trigger, and `staging` for a batch), what is sealed when a period closes (`seals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from backfill_pipeline.ledger import seals
from backfill_pipeline.ledger.connection import Connection, ledger_errors

REOPEN: Final = "period_reopen"
"""What two people ask for, as requests and the audit log name it."""


@dataclass(frozen=True, slots=True)
class ClosedPeriod:
    """A month (UTC) of a ledger that is closed.

    Attributes:
        month: its first day.
        entries: how many the ledger had in it when it was closed; None without a seal.
        seal: over them, hexadecimal; None when somebody closed it by hand.
    """

    ledger_id: str
    month: date
    closed_at: datetime
    closed_by: str
    reason: str | None
    entries: int | None
    seal: str | None


def close(connection: Connection, ledger_id: str, month: date, *, actor: str, reason: str | None) -> bool:
    """Closes a month and seals its entries; False when it was closed already.

    Raises:
        LedgerError: the month is not over, or the ledger has no entries.
        TransientLedgerError: the ledger is busy for too long: closing waits for batches that are being posted.
    """
    # Before others have to wait: what is sealed by then need not be sealed while they do.
    seals.seal_batches(connection)
    with ledger_errors("close a period of"):
        row = connection.execute(
            "SELECT close_period(%s, %s, %s, %s)", [ledger_id, month, actor, reason]
        ).fetchone()
    assert row is not None
    return bool(row[0])


def reopen(connection: Connection, ledger_id: str, month: date, *, actor: str, reason: str | None) -> bool:
    """Opens a closed month again; False when another person has to confirm it first, by asking for the same."""
    with ledger_errors("reopen a period of"):
        row = connection.execute(
            "SELECT reopen_period(%s, %s, %s, %s)", [ledger_id, month, actor, reason]
        ).fetchone()
    assert row is not None
    return bool(row[0])


def is_closed(connection: Connection, ledger_id: str, month: date) -> bool:
    """Whether the month of this day is closed."""
    with ledger_errors("read periods of"):
        row = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM ledger_periods"
            " WHERE ledger_id = %s AND month = date_trunc('month', %s::timestamp)::date)",
            [ledger_id, month],
        ).fetchone()
    assert row is not None
    return bool(row[0])


def closed_periods(connection: Connection, ledger_id: str | None = None) -> list[ClosedPeriod]:
    """Every closed month by ledger and time, or those of one ledger."""
    with ledger_errors("read periods of"):
        rows = connection.execute(
            "SELECT p.ledger_id, p.month, p.closed_at, p.closed_by, p.reason, s.entries, encode(s.seal, 'hex')"
            " FROM ledger_periods p"
            " LEFT JOIN ledger_seals_in_force s ON s.ledger_id = p.ledger_id AND s.month = p.month"
            " WHERE p.ledger_id = %(ledger)s OR %(ledger)s::text IS NULL ORDER BY 1, 2",
            {"ledger": ledger_id},
        ).fetchall()
    return [ClosedPeriod(*row) for row in rows]
