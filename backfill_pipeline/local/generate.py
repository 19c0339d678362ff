"""Made-up bank exports: entries, accounts, a source definition, and what posting them must come to.

Belongs here: rows that look like a bank's, a chosen share of them spoilt in every way that the product tells apart.
Does not: reading, judging or posting them.

The same arguments give the same bytes on every machine and with every version of the libraries: all numbers are
integers, drawn straight from PCG64's raw output, whose stream numpy guarantees (that of its distributions it does not).

Opening balances are worked out, not guessed: a first pass adds up everything that could lower each account, and each
opens with more than that. So no account ever ends below zero, in whatever order and whichever entries are posted.
The first accounts of the file open with more than all credit-normal accounts of their currency together, which keeps
the credit-normal opening-balance equity account above zero too.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import UsageError
from backfill_pipeline.local.dirt import COLUMNS, DIRT, DIRTY_KINDS, Spoiler

Integers = npt.NDArray[np.int64]

_CHUNK_ROWS: Final = 100_000
_RATE_UNIT: Final = 10**8  # rates have eight decimals
_START_UTC_S: Final = 1_704_067_200  # 2024-01-01T00:00:00Z
_SPAN_S: Final = 366 * 86_400
_ACCOUNT_DIGITS: Final = 7
_ENTRIES_MAX: Final = 10**9


@dataclass(frozen=True, slots=True)
class _Currency:
    """A currency of the export. `amount_low` and `amount_step` are in minor units."""

    code: str
    decimals: int
    value: int  # of one unit, in millionths of a US dollar, some day in 2024
    share: int  # of accounts, in percent
    amount_low: int
    amount_step: int


_CURRENCIES: Final = (
    _Currency("USD", 2, 1_000_000, 40, 100, 1),
    _Currency("EUR", 2, 1_085_000, 25, 100, 1),
    _Currency("GBP", 2, 1_270_000, 12, 100, 1),
    _Currency("JPY", 0, 6_700, 9, 100, 1),
    _Currency("KRW", 0, 740, 4, 1_000, 10),
    _Currency("KWD", 3, 3_255_000, 5, 1_000, 3),
    _Currency("BHD", 3, 2_650_000, 5, 1_000, 3),
)
ACCOUNTS_MIN: Final = 2 * len(_CURRENCIES)
"""One debit-normal and one credit-normal account of each currency."""

_CODES = pa.array([currency.code for currency in _CURRENCIES])
_DECIMALS = np.array([currency.decimals for currency in _CURRENCIES], np.int64)
_VALUES = np.array([currency.value for currency in _CURRENCIES], np.int64)
_LOWS = np.array([currency.amount_low for currency in _CURRENCIES], np.int64)
_STEPS = np.array([currency.amount_step for currency in _CURRENCIES], np.int64)

_KINDS = pa.array(["TRANSFER", "CARD", "SALARY", "FEE", "INTEREST", "FX"])
_FX_KIND: Final = 5
# As they stand in the file: quoted where CSV needs it, and now and then where it does not.
_PHRASES = pa.array(
    [
        "Monthly rent",
        "Card payment",
        "Standing order",
        "Invoice settlement",
        '"Groceries"',
        '"Müller & Söhne, München"',
        '"Payment ""final"" notice"',
        "Café Zoë",
        '"株式会社サンプル, 東京"',
        "رسوم شهرية",
        '"Two lines:\nsecond line, with comma"',
        "",
    ]
)
_HOLDERS = pa.array(
    ["Ada Lovelace", '"Nakamoto, S."', "Zoë Ünal", "مريم الصباح", '"O""Neill Trading"', "김민준"]
)
_BRANCHES = pa.array(["NYC", "LON", "FRA", "KWI", "TYO"])
_BRANCH_OFFSET_S = np.array([-5 * 3600, 0, 3600, 3 * 3600, 9 * 3600], np.int64)
_BRANCH_OFFSETS = pa.array(["-05:00", "Z", "+01:00", "+03:00", "+09:00"])


@dataclass(frozen=True, slots=True)
class ExpectedOutcome:
    """What posting the export must come to; `entries` is the sum of the four after it.

    Attributes:
        entries: rows of the export.
        opening_entries: entries made from opening balances, one per account.
        by_kind: spoilt rows by the way in which they are spoilt.
        rejected_by_code: rejected rows by the code that they must be rejected with.
    """

    entries: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    opening_entries: int
    by_kind: dict[str, int]
    rejected_by_code: dict[str, int]


@dataclass(frozen=True, slots=True)
class GeneratedExport:
    """The files of an export, and what posting it must come to."""

    definition_file: Path
    entries_file: Path
    accounts_file: Path
    expected_file: Path
    expected: ExpectedOutcome


def generate(
    entries: int,
    accounts: int,
    seed: int,
    dirty_rate: float,
    out_dir: Path,
    *,
    name: str = "generated",
    sources_dir: Path | None = None,
    partition_rows: int | None = None,
) -> GeneratedExport:
    """Writes an export: `entries.csv`, `accounts.csv`, `expected.json` and the source definition `<name>.yaml`.

    Args:
        entries: rows of the export, spoilt ones included; from 1 to a billion.
        accounts: at least `ACCOUNTS_MIN`.
        seed: any number from 0 on; another seed gives another export.
        dirty_rate: share of spoilt rows, 0 to 0.5, spread evenly; all kinds of dirt take turns.
        out_dir: created when missing; files of the same names are overwritten.
        name: the source's id.
        sources_dir: where the definition goes; `out_dir` by default.
        partition_rows: written into the definition; left out by default.

    Raises:
        UsageError: an argument is out of range.
    """
    _check_arguments(entries, accounts, seed, dirty_rate)
    book = _Book.draw(accounts, seed, f"{name}{seed}".upper())
    openings = _opening_balances(book, _largest_outflows(book, entries, seed), seed)
    sources_dir = out_dir if sources_dir is None else sources_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    sources_dir.mkdir(parents=True, exist_ok=True)

    accounts_file = out_dir / "accounts.csv"
    with accounts_file.open("wb") as file:
        _write_accounts(file, book, openings, seed)
    entries_file = out_dir / "entries.csv"
    with entries_file.open("wb") as file:
        by_kind = _write_entries(file, book, entries, seed, dirty_rate)

    expected = _expected_outcome(entries, accounts, by_kind)
    expected_file = out_dir / "expected.json"
    expected_file.write_text(json.dumps(dataclasses.asdict(expected), indent=2) + "\n", encoding="utf-8")
    definition_file = sources_dir / f"{name}.yaml"
    relative = Path(os.path.relpath(out_dir, sources_dir))
    definition_file.write_text(
        _definition(name, entries, accounts, relative, partition_rows), encoding="utf-8"
    )
    return GeneratedExport(definition_file, entries_file, accounts_file, expected_file, expected)


def _expected_outcome(entries: int, accounts: int, by_kind: Counter[str]) -> ExpectedOutcome:
    by_code: Counter[str] = Counter()
    for kind, count in by_kind.items():
        if code := DIRT[kind].code:
            by_code[code] += count
    return ExpectedOutcome(
        entries=entries,
        posted=entries - by_kind.total(),
        duplicates=by_kind["duplicate"],
        conflicts=by_kind["conflict"],
        rejected=by_code.total(),
        opening_entries=accounts,
        by_kind={kind: by_kind[kind] for kind in DIRTY_KINDS if by_kind[kind]},
        rejected_by_code=dict(sorted(by_code.items())),
    )


def _check_arguments(entries: int, accounts: int, seed: int, dirty_rate: float) -> None:
    if not 1 <= entries <= _ENTRIES_MAX:
        raise UsageError(f"Cannot generate {entries} entries: ask for 1 to {_ENTRIES_MAX}.")
    if not ACCOUNTS_MIN <= accounts < 10**_ACCOUNT_DIGITS:
        raise UsageError(
            f"Cannot generate {accounts} accounts: ask for {ACCOUNTS_MIN} (two of each currency) to "
            f"{10**_ACCOUNT_DIGITS - 1}."
        )
    if seed < 0:
        raise UsageError(f"Cannot generate from seed {seed}: give a number from 0 on.")
    if not 0 <= dirty_rate <= 0.5:
        raise UsageError(f"Cannot spoil {dirty_rate} of the rows: give a share from 0 to 0.5.")


class _Dice:
    """Integers from one stream of PCG64, told apart by seed and purpose."""

    def __init__(self, seed: int, *purpose: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, *purpose]))

    def draw(self, count: int, bound: int | Integers) -> Integers:
        """`count` integers from 0 to `bound` - 1. The bias of the modulo is below 1e-12 here, and harmless."""
        raw = np.asarray(self._bits.random_raw(count), np.uint64)
        return (raw % np.asarray(bound, np.uint64)).astype(np.int64)


_FOR_ACCOUNTS, _FOR_OPENINGS, _FORDIRT, _FOR_ENTRIES = range(4)


# --- accounts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Book:
    """The accounts: number in the file → currency and side, and the accounts of each currency."""

    tag: str  # starts account ids and references, so that two exports can be in one ledger
    currency: Integers
    credit_normal: npt.NDArray[np.bool_]
    ids: pa.Array
    by_currency: Integers  # account numbers, those of one currency together
    first: Integers  # of each currency in `by_currency`
    size: Integers  # accounts of each currency
    rank: Integers  # of each account among those of its currency

    @classmethod
    def draw(cls, accounts: int, seed: int, tag: str) -> "_Book":
        kinds = len(_CURRENCIES)
        dice = _Dice(seed, _FOR_ACCOUNTS)
        bounds = np.cumsum([currency.share for currency in _CURRENCIES])
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
        numbers = pc.utf8_lpad(_text(np.arange(1, accounts + 1)), _ACCOUNT_DIGITS, "0")
        ids = pc.binary_join_element_wise(pa.scalar(f"{tag}-"), numbers, "")
        return cls(tag, currency, credit_normal, ids, by_currency, first, size, rank)


def _opening_balances(book: _Book, outflows: Integers, seed: int) -> Integers:
    """Opening balance of each account in minor units: more than what can flow out."""
    dice = _Dice(seed, _FOR_OPENINGS)
    unit = 10 ** _DECIMALS[book.currency]
    rounded = (outflows // (100 * unit) + 1 + dice.draw(len(outflows), 50)) * 100 * unit
    openings = rounded + dice.draw(len(outflows), unit)
    for index in range(len(_CURRENCIES)):
        openings[index] += openings[(book.currency == index) & book.credit_normal].sum()
    return openings


def _write_accounts(file: BinaryIO, book: _Book, openings: Integers, seed: int) -> None:
    holders = _HOLDERS.take(pa.array(_Dice(seed, _FOR_OPENINGS, 1).draw(len(openings), len(_HOLDERS))))
    sides = pc.if_else(pa.array(book.credit_normal), "credit", "debit")
    file.write(b"account_id,currency,normal_side,opening_balance,holder\n")
    columns = [
        book.ids,
        _CODES.take(pa.array(book.currency)),
        sides,
        _amounts(openings, book.currency),
        holders,
    ]
    _write_lines(file, pc.binary_join_element_wise(*columns, ","))


# --- entries ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Moves:
    """Rows of one chunk, as numbers. `rate` is in units of 1e-8, zero where both accounts share the currency."""

    debit: Integers
    credit: Integers
    currency: Integers
    amount: Integers
    rate: Integers

    @classmethod
    def draw(cls, book: _Book, rows: int, dice: _Dice) -> "_Moves":
        accounts = len(book.currency)
        # One entry in five touches one of the busiest hundredth of all accounts, as a bank's own accounts are.
        busy = dice.draw(rows, 5) == 0
        debit = dice.draw(rows, np.where(busy, max(1, accounts // 100), accounts))
        currency = book.currency[debit]
        crossing = dice.draw(rows, 100) < 3
        step = 1 + dice.draw(rows, len(_CURRENCIES) - 1)
        other = np.where(crossing, (currency + step) % len(_CURRENCIES), currency)
        size = book.size[other]
        # Within a currency: anybody but oneself, by a step of 1 to size - 1 around the circle.
        step = 1 + dice.draw(rows, size - 1)
        place = np.where(crossing, step, (book.rank[debit] + step) % size)
        credit = book.by_currency[book.first[other] + place]
        magnitude = 10 ** (3 + dice.draw(rows, 4))
        amount = _LOWS[currency] + dice.draw(rows, magnitude) * _STEPS[currency]
        jitter = 9_800 + dice.draw(rows, 401)  # rates move by 2 % up and down
        rate = _VALUES[currency] * _RATE_UNIT // _VALUES[other] * jitter // 10_000
        return cls(debit, credit, currency, amount, np.where(crossing, rate, 0))

    def credited(self, book: _Book) -> Integers:
        """What moves on the credit side, in minor units of its own currency, rounded up."""
        shift = _DECIMALS[book.currency[self.credit]] - _DECIMALS[self.currency]
        product = self.amount * self.rate * 10 ** np.maximum(shift, 0)  # below 2e18: fits
        converted = product // (_RATE_UNIT * 10 ** np.maximum(-shift, 0)) + 1
        return np.where(self.rate > 0, converted, self.amount)


def _chunks(book: _Book, entries: int, seed: int) -> Iterator[tuple[int, _Moves, _Dice]]:
    """First row, moves, and the dice to go on with, of one chunk after the other. Drawn twice, alike both times."""
    for chunk, first in enumerate(range(0, entries, _CHUNK_ROWS)):
        dice = _Dice(seed, _FOR_ENTRIES, chunk)
        yield first, _Moves.draw(book, min(_CHUNK_ROWS, entries - first), dice), dice


def _largest_outflows(book: _Book, entries: int, seed: int) -> Integers:
    """For each account the sum of all movements that lower it, in minor units."""
    outflows = np.zeros(len(book.currency), np.int64)
    for _, moves, _ in _chunks(book, entries, seed):
        lowers = book.credit_normal[moves.debit]
        np.add.at(outflows, moves.debit[lowers], moves.amount[lowers])
        lowers = ~book.credit_normal[moves.credit]
        np.add.at(outflows, moves.credit[lowers], moves.credited(book)[lowers])
    return outflows


def _write_entries(file: BinaryIO, book: _Book, entries: int, seed: int, dirty_rate: float) -> Counter[str]:
    """Writes all rows and returns how many are spoilt, by kind."""
    positions = _dirty_positions(entries, seed, dirty_rate)
    by_kind: Counter[str] = Counter()
    kinds = list(DIRT)
    spoiler: Spoiler | None = None
    file.write((",".join(COLUMNS) + "\n").encode())
    for first, moves, dice in _chunks(book, entries, seed):
        columns = _columns(book, moves, dice, first, entries)
        lines = pc.binary_join_element_wise(*columns, ",").cast(pa.binary())
        start, end = np.searchsorted(positions, [first, first + len(lines)])
        if spoiler is None:
            homes = book.ids[: len(_CURRENCIES)].to_pylist()
            spoiler = Spoiler(_CODES.to_pylist(), book.currency, homes, _row(columns, 0))
        if end > start:
            rows = positions[start:end] - first
            spoilt = []
            for number, row in enumerate(rows.tolist(), start=int(start)):
                kind = kinds[number % len(kinds)]
                by_kind[kind] += 1
                # The row before a spoilt one is never spoilt itself. Every other repeat is of the file's first row,
                # far away in another partition.
                near = _row(columns, row - 1) if row and number // len(kinds) % 2 else spoiler.first_row
                spoilt.append(spoiler.spoil(kind, _row(columns, row), near))
            mask = np.zeros(len(lines), np.bool_)
            mask[rows] = True
            lines = pc.replace_with_mask(lines, pa.array(mask), pa.array(spoilt, pa.binary()))
        _write_lines(file, lines)
    return by_kind


def _columns(book: _Book, moves: _Moves, dice: _Dice, first: int, entries: int) -> list[pa.Array]:
    """The text of all fields, as it stands in the file (quoted where needed), in the order of `COLUMNS`."""
    rows = len(moves.debit)
    number = np.arange(first, first + rows, dtype=np.int64)
    branch = dice.draw(rows, len(_BRANCHES))
    time_s = _START_UTC_S + number * _SPAN_S // entries + dice.draw(rows, 600) + _BRANCH_OFFSET_S[branch]
    kind = np.where(moves.rate > 0, _FX_KIND, dice.draw(rows, _FX_KIND))
    whole = _text(moves.rate // _RATE_UNIT)
    fraction = pc.utf8_lpad(_text(moves.rate % _RATE_UNIT), 8, "0")
    rate = pc.if_else(pa.array(moves.rate > 0), pc.binary_join_element_wise(whole, fraction, "."), "")
    return [
        pc.binary_join_element_wise(
            pa.scalar(f"{book.tag}-BK"), pc.utf8_lpad(_text(number + 1), 10, "0"), ""
        ),
        pc.binary_join_element_wise(_local_times(time_s), _BRANCH_OFFSETS.take(pa.array(branch)), ""),
        book.ids.take(pa.array(moves.debit)),
        book.ids.take(pa.array(moves.credit)),
        _amounts(moves.amount, moves.currency),
        _CODES.take(pa.array(moves.currency)),
        _KINDS.take(pa.array(kind)),
        rate,
        _PHRASES.take(pa.array(dice.draw(rows, len(_PHRASES)))),
        _BRANCHES.take(pa.array(branch)),
    ]


def _local_times(seconds: Integers) -> pa.Array:
    """Seconds since 1970 → `2024-01-31T23:59:59`."""
    times = pa.array(seconds).cast(pa.timestamp("s")).cast(pa.string())
    return pc.replace_substring(times, " ", "T", max_replacements=1)


def _amounts(minor: Integers, currency: Integers) -> pa.Array:
    """Minor units → decimal text with exactly the decimals of the currency."""
    decimals = _DECIMALS[currency]
    unit = 10**decimals
    whole = _text(minor // unit)
    fraction = _text(minor % unit)
    two = pc.binary_join_element_wise(whole, pc.utf8_lpad(fraction, 2, "0"), ".")
    three = pc.binary_join_element_wise(whole, pc.utf8_lpad(fraction, 3, "0"), ".")
    return pc.case_when(pc.make_struct(pa.array(decimals == 2), pa.array(decimals == 3)), two, three, whole)


def _text(numbers: Integers) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _write_lines(file: BinaryIO, lines: pa.Array) -> None:
    """Writes an array of lines in one go: Arrow keeps their bytes side by side."""
    ended = pc.binary_join_element_wise(
        lines.cast(pa.binary()), pa.scalar(b""), pa.scalar(b"\n", pa.binary())
    )
    file.write(ended.buffers()[2])


def _row(columns: list[pa.Array], row: int) -> list[str]:
    return [column[row].as_py() for column in columns]


# --- dirt -------------------------------------------------------------------------------------------------------


def _dirty_positions(entries: int, seed: int, dirty_rate: float) -> Integers:
    """Rows to spoil, ascending: one in each stretch of 1 / rate rows, so that no partition gets more than its share.

    Never the first of a stretch: the row before a spoilt one is clean and can be repeated.
    """
    per_million = round(dirty_rate * 1_000_000)
    if per_million == 0:
        return np.empty(0, np.int64)
    stretch = 1_000_000 // per_million
    starts = np.arange(0, entries, stretch, dtype=np.int64)
    positions = starts + 1 + _Dice(seed, _FORDIRT).draw(len(starts), stretch - 1)
    return positions[positions < entries]


# --- the source definition --------------------------------------------------------------------------------------


def _definition(name: str, entries: int, accounts: int, data: Path, partition_rows: int | None) -> str:
    partitions = "" if partition_rows is None else f"partition_rows: {partition_rows}\n"
    return f"""\
# A made-up bank export, written by `backfill generate`: {entries} bookings between {accounts} accounts.
id: {name}
type: csv
description: Made-up bookings in {len(_CURRENCIES)} currencies, some of them spoilt on purpose
file: {(data / "entries.csv").as_posix()}

fields:
  ledger_id: {{constant: MASTER}}
  debit_account_id: debit_account
  credit_account_id: credit_account
  amount: amount
  currency_code: currency
  asset_type: {{constant: fiat}}
  transaction_type: {{column: kind, default: TRANSFER}}
  reference_id: booking_id
  timestamp_utc: {{column: booked_at, format: iso8601}} # with its offset; a time without one is rejected
  fx_rate: fx_rate # units of the other account's currency per unit of the booking's
metadata: [description, branch]

accounts:
  file: {(data / "accounts.csv").as_posix()}
  fields:
    id: account_id
    currency_code: currency
    normal_side: normal_side
    opening_balance: opening_balance
  opening:
    ledger_id: MASTER
    as_of: 2023-12-31T23:59:59Z # the first booking is of 2024-01-01

unknown_accounts: reject
{partitions}max_error_rate: 0.01
"""
