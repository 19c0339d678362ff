"""Transactions at posting: which entries were made of one, and which of its rows carry none.

Belongs here: numbering the transactions of entries, and the rows that are left over beside them.
Does not: pairing rows (`mapping/legs.py`), what follows for posting (`ledger/parts.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger.parts import LEFT_OVER_SCHEMA, Parts
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline.schemas.row_errors import combined

_NAMES = ("source_row", "ledger_id", "reference_id")

LEFT_OVER_COLUMNS = pa.schema([ENTRY_SCHEMA.field(name) for name in (*_NAMES, "filter_reason")])
"""What `left_over` looks at, of ENTRY_SCHEMA."""

LEFT_OVER_ROWS = pa.schema([ENTRY_SCHEMA.field(name) for name in _NAMES])
"""Rows that carry no entry, and what it would be called."""


def left_over(transformed: pa.Table) -> pa.Table:
    """The rows that carry no entry (LEFT_OVER_ROWS): another row carries what they are part of, or a rule says so.

    Args:
        transformed: at least LEFT_OVER_COLUMNS, in source order.
    """
    named = pc.and_(
        pc.is_valid(transformed.column("ledger_id")), pc.is_valid(transformed.column("reference_id"))
    )
    chosen = pc.and_(pc.is_valid(transformed.column("filter_reason")), named)
    return transformed.select(LEFT_OVER_ROWS.names).filter(chosen)


def parts_of(
    entries: pa.Table, left_over: pa.Table, transactions: Callable[[pa.Array], pa.Array], registration_id: int
) -> Parts:
    """The transactions of entries.

    Args:
        entries: VALIDATED_SCHEMA, in source order, at least one.
        left_over: LEFT_OVER_ROWS, in source order; of any transactions.
        transactions: tells by source rows the number of the transaction of each, in the order in which they come.
        registration_id: whose rows these are.
    """
    count = entries.num_rows
    rows = pa.concat_arrays(
        [combined(entries.column("source_row")), combined(left_over.column("source_row"))]
    )
    numbers = transactions(rows).cast(pa.int64())
    of_entries, of_others = numbers.slice(0, count), numbers.slice(count)
    beside = left_over.add_column(0, LEFT_OVER_SCHEMA.field("part"), of_others)
    # Numbers of transactions that have no entry here come after all others.
    beside = beside.filter(pc.less_equal(of_others, of_entries[-1]))
    return Parts(of_entries, beside.cast(LEFT_OVER_SCHEMA), registration_id)
