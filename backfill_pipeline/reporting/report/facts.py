"""The facts of a report: everything that its page shows, read at one moment.

Belongs here: reading them from the ledger, in one snapshot.
Does not: judging them (`outcome.py`), showing them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Context, Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import split_day_source_id
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import (
    balances,
    constraints,
    evidence,
    figures,
    overview,
    reconciliation,
    registrations,
    status,
)
from backfill_pipeline.ledger.banks import bank_progress, outbox, sync_status
from backfill_pipeline.ledger.banks.bank_progress import BankProgress
from backfill_pipeline.ledger.banks.outbox import OutboxCount
from backfill_pipeline.ledger.banks.sync_status import SyncStatus
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.constraints import ConstraintReport
from backfill_pipeline.ledger.evidence import ChainHead
from backfill_pipeline.ledger.figures import BatchFigures, CurrencyTotal, DayVolume, Scope, ThroughputPoint
from backfill_pipeline.ledger.overview import (
    CodeCount,
    CorrectionLine,
    Counts,
    RejectSample,
    Revision,
    RolledBack,
    Sealed,
)
from backfill_pipeline.ledger.reconciliation import Verdict
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.ledger.status import PartitionOutcome
from backfill_pipeline.pages.parts import LONG
from backfill_pipeline.settings import checkout_dir

DECISIONS_MAX: Final = 50
"""Rollbacks, and corrections, that a page lists."""


# Sums of a source may have more digits than Python's decimals keep by default: nothing is rounded here.
_EXACT: Final = Context(prec=1000)


@dataclass(frozen=True, slots=True)
class BankFacts:
    """What is known of a bank, or of one of its days.

    Attributes:
        progress: None while no day was begun.
        days: that were begun, in order; of a day's report, this one.
        outbox: rows for the bank, of all days.
    """

    progress: BankProgress | None
    days: Sequence[SyncStatus]
    outbox: Sequence[OutboxCount]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ledger says of a source.

    Attributes:
        read_at: the moment of all of it.
        registration: the current one; None for a bank, whose days have one each.
        partitions: of the registration, in source order; none for a bank.
        volumes: entries per day and currency. `points` and `batches` say how fast they came in.
        codes: rejected rows by code, and `samples` of them.
        verdict: of the latest reconciliation; None when there is none. `stale`: something was posted or rolled back
            since. Of a bank, its days say this.
        unbalanced: currency → what debits and credits of the whole ledger differ by.
        offenders: who stands against the balance constraints, while these are not applied.
        rollbacks, corrections: how many, and the latest ones.
    """

    source_id: str
    source_type: str
    description: str
    read_at: datetime
    product_version: str
    server_version: str
    counts: Counts
    registration: Registration | None
    revisions: Sequence[Revision]
    partitions: Sequence[PartitionOutcome]
    batches: BatchFigures | None
    points: Sequence[ThroughputPoint]
    volumes: Sequence[DayVolume]
    codes: Sequence[CodeCount]
    samples: Sequence[RejectSample]
    verdict: Verdict | None
    stale: bool
    unbalanced: Mapping[str, Decimal]
    constraints: str
    offenders: ConstraintReport | None
    sealed: Sealed
    chain_heads: Sequence[ChainHead]
    rollbacks: tuple[int, Sequence[RolledBack]]
    corrections: tuple[int, Sequence[CorrectionLine]]
    bank: BankFacts | None

    @property
    def totals(self) -> list[CurrencyTotal]:
        """Entries by currency."""
        found: dict[str, CurrencyTotal] = {}
        for one in self.volumes:
            before = found.get(one.currency_code, CurrencyTotal(one.currency_code, 0, Decimal(0)))
            found[one.currency_code] = replace(
                before, entries=before.entries + one.entries, amount=_EXACT.add(before.amount, one.amount)
            )
        return [found[code] for code in sorted(found)]

    @property
    def rejected_now(self) -> int:
        """Rows that are rejected and not repaired."""
        return sum(one.rejected for one in self.codes)


def read_facts(
    connection: Connection, definition: SourceDefinition, *, read_at: datetime, samples: int
) -> Facts:
    """Reads all that a report shows, in one snapshot.

    Args:
        connection: to the ledger, autocommit.
        definition: of a source, of a bank, or of one of its days.
        read_at: the moment that the page states.
        samples: rejected rows of each code at most; with 0, none is read.

    Raises:
        UsageError: nothing of it was ever registered.
        TransientLedgerError: the ledger cannot be read right now.
    """
    source_id = definition.id
    with evidence.snapshot(connection):
        ids = overview.registration_ids(connection, source_id)
        bank = _bank(connection, definition, read_at)
        if not ids and (bank is None or not bank.days):
            raise UsageError(f"source {source_id} was never run here: there is nothing to report")
        registration = registrations.load(connection, source_id) if ids else None
        verdict = None if registration is None else reconciliation.latest(connection, registration.id)
        scope = Scope(ids)
        state = constraints.state(connection)
        return Facts(
            source_id=source_id,
            source_type=definition.type,
            description=definition.description or "",
            read_at=read_at,
            product_version=_product_version(),
            server_version=evidence.server_version(connection),
            counts=overview.counts(connection, ids),
            registration=registration,
            revisions=overview.revisions(connection, source_id) if registration else (),
            partitions=status.partition_outcomes(connection, registration.id) if registration else (),
            batches=figures.batch_figures(connection, scope),
            points=figures.throughput(connection, scope),
            volumes=figures.daily_volume(connection, scope),
            codes=overview.reject_counts(connection, ids),
            samples=overview.reject_samples(connection, ids, per_code=samples, characters=LONG)
            if samples
            else (),
            verdict=verdict,
            stale=registration is not None
            and verdict is not None
            and evidence.changed_since(connection, source_id, registration.id),
            unbalanced={code: net for code, net in balances.trial_balance(connection).items() if net},
            constraints=state,
            offenders=None if state == "applied" else constraints.offenders(connection),
            sealed=overview.sealed(connection, source_id),
            chain_heads=evidence.chain_heads(connection, source_id),
            rollbacks=overview.rollbacks(connection, source_id, limit=DECISIONS_MAX),
            corrections=overview.corrections(connection, source_id, limit=DECISIONS_MAX),
            bank=bank,
        )


def _bank(connection: Connection, definition: SourceDefinition, now: datetime) -> BankFacts | None:
    if definition.scb is None:
        return None
    named = split_day_source_id(definition.id)
    bank_source, day = (definition.id, None) if named is None else named
    days = sync_status.load(connection, bank_source, day, day)
    found = [one for one in bank_progress.progress(connection, now) if one.source_id == bank_source]
    return BankFacts(
        progress=found[0] if found else None,
        days=days,
        outbox=outbox.counts(connection, definition.scb.bank_id),
    )


def _product_version() -> str:
    try:
        return version("backfill-pipeline")
    except PackageNotFoundError:  # a checkout that was never installed
        root = checkout_dir()
    if root is None:
        return "unknown"
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['version']}, from a checkout"
