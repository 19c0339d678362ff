"""References that were used up: an entry that was reversed keeps its reference, and what is posted again takes another.

Entries are never edited: `P-1`, once reversed, stays in the ledger, and its reversing entry beside it. Posted again it
is `P-1~2`; reversed and posted once more, `P-1~3`. The rule is ledger-wide and knows nothing of sources: behind n
reversals of a base reference, the current reference is `<base>~<n + 1>`.

What a source says, what is written about it (rejects, replays, source references), and what generated references are
made of, is always the base reference. The current one comes in where entries meet the ledger.

Belongs here: from base references to current ones.
Does not: reversing (`rollback.py` and its migration).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pgpq
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.schemas.row_errors import combined

_WANTED_SCHEMA: Final = pa.schema(
    [("place", pa.int64()), ("ledger_id", pa.string()), ("reference_id", pa.string())]
)
_FOUND_SCHEMA: Final = pa.schema([("place", pa.int64()), ("generation", pa.int32())])
_ROWS_PER_BUFFER: Final = 10_000

# In a ledger where nothing was reversed, this is all that a batch pays; elsewhere, all that a batch pays whose
# references lie apart from those that were.
_ANY: Final = """
SELECT EXISTS (SELECT FROM ledger_reversals
               WHERE ledger_id = ANY (%s) AND base_reference >= %s AND base_reference <= %s)
"""
_CREATE_TABLE: Final = """
CREATE TEMP TABLE IF NOT EXISTS backfill_referenced (
    place bigint, ledger_id text COLLATE "C", reference_id text COLLATE "C"
) ON COMMIT DELETE ROWS;
DELETE FROM backfill_referenced;
"""
_COPY: Final = "COPY backfill_referenced (place, ledger_id, reference_id) FROM STDIN (FORMAT binary)"
# By the key, row for row: generations have no gaps, so the last one is how often an entry was reversed.
_FOUND: Final = """
COPY (SELECT w.place, last.generation
      FROM backfill_referenced w
      CROSS JOIN LATERAL (SELECT r.generation FROM ledger_reversals r
                          WHERE r.ledger_id = w.ledger_id AND r.base_reference = w.reference_id
                          ORDER BY r.generation DESC LIMIT 1) AS last)
TO STDOUT (FORMAT csv)
"""


def await_rollbacks(connection: Connection) -> None:
    """Waits for a rollback that is under way, and keeps others waiting until the caller's transaction ends.

    Whoever posts asks for current references after that: what they are changes with a rollback alone.
    """
    connection.execute("LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE")


def current_references(connection: Connection, entries: pa.Table) -> pa.Table:
    """Entries under the references that they have, or would get, in the ledger now.

    Args:
        connection: to the ledger; whoever posts is in a transaction after `await_rollbacks`.
        entries: any columns, `ledger_id` and `reference_id` (base references) among them.

    Returns:
        The same table where nothing of it was ever reversed, else one with other references; row for row.

    Raises:
        psycopg.Error: the query failed.
    """
    if not entries.num_rows:
        return entries
    references = combined(entries.column("reference_id"))
    ledgers = combined(pc.unique(entries.column("ledger_id"))).to_pylist()
    bounds = pc.min_max(references).as_py()
    row = connection.execute(_ANY, [ledgers, bounds["min"], bounds["max"]]).fetchone()
    assert row is not None
    if not row[0]:
        return entries
    found = _reversed(connection, entries)
    if not found.num_rows:
        return entries
    generations = np.zeros(entries.num_rows, dtype=np.int32)
    generations[found.column("place").to_numpy()] = found.column("generation").to_numpy() + 1
    again = pa.array(generations)
    renamed = pc.binary_join_element_wise(references, pc.cast(again, pa.string()), "~")
    place = entries.schema.get_field_index("reference_id")
    return entries.set_column(
        place, entries.schema.field(place), pc.if_else(pc.greater(again, 0), renamed, references)
    )


def current_reference(connection: Connection, ledger_id: str, reference_id: str) -> str:
    """The same for a single base reference."""
    one = pa.table({"ledger_id": [ledger_id], "reference_id": [reference_id]})
    return str(current_references(connection, one).column("reference_id")[0].as_py())


def _reversed(connection: Connection, entries: pa.Table) -> pa.Table:
    """Places of the entries that were reversed, and how often (_FOUND_SCHEMA)."""
    wanted = pa.table(
        {
            "place": np.arange(entries.num_rows),
            "ledger_id": entries.column("ledger_id"),
            "reference_id": entries.column("reference_id"),
        }
    ).cast(_WANTED_SCHEMA)
    encoder = pgpq.ArrowToPostgresBinaryEncoder(_WANTED_SCHEMA)
    sink = pa.BufferOutputStream()
    with connection.transaction():
        connection.execute(_CREATE_TABLE)
        with connection.cursor().copy(_COPY) as copy:
            copy.write(encoder.write_header())
            for rows in wanted.to_batches(max_chunksize=_ROWS_PER_BUFFER):
                copy.write(encoder.write_batch(rows))
            copy.write(encoder.finish())
        with connection.cursor().copy(_FOUND) as copy:
            for block in copy:
                sink.write(block)
    text = sink.getvalue()
    if not text.size:
        return _FOUND_SCHEMA.empty_table()
    return pacsv.read_csv(
        pa.BufferReader(text),
        read_options=pacsv.ReadOptions(column_names=_FOUND_SCHEMA.names),
        convert_options=pacsv.ConvertOptions(column_types=_FOUND_SCHEMA),
    )
