"""The made-up bank behind an export, as numbers: its accounts, what moves between them, and what they open with.

Belongs here: everything that is drawn by chance, and the arithmetic that keeps balances above zero.
Does not: how it is written into files (`generate.py`), and what spoils it (`dirt.py`).

All numbers are integers, drawn straight from PCG64's raw output, whose stream numpy guarantees (that of its
distributions it does not).

Opening balances are worked out, not guessed: a first pass adds up everything that could lower each account, and each
opens with more than that. So no account ever ends below zero, in whatever order and whichever entries are posted.
The first accounts of the file open with more than all credit-normal accounts of their currency together, which keeps
the credit-normal opening-balance equity account above zero too.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]

RATE_UNIT: Final = 10**8
"""Rates are integers in units of 1e-8."""
ACCOUNT_DIGITS: Final = 7
"""Digits of an account's number in its id."""
SKEW_MAX: Final = 0.5
"""An entry's two accounts differ, so one account can have half of all legs at most."""

_CHUNK_ROWS: Final = 100_000
_HOT_ACCOUNT: Final = (
    0  # in US dollars, as most accounts are: it finds others to trade with without a conversion
)
_SHARE_UNIT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _Currency:
    """A currency of the export. `amount_low` and `amount_step` are in minor units."""

    code: str
    decimals: int
    value: int  # of one unit, in millionths of a US dollar, some day in 2024
    share: int  # of accounts, in percent
    amount_low: int
    amount_step: int


CURRENCIES: Final = (
    _Currency("USD", 2, 1_000_000, 40, 100, 1),
    _Currency("EUR", 2, 1_085_000, 25, 100, 1),
    _Currency("GBP", 2, 1_270_000, 12, 100, 1),
    _Currency("JPY", 0, 6_700, 9, 100, 1),
    _Currency("KRW", 0, 740, 4, 1_000, 10),
    _Currency("KWD", 3, 3_255_000, 5, 1_000, 3),
    _Currency("BHD", 3, 2_650_000, 5, 1_000, 3),
)
ACCOUNTS_MIN: Final = 2 * len(CURRENCIES)
"""One debit-normal and one credit-normal account of each currency."""

DECIMALS: Final = np.array([currency.decimals for currency in CURRENCIES], np.int64)
_VALUES = np.array([currency.value for currency in CURRENCIES], np.int64)
_LOWS = np.array([currency.amount_low for currency in CURRENCIES], np.int64)
_STEPS = np.array([currency.amount_step for currency in CURRENCIES], np.int64)


def decimal_text(numbers: Integers) -> pa.Array:
    """Whole numbers as text."""
    return pa.array(numbers).cast(pa.string())


class Purpose(IntEnum):
    """What a stream of dice is for: what one purpose draws never shifts what another does."""

    ACCOUNTS = 0
    OPENINGS = 1
    DIRT = 2
    ENTRIES = 3
    SKEW = 4
    REFERENCES = 5


class Dice:
    """Integers from one stream of PCG64, told apart by seed and purpose."""

    def __init__(self, seed: int, purpose: Purpose, *parts: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, int(purpose), *parts]))

    def draw(self, count: int, bound: int | Integers) -> Integers:
        """`count` integers from 0 to `bound` - 1. The bias of the modulo is below 1e-12 here, and harmless."""
        raw = self.raw(count)
        return (raw % np.asarray(bound, np.uint64)).astype(np.int64)

    def raw(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` times 64 bits."""
        return np.asarray(self._bits.random_raw(count), np.uint64)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is drawn, and how.

    Attributes:
        entries: rows of the export.
        seed: tells all streams of dice from those of another export.
        skew: share of all legs that are put on one account, from 0 to `SKEW_MAX`; it gets its usual few besides.
    """

    entries: int
    seed: int
    skew: float = 0.0


@dataclass(frozen=True, slots=True)
class Book:
    """The accounts: number in the file (from 0) → currency and side, and the accounts of each currency."""

    tag: str  # starts account ids and references, so that two exports can be in one ledger
    currency: Integers
    credit_normal: npt.NDArray[np.bool_]
    ids: pa.Array
    by_currency: Integers  # account numbers, those of one currency together
    first: Integers  # of each currency in `by_currency`
    size: Integers  # accounts of each currency
    rank: Integers  # of each account among those of its currency

    @classmethod
    def draw(cls, accounts: int, seed: int, tag: str) -> "Book":
        """Accounts of a seed, whose ids start with the tag."""
        kinds = len(CURRENCIES)
        dice = Dice(seed, Purpose.ACCOUNTS)
        bounds = np.cumsum([currency.share for currency in CURRENCIES])
        currency = np.searchsorted(bounds, dice.draw(accounts, 100), side="right").astype(np.int64)
        credit_normal = dice.draw(accounts, 10) < 3
        # Every currency has both sides, at the top of the file, debit-normal first: see the module's docstring.
        currency[:ACCOUNTS_MIN] = np.tile(np.arange(kinds), 2)
        credit_normal[:ACCOUNTS_MIN] = np.repeat([False, True], kinds)
        by_currency = np.argsort(currency, kind="stable").astype(np.int64)
        size = np.bincount(currency, minlength=kinds).astype(np.int64)
        first = np.cumsum(size) - size
        rank = np.empty(accounts, np.int64)
        rank[by_currency] = np.arange(accounts) - first[currency[by_currency]]
        numbers = pc.utf8_lpad(decimal_text(np.arange(1, accounts + 1)), ACCOUNT_DIGITS, "0")
        ids = pc.binary_join_element_wise(pa.scalar(f"{tag}-"), numbers, "")
        return cls(tag, currency, credit_normal, ids, by_currency, first, size, rank)


def opening_balances(book: Book, outflows: Integers, seed: int) -> Integers:
    """Opening balance of each account in minor units: more than what can flow out."""
    dice = Dice(seed, Purpose.OPENINGS)
    unit = 10 ** DECIMALS[book.currency]
    rounded = (outflows // (100 * unit) + 1 + dice.draw(len(outflows), 50)) * 100 * unit
    openings = rounded + dice.draw(len(outflows), unit)
    for index in range(len(CURRENCIES)):
        openings[index] += openings[(book.currency == index) & book.credit_normal].sum()
    return openings


@dataclass(frozen=True, slots=True)
class Moves:
    """Rows of one chunk, as numbers. `rate` is in units of 1e-8, zero where both accounts share the currency."""

    debit: Integers
    credit: Integers
    currency: Integers
    amount: Integers
    rate: Integers

    @classmethod
    def draw(cls, book: Book, rows: int, dice: Dice, hot: npt.NDArray[np.bool_] | None = None) -> "Moves":
        """Moves of `rows` entries; the rows in `hot` have one leg on the hot account."""
        accounts = len(book.currency)
        # One entry in five touches one of the busiest hundredth of all accounts, as a bank's own accounts are.
        busy = dice.draw(rows, 5) == 0
        debit = dice.draw(rows, np.where(busy, max(1, accounts // 100), accounts))
        if hot is not None:
            debit = np.where(hot, _HOT_ACCOUNT, debit)
        currency = book.currency[debit]
        crossing = dice.draw(rows, 100) < 3
        step = 1 + dice.draw(rows, len(CURRENCIES) - 1)
        other = np.where(crossing, (currency + step) % len(CURRENCIES), currency)
        size = book.size[other]
        # Within a currency: anybody but oneself, by a step of 1 to size - 1 around the circle.
        step = 1 + dice.draw(rows, size - 1)
        place = np.where(crossing, step, (book.rank[debit] + step) % size)
        credit = book.by_currency[book.first[other] + place]
        magnitude = 10 ** (3 + dice.draw(rows, 4))
        amount = _LOWS[currency] + dice.draw(rows, magnitude) * _STEPS[currency]
        jitter = 9_800 + dice.draw(rows, 401)  # rates move by 2 % up and down
        rate = _VALUES[currency] * RATE_UNIT // _VALUES[other] * jitter // 10_000
        return cls(debit, credit, currency, amount, np.where(crossing, rate, 0))

    def credited(self, book: Book) -> Integers:
        """What moves on the credit side, in minor units of its own currency, rounded up."""
        shift = DECIMALS[book.currency[self.credit]] - DECIMALS[self.currency]
        product = self.amount * self.rate * 10 ** np.maximum(shift, 0)  # below 2e18: fits
        converted = product // (RATE_UNIT * 10 ** np.maximum(-shift, 0)) + 1
        return np.where(self.rate > 0, converted, self.amount)

    def turned(self, *conditions: npt.NDArray[np.bool_]) -> "Moves":
        """The same with debit and credit exchanged where all conditions hold and both are in one currency."""
        turn = np.logical_and.reduce([*conditions, self.rate == 0])
        debit = np.where(turn, self.credit, self.debit)
        credit = np.where(turn, self.debit, self.credit)
        return dataclasses.replace(self, debit=debit, credit=credit)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Entries that are drawn together. `first` is the number of the first one, from 0; `dice` go on after the moves."""

    number: int
    first: int
    moves: Moves
    dice: Dice


def chunks(book: Book, plan: Plan) -> Iterator[Chunk]:
    """The entries of a plan, one chunk after the other. Drawn twice, they are alike both times."""
    for number, first in enumerate(range(0, plan.entries, _CHUNK_ROWS)):
        rows = min(_CHUNK_ROWS, plan.entries - first)
        dice = Dice(plan.seed, Purpose.ENTRIES, number)
        if plan.skew:
            skewing = Dice(plan.seed, Purpose.SKEW, number)
            # One leg of such an entry is on the hot account, so twice as many entries as legs are asked for.
            hot = skewing.draw(rows, _SHARE_UNIT) < round(2 * plan.skew * _SHARE_UNIT)
            moves = Moves.draw(book, rows, dice, hot).turned(skewing.draw(rows, 2) == 0, hot)
        else:
            moves = Moves.draw(book, rows, dice)
        yield Chunk(number, first, moves, dice)


def largest_outflows(book: Book, plan: Plan) -> Integers:
    """For each account the sum of all movements that lower it, in minor units."""
    outflows = np.zeros(len(book.currency), np.int64)
    for chunk in chunks(book, plan):
        moves = chunk.moves
        lowers = book.credit_normal[moves.debit]
        np.add.at(outflows, moves.debit[lowers], moves.amount[lowers])
        lowers = ~book.credit_normal[moves.credit]
        np.add.at(outflows, moves.credit[lowers], moves.credited(book)[lowers])
    return outflows
