"""Reconciling a source that was posted inside the database: the database compares, the pipeline looks at the rest.

The rest are rows that the database did not find equal to their entries, with all that is bad or unusual, and a sample
of those that it did: so the compiled mapping is held against the pipeline's own at each reconciliation.

Belongs here: which rows are left to the ordinary comparison, and what is expected of them.
Does not: the database's comparison (`ledger/taken_comparison.py`), telling what differs (`comparison.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.taken_comparison import ProvenRows, proven_rows
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
    """Has the partitions of one source compared by the database, where that can be."""

    work: SourceWork
    _source: TakenFrom | None = field(default=None, repr=False)
    _possible: bool = True

    @classmethod
    def of(cls, work: SourceWork, *, corrected: bool) -> InsideComparison | None:
        """For a source that is posted inside the database; None where that, or a correction, forbids it."""
        return cls(work) if is_in_database(work.definition) and not corrected else None

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
            step=max(1, chunk.row_count // _SAMPLE_ROWS),
            others_max=max(_SAMPLE_ROWS * 2, int(chunk.row_count * _OTHERS_MAX)),
        )
        if proven is None:
            return None
        return ComparedInside(proven, map_rows(work, partition_key, proven.others).valid)
