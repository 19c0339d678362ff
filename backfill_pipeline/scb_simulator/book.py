"""A ledger as it stands now: as it was first written, with what came late and what was changed.

Belongs here: pages, totals and single entries, all from the same two sources, so that they always agree.
Does not: cursors and JSON (`web/`), keeping changes (`changes.py`).
"""

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final

from backfill_pipeline.scb_simulator.calendar import utc_text
from backfill_pipeline.scb_simulator.changes import (
    Change,
    Late,
    add_late,
    changes_between,
    has_late,
    late_between,
    set_change,
)
from backfill_pipeline.scb_simulator.ledger import BLOCK_ENTRIES, BankLedger, Entry, Place
from backfill_pipeline.scb_simulator.store import Store
from backfill_pipeline.scb_simulator.totals import Totals, TotalsOfLedger, canonical_line, digest

LATE_MAX: Final = 10_000
"""Late entries that can be added at once."""


@dataclass(frozen=True, slots=True)
class DayTotals:
    """The total of one of the bank's days, or of the part of it that was asked for."""

    day: date
    from_s: int
    to_s: int
    totals: Totals
    digest: str | None


class Book:
    """One ledger of the bank. Every call sees one moment of the state."""

    def __init__(self, ledger: BankLedger, store: Store, now_s: Callable[[], float] = time.time) -> None:
        self.ledger = ledger
        self._store = store
        self._totals = TotalsOfLedger(ledger)
        self._now_s = now_s

    def page(self, from_s: int, to_s: int, after: Place | None, limit: int) -> tuple[list[Entry], bool]:
        """The next entries booked in [from, to), in order.

        Args:
            from_s: seconds since 1970.
            to_s: the same; what is booked then is left out.
            after: the place of the last entry that was served; None to begin.
            limit: at most so many.

        Returns:
            The entries, and whether there are more.
        """
        written = self._written_after(from_s, to_s, after, limit + 1)
        with self._store.read() as connection:
            late = late_between(
                connection, self.ledger.id, from_s, to_s, self._now_s(), after=after, limit=limit + 1
            )
            entries = written + self._arrived(late)
            if late:
                entries.sort(key=lambda entry: entry.place)
            more = len(entries) > limit
            entries = entries[:limit]
            return self._as_changed(connection, entries), more

    def totals(self, from_s: int, to_s: int, *, with_digest: bool) -> list[DayTotals]:
        """Totals of the entries booked in [from, to), by day; days without entries are left out."""
        with self._store.read() as connection:
            now_s = self._now_s()
            written = {day: (first, end) for day, first, end in self.ledger.spans(from_s, to_s)}
            late: dict[date, list[Late]] = {}
            for one in late_between(connection, self.ledger.id, from_s, to_s, now_s):
                late.setdefault(one.day, []).append(one)
            return [
                self._day_totals(
                    connection, day, from_s, to_s, written.get(day, (0, 0)), late.get(day, []), with_digest
                )
                for day in sorted({*written, *late})
            ]

    def find(self, reference: str) -> Entry | None:
        """An entry as it stands now; None when there is none of this reference."""
        with self._store.read() as connection:
            return self.find_in(connection, reference)

    def find_in(self, connection: sqlite3.Connection, reference: str) -> Entry | None:
        """The same inside a transaction."""
        name = self.ledger.named(reference)
        if name is None:
            return None
        if name.late:
            if not has_late(connection, self.ledger.id, Late(name.day, name.number), self._now_s()):
                return None
            entry = self.ledger.late_entries(name.day, [name.number])[0]
        else:
            entry = self.ledger.entries(name.day, name.number, name.number + 1)[0]
        return self._as_changed(connection, [entry])[0]

    def has(self, connection: sqlite3.Connection, reference: str) -> bool:
        """Whether there is an entry of this reference: cheaper than finding it."""
        name = self.ledger.named(reference)
        if name is None:
            return False
        return not name.late or has_late(
            connection, self.ledger.id, Late(name.day, name.number), self._now_s()
        )

    def change(self, entry: Entry, change: Change) -> Entry:
        """Changes an entry, and returns what it is now."""
        with self._store.write() as connection:
            set_change(connection, self.ledger.id, entry.place, change)
        return _changed(entry, change)

    def add_late(self, day: date, count: int, appear_after_s: float) -> list[Entry]:
        """Adds entries to a day; they are served from so many seconds on."""
        with self._store.write() as connection:
            added = add_late(connection, self.ledger, day, count, self._now_s() + appear_after_s)
        return self._arrived(added)

    # --- how it is put together ---------------------------------------------------------------------------------

    def _written_after(self, from_s: int, to_s: int, after: Place | None, limit: int) -> list[Entry]:
        """Up to `limit` entries as they were first written, behind a place."""
        found: list[Entry] = []
        begin_s = from_s if after is None else max(from_s, after.booked_s)
        for day, first, end in self.ledger.spans(begin_s, to_s):
            if after is not None and self.ledger.calendar.day_of(after.booked_s) == day:
                # The entries of the place's own second are behind it if it is early, and not if it is late.
                if after.late:
                    first = max(first, self.ledger.first_from(day, after.booked_s + 1))
                else:
                    first = max(first, after.number + 1)
            if first < end:
                found += self.ledger.entries(day, first, min(end, first + limit - len(found)))
            if len(found) >= limit:
                break
        return found

    def _arrived(self, late: list[Late]) -> list[Entry]:
        """Late entries in the order in which they are given."""
        return [
            entry
            for day, of_day in itertools.groupby(late, key=lambda one: one.day)
            for entry in self.ledger.late_entries(day, [one.number for one in of_day])
        ]

    def _as_changed(self, connection: sqlite3.Connection, entries: list[Entry]) -> list[Entry]:
        if not entries:
            return entries
        changes = changes_between(
            connection, self.ledger.id, entries[0].place.booked_s, entries[-1].place.booked_s + 1
        )
        if not changes:
            return entries
        return [
            _changed(entry, changes[entry.place]) if entry.place in changes else entry for entry in entries
        ]

    def _day_totals(
        self,
        connection: sqlite3.Connection,
        day: date,
        from_s: int,
        to_s: int,
        numbers: tuple[int, int],
        late: list[Late],
        with_digest: bool,
    ) -> DayTotals:
        ledger = self.ledger
        start_s = ledger.calendar.start_s(day)
        from_s, to_s = max(from_s, start_s), min(to_s, start_s + ledger.calendar.length_s(day))
        totals = self._totals.of(day, *numbers)
        arrived = ledger.late_entries(day, sorted(one.number for one in late))
        for entry in arrived:
            totals.add(entry.currency, entry.minor)
        for place, change in changes_between(connection, ledger.id, from_s, to_s).items():
            entry = (
                ledger.late_entries(day, [place.number])
                if place.late
                else ledger.entries(day, place.number, place.number + 1)
            )[0]
            totals.add(entry.currency, change.minor - entry.minor, 0)
        lines = self._lines(connection, day, numbers, arrived) if with_digest else None
        return DayTotals(day, from_s, to_s, totals, None if lines is None else digest(lines))

    def _lines(
        self, connection: sqlite3.Connection, day: date, numbers: tuple[int, int], late: list[Entry]
    ) -> Iterator[str]:
        """The canonical lines of a day, in the order of references: late ones come last."""
        first, end = numbers
        for start in range(first, end, BLOCK_ENTRIES):
            block = self.ledger.entries(day, start, min(start + BLOCK_ENTRIES, end))
            yield from map(_line, self._as_changed(connection, block))
        # They are not in the order of booking, so what was changed of them is looked up for the whole day.
        start_s = self.ledger.calendar.start_s(day)
        end_s = start_s + self.ledger.calendar.length_s(day)
        changes = changes_between(connection, self.ledger.id, start_s, end_s) if late else {}
        for entry in late:
            yield _line(_changed(entry, changes[entry.place]) if entry.place in changes else entry)


def _changed(entry: Entry, change: Change) -> Entry:
    return entry._replace(
        debit_account=change.debit_account, credit_account=change.credit_account, minor=change.minor
    )


def _line(entry: Entry) -> str:
    return canonical_line(
        entry.reference,
        utc_text(entry.place.booked_s),
        entry.debit_account,
        entry.credit_account,
        entry.amount,
        entry.currency,
    )
