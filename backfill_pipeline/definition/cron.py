"""Cron expressions in a definition: when something is done without anybody asking for it.

Belongs here: checking the five fields when a definition is read, and moving a time of day by some hours.
Does not: finding the next moment (Dagster's schedules).

Only what every cron reads alike is allowed: numbers, names of months and weekdays, lists, ranges, steps.
"""

import calendar
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator

from backfill_pipeline.definition.base import problem


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: Mapping[str, int] = {}


_MONTHS: Final = {calendar.month_abbr[number].upper(): number for number in range(1, 13)}
_WEEKDAYS: Final = {
    name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))
}
_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _WEEKDAYS),
)
_LEAP_YEAR: Final = 2024


def _cron(text: str) -> str:
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise problem(
            "must be five fields: minute, hour, day of the month, month, day of the week, such as 0 3 * * *",
            value=text,
        )
    values = [_values(written, field, text) for written, field in zip(fields, _FIELDS, strict=True)]
    days, months = values[2:4]
    longest = max(calendar.monthrange(_LEAP_YEAR, month)[1] for month in months)
    if fields[4] == "*" and min(days) > longest:
        raise problem("names a day that none of its months has", value=text)
    return " ".join(fields)


def _values(written: str, field: _Field, cron: str) -> set[int]:
    """All values that a field stands for."""
    try:
        return {value for part in written.split(",") for value in _part(part, field)}
    except ValueError:
        raise problem(
            f"has {written!r} as its {field.name}: allowed are {field.low} to {field.high}"
            f"{', names of three letters' if field.names else ''}, *, lists such as 1,15, ranges such as 1-5,"
            " and steps such as */2",
            value=cron,
        ) from None


def _part(part: str, field: _Field) -> Iterator[int]:
    span, has_step, step = part.partition("/")
    if span == "*":
        low, high = field.low, field.high
    else:
        first, is_range, last = span.partition("-")
        low = _number(first, field)
        high = _number(last, field) if is_range else low
        if has_step and not is_range:  # 5/10 is read in two ways
            raise ValueError(part)
    width = _digits(step) if has_step else 1
    if low > high or not 1 <= width <= field.high:
        raise ValueError(part)
    yield from range(low, high + 1, width)


def _number(text: str, field: _Field) -> int:
    value = field.names.get(text.upper())
    if value is None:
        value = _digits(text)
    if not field.low <= value <= field.high:
        raise ValueError(text)
    return value


def _digits(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 2):
        raise ValueError(text)
    return int(text)


def hours_later(cron: str, hours: int) -> str:
    """The same, some hours later on the same days; as it is where that cannot be said as simply.

    Args:
        cron: checked.
        hours: to add to a single time of day that stays before midnight.
    """
    minute, hour, *days = cron.split()
    if minute.isdecimal() and hour.isdecimal() and int(hour) + hours <= _FIELDS[1].high:
        return " ".join([minute, str(int(hour) + hours), *days])
    return cron


CronText = Annotated[str, AfterValidator(_cron)]
