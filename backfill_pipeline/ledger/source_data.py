"""What each source says should be in the ledger: `backfill_source_data`, which the strategy's §6.1 query reads.

Belongs here: replacing a partition's rows.
Does not: comparing contents (`reconciliation`).
"""

from __future__ import annotations

import pgpq
import pyarrow as pa

from backfill_pipeline.ledger.connection import Connection


def replace(connection: Connection, source_id: str, partition_id: int, entries: pa.Table) -> None:
    """Writes source row and reference of every valid entry of a partition, in the caller's transaction.

    Args:
        connection: in the caller's transaction.
        source_id: the source that says so.
        partition_id: whose rows are replaced.
        entries: has source_row, ledger_id and reference_id.
    """
    connection.execute("DELETE FROM backfill_source_data WHERE partition_id = %s", [partition_id])
    table = pa.table(
        {
            "source_id": pa.repeat(pa.scalar(source_id), entries.num_rows),
            "partition_id": pa.repeat(pa.scalar(partition_id, pa.int64()), entries.num_rows),
            "source_row": entries.column("source_row"),
            "ledger_id": entries.column("ledger_id"),
            "reference_id": entries.column("reference_id"),
        }
    )
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    with connection.cursor().copy(
        "COPY backfill_source_data (source_id, partition_id, source_row, ledger_id, reference_id)"
        " FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.write(encoder.write_header())
        for record_batch in table.to_batches(max_chunksize=20_000):
            copy.write(encoder.write_batch(record_batch))
        copy.write(encoder.finish())
