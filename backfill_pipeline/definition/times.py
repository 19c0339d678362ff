"""The rules of times: which columns hold them, how they are written, and in which zone.

Belongs here: the model of a time, its formats and its short form, and which options contradict each other.
Does not: reading times (`mapping/times.py`).
"""

import re
from datetime import date
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from backfill_pipeline.definition.base import Model, Name, PlainColumn, ZoneName, between, problem

ISO_FORMAT: Final = "iso8601"
EPOCH_FORMATS: Final = ("epoch_seconds", "epoch_milliseconds", "epoch_microseconds", "epoch_days")
STRPTIME_DIRECTIVES: Final = "%Y %y %m %d %H %I %M %S %f %p %b %B %j %z %T %F %R %%"
"""What a strptime format may hold, apart from literal text. All are exact and mean the same on every machine."""

SHORTHANDS: Final = {"%T": "%H:%M:%S", "%F": "%Y-%m-%d", "%R": "%H:%M"}
"""Directive → the directives that it is short for."""

_PIVOT_FIRST, _PIVOT_LAST = 1900, 2100


class TimeRule(Model):
    """When an entry happened. Local times need the zone they are in; nothing is ever taken as "now"."""

    column: Name | None = None
    columns: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    format: str = ISO_FORMAT
    timezone: ZoneName | None = None
    timezone_column: Name | None = None
    nonexistent: Literal["reject", "shift_forward"] = "reject"
    ambiguous: Literal["reject", "earlier", "later"] = "reject"
    allow_24: bool = False
    pivot: Annotated[int, between(_PIVOT_FIRST, _PIVOT_LAST)] | None = None
    epoch: date | None = None
    fraction: Literal["exact", "second"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.column is None) == (self.columns is None):
            raise problem("needs either column, or columns whose texts are joined by a space")
        if self.format not in (ISO_FORMAT, *EPOCH_FORMATS):
            self._check_strptime()
        self._check_zones()
        if self.format != "epoch_days":
            for key, value in (("epoch", self.epoch), ("fraction", self.fraction)):
                if value is not None:
                    raise problem('has a meaning only with "format: epoch_days"', key, str(value))
        if self.pivot is not None and "%y" not in _directives(self.format):
            raise problem("has a meaning only with %y in format", "pivot", str(self.pivot))
        if self.allow_24 and self.format != ISO_FORMAT and "%H" not in _expanded(self.format):
            raise problem("has a meaning only with iso8601, or with %H in format", "allow_24")
        return self

    def _check_zones(self) -> None:
        key, zone = "timezone", self.timezone
        if self.timezone_column is not None:
            if zone is not None:
                raise problem(
                    "contradicts timezone: give one of them", "timezone_column", self.timezone_column
                )
            key, zone = "timezone_column", self.timezone_column
        if zone is not None and self.format in EPOCH_FORMATS and self.format != "epoch_days":
            raise problem(f"has no meaning with format {self.format}, which counts in UTC", key, zone)
        if zone is None:
            for key, choice in (("nonexistent", self.nonexistent), ("ambiguous", self.ambiguous)):
                if choice != "reject":
                    raise problem("has a meaning only with timezone or timezone_column", key, choice)

    def _check_strptime(self) -> None:
        allowed = f"allowed are {ISO_FORMAT}, {', '.join(EPOCH_FORMATS)}, or a strptime format"
        if "%" not in self.format:
            raise problem(f"is unknown: {allowed} such as %d/%m/%Y %H:%M", "format", self.format)
        found = _directives(self.format)
        if "%y" in found and self.pivot is None:
            raise problem(
                "has a two-digit year (%y), which leaves the century open: use %Y, or state the first year that %y "
                'can mean, such as "pivot: 1970"',
                "format",
                self.format,
            )
        if unknown := [one for one in found if one not in STRPTIME_DIRECTIVES.split()]:
            raise problem(
                f"holds {unknown[0]}, which is not supported: allowed are {STRPTIME_DIRECTIVES}",
                "format",
                self.format,
            )
        self._check_parts(_expanded(self.format))

    def _check_parts(self, parts: list[str]) -> None:
        given = set(parts)
        twice = len(parts) > len(given) or len(given & {"%m", "%b", "%B"}) > 1
        if twice or given >= {"%H", "%I"} or given >= {"%Y", "%y"}:
            raise problem("gives a part of the time twice", "format", self.format)
        has_date = given & {"%Y", "%y"} and ("%j" in given or ("%d" in given and given & {"%m", "%b", "%B"}))
        if not has_date:
            raise problem("must give year, month and day (%Y %m %d, or %Y %j)", "format", self.format)
        if ("%I" in given) != ("%p" in given):
            raise problem("must use %I and %p together, or %H", "format", self.format)
        if "%z" not in given and self.timezone is None and self.timezone_column is None:
            raise problem(
                f"is needed: format {self.format!r} reads no offset (%z), so name the zone of the times, such as UTC",
                "timezone",
            )

    def text_columns(self) -> tuple[str, ...]:
        """The columns that hold the time, in the order in which they are joined."""
        return self.columns or ((self.column,) if self.column is not None else ())

    def columns_read(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        return self.text_columns() + (() if self.timezone_column is None else (self.timezone_column,))


def _directives(text_format: str) -> list[str]:
    return re.findall(r"%.?", text_format)


def _expanded(text_format: str) -> list[str]:
    """The directives of a format with shorthands spelt out, without literal percent signs."""
    found = (part for one in _directives(text_format) for part in _directives(SHORTHANDS.get(one, one)))
    return [part for part in found if part != "%%"]


TimeField = Annotated[TimeRule, PlainColumn]
