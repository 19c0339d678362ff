"""Rolling back: taking a source, a partition or a batch out of the ledger again.

Belongs here: asking for a plan, and having exactly that plan applied.
Does not: how it is done and proven. That is one transaction of the database (`migrations/0019_rollback.sql`), the same
for whoever calls `rollback_plan()` and `rollback_apply()` from psql.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import psycopg

from backfill_pipeline.errors import LedgerError, SourceBusyError, TransientLedgerError, UsageError
from backfill_pipeline.ledger.connection import Connection, ledger_errors

Mode = Literal["delete", "reverse"]
ReverseAt = Literal["original", "now"]


class StalePlanError(LedgerError):
    """The ledger is not what the plan was made of; nothing was done."""


@dataclass(frozen=True, slots=True)
class RollbackScope:
    """What to roll back: a whole source with its opening balances, one of its partitions, or one of its batches."""

    source_id: str
    partition_key: str | None = None
    batch_id: int | None = None


@dataclass(frozen=True, slots=True)
class Rollback:
    """A rollback that was applied. `source_id` is what was asked for: of a bank, it stands for its days too."""

    id: int
    source_id: str
    partition_key: str | None
    batch_id: int | None
    mode: Mode
    plan_hash: str
    actor: str
    reason: str | None
    rolled_back_at: datetime
    entries: int


def plan(
    connection: Connection,
    scope: RollbackScope,
    *,
    mode: Mode | None = None,
    reverse_at: ReverseAt | None = None,
) -> dict[str, object]:
    """What rolling back would do: entries, accounts with their balances after it, dependents, outbox rows.

    Reads only and locks nothing. The keys are those of the SQL function `rollback_plan`; `plan_hash` stands for all of
    it.

    Args:
        connection: to the ledger.
        scope: what to roll back.
        mode: how; by default the entries are deleted where that is allowed, and else reversed.
        reverse_at: when reversing entries are dated; by default when the entries happened, unless a period is closed.

    Raises:
        UsageError: there is no such source, partition or batch.
    """
    with ledger_errors("plan a rollback in"):
        try:
            row = connection.execute(
                "SELECT rollback_plan(%s, %s, %s, %s, %s)",
                [scope.source_id, scope.partition_key, scope.batch_id, mode, reverse_at],
            ).fetchone()
        except psycopg.Error as error:
            raise _in_words(error) from error
    assert row is not None
    return dict(row[0])


def apply(
    connection: Connection,
    scope: RollbackScope,
    *,
    plan_hash: str,
    actor: str,
    reason: str | None = None,
    mode: Mode | None = None,
    reverse_at: ReverseAt | None = None,
) -> dict[str, object]:
    """Does what a plan said, in one transaction with its proof: all of it, or nothing.

    Returns:
        The plan, with `applied`, and when that is true `rollback` (its id) and `proof`. It is false when nothing of the
        scope is posted any more.

    Args:
        connection: to the ledger, autocommit.
        scope: as planned.
        plan_hash: of the plan.
        actor: who applies it.
        reason: why.
        mode: as given to the plan.
        reverse_at: likewise.

    Reversing entries are sealed when it is done and others post again, not while they wait.

    Raises:
        StalePlanError: something changed since the plan, and what; or the hash is of another plan.
        SourceBusyError: a run writes the source.
        LedgerError: it cannot be rolled back in this way, or the proof failed.
        UsageError: there is no such source, partition or batch, or this is no plan's hash.
    """
    with ledger_errors("roll back in"):
        try:
            row = connection.execute(
                "SELECT rollback_apply(%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    scope.source_id,
                    scope.partition_key,
                    scope.batch_id,
                    mode,
                    reverse_at,
                    plan_hash,
                    actor,
                    reason,
                ],
            ).fetchone()
        except psycopg.Error as error:
            raise _in_words(error) from error
    assert row is not None
    done = dict(row[0])
    if done["applied"] and (batch_ids := done["proof"]["reversal_batches"]):
        # It is done: whatever keeps the seals from being made now, the next run makes them.
        with suppress(LedgerError, TransientLedgerError), ledger_errors("seal reversing entries of"):
            connection.execute("SELECT seal_batches(%s)", [batch_ids])
    return done


def load(connection: Connection, rollback_id: int) -> Rollback | None:
    """A rollback that was applied, or None."""
    with ledger_errors("read rollbacks from"):
        row = connection.execute(
            "SELECT id, source_id, partition_key, batch_id, mode, plan_hash, actor, reason, rolled_back_at,"
            " (proof ->> 'entries')::bigint FROM backfill_rollbacks WHERE id = %s",
            [rollback_id],
        ).fetchone()
    return Rollback(*row) if row else None


def refusal(found: Mapping[str, object]) -> str | None:
    """Why a plan cannot be applied as it is, in a sentence; None when it can."""
    refused = found["refused"]
    assert isinstance(refused, list)
    return str(refused[0]) if refused else None


def _in_words(error: psycopg.Error) -> Exception:
    """Errors that the functions raise on purpose, as our own; any other as it is, for `ledger_errors`."""
    text = error.diag.message_primary or ""
    # BFR…: the codes of rollback_apply(); 22023: asked for what does not exist or cannot be meant.
    match error.sqlstate:
        case "BFR01":
            return StalePlanError(text)
        case "BFR02" | "BFR04":
            return LedgerError(text)
        case "BFR03":
            return SourceBusyError(text)
        case "22023":
            return UsageError(text)
    return error
