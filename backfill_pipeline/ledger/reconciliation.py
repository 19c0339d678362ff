"""The ledger's side of reconciliation: entries read back in full, and the record of what was found.

Belongs here: which entries are read, by batch or by reference; storing and loading verdicts.
Does not: how their columns travel (`read_back.py`), comparing (`stages/comparison.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import pgpq
import pyarrow as pa
from psycopg.types.json import Jsonb

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.read_back import read_entries
from backfill_pipeline.ledger.reversed_references import current_references

# References that are looked for, as COPY takes them.
_WANTED_SCHEMA = pa.schema(
    [("source_row", pa.int64()), ("ledger_id", pa.string()), ("reference_id", pa.string())]
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A stored reconciliation."""

    verdict: str
    entries_compared: int
    break_count: int
    details: Mapping[str, object]
    reconciled_at: datetime


def prepare(connection: Connection) -> None:
    """Brings the batch index up to date, so that reading a batch touches only its own pages."""
    with ledger_errors("prepare reconciling"):
        connection.execute("SELECT brin_summarize_new_values('ledger_entries_batch_id_idx')")


@contextmanager
def _by_batch_index(connection: Connection) -> Iterator[None]:
    """A transaction in which entries are read through the batch index, whatever the planner thinks.

    Right after a load it has no statistics and would read the whole ledger for each partition, in several processes.
    """
    with connection.transaction():
        connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0")
        yield


def posted_entries(connection: Connection, partition_id: int, *, size_bytes: int = 0) -> pa.Table:
    """All entries that the batches of a partition posted (LEDGER_SCHEMA, any order).

    Args:
        connection: to the ledger, autocommit.
        partition_id: of the partition.
        size_bytes: about how large they are (see `read_back.read_entries`).
    """
    with ledger_errors("read entries from"), _by_batch_index(connection):
        batch_ids = [
            batch_id
            for (batch_id,) in connection.execute(
                "SELECT id FROM backfill_batches WHERE partition_id = %s", [partition_id]
            ).fetchall()
        ]
        # The bounds let a BRIN scan take one contiguous stretch of pages.
        return read_entries(
            connection,
            "FROM ledger_entries e"
            " WHERE e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY(%(batches)s)",
            {"low": min(batch_ids, default=0), "high": max(batch_ids, default=0), "batches": batch_ids},
            size_bytes=size_bytes,
        )


def as_current(connection: Connection, expected: pa.Table) -> pa.Table:
    """What a source says should be in the ledger, under the references that it has there now."""
    with ledger_errors("read references from"):
        return current_references(connection, expected)


def opening_entry_counts(connection: Connection, source_id: str) -> tuple[int, int]:
    """How many opening entries a source's batches recorded as posted, and how many entries name those batches."""
    with ledger_errors("read entries from"), _by_batch_index(connection):
        row = connection.execute(
            "WITH batch AS (SELECT id, posted FROM backfill_batches WHERE source_id = %s AND kind = 'opening')"
            " SELECT (SELECT coalesce(sum(posted), 0)::bigint FROM batch),"
            "        (SELECT count(*) FROM ledger_entries e WHERE e.batch_id = ANY (ARRAY(SELECT id FROM batch)))",
            [source_id],
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def entries_by_reference(connection: Connection, wanted: pa.Table, *, size_bytes: int = 0) -> pa.Table:
    """Entries with the wanted (ledger_id, reference_id), whoever posted them (LEDGER_SCHEMA, any order).

    Args:
        connection: to the ledger, autocommit.
        wanted: source_row, ledger_id, reference_id; the result carries the wanted row's source_row.
        size_bytes: about how large they are (see `read_back.read_entries`).
    """
    with ledger_errors("read entries from"), connection.transaction():
        connection.execute(
            'CREATE TEMP TABLE backfill_wanted (source_row bigint, ledger_id text COLLATE "C",'
            ' reference_id text COLLATE "C") ON COMMIT DROP'
        )
        encoder = pgpq.ArrowToPostgresBinaryEncoder(_WANTED_SCHEMA)
        with connection.cursor().copy("COPY backfill_wanted FROM STDIN (FORMAT binary)") as copy:
            copy.write(encoder.write_header())
            for rows in wanted.select(_WANTED_SCHEMA.names).cast(_WANTED_SCHEMA).to_batches():
                copy.write(encoder.write_batch(rows))
            copy.write(encoder.finish())
        # One look-up by the unique key for each, however large the ledger is: a join of its own choice may read all of
        # it for every partition.
        return read_entries(
            connection,
            "FROM backfill_wanted w CROSS JOIN LATERAL (SELECT * FROM ledger_entries"
            " WHERE ledger_id = w.ledger_id AND reference_id = w.reference_id LIMIT 1) AS e WHERE true",
            {},
            source_row="w.source_row",
            size_bytes=size_bytes,
        )


def record(
    connection: Connection,
    registration_id: int,
    *,
    verdict: str,
    entries_compared: int,
    break_count: int,
    details: Mapping[str, object],
) -> None:
    """Keeps the outcome of a reconciliation."""
    with ledger_errors("record a reconciliation in"):
        connection.execute(
            "INSERT INTO backfill_reconciliations (registration_id, verdict, entries_compared, break_count, details)"
            " VALUES (%s, %s, %s, %s, %s)",
            [registration_id, verdict, entries_compared, break_count, Jsonb(dict(details))],
        )


def latest(connection: Connection, registration_id: int) -> Verdict | None:
    """The newest reconciliation of a registration; None also when what it speaks of was rolled back since."""
    with ledger_errors("read a reconciliation from"):
        row = connection.execute(
            "SELECT verdict, entries_compared, break_count, details, reconciled_at FROM backfill_reconciliations"
            " WHERE registration_id = %s AND rollback_id IS NULL ORDER BY id DESC LIMIT 1",
            [registration_id],
        ).fetchone()
    return Verdict(*row) if row else None
