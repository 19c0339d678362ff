"""Local times: from what a clock on the wall showed to UTC.

Belongs here: offsets, gaps and folds of time zones, for many times at once.
Does not: reading times from text (`times.py`).

Python's zoneinfo is asked, not Arrow, because it finds the tzdata package where a machine has no zone files.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

MICROSECONDS_PER_SECOND: Final = 1_000_000
MICROSECONDS_PER_DAY: Final = 86_400 * MICROSECONDS_PER_SECOND
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  on a local clock, whose zone is what is asked for

Micros = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

FIRST_MICROS: Final = int(datetime(1, 1, 3, tzinfo=UTC).timestamp()) * MICROSECONDS_PER_SECOND
END_MICROS: Final = int(datetime(9999, 12, 29, tzinfo=UTC).timestamp()) * MICROSECONDS_PER_SECOND
"""Times that Python's calendar holds in every zone: [FIRST_MICROS, END_MICROS)."""


@dataclass(frozen=True, slots=True)
class Localised:
    """Local times in UTC.

    Attributes:
        utc: int64 microseconds since 1970, by the offset before a change of clocks at that time: the earlier one of
            two, and as far behind the gap as the skipped time was in it (RFC 5545).
        later: the same by the offset after it.
        nonexistent: the clock skipped this time.
        ambiguous: the clock showed this time twice.
    """

    utc: Micros
    later: Micros
    nonexistent: Mask
    ambiguous: Mask


_NO_ZONES: Final = ("Factory", "localtime", "posixrules")
"""Zone files that mean something else on every machine."""


@cache
def known_zones() -> pa.Array:
    """IANA names as an Arrow string array, sorted: the value set for `pyarrow.compute.index_in`."""
    return pa.array(sorted(available_timezones().difference(_NO_ZONES)), pa.string())


def localise(local: Micros, zone_name: str) -> Localised:
    """Moves local times to UTC, exactly as zoneinfo does, but asks it once per day, not once per time.

    Args:
        local: int64 microseconds since 1970-01-01 00:00 on the local clock, in [FIRST_MICROS, END_MICROS).
        zone_name: IANA name.
    """
    zone = ZoneInfo(zone_name)
    day_of, days = pd.factorize(local // MICROSECONDS_PER_DAY)
    offset_of_day = np.zeros(len(days), dtype=np.int64)
    changing = np.zeros(len(days), dtype=bool)
    for number, day in enumerate(days.tolist()):
        begin = _EPOCH + timedelta(days=day)
        offsets = {*_offsets(begin, zone), *_offsets(begin + timedelta(days=1, microseconds=-1), zone)}
        offset_of_day[number] = next(iter(offsets))
        changing[number] = len(offsets) > 1
    utc = local - offset_of_day[day_of]
    later = utc.copy()
    nonexistent, ambiguous = np.zeros(len(local), dtype=bool), np.zeros(len(local), dtype=bool)
    if changing.any():
        # The two days a year on which clocks change: each second that occurs is looked up by itself.
        at = np.flatnonzero(changing[day_of])
        second_of, seconds = pd.factorize(local[at] // MICROSECONDS_PER_SECOND)
        pairs = [_offsets(_EPOCH + timedelta(seconds=second), zone) for second in seconds.tolist()]
        first, second = np.array(pairs, dtype=np.int64)[second_of].T
        utc[at] = local[at] - first
        later[at] = local[at] - second
        nonexistent[at] = first < second
        ambiguous[at] = first > second
    return Localised(utc, later, nonexistent, ambiguous)


def _offsets(local: datetime, zone: ZoneInfo) -> tuple[int, int]:
    """Microseconds east of UTC at a local time: as if before, and as if after a change of clocks at that time."""
    before, after = (local.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None
    assert after is not None
    return before // timedelta(microseconds=1), after // timedelta(microseconds=1)
