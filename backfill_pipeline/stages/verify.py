"""Verification: the ledger held against its seals, and what was touched named, batch by batch and entry by entry.

Belongs here: what is verified, and naming an entry by comparing its batch with the stored extract.
Does not: hashing (`ledger/seals.py`), comparing field by field (`comparison.py`), repairing anything.

A seal tells that a batch is not what it was, not what is different. That is told by what its source says, once more:
the validated frame of its partition, or the source itself when the frame is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger import reconciliation, rejects, seals, touched_batches
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.seals import ChainFault, Touched, Unsealed
from backfill_pipeline.ledger.touched_batches import BatchRecord
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.stages.comparison import (
    BREAK_SAMPLE,
    EntryBreak,
    align,
    different_breaks,
    missing_breaks,
    unexpected_breaks,
)
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.replay import replayed_entries
from backfill_pipeline.stages.work import Places, SourceWork, open_work

_EXAMINED: Final = 20
"""Batches whose entries are compared; of others only the batch is named."""

DefinitionOf = Callable[[str], SourceDefinition]
"""Gives the definition of a source by its id. Raises BackfillError when there is none that can be used."""


@dataclass(slots=True)
class TouchedSeal:
    """A batch or period that is not as it was sealed.

    Attributes:
        subject: in words, such as "batch 7 of bank_export, partition 0003".
        month: of a period, as 2024-01.
        sealed: entries that the ledger should hold of it, and `found` those that it holds.
        breaks: a sample of its entries that differ; `break_count` is complete.
        unexplained: why no entry is named; None when one is.
        corrected_by: the corrections with which it is what was sealed, field for field; empty when it is not.
    """

    ledger_id: str
    number: int | None
    subject: str
    batch_id: int | None
    month: str | None
    source_id: str | None
    partition_key: str | None
    sealed: int
    found: int
    break_count: int = 0
    breaks: list[EntryBreak] = field(default_factory=list)
    unexplained: str | None = None
    corrected_by: tuple[int, ...] = ()

    def add_all(self, found: Iterable[tuple[EntryBreak, int]]) -> None:
        """Counts breaks and keeps some of them."""
        for one, count in found:
            self.break_count += count
            if len(self.breaks) < BREAK_SAMPLE:
                self.breaks.append(one)


@dataclass(slots=True)
class VerificationReport:
    """The outcome. `unsealed` is about the whole ledger; None when a part of it was verified."""

    seals: int = 0
    entries: int = 0
    seconds: float = 0.0
    chain_faults: list[ChainFault] = field(default_factory=list)
    touched: list[TouchedSeal] = field(default_factory=list)
    unsealed: Unsealed | None = None

    @property
    def intact(self) -> bool:
        """True only when chains and entries are as they were sealed."""
        return not (self.chain_faults or self.touched)

    @property
    def corrected(self) -> bool:
        """Something was touched, and all of it is what was sealed together with the corrections made since."""
        return not self.chain_faults and bool(self.touched) and all(one.corrected_by for one in self.touched)

    @property
    def verdict(self) -> str:
        """intact, corrected or touched."""
        return "intact" if self.intact else "corrected" if self.corrected else "touched"


def verify(
    connection: Connection,
    places: Places,
    definition_of: DefinitionOf,
    *,
    source_id: str | None = None,
    since: datetime | None = None,
) -> VerificationReport:
    """Hashes sealed entries anew, holds them against their seals, and names what differs.

    Args:
        connection: to the ledger, autocommit.
        places: where extracts are kept.
        definition_of: asked for the source of a batch that was touched.
        source_id: verify only its batches; of a bank, those of all its days.
        since: verify only what was sealed from then on. The chains are always verified as a whole.

    Raises:
        TransientLedgerError: the ledger cannot be read right now.
    """
    started = time.monotonic()
    report = VerificationReport(chain_faults=seals.chain_faults(connection))
    chosen = seals.chosen_seals(connection, source_id=source_id, since=since)
    report.seals = len(chosen)
    report.entries = sum(0 if one.annulled else one.entries for one in chosen)
    for number, one in enumerate(seals.touched(connection, chosen)):
        report.touched.append(_examined(connection, places, definition_of, one, in_detail=number < _EXAMINED))
    if source_id is None and since is None:
        report.unsealed = seals.unsealed(connection)
    report.seconds = time.monotonic() - started
    return report


def _examined(
    connection: Connection, places: Places, definition_of: DefinitionOf, one: Touched, *, in_detail: bool
) -> TouchedSeal:
    """What can be said of a seal that the ledger does not fit."""
    found = TouchedSeal(
        ledger_id=one.ledger_id,
        number=one.number,
        subject="",
        batch_id=one.batch_id,
        month=None if one.month is None else f"{one.month:%Y-%m}",
        source_id=None,
        partition_key=None,
        sealed=one.sealed,
        found=one.found,
        corrected_by=seals.corrections_restoring(connection, one),
    )
    if one.batch_id is None:
        found.subject = f"period {found.month}"
        found.unexplained = (
            "a batch that posted to it is named as well, unless an entry was touched that no batch posted"
        )
        return found
    batch = touched_batches.batch_record(connection, one.batch_id)
    if batch is None:
        found.subject = f"batch {one.batch_id}"
        found.unexplained = "the record of the batch is gone"
        return found
    found.source_id, found.partition_key = batch.source_id, batch.partition_key
    part = "" if batch.partition_key is None else f", partition {batch.partition_key}"
    found.subject = f"batch {batch.batch_id} of {batch.source_id}{part}"
    if not in_detail:
        found.unexplained = f"only the first {_EXAMINED} are compared with their sources"
        return found
    for odd in touched_batches.odd_entries(connection, batch, limit=BREAK_SAMPLE):
        told = EntryBreak(
            found.partition_key or batch.kind, "different", odd.source_row, odd.reference_id, odd.field,
            odd.expected, odd.actual,
        )  # fmt: skip
        found.add_all([(told, 1)])
    try:
        _compare(connection, open_work(definition_of(batch.source_id), places), batch, found)
    except BackfillError as error:
        found.unexplained = f"it cannot be compared with its source: {error}"
    if found.breaks:
        found.unexplained = None
    elif found.unexplained is None:
        found.unexplained = (
            "all its entries are what the source says; what was touched is nothing that it states"
        )
    return found


def _compare(connection: Connection, work: SourceWork, batch: BatchRecord, found: TouchedSeal) -> None:
    """Adds every entry of the batch that is not what the source says."""
    expected = _expected(connection, work, batch)
    if expected is None:
        found.unexplained = (
            "it was rolled back, and its source says nothing of it any more"
            if batch.rolled_back
            else f"no source states what a batch of kind {batch.kind} posts, or it is one of an earlier revision"
        )
        return
    key = batch.partition_key or batch.kind
    aligned = align(expected, touched_batches.entries_of(connection, batch.batch_id))
    found.add_all(unexpected_breaks(key, aligned.unexpected))
    found.add_all(different_breaks(key, aligned))
    # What the batch did not post was in the ledger before.
    elsewhere = aligned.absent
    if elsewhere.num_rows:
        there = reconciliation.entries_by_reference(connection, elsewhere, size_bytes=elsewhere.nbytes)
        found.add_all(missing_breaks(key, align(elsewhere, there).absent))


def _expected(connection: Connection, work: SourceWork, batch: BatchRecord) -> pa.Table | None:
    """What the rows of a batch should be in the ledger (VALIDATED_SCHEMA); None when its source does not say."""
    if batch.rolled_back:
        return None
    if batch.kind == "opening":
        book = read_accounts(work.definition)
        return None if book is None else reconciliation.as_current(connection, book.opening_entries)
    known = {partition.id: partition.key for partition in work.registration.partitions}
    if batch.partition_id is None or batch.partition_id not in known:
        return None
    if batch.kind == "replay":
        rows = pa.array(touched_batches.replayed_rows(connection, batch.batch_id), pa.int64())
        entries = replayed_entries(connection, work, batch.partition_id)
    elif batch.kind == "entries":
        rows = pa.array(range(batch.first_row, batch.last_row + 1), pa.int64())
        entries = PartitionFrames(work, known[batch.partition_id], ()).validated()
        refused = rejects.rows_rejected_while_posting(connection, batch.partition_id)
        taken = pc.is_in(entries.column("source_row"), pa.array(list(refused), pa.int64()))
        entries = entries.filter(pc.invert(taken))
    else:
        return None
    entries = entries.filter(pc.is_in(entries.column("source_row"), rows))
    return reconciliation.as_current(connection, entries)
