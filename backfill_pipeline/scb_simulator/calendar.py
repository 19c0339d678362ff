"""The days of a bank: from one midnight of its time zone to the next, 23, 24 or 25 hours.

Belongs here: where a day begins, which day a moment is in, and times as the bank writes them.
Does not: what happens on a day (`ledger.py`).

A day begins with its first 00:00, or where the clock skips that, with the moment it skips. Days follow each other
without gap or overlap by construction: one ends where the next begins. A date that a zone never had is a day of 0 s.
"""

from datetime import UTC, date, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

_ONE_DAY = timedelta(days=1)


class Calendar:
    """The days of one time zone. Moments are whole seconds since 1970, in UTC."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)

    def start_s(self, day: date) -> int:
        """The first moment of a day."""
        return _start_s(self._zone, day)

    def length_s(self, day: date) -> int:
        """How long a day is."""
        return self.start_s(day + _ONE_DAY) - self.start_s(day)

    def day_of(self, moment_s: int) -> date:
        """The day that a moment is in."""
        day = datetime.fromtimestamp(moment_s, self._zone).date()
        while self.start_s(day) > moment_s:
            day -= _ONE_DAY
        while self.start_s(day + _ONE_DAY) <= moment_s:
            day += _ONE_DAY
        return day

    def written(self, moment_s: int) -> str:
        """ISO 8601 in the bank's time, with its offset."""
        return datetime.fromtimestamp(moment_s, self._zone).isoformat()


@lru_cache(maxsize=100_000)
def _start_s(zone: ZoneInfo, day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


@cache
def calendar_of(zone: str) -> Calendar:
    """The calendar of a time zone, made once."""
    return Calendar(zone)


def utc_text(moment_s: int) -> str:
    """ISO 8601 in UTC, as digests are made from: 2024-03-31T01:00:00Z."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
