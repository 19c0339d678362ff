"""A day of a Sovereign Central Bank as a source of its own.

Belongs here: how such a source is called, and its definition, made from the bank's.
Does not: which days there are to fetch (`dual_ledger/`).

Everything that is kept about a source (registration, partitions, batches, rejects, checkpoint, reconciliation,
captures) is kept by its id. So each day has an id of its own, `bank@2024-03-01`: a day that fails, is fetched again or
is repaired touches no other. Accounts and opening balances belong to the bank as a whole, and stay with its own id.
"""

import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backfill_pipeline.definition.api import first_moment
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb import ScbSection

_DAY_ID: Final = re.compile(r"([a-z][a-z0-9_]{0,62})@(\d{4}-\d{2}-\d{2})")


def day_source_id(source_id: str, day: date) -> str:
    """The id of a day's source."""
    return f"{source_id}@{day.isoformat()}"


def split_day_source_id(name: str) -> tuple[str, date] | None:
    """The bank's source and the day that an id names; None when it is no day's."""
    match = _DAY_ID.fullmatch(name)
    if match is None:
        return None
    try:
        return match[1], date.fromisoformat(match[2])
    except ValueError:
        return None


def day_definition(definition: SourceDefinition, day: date) -> SourceDefinition:
    """The definition of one day of a bank's ledger, in the bank's time zone.

    Args:
        definition: of type scb.
        day: any; days before `scb.start` as well.
    """
    section = scb_of(definition)
    return definition.model_copy(
        update={
            "id": day_source_id(definition.id, day),
            "api": section.entries_api(day, day),
            "accounts": None,
        }
    )


def scb_of(definition: SourceDefinition) -> ScbSection:
    """The section `scb` of a definition of that type."""
    assert definition.scb is not None, f"{definition.id} is of type {definition.type}, not scb"
    return definition.scb


def day_window(section: ScbSection, day: date) -> tuple[datetime, datetime]:
    """The first moment of a day, and that of the next day, in UTC: 23, 24 or 25 hours, without gap or overlap."""
    zone = ZoneInfo(section.timezone)
    return first_moment(day, zone), first_moment(day + timedelta(days=1), zone)


def days_between(first: date, last: date) -> Iterator[date]:
    """All days from the first to the last, both included."""
    for number in range((last - first).days + 1):
        yield first + timedelta(days=number)


def last_ended_day(section: ScbSection, now: datetime) -> date:
    """The latest day that is over in the bank's time zone.

    Args:
        section: of the bank.
        now: with its offset.
    """
    return now.astimezone(ZoneInfo(section.timezone)).date() - timedelta(days=1)
