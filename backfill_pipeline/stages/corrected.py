"""Corrected references: the ledger's side of a comparison as it stands after corrections.

Belongs here: putting what a corrected reference stands for in the place of its entry.
Does not: whether corrections still fit (`ledger_corrected_references` says so), comparing (`comparison.py`).

A correction leaves the wrong entry where it is and posts others beside it. What they come to together was computed by
the database, per account, and is compared with the source in every field like any other entry: a difference that is not
explained exactly stays a break.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger import corrections
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.corrections import CORRECTED_SCHEMA
from backfill_pipeline.ledger.read_back import LEDGER_SCHEMA


@dataclass(frozen=True, slots=True)
class CorrectedReferences:
    """All corrected references of a ledger (CORRECTED_SCHEMA): those that fit, and those that do not any more."""

    holding: pa.Table
    left_over: pa.Table

    @classmethod
    def read(cls, connection: Connection) -> CorrectedReferences:
        """As the ledger has them now."""
        table = corrections.corrected_references(connection)
        return cls(table.filter(table.column("holds")), table.filter(pc.invert(table.column("holds"))))

    def left_over_of(self, source_id: str) -> pa.Table:
        """Those of a source that do not fit any more: what they corrected was taken back."""
        return self.left_over.filter(pc.equal(self.left_over.column("source_id"), source_id))

    @property
    def any_holds(self) -> bool:
        """Whether any entry of the ledger stands corrected."""
        return bool(self.holding.num_rows)

    def put_in(self, actual: pa.Table) -> tuple[pa.Table, int]:
        """Entries (LEDGER_SCHEMA, any order) as they stand after corrections; and how many are replaced or left out."""
        if not self.holding.num_rows:
            return actual, 0
        places = pc.index_in(_names(actual), value_set=_names(self.holding))
        corrected = pc.is_valid(places)
        instead = self.holding.take(pc.drop_null(places))
        rows = actual.column("source_row").filter(corrected)
        instead = instead.set_column(0, CORRECTED_SCHEMA.field("source_row"), rows)
        instead = instead.filter(instead.column("is_there")).select(LEDGER_SCHEMA.names).cast(LEDGER_SCHEMA)
        kept = actual.filter(pc.invert(corrected))
        return pa.concat_tables([kept, instead]), pc.sum(corrected).as_py() or 0

    def restored(self, actual: pa.Table, *, source_id: str, partition_key: str, lacking: int) -> pa.Table:
        """Entries that a partition lacked and got back by corrections (LEDGER_SCHEMA).

        Args:
            actual: what its batches posted and is still there.
            source_id: the source.
            partition_key: its partition.
            lacking: how many entries the batches posted and are not there. After a rollback the partition is posted
                again; then what was restored is a duplicate to it, and nothing is lacking.
        """
        if not self.holding.num_rows or lacking <= 0:
            return LEDGER_SCHEMA.empty_table()
        own = pc.and_(
            pc.equal(self.holding.column("source_id"), source_id),
            pc.equal(self.holding.column("partition_key"), partition_key),
        )
        absent = pc.invert(pc.is_in(_names(self.holding), value_set=_names(actual)))
        wanted = pc.and_(pc.and_(own, absent), self.holding.column("is_there"))
        found = self.holding.filter(pc.fill_null(wanted, False)).select(LEDGER_SCHEMA.names)
        return found.slice(0, lacking).cast(LEDGER_SCHEMA)


def _names(entries: pa.Table) -> pa.Array:
    """Ledger and reference as one text each; neither holds the byte between them."""
    joined = pc.binary_join_element_wise(entries.column("ledger_id"), entries.column("reference_id"), "\x1f")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
