"""Spans of days as parameters: what is asked for, one question after the other.

Belongs here: cutting a range of days into spans, and writing their ends as an API wants them.
Does not: asking.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from backfill_pipeline.definition.api import TODAY, Windows, first_moment


def questions(windows: Windows | None, now: datetime) -> Iterator[dict[str, str]]:
    """The parameters of each span, in order; none at all where a definition has no windows.

    Each span ends at the very moment at which the next one begins, whatever the clocks of the time zone do.

    Args:
        windows: of the definition.
        now: with its offset; `end: today` is its day in the time zone.
    """
    if windows is None:
        yield {}
        return
    zone = ZoneInfo(windows.timezone)
    end = now.astimezone(zone).date() if windows.end == TODAY else windows.end
    assert isinstance(end, date)
    first = windows.start
    while first < end:
        stop = min(first + timedelta(days=windows.days), end)
        begin, until = first_moment(first, zone), first_moment(stop, zone)
        if begin < until or windows.format == "date":  # a day that a country left out has no moments
            last = stop - timedelta(days=1) if windows.to_inclusive else stop
            yield {
                windows.from_: written(first, zone, windows.format),
                windows.to: written(last, zone, windows.format),
            }
        first = stop


def written(day: date, zone: ZoneInfo, form: str) -> str:
    """The first moment of a day as an API wants it."""
    begin = first_moment(day, zone)
    match form:
        case "date":
            return day.isoformat()
        case "iso8601":
            return begin.astimezone(zone).isoformat()
        case "iso8601_utc":
            return begin.strftime("%Y-%m-%dT%H:%M:%SZ")
        case "epoch_seconds":
            return str(int(begin.timestamp()))
        case "epoch_milliseconds":
            return str(int(begin.timestamp()) * 1000)
        case _:
            return begin.astimezone(zone).strftime(form)
