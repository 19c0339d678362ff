"""The outbox on its way: rows become deliveries, deliveries are sent once at a time, and results come back to rows.

Belongs here: statements that move rows of `dual_ledger_outbox` from one status to the next.
Does not: sending, and what a result means (`dual_ledger/dispatch.py`), whether a bank is asked at all (`breakers.py`),
looking at the outbox (`outbox.py`).

A row is in at most one delivery that is not answered. Whoever sends a delivery holds a lock on it until the results are
in the rows: a sender that dies loses the lock, and the next one repeats the same body with the same key.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from backfill_pipeline.errors import TransientLedgerError
from backfill_pipeline.ledger.banks.breakers import ERROR_CHARACTERS
from backfill_pipeline.ledger.connection import Connection, ledger_errors

Kind = Literal["acknowledgement", "entry"]

_LISTS: Mapping[str, str] = {"acknowledgement": "acknowledgements", "entry": "entries"}
_TAKEN_BACK = "rows of the outbox were taken back by a rollback at this moment: the others are claimed anew"

# Rows of `o` that take another one back wait until it is known whether there is something to take back; and an entry of
# a bank that is posted again waits until the bank knows that it was not.
_IN_TURN = """AND NOT EXISTS (SELECT FROM dual_ledger_outbox taken WHERE taken.compensated_by = o.id
                                    AND taken.status IN ('PENDING', 'SENT', 'FAILED'))
                  AND NOT EXISTS (SELECT FROM dual_ledger_outbox before
                                  WHERE before.destination = o.destination AND before.id < o.id AND before.withdraws
                                    AND before.payload ->> 'reference' = o.payload ->> 'reference'
                                    AND before.status IN ('PENDING', 'SENT', 'FAILED'))"""


@dataclass(frozen=True, slots=True)
class Item:
    """A row that is in a delivery. `attempts`: how often it was judged before."""

    id: int
    reference: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request that is not answered yet; its items are in the order of its body; there were `item_count` of them."""

    id: int
    kind: Kind
    idempotency_key: str
    body: str
    attempts: int
    item_count: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry that is due, with our names of its accounts."""

    id: int
    debit_account: str
    credit_account: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a row.

    Attributes:
        pause_s: until a FAILED row is tried again.
    """

    id: int
    status: Literal["ACKNOWLEDGED", "FAILED", "DEAD"]
    error: str | None = None
    pause_s: float | None = None


# --- claiming -----------------------------------------------------------------------------------------------------


def claim_acknowledgements(connection: Connection, bank_id: str, limit: int) -> int:
    """Puts acknowledgements that are due into a new delivery; returns how many, 0 when none is due.

    Several callers at once get different rows. What is told of one entry (posted, not posted any more, posted again) is
    told one after the other, each when the bank has answered the one before it.
    """
    with ledger_errors("claim rows of the outbox in"), connection.transaction():
        rows = connection.execute(
            f"""
            WITH again AS MATERIALIZED (
                SELECT o.id FROM dual_ledger_outbox o
                WHERE destination = %(bank)s AND kind = 'acknowledgement' AND status = 'FAILED'
                  AND next_attempt_at <= now()
                  {_IN_TURN}
                ORDER BY next_attempt_at LIMIT %(limit)s FOR UPDATE OF o SKIP LOCKED
            ), fresh AS MATERIALIZED (
                SELECT o.id FROM dual_ledger_outbox o
                WHERE destination = %(bank)s AND kind = 'acknowledgement' AND status IN ('PENDING', 'FAILED')
                  AND status = 'PENDING'
                  {_IN_TURN}
                ORDER BY o.id LIMIT %(limit)s - (SELECT count(*) FROM again) FOR UPDATE OF o SKIP LOCKED
            )
            SELECT id FROM again UNION ALL SELECT id FROM fresh
            """,  # noqa: S608 - constants of this module only
            {"bank": bank_id, "limit": limit},
        ).fetchall()
        ids = [int(row[0]) for row in rows]
        if ids:
            _deliver(connection, bank_id, "acknowledgement", ids, {})
    return len(ids)


def keep_alive_closely(connection: Connection) -> None:
    """A sender whose machine is gone must not hold its delivery for the two hours that are usual."""
    with ledger_errors("read the outbox of"):
        connection.execute("SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10")


def lock_bank(connection: Connection, bank_id: str) -> None:
    """Makes the caller the only one who claims entries for a bank, until its transaction ends."""
    connection.execute(
        "SELECT 1 FROM dual_ledger_banks WHERE bank_id = %s FOR NO KEY UPDATE", [bank_id]
    ).fetchone()


def has_open_delivery(connection: Connection, bank_id: str, kind: Kind) -> bool:
    """Whether there is a delivery that is not answered."""
    with ledger_errors("read the outbox of"):
        row = connection.execute(
            "SELECT EXISTS (SELECT FROM dual_ledger_deliveries"
            " WHERE destination = %s AND kind = %s AND answered_at IS NULL)",
            [bank_id, kind],
        ).fetchone()
    return bool(row and row[0])


def waiting_accounts(connection: Connection, bank_id: str) -> dict[str, int]:
    """Our account → the first entry that moves it, was refused, and is not due yet: what comes later has to wait."""
    rows = connection.execute(
        """
        SELECT moved.account, min(o.id)
        FROM dual_ledger_outbox o
        CROSS JOIN LATERAL (VALUES (payload ->> 'debit_account'), (payload ->> 'credit_account')) AS moved (account)
        WHERE o.destination = %s AND o.kind = 'entry' AND o.status = 'FAILED' AND o.next_attempt_at > now()
        GROUP BY moved.account
        """,
        [bank_id],
    ).fetchall()
    return {str(account): int(first) for account, first in rows}


def due_entries(connection: Connection, bank_id: str, after_id: int, limit: int) -> list[Candidate]:
    """The next entries that are due, in their order."""
    rows = connection.execute(
        """
        SELECT id, payload ->> 'debit_account', payload ->> 'credit_account', attempts
        FROM dual_ledger_outbox o
        WHERE destination = %s AND kind = 'entry' AND status IN ('PENDING', 'FAILED') AND id > %s
          AND (status = 'PENDING' OR next_attempt_at <= now())
          AND NOT EXISTS (SELECT FROM dual_ledger_outbox taken WHERE taken.compensated_by = o.id
                            AND taken.status IN ('PENDING', 'SENT', 'FAILED'))
        ORDER BY id LIMIT %s
        """,
        [bank_id, after_id, limit],
    ).fetchall()
    return [Candidate(*row) for row in rows]


def deliver_entries(
    connection: Connection,
    bank_id: str,
    ids: Sequence[int],
    columns: tuple[str, str],
    names: Mapping[str, str],
) -> None:
    """Puts entries into a new delivery.

    Args:
        connection: in the transaction that holds `lock_bank`.
        bank_id: whom they go to.
        ids: of rows that are due, in their order.
        columns: what the bank calls the accounts that we debit and credit: debit_account and credit_account, or the
            other way round.
        names: our account → the bank's, of all accounts that the entries move.
    """
    assert set(columns) == {"debit_account", "credit_account"}
    _deliver(
        connection,
        bank_id,
        "entry",
        ids,
        {"debit": columns[0], "credit": columns[1], "names": json.dumps(names)},
    )


def _deliver(
    connection: Connection, bank_id: str, kind: Kind, ids: Collection[int], renamed: Mapping[str, str]
) -> None:
    done = connection.execute(
        # No item passes through Python, so numbers in it stay as exact as they are.
        """
        WITH delivery AS (
            INSERT INTO dual_ledger_deliveries (destination, kind, body, first_item_id, item_count)
            SELECT %(bank)s, %(kind)s, jsonb_build_object(%(list)s::text, jsonb_agg(
                       CASE WHEN %(names)s::jsonb IS NULL THEN payload
                            ELSE payload || jsonb_build_object(
                                %(debit)s::text, %(names)s::jsonb ->> (payload ->> 'debit_account'),
                                %(credit)s::text, %(names)s::jsonb ->> (payload ->> 'credit_account'))
                       END ORDER BY id))::text, min(id), count(*)
            FROM dual_ledger_outbox WHERE id = ANY(%(ids)s)
            RETURNING id
        )
        UPDATE dual_ledger_outbox o
        SET status = 'SENT', delivery_id = delivery.id, sent_at = clock_timestamp(), next_attempt_at = NULL
        FROM delivery
        WHERE o.id = ANY(%(ids)s) AND o.status IN ('PENDING', 'FAILED')
        """,
        {
            "bank": bank_id,
            "kind": kind,
            "list": _LISTS[kind],
            "ids": list(ids),
            "debit": "debit_account",
            "credit": "credit_account",
            "names": None,
            **renamed,
        },
    )
    if done.rowcount != len(ids):
        raise TransientLedgerError(_TAKEN_BACK)


# --- sending ------------------------------------------------------------------------------------------------------


def lock_delivery(connection: Connection, bank_id: str, kind: Kind) -> Delivery | None:
    """The first delivery that is due and that nobody is sending, locked until the transaction ends; None without one.

    Of entries, only the first of all open deliveries is ever sent: the others wait, whoever sends it.
    """
    with ledger_errors("read the outbox of"):
        row = connection.execute(
            """
            SELECT id, idempotency_key::text, body, attempts, item_count FROM dual_ledger_deliveries
            WHERE destination = %(bank)s AND kind = %(kind)s AND answered_at IS NULL
              AND next_attempt_at <= clock_timestamp()
              AND (kind <> 'entry' OR first_item_id = (
                    SELECT min(first_item_id) FROM dual_ledger_deliveries
                    WHERE destination = %(bank)s AND kind = %(kind)s AND answered_at IS NULL))
            ORDER BY first_item_id LIMIT 1 FOR UPDATE SKIP LOCKED
            """,
            {"bank": bank_id, "kind": kind},
        ).fetchone()
        if row is None:
            return None
        items = connection.execute(
            # As the bank knows it, which is how it answers; ours may be another since it was reversed and posted again.
            "SELECT id, payload ->> 'reference', attempts FROM dual_ledger_outbox"
            " WHERE delivery_id = %s AND status = 'SENT' ORDER BY id",
            [row[0]],
        ).fetchall()
    delivery_id, key, body, attempts, item_count = row
    return Delivery(delivery_id, kind, key, body, attempts, item_count, tuple(Item(*one) for one in items))


def under_way(connection: Connection, bank_id: str, kinds: Collection[Kind]) -> bool:
    """Whether somebody else is sending a delivery at this moment: one that is due, and locked."""
    with ledger_errors("read the outbox of"):
        row = connection.execute(
            """
            WITH due AS MATERIALIZED (
                SELECT id FROM dual_ledger_deliveries
                WHERE destination = %(bank)s AND kind = ANY(%(kinds)s) AND answered_at IS NULL
                  AND next_attempt_at <= clock_timestamp()
            ), free AS MATERIALIZED (
                SELECT id FROM dual_ledger_deliveries WHERE id IN (SELECT id FROM due) FOR KEY SHARE SKIP LOCKED
            )
            SELECT (SELECT count(*) FROM due) > (SELECT count(*) FROM free)
            """,
            {"bank": bank_id, "kinds": list(kinds)},
        ).fetchone()
    return bool(row and row[0])


def settle(connection: Connection, delivery: Delivery, verdicts: Sequence[Verdict]) -> None:
    """Writes what became of the items of a delivery, and closes it. In the transaction of `lock_delivery`."""
    with ledger_errors("write results of the outbox to"):
        judge(connection, verdicts, delivery.id)
        _close(connection, delivery, None)


def judge(connection: Connection, verdicts: Sequence[Verdict], delivery_id: int | None = None) -> None:
    """Writes verdicts to rows.

    Args:
        connection: in a transaction.
        verdicts: one for each row.
        delivery_id: the delivery that they are in; None for rows that could not be put into any.
    """
    row = connection.execute(
        # What was rolled back while its request was under way: the bank has it, and will be told that it is taken back;
        # or it has not, and then it hears of neither.
        """
        WITH judged AS (
            UPDATE dual_ledger_outbox o
            SET status = CASE WHEN o.compensated_by IS NULL THEN v.status
                              WHEN v.status = 'ACKNOWLEDGED' THEN 'COMPENSATED'
                              ELSE 'CANCELLED' END,
                attempts = o.attempts + 1, last_error = v.error,
                acknowledged_at = CASE v.status WHEN 'ACKNOWLEDGED' THEN clock_timestamp() END,
                next_attempt_at = CASE WHEN o.compensated_by IS NULL
                                       THEN clock_timestamp() + v.pause_s * interval '1 second' END
            FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::float8[]) AS v (id, status, error, pause_s)
            WHERE o.id = v.id AND o.delivery_id IS NOT DISTINCT FROM coalesce(%s, o.delivery_id)
              AND o.status NOT IN ('ACKNOWLEDGED', 'DEAD', 'CANCELLED', 'COMPENSATED')
            RETURNING o.status, o.compensated_by
        ), needless AS (
            UPDATE dual_ledger_outbox o SET status = 'CANCELLED', next_attempt_at = NULL
            FROM judged WHERE o.id = judged.compensated_by AND judged.status = 'CANCELLED'
              AND o.status IN ('PENDING', 'FAILED')
        )
        SELECT count(*) FROM judged
        """,
        [
            [one.id for one in verdicts],
            [one.status for one in verdicts],
            [None if one.error is None else one.error[:ERROR_CHARACTERS] for one in verdicts],
            [one.pause_s if one.status == "FAILED" else None for one in verdicts],
            delivery_id,
        ],
    ).fetchone()
    if row != (len(verdicts),):
        raise TransientLedgerError(_TAKEN_BACK)


def postpone(connection: Connection, delivery: Delivery, error: str, pause_s: float) -> None:
    """Leaves a delivery open that got no answer: it is repeated as it is. In the transaction of `lock_delivery`."""
    with ledger_errors("write results of the outbox to"):
        connection.execute(
            "UPDATE dual_ledger_deliveries SET attempts = attempts + 1, last_error = %s,"
            " next_attempt_at = clock_timestamp() + %s * interval '1 second' WHERE id = %s",
            [error[:ERROR_CHARACTERS], pause_s, delivery.id],
        )


def halve(connection: Connection, delivery: Delivery, error: str) -> None:
    """Takes a delivery that the bank refuses as a whole apart into two, each with a key of its own."""
    middle = len(delivery.items) // 2
    assert middle, "a delivery of one item cannot be halved"
    with ledger_errors("write results of the outbox to"):
        for half, first in ((delivery.items[:middle], 1), (delivery.items[middle:], middle + 1)):
            connection.execute(
                """
                WITH half AS (
                    INSERT INTO dual_ledger_deliveries (destination, kind, body, first_item_id, item_count)
                    SELECT d.destination, d.kind,
                           jsonb_build_object(%(list)s::text, jsonb_agg(item.item ORDER BY item.place))::text,
                           %(first_id)s, count(*)
                    FROM dual_ledger_deliveries d
                    CROSS JOIN LATERAL jsonb_array_elements(d.body::jsonb -> %(list)s)
                        WITH ORDINALITY AS item (item, place)
                    WHERE d.id = %(id)s AND item.place BETWEEN %(first)s AND %(last)s
                    GROUP BY d.id
                    RETURNING id
                )
                UPDATE dual_ledger_outbox o SET delivery_id = half.id FROM half WHERE o.id = ANY(%(ids)s)
                """,
                {
                    "list": _LISTS[delivery.kind],
                    "id": delivery.id,
                    "first_id": half[0].id,
                    "first": first,
                    "last": first + len(half) - 1,
                    "ids": [one.id for one in half],
                },
            )
        _close(connection, delivery, error)


def release(connection: Connection, delivery: Delivery, error: str) -> None:
    """Gives the rows of a delivery back to the outbox, to be claimed anew, and closes it."""
    with ledger_errors("write results of the outbox to"):
        connection.execute(
            "UPDATE dual_ledger_outbox SET status = 'PENDING', delivery_id = NULL"
            " WHERE delivery_id = %s AND status = 'SENT'",
            [delivery.id],
        )
        _close(connection, delivery, error)


def _close(connection: Connection, delivery: Delivery, error: str | None) -> None:
    connection.execute(
        "UPDATE dual_ledger_deliveries SET answered_at = clock_timestamp(), body = NULL, attempts = attempts + 1,"
        " last_error = %s WHERE id = %s",
        [None if error is None else error[:ERROR_CHARACTERS], delivery.id],
    )
