"""Made-up bank exports: entries, accounts, a source definition, and what posting them must come to.

Belongs here: the files, whose rows look like a bank's, a chosen share of them spoilt in every way that the product
tells apart.
Does not: what is drawn (`bank.py`), how rows are spoilt (`dirt.py`); reading, judging or posting them.

The same arguments give the same bytes on every machine and with every version of the libraries.
"""

import dataclasses
import itertools
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import UsageError
from backfill_pipeline.local.bank import (
    ACCOUNT_DIGITS,
    ACCOUNTS_MIN,
    CURRENCIES,
    DECIMALS,
    RATE_UNIT,
    SKEW_MAX,
    Book,
    Chunk,
    Dice,
    Integers,
    Plan,
    Purpose,
    chunks,
    decimal_text,
    largest_outflows,
    opening_balances,
)
from backfill_pipeline.local.dirt import COLUMNS, DIRT, DIRTY_KINDS, Spoiler

__all__ = ["ACCOUNTS_MIN", "ExpectedOutcome", "GeneratedExport", "References", "generate"]

References = Literal["sequential", "uuid"]

_START_UTC_S: Final = 1_704_067_200  # 2024-01-01T00:00:00Z
_SPAN_S: Final = 366 * 86_400
_ENTRIES_MAX: Final = 10**9

_CODES = pa.array([currency.code for currency in CURRENCIES])
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
    skew: float = 0.0,
    references: References = "sequential",
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
        skew: share of all legs that are put on one single account, 0 to `SKEW_MAX`. With 0 every account gets its
            usual few, one entry in five a busy one.
        references: "sequential" counts bookings, as most systems do; "uuid" draws each reference at random, so that
            neighbours in the file are far apart in the ledger's unique index.

    Raises:
        UsageError: an argument is out of range.
    """
    _check_arguments(entries, accounts, seed, dirty_rate, skew)
    plan = Plan(entries, seed, skew)
    book = Book.draw(accounts, seed, f"{name}{seed}".upper())
    openings = opening_balances(book, largest_outflows(book, plan), seed)
    sources_dir = out_dir if sources_dir is None else sources_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    sources_dir.mkdir(parents=True, exist_ok=True)

    accounts_file = out_dir / "accounts.csv"
    with accounts_file.open("wb") as file:
        _write_accounts(file, book, openings, seed)
    entries_file = out_dir / "entries.csv"
    with entries_file.open("wb") as file:
        by_kind = _write_entries(file, book, plan, dirty_rate, references)

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


def _check_arguments(entries: int, accounts: int, seed: int, dirty_rate: float, skew: float) -> None:
    if not 1 <= entries <= _ENTRIES_MAX:
        raise UsageError(f"Cannot generate {entries} entries: ask for 1 to {_ENTRIES_MAX}.")
    if not ACCOUNTS_MIN <= accounts < 10**ACCOUNT_DIGITS:
        raise UsageError(
            f"Cannot generate {accounts} accounts: ask for {ACCOUNTS_MIN} (two of each currency) to "
            f"{10**ACCOUNT_DIGITS - 1}."
        )
    if seed < 0:
        raise UsageError(f"Cannot generate from seed {seed}: give a number from 0 on.")
    if not 0 <= dirty_rate <= 0.5:
        raise UsageError(f"Cannot spoil {dirty_rate} of the rows: give a share from 0 to 0.5.")
    if not 0 <= skew <= SKEW_MAX:
        raise UsageError(
            f"Cannot put {skew} of all legs on one account: give a share from 0 to {SKEW_MAX}, since an entry has two"
            " accounts."
        )


# --- accounts ---------------------------------------------------------------------------------------------------


def _write_accounts(file: BinaryIO, book: Book, openings: Integers, seed: int) -> None:
    holders = _HOLDERS.take(pa.array(Dice(seed, Purpose.OPENINGS, 1).draw(len(openings), len(_HOLDERS))))
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


def _write_entries(
    file: BinaryIO, book: Book, plan: Plan, dirty_rate: float, references: References
) -> Counter[str]:
    """Writes all rows and returns how many are spoilt, by kind."""
    positions = _dirty_positions(plan.entries, plan.seed, dirty_rate)
    by_kind: Counter[str] = Counter()
    kinds = list(DIRT)
    spoiler: Spoiler | None = None
    file.write((",".join(COLUMNS) + "\n").encode())
    for chunk in chunks(book, plan):
        first = chunk.first
        columns = _columns(book, plan, chunk, references)
        lines = pc.binary_join_element_wise(*columns, ",").cast(pa.binary())
        start, end = np.searchsorted(positions, [first, first + len(lines)])
        if spoiler is None:
            homes = book.ids[: len(CURRENCIES)].to_pylist()
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


def _columns(book: Book, plan: Plan, chunk: Chunk, references: References) -> list[pa.Array]:
    """The text of all fields, as it stands in the file (quoted where needed), in the order of `COLUMNS`."""
    moves, dice = chunk.moves, chunk.dice
    rows = len(moves.debit)
    number = np.arange(chunk.first, chunk.first + rows, dtype=np.int64)
    branch = dice.draw(rows, len(_BRANCHES))
    time_s = _START_UTC_S + number * _SPAN_S // plan.entries + dice.draw(rows, 600) + _BRANCH_OFFSET_S[branch]
    kind = np.where(moves.rate > 0, _FX_KIND, dice.draw(rows, _FX_KIND))
    whole = decimal_text(moves.rate // RATE_UNIT)
    fraction = pc.utf8_lpad(decimal_text(moves.rate % RATE_UNIT), 8, "0")
    rate = pc.if_else(pa.array(moves.rate > 0), pc.binary_join_element_wise(whole, fraction, "."), "")
    return [
        _sequential(book, number) if references == "sequential" else _uuids(book, plan, chunk),
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


def _sequential(book: Book, number: Integers) -> pa.Array:
    counted = pc.utf8_lpad(decimal_text(number + 1), 10, "0")
    return pc.binary_join_element_wise(pa.scalar(f"{book.tag}-BK"), counted, "")


def _uuids(book: Book, plan: Plan, chunk: Chunk) -> pa.Array:
    """Random UUIDs (version 4). The tag counts as part of the seed: two exports may be in one ledger."""
    rows = len(chunk.moves.debit)
    dice = Dice(plan.seed, Purpose.REFERENCES, chunk.number, *book.tag.encode())
    octets = dice.raw(2 * rows).astype(">u8").view(np.uint8).reshape(rows, 16)
    octets[:, 6] = octets[:, 6] & 0x0F | 0x40
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = np.frombuffer(octets.tobytes().hex().encode(), np.uint8).reshape(rows, 32)
    groups = [digits[:, start:end] for start, end in itertools.pairwise((0, 8, 12, 16, 20, 32))]
    dash = np.full((rows, 1), ord("-"), np.uint8)
    text = np.hstack([part for group in groups for part in (group, dash)][:-1])
    offsets = np.arange(0, text.size + 1, text.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))


def _local_times(seconds: Integers) -> pa.Array:
    """Seconds since 1970 → `2024-01-31T23:59:59`."""
    times = pa.array(seconds).cast(pa.timestamp("s")).cast(pa.string())
    return pc.replace_substring(times, " ", "T", max_replacements=1)


def _amounts(minor: Integers, currency: Integers) -> pa.Array:
    """Minor units → decimal text with exactly the decimals of the currency."""
    decimals = DECIMALS[currency]
    unit = 10**decimals
    whole = decimal_text(minor // unit)
    fraction = decimal_text(minor % unit)
    two = pc.binary_join_element_wise(whole, pc.utf8_lpad(fraction, 2, "0"), ".")
    three = pc.binary_join_element_wise(whole, pc.utf8_lpad(fraction, 3, "0"), ".")
    return pc.case_when(pc.make_struct(pa.array(decimals == 2), pa.array(decimals == 3)), two, three, whole)


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
    positions = starts + 1 + Dice(seed, Purpose.DIRT).draw(len(starts), stretch - 1)
    return positions[positions < entries]


# --- the source definition --------------------------------------------------------------------------------------


def _definition(name: str, entries: int, accounts: int, data: Path, partition_rows: int | None) -> str:
    partitions = "" if partition_rows is None else f"partition_rows: {partition_rows}\n"
    return f"""\
# A made-up bank export, written by `backfill generate`: {entries} bookings between {accounts} accounts.
id: {name}
type: csv
description: Made-up bookings in {len(CURRENCIES)} currencies, some of them spoilt on purpose
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
