"""A ledger of the bank as it was first written: accounts and entries, each a function of its place alone.

Belongs here: entry N of day D of ledger L from the seed; which entries are booked in an interval; references.
Does not: what was added or changed later (`changes.py`, `book.py`), sums (`totals.py`).

An entry's time is bound to its number: a day is divided into as many slots as it has entries, and entry N is booked
somewhere in slot N. So entries are in the order of their numbers, the first one from a given moment on is found by a
division, and no day has to be made to serve another.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from backfill_pipeline.money import minor_units
from backfill_pipeline.scb_simulator.calendar import Calendar, calendar_of
from backfill_pipeline.scb_simulator.dice import Dice, Integers
from backfill_pipeline.scb_simulator.options import LedgerOptions, Options

BLOCK_ENTRIES: Final = 8192
"""Entries that are made at a time: what memory is bounded by, whatever a day holds."""

_REFERENCE: Final = re.compile(
    r"(?P<ledger>.+)-(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})-(?P<late>L?)(?P<number>[0-9]{8,9})"
)
_SHARE_UNIT: Final = 1_000_000
_MAGNITUDES: Final = (3, 7)  # amounts have up to 3 to 9 digits in minor units
_AMOUNT_MAX: Final = 10 ** (_MAGNITUDES[0] + _MAGNITUDES[1] - 1)
_OPENING_MAX: Final = 10**17  # minor units; more than all entries of the largest ledger are worth together
_DAYS_CACHED: Final = 64

TYPES: Final = ("TRANSFER", "SETTLEMENT", "CARD", "SALARY", "FEE", "INTEREST", "TAX")
_NARRATIVES: Final = (
    "Monthly rent",
    "Invoice settlement",
    "Standing order",
    'Payment "final" notice',
    "Müller & Söhne, München",
    "株式会社サンプル, 東京",
    "رسوم شهرية",
    "Two lines:\nsecond line, with comma",
    "",
)
_CHANNELS: Final = ("RTGS", "INSTANT", "BATCH", "COUNTER")


class Place(NamedTuple):
    """Where an entry stands in its ledger: the order in which entries are served.

    Attributes:
        booked_s: when it was booked, seconds since 1970.
        late: 1 for those that arrived late, which follow the others of the same second.
        number: of the entry on its day, from 0; late ones have a count of their own.
    """

    booked_s: int
    late: int
    number: int


class Entry(NamedTuple):
    """One entry. `minor` is its amount in minor units of its currency."""

    place: Place
    day: date
    reference: str
    booked_at: str
    debit_account: str
    credit_account: str
    minor: int
    currency: str
    type: str
    narrative: str
    metadata: dict[str, str]

    @property
    def amount(self) -> str:
        """Exact, with the decimals of the currency."""
        return amount_text(self.minor, self.currency)


class Name(NamedTuple):
    """What a reference says: a day, and a number of that day from 0."""

    day: date
    late: int
    number: int


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the ledger. `shared`: we have it too; all others are the bank's own affair."""

    id: str
    name: str
    currency: str
    normal_side: str
    opening_minor: int
    shared: bool


@dataclass(frozen=True, slots=True)
class Moves:
    """Entries as numbers: indexes of accounts and of a currency, and amounts in minor units."""

    debit: Integers
    credit: Integers
    currency: Integers
    minor: Integers


class BankLedger:
    """One ledger, whole and without any state."""

    def __init__(self, bank: Options, options: LedgerOptions) -> None:
        self.id = options.id
        self.options = options
        self.calendar: Calendar = calendar_of(options.timezone)
        self.first_day = bank.start
        self.end_day = bank.start + timedelta(days=bank.days)
        self._seed = bank.seed
        self._dice = lru_cache(_DAYS_CACHED)(self._dice_of)
        currencies = len(options.currencies)
        self._size = np.array(
            [len(range(one, options.accounts, currencies)) for one in range(currencies)], np.int64
        )
        self._shared = self._size // 2
        self.accounts = self._make_accounts(options.entries_per_day * bank.days)
        self.account_ids = {account.id: account for account in self.accounts}

    @property
    def start_s(self) -> int:
        """The first moment of the first day."""
        return self.calendar.start_s(self.first_day)

    @property
    def end_s(self) -> int:
        """The first moment after the last day."""
        return self.calendar.start_s(self.end_day)

    def has_day(self, day: date) -> bool:
        """Whether the ledger covers this day."""
        return self.first_day <= day < self.end_day

    # --- entries ------------------------------------------------------------------------------------------------

    def count(self, day: date) -> int:
        """How many entries a day was first written with."""
        if not self.has_day(day) or self.calendar.length_s(day) <= 0:
            return 0
        return self.options.entries_per_day

    def first_from(self, day: date, moment_s: int) -> int:
        """The number of the day's first entry that is booked at this moment or later; the count, if there is none."""
        count = self.count(day)
        past_s = moment_s - self.calendar.start_s(day)
        if past_s <= 0 or not count:
            return 0
        length_s = self.calendar.length_s(day)
        slot = past_s * count // length_s
        if slot >= count:
            return count
        jitter = self._dice(day, 0)["time"].one(slot, length_s)
        return slot if slot * length_s + jitter >= past_s * count else slot + 1

    def spans(self, from_s: int, to_s: int) -> Iterator[tuple[date, int, int]]:
        """Days with entries booked in [from, to): the day, its first number, and the number after its last."""
        from_s, to_s = max(from_s, self.start_s), min(to_s, self.end_s)
        if from_s >= to_s:
            return
        day = self.calendar.day_of(from_s)
        while self.calendar.start_s(day) < to_s:
            first, end = self.first_from(day, from_s), self.first_from(day, to_s)
            if first < end:
                yield day, first, end
            day += timedelta(days=1)

    def entries(self, day: date, first: int, end: int) -> list[Entry]:
        """Entries `first` to `end` - 1 of a day."""
        assert 0 <= first <= end <= self.count(day)
        return self._entries(day, 0, np.arange(first, end, dtype=np.int64))

    def late_entries(self, day: date, numbers: Sequence[int]) -> list[Entry]:
        """The entries that arrive under these numbers after the day was written, booked at any time of it."""
        return self._entries(day, 1, np.array(numbers, np.int64))

    def moves(self, day: date, first: int, end: int) -> Moves:
        """The same entries as numbers, for sums."""
        return self._moves(day, 0, np.arange(first, end, dtype=np.int64))

    # --- references ---------------------------------------------------------------------------------------------

    def reference(self, name: Name) -> str:
        """Sorted as text, references of a ledger are in the order of days and numbers, late ones last on their day."""
        number = f"L{name.number + 1:08d}" if name.late else f"{name.number + 1:09d}"
        return f"{self.id}-{name.day:%Y%m%d}-{number}"

    def named(self, reference: str) -> Name | None:
        """What a reference says, or None when this ledger cannot have it. A late one may not have arrived."""
        parts = _REFERENCE.fullmatch(reference)
        if parts is None or parts["ledger"] != self.id:
            return None
        try:
            day = date(int(parts["year"]), int(parts["month"]), int(parts["day"]))
        except ValueError:
            return None
        name = Name(day, len(parts["late"]), int(parts["number"]) - 1)
        # Written once more, it must be the same text: a digit too many is no other entry's name.
        if name.number < 0 or self.reference(name) != reference or not self.has_day(day):
            return None
        return name if name.late or name.number < self.count(day) else None

    # --- how entries are made -----------------------------------------------------------------------------------

    def _dice_of(self, day: date, late: int) -> dict[str, Dice]:
        fields = ("time", "currency", "known", "turn", "first", "second", "magnitude", "amount", "words")
        return {field: Dice(self._seed, self.id, day, late, field) for field in fields}

    def _moves(self, day: date, late: int, numbers: Integers) -> Moves:
        dice = self._dice(day, late)
        kinds = len(self.options.currencies)
        currency = dice["currency"].draw(numbers, kinds)
        size, shared = self._size[currency], self._shared[currency]
        known = dice["known"].draw(numbers, _SHARE_UNIT) < round(self.options.known_share * _SHARE_UNIT)
        # Among the accounts of a currency the shared ones come first: an entry that we may know begins there, any
        # other with one of the rest. The second account is anybody but the first, a step around the circle away.
        first = np.where(
            known, dice["first"].draw(numbers, shared), shared + dice["first"].draw(numbers, size - shared)
        )
        circle = np.where(known, shared, size)
        second = (first + 1 + dice["second"].draw(numbers, circle - 1)) % circle
        turned = dice["turn"].draw(numbers, 2) == 0
        debit = np.where(turned, second, first) * kinds + currency
        credit = np.where(turned, first, second) * kinds + currency
        magnitude = 10 ** (_MAGNITUDES[0] + dice["magnitude"].draw(numbers, _MAGNITUDES[1]))
        return Moves(debit, credit, currency, 1 + dice["amount"].draw(numbers, magnitude))

    def _times_s(self, day: date, late: int, numbers: Integers) -> Integers:
        start_s, length_s = self.calendar.start_s(day), self.calendar.length_s(day)
        past = self._dice(day, late)["time"].draw(numbers, length_s)
        if late:
            return start_s + past
        return start_s + (numbers * length_s + past) // self.options.entries_per_day

    def _entries(self, day: date, late: int, numbers: Integers) -> list[Entry]:
        moves = self._moves(day, late, numbers)
        words = self._dice(day, late)["words"].draw(numbers, 2**62)
        rows = zip(
            numbers.tolist(),
            self._times_s(day, late, numbers).tolist(),
            moves.debit.tolist(),
            moves.credit.tolist(),
            moves.currency.tolist(),
            moves.minor.tolist(),
            words.tolist(),
            strict=True,
        )
        codes, written, accounts = self.options.currencies, self.calendar.written, self.accounts
        return [
            Entry(
                Place(booked_s, late, number),
                day,
                self.reference(Name(day, late, number)),
                written(booked_s),
                accounts[debit].id,
                accounts[credit].id,
                minor,
                codes[currency],
                TYPES[word % len(TYPES)],
                _NARRATIVES[word // 8 % len(_NARRATIVES)],
                {
                    "channel": _CHANNELS[word // 128 % len(_CHANNELS)],
                    "batch": f"{day:%y%m%d}/{word // 1024 % 48:02d}",
                },
            )
            for number, booked_s, debit, credit, currency, minor, word in rows
        ]

    def _make_accounts(self, entries: int) -> tuple[Account, ...]:
        """Accounts in turns of the currencies; shared ones first, every other one credit-normal.

        Each opens with more than what entries could take from it, so no balance is ever below zero, whichever part
        of the entries is posted. The first account of each currency, a debit-normal one, also opens with as much as
        all credit-normal ones together: the account against which openings are posted stays above zero too.
        """
        codes = self.options.currencies
        base = min(_AMOUNT_MAX * 2 * max(entries, 1), _OPENING_MAX)
        drawn = Dice(self._seed, self.id, "openings").draw(np.arange(self.options.accounts), 10**6).tolist()
        accounts: list[Account] = []
        credits = dict.fromkeys(codes, 0)
        for index in range(self.options.accounts):
            rank, kind = divmod(index, len(codes))
            opening = base + drawn[index]
            side = "credit" if rank % 2 else "debit"
            if side == "credit":
                credits[codes[kind]] += opening
            shared = bool(rank < self._shared[kind])
            account_id = f"{self.id}-{codes[kind]}-{rank + 1:05d}"
            name = f"{'Correspondent' if shared else 'Internal'} {codes[kind]} {rank + 1}"
            accounts.append(Account(account_id, name, codes[kind], side, opening, shared))
        for index, code in enumerate(codes):
            first = accounts[index]
            accounts[index] = Account(
                first.id,
                first.name,
                code,
                first.normal_side,
                first.opening_minor + credits[code],
                first.shared,
            )
        return tuple(accounts)


def amount_text(minor: int, currency: str) -> str:
    """An amount as an exact decimal with all decimals of its currency: 1234 → "12.34", in yen "1234"."""
    decimals = minor_units(currency)
    assert decimals is not None
    if not decimals:
        return str(minor)
    whole, fraction = divmod(abs(minor), 10**decimals)
    return f"{'-' if minor < 0 else ''}{whole}.{fraction:0{decimals}d}"
