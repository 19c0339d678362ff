"""The circuit breaker: a bank that does not answer is left alone for a while, by all who send to it.

Belongs here: what the ledger remembers of a bank's answers, and whether the bank may be asked now.
Does not: what counts as no answer (`dual_ledger/dispatch.py`), deliveries (`outbox_deliveries.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors

ERROR_CHARACTERS: Final = 500
"""What is kept of a bank's words."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """Whether a bank is asked at all.

    Attributes:
        open_until: nobody asks it before; None when it can be asked.
        half_open: it was left alone for long enough, so that one may try.
        last_error: why it was left alone.
    """

    open_until: datetime | None
    half_open: bool
    last_error: str | None


def breaker(connection: Connection, bank_id: str) -> Breaker:
    """How the breaker of a bank stands now; makes its row when there is none."""
    with ledger_errors("read the outbox of"):
        connection.execute(
            "INSERT INTO dual_ledger_banks (bank_id) SELECT %s"
            " WHERE NOT EXISTS (SELECT FROM dual_ledger_banks WHERE bank_id = %s) ON CONFLICT DO NOTHING",
            [bank_id, bank_id],
        )
        row = connection.execute(
            "SELECT CASE WHEN open_until > clock_timestamp() THEN open_until END,"
            " coalesce(open_until <= clock_timestamp(), false), last_error FROM dual_ledger_banks WHERE bank_id = %s",
            [bank_id],
        ).fetchone()
    assert row is not None
    return Breaker(*row)


def may_send(connection: Connection, bank_id: str) -> bool:
    """Whether the bank may be asked in this transaction. Behind a half-open breaker, one transaction at a time may."""
    found = breaker(connection, bank_id)
    if not found.half_open:
        return found.open_until is None
    with ledger_errors("read the outbox of"):
        row = connection.execute(
            "SELECT pg_try_advisory_xact_lock(%s, hashtext('outbox of ' || %s))",
            [ADVISORY_LOCK_SPACE, bank_id],
        ).fetchone()
    return bool(row and row[0])


def note_success(connection: Connection, bank_id: str) -> None:
    """The bank answers: its breaker closes."""
    with ledger_errors("write results of the outbox to"):
        connection.execute(
            "UPDATE dual_ledger_banks SET consecutive_failures = 0, open_until = NULL, last_error = NULL,"
            " last_success_at = clock_timestamp() WHERE bank_id = %s",
            [bank_id],
        )


def note_failure(
    connection: Connection, bank_id: str, error: str, *, opens_at: int, pause_s: float, pause_max_s: float
) -> None:
    """The bank does not answer. From `opens_at` failures in a row on, its breaker opens, each time for longer."""
    with ledger_errors("write results of the outbox to"):
        connection.execute(
            """
            UPDATE dual_ledger_banks
            SET consecutive_failures = consecutive_failures + 1,
                last_error = %(error)s,
                open_until = CASE WHEN consecutive_failures + 1 >= %(opens_at)s THEN clock_timestamp()
                    + least(%(max)s::float8,
                            %(pause)s::float8 * 2 ^ least(consecutive_failures + 1 - %(opens_at)s, 20))
                    * (0.75 + random() / 2) * interval '1 second' END
            WHERE bank_id = %(bank)s
            """,
            {
                "error": error[:ERROR_CHARACTERS],
                "opens_at": opens_at,
                "max": pause_max_s,
                "pause": pause_s,
                "bank": bank_id,
            },
        )
