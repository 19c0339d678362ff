"""Metrics of banks, of the ledger as a whole, and of the looks at it.

Belongs here: their names and help, and which figure of a snapshot each shows.
Does not: sources (`source_metrics.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from backfill_pipeline.ledger.monitoring.banks import DAY_STATES
from backfill_pipeline.ledger.monitoring.controls import CONSTRAINT_STATES
from backfill_pipeline.ledger.monitoring.snapshot import Snapshot
from backfill_pipeline.reporting.metrics.family import Family, Sample


def _days(snapshot: Snapshot) -> Iterator[Sample]:
    for one in snapshot.bank_days:
        for state, count in zip(DAY_STATES, one.states, strict=True):
            yield (one.source, one.bank, state), count


def _constraints_state(snapshot: Snapshot) -> Iterator[Sample]:
    for state in CONSTRAINT_STATES:
        yield (state,), int(snapshot.ledger.constraints_state == state)


BANK_METRICS: Final[tuple[Family, ...]] = (
    Family(
        "backfill_bank_days",
        "gauge",
        ("source", "bank", "state"),
        "Days of a bank that were begun, by state: complete, break (both ledgers differ), failed, open",
        _days,
    ),
    Family(
        "backfill_bank_complete_to_timestamp_seconds",
        "gauge",
        ("source", "bank"),
        "The end of the last day up to which all days of a bank are complete; now less this is how far it is behind",
        lambda s: (((one.source, one.bank), one.complete_to.timestamp()) for one in s.bank_days),
        unit="seconds",
    ),
    Family(
        "backfill_bank_entries",
        "gauge",
        ("source", "bank"),
        "Entries that came from a bank and are posted, over all days",
        lambda s: (((one.source, one.bank), one.entries) for one in s.bank_days),
    ),
    Family(
        "backfill_bank_unacknowledged_entries",
        "gauge",
        ("source", "bank"),
        "Of these, the ones that the bank is not known to know of",
        lambda s: (((one.source, one.bank), one.unacknowledged) for one in s.bank_days),
    ),
    Family(
        "backfill_bank_breaks",
        "gauge",
        ("source", "bank"),
        "What differs between both ledgers, as last compared, over all days",
        lambda s: (((one.source, one.bank), one.breaks) for one in s.bank_days),
    ),
    Family(
        "backfill_bank_consecutive_failures",
        "gauge",
        ("bank", "ledger"),
        "Requests in a row that a bank did not answer",
        lambda s: (((one.bank, one.ledger), one.failures) for one in s.bank_connections),
    ),
    Family(
        "backfill_bank_left_alone",
        "gauge",
        ("bank", "ledger"),
        "1 while nobody asks a bank because it did not answer, else 0",
        lambda s: (((one.bank, one.ledger), int(one.is_left_alone)) for one in s.bank_connections),
    ),
    Family(
        "backfill_bank_last_success_timestamp_seconds",
        "gauge",
        ("bank", "ledger"),
        "When a bank last answered what it was told",
        lambda s: (
            ((one.bank, one.ledger), one.last_success_at.timestamp())
            for one in s.bank_connections
            if one.last_success_at is not None
        ),
        unit="seconds",
    ),
    Family(
        "backfill_outbox_rows",
        "gauge",
        ("bank", "kind", "status"),
        "Rows of the outbox that a bank has not heard of, by kind (acknowledgement, entry) and status: PENDING, SENT"
        " (without an answer), FAILED (tried again), DEAD (given up)",
        lambda s: (((one.bank, one.kind, one.status), one.rows) for one in s.waiting),
    ),
    Family(
        "backfill_outbox_oldest_timestamp_seconds",
        "gauge",
        ("bank", "kind", "status"),
        "When the oldest of them was written; no series where there is none",
        lambda s: (
            ((one.bank, one.kind, one.status), one.oldest_at.timestamp())
            for one in s.waiting
            if one.oldest_at is not None
        ),
        unit="seconds",
    ),
)

LEDGER_METRICS: Final[tuple[Family, ...]] = (
    Family(
        "backfill_constraint_in_force",
        "gauge",
        ("constraint",),
        "1 for each of the four balance constraints and two foreign keys that holds for every row, else 0",
        lambda s: (((name,), int(holds)) for name, holds in s.ledger.constraints_in_force.items()),
    ),
    Family(
        "backfill_constraints_state",
        "gauge",
        ("state",),
        "1 for the state that the constraints are in, 0 for the others: applied, refused, suspended, not applied",
        _constraints_state,
    ),
    Family(
        "backfill_offending_accounts",
        "gauge",
        (),
        "Accounts whose balances break a balance constraint",
        lambda s: (((), s.ledger.offending_accounts),),
        strategy=True,
    ),
    Family(
        "backfill_schema_missing_parts",
        "gauge",
        (),
        "Tables, functions and triggers that the ledger relies on and that are not there, or switched off",
        lambda s: (((), s.ledger.missing_parts),),
    ),
    Family(
        "backfill_unfinished_data_steps",
        "gauge",
        (),
        "Migrations that have rows left to go over",
        lambda s: (((), s.ledger.unfinished_data_steps),),
    ),
    Family(
        "backfill_open_requests",
        "gauge",
        (),
        "Requests that wait for another person",
        lambda s: (((), s.ledger.open_requests),),
    ),
    Family(
        "backfill_corrections",
        "gauge",
        ("status",),
        "Corrections by status: proposed, approved, rejected, stale, applied, undone",
        lambda s: (((one.name,), one.count) for one in s.correction_counts),
    ),
    Family(
        "backfill_closed_periods",
        "gauge",
        (),
        "Months of ledgers that are closed",
        lambda s: (((), s.ledger.closed_periods),),
    ),
    Family(
        "backfill_seals",
        "counter",
        ("ledger", "kind"),
        "Seals in the chain of a ledger by kind: batch, period, annulment; none is ever taken away",
        lambda s: (((one.ledger, one.kind), one.seals) for one in s.seal_counts),
    ),
    Family(
        "backfill_unsealed_batches",
        "gauge",
        ("source",),
        "Batches that posted entries and have no seal yet. No series: none",
        lambda s: (((one.name,), one.count) for one in s.unsealed_batches),
    ),
    Family(
        "backfill_database_size_bytes",
        "gauge",
        (),
        "What the ledger's database takes on its disk",
        lambda s: (((), s.ledger.size_bytes),),
        unit="bytes",
    ),
    Family(
        "backfill_postgresql_info",
        "gauge",
        ("version",),
        "The server of the ledger",
        lambda s: (((s.server_version,), 1),),
    ),
)

LOOK_METRICS: Final[tuple[Family, ...]] = (
    Family(
        "backfill_look_timestamp_seconds",
        "gauge",
        (),
        "When the ledger was looked at: all figures are of this moment",
        lambda s: (((), s.taken_at.timestamp()),),
        unit="seconds",
    ),
    Family(
        "backfill_look_query_duration_seconds",
        "gauge",
        ("query",),
        "Time that each query of this look took in the database",
        lambda s: (((name,), seconds) for name, seconds in s.query_seconds.items()),
        unit="seconds",
        strategy=True,
    ),
)


def _nothing(_snapshot: Snapshot) -> Iterator[Sample]:
    """These say how looking went; they are there when there is no snapshot."""
    yield from ()


UP: Final = Family(
    "backfill_up",
    "gauge",
    (),
    "1 when the ledger could be looked at, else 0; then there are no metrics but these",
    _nothing,
)
BUILD: Final = Family(
    "backfill_build_info", "gauge", ("version",), "The release that looks at the ledger", _nothing
)
FAILURES: Final = Family(
    "backfill_look_failures",
    "counter",
    ("reason",),
    "Looks that failed since this process began: unreachable, schema (of another release), timeout, failed",
    _nothing,
)
ALWAYS: Final[tuple[Family, ...]] = (UP, BUILD, FAILURES)
"""Also there when the ledger is not."""
