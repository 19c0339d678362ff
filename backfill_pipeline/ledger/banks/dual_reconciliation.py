"""The ledger's side of comparing a day with the bank that keeps it too: its entries, and what the bank was told.

Belongs here: which entries are of a day and whose they are, what the outbox says of them, all in one snapshot.
Does not: what the bank says (`dual_ledger/`), comparing fields (`stages/comparison.py`), deciding what is a break.

Everything is asked in sets. What the bank serves is put into a temporary table piece by piece, so that neither side is
ever in this process as a whole; what is left over in the ledger, and what the outbox lacks, is what that table lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

import pgpq
import psycopg
import pyarrow as pa

from backfill_pipeline.ledger.batches import OPENING_ORIGIN, ROLLBACK_ORIGIN
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.read_back import read_entries
from backfill_pipeline.ledger.reversed_references import current_references

SERVED_SCHEMA: Final = pa.schema(
    [("source_row", pa.int64()), ("reference_id", pa.string()), ("left_out", pa.string())]
)
"""What a bank serves: `left_out` says why the definition leaves it out on purpose, null where it must be here."""

_SUMMARY_WAIT_MS: Final = 500

# Ends the id of a source that is a day of a bank.
_DAY_SOURCE: Final = r"@\d{4}-\d{2}-\d{2}$"

_TABLES: Final = """
CREATE TEMP TABLE dual_piece (source_row bigint, reference_id text COLLATE "C", left_out text) ON COMMIT DROP;
CREATE TEMP TABLE dual_served (reference_id text COLLATE "C", left_out text) ON COMMIT DROP;
CREATE TEMP TABLE dual_day (reference_id text COLLATE "C", currency_code text, amount numeric, whose text)
    ON COMMIT DROP;
CREATE TEMP TABLE dual_left (reference_id text COLLATE "C", currency_code text, amount numeric, left_out text)
    ON COMMIT DROP;
CREATE TEMP TABLE dual_told (number bigint GENERATED ALWAYS AS IDENTITY, reference_id text COLLATE "C", ours boolean,
    here boolean, kind text, status text, created_at timestamptz, attempts integer, last_error text) ON COMMIT DROP;
CREATE TEMP TABLE dual_as_told (reference_id text COLLATE "C", entry ledger_entries) ON COMMIT DROP;
-- The ledger's tables are never read as a whole, whatever the planner thinks of their size.
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL enable_seqscan = off;
"""

# Entries of the day: booked on it, or posted by its own batches whenever they say that they were booked. Whose they are
# is what their batch says, and for those without one, what was noted of them when they were posted. Entries that
# another day of a bank brought are that day's. What was reversed, and what reverses it, are nobody's: a bank's entry is
# not here any more then, until it is posted again, and ours were either taken back before the bank heard of them, or
# are there like here. Nobody's too is what a correction posted of which the bank must not hear. The ledger's id is
# hidden from the planner: by the unique index, it would read all years of the ledger instead of the day.
_DAY: Final = """
INSERT INTO dual_day
SELECT reference_id, currency_code, amount, whose
FROM (SELECT e.reference_id, e.currency_code, e.amount,
             CASE WHEN e.batch_id = ANY (%(batches)s) THEN 'bank'
                  WHEN b.origin IN (%(opening)s, %(rollback)s) THEN 'nobody'
                  WHEN b.rollback_id IS NOT NULL AND b.origin = %(bank)s THEN 'nobody'
                  WHEN (b.rollback_id IS NOT NULL OR b.kind = 'reversal')
                   AND EXISTS (SELECT FROM dual_ledger_outbox o
                               WHERE o.ledger_id = e.ledger_id AND o.reference_id = e.reference_id
                                 AND o.destination = %(bank)s AND o.status = 'CANCELLED')
                  THEN 'nobody'
                  WHEN b.origin = %(bank)s
                  THEN CASE WHEN b.source_id ~ %(day_source)s THEN 'nobody' ELSE 'bank' END
                  WHEN b.id IS NULL AND EXISTS (SELECT FROM dual_ledger_outbox o
                                                WHERE o.ledger_id = e.ledger_id AND o.reference_id = e.reference_id
                                                  AND o.destination = %(bank)s AND o.origin = %(bank)s
                                                  AND NOT o.withdraws AND o.compensated_by IS NULL
                                                  AND o.status NOT IN ('CANCELLED', 'COMPENSATED'))
                  THEN 'bank'
                  WHEN b.id IS NULL AND EXISTS (SELECT FROM dual_ledger_outbox o
                                                WHERE o.ledger_id = e.ledger_id AND o.reference_id = e.reference_id
                                                  AND o.destination = %(bank)s AND o.status = 'CANCELLED')
                       AND NOT EXISTS (SELECT FROM dual_ledger_outbox o
                                       WHERE o.ledger_id = e.ledger_id AND o.reference_id = e.reference_id
                                         AND o.destination = %(bank)s AND NOT o.withdraws
                                         AND o.compensated_by IS NULL
                                         AND o.status NOT IN ('CANCELLED', 'COMPENSATED'))
                  THEN 'nobody'
                  ELSE 'ours' END AS whose
      FROM ledger_entries e
      LEFT JOIN backfill_batches_ever b ON b.id = e.batch_id
      WHERE e.ledger_id || '' = %(ledger)s
        AND ((e.timestamp_utc >= %(from)s AND e.timestamp_utc < %(to)s)
             OR (e.batch_id BETWEEN %(low)s AND %(high)s AND e.batch_id = ANY (%(batches)s)))) AS entry
WHERE whose <> 'nobody'
"""

# Of the bank's, those that it does not serve, or that the definition leaves out.
_LEFT: Final = """
INSERT INTO dual_left
SELECT day.reference_id, day.currency_code, day.amount, served.left_out
FROM dual_day AS day
LEFT JOIN (SELECT DISTINCT ON (reference_id) reference_id, left_out FROM dual_served
           ORDER BY reference_id, left_out NULLS FIRST) AS served ON served.reference_id = day.reference_id
WHERE day.whose = 'bank' AND (served.reference_id IS NULL OR served.left_out IS NOT NULL)
"""

# All that the bank must know of for this day: its own entries, and those of ours that were booked on it; also those of
# which only the outbox speaks. In the order of the index that is looked into.
_TOLD: Final = """
WITH known AS (
    SELECT reference_id, false AS ours FROM dual_served WHERE left_out IS NULL
    UNION ALL
    SELECT reference_id, false FROM dual_left
    UNION ALL
    SELECT day.reference_id, true FROM dual_day AS day
    WHERE day.whose = 'ours'
      AND (%(send)s OR EXISTS (SELECT FROM dual_ledger_outbox o
                               WHERE o.ledger_id = %(ledger)s AND o.reference_id = day.reference_id
                                 AND o.destination = %(bank)s
                                 AND NOT o.withdraws AND o.compensated_by IS NULL
                                 AND o.status NOT IN ('CANCELLED', 'COMPENSATED')))
    UNION ALL
    SELECT o.reference_id, true FROM dual_ledger_outbox o
    WHERE o.kind = 'entry' AND o.destination = %(bank)s AND o.ledger_id = %(ledger)s AND o.status <> 'CANCELLED'
      AND (o.payload ->> 'booked_at') COLLATE "C" >= %(from_text)s
      AND (o.payload ->> 'booked_at') COLLATE "C" < %(to_text)s
), ref AS MATERIALIZED (
    SELECT known.reference_id, bool_or(known.ours) AS ours, bool_or(day.reference_id IS NOT NULL) AS here
    FROM known
    LEFT JOIN dual_day AS day ON day.reference_id = known.reference_id
    GROUP BY known.reference_id
    ORDER BY known.reference_id
)
INSERT INTO dual_told (reference_id, ours, here, kind, status, created_at, attempts, last_error)
SELECT ref.reference_id, ref.ours, ref.here OR e.here IS NOT NULL,
       o.kind, o.status, o.created_at, o.attempts, o.last_error
FROM ref
LEFT JOIN LATERAL (SELECT true AS here FROM ledger_entries     -- of another day, or nobody's
                   WHERE NOT ref.here AND ledger_id = %(ledger)s AND reference_id = ref.reference_id
                   LIMIT 1) AS e ON true
-- The row that says what is so; of ours, else the one that was compensated, or will be: the bank has the entry, and its
-- reversal.
LEFT JOIN LATERAL (SELECT kind, status, created_at, attempts, last_error FROM dual_ledger_outbox
                   WHERE ledger_id = %(ledger)s AND reference_id = ref.reference_id
                     AND destination = %(bank)s AND NOT withdraws AND compensated_by IS NULL
                     AND status NOT IN ('CANCELLED', 'COMPENSATED')
                   UNION ALL
                   SELECT kind, status, created_at, attempts, last_error FROM dual_ledger_outbox
                   WHERE ref.ours AND ledger_id = %(ledger)s AND reference_id = ref.reference_id
                     AND destination = %(bank)s
                     AND (status = 'COMPENSATED' OR status = 'SENT' AND compensated_by IS NOT NULL)
                   LIMIT 1) AS o ON true
"""


# Entries of ours that were changed here and corrected: the bank has them as it was told.
_AS_TOLD: Final = """
INSERT INTO dual_as_told
SELECT c.reference_id, c.entry FROM ledger_entries_as_told c
WHERE c.ledger_id = %(ledger)s AND c.bank_id = %(bank)s
  AND c.reference_id IN (SELECT reference_id FROM dual_told WHERE ours)
"""


@dataclass(frozen=True, slots=True)
class DayOfLedger:
    """Which day of which ledger. The window is the day in the bank's time zone, [from, to), whole seconds."""

    ledger_id: str
    bank_id: str
    source_id: str
    window_from: datetime
    window_to: datetime
    send_entries: bool


@dataclass(frozen=True, slots=True)
class LeftEntry:
    """An entry here that the bank does not serve, or that the definition leaves out for a reason."""

    reference_id: str
    left_out: str | None


@dataclass(frozen=True, slots=True)
class OutboxState:
    """How many entries of a day stand so.

    Attributes:
        kind: None, as `status`, where the outbox has no row of them.
        here: whether they are in the ledger.
        oldest: when the first of the rows was noted.
    """

    kind: str | None
    status: str | None
    here: bool
    count: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One of them."""

    reference_id: str
    kind: str | None
    status: str | None
    last_error: str | None


@contextmanager
def day_snapshot(connection: Connection, day: DayOfLedger) -> Iterator[DaySnapshot]:
    """The ledger as it is at one moment, however long the comparison takes.

    Args:
        connection: to the ledger, autocommit, for this alone.
        day: what is compared.
    """
    with ledger_errors("compare a day with"):
        for index in ("ledger_entries_batch_id_idx", "ledger_entries_timestamp_utc_idx"):
            _summarize(connection, index)
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute(_TABLES)
            yield DaySnapshot(connection, day)


def _summarize(connection: Connection, index: str) -> None:
    """Brings a BRIN index up to date: what was posted last would be read for every day.

    Nobody waits long for that. A VACUUM that is under way does the same, and only costs time until then.
    """
    with suppress(psycopg.errors.LockNotAvailable), connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", [f"{_SUMMARY_WAIT_MS}ms"])
        connection.execute("SELECT brin_summarize_new_values(%s::regclass)", [index])


class DaySnapshot:
    """One day of the ledger. First everything that the bank serves is `posted`, then the rest is asked for."""

    def __init__(self, connection: Connection, day: DayOfLedger) -> None:
        self._connection = connection
        self._day = day

    def as_current(self, named: pa.Table) -> pa.Table:
        """What the bank serves, under the references that it has, or gets, here; any columns with `reference_id`."""
        ledger = pa.repeat(self._day.ledger_id, named.num_rows)
        columns = named.column_names
        if "ledger_id" not in columns:
            named = named.append_column("ledger_id", ledger)
        return current_references(self._connection, named).select(columns)

    def posted(self, served: pa.Table) -> pa.Table:
        """Entries with these references, whoever posted them (LEDGER_SCHEMA, any order).

        Args:
            served: SERVED_SCHEMA, a piece of what the bank serves. The result carries its source_row; of what is left
                out nothing is read.
        """
        self._connection.execute("TRUNCATE dual_piece")
        encoder = pgpq.ArrowToPostgresBinaryEncoder(SERVED_SCHEMA)
        with self._connection.cursor().copy("COPY dual_piece FROM STDIN (FORMAT binary)") as copy:
            copy.write(encoder.write_header())
            for rows in served.cast(SERVED_SCHEMA).to_batches():
                copy.write(encoder.write_batch(rows))
            copy.write(encoder.finish())
        self._connection.execute("INSERT INTO dual_served SELECT reference_id, left_out FROM dual_piece")
        return read_entries(
            self._connection,
            "FROM dual_piece w CROSS JOIN LATERAL (SELECT * FROM ledger_entries"
            " WHERE ledger_id = %(ledger)s AND reference_id = w.reference_id LIMIT 1) AS e"
            " WHERE w.left_out IS NULL",
            {"ledger": self._day.ledger_id},
            source_row="w.source_row",
            size_bytes=served.num_rows * 300,
        )

    def find_rest(self) -> None:
        """Finds what is here and not at the bank, and what the bank was told of all of it."""
        day = self._day
        batches = [
            batch_id
            for (batch_id,) in self._connection.execute(
                "SELECT id FROM backfill_batches WHERE source_id = %s AND kind <> 'reversal'", [day.source_id]
            ).fetchall()
        ]
        parameters = {
            "ledger": day.ledger_id,
            "bank": day.bank_id,
            "from": day.window_from,
            "to": day.window_to,
            # As payloads write times, up to the second: "…T23:00:00" is before "…T23:00:00Z" and "…T23:00:00.5Z".
            "from_text": f"{day.window_from:%Y-%m-%dT%H:%M:%S}",
            "to_text": f"{day.window_to:%Y-%m-%dT%H:%M:%S}",
            "day_source": _DAY_SOURCE,
            "opening": OPENING_ORIGIN,
            "rollback": ROLLBACK_ORIGIN,
            "send": day.send_entries,
            "batches": batches,
            "low": min(batches, default=0),
            "high": max(batches, default=0),
        }
        self._connection.execute(_DAY, parameters)
        self._connection.execute("ANALYZE dual_served, dual_day")
        self._connection.execute(_LEFT)
        self._connection.execute(_TOLD, parameters)
        self._connection.execute(_AS_TOLD, parameters)

    def left_count(self) -> int:
        """Entries here that the bank does not serve, or that the definition leaves out."""
        return self._count("SELECT count(*) FROM dual_left")

    def left_sums(self) -> dict[str, Decimal]:
        """What these sum up to, by currency."""
        rows = self._connection.execute(
            "SELECT currency_code, sum(amount) FROM dual_left GROUP BY currency_code"
        ).fetchall()
        return {currency: amount for currency, amount in rows}

    def left_entries(self, limit: int) -> list[LeftEntry]:
        """The first of them, by reference."""
        rows = self._connection.execute(
            "SELECT reference_id, left_out FROM dual_left ORDER BY reference_id LIMIT %s", [limit]
        ).fetchall()
        return [LeftEntry(*row) for row in rows]

    def outbox_states(self) -> list[OutboxState]:
        """How the bank was told of all entries of the day. What neither is here nor was noted is left out."""
        rows = self._connection.execute(
            "SELECT kind, status, here, count(*), min(created_at) FROM dual_told"
            " WHERE here OR kind IS NOT NULL GROUP BY kind, status, here ORDER BY kind, status, here"
        ).fetchall()
        return [OutboxState(*row) for row in rows]

    def outbox_rows(self, state: OutboxState, limit: int) -> list[OutboxRow]:
        """The first rows that stand so, by reference."""
        rows = self._connection.execute(
            "SELECT reference_id, kind, status, last_error FROM dual_told"
            " WHERE kind IS NOT DISTINCT FROM %s AND status IS NOT DISTINCT FROM %s AND here = %s"
            " ORDER BY reference_id LIMIT %s",
            [state.kind, state.status, state.here, limit],
        ).fetchall()
        return [OutboxRow(*row) for row in rows]

    def untold(self) -> list[str]:
        """References that the bank serves and that are here, of which it was never told that they are posted.

        Such entries were here before the bank served them, so they were taken for ours: nothing was noted of them, or
        they were sent as new ones and the bank said that they are its own.
        """
        rows = self._connection.execute(
            "SELECT t.reference_id FROM dual_told t WHERE t.here AND (t.kind IS NULL"
            "  OR (t.kind = 'entry' AND t.status = 'DEAD' AND starts_with(t.last_error, 'own_reference')))"
            " AND EXISTS (SELECT FROM dual_served s WHERE s.reference_id = t.reference_id AND s.left_out IS NULL)"
            " ORDER BY t.reference_id"
        ).fetchall()
        return [reference for (reference,) in rows]

    def ours(self) -> pa.Table:
        """Entries of the day that were posted here first (LEDGER_SCHEMA, any order).

        Where a correction brought only our ledger to what the bank knew, the entry is as the bank was told of it.
        """
        return read_entries(
            self._connection,
            "FROM dual_told w LEFT JOIN dual_as_told c ON c.reference_id = w.reference_id"
            " CROSS JOIN LATERAL (SELECT * FROM ledger_entries"
            "  WHERE c.reference_id IS NULL AND ledger_id = %(ledger)s AND reference_id = w.reference_id"
            "  UNION ALL SELECT (c.entry).* WHERE c.reference_id IS NOT NULL LIMIT 1) AS e WHERE w.ours",
            {"ledger": self._day.ledger_id},
            source_row="w.number",
        )

    def ours_not_acknowledged(self) -> pa.Array:
        """Those of them that the bank is not known to have, by reference."""
        rows = self._connection.execute(
            "SELECT coalesce(array_agg(reference_id), '{}') FROM dual_told"
            " WHERE ours AND NOT coalesce(kind = 'entry' AND status IN ('ACKNOWLEDGED', 'COMPENSATED'), false)"
        ).fetchone()
        assert rows is not None
        return pa.array(rows[0], pa.string())

    def _count(self, query: str) -> int:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def refusals(connection: Connection, source_id: str, references: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Why entries of a source's current revision were not posted: reference → code and reason, of those that were not.

    Args:
        connection: to the ledger.
        source_id: of the day.
        references: a sample, at most some hundreds.
    """
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            "SELECT s.reference_id, x.code, x.reason FROM backfill_source_data s"
            " JOIN backfill_rejects_now x ON x.partition_id = s.partition_id AND x.source_row = s.source_row"
            " WHERE s.source_id = %s AND s.reference_id = ANY (%s) AND x.state = 'open'",
            [source_id, list(references)],
        ).fetchall()
    return {reference: (code, reason) for reference, code, reason in rows}
