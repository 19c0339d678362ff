"""Whether a column's texts are numbers, and with which marks.

Belongs here: the ways of writing numbers that are tried, and which rows decide between two that differ.
Does not: reading numbers for the ledger (`mapping/amounts.py`).
"""

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.profiling.evidence import Evidence, first_not, matching

_STYLES: Final[tuple[tuple[str, str | None], ...]] = (
    (".", None),
    (",", None),
    (".", ","),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
    (",", "\u00a0"),
    (",", "\u202f"),
)
"""Decimal mark and thousands mark, the simplest first."""


@dataclass(frozen=True, slots=True)
class NumberGuess:
    """A column of numbers.

    Attributes:
        decimal_mark: None when the values allow two readings and none decides.
        thousands_mark: None when there is none.
        readings: the ways to read the values that differ, when none decides; empty otherwise.
        decided_by: what rules the other reading out; None where all readings agree.
        exceptions: values that are no such numbers.
        decimals: the most that a value has.
        negative: values below zero.
        values: decimal128(38, 18), null where there is no number; None while undecided.
    """

    decimal_mark: str | None
    thousands_mark: str | None
    readings: tuple[str, ...]
    decided_by: Evidence | None
    exceptions: int
    decimals: int
    negative: int
    values: pa.Array | None


def guess_numbers(texts: pa.Array, lines: pa.Array) -> NumberGuess | None:
    """What the numbers of a column are written like; None when most values are no numbers.

    Args:
        texts: trimmed, null where nothing is written.
        lines: int64, physical lines.
    """
    counts = {style: matching(texts, _pattern(*style)) for style in _STYLES}
    best = max(counts.values())
    if not best:
        return None
    fitting = [(style, _plain(texts, *style)) for style, count in counts.items() if count == best]
    if _looks_like_identifiers(fitting[0][1]):
        return None
    (style, plain), others = fitting[0], fitting[1:]
    exceptions = len(texts) - texts.null_count - best
    different = [one for one, other in others if not other.equals(plain)]
    if different:
        readings = (
            _example(texts, plain, style),
            *(_example_of(texts, fitting, one) for one in different[:1]),
        )
        return NumberGuess(None, None, readings, None, exceptions, 0, 0, None)
    values = plain.cast(AMOUNT_TYPE)
    point = pc.find_substring(plain, ".")
    decimals = pc.if_else(pc.less(point, 0), 0, pc.subtract(pc.subtract(pc.binary_length(plain), point), 1))
    return NumberGuess(
        style[0],
        style[1],
        (),
        _decided_by(texts, lines, style),
        exceptions,
        int(pc.max(decimals).as_py() or 0),
        int(pc.sum(pc.less(values, 0)).as_py() or 0),
        values,
    )


def _pattern(decimal_mark: str, thousands_mark: str | None) -> str:
    whole = "[0-9]{1,20}"
    if thousands_mark is not None:
        whole = rf"([0-9]{{1,3}}({re.escape(thousands_mark)}[0-9]{{3}}){{1,5}}|[0-9]{{1,20}})"
    return rf"^[+-]?{whole}({re.escape(decimal_mark)}[0-9]{{1,18}})?$"


def _plain(texts: pa.Array, decimal_mark: str, thousands_mark: str | None) -> pa.Array:
    """With a point and without groups; null where a text is no such number."""
    fits = pc.match_substring_regex(texts, _pattern(decimal_mark, thousands_mark))
    texts = pc.if_else(fits, texts, pa.scalar(None, pa.string()))
    if thousands_mark is not None:
        texts = pc.replace_substring(texts, thousands_mark, "")
    return texts if decimal_mark == "." else pc.replace_substring(texts, decimal_mark, ".")


def _looks_like_identifiers(plain: pa.Array) -> bool:
    """A leading zero before another digit: 00123 is a name, not a number."""
    return bool(pc.any(pc.match_substring_regex(plain, "^[+-]?0[0-9]")).as_py())


def _decided_by(texts: pa.Array, lines: pa.Array, style: tuple[str, str | None]) -> Evidence | None:
    """The first value that the marks exchanged cannot read."""
    other = "," if style[0] == "." else "."
    return first_not(texts, lines, _pattern(*style), _pattern(other, style[0]))


def _example(texts: pa.Array, plain: pa.Array, style: tuple[str, str | None]) -> str:
    marks = f'decimal_mark: "{style[0]}"' + (f', thousands_mark: "{style[1]}"' if style[1] else "")
    marked = pc.index(pc.and_(pc.match_substring_regex(texts, "[^0-9+-]"), pc.is_valid(plain)), True).as_py()
    return f"{marks} reads {texts[marked].as_py()!r} as {plain[marked].as_py()}"


def _example_of(
    texts: pa.Array,
    fitting: list[tuple[tuple[str, str | None], pa.Array]],
    style: tuple[str, str | None],
) -> str:
    return _example(texts, next(plain for one, plain in fitting if one == style), style)
