"""Times: from text to UTC with microseconds, or to an error; nothing is cut, guessed or taken as now.

Belongs here: which columns hold a time, ISO 8601, counts since an epoch, and what becomes of local times.
Does not: strptime formats (`time_formats.py`), time zones' rules (`zones.py`), which range of times is plausible
(`schemas/ledger_entry.py`).
"""

import re
from collections.abc import Callable
from datetime import date
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.times import EPOCH_FORMATS, ISO_FORMAT, TimeRule
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.mapping.time_formats import Read, compile_format, days_in_month
from backfill_pipeline.mapping.zones import (
    END_MICROS,
    FIRST_MICROS,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_SECOND,
    Mask,
    Micros,
    known_zones,
    localise,
)
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import Positions, RowErrors, positions_of

FIELD: Final = "timestamp_utc"
_TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

_CLOCK: Final = r"(?:[01][0-9]|2[0-3])(?::[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6}0*)?)?)?"
_OFFSET: Final = r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
_DATE: Final = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_ISO_WITH_OFFSET: Final = rf"^{_DATE}[T ]{_CLOCK}{_OFFSET}$"
_ISO_LOCAL: Final = rf"^{_DATE}(?:[T ]{_CLOCK})?$"
_ISO_AT_24: Final = rf"^{_DATE}[T ]24:00(?::00(?:\.0+)?)?(?:{_OFFSET})?$"

_EPOCH_PATTERNS: Final = {
    "epoch_seconds": r"^-?[0-9]{1,12}(?:\.[0-9]{1,6}0{0,12})?$",
    "epoch_milliseconds": r"^-?[0-9]{1,15}(?:\.[0-9]{1,3}0{0,12})?$",
    "epoch_microseconds": r"^-?[0-9]{1,18}(?:\.0{1,12})?$",
    "epoch_days": r"^-?[0-9]{1,7}$",
}
_DAYS_WITH_FRACTION: Final = r"^-?[0-9]{1,7}(?:\.[0-9]{1,15}0*)?$"
_EPOCH_UNITS: Final = {"epoch_seconds": MICROSECONDS_PER_SECOND, "epoch_milliseconds": 1000}
_TO_WHOLE_SECOND_MAX: Final = 1000
"""Microseconds by which a day number may miss a whole second: what a spreadsheet's digits lose is far less."""


def read_times(rows: Rows, rule: TimeRule) -> pa.Array:
    """A rule for a time applied to a chunk, which takes what is wrong; timestamp[us, UTC], null at errors."""
    names = rule.text_columns()
    texts = [rows.trimmed(name) for name in names]
    for name, text in zip(names, texts, strict=True):
        reason = f"{FIELD} is missing: column {name} is empty"
        rows.errors.add(positions_of(pc.equal(text, "")), RejectCode.TIME_MISSING, FIELD, reason)
    zones = None if rule.timezone_column is None else rows.trimmed(rule.timezone_column)
    return parse_times(_joined(texts), rule, rows.errors, zones)


def _joined(texts: list[pa.Array]) -> pa.Array:
    """The parts of each time with a space between them; empty where one of them is: a date alone is no time."""
    if len(texts) == 1:
        return texts[0]
    whole = pc.binary_join_element_wise(*texts, " ")
    for text in texts:
        whole = pc.if_else(pc.equal(text, ""), "", whole)
    return whole


def parse_times(text: pa.Array, rule: TimeRule, errors: RowErrors, zones: pa.Array | None = None) -> pa.Array:
    """Reads times by the rule's format.

    Args:
        text: trimmed, string, null or empty where nothing is written (the caller decides what that means).
        rule: format, zone and epoch.
        errors: takes what is wrong.
        zones: trimmed, string: the zone of each row, for a rule with `timezone_column`.

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
    return _InUtc(text, rule, read, written, errors).times(zones)


def _named(rule: TimeRule) -> str:
    if rule.format == ISO_FORMAT:
        return "an ISO 8601 time with at most microseconds"
    if rule.fraction is not None:
        unit = {"exact": "microseconds", "second": "seconds"}[rule.fraction]
        return f"a number of days that is a whole number of {unit}"
    return f"a time in the format {rule.format}"


def _reader(rule: TimeRule) -> Callable[[pa.Array], Read]:
    if rule.format == ISO_FORMAT:
        return _read_iso_or_24 if rule.allow_24 else _read_iso
    if rule.format in EPOCH_FORMATS:
        return lambda text: _read_epoch(text, rule)
    return compile_format(rule.format, pivot=rule.pivot, allow_24=rule.allow_24)


class _InUtc:
    """Applies zones to local times; takes out what cannot be held."""

    def __init__(self, text: pa.Array, rule: TimeRule, read: Read, written: Mask, errors: RowErrors) -> None:
        self._text = text
        self._rule = rule
        self._errors = errors
        self._micros = read.micros.copy()
        self._ok = read.ok & written
        self._local = read.local

    def times(self, zones: pa.Array | None) -> pa.Array:
        """timestamp[us, UTC], null where there is an error."""
        beyond = self._ok & ~((self._micros >= FIRST_MICROS) & (self._micros < END_MICROS))
        self._refuse(beyond, RejectCode.TIME_OUT_OF_RANGE, "is not of a plausible year")
        if zones is not None:
            self._localise_by_column(zones)
        elif self._rule.timezone is not None:
            self._localise(np.flatnonzero(self._ok & self._local), self._rule.timezone)
        else:
            words = "has no offset, and the definition names no timezone"
            self._refuse(self._ok & self._local, RejectCode.TIME_ZONE_MISSING, words)
        return pa.array(self._micros, mask=~self._ok).cast(_TIMESTAMP)

    def _refuse(self, bad: Mask, code: RejectCode, words: str) -> None:
        self._errors.add_where(pa.array(bad), code, FIELD, "time", self._text, words)
        self._ok &= ~bad

    def _localise_by_column(self, zones: pa.Array) -> None:
        written = pc.fill_null(pc.not_equal(zones, ""), False).to_numpy(zero_copy_only=False)
        numbers = pc.index_in(zones, value_set=known_zones()).fill_null(-1).to_numpy(zero_copy_only=False)
        unknown = self._ok & written & (numbers < 0)
        column = f"column {self._rule.timezone_column}"
        words = "is no IANA name of a time zone"
        self._errors.add_where(pa.array(unknown), RejectCode.TIME_ZONE_UNKNOWN, FIELD, column, zones, words)
        self._ok &= ~unknown
        lacking = self._ok & self._local & ~written
        words = f"has no offset, and column {self._rule.timezone_column} names no zone"
        self._refuse(lacking, RejectCode.TIME_ZONE_MISSING, words)
        local = self._ok & self._local
        for number in np.unique(numbers[local]).tolist():  # as many as there are zones, not rows
            at = np.flatnonzero(local & (numbers == number))
            self._localise(at, known_zones()[number].as_py())

    def _localise(self, at: Positions, zone: str) -> None:
        if not len(at):
            return
        moved = localise(self._micros[at], zone)
        self._micros[at] = np.where(
            moved.ambiguous & (self._rule.ambiguous == "later"), moved.later, moved.utc
        )
        for mask, choice, code, words in (
            (moved.nonexistent, self._rule.nonexistent, RejectCode.TIME_NONEXISTENT, "does not exist in"),
            (moved.ambiguous, self._rule.ambiguous, RejectCode.TIME_AMBIGUOUS, "happened twice in"),
        ):
            if choice == "reject":
                bad = np.zeros(len(self._micros), dtype=bool)
                bad[at[mask]] = True
                self._refuse(bad, code, f"{words} {zone}")


# --- ISO 8601 ---------------------------------------------------------------------------------------------------


def _read_all_alike(text: pa.Array) -> Read | None:
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
    return Read(
        _micros(whole),
        pc.is_valid(text).to_numpy(zero_copy_only=False),
        np.full(len(text), local, dtype=bool),
    )


def _read_iso(text: pa.Array) -> Read:
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
    return Read(micros, ok, local)


def _read_iso_or_24(text: pa.Array) -> Read:
    """ISO 8601 in which 24:00 is the end of its day."""
    ends = pc.fill_null(pc.match_substring_regex(text, _ISO_AT_24), False)
    if not pc.any(ends).as_py():
        return _read_iso(text)
    begun = pc.replace_substring_regex(text, "^([0-9-]{10}[T ])24", r"\100")
    read = _read_iso(pc.if_else(ends, begun, text))
    days = ends.to_numpy(zero_copy_only=False).astype(np.int64)
    return Read(read.micros + days * MICROSECONDS_PER_DAY, read.ok, read.local)


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
        exists[late] = day <= days_in_month(year, month)
    return exists


def _micros(times: pa.Array) -> Micros:
    numbers: Micros = times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers


# --- counts since an epoch --------------------------------------------------------------------------------------


def _read_epoch(text: pa.Array, rule: TimeRule) -> Read:
    pattern = _EPOCH_PATTERNS[rule.format] if rule.fraction is None else _DAYS_WITH_FRACTION
    ok = pc.fill_null(pc.match_substring_regex(text, pattern), False)
    numbers = pc.if_else(ok, text, "0")
    good = ok.to_numpy(zero_copy_only=False)
    if rule.format == "epoch_microseconds":
        whole = pc.replace_substring_regex(numbers, r"\..*", "")
        micros = whole.cast(pa.int64()).to_numpy(zero_copy_only=False)
    elif rule.format == "epoch_days":
        begin = ((rule.epoch or date(1970, 1, 1)) - date(1970, 1, 1)).days * MICROSECONDS_PER_DAY
        if rule.fraction is None:
            micros = numbers.cast(pa.int64()).to_numpy(zero_copy_only=False) * MICROSECONDS_PER_DAY
        else:
            micros, exact = _micros_of_days(numbers, rule.fraction)
            good = good & exact
        micros = micros + begin
    else:
        counted = pc.multiply(
            numbers.cast(pa.decimal128(28, 12)), pa.scalar(_EPOCH_UNITS[rule.format], pa.decimal128(7))
        )
        micros = counted.cast(pa.decimal128(38, 0)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    has_zone = rule.timezone is not None or rule.timezone_column is not None
    local = np.full(len(text), rule.format == "epoch_days" and has_zone)
    return Read(micros, good, local)


def _micros_of_days(days: pa.Array, fraction: str) -> tuple[Micros, Mask]:
    """Day numbers in microseconds, and whether they mean a whole number of what `fraction` asks for."""
    trimmed = pc.replace_substring_regex(days, r"(\.[0-9]{15})0+$", r"\1")
    counted = pc.multiply(
        trimmed.cast(pa.decimal128(22, 15)), pa.scalar(MICROSECONDS_PER_DAY, pa.decimal128(11))
    )
    whole = pc.round(counted, ndigits=0, round_mode="half_to_even")
    micros = whole.cast(pa.decimal128(38, 0)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    if fraction == "exact":
        return micros, pc.equal(whole, counted).to_numpy(zero_copy_only=False)
    half = MICROSECONDS_PER_SECOND // 2
    seconds = (micros + half) // MICROSECONDS_PER_SECOND * MICROSECONDS_PER_SECOND
    return seconds, np.abs(micros - seconds) <= _TO_WHOLE_SECOND_MAX
