"""Times written in a strptime format: from text to a clock's reading.

Belongs here: what each directive matches, and the calendar.
Does not: zones (`zones.py`), ISO 8601 and counts since an epoch (`times.py`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.times import SHORTHANDS
from backfill_pipeline.mapping.zones import MICROSECONDS_PER_DAY, MICROSECONDS_PER_SECOND, Mask, Micros


@dataclass(frozen=True, slots=True)
class Read:
    """What a format made of the texts: parallel arrays over all rows.

    Attributes:
        micros: int64 microseconds since 1970, on the local clock where `local`, else in UTC.
        ok: where micros means something.
        local: where the text gave no offset.
    """

    micros: Micros
    ok: Mask
    local: Mask


# fmt: off
_MONTHS: Final = ["january", "february", "march", "april", "may", "june",
                  "july", "august", "september", "october", "november", "december"]
# fmt: on
_DIRECTIVES: Final = {
    "%Y": r"(?P<year>[0-9]{4})",
    "%y": r"(?P<year_of_century>[0-9]{2})",
    "%m": r"(?P<month>1[0-2]|0?[1-9])",
    "%d": r"(?P<day>3[01]|[12][0-9]|0?[1-9])",
    "%j": r"(?P<yearday>36[0-6]|3[0-5][0-9]|[12][0-9]{2}|0?[1-9][0-9]|0{0,2}[1-9])",
    "%H": r"(?P<hour>2[0-3]|[01][0-9]|[0-9])",
    "%I": r"(?P<hour12>1[0-2]|0?[1-9])",
    "%M": r"(?P<minute>[0-5][0-9]|[0-9])",
    "%S": r"(?P<second>[0-5][0-9]|[0-9])",
    "%f": r"(?P<fraction>[0-9]{1,6})0*",
    "%p": r"(?P<half>[AaPp][Mm])",
    "%b": rf"(?P<name>(?i:{'|'.join(name[:3] for name in _MONTHS)}))",
    "%B": rf"(?P<name>(?i:{'|'.join(_MONTHS)}))",
    "%z": r"(?P<offset>Z|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9])",
    "%%": "%",
}
_HOUR_OR_24: Final = r"(?P<hour>2[0-4]|[01][0-9]|[0-9])"


def compile_format(
    text_format: str, *, pivot: int | None = None, allow_24: bool = False
) -> Callable[[pa.Array], Read]:
    """Compiles a strptime format into a vectorised reader.

    Not the C library's strptime: that one depends on the locale, takes 30 February as 2 March and drops offsets.
    Numbers may lack their leading zero, as in Python's; month names are English; white space must be as in the format.

    Args:
        text_format: with the directives that a definition may hold.
        pivot: the first year that %y can mean; the last is 99 years later.
        allow_24: whether 24:00 is the end of its day.
    """
    directives = _DIRECTIVES | ({"%H": _HOUR_OR_24} if allow_24 else {})
    parts = [
        part for one in re.split(r"(%.)", text_format) for part in re.split(r"(%.)", SHORTHANDS.get(one, one))
    ]
    pattern = "^" + "".join(directives.get(part) or re.escape(part) for part in parts) + "$"
    names = set(re.findall(r"\?P<(\w+)>", pattern))

    def read(text: pa.Array) -> Read:
        found = pc.extract_regex(text, pattern)
        ok = pc.is_valid(found).to_numpy(zero_copy_only=False)
        fields = _Fields(found, names, pivot)
        days, exists = fields.days()
        clock = fields.clock()
        micros = days * MICROSECONDS_PER_DAY + clock - fields.offset()
        exists = exists & (clock <= MICROSECONDS_PER_DAY)  # 24:00 itself, and nothing behind it
        return Read(micros, ok & exists, np.full(len(text), "offset" not in names))

    return read


class _Fields:
    """The groups of a matched format as numbers; zero where the text did not match."""

    def __init__(self, found: pa.Array, names: set[str], pivot: int | None) -> None:
        self._found = found
        self._names = names
        self._pivot = pivot

    def days(self) -> tuple[Micros, Mask]:
        """Days since 1970, and whether the day exists."""
        year = self._year()
        if "yearday" in self._names:
            begin = _month_start(year, np.ones_like(year))
            length = _month_start(year + 1, np.ones_like(year)) - begin
            yearday = self._number("yearday", 1)
            return begin + yearday - 1, yearday <= length
        month = self._month_named() if "name" in self._names else self._number("month", 1)
        day = self._number("day", 1)
        return _month_start(year, month) + day - 1, day <= days_in_month(year, month)

    def _year(self) -> Micros:
        if self._pivot is None:
            return self._number("year", 1970)
        year: Micros = self._pivot + (self._number("year_of_century", 0) - self._pivot) % 100
        return year

    def clock(self) -> Micros:
        """Microseconds since midnight."""
        hour = self._number("hour", 0)
        if "hour12" in self._names:
            afternoon = pc.equal(pc.utf8_lower(self._text("half")), "pm")
            hour = self._number("hour12", 0) % 12 + 12 * afternoon.to_numpy(zero_copy_only=False)
        seconds = hour * 3600 + self._number("minute", 0) * 60 + self._number("second", 0)
        if "fraction" not in self._names:
            return seconds * MICROSECONDS_PER_SECOND
        fraction = _whole_numbers(pc.utf8_rpad(self._text("fraction"), 6, "0"))
        return seconds * MICROSECONDS_PER_SECOND + fraction

    def offset(self) -> Micros:
        """Microseconds east of UTC; zero without %z."""
        if "offset" not in self._names:
            return np.zeros(len(self._found), dtype=np.int64)
        text = pc.replace_substring(self._text("offset", "Z"), ":", "")
        text = pc.if_else(pc.equal(text, "Z"), "+0000", text)
        digits = _whole_numbers(pc.utf8_slice_codeunits(text, 1, 5))
        west = pc.starts_with(text, "-").to_numpy(zero_copy_only=False)
        seconds: Micros = (digits // 100 * 60 + digits % 100) * 60
        return seconds * MICROSECONDS_PER_SECOND * np.where(west, -1, 1)

    def _text(self, name: str, otherwise: str = "0") -> pa.Array:
        return pc.fill_null(pc.struct_field(self._found, name), otherwise)

    def _number(self, name: str, otherwise: int) -> Micros:
        if name not in self._names:
            return np.full(len(self._found), otherwise, dtype=np.int64)
        return _whole_numbers(self._text(name))

    def _month_named(self) -> Micros:
        short = pc.utf8_slice_codeunits(pc.utf8_lower(self._text("name")), 0, 3)
        places = pc.index_in(short, value_set=pa.array([name[:3] for name in _MONTHS]))
        months: Micros = pc.fill_null(places, 0).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        return months


def _whole_numbers(text: pa.Array) -> Micros:
    numbers: Micros = text.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return numbers


def _month_start(year: Micros, month: Micros) -> Micros:
    """Days from 1970-01-01 to the first of the month (proleptic Gregorian)."""
    months = (year - 1970) * 12 + month - 1
    days: Micros = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return days


def days_in_month(year: Micros, month: Micros) -> Micros:
    """28 to 31 for each pair (proleptic Gregorian)."""
    length: Micros = _month_start(year, month + 1) - _month_start(year, month)
    return length
