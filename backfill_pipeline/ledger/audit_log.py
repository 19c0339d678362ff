"""The audit log: who decided what about the ledger, and whether anybody touched the log since.

Belongs here: reading the log, checking its chain, and four eyes. Rows are written by the database procedures of the
operations themselves (`write_audit_log` in SQL), in their transactions; `write` is for operations without one.
Does not: the operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg.types.json import Jsonb

from backfill_pipeline.ledger.connection import Connection, ledger_errors


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of the log. `actor` is the person, `database_user` who the database saw; hashes are hexadecimal."""

    number: int
    happened_at: datetime
    actor: str
    database_user: str
    action: str
    subject: str
    reason: str | None
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    plan_hash: str | None
    row_hash: str


@dataclass(frozen=True, slots=True)
class ChainFault:
    """A row of the log that is not as it was written, or a place where rows are missing."""

    number: int
    fault: str


@dataclass(frozen=True, slots=True)
class Head:
    """The row that was written last: its number is how many there are. No hash before the first one."""

    number: int
    row_hash: str


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What one person asked for and another one has yet to confirm."""

    id: int
    action: str
    subject: str
    requested_by: str
    requested_at: datetime
    reason: str | None


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What became of withdrawing a request; `by` is who confirmed it, or the other person who asked."""

    outcome: Literal["withdrawn", "unknown", "confirmed", "another person"]
    by: str | None = None


def write(
    connection: Connection,
    *,
    actor: str,
    action: str,
    subject: str,
    reason: str | None = None,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
    plan_hash: str | None = None,
) -> int:
    """Writes a row in the caller's transaction, that of the operation itself; returns its number."""
    row = connection.execute(
        "SELECT write_audit_log(%s, %s, %s, %s, %s, %s, %s)",
        [
            actor,
            action,
            subject,
            reason,
            None if before is None else Jsonb(dict(before)),
            None if after is None else Jsonb(dict(after)),
            plan_hash,
        ],
    ).fetchone()
    assert row is not None
    return int(row[0])


def entries(connection: Connection, *, subject: str | None = None, limit: int = 100) -> list[AuditEntry]:
    """The latest rows, newest first.

    Args:
        connection: to the ledger.
        subject: only what was done to this.
        limit: at most so many.
    """
    with ledger_errors("read the audit log of"):
        rows = connection.execute(
            "SELECT number, happened_at, actor, database_user, action, subject, reason, before, after, plan_hash,"
            " encode(row_hash, 'hex') FROM audit_log WHERE subject = %(subject)s OR %(subject)s::text IS NULL"
            " ORDER BY number DESC LIMIT %(limit)s",
            {"subject": subject, "limit": limit},
        ).fetchall()
    return [AuditEntry(*row) for row in rows]


def faults(connection: Connection) -> list[ChainFault]:
    """Everything that is wrong with the chain; empty as long as nobody touched the log."""
    with ledger_errors("verify the audit log of"):
        rows = connection.execute("SELECT number, fault FROM audit_log_faults()").fetchall()
    return [ChainFault(*row) for row in rows]


def head(connection: Connection) -> Head:
    """The end of the chain: whoever keeps its hash elsewhere can tell later whether all of it was written anew."""
    with ledger_errors("read the audit log of"):
        row = connection.execute("SELECT number, encode(row_hash, 'hex') FROM audit_log_head").fetchone()
    assert row is not None
    return Head(*row)


def four_eyes(connection: Connection) -> bool:
    """Whether another person than who asks has to confirm."""
    with ledger_errors("read the controls of"):
        row = connection.execute("SELECT four_eyes FROM ledger_controls").fetchone()
    assert row is not None
    return bool(row[0])


def set_four_eyes(connection: Connection, on: bool, *, actor: str, reason: str | None) -> bool:
    """Switches four eyes; False when another person has to confirm it first, by asking for the same."""
    with ledger_errors("set the controls of"):
        row = connection.execute("SELECT set_four_eyes(%s, %s, %s)", [on, actor, reason]).fetchone()
    assert row is not None
    return bool(row[0])


def open_requests(connection: Connection) -> list[OpenRequest]:
    """What waits for another person, oldest first."""
    with ledger_errors("read requests from"):
        rows = connection.execute(
            "SELECT id, action, subject, requested_by, requested_at, reason FROM ledger_approvals"
            " WHERE approved_at IS NULL ORDER BY id"
        ).fetchall()
    return [OpenRequest(*row) for row in rows]


def withdraw(connection: Connection, request_id: int, *, actor: str, reason: str | None) -> Withdrawal:
    """Takes an open request back, which only who made it may do."""
    with ledger_errors("withdraw a request from"):
        row = connection.execute(
            "SELECT withdraw_request(%s, %s, %s)", [request_id, actor, reason]
        ).fetchone()
    assert row is not None
    return Withdrawal(**row[0])
