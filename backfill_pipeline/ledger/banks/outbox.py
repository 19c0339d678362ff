"""Looking at the outbox, and giving it another try.

Belongs here: what is in the outbox and at the banks, what of it is due, which entries or rows have no counterpart, and
putting rows back to be sent.
Does not: sending (`dual_ledger/dispatch.py`), the way of a row through deliveries (`outbox_deliveries.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, get_args

from backfill_pipeline.ledger.banks.outbox_deliveries import Kind
from backfill_pipeline.ledger.connection import Connection, ledger_errors

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
RETRIED: Final = ("FAILED", "DEAD", "ACKNOWLEDGED")
"""Statuses of rows that can be given another try: what is PENDING or SENT is tried anyway."""

STATUSES: Final = ("PENDING", "SENT", "ACKNOWLEDGED", "FAILED", "DEAD", "CANCELLED", "COMPENSATED")


@dataclass(frozen=True, slots=True)
class OutboxCount:
    """How many rows of one kind and status a bank has, and when the oldest and the newest of them were written."""

    bank_id: str
    kind: str
    status: str
    count: int
    oldest: datetime
    newest: datetime


@dataclass(frozen=True, slots=True)
class BankState:
    """A bank that keeps one of our ledgers, and how telling it goes.

    Attributes:
        open_deliveries: requests that were sent without an answer, or are about to be.
        consecutive_failures: since it last answered.
        open_until: nobody asks it before; None when it can be asked.
        last_error: why it did not answer; None when it did.
    """

    bank_id: str
    ledger_id: str
    send_entries: bool
    open_deliveries: int
    consecutive_failures: int
    open_until: datetime | None
    last_error: str | None
    last_success_at: datetime | None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One row. `payload` is JSON text; `delivery_error` is why the request that it is in has no answer yet."""

    id: int
    bank_id: str
    ledger_id: str
    reference: str
    origin: str
    kind: str
    status: str
    attempts: int
    payload: str
    last_error: str | None
    delivery_error: str | None
    created_at: datetime
    sent_at: datetime | None
    acknowledged_at: datetime | None
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What a bank has yet to hear of. `due_in_s`: until something can be sent; None when nothing is left."""

    pending: int
    sent: int
    failed: int
    due_in_s: float | None

    @property
    def rows(self) -> int:
        """All of them."""
        return self.pending + self.sent + self.failed


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Entries or rows of one origin and batch that have no counterpart. `references`: the first ones, sorted."""

    origin: str
    batch_id: int | None
    count: int
    references: tuple[str, ...]


def counts(connection: Connection, bank_id: str | None = None) -> list[OutboxCount]:
    """Rows by bank, kind and status (§6.3 of the strategy, by origin instead of by prefix)."""
    with ledger_errors("read the outbox of"):
        rows = connection.execute(
            "SELECT destination, kind, status, count(*), min(created_at), max(created_at) FROM dual_ledger_outbox"
            " WHERE %(bank)s::text IS NULL OR destination = %(bank)s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            {"bank": bank_id},
        ).fetchall()
    return [OutboxCount(*row) for row in rows]


def banks(connection: Connection) -> list[BankState]:
    """All banks that keep one of our ledgers."""
    with ledger_errors("read the outbox of"):
        rows = connection.execute(
            """
            SELECT l.bank_id, l.ledger_id, l.send_entries,
                   (SELECT count(*) FROM dual_ledger_deliveries d
                    WHERE d.destination = l.bank_id AND d.answered_at IS NULL),
                   coalesce(b.consecutive_failures, 0),
                   CASE WHEN b.open_until > clock_timestamp() THEN b.open_until END, b.last_error, b.last_success_at
            FROM dual_ledgers l
            LEFT JOIN dual_ledger_banks b ON b.bank_id = l.bank_id
            ORDER BY l.bank_id
            """
        ).fetchall()
    return [BankState(*row) for row in rows]


def outstanding(connection: Connection, bank_id: str, kinds: Collection[Kind] = KINDS) -> Outstanding:
    """What a bank has yet to hear of, and when something of it can be sent."""
    with ledger_errors("read the outbox of"):
        row = connection.execute(
            """
            WITH o AS MATERIALIZED (
                SELECT count(*) FILTER (WHERE status = 'PENDING') AS pending,
                       count(*) FILTER (WHERE status = 'FAILED') AS failed,
                       min(CASE status WHEN 'PENDING' THEN now() ELSE next_attempt_at END) AS due_at
                FROM dual_ledger_outbox
                WHERE destination = %(bank)s AND kind = ANY(%(kinds)s) AND status IN ('PENDING', 'FAILED')
            ), d AS MATERIALIZED (
                SELECT coalesce(sum(item_count), 0) AS sent, min(next_attempt_at) AS due_at
                FROM dual_ledger_deliveries
                WHERE destination = %(bank)s AND kind = ANY(%(kinds)s) AND answered_at IS NULL
            )
            SELECT o.pending, d.sent, o.failed, CASE WHEN coalesce(o.due_at, d.due_at) IS NOT NULL THEN
                   greatest(0, extract(epoch FROM greatest(least(o.due_at, d.due_at), b.open_until)
                                                  - clock_timestamp()))::float8 END
            FROM o CROSS JOIN d LEFT JOIN dual_ledger_banks b ON b.bank_id = %(bank)s
            """,
            {"bank": bank_id, "kinds": list(kinds)},
        ).fetchone()
    assert row is not None
    pending, sent, failed, due_in_s = row
    return Outstanding(int(pending), int(sent), int(failed), due_in_s)


def due_banks(connection: Connection) -> list[str]:
    """Banks that something can be sent to now; entries only where the ledger's are sent."""
    with ledger_errors("read the outbox of"):
        rows = connection.execute(
            """
            SELECT l.bank_id FROM dual_ledgers l
            LEFT JOIN dual_ledger_banks b ON b.bank_id = l.bank_id
            CROSS JOIN LATERAL unnest(
                CASE WHEN l.send_entries THEN ARRAY['acknowledgement', 'entry'] ELSE ARRAY['acknowledgement'] END
            ) AS kind
            WHERE (b.open_until IS NULL OR b.open_until <= now()) AND (
                EXISTS (SELECT FROM dual_ledger_outbox o
                        WHERE o.destination = l.bank_id AND o.kind = kind.kind AND o.status IN ('PENDING', 'FAILED')
                          AND (o.status = 'PENDING' OR o.next_attempt_at <= now()))
                OR EXISTS (SELECT FROM dual_ledger_deliveries d
                           WHERE d.destination = l.bank_id AND d.kind = kind.kind AND d.answered_at IS NULL
                             AND d.next_attempt_at <= now()))
            GROUP BY l.bank_id ORDER BY l.bank_id
            """
        ).fetchall()
    return [str(row[0]) for row in rows]


def show(
    connection: Connection,
    *,
    bank_id: str | None = None,
    kind: Kind | None = None,
    statuses: Sequence[str] | None = None,
    reference: str | None = None,
    after_id: int = 0,
    limit: int = 50,
) -> list[OutboxRow]:
    """Rows in their order.

    Args:
        connection: to the ledger.
        bank_id: of this bank alone.
        kind: of this kind alone.
        statuses: of STATUSES; None for all.
        reference: of this entry alone.
        after_id: the last row of the page before.
        limit: at most so many.
    """
    with ledger_errors("read the outbox of"):
        rows = connection.execute(
            """
            SELECT o.id, o.destination, o.ledger_id, o.reference_id, o.origin, o.kind, o.status, o.attempts,
                   o.payload::text, o.last_error, CASE o.status WHEN 'SENT' THEN d.last_error END,
                   o.created_at, o.sent_at, o.acknowledged_at,
                   coalesce(o.next_attempt_at, CASE o.status WHEN 'SENT' THEN d.next_attempt_at END)
            FROM dual_ledger_outbox o
            LEFT JOIN dual_ledger_deliveries d ON d.id = o.delivery_id
            WHERE o.id > %(after)s
              AND (%(bank)s::text IS NULL OR o.destination = %(bank)s)
              AND (%(kind)s::text IS NULL OR o.kind = %(kind)s)
              AND (%(statuses)s::text[] IS NULL OR o.status = ANY(%(statuses)s))
              AND (%(reference)s::text IS NULL OR o.reference_id = %(reference)s)
            ORDER BY o.id LIMIT %(limit)s
            """,
            {
                "after": after_id,
                "bank": bank_id,
                "kind": kind,
                "statuses": None if statuses is None else list(statuses),
                "reference": reference,
                "limit": limit,
            },
        ).fetchall()
    return [OutboxRow(*row) for row in rows]


def retry(
    connection: Connection,
    *,
    bank_id: str | None = None,
    kind: Kind | None = None,
    statuses: Sequence[str] = ("FAILED", "DEAD"),
    reference: str | None = None,
) -> int:
    """Makes refused rows due at once, as if they had never been tried; returns how many.

    What is in a request without an answer is repeated at once too, and banks that were left alone are asked again.

    Args:
        connection: to the ledger.
        bank_id: of this bank alone.
        kind: of this kind alone.
        statuses: FAILED, DEAD, or ACKNOWLEDGED for a bank that lost what it had; it says `known` to what it has.
        reference: of this entry alone.
    """
    assert set(statuses) <= set(RETRIED), "other rows are on their way"
    chosen = {"bank": bank_id, "kind": kind, "statuses": list(statuses), "reference": reference}
    with ledger_errors("write to the outbox of"), connection.transaction():
        done = connection.execute(
            "UPDATE dual_ledger_outbox SET status = 'PENDING', attempts = 0, next_attempt_at = NULL,"
            " acknowledged_at = NULL"
            # What was reversed, a bank has lost as well: first it gets the entry, then its reversal.
            " WHERE (status = ANY(%(statuses)s)"
            "  OR (status = 'COMPENSATED' AND kind = 'entry' AND 'ACKNOWLEDGED' = ANY(%(statuses)s)))"
            " AND (%(bank)s::text IS NULL OR destination = %(bank)s)"
            " AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
            " AND (%(reference)s::text IS NULL OR reference_id = %(reference)s)",
            chosen,
        )
        # A delivery that is being sent is locked, and needs no push.
        connection.execute(
            "UPDATE dual_ledger_deliveries SET next_attempt_at = clock_timestamp() WHERE id IN ("
            " SELECT id FROM dual_ledger_deliveries WHERE answered_at IS NULL"
            " AND (%(bank)s::text IS NULL OR destination = %(bank)s)"
            " AND (%(kind)s::text IS NULL OR kind = %(kind)s) FOR UPDATE SKIP LOCKED)",
            chosen,
        )
        connection.execute(
            "UPDATE dual_ledger_banks SET open_until = clock_timestamp() WHERE open_until > clock_timestamp()"
            " AND (%(bank)s::text IS NULL OR bank_id = %(bank)s)",
            chosen,
        )
    return done.rowcount


def note_as_theirs(connection: Connection, ledger_id: str, bank_id: str, references: Sequence[str]) -> int:
    """Notes entries that were here before the bank served them as the bank's own: it is told that they are posted.

    What was noted to be sent to it, and given up, is not sent any more.

    Args:
        connection: to the ledger.
        ledger_id: whose entries.
        bank_id: that keeps it too.
        references: of entries that both have alike.

    Returns:
        How many were noted. Rows that are on their way, or that the bank has, stay as they are.
    """
    with ledger_errors("write to the outbox of"):
        done = connection.execute(
            """
            INSERT INTO dual_ledger_outbox AS o (ledger_id, reference_id, destination, origin, payload)
            SELECT e.ledger_id, e.reference_id, %(bank)s, %(bank)s, dual_ledger_payload(e, true)
            FROM ledger_entries e
            WHERE e.ledger_id = %(ledger)s AND e.reference_id = ANY(%(references)s)
            ORDER BY e.id
            ON CONFLICT (ledger_id, reference_id, destination)
                WHERE NOT withdraws AND compensated_by IS NULL AND status NOT IN ('CANCELLED', 'COMPENSATED')
            DO UPDATE
            SET origin = excluded.origin, payload = excluded.payload, status = 'PENDING', attempts = 0,
                next_attempt_at = NULL, last_error = NULL, delivery_id = NULL
            WHERE o.kind = 'entry' AND o.status = 'DEAD'
            """,
            {"bank": bank_id, "ledger": ledger_id, "references": list(references)},
        )
    return done.rowcount


_SAMPLE: Final = 5


def entries_without_row(connection: Connection, ledger_id: str) -> list[Unmatched]:
    """Entries of a dual ledger that the bank will never hear of though it must, by origin and batch: none, ever."""
    return _unmatched(
        connection,
        """
        WITH told AS MATERIALIZED (
            SELECT e.reference_id, coalesce(b.origin, 'LOCAL') AS origin, e.batch_id
            FROM ledger_entries e
            JOIN dual_ledgers l ON l.ledger_id = e.ledger_id
            LEFT JOIN backfill_batches_ever b ON b.id = e.batch_id
            WHERE e.ledger_id = %(ledger)s AND coalesce(b.origin, 'LOCAL') NOT IN ('OPENING', 'ROLLBACK')
              AND (l.send_entries OR b.origin = l.bank_id)
        )
        SELECT t.origin, t.batch_id, count(*), (array_agg(t.reference_id ORDER BY t.reference_id))[:%(sample)s]
        FROM told t
        LEFT JOIN dual_ledger_outbox o ON o.ledger_id = %(ledger)s AND o.reference_id = t.reference_id
        WHERE o.id IS NULL
        GROUP BY t.origin, t.batch_id ORDER BY t.batch_id
        """,
        ledger_id,
    )


def rows_without_entry(connection: Connection, ledger_id: str) -> list[Unmatched]:
    """Rows of the outbox whose entry is not in the ledger, by origin: none, unless somebody removed entries.

    Rows that were taken back with their entries, and those that tell a bank so, have none by right.
    """
    return _unmatched(
        connection,
        """
        SELECT o.origin, NULL, count(*), (array_agg(o.reference_id ORDER BY o.reference_id))[:%(sample)s]
        FROM dual_ledger_outbox o
        LEFT JOIN ledger_entries e ON e.ledger_id = o.ledger_id AND e.reference_id = o.reference_id
        WHERE o.ledger_id = %(ledger)s AND e.id IS NULL
          AND NOT o.withdraws AND o.compensated_by IS NULL AND o.status NOT IN ('CANCELLED', 'COMPENSATED')
        GROUP BY o.origin ORDER BY o.origin
        """,
        ledger_id,
    )


def _unmatched(connection: Connection, query: str, ledger_id: str) -> list[Unmatched]:
    with ledger_errors("compare the outbox with"):
        rows = connection.execute(query, {"ledger": ledger_id, "sample": _SAMPLE}).fetchall()
    return [Unmatched(origin, batch, count, tuple(references)) for origin, batch, count, references in rows]
