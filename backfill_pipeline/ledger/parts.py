"""Parts: what was made of one transaction is not posted when the ledger has that transaction in another form.

The rows of a transaction are paired to entries, and pair otherwise when it changed in a later export. An entry under a
known reference with other content is a conflict, and tells. But a change may make entries under new references alone.
What tells then is a row that is left over: it carries no entry now, and the ledger has one under its reference.

What the same registration posted tells nothing: a registration says what each transaction is once and for all, so such
an entry is that of another transaction, which has a row of that name too.

Belongs here: which transactions of a batch are in the ledger in another form, and the verdicts on their entries.
Does not: how rows are paired (`mapping/legs.py`), every other verdict (`staging`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pgpq
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from psycopg import sql

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.schemas.row_errors import combined

LEFT_OVER_SCHEMA: Final = pa.schema(
    [
        pa.field("part", pa.int64(), nullable=False),
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("ledger_id", pa.string(), nullable=False),
        pa.field("reference_id", pa.string(), nullable=False),
    ]
)
"""Rows that carry no entry, of transactions of which others do; `part` is the transaction."""

LEDGER_ENTRIES: Final = sql.Identifier("ledger_entries")

_ROWS_PER_BUFFER: Final = 10_000

_OTHERS = """
SELECT EXISTS (SELECT 1 FROM backfill_batches b LEFT JOIN backfill_partitions p ON p.id = b.partition_id
               WHERE b.kind <> 'opening' AND b.posted > 0 AND p.registration_id IS DISTINCT FROM %s)
    OR EXISTS (SELECT 1 FROM {} WHERE batch_id IS NULL)
"""
_CREATE_TABLE = """
CREATE TEMP TABLE IF NOT EXISTS backfill_left_over (
    source_row bigint, ledger_id text COLLATE "C", reference_id text COLLATE "C"
) ON COMMIT DELETE ROWS;
DELETE FROM backfill_left_over;
"""
_COPY = "COPY backfill_left_over (source_row, ledger_id, reference_id) FROM STDIN (FORMAT binary)"
# By the unique key, row for row, whatever the planner thinks of rows that were just copied.
_BY_KEY = "SET LOCAL enable_seqscan = off"
_KNOWN = """
SELECT l.source_row
FROM backfill_left_over l
CROSS JOIN LATERAL (
    SELECT e.batch_id FROM {} e WHERE e.ledger_id = l.ledger_id AND e.reference_id = l.reference_id LIMIT 1
) AS entry
WHERE (SELECT p.registration_id FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id
       WHERE b.id = entry.batch_id) IS DISTINCT FROM %s
ORDER BY l.source_row
"""
_AS_USUAL = "SET LOCAL enable_seqscan TO DEFAULT"

_CONFLICTS = "SELECT source_row FROM backfill_verdicts WHERE verdict = 'conflict' ORDER BY source_row"

# Rows that are a part of what a conflict is a part of. One that the ledger has already stays a duplicate.
_REJECT_PARTS = """
INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
SELECT part.source_row, 'rejected', 'transaction_incomplete', 'transaction_id',
       format('row %%s of its transaction is a conflict', part.conflict)
FROM unnest(%s::bigint[], %s::bigint[]) AS part (source_row, conflict)
JOIN backfill_staging s ON s.source_row = part.source_row
WHERE s.entry_id IS NULL
ON CONFLICT (source_row) DO NOTHING
"""

# Of the batch's rows, those that nothing was said against.
_TO_POST = """
COPY (SELECT source_row FROM backfill_staging s
      WHERE entry_id IS NULL AND NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row))
TO STDOUT (FORMAT csv)
"""
_REFUSE_PAIRED_OTHERWISE = """
INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
SELECT part.source_row, 'conflict', 'conflict', 'transaction_id',
       format('row %%s of its transaction is an entry of the ledger, and carries none now', part.left_over)
FROM unnest(%s::bigint[], %s::bigint[]) AS part (source_row, left_over)
"""

# Rows were told to repeat them before they were refused themselves: then what is repeated is not in the ledger.
_REJECT_REPEATS = """
UPDATE backfill_verdicts v
SET verdict = 'rejected', code = 'transaction_incomplete', field = 'reference_id',
    reason = format('has the reference of row %s, which is refused with its transaction', v.compared_row)
FROM backfill_verdicts repeated
WHERE repeated.source_row = v.compared_row AND v.verdict = 'duplicate'
"""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the entries of a batch are parts of.

    Attributes:
        numbers: int64 per entry, the transaction; the entries of one follow one another, and numbers rise.
        left_over: LEFT_OVER_SCHEMA, by `part`: rows of these transactions that carry no entry. None where there is
            nothing to look for.
        registration_id: whose rows these are; 0 when it is not registered yet.
    """

    numbers: pa.Array
    left_over: pa.Table
    registration_id: int

    def slice(self, start: int, stop: int) -> Parts:
        """Of the entries from `start` up to `stop`, which cut no transaction in two."""
        numbers = self.numbers.slice(start, stop - start)
        at = np.searchsorted(
            combined(self.left_over.column("part")).to_numpy(), [numbers[0].as_py(), numbers[-1].as_py() + 1]
        )
        return replace(self, numbers=numbers, left_over=self.left_over.slice(at[0], at[1] - at[0]))


def others_posted(
    connection: Connection, registration_id: int, entries: sql.Composable = LEDGER_ENTRIES
) -> bool:
    """Whether the ledger has entries, but for opening ones, that this registration did not post.

    Args:
        connection: to the ledger.
        registration_id: 0 when it is not registered yet.
        entries: the ledger's entries.
    """
    with ledger_errors("read entries from"):
        row = connection.execute(sql.SQL(_OTHERS).format(entries), [registration_id]).fetchone()
    assert row is not None
    return bool(row[0])


def paired_otherwise(
    connection: Connection, entries: pa.Table, parts: Parts | None, known: sql.Composable = LEDGER_ENTRIES
) -> bool:
    """Whether a transaction of a batch is in the ledger in another form, as far as rows that are left over tell.

    Args:
        connection: inside the batch's transaction.
        entries: VALIDATED_SCHEMA, the batch.
        parts: of the batch; None where entries are by themselves.
        known: the ledger's entries.
    """
    return parts is not None and _known_left_over(connection, entries, parts, known).num_rows > 0


def refuse_parts(
    connection: Connection, entries: pa.Table, parts: Parts, known: sql.Composable = LEDGER_ENTRIES
) -> None:
    """Refuses what must not be posted for the sake of other parts.

    Args:
        connection: inside the batch's transaction, its rows staged and told apart.
        entries: VALIDATED_SCHEMA, the batch.
        parts: of the batch.
        known: the ledger's entries.
    """
    rows = combined(entries.column("source_row"))
    refused = _reject_parts_of_conflicts(connection, rows, parts.numbers)
    refused += _refuse_paired_otherwise(connection, entries, rows, parts, known)
    if refused:
        connection.execute(_REJECT_REPEATS)


def _reject_parts_of_conflicts(connection: Connection, rows: pa.Array, numbers: pa.Array) -> int:
    conflicts = [row for (row,) in connection.execute(_CONFLICTS)]
    if not conflicts:
        return 0
    at = pc.index_in(pa.array(conflicts, pa.int64()), rows)
    first = pc.index_in(numbers, numbers.take(at))  # the first conflict counts
    told = pc.is_valid(first)
    named = pa.array(conflicts, pa.int64()).take(first.filter(told))
    return connection.execute(_REJECT_PARTS, [rows.filter(told).to_pylist(), named.to_pylist()]).rowcount


def _refuse_paired_otherwise(
    connection: Connection, entries: pa.Table, rows: pa.Array, parts: Parts, known: sql.Composable
) -> int:
    """Only transactions of which something would be posted are looked for: what is there already costs nothing."""
    if not parts.left_over.num_rows:
        return 0
    to_post = _rows_to_post(connection)
    numbers = parts.numbers.take(pc.index_in(to_post, rows))
    concerned = parts.left_over.filter(pc.is_in(parts.left_over.column("part"), value_set=numbers))
    found = _known_left_over(connection, entries, replace(parts, left_over=concerned), known)
    first = pc.index_in(numbers, combined(found.column("part")))
    told = pc.is_valid(first)
    named = combined(found.column("source_row")).take(first.filter(told))
    if not len(named):
        return 0
    return connection.execute(
        _REFUSE_PAIRED_OTHERWISE, [to_post.filter(told).to_pylist(), named.to_pylist()]
    ).rowcount


def _known_left_over(
    connection: Connection, entries: pa.Table, parts: Parts, known: sql.Composable
) -> pa.Table:
    """Of the rows that are left over, those whose reference the ledger has; not where an entry of theirs has it too."""
    left_over = parts.left_over
    if not left_over.num_rows:
        return left_over
    connection.execute(_CREATE_TABLE)
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for buffer in _encoded(left_over.select(["source_row", "ledger_id", "reference_id"])):
            copy.write(buffer)
    connection.execute(_BY_KEY)
    found = connection.execute(sql.SQL(_KNOWN).format(known), [parts.registration_id]).fetchall()
    connection.execute(_AS_USUAL)
    if not found:
        return left_over.slice(0, 0)
    hits = left_over.filter(
        pc.is_in(left_over.column("source_row"), value_set=pa.array([row for (row,) in found], pa.int64()))
    )
    named = pa.table(
        {"part": parts.numbers, **{name: entries.column(name) for name in ("ledger_id", "reference_id")}}
    )
    named = named.filter(pc.is_in(named.column("part"), value_set=combined(hits.column("part"))))
    keys = ["part", "ledger_id", "reference_id"]
    return hits.join(named, keys, join_type="left anti").sort_by("source_row").select(LEFT_OVER_SCHEMA.names)


def _rows_to_post(connection: Connection) -> pa.Array:
    sink = pa.BufferOutputStream()
    with connection.cursor().copy(_TO_POST) as copy:
        for block in copy:
            sink.write(block)
    text = sink.getvalue()
    if not text.size:
        return pa.array([], pa.int64())
    read = pacsv.read_csv(
        pa.BufferReader(text),
        read_options=pacsv.ReadOptions(column_names=["source_row"]),
        convert_options=pacsv.ConvertOptions(column_types={"source_row": pa.int64()}),
    )
    return combined(read.column("source_row"))


def _encoded(table: pa.Table) -> Iterator[bytes]:
    """For binary COPY, a few megabytes at a time."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(table.schema)
    yield encoder.write_header()
    for batch in table.to_batches(max_chunksize=_ROWS_PER_BUFFER):
        yield encoder.write_batch(batch)
    yield encoder.finish()
