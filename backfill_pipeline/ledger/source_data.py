"""What each source says should be in the ledger: `backfill_source_data`, which the strategy's §6.1 query reads.

Belongs here: replacing a partition's rows.
Does not: comparing contents (`reconciliation`).
"""

from __future__ import annotations

import numpy as np
import pgpq
import pyarrow as pa

from backfill_pipeline.ledger.connection import Connection

# Entries per row of the table: large enough that rows do not count, small enough for a row of half a megabyte.
_ENTRIES_PER_ROW = 10_000


def replace(connection: Connection, source_id: str, partition_id: int, entries: pa.Table) -> None:
    """Writes source row, ledger and reference of every valid entry of a partition, in the caller's transaction.

    Args:
        connection: in the caller's transaction.
        source_id: the source that says so.
        partition_id: whose rows are replaced.
        entries: has source_row, ledger_id and reference_id.
    """
    connection.execute("DELETE FROM backfill_source_references WHERE partition_id = %s", [partition_id])
    if not entries.num_rows:
        return
    bounds = np.append(np.arange(0, entries.num_rows, _ENTRIES_PER_ROW), entries.num_rows).astype(np.int32)
    rows = len(bounds) - 1
    table = pa.table(
        {
            "source_id": pa.repeat(pa.scalar(source_id), rows),
            "partition_id": pa.repeat(pa.scalar(partition_id, pa.int64()), rows),
            **{
                f"{name}s": pa.ListArray.from_arrays(bounds, entries.column(name).combine_chunks())
                for name in ("source_row", "ledger_id", "reference_id")
            },
        }
    )
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    with connection.cursor().copy(
        "COPY backfill_source_references (source_id, partition_id, source_rows, ledger_ids, reference_ids)"
        " FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.write(encoder.write_header())
        for record_batch in table.to_batches():
            copy.write(encoder.write_batch(record_batch))
        copy.write(encoder.finish())


def forget(connection: Connection, source_id: str) -> None:
    """Deletes what earlier revisions of a source said."""
    connection.execute("DELETE FROM backfill_source_references WHERE source_id = %s", [source_id])
