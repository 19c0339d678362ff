"""Times: from text to UTC with microseconds, or to an error; nothing is cut, guessed or taken as now.

Belongs here: ISO 8601, strptime formats, and counts since an epoch.
Does not: time zones' rules (`zones.py`), which range of times is plausible (`schemas/ledger_entry.py`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import ISO_FORMAT, TimeRule
from backfill_pipeline.mapping.zones import (
    END_MICROS,
    FIRST_MICROS,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    Mask,
    Micros,
    localise,
)
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import RowErrors, positions_of

FIELD: Final = "timestamp_utc"
_TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

_CLOCK: Final = r"(?:[01][0-9]|2[0-3])(?::[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6}0*)?)?)?"
_OFFSET: Final = r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
_DATE: Final = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_ISO_WITH_OFFSET: Final = rf"^{_DATE}[T ]{_CLOCK}{_OFFSET}$"
_ISO_LOCAL: Final = rf"^{_DATE}(?:[T ]{_CLOCK})?$"

_EPOCH_PATTERNS: Final = {
    "epoch_seconds": r"^-?[0-9]{1,12}(?:\.[0-9]{1,6}0{0,12})?$",
    "epoch_milliseconds": r"^-?[0-9]{1,15}(?:\.[0-9]{1,3}0{0,12})?$",
    "epoch_days": r"^-?[0-9]{1,7}$",
}
_EPOCH_UNITS: Final = {"epoch_seconds": MICROSECONDS_PER_SECOND, "epoch_milliseconds": 1000}


@dataclass(frozen=True, slots=True)
class _Read:
    """What a format made of the texts: parallel arrays over all rows.

    Attributes:
        micros: int64 microseconds since 1970, on the local clock where `local`, else in UTC.
        ok: where micros means something.
        local: where the text gave no offset.
    """

    micros: Micros
    ok: Mask
    local: Mask


def parse_times(text: pa.Array, rule: TimeRule, errors: RowErrors) -> pa.Array:
    """Reads times by the rule's format.

    Args:
        text: trimmed, string, null or empty where nothing is written (the caller decides what that means).
        rule: format, zone and epoch.
        errors: takes what is wrong.

    Returns:
        timestamp[us, UTC], null where there is an error.
    """
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    written = pc.is_valid(text).to_numpy(zero_copy_only=False)
    read = _reader(rule)(text)
    malformed = written & ~read.ok
    errors.add_where(
        pa.array(malformed), RejectCode.TIME_MALFORMED, FIELD, "time", text, f"is not {_named(rule)}"
    )
    return _in_utc(text, rule, read, written, errors)


def _named(rule: TimeRule) -> str:
    if rule.format == ISO_FORMAT:
        return "an ISO 8601 time with at most microseconds"
    return f"a time in the format {rule.format}"


def _reader(rule: TimeRule) -> Callable[[pa.Array], _Read]:
    if rule.format == ISO_FORMAT:
        return _read_iso
    if rule.format in _EPOCH_PATTERNS:
        return lambda text: _read_epoch(text, rule)
    return compile_format(rule.format)


def _in_utc(text: pa.Array, rule: TimeRule, read: _Read, written: Mask, errors: RowErrors) -> pa.Array:
    """Applies the zone to local times; takes out what cannot be held."""
    micros, ok = read.micros.copy(), read.ok & written
    beyond = ok & ~((micros >= FIRST_MICROS) & (micros < END_MICROS))
    errors.add_where(
        pa.array(beyond), RejectCode.TIME_OUT_OF_RANGE, FIELD, "time", text, "is not of a plausible year"
    )
    ok &= ~beyond
    local = np.flatnonzero(ok & read.local)
    if len(local) and rule.timezone is None:
        lacking = ok & read.local
        errors.add_where(
            pa.array(lacking),
            RejectCode.TIME_ZONE_MISSING,
            FIELD,
            "time",
            text,
            "has no offset, and the definition names no timezone",
        )
        ok &= ~lacking
    elif len(local) and rule.timezone is not None:
        moved = localise(micros[local], rule.timezone)
        micros[local] = moved.utc
        for mask, code, words in (
            (moved.nonexistent, RejectCode.TIME_NONEXISTENT, "does not exist in"),
            (moved.ambiguous, RejectCode.TIME_AMBIGUOUS, "happened twice in"),
        ):
            bad = np.zeros(len(micros), dtype=bool)
            bad[local[mask]] = True
            errors.add_where(pa.array(bad), code, FIELD, "time", text, f"{words} {rule.timezone}")
            ok &= ~bad
    return pa.array(micros, mask=~ok).cast(_TIMESTAMP)


# --- ISO 8601 ---------------------------------------------------------------------------------------------------


def _read_all_alike(text: pa.Array) -> _Read | None:
    """The usual case, in which all times are well-formed and all have an offset, or none has.

    By Arrow's own parser: exact, strict about the calendar, all or nothing. It is only tried when the first time
    makes it likely to succeed, because failing on every row takes it twenty times as long.
    """
    first = text.drop_null().slice(0, 1).to_pylist()
    local = not first or re.search(_ISO_WITH_OFFSET, first[0]) is None
    if local and first and re.search(_ISO_LOCAL, first[0]) is None:
        return None
    try:
        whole = text.cast(pa.timestamp("us", tz=None if local else "UTC"))
    except pa.ArrowInvalid:
        return None
    return _Read(
        _micros(whole),
        pc.is_valid(text).to_numpy(zero_copy_only=False),
        np.full(len(text), local, dtype=bool),
    )


def _read_iso(text: pa.Array) -> _Read:
    if (alike := _read_all_alike(text)) is not None:
        return alike
    count = len(text)
    text = _trimmed_fractions(text)
    micros, ok, local = (
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=bool),
        np.zeros(count, dtype=bool),
    )
    for pattern, zone in ((_ISO_WITH_OFFSET, "UTC"), (_ISO_LOCAL, None)):
        shaped = positions_of(pc.match_substring_regex(text, pattern))
        found = shaped[_day_exists(text.take(pa.array(shaped)))]
        times = text.take(pa.array(found)).cast(pa.timestamp("us", tz=zone))
        micros[found], ok[found], local[found] = _micros(times), True, zone is None
    return _Read(micros, ok, local)


def _trimmed_fractions(text: pa.Array) -> pa.Array:
    """Without zeros after the sixth decimal, which Arrow does not read and which say nothing."""
    if pc.any(pc.match_substring_regex(text, r"\.[0-9]{6}0")).as_py():
        return pc.replace_substring_regex(text, r"(\.[0-9]{6})0+", r"\1")
    return text


def _day_exists(text: pa.Array) -> Mask:
    """Whether the date at the start of well-shaped texts is in the calendar: 2023-02-30 is not."""
    exists = np.ones(len(text), dtype=bool)
    late = positions_of(pc.match_substring_regex(text, r"^[0-9]{4}-[0-9]{2}-(?:29|3[01])"))
    if len(late):
        dates = text.take(pa.array(late))
        year, month, day = (
            pc.utf8_slice_codeunits(dates, begin, stop).cast(pa.int64()).to_numpy()
            for begin, stop in ((0, 4), (5, 7), (8, 10))
        )
        exists[late] = day <= _days_in_month(year, month)
    return exists


def _micros(times: pa.Array) -> Micros:
    numbers: Micros = times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers


# --- counts since an epoch --------------------------------------------------------------------------------------


def _read_epoch(text: pa.Array, rule: TimeRule) -> _Read:
    ok = pc.fill_null(pc.match_substring_regex(text, _EPOCH_PATTERNS[rule.format]), False)
    numbers = pc.if_else(ok, text, "0")
    if rule.format == "epoch_days":
        begin = ((rule.epoch or date(1970, 1, 1)) - date(1970, 1, 1)).days
        micros = (numbers.cast(pa.int64()).to_numpy() + begin) * MICROSECONDS_PER_DAY
    else:
        whole = pc.multiply(
            numbers.cast(pa.decimal128(28, 12)), pa.scalar(_EPOCH_UNITS[rule.format], pa.decimal128(7))
        )
        micros = whole.cast(pa.decimal128(38, 0)).cast(pa.int64()).to_numpy()
    local = np.full(len(text), rule.format == "epoch_days" and rule.timezone is not None)
    return _Read(micros, ok.to_numpy(zero_copy_only=False), local)


# --- strptime ---------------------------------------------------------------------------------------------------

# fmt: off
_MONTHS: Final = ["january", "february", "march", "april", "may", "june",
                  "july", "august", "september", "october", "november", "december"]
# fmt: on
_DIRECTIVES: Final = {
    "%Y": r"(?P<year>[0-9]{4})",
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
_SHORTHANDS: Final = {"%T": "%H:%M:%S", "%F": "%Y-%m-%d", "%R": "%H:%M"}


def compile_format(text_format: str) -> Callable[[pa.Array], _Read]:
    """Compiles a strptime format into a vectorised reader.

    Not the C library's strptime: that one depends on the locale, takes 30 February as 2 March and drops offsets.
    Numbers may lack their leading zero, as in Python's; month names are English; white space must be as in the format.
    """
    for short, long in _SHORTHANDS.items():
        text_format = text_format.replace(short, long)
    parts = re.split(r"(%.)", text_format)
    pattern = (
        "^" + "".join(_DIRECTIVES[part] if part in _DIRECTIVES else re.escape(part) for part in parts) + "$"
    )
    names = set(re.findall(r"\?P<(\w+)>", pattern))

    def read(text: pa.Array) -> _Read:
        found = pc.extract_regex(text, pattern)
        ok = pc.is_valid(found).to_numpy(zero_copy_only=False)
        fields = _Fields(found, names)
        days, exists = fields.days()
        micros = days * MICROSECONDS_PER_DAY + fields.clock() - fields.offset()
        return _Read(micros, ok & exists, np.full(len(text), "offset" not in names))

    return read


class _Fields:
    """The groups of a matched format as numbers; zero where the text did not match."""

    def __init__(self, found: pa.Array, names: set[str]) -> None:
        self._found = found
        self._names = names

    def days(self) -> tuple[Micros, Mask]:
        """Days since 1970, and whether the day exists."""
        year = self._number("year", 1970)
        if "yearday" in self._names:
            begin = _month_start(year, np.ones_like(year))
            length = _month_start(year + 1, np.ones_like(year)) - begin
            yearday = self._number("yearday", 1)
            return begin + yearday - 1, yearday <= length
        month = self._month_named() if "name" in self._names else self._number("month", 1)
        day = self._number("day", 1)
        return _month_start(year, month) + day - 1, day <= _days_in_month(year, month)

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


def _days_in_month(year: Micros, month: Micros) -> Micros:
    length: Micros = _month_start(year, month + 1) - _month_start(year, month)
    return length
