"""The ledger as a whole: its constraints, schema, seals, and what waits for a person.

Belongs here: what can be asked without reading entries. The audit (`ledger/auditing/`) reads them.
Does not: sources (`sources.py`), banks (`banks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.auditing.schema import missing_parts, present_objects
from backfill_pipeline.ledger.connection import Connection

CONSTRAINT_STATES: Final = ("applied", "refused", "suspended", "not applied")
CORRECTION_STATUSES: Final = ("proposed", "approved", "rejected", "stale", "applied", "undone")


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What holds for the ledger as a whole.

    Attributes:
        constraints_in_force: name → whether it holds for every row, of all six.
        constraints_state: one of CONSTRAINT_STATES.
        offending_accounts: accounts whose balances break a constraint; 0 by construction where all are in force.
        missing_parts: tables, functions and triggers that the ledger relies on and that are not there, or switched off.
        unfinished_data_steps: migrations that have rows left to go over.
        open_requests: that wait for another person.
        closed_periods: months of ledgers.
        size_bytes: of the database.
    """

    constraints_in_force: Mapping[str, bool]
    constraints_state: str
    offending_accounts: int
    missing_parts: int
    unfinished_data_steps: int
    open_requests: int
    closed_periods: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SealCount:
    """Seals of one kind in the chain of a ledger; they are never taken away."""

    ledger: str
    kind: str
    seals: int


@dataclass(frozen=True, slots=True)
class Named:
    """A count under a name: batches of a source, corrections of a status."""

    name: str
    count: int


_COUNTS: Final = """
    SELECT (SELECT count(*) FROM ledger_data_steps WHERE finished_at IS NULL),
           (SELECT count(*) FROM ledger_approvals WHERE approved_at IS NULL),
           (SELECT count(*) FROM ledger_periods),
           pg_database_size(current_database())
"""
_SEALS: Final = "SELECT ledger_id, kind, count(*) FROM ledger_seals GROUP BY 1, 2 ORDER BY 1, 2"
_UNSEALED: Final = """
    SELECT split_part(b.source_id, '@', 1), count(*) FROM backfill_batches b
    WHERE b.posted > 0 AND NOT EXISTS (SELECT 1 FROM ledger_seals s WHERE s.kind = 'batch' AND s.batch_id = b.id)
    GROUP BY 1 ORDER BY 1
"""
_CORRECTIONS: Final = """
    SELECT status.status, count(c.id) FROM unnest(%(statuses)s::text[]) AS status (status)
    LEFT JOIN ledger_corrections c ON c.status = status.status GROUP BY 1 ORDER BY 1
"""


def ledger_state(connection: Connection) -> LedgerState:
    """What holds for the ledger as a whole. Accounts are looked at only while a constraint is not in force."""
    in_force = constraints.constraints_in_force(connection)
    wanted = (*constraints.BALANCE_CHECKS, *constraints.FOREIGN_KEYS)
    offending = 0
    if not in_force.issuperset(constraints.BALANCE_CHECKS):
        offending = constraints.offenders(connection).offending
    missing = missing_parts(connection, present_objects(connection))
    row = connection.execute(_COUNTS).fetchone()
    assert row is not None
    return LedgerState(
        {name: name in in_force for name in wanted},
        constraints.state(connection),
        offending,
        len(missing),
        *row,
    )


def seal_counts(connection: Connection) -> list[SealCount]:
    """Seals by ledger and kind."""
    return [SealCount(*row) for row in connection.execute(_SEALS).fetchall()]


def unsealed_batches(connection: Connection) -> list[Named]:
    """Batches that posted entries and have no seal yet, by source."""
    return [Named(*row) for row in connection.execute(_UNSEALED).fetchall()]


def correction_counts(connection: Connection) -> list[Named]:
    """Corrections by status; every status is there."""
    rows = connection.execute(_CORRECTIONS, {"statuses": list(CORRECTION_STATUSES)}).fetchall()
    return [Named(*row) for row in rows]
