"""Reject rows in the ledger: written once per row, listed and counted.

Belongs here: statements on `backfill_rejects`.
Does not: reject codes and how a failure becomes a reject (`schemas/rejects.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pgpq
import pyarrow as pa

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.schemas.frames import REJECTS_SCHEMA

_ROWS_PER_BUFFER = 10_000

# The first row of each code, then the second of each, and so on. Raw text is not needed to sort them.
_REJECTED_BY: Final = """
    SELECT x.code, one.count, p.partition_key, x.source_row, x.source_line, x.stage, x.code, x.field, x.reason, x.raw
    FROM (SELECT id, partition_id, place, count(*) OVER (PARTITION BY code) AS count
          FROM (SELECT id, partition_id, code, source_row,
                       row_number() OVER (PARTITION BY code ORDER BY source_row) AS place
                FROM backfill_rejects
                WHERE partition_id = %(partition)s AND (batch_id IS NOT NULL) = %(posting)s) AS of_code
          ORDER BY place, code LIMIT %(limit)s) AS one
    JOIN backfill_rejects x ON x.id = one.id
    JOIN backfill_partitions p ON p.id = one.partition_id
"""


@dataclass(frozen=True, slots=True)
class Reject:
    """One rejected row of a source, as listed to the operator.

    Attributes:
        state: open, or how the row ended after it was repaired: posted, duplicate, filtered.
        replays: how often it was sent again. Stage, code, field and reason are those of the last refusal.
        replay_batch_id: the batch of the last replay; like the next two, None while there was none.
    """

    partition_key: str
    source_row: int
    source_line: int
    stage: str
    code: str
    field: str | None
    reason: str
    raw: str
    state: str = "open"
    replays: int = 0
    replay_batch_id: int | None = None
    replayed_by: str | None = None
    replayed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows that one stage of a run refused of a partition, as it refused them.

    Attributes:
        counts: code → rows, the most frequent first; conflicts are among them.
        sample: a few rows of every code, in source order.
    """

    counts: dict[str, int]
    sample: list[Reject]


def insert(connection: Connection, partition_id: int, batch_id: int | None, rows: pa.Table) -> None:
    """Writes reject rows (REJECTS_SCHEMA) in the caller's transaction."""
    count = rows.num_rows
    table = pa.table(
        {
            "partition_id": pa.repeat(pa.scalar(partition_id, pa.int64()), count),
            "batch_id": pa.repeat(pa.scalar(batch_id, pa.int64()), count),
            **{name: rows.column(name) for name in REJECTS_SCHEMA.names},
        }
    )
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    with connection.cursor().copy(
        f"COPY backfill_rejects ({', '.join(table.column_names)}) FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.write(encoder.write_header())
        for record_batch in table.to_batches(max_chunksize=_ROWS_PER_BUFFER):
            copy.write(encoder.write_batch(record_batch))
        copy.write(encoder.finish())


def replace_early(connection: Connection, partition_id: int, rows: pa.Table) -> None:
    """Replaces what earlier tries rejected before posting (extract to validate), in the caller's transaction."""
    connection.execute(
        "DELETE FROM backfill_rejects WHERE partition_id = %s AND batch_id IS NULL",
        [partition_id],
    )
    insert(connection, partition_id, None, rows)


def count_early(connection: Connection, partition_id: int) -> int:
    """Number of rows of a partition that were rejected before posting, however they stand now."""
    with ledger_errors("read rejects from"):
        row = connection.execute(
            "SELECT count(*) FROM backfill_rejects WHERE partition_id = %s AND batch_id IS NULL",
            [partition_id],
        ).fetchone()
    assert row is not None
    return int(row[0])


def list_rejects(
    connection: Connection,
    registration_id: int,
    *,
    limit: int | None = None,
    code: str | None = None,
    partition_id: int | None = None,
    open_only: bool = False,
) -> list[Reject]:
    """Reject rows of a registration, or of one of its partitions, in source order, as they stand now."""
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            "SELECT p.partition_key, x.source_row, x.source_line, x.stage, x.code, x.field, x.reason, x.raw, x.state,"
            " x.replays, x.replay_batch_id, x.replayed_by, x.replayed_at"
            " FROM backfill_rejects_now x JOIN backfill_partitions p ON p.id = x.partition_id"
            " WHERE p.registration_id = %(registration)s AND (%(code)s::text IS NULL OR x.code = %(code)s)"
            " AND (%(partition)s::bigint IS NULL OR p.id = %(partition)s)"
            " AND (NOT %(open)s OR x.state = 'open')"
            " ORDER BY x.source_row LIMIT %(limit)s",
            {
                "registration": registration_id,
                "code": code,
                "limit": limit,
                "partition": partition_id,
                "open": open_only,
            },
        ).fetchall()
    return [Reject(*row) for row in rows]


def count_by_code(connection: Connection, registration_id: int) -> dict[str, int]:
    """Number of rows that are rejected now per code, most frequent first; repaired ones do not count any more."""
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            "SELECT x.code, count(*) FROM backfill_rejects_now x JOIN backfill_partitions p ON p.id = x.partition_id"
            " WHERE p.registration_id = %s AND x.state = 'open' GROUP BY x.code ORDER BY count(*) DESC, x.code",
            [registration_id],
        ).fetchall()
    return {code: count for code, count in rows}


def rejected_by(
    connection: Connection, partition_id: int, *, while_posting: bool, sample_max: int
) -> Rejected:
    """Rows of a partition that posting refused, or what came before it: by code, with at most `sample_max` of them.

    Every code is in the sample as long as there are no more codes than that.
    """
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            _REJECTED_BY, {"partition": partition_id, "posting": while_posting, "limit": sample_max}
        ).fetchall()
    counts = {code: count for code, count, *_ in rows}
    return Rejected(
        {code: counts[code] for code in sorted(counts, key=lambda code: (-counts[code], code))},
        sorted((Reject(*reject) for _, _, *reject in rows), key=lambda one: one.source_row),
    )


def count_repaired(connection: Connection, registration_id: int) -> int:
    """Number of rows that were rejected once and are not any more."""
    with ledger_errors("read rejects from"):
        row = connection.execute(
            "SELECT count(*) FROM backfill_rejects_now x JOIN backfill_partitions p ON p.id = x.partition_id"
            " WHERE p.registration_id = %s AND x.state <> 'open'",
            [registration_id],
        ).fetchone()
    assert row is not None
    return int(row[0])


def rows_rejected_while_posting(connection: Connection, partition_id: int) -> dict[int, str]:
    """source_row → code of the rows of a partition that posting refused."""
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            "SELECT source_row, code FROM backfill_rejects WHERE partition_id = %s AND stage = 'post'",
            [partition_id],
        ).fetchall()
    return {row: code for row, code in rows}
