"""What happened to a ledger after it was first written: entries that came late, entries that were changed.

Belongs here: keeping and finding both.
Does not: applying them to what is served (`book.py`), deciding when (`faults.py`, the admin API).
"""

import sqlite3
from dataclasses import dataclass
from datetime import date

from backfill_pipeline.scb_simulator.ledger import BankLedger, Place


@dataclass(frozen=True, slots=True)
class Late:
    """A late entry: number `number` of those of its day."""

    day: date
    number: int


@dataclass(frozen=True, slots=True)
class Change:
    """What an entry is now."""

    debit_account: str
    credit_account: str
    minor: int


def add_late(
    connection: sqlite3.Connection, ledger: BankLedger, day: date, count: int, visible_s: float
) -> list[Late]:
    """The next `count` late entries of a day; they are there from `visible_s` (seconds since 1970) on."""
    row: tuple[int] = connection.execute(
        "SELECT coalesce(max(number) + 1, 0) FROM late WHERE ledger = ? AND day = ?",
        (ledger.id, day.isoformat()),
    ).fetchone()
    added = [Late(day, number) for number in range(row[0], row[0] + count)]
    entries = ledger.late_entries(day, [one.number for one in added])
    connection.executemany(
        "INSERT INTO late VALUES (?, ?, ?, ?, ?)",
        [(ledger.id, day.isoformat(), one.place.number, one.place.booked_s, visible_s) for one in entries],
    )
    return added


def late_between(
    connection: sqlite3.Connection,
    ledger: str,
    from_s: int,
    to_s: int,
    now_s: float,
    *,
    after: Place | None = None,
    limit: int = -1,
) -> list[Late]:
    """Late entries booked in [from, to) that have arrived by now, in the order of their places.

    Args:
        connection: in a transaction.
        ledger: its id.
        from_s: seconds since 1970.
        to_s: the same; what is booked then is left out.
        now_s: what is now.
        after: only those behind this place.
        limit: at most so many; -1 for all.
    """
    # Behind an entry that is not late come all late ones of its second; behind a late one, those of higher numbers.
    second, number = (-1, -1) if after is None else (after.booked_s, after.number if after.late else -1)
    rows: list[tuple[str, int]] = connection.execute(
        "SELECT day, number FROM late WHERE ledger = ? AND booked_s >= ? AND booked_s < ? AND visible_s <= ?"
        " AND (booked_s, number) > (?, ?) ORDER BY booked_s, number LIMIT ?",
        (ledger, from_s, to_s, now_s, second, number, limit),
    ).fetchall()
    return [Late(date.fromisoformat(day), number) for day, number in rows]


def has_late(connection: sqlite3.Connection, ledger: str, late: Late, now_s: float) -> bool:
    """Whether a late entry has arrived."""
    found = connection.execute(
        "SELECT 1 FROM late WHERE ledger = ? AND day = ? AND number = ? AND visible_s <= ?",
        (ledger, late.day.isoformat(), late.number, now_s),
    ).fetchone()
    return found is not None


def changes_between(
    connection: sqlite3.Connection, ledger: str, from_s: int, to_s: int
) -> dict[Place, Change]:
    """What was changed of the entries booked in [from, to)."""
    rows = connection.execute(
        "SELECT booked_s, late, number, debit, credit, minor FROM changed"
        " WHERE ledger = ? AND booked_s >= ? AND booked_s < ?",
        (ledger, from_s, to_s),
    ).fetchall()
    return {Place(row[0], row[1], row[2]): Change(row[3], row[4], row[5]) for row in rows}


def set_change(connection: sqlite3.Connection, ledger: str, place: Place, change: Change) -> None:
    """From now on the entry at this place is so."""
    connection.execute(
        "INSERT OR REPLACE INTO changed VALUES (?, ?, ?, ?, ?, ?, ?)",
        (ledger, *place, change.debit_account, change.credit_account, change.minor),
    )
