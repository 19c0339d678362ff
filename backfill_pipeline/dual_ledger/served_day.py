"""What a bank serves for a day, proven to be all of it and nothing else.

Belongs here: taking the day's capture where the bank's control totals still prove it, else asking for the day anew; its
records piece by piece.
Does not: registering a day (`fetch.py`), what its entries are here (`reconcile.py`).

Only a digest proves a capture: entries can be changed so that their number and sums stay. Without one the bank is asked
for its entries each time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb import CONTROL_COLUMNS
from backfill_pipeline.definition.scb_days import day_definition
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.control_totals import ControlTotals, totals_of
from backfill_pipeline.errors import SourceChangedError
from backfill_pipeline.ledger import registrations
from backfill_pipeline.ledger.registered import PartitionPlan
from backfill_pipeline.schemas.extracted import SOURCE_ROW
from backfill_pipeline.sources.capture.captured_chunks import as_extracted, registered_rows
from backfill_pipeline.sources.capture.captures import Capture
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.sources.protocol import SourceChunk
from backfill_pipeline.stages.config import DEFAULT_PARTITION_ROWS
from backfill_pipeline.stages.work import Places

FETCHES_MAX: Final = 3
"""How often a day is asked for until what came is what the bank states: entries may come in between."""

_PAUSE_S: Final = 1.0
_SCRATCH: Final = "compare-"
_LEFT_BEHIND_S: Final = 86_400.0
_CONTROL: Final = list(CONTROL_COLUMNS)


@dataclass(frozen=True, slots=True)
class ServedDay:
    """A day as the bank serves it.

    Attributes:
        stated: by the bank.
        read: of the records. Differs from what is stated only when the bank contradicts itself, however often it is
            asked.
        fetched: whether the bank was asked for its entries now; else they are the day's capture.
    """

    stated: ControlTotals
    read: ControlTotals
    fetched: bool
    _capture: Capture
    _chunks: Sequence[SourceChunk]
    _header: Sequence[str]

    def pieces(self) -> Iterator[pa.Table]:
        """All records (EXTRACTED), each reference once: pages of a listing may overlap."""
        kept = self._first_of_each()
        for chunk in self._chunks:
            records = self._rows(chunk)
            if kept is not None:
                records = records.filter(pc.is_in(records.column(SOURCE_ROW), value_set=kept))
            if records.num_rows:
                yield records

    def _rows(self, chunk: SourceChunk) -> pa.Table:
        rows = registered_rows(self._capture, chunk, self._header)
        if rows is None:
            raise SourceChangedError(
                f"{self._capture.path}: was removed or damaged while its day was compared: compare the day again."
            )
        return as_extracted(rows, chunk)

    def _first_of_each(self) -> pa.Array | None:
        """Rows to keep when some come twice; None to keep all, the usual."""
        if sum(chunk.row_count for chunk in self._chunks) == self.read.count:
            return None
        rows = pa.concat_tables(self._rows(chunk).select([SOURCE_ROW, "reference"]) for chunk in self._chunks)
        unnamed = pc.fill_null(pc.equal(rows.column("reference"), ""), True)
        first = rows.filter(pc.invert(unnamed)).group_by("reference").aggregate([(SOURCE_ROW, "min")])
        kept = pa.chunked_array(
            [*first.column(f"{SOURCE_ROW}_min").chunks, *rows.filter(unnamed).column(SOURCE_ROW).chunks],
            pa.int64(),
        )
        return kept.combine_chunks()


@contextmanager
def served_day(
    definition: SourceDefinition, places: Places, day: date, client: BankClient, *, anew: bool = False
) -> Iterator[ServedDay]:
    """A day as the bank serves it now. What was fetched anew is gone when the block ends.

    Args:
        definition: of the bank.
        places: the ledger and the folder of captures.
        day: which.
        client: asks the bank for its totals.
        anew: does not use the capture, whatever totals say.

    Raises:
        SourceFileError: the bank refuses, or its answers cannot be used.
        TransientSourceError: it does not answer.
        TransientLedgerError: the ledger cannot be read right now.
    """
    one_day = day_definition(definition, day)
    stated = client.control_totals(day, day)[day]
    if stated.digest is not None and not anew:
        kept = _captured(one_day, places, stated)
        if kept is not None:
            yield kept
            return
    scratch = _scratch(places.intermediates_dir / one_day.id)
    try:
        for attempt in range(FETCHES_MAX):
            if attempt:
                time.sleep(_PAUSE_S)
                stated = client.control_totals(day, day)[day]
            fetched = _fetched(one_day, scratch / str(attempt), stated)
            if not fetched.read.differences(stated):
                break
        yield fetched
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(folder: Path) -> Path:
    """A new folder for what is fetched, beside what else is kept of the day; removes what killed processes left."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_SCRATCH}*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - _LEFT_BEHIND_S:
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))


def _captured(definition: SourceDefinition, places: Places, stated: ControlTotals) -> ServedDay | None:
    """What was captured when the day was registered; None when the bank's totals do not prove it any more."""
    with places.connect(definition.id) as connection:
        registration = registrations.load(connection, definition.id)
    if registration is None or not set(definition.columns_read()) <= set(registration.header):
        return None
    paths = sorted(places.captures_dir(definition.id).glob(f"{registration.sha256}-*.arrow"))
    if not paths:
        return None
    capture = Capture(paths[0])
    chunks = [_chunk(partition.plan) for partition in registration.partitions]
    tables = []
    for chunk in chunks:
        rows = registered_rows(capture, chunk, registration.header)
        if rows is None:
            return None
        tables.append(rows.select(_CONTROL))
    read = totals_of(tables, digest=True)
    if read.differences(stated):
        return None
    return ServedDay(stated, read, False, capture, chunks, registration.header)


def _fetched(definition: SourceDefinition, folder: Path, stated: ControlTotals) -> ServedDay:
    manifest = open_source(definition, folder).survey(definition.partition_rows or DEFAULT_PARTITION_ROWS)
    capture = Capture(next(folder.glob("*.arrow")))
    tables = (table.select(_CONTROL) for table in capture.tables())
    read = totals_of(tables, digest=stated.digest is not None)
    return ServedDay(stated, read, True, capture, manifest.chunks, manifest.header)


def _chunk(plan: PartitionPlan) -> SourceChunk:
    return SourceChunk(
        plan.number,
        plan.first_row,
        plan.row_count,
        plan.first_line,
        plan.byte_offset,
        plan.byte_length,
        plan.sha256,
    )
