"""Sampling: whether the ledger has a batch already, and where, for the price of some look-ups.

Belongs here: the sample of a batch's references and what it says.
Does not: verdicts. A sample only chooses the faster of two ways to the same outcome.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.taken_rows import TakenRows, references_at

# One reference in a hundred taken: nine batches of ten are found out. Look-ups of a whole sample take a millisecond.
SAMPLE_ROWS = 200
# Entries of a batch lie next to each other, but rows between two of the sample may lie a little outside of it.
_MARGIN = 16

_LOOK_UP = """
SELECT count(*), coalesce(min(block), 0), coalesce(max(block), 0)
FROM unnest(%s::text[], %s::text[]) AS wanted (ledger_id, reference_id)
CROSS JOIN LATERAL (
    SELECT (e.ctid::text::point)[0]::bigint AS block FROM ledger_entries e
    WHERE e.ledger_id = wanted.ledger_id AND e.reference_id = wanted.reference_id
    LIMIT 1     -- by the unique key, whatever the planner thinks of the arrays
) AS found
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sample of a batch says about the ledger.

    Attributes:
        looked_up: references that were looked for.
        found: those that the ledger has.
        first_block: where in the table their entries lie, with a margin; no entry need lie there.
        last_block: likewise, inclusive.
    """

    looked_up: int
    found: int
    first_block: int
    last_block: int


def take_sample(connection: Connection, entries: pa.Table | TakenRows) -> Sample:
    """Looks up evenly spaced references of a batch, the first and the last among them.

    Args:
        connection: inside the batch's transaction.
        entries: VALIDATED_SCHEMA, or taken rows; at least one row.
    """
    ledgers, references = _chosen(connection, entries)
    found = connection.execute(_LOOK_UP, [ledgers, references]).fetchone()
    assert found is not None
    count, first, final = found
    margin = (final - first) // _MARGIN + 1
    return Sample(len(references), count, max(0, first - margin), final + margin)


def _chosen(connection: Connection, entries: pa.Table | TakenRows) -> tuple[list[str], list[str]]:
    if isinstance(entries, TakenRows):
        return references_at(connection, entries, SAMPLE_ROWS)
    last = entries.num_rows - 1
    step = max(1, -(-last // (SAMPLE_ROWS - 1)))
    rows = entries.select(["ledger_id", "reference_id"]).take(
        pa.array([*range(0, last, step), last], pa.int64())
    )
    return rows.column("ledger_id").to_pylist(), rows.column("reference_id").to_pylist()
