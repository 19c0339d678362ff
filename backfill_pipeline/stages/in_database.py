"""Posting inside the database: a table beside the ledger becomes entries without leaving the server.

The same runs, partitions, batches, records and outcomes as the ordinary way, whose code this is but for two things: the
frame of a partition is a temporary table that the database fills from the source's own (mapped by expressions that were
compiled from the definition), and a batch goes from there into the ledger by INSERT … SELECT. Rows that are not plain
(bad ones, and those that the expressions do not serve) are read, mapped and validated by the pipeline and join the
others before anything is posted.

Belongs here: a partition's way.
Does not: whether a source can be posted so (`taken_source.py`), what is compiled (`mapping/sql.py`), the temporary
table (`ledger/taken_rows.py`), the rest of posting (`post.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from backfill_pipeline.ledger import posting, registrations, rejects, replays, taken_rows
from backfill_pipeline.ledger.batches import BatchOutcome, BatchPlan
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.posting import PostingPolicy, RejectWriter
from backfill_pipeline.ledger.taken_rows import TakenFrom, TakenRows
from backfill_pipeline.schemas.extracted import (
    BYTE_LENGTH,
    BYTE_OFFSET,
    SOURCE_LINE,
    SOURCE_ROW,
    extracted_schema,
)
from backfill_pipeline.sources.database.in_place import InPlaceReader
from backfill_pipeline.sources.database.in_place_statements import behind_key
from backfill_pipeline.sources.protocol import SourceChunk
from backfill_pipeline.stages.post import Poster
from backfill_pipeline.stages.prepare import PartitionFrames, StageName, StageReport, refuse_too_many_rejects
from backfill_pipeline.stages.reject_file import refresh_reject_file
from backfill_pipeline.stages.taken_source import map_rows, taken_from


@dataclass(slots=True)
class TakenFrames(PartitionFrames):
    """The frames of a partition that stays in the database: of its entries, only their rows are known here."""

    rows: pa.Table | None = None

    def validated(self) -> pa.Table:
        """One column, source_row: those of valid entries, ascending."""
        assert self.rows is not None, "the rows are taken by whoever posts them"
        return self.rows

    def positions(self, source_rows: pa.Array) -> pa.Table:
        """See there: rows of a table lie where they are counted."""
        rows = np.asarray(source_rows, dtype=np.int64)
        columns = {
            SOURCE_ROW: rows,
            SOURCE_LINE: rows,
            BYTE_OFFSET: rows - 1,
            BYTE_LENGTH: np.ones_like(rows),
        }
        schema = extracted_schema([])
        return pa.table({name: pa.array(values) for name, values in columns.items()}).cast(
            pa.schema([schema.field(name) for name in columns])
        )


@dataclass(slots=True)
class InDatabasePoster(Poster):
    """Posts partitions from the table itself.

    Attributes:
        await_turn: returns once all earlier partitions are posted. Rows are taken before that.
    """

    await_turn: Callable[[str], None] = lambda key: None
    _source: TakenFrom | None = None
    _frames: TakenFrames | None = None
    _prepared: Connection | None = field(default=None, repr=False)
    _taken_by: Connection | None = field(default=None, repr=False)  # who has the rows of `_frames`
    _in_order: bool = False  # and whether they lie as they are numbered

    def post(self, frames: PartitionFrames) -> StageReport:
        """See `Poster.post`; what the stages before it do is done here as well."""
        taken = TakenFrames(
            frames.work, frames.key, frames.selected, frames.config, frames.log, frames.reports
        )
        self._frames, self._taken_by = taken, None
        if not self._retrying(lambda connection: self._take(connection, record=True)):
            # Under which references reversed entries are posted again, the ordinary way knows.
            self._frames = None
            self.await_turn(frames.key)
            return Poster.post(
                self, PartitionFrames(frames.work, frames.key, frames.selected, frames.config, frames.log)
            )
        self.await_turn(frames.key)
        return Poster.post(self, taken)

    def _meet_unknown_accounts(
        self, frames: PartitionFrames, entries: pa.Table, rejected_early: int
    ) -> list[str]:
        if self._frames is None:
            return Poster._meet_unknown_accounts(self, frames, entries, rejected_early)
        if self.work.definition.unknown_accounts == "create":
            return []
        first, last = (int(entries.column("source_row")[at].as_py()) for at in (0, -1))

        def look(connection: Connection) -> tuple[list[str], int]:
            self._take(connection)
            with ledger_errors("look for accounts in"):
                named = taken_rows.accounts_named(connection)
            unknown = self._unknown_accounts(named)
            with ledger_errors("look for accounts in"):
                count = taken_rows.rows_naming(connection, unknown, first, last) if unknown else 0
            return unknown, count

        unknown, count = self._retrying(look)
        if unknown:
            self._tell_unknown(frames.key, unknown, count, rejected_early)
        return []

    def _send_batch(
        self,
        plan: BatchPlan,
        batch: pa.Table,
        policy: PostingPolicy,
        describe: RejectWriter,
        *,
        expect_trouble: bool,
    ) -> BatchOutcome:
        if self._frames is None:
            return Poster._send_batch(self, plan, batch, policy, describe, expect_trouble=expect_trouble)

        def send(connection: Connection) -> BatchOutcome:
            self._take(connection)
            rows = TakenRows(plan.first_row, plan.last_row, batch.num_rows, self._in_order)
            return posting.post_batch(connection, plan, rows, policy, describe, expect_trouble=expect_trouble)

        return self._retrying(send)

    # --- taking -------------------------------------------------------------------------------------------------

    def _take(self, connection: Connection, *, record: bool = False) -> bool:
        """Has the rows of the partition in this connection's session; False when they are to go the ordinary way."""
        if self._taken_by is connection:
            return True
        frames, reader = self._frames, self.work.reader
        assert frames is not None
        assert isinstance(reader, InPlaceReader)
        chunk = self.work.chunk(frames.key)
        started = time.monotonic()
        unusual = self._take_plain(connection, reader, chunk)
        took_s = time.monotonic() - started
        started = time.monotonic()
        mapped = map_rows(self.work, frames.key, unusual)
        valid, rejected, filtered = mapped.valid, mapped.rejected, mapped.filtered
        with ledger_errors("take rows in"), connection.transaction():
            if valid.num_rows:
                taken_rows.add(connection, valid)
            if taken_rows.any_reversed(connection, chunk.first_row, chunk.first_row + chunk.row_count - 1):
                return False
            rows = self._rows(connection, chunk, as_they_are=not unusual)
            if rows.num_rows + rejected.num_rows + sum(filtered.values()) != chunk.row_count:
                raise AssertionError(f"rows of partition {frames.key} were lost while they were taken")
            if record:
                self._record(connection, frames, rows.num_rows, rejected, filtered)
        self._taken_by, self._in_order, frames.rows = connection, not unusual, rows
        if record:
            self._report(frames, chunk.row_count, rejected.num_rows, len(unusual), took_s, started)
            self._refuse_too_many_early(frames.key, rejected)
        return True

    def _take_plain(self, connection: Connection, reader: InPlaceReader, chunk: SourceChunk) -> list[int]:
        """Takes the rows of a chunk and proves them; returns the numbers of those that are not plain, which are out."""
        if self._prepared is not connection:
            taken_rows.prepare(connection)
            self._prepared = connection
        if self._source is None:
            self._source = taken_from(self.work.definition, reader, connection)
        after = reader.key_before(chunk)
        with ledger_errors("take rows in"), connection.transaction():
            count, sha256, unusual = taken_rows.take(
                connection,
                self._source,
                behind=behind_key(self._source.key, after),
                bounds={f"after{number}": value for number, value in enumerate(after or ())},
                first_row=chunk.first_row,
                count=chunk.row_count,
                in_slices=chunk.row_count > self.config.batch_size,
            )
            if (count, sha256) != (chunk.row_count, chunk.sha256):
                raise reader.changed(chunk)
            return taken_rows.leave_out_unusual(connection) if unusual else []

    def _refuse_too_many_early(self, key: str, rejected: pa.Table) -> None:
        if rejected.num_rows:
            first = rejected.slice(0, 1).to_pylist()[0]
            note = f"the first is in line {first['source_line']}: {first['code']}, {first['reason']}"
            refuse_too_many_rejects(self.work, key, rejected.num_rows, note=note)

    @staticmethod
    def _rows(connection: Connection, chunk: SourceChunk, *, as_they_are: bool) -> pa.Table:
        if not as_they_are:
            return taken_rows.source_rows(connection)
        numbers = np.arange(chunk.first_row, chunk.first_row + chunk.row_count, dtype=np.int64)
        return pa.table({"source_row": numbers})

    def _record(
        self,
        connection: Connection,
        frames: TakenFrames,
        valid_rows: int,
        rejected: pa.Table,
        filtered: Mapping[str, int],
    ) -> None:
        """As `PartitionFrames._record`."""
        partition = self.work.registration.partition(frames.key)
        rejects.replace_early(connection, partition.id, rejected)
        taken_rows.record_references(connection, self.work.definition.id, partition.id)
        registrations.record_validated(
            connection,
            partition.id,
            rejected=rejected.num_rows,
            filtered=sum(filtered.values()),
            filtered_by_reason=filtered,
            valid_rows=valid_rows,
        )
        replays.count_filtered_reasons(connection, partition.id)
        refresh_reject_file(connection, self.work, frames.key)

    @staticmethod
    def _report(
        frames: TakenFrames, read: int, rejected: int, unusual: int, took_s: float, mapping_since: float
    ) -> None:
        mapped_s = time.monotonic() - mapping_since
        valid = frames.validated().num_rows
        reports: list[tuple[StageName, int, float, dict[str, int | float | str]]] = [
            ("extracted", read, took_s, {}),
            ("transformed", read, mapped_s, {"mapped by the pipeline": unusual}),
            ("validated", valid, 0.0, {"rejected": rejected}),
        ]
        for stage, rows_out, seconds, details in reports:
            if stage in frames.selected:
                frames.reports.append(StageReport(stage, read, rows_out, seconds, details))
