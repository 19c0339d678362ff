"""Reconciling a source that was posted inside the database: the database compares, the pipeline looks at the rest.

The rest are rows that the database did not find equal to their entries, with all that is bad or unusual, and a sample
of those that it did: so the compiled mapping is held against the pipeline's own at each reconciliation.

What the entries had to be was hashed when the rows were mapped, so the first reconciliation has only to look whether
the seals say the same; the table is proven to be what was registered while these are made. Later ones trust no hash
that is kept beside the entries: rows are mapped again, and held against their entries one by one.

Belongs here: which rows are left to the ordinary comparison, and what is expected of them.
Does not: the database's comparison (`ledger/taken_comparison.py`), telling what differs (`comparison.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.taken_comparison import (
    ProvenRows,
    entries_as_expected,
    proven_rows,
    unsealed_partitions,
)
from backfill_pipeline.ledger.taken_rows import TakenFrom
from backfill_pipeline.sources.database.in_place import InPlaceReader
from backfill_pipeline.sources.database.in_place_statements import behind_key, bound
from backfill_pipeline.stages.taken_source import is_in_database, map_rows, taken_from
from backfill_pipeline.stages.work import SourceWork

_SAMPLE_ROWS: Final = 500
_OTHERS_MAX: Final = 0.2
"""Share of a partition's rows above which the ordinary way is faster."""


@dataclass(frozen=True, slots=True)
class ComparedInside:
    """A partition of which the database compared most.

    Attributes:
        proven: what it found equal, and the entries of the other rows.
        expected: what the other rows should be (VALIDATED_SCHEMA, by source_row).
    """

    proven: ProvenRows
    expected: pa.Table


@dataclass(slots=True)
class InsideComparison:
    """Has the partitions of one source compared by the database, where that can be.

    Attributes:
        unchanged: whether the table is what was registered, for the partitions that nobody reconciled yet.
    """

    work: SourceWork
    unchanged: dict[str, Future[bool]]
    _source: TakenFrom | None = field(default=None, repr=False)
    _possible: bool = True

    def compare(self, connection: Connection, partition_key: str) -> ComparedInside | None:
        """Compares a partition; None where all of it is to go the ordinary way.

        Raises:
            SourceError: the table cannot be read.
            TransientLedgerError: the ledger cannot be read right now.
        """
        work, reader = self.work, self.work.reader
        assert isinstance(reader, InPlaceReader)
        partition = work.registration.partition(partition_key)
        chunk = work.chunk(partition_key)
        if not (self._possible and chunk.row_count):
            return None
        step = max(1, chunk.row_count // _SAMPLE_ROWS)
        if (unchanged := self.unchanged.get(partition_key)) is not None and unchanged.result():
            proven = entries_as_expected(
                connection,
                partition.id,
                count=chunk.row_count,
                sample=range(chunk.first_row, chunk.first_row + chunk.row_count, step),
            )
            if proven is not None:
                return self._with_rest(partition_key, proven)
        if self._source is None:
            try:
                self._source = taken_from(work.definition, reader, connection)
            except (
                SourceDefinitionError
            ):  # it could be when it was posted: then the ordinary way says what is wrong
                self._possible = False
                return None
        after = reader.key_before(chunk)
        proven = proven_rows(
            connection,
            self._source,
            partition.id,
            behind=behind_key(self._source.key, after),
            bounds=bound(after),
            first_row=chunk.first_row,
            count=chunk.row_count,
            sha256=chunk.sha256,
            step=step,
            others_max=max(_SAMPLE_ROWS * 2, int(chunk.row_count * _OTHERS_MAX)),
        )
        return None if proven is None else self._with_rest(partition_key, proven)

    def _with_rest(self, partition_key: str, proven: ProvenRows) -> ComparedInside:
        return ComparedInside(proven, map_rows(self.work, partition_key, proven.others).valid)


@contextmanager
def inside_comparison(work: SourceWork, connection: Connection) -> Iterator[InsideComparison | None]:
    """For a source that is posted inside the database; None for others. Entered before its batches are sealed.

    The table is hashed meanwhile, in a thread: entries have no part in that.
    """
    if not is_in_database(work.definition):
        yield None
        return
    reader = work.reader
    assert isinstance(reader, InPlaceReader)
    new = unsealed_partitions(connection, work.definition.id)
    with ThreadPoolExecutor(1, thread_name_prefix="source") as thread:
        unchanged = {
            one.key: thread.submit(reader.is_as_registered, work.chunk(one.key))
            for one in work.registration.partitions
            if one.id in new
        }
        try:
            yield InsideComparison(work, unchanged)
        finally:
            for one in unchanged.values():
                one.cancel()  # nobody waits for it any more
