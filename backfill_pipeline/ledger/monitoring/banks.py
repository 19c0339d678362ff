"""Banks that keep one of our ledgers: their days, what they have yet to hear of, and whether they answer.

Belongs here: one line per bank, however many days and rows of the outbox it has.
Does not: single days (`ledger/banks/sync_status.py`) and rows (`ledger/banks/outbox.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backfill_pipeline.ledger.connection import Connection

DAY_STATES: Final = ("complete", "break", "failed", "open")
WAITING_STATUSES: Final = ("PENDING", "SENT", "FAILED", "DEAD")
"""Of the outbox: what a bank has not heard of. What it has is not counted here: that can be every entry of a ledger."""


@dataclass(frozen=True, slots=True)
class BankDaysState:
    """The days of a bank's source that were ever begun.

    Attributes:
        source: the id of the source.
        bank: the id of the bank.
        states: how many days are in each of DAY_STATES, in their order.
        complete_to: the end of the last day up to which all days since the first are complete; of a bank without such
            a day, the beginning of its first.
        entries: posted, over all days.
        unacknowledged: of these, those that the bank is not known to know of.
        breaks: found when both ledgers were last compared, over all days.
    """

    source: str
    bank: str
    states: Sequence[int]
    complete_to: datetime
    entries: int
    unacknowledged: int
    breaks: int


@dataclass(frozen=True, slots=True)
class BankConnection:
    """Whether a bank answers.

    Attributes:
        bank: its id.
        ledger: ours that it keeps too.
        failures: in a row, since it last answered.
        is_left_alone: nobody asks it at this moment.
        last_success_at: when it last answered; None when it never did.
    """

    bank: str
    ledger: str
    failures: int
    is_left_alone: bool
    last_success_at: datetime | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Rows of the outbox of one kind and status that a bank has not heard of.

    Attributes:
        bank: its id.
        kind: acknowledgement or entry.
        status: one of WAITING_STATUSES.
        rows: how many.
        oldest_at: when the first of them was written; None where there is none.
    """

    bank: str
    kind: str
    status: str
    rows: int
    oldest_at: datetime | None


# As bank_progress.progress has it: a day that is missing between two others is not complete, unless a zone left it out,
# in which case the windows beside it touch.
_DAYS: Final = """
    WITH day AS (
        SELECT s.*, lag(day) OVER w AS day_before, lag(window_to) OVER w AS end_before,
               row_number() OVER (PARTITION BY source_id ORDER BY day DESC) AS from_the_end
        FROM sync_status s WINDOW w AS (PARTITION BY source_id ORDER BY day)
    ), source AS (
        SELECT source_id, max(bank_id) FILTER (WHERE from_the_end = 1) AS bank_id, min(window_from) AS begins_at,
               count(*) FILTER (WHERE complete) AS complete,
               count(*) FILTER (WHERE NOT complete AND error IS NULL AND finished_at IS NOT NULL) AS broken,
               count(*) FILTER (WHERE NOT complete AND error IS NOT NULL) AS failed,
               count(*) FILTER (WHERE NOT complete AND error IS NULL AND finished_at IS NULL) AS open,
               least(min(day) FILTER (WHERE NOT complete),
                     min(day_before + 1)
                         FILTER (WHERE day - day_before > 2 OR day - day_before = 2 AND end_before <> window_from))
                   AS incomplete_from,
               coalesce(sum(posted), 0)::bigint AS entries,
               coalesce(sum(coalesce(posted, 0) - coalesce(acknowledged, 0)), 0)::bigint AS unacknowledged,
               coalesce(sum(break_count), 0)::bigint AS breaks
        FROM day GROUP BY source_id
    )
    SELECT source_id, bank_id, ARRAY[complete, broken, failed, open],
           coalesce((SELECT max(window_to) FROM sync_status s
                     WHERE s.source_id = source.source_id AND (incomplete_from IS NULL OR s.day < incomplete_from)),
                    begins_at),
           entries, unacknowledged, breaks
    FROM source ORDER BY source_id
"""

_CONNECTIONS: Final = """
    SELECT l.bank_id, l.ledger_id, coalesce(b.consecutive_failures, 0), coalesce(b.open_until > now(), false),
           b.last_success_at
    FROM dual_ledgers l LEFT JOIN dual_ledger_banks b ON b.bank_id = l.bank_id ORDER BY l.bank_id
"""

# By the indexes of what is open, which are as small as that is: an outbox of ten million acknowledged rows is not read.
# The oldest is the one with the lowest number, since rows are numbered as they are written.
_WAITING: Final = """
    WITH waiting AS (
        SELECT destination, kind, status, count(*) AS rows, min(id) AS first_id FROM dual_ledger_outbox
        WHERE status IN ('PENDING', 'FAILED') GROUP BY 1, 2, 3
        UNION ALL
        SELECT destination, kind, status, count(*), min(id) FROM dual_ledger_outbox
        WHERE status = 'DEAD' GROUP BY 1, 2, 3
        UNION ALL
        SELECT destination, kind, 'SENT', sum(item_count)::bigint, min(first_item_id) FROM dual_ledger_deliveries
        WHERE answered_at IS NULL GROUP BY 1, 2
    )
    SELECT l.bank_id, kind.kind, status.status, coalesce(w.rows, 0), o.created_at
    FROM dual_ledgers l
    CROSS JOIN unnest(ARRAY['acknowledgement', 'entry']) AS kind (kind)
    CROSS JOIN unnest(%(statuses)s::text[]) AS status (status)
    LEFT JOIN waiting w ON w.destination = l.bank_id AND w.kind = kind.kind AND w.status = status.status
    LEFT JOIN dual_ledger_outbox o ON o.id = w.first_id
    ORDER BY 1, 2, 3
"""


def bank_days(connection: Connection) -> list[BankDaysState]:
    """How far every bank is."""
    return [BankDaysState(*row) for row in connection.execute(_DAYS).fetchall()]


def bank_connections(connection: Connection) -> list[BankConnection]:
    """Whether banks answer; every bank that keeps one of our ledgers."""
    return [BankConnection(*row) for row in connection.execute(_CONNECTIONS).fetchall()]


def waiting(connection: Connection) -> list[Waiting]:
    """What every bank has yet to hear of; of each kind and status a row, also where there is nothing."""
    rows = connection.execute(_WAITING, {"statuses": list(WAITING_STATUSES)}).fetchall()
    return [Waiting(*row) for row in rows]
