"""Whether a column's texts are dates or times, and in which format.

Belongs here: the formats that are tried, and which rows decide between day and month.
Does not: reading times for the ledger (`mapping/times.py`).
"""

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.profiling.evidence import Evidence, first_not, matching

_PARTS: Final = {
    "%Y": "(?:19|20|21)[0-9]{2}",
    "%y": "[0-9]{2}",
    "%m": "(?:0?[1-9]|1[0-2])",
    "%d": "(?:0?[1-9]|[12][0-9]|3[01])",
    "%b": "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)",
    "%H": "(?:[01]?[0-9]|2[0-3])",
    "%I": "(?:0?[1-9]|1[0-2])",
    "%M": "[0-5][0-9]",
    "%S": "[0-5][0-9]",
    "%f": "[0-9]{1,6}",
    "%p": "(?i:[AP]M)",
    "%z": "(?:Z|[+-][0-9]{2}:?[0-9]{2})",
}
_DATES: Final = (
    *(f"%Y{mark}%m{mark}%d" for mark in "-/."),
    *(f"{first}{mark}{second}{mark}{year}"
      for year in ("%Y", "%y") for mark in "./-" for first, second in (("%d", "%m"), ("%m", "%d"))),
    *(f"%d{mark}%b{mark}{year}" for year in ("%Y", "%y") for mark in "- /"),
    "%b %d, %Y",
)  # fmt: skip
_COMPACT: Final = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%y%m%d", "%d%m%y", "%m%d%y")
_CLOCKS: Final = ("", "%H:%M", "%H:%M:%S", "%H:%M:%S.%f", "%I:%M %p", "%I:%M:%S %p", "%H.%M.%S", "%H.%M")
_ISO_DATE: Final = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_ISO_CLOCK: Final = r"(?:[01][0-9]|2[0-3])(?::[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6})?)?)?"
_ISO_OFFSET: Final = r"(?:Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
_TRIED: Final = 200
"""Values that sort out formats before all values are looked at."""


@dataclass(frozen=True, slots=True)
class TimeGuess:
    """A column of dates or times.

    Attributes:
        formats: as `timestamp_utc.format`; several when the values allow them all and none decides.
        decided_by: what rules the exchange of day and month out.
        exceptions: values that are no such times.
        has_offset: whether values say its zone.
        has_clock: whether values have a time of day.
    """

    formats: tuple[str, ...]
    decided_by: Evidence | None
    exceptions: int
    has_offset: bool
    has_clock: bool

    @property
    def two_digit_year(self) -> bool:
        """Whether the century is open."""
        return any("%y" in one for one in self.formats)


def guess_times(texts: pa.Array, lines: pa.Array, *, hinted: bool) -> TimeGuess | None:
    """What the times of a column are written like; None when most values are none.

    Args:
        texts: trimmed, null where nothing is written.
        lines: int64, physical lines.
        hinted: whether the column's name speaks of time; without it, bare digits are not taken for dates.
    """
    with_offset = rf"^{_ISO_DATE}[T ]{_ISO_CLOCK}{_ISO_OFFSET}$"
    either = rf"^{_ISO_DATE}(?:[T ]{_ISO_CLOCK}(?:{_ISO_OFFSET})?)?$"
    if fitting := matching(texts, either):
        exceptions = len(texts) - texts.null_count - fitting
        days = matching(texts, rf"^{_ISO_DATE}$")
        return TimeGuess(("iso8601",), None, exceptions, matching(texts, with_offset) > 0, days == 0)
    few = texts.drop_null().slice(0, _TRIED)
    clocks = [(mark, clock) for clock in _CLOCKS for mark in ((" ", "T", ", ") if clock else ("",))]
    for mark, clock in clocks:
        dates = _DATES if not hinted else (*_DATES, *_COMPACT)
        tried = [f"{date}{mark}{clock}" for date in dates]
        counts = {one: matching(texts, _pattern(one)) for one in tried if _some(few, _pattern(one))}
        best = max(counts.values(), default=0)
        if best:
            formats = tuple(one for one, count in counts.items() if count == best)
            decided = None if len(formats) > 1 else _decided_by(texts, lines, formats[0])
            exceptions = len(texts) - texts.null_count - best
            return TimeGuess(formats, decided, exceptions, "%z" in formats[0], bool(clock))
    return None


def _decided_by(texts: pa.Array, lines: pa.Array, chosen: str) -> Evidence | None:
    rival = _exchanged(chosen)
    return None if rival is None else first_not(texts, lines, _pattern(chosen), _pattern(rival))


def _some(texts: pa.Array, pattern: str) -> bool:
    """Whether a format is worth a look at all values: half of the first ones match."""
    return 2 * (pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0) >= len(texts)


def guess_epoch(texts: pa.Array) -> str | None:
    """The counting format that integers of a column with a time's name may have."""
    for name, pattern in (
        ("epoch_seconds", r"^[0-9]{9,10}(?:\.[0-9]{1,6})?$"),
        ("epoch_milliseconds", "^[0-9]{12,13}$"),
        ("epoch_days", "^[0-9]{1,5}$"),
    ):
        if matching(texts, pattern):
            return name
    return None


def _exchanged(format_: str) -> str | None:
    """The format with day and month exchanged; None when no other order is in use."""
    if "%d" not in format_ or "%m" not in format_ or format_.startswith("%Y"):
        return None
    return format_.replace("%d", "\0").replace("%m", "%d").replace("\0", "%m")


def _pattern(format_: str) -> str:
    """A regular expression for a format; parts of one or two digits have two where nothing separates them."""
    parts = re.split(r"(%.)", format_)
    compact = bool(re.search(r"%[Yymd]%[Yymd]", format_))
    made = "".join(_PARTS.get(part, re.escape(part)) for part in parts)
    return "^" + (made.replace("0?[1-9]", "0[1-9]") if compact else made) + "$"
