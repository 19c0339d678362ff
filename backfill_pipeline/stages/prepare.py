"""The three stages before posting: extracted, transformed, validated.

Belongs here: what each does to one partition, and getting the frame of a stage that is not materialized now.
Does not: posting, the order of partitions.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import GeneratedReferenceRule
from backfill_pipeline.errors import TooManyRejectsError
from backfill_pipeline.ledger import registrations, rejects, replays, source_data
from backfill_pipeline.ledger.batches import BatchOutcome
from backfill_pipeline.ledger.connection import ledger_errors
from backfill_pipeline.ledger.figures import DayVolume
from backfill_pipeline.mapping.references import read_occurrences
from backfill_pipeline.schemas.extracted import (
    BYTE_LENGTH,
    BYTE_OFFSET,
    SOURCE_LINE,
    SOURCE_ROW,
    extracted_schema,
    to_arrow,
    to_pandas,
)
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, REJECTS_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.rejects import build_rejects
from backfill_pipeline.sources.grouping.transaction_ids import transaction_ids
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.manifest import survey_occurrences
from backfill_pipeline.stages.reject_file import refresh_reject_file
from backfill_pipeline.stages.retry import retrying
from backfill_pipeline.stages.transactions import LEFT_OVER_COLUMNS, left_over
from backfill_pipeline.stages.volumes import volumes
from backfill_pipeline.stages.work import Log, SourceWork
from backfill_pipeline.wording import counted

StageName = Literal["extracted", "transformed", "validated", "posted"]
STAGES: tuple[StageName, ...] = ("extracted", "transformed", "validated", "posted")
_POSITIONS = pa.schema(
    [extracted_schema([]).field(name) for name in (SOURCE_ROW, SOURCE_LINE, BYTE_OFFSET, BYTE_LENGTH)]
)


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage did to a partition: rows in and out, and what else an operator asks for.

    Attributes:
        batches: those that posting recorded; none of the other stages has any.
        last_row: the source row up to which posting came: where its checkpoint is.
        days: entries that are valid or posted, by day and currency, as far as that is known from memory: None where the
            ledger has to be asked.
    """

    stage: StageName
    rows_in: int
    rows_out: int
    seconds: float
    details: dict[str, int | float | str] = field(default_factory=dict)
    batches: tuple[BatchOutcome, ...] = ()
    last_row: int | None = None
    days: tuple[DayVolume, ...] | None = None


def _quiet(_message: str) -> None:
    return None


@dataclass(slots=True)
class PartitionFrames:
    """The frames of one partition as far as they are known; each is made once, from the one before.

    A stage that was selected is made anew. One that was not is read from its file or, when that is gone, made again
    from the source: the result is the same, because source and mapping are.
    """

    work: SourceWork
    key: str
    selected: Collection[StageName]
    config: BackfillConfig = field(default_factory=BackfillConfig)
    log: Log = _quiet
    reports: list[StageReport] = field(default_factory=list)
    _extracted: pa.Table | None = None
    _transformed: pa.Table | None = None
    _validated: pa.Table | None = None

    def extracted(self) -> pa.Table:
        """EXTRACTED: the partition's records as the source wrote them."""
        if self._extracted is None:
            schema = extracted_schema(self.work.registration.header)
            stored = (
                None
                if "extracted" in self.selected
                else self.work.intermediates.read("extracted", self.key, schema)
            )
            self._extracted = self._extract() if stored is None else stored
        return self._extracted

    def transformed(self) -> pa.Table:
        """ENTRY: every record mapped, or marked with why it cannot be."""
        if self._transformed is None:
            stored = (
                None
                if "transformed" in self.selected
                else self.work.intermediates.read("transformed", self.key, ENTRY_SCHEMA)
            )
            self._transformed = self._transform() if stored is None else stored
        return self._transformed

    def validated(self) -> pa.Table:
        """VALIDATED: the good entries. By then the bad ones are in the rejects table, and the filtered ones counted.

        Raises:
            TooManyRejectsError: more rejects than the source's `max_error_rate` allows.
        """
        if self._validated is None:
            recorded = self.work.registration.partition(self.key).valid_rows is not None
            anew = "validated" in self.selected or not recorded
            stored = None if anew else self.work.intermediates.read("validated", self.key, VALIDATED_SCHEMA)
            self._validated = self._validate() if stored is None else stored
        return self._validated

    def positions(self, source_rows: pa.Array) -> pa.Table:
        """Where the given rows lie in the source (EXTRACTED's position columns), in the order asked for."""
        if not len(source_rows):
            return _POSITIONS.empty_table()
        table = self._extracted
        if table is None:
            table = self.work.intermediates.read("extracted", self.key, _POSITIONS)
        if table is None:
            table = self.extracted()
        return table.select(_POSITIONS.names).take(pc.index_in(source_rows, table.column(SOURCE_ROW)))

    def transactions(self, source_rows: pa.Array) -> pa.Array:
        """The number of each row's transaction, int32, in the order in which they come. Only for rows that are legs."""
        section = self.work.definition.transactions
        assert section is not None
        table = self._extracted
        if table is None:
            table = self.work.intermediates.read("extracted", self.key, extracted_schema(section.id))
        if table is None:
            table = self.extracted()
        ids = transaction_ids(table, section.id).take(pc.index_in(source_rows, table.column(SOURCE_ROW)))
        return ids.dictionary_encode().indices

    def left_over(self) -> pa.Table:
        """The rows that carry no entry, and what it would be called (`transactions.LEFT_OVER_ROWS`)."""
        table = self._transformed
        if table is None:
            table = self.work.intermediates.read("transformed", self.key, LEFT_OVER_COLUMNS)
        return left_over(self.transformed() if table is None else table)

    def release(self) -> None:
        """Forgets the frames that posting does not need, and gives their memory back."""
        self._extracted = self._transformed = None
        pa.default_memory_pool().release_unused()

    def _extract(self) -> pa.Table:
        started = time.monotonic()
        table = self.work.reader.read_chunk(self.work.chunk(self.key), self.work.registration.header)
        self.work.intermediates.write("extracted", self.key, table)
        self._report("extracted", table.num_rows, table.num_rows, started)
        return table

    def _transform(self) -> pa.Table:
        extracted = self.extracted()
        started = time.monotonic()
        frame = self.work.mapping.transform(to_pandas(extracted), self._occurrences())
        table = to_arrow(frame, ENTRY_SCHEMA)
        self.work.intermediates.write("transformed", self.key, table)
        failed = table.num_rows - table.column("error_code").null_count
        self._report("transformed", extracted.num_rows, table.num_rows, started, conversion_failures=failed)
        return table

    def _occurrences(self) -> pa.Table | None:
        work = self.work
        if not isinstance(work.definition.fields.reference_id, GeneratedReferenceRule):
            return None
        if not work.intermediates.occurrences.exists():
            survey_occurrences(work.definition, work.places, work.registration.mapping_sha256)
        chunk = work.chunk(self.key)
        return read_occurrences(work.intermediates.occurrences, chunk.first_row, chunk.row_count)

    def _validate(self) -> pa.Table:
        transformed = self.transformed()
        started = time.monotonic()
        outcome = validate(to_pandas(transformed))
        valid = to_arrow(outcome.valid, VALIDATED_SCHEMA)
        rejected = to_arrow(
            build_rejects(outcome.failures, self._rejected_rows(outcome.failures), self.work.reader),
            REJECTS_SCHEMA,
        )
        filtered = outcome.filtered
        if valid.num_rows + rejected.num_rows + sum(filtered.values()) != transformed.num_rows:
            raise AssertionError(f"validation lost rows of partition {self.key}")
        retrying(self.config, lambda: self._record(valid, rejected, filtered), self.log)
        if rejected.num_rows:
            first = rejected.slice(0, 1).to_pylist()[0]
            note = f"the first is in line {first['source_line']}: {first['code']}, {first['reason']}"
            refuse_too_many_rejects(self.work, self.key, rejected.num_rows, note=note)
        # Last, so that the file of a partition with too many rejects does not exist and cannot be posted by itself.
        self.work.intermediates.write("validated", self.key, valid)
        details = {"rejected": rejected.num_rows} | {
            f"filtered: {why}": count for why, count in filtered.items()
        }
        days = tuple(volumes(valid)) if "validated" in self.selected else None
        self._report("validated", transformed.num_rows, valid.num_rows, started, days, **details)
        return valid

    def _rejected_rows(self, failures: pd.DataFrame) -> pa.Table:
        rows = pa.array(failures["source_row"], type=pa.int64())
        return self.positions(rows)

    def _record(self, valid: pa.Table, rejected: pa.Table, filtered: Mapping[str, int]) -> None:
        partition = self.work.registration.partition(self.key)
        with self.work.connect() as connection, ledger_errors("record rejects in"), connection.transaction():
            rejects.replace_early(connection, partition.id, rejected)
            source_data.replace(connection, self.work.definition.id, partition.id, valid)
            registrations.record_validated(
                connection,
                partition.id,
                rejected=rejected.num_rows,
                filtered=sum(filtered.values()),
                filtered_by_reason=filtered,
                valid_rows=valid.num_rows,
            )
            replays.count_filtered_reasons(connection, partition.id)
            refresh_reject_file(connection, self.work, self.key)

    def _report(
        self,
        stage: StageName,
        rows_in: int,
        rows_out: int,
        started: float,
        days: tuple[DayVolume, ...] | None = None,
        **details: int,
    ) -> None:
        if stage in self.selected:
            seconds = time.monotonic() - started
            self.reports.append(StageReport(stage, rows_in, rows_out, seconds, dict(details), days=days))


def refuse_too_many_rejects(
    work: SourceWork, key: str, count: int, *, note: str, partly_posted: bool = False
) -> None:
    """Raises TooManyRejectsError when a partition has more rejects than the source allows; `note` says which."""
    row_count = work.registration.partition(key).plan.row_count
    allowed = work.definition.max_error_rate
    if count > allowed * row_count:
        raise TooManyRejectsError(
            f"partition {key} of {work.definition.id} has {counted(count, 'reject')} in {counted(row_count, 'row')},"
            f" more than max_error_rate {allowed:g} allows ({note});"
            f" {'only the batches before these were' if partly_posted else 'nothing of it was'} posted:"
            " correct the source or its mapping, or raise max_error_rate"
        )
