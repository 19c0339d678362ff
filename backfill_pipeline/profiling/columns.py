"""What each column of a table holds.

Belongs here: kinds of columns, with counts and samples.
Does not: which field of an entry a column may feed (`candidates.py`).
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.money import currency_codes
from backfill_pipeline.profiling.evidence import MOST
from backfill_pipeline.profiling.numbers import NumberGuess, guess_numbers
from backfill_pipeline.profiling.times import TimeGuess, guess_epoch, guess_times
from backfill_pipeline.schemas.extracted import SOURCE_LINE
from backfill_pipeline.schemas.row_errors import combined

Kind = Literal["empty", "time", "number", "currency", "sign", "code", "text"]

TIME_NAME: Final = re.compile(
    r"date|time|datum|zeit|booked|buchung|valuta|value.?d|wert|stamp|created|posted|fecha|^ts$|_at$", re.I
)
SIGN_WORDS: Final = frozenset(
    [
        "d",
        "c",
        "dr",
        "cr",
        "db",
        "dbit",
        "crdt",
        "debit",
        "credit",
        "s",
        "h",
        "soll",
        "haben",
        "+",
        "-",
        "in",
        "out",
    ]
)
_WIDE: Final = pa.decimal256(38, 18)
"""Holds the difference of two amounts of any size."""

_SAMPLES: Final = 3
_CODES_MAX: Final = 30
_SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column of the sample.

    Attributes:
        kind: what all its values are; "code" is a text of few distinct values.
        rows: looked at, malformed records not counted.
        empty: of them without a value.
        distinct: different values.
        minimum, maximum: by value for numbers, by text otherwise.
        samples: some values, as they are written.
        epoch: the counting format that its integers may have, for columns whose name speaks of time.
        balance_of: the amount column that its differences equal.
    """

    name: str
    kind: Kind
    rows: int
    empty: int
    distinct: int
    minimum: str | None
    maximum: str | None
    samples: tuple[str, ...]
    number: NumberGuess | None = None
    time: TimeGuess | None = None
    epoch: str | None = None
    balance_of: str | None = None

    @property
    def unique(self) -> bool:
        """Whether every row has a value of its own, but for a few spoilt ones."""
        return self.rows > 1 and self.distinct >= MOST * self.rows

    @property
    def not_unique(self) -> int:
        """Rows without a value, or with one that occurred before."""
        return self.rows - self.distinct


def profile_columns(table: pa.Table, names: list[str], *, named: bool) -> list[ColumnProfile]:
    """Looks at columns of EXTRACTED without its malformed records.

    Args:
        table: EXTRACTED.
        names: the source's own columns.
        named: whether the source names them itself; without a name, any column may hold compact dates.
    """
    lines = combined(table[SOURCE_LINE])
    found = [
        _profile(name, combined(table[name]), lines, hinted=not named or TIME_NAME.search(name) is not None)
        for name in names
    ]
    return [_with_balance(one, found) for one in found]


def _profile(name: str, raw: pa.Array, lines: pa.Array, *, hinted: bool) -> ColumnProfile:
    trimmed = pc.utf8_trim_whitespace(raw)
    texts = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    unique = pc.unique(texts.drop_null())
    rows, empty = len(texts), texts.null_count
    samples = tuple(one[:_SHOWN] for one in unique.slice(0, _SAMPLES).to_pylist())
    if not len(unique):
        return ColumnProfile(name, "empty", rows, empty, 0, None, None, ())
    time = guess_times(texts, lines, hinted=hinted)
    number = None if time else guess_numbers(texts, lines)
    kind: Kind = "time" if time else "number" if number else _text_kind(texts, unique)
    if number is not None and number.values is not None:
        ends = pc.min_max(number.values)
        lowest, highest = (format(ends[name].as_py().normalize(), "f") for name in ("min", "max"))
    else:
        ends = pc.min_max(unique)
        lowest, highest = (ends[name].as_py()[:_SHOWN] for name in ("min", "max"))
    return ColumnProfile(
        name,
        kind,
        rows,
        empty,
        len(unique),
        lowest,
        highest,
        samples,
        number,
        time,
        guess_epoch(texts) if TIME_NAME.search(name) and number is not None else None,
    )


def _text_kind(texts: pa.Array, unique: pa.Array) -> Kind:
    rows = len(texts)
    known = pc.sum(pc.is_in(texts, value_set=currency_codes())).as_py() or 0
    if known >= MOST * (rows - texts.null_count):
        return "currency"
    words = {one.casefold().strip(".") for one in unique.slice(0, 5).to_pylist()}
    if len(unique) <= 4 and words <= SIGN_WORDS:
        return "sign"
    return "code" if len(unique) <= min(_CODES_MAX, max(1, rows // 4)) else "text"


def _with_balance(column: ColumnProfile, others: list[ColumnProfile]) -> ColumnProfile:
    """With the amount column whose values are the differences of this one, in either order of rows."""
    values = None if column.number is None else column.number.values
    if values is None or column.rows < 4 or values.null_count or column.distinct < 3:
        return column
    difference = pc.abs(pc.subtract(values[1:].cast(_WIDE), values[:-1].cast(_WIDE)))
    for other in others:
        amounts = None if other is column or other.number is None else other.number.values
        if amounts is None or amounts.null_count == len(amounts):
            continue
        for steps in (amounts[1:], amounts[:-1]):
            same = pc.equal(difference, pc.abs(steps).cast(difference.type))
            # Nearly all: where parts of the sample meet, a row between them is missing.
            if (pc.sum(same).as_py() or 0) >= 0.9 * len(difference):
                return ColumnProfile(
                    **{name: getattr(column, name) for name in column.__slots__ if name != "balance_of"},
                    balance_of=other.name,
                )
    return column
