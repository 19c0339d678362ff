"""Totals of entries: how many, how much of each currency, and a digest of their content.

Belongs here: adding up and digesting, exactly, in bounded memory.
Does not: which entries (`book.py`, `told.py`).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import date
from functools import lru_cache
from typing import Final

from backfill_pipeline.scb_simulator.ledger import BLOCK_ENTRIES, BankLedger

_DAYS_CACHED: Final = 4096


class Totals:
    """A running total. Sums are in minor units; currencies without entries are absent.

    Attributes:
        count: entries.
        minor: currency → sum of all amounts, in minor units.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minor: Counter[str] = Counter()
        self._entries: Counter[str] = Counter()

    def add(self, currency: str, minor: int, count: int = 1) -> None:
        """Adds `count` entries that are worth `minor` together."""
        self.count += count
        self.minor[currency] += minor
        self._entries[currency] += count

    def add_all(self, other: "Totals") -> None:
        """Adds what another total holds."""
        for currency, entries in other._entries.items():
            self.add(currency, other.minor[currency], entries)

    def sums(self) -> dict[str, int]:
        """Currency → sum in minor units, by currency, of those that have entries."""
        return {code: self.minor[code] for code in sorted(self.minor) if self._entries[code]}


class TotalsOfLedger:
    """Totals of what a ledger was first written with. Whole days are added up once and remembered."""

    def __init__(self, ledger: BankLedger) -> None:
        self._ledger = ledger
        self._whole_day = lru_cache(_DAYS_CACHED)(self._add_up)

    def of(self, day: date, first: int, end: int) -> Totals:
        """The total of entries `first` to `end` - 1 of a day."""
        totals = Totals()
        if (first, end) == (0, self._ledger.count(day)):
            totals.add_all(self._whole_day(day, first, end))
        else:
            totals.add_all(self._add_up(day, first, end))
        return totals

    def _add_up(self, day: date, first: int, end: int) -> Totals:
        totals = Totals()
        for start in range(first, end, BLOCK_ENTRIES):
            moves = self._ledger.moves(day, start, min(start + BLOCK_ENTRIES, end))
            for index, code in enumerate(self._ledger.options.currencies):
                of_code = moves.currency == index
                if count := int(of_code.sum()):
                    # A block's sum stays far below 2^63: 8192 amounts of up to 10 digits.
                    totals.add(code, int(moves.minor[of_code].sum()), count)
        return totals


def canonical_line(
    reference: str, booked_at_utc: str, debit: str, credit: str, amount: str, currency: str
) -> str:
    """What a digest is made from: one line per entry, sorted by reference."""
    return f"{reference}\t{booked_at_utc}\t{debit}\t{credit}\t{amount}\t{currency}\n"


def digest(lines: Iterable[str]) -> str:
    """SHA-256 of all lines, "sha256:" and 64 hexadecimal digits."""
    state = hashlib.sha256()
    for line in lines:
        state.update(line.encode())
    return f"sha256:{state.hexdigest()}"
