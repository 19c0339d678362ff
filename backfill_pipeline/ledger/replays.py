"""Replays: rejected rows that were sent again after somebody repaired them.

Belongs here: how rejects stand now, and the rows that a replay writes, in its batch's transaction.
Does not: posting (`replay_posting.py`), reading repaired files and mapping their rows (`stages/replay.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pgpq
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors
from backfill_pipeline.ledger.rejects import Reject
from backfill_pipeline.schemas.frames import REJECTS_SCHEMA

ATTEMPT_SCHEMA: Final = pa.schema(
    [
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
        pa.field("repaired", pa.list_(pa.string()), nullable=False),
        pa.field("occurrence", pa.int64(), nullable=False),
        pa.field("outcome", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("code", pa.string()),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("ledger_id", pa.string()),
        pa.field("reference_id", pa.string()),
    ]
)
"""Rows of a replay: what was sent for each, and what became of it. `outcome` is null until posting decides."""

STATE_SCHEMA: Final = pa.schema(
    [
        pa.field("partition_id", pa.int64(), nullable=False),
        pa.field("partition_key", pa.string(), nullable=False),
        *REJECTS_SCHEMA,
        pa.field("identity", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("repaired", pa.list_(pa.string())),
        pa.field("occurrence", pa.int64()),
    ]
)
"""Rejects as they stand. `identity` is a hash of source, revision, row and raw text; `repaired` is what was sent last,
null while nothing was; `state` is open, posted, duplicate or filtered."""

_STATES = """
SELECT p.id, p.partition_key, x.source_row, x.source_line, x.byte_offset, x.stage, x.code, x.field, x.reason, x.raw,
       left(encode(sha256(convert_to(concat_ws(E'\\x1f', r.source_id, r.revision, x.source_row, x.raw), 'UTF8')),
                   'hex'), 32),
       x.state, x.repaired, x.occurrence
FROM backfill_rejects_now x
JOIN backfill_partitions p ON p.id = x.partition_id
JOIN backfill_registrations r ON r.id = p.registration_id
WHERE r.id = %(registration)s AND (%(rows)s::bigint[] IS NULL OR x.source_row = ANY(%(rows)s))
  AND (%(state)s::text IS NULL OR x.state = %(state)s)
ORDER BY x.source_row
"""


@dataclass(frozen=True, slots=True)
class ReplayCounts:
    """What became of rows that were sent again; `read` equals the sum of the other five."""

    read: int = 0
    posted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    filtered: int = 0


def reject_states(
    connection: Connection,
    registration_id: int,
    *,
    rows: Sequence[int] | None = None,
    open_only: bool = False,
) -> pa.Table:
    """Rejects of a registration as they stand (STATE_SCHEMA, in source order); only those of `rows` when given."""
    with ledger_errors("read rejects from"):
        found = connection.execute(
            _STATES,
            {
                "registration": registration_id,
                "rows": None if rows is None else list(rows),
                "state": "open" if open_only else None,
            },
        ).fetchall()
    return _table(found, STATE_SCHEMA)


def await_commits(connection: Connection, partition_ids: Sequence[int]) -> None:
    """Waits for batches of these partitions that are being committed: a killed command's last one may be under way."""
    with ledger_errors("read progress from"), connection.transaction():
        connection.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext('partition ' || id))"
            " FROM (SELECT id FROM unnest(%s::bigint[]) AS id ORDER BY id) AS partition",
            [ADVISORY_LOCK_SPACE, list(partition_ids)],
        )


def settled_rows(connection: Connection, partition_id: int, *, with_all_legs: bool = False) -> pa.Table:
    """What was sent for the rows of a partition that a replay posted or found in the ledger.

    Args:
        connection: to the ledger.
        partition_id: the partition.
        with_all_legs: also the rows that were sent with them, as legs of the same transactions: those that pairing left
            out, and those whose entry the ledger refused.

    Returns:
        source_row, source_line, byte_offset, state, repaired, occurrence; by row.
    """
    with ledger_errors("read replays from"):
        found = connection.execute(
            "SELECT source_row, source_line, byte_offset, state, repaired, occurrence FROM backfill_rejects_now"
            " WHERE partition_id = %s AND (state IN ('posted', 'duplicate')"
            "  OR (%s AND repaired IS NOT NULL AND (state = 'filtered' OR stage = 'post'))) ORDER BY source_row",
            [partition_id, with_all_legs],
        ).fetchall()
    names = ("source_row", "source_line", "byte_offset", "state", "repaired", "occurrence")
    return _table(found, pa.schema([STATE_SCHEMA.field(name) for name in names]))


def last_occurrences(connection: Connection, registration_id: int, contents: Sequence[str]) -> dict[str, int]:
    """Generated reference without its occurrence → the last occurrence that a replay posted or found in the ledger."""
    with ledger_errors("read replays from"):
        found = connection.execute(
            "SELECT content, max(occurrence) FROM"
            " (SELECT regexp_replace(y.reference_id, '-[0-9]+$', '') AS content, y.occurrence"
            "  FROM backfill_replays y JOIN backfill_partitions p ON p.id = y.partition_id"
            "  WHERE p.registration_id = %s AND y.outcome IN ('posted', 'duplicate')) AS settled"
            " WHERE content = ANY(%s) GROUP BY content",
            [registration_id, list(contents)],
        ).fetchall()
    return dict(found)


def record(
    connection: Connection, partition_id: int, batch_id: int, attempts: pa.Table, replayed_by: str
) -> None:
    """Keeps what was tried (ATTEMPT_SCHEMA, every outcome known), in the batch's transaction."""
    count = attempts.num_rows
    table = pa.table(
        {
            "partition_id": pa.repeat(pa.scalar(partition_id, pa.int64()), count),
            "batch_id": pa.repeat(pa.scalar(batch_id, pa.int64()), count),
            "replayed_by": pa.repeat(pa.scalar(replayed_by), count),
            **{name: attempts.column(name) for name in ATTEMPT_SCHEMA.names},
        }
    )
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    with connection.cursor().copy(
        f"COPY backfill_replays ({', '.join(table.column_names)}) FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.write(encoder.write_header())
        for record_batch in table.to_batches(max_chunksize=10_000):
            copy.write(encoder.write_batch(record_batch))
        copy.write(encoder.finish())


def count_filtered_reasons(connection: Connection, partition_id: int, batch_id: int | None = None) -> None:
    """Adds the rows that replays filtered to a partition's counts by reason, in the caller's transaction.

    Args:
        connection: in a transaction.
        partition_id: of the partition.
        batch_id: of one replay; None for all of them, after the partition's own counts were written anew.
    """
    connection.execute(
        """
        UPDATE backfill_partitions p SET filtered_by_reason = (
            SELECT coalesce(jsonb_object_agg(reason, count), '{}')
            FROM (SELECT reason, sum(count) AS count
                  FROM (SELECT key AS reason, value::bigint AS count FROM jsonb_each_text(p.filtered_by_reason)
                        UNION ALL
                        SELECT y.reason, count(*) FROM backfill_replays y
                        WHERE y.partition_id = p.id AND y.outcome = 'filtered'
                          AND (%(batch)s::bigint IS NULL OR y.batch_id = %(batch)s)
                        GROUP BY y.reason) AS each
                  GROUP BY reason) AS total)
        WHERE p.id = %(partition)s
        """,
        {"partition": partition_id, "batch": batch_id},
    )


def rows_taken(connection: Connection, partition_id: int, source_rows: Sequence[int]) -> tuple[int, int]:
    """How many of these rejects count as rejected, and how many as conflicts, before they are replayed."""
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE code <> 'conflict'), count(*) FILTER (WHERE code = 'conflict')"
        " FROM backfill_rejects_now WHERE partition_id = %s AND source_row = ANY(%s) AND state = 'open'",
        [partition_id, list(source_rows)],
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def counts_of_run(connection: Connection, run_id: str) -> ReplayCounts:
    """What the batches of one replay came to."""
    with ledger_errors("read replays from"):
        row = connection.execute(
            "SELECT coalesce(sum(read), 0)::bigint, coalesce(sum(posted), 0)::bigint,"
            " coalesce(sum(duplicates), 0)::bigint, coalesce(sum(conflicts), 0)::bigint,"
            " coalesce(sum(rejected), 0)::bigint, coalesce(sum(filtered), 0)::bigint"
            " FROM backfill_batches WHERE kind = 'replay' AND run_id = %s",
            [run_id],
        ).fetchone()
    assert row is not None
    return ReplayCounts(*row)


def refused_by_run(connection: Connection, run_id: str, limit: int) -> list[Reject]:
    """The first rows that one replay could not post, with the new reason."""
    with ledger_errors("read replays from"):
        rows = connection.execute(
            "SELECT p.partition_key, x.source_row, x.source_line, x.stage, x.code, x.field, x.reason, x.raw, x.state,"
            " x.replays, x.replay_batch_id, x.replayed_by, x.replayed_at"
            " FROM backfill_batches b JOIN backfill_rejects_now x ON x.replay_batch_id = b.id"
            " JOIN backfill_partitions p ON p.id = x.partition_id"
            " WHERE b.run_id = %s AND x.state = 'open' ORDER BY x.source_row LIMIT %s",
            [run_id, limit],
        ).fetchall()
    return [Reject(*row) for row in rows]


def with_outcomes(attempts: pa.Table, refused: pa.Table, *, skip_duplicates: bool) -> pa.Table:
    """What posting said of each row, beside what was known before; what it did not refuse is posted.

    Args:
        attempts: ATTEMPT_SCHEMA, the outcome null for rows that were posted or refused.
        refused: `staging.REFUSED_SCHEMA`, duplicates among them.
        skip_duplicates: True counts a repeated entry as a duplicate, False as a reject.
    """
    at = pc.index_in(attempts.column("source_row"), value_set=refused.column("source_row").combine_chunks())
    verdict = refused.column("verdict").take(at)
    repeated = pc.fill_null(pc.equal(verdict, "duplicate"), False)
    if not skip_duplicates:
        verdict = pc.if_else(repeated, "rejected", verdict)
    told = pc.fill_null(pc.is_in(verdict, value_set=pa.array(["conflict", "rejected"])), False)
    columns = {
        "outcome": pc.coalesce(attempts.column("outcome"), verdict, "posted"),
        "stage": pc.if_else(told, "post", attempts.column("stage")),
        **{
            name: pc.if_else(told, refused.column(name).take(at), attempts.column(name))
            for name in ("code", "field", "reason")
        },
    }
    return pa.table(
        [columns.get(name, attempts.column(name)) for name in ATTEMPT_SCHEMA.names],
        schema=pa.schema([field.with_nullable(True) for field in ATTEMPT_SCHEMA]),
    )


def outcome_counts(attempts: pa.Table) -> ReplayCounts:
    """The counts of a batch of attempts whose outcomes are known."""
    counts = {one["values"]: one["counts"] for one in pc.value_counts(attempts.column("outcome")).to_pylist()}
    found = ReplayCounts(
        read=attempts.num_rows,
        posted=counts.get("posted", 0),
        duplicates=counts.get("duplicate", 0),
        conflicts=counts.get("conflict", 0),
        rejected=counts.get("rejected", 0),
        filtered=counts.get("filtered", 0),
    )
    if found.read != sum(
        counts.get(one, 0) for one in ("posted", "duplicate", "conflict", "rejected", "filtered")
    ):
        raise AssertionError(f"a replay does not add up: {counts}")
    return found


def _table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    if not rows:
        return schema.empty_table()
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
