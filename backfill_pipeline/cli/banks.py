"""What commands do with sources that are banks: which banks and days they are about, and which commands are not.

Belongs here: choosing banks and days, naming the command that is meant, the day that is looked at when none is named.
Does not: the commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final, NoReturn

from backfill_pipeline.cli.output import remarks
from backfill_pipeline.cli.session import named_source
from backfill_pipeline.definition.catalogue import day_of, find_sources
from backfill_pipeline.definition.scb_days import (
    day_source_id,
    days_between,
    last_ended_day,
    scb_of,
    split_day_source_id,
)
from backfill_pipeline.errors import SettingsError, SourceDefinitionError, UsageError
from backfill_pipeline.settings import load_settings

if TYPE_CHECKING:
    from backfill_pipeline.definition.models import SourceDefinition
    from backfill_pipeline.ledger.banks.sync_status import SyncStatus

_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


START: Final = "start"
"""In place of a day: the first one of each bank."""


@dataclass(frozen=True, slots=True)
class Span:
    """Days of a bank, both ends included."""

    first: date
    last: date

    def days(self) -> list[date]:
        """All of them, in order."""
        return list(days_between(self.first, self.last))


# --- which banks and days ---------------------------------------------------------------------------------------


def chosen_banks(names: Sequence[str]) -> list[SourceDefinition]:
    """The banks that a command names, each once; all of them when it names none.

    Raises:
        UsageError: there is no such source, it is no bank, or there is no bank at all.
        SourceDefinitionError: a definition is wrong.
    """
    chosen = {one.id: one for one in map(_bank, names)} if names else _all_banks()
    return list(chosen.values())


def _bank(name: str) -> SourceDefinition:
    definition = named_source(name)
    if definition.scb is None:
        raise UsageError(
            f"{definition.id} is of type {definition.type}, and only type scb is synchronised: use backfill run"
            f" {definition.id}"
        )
    if (day := split_day_source_id(definition.id)) is not None:
        raise UsageError(
            f"{name} is one day of a bank: write {day[0]}, with --from {day[1]} --to {day[1]} where days can be chosen"
        )
    return definition


def _all_banks() -> dict[str, SourceDefinition]:
    settings = load_settings()
    found = find_sources(settings.sources_dir, settings.registered_sources_dir)
    banks: dict[str, SourceDefinition] = {}
    for name, one in found.items():
        if isinstance(one, SourceDefinitionError):
            # It may be a bank's, and whoever asks for all of them must not believe that this was one.
            remarks.print(f"left out: {name}: ", end="")
            remarks.print(str(one), markup=False)
        elif one.scb is not None:
            banks[name] = one
    if not banks:
        raise UsageError(
            f"there is no source of type scb in {settings.sources_dir}, and none was named by its path before: name"
            " the file of one, such as backfill sync run scb_01.yaml"
        )
    return banks


def usable_banks() -> list[SourceDefinition]:
    """Every bank whose definition can be used."""
    settings = load_settings()
    found = find_sources(settings.sources_dir, settings.registered_sources_dir).values()
    return [one for one in found if not isinstance(one, SourceDefinitionError) and one.scb is not None]


def chosen_spans(
    banks: Sequence[SourceDefinition], first: str | None, last: str | None, now: datetime
) -> dict[str, Span | None]:
    """The days that a command names, of each bank; None where it names none.

    Args:
        banks: of type scb.
        first: a day, or "start"; the first one of each bank when only `last` is given.
        last: a day; the latest one that is over when only `first` is given.
        now: with its offset.

    Raises:
        UsageError: a day is none, before the first one of a bank, or not over; or the last is before the first.
    """
    if first is None and last is None:
        return dict.fromkeys((bank.id for bank in banks), None)
    begin = None if first in (None, START) else parse_day(first, "--from", also=START)
    end = parse_day(last, "--to")
    return {bank.id: _span(bank, begin, end, now) for bank in banks}


def _span(bank: SourceDefinition, first: date | None, last: date | None, now: datetime) -> Span:
    section = scb_of(bank)
    over = last_ended_day(section, now)
    if first is not None and first < section.start:
        raise UsageError(
            f"{bank.id} begins on {section.start} (scb.start), and --from {first} is before that: name a later day, or"
            f" --from {START}"
        )
    begin, end = first or section.start, last or over
    if end > over or begin > over:
        day, option = (end, "--to") if last is not None and end > over else (begin, "--from")
        raise UsageError(
            f"{option} {day} is not over yet in {section.timezone}, where {bank.id} is: the latest day that is over is"
            f" {over}"
        )
    if begin > end:
        raise UsageError(f"--from {begin} is after --to {end}, for {bank.id}: write the earlier day first")
    return Span(begin, end)


def check_banks(banks: Iterable[SourceDefinition]) -> None:
    """Looks whether banks could be asked, before anything is started for them; asks nothing.

    Raises:
        SettingsError: an environment variable for a secret is missing, and which bank wants it.
    """
    from backfill_pipeline.sources.open import check_environment

    for bank in banks:
        try:
            check_environment(bank)
        except SettingsError as error:
            raise SettingsError(f"{bank.path}: scb.{error}") from None


def contiguous(days: Iterable[date]) -> list[list[date]]:
    """Days in stretches without a gap, in order."""
    stretches: list[list[date]] = []
    for day in sorted(days):
        if stretches and day - stretches[-1][-1] == timedelta(days=1):
            stretches[-1].append(day)
        else:
            stretches.append([day])
    return stretches


def why_incomplete(noted: SyncStatus) -> str | None:
    """Why a day is not complete, as far as it is known."""
    reason = noted.error or noted.details.get("reason")
    # It begins with the bank and the day where it stands alone, and stands behind these here.
    return None if reason is None else str(reason).removeprefix(f"{noted.source_id} {noted.day}: ")


def parse_day(text: str | None, option: str, *, also: str = "") -> date | None:
    """The day that an option names.

    Args:
        text: as it was written.
        option: its name.
        also: what else it may be, for the error.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        # Not date.fromisoformat alone, which takes 20240301 and 2024-W09-5 as well.
        return date.fromisoformat(text) if _DAY.fullmatch(text) else _refuse_day(text, option, also)
    except ValueError:
        return _refuse_day(text, option, also)


def _refuse_day(text: str, option: str, also: str) -> NoReturn:
    or_else = f", or {also}" if also else ""
    raise UsageError(f"{option} {text} is no day of the calendar: write it as 2024-03-01{or_else}") from None


# --- commands that are not about banks, or about a day of one -----------------------------------------------------


def base_id(definition: SourceDefinition) -> str:
    """The id of a bank, of the bank itself or of one of its days."""
    named = split_day_source_id(definition.id)
    return definition.id if named is None else named[0]


def sync_command(definition: SourceDefinition, what: str = "run") -> str:
    """The command of `backfill sync` that does something for a bank, or for the day that was named."""
    named = split_day_source_id(definition.id)
    days = "" if named is None else f" --from {named[1]} --to {named[1]}"
    return f"backfill sync {what} {base_id(definition)}{days}"


def refuse_banks(definition: SourceDefinition) -> None:
    """For commands that take a source through its stages.

    Raises:
        UsageError: it is a bank or a day of one, and which command does that.
    """
    if definition.scb is not None:
        what = "a Sovereign Central Bank" if definition.api is None else "a day of a Sovereign Central Bank"
        raise UsageError(
            f"{definition.id} is {what}, which is fetched, posted, acknowledged and proven by"
            f" {sync_command(definition)}"
        )


def refuse_whole_banks(definition: SourceDefinition, command: str, instead: str | None = None) -> None:
    """For commands that are about one registered source, which is a day of a bank.

    Args:
        definition: the source.
        command: what was asked for, such as "rejects export".
        instead: a command that does it for all days, where there is one.

    Raises:
        UsageError: it is a bank without a day.
    """
    if definition.scb is None or definition.api is not None:
        return
    also = f", or use {instead}" if instead else ""
    raise UsageError(
        f"{definition.id} is a Sovereign Central Bank, and each of its days is a source: name one, such as backfill"
        f" {command} {day_source_id(definition.id, definition.scb.start)}{also}"
    )


def day_to_look_at(definition: SourceDefinition, day: date | None) -> SourceDefinition:
    """What stands for a source when its rows are looked at: itself, or a day of a bank.

    Args:
        definition: of any type.
        day: the day that was asked for; None is the latest one that is over and has entries, or else the latest one
            that is over.

    Raises:
        UsageError: a day was asked for of a source that has none, or one before its first or one that has not begun.
        SettingsError: the bank cannot be asked without an environment variable.
        TransientError: the bank does not answer.
    """
    if definition.scb is None or (definition.api is not None and day is None):
        return definition if day is None else day_of(definition, day)
    section = scb_of(definition)
    today = last_ended_day(section, datetime.now(UTC)) + timedelta(days=1)
    if section.start > today:
        raise UsageError(
            f"{definition.id} begins on {section.start} (scb.start), and it is {today} in {section.timezone}: there is"
            " no day to look at yet"
        )
    if day is None:
        return day_of(definition, _latest_day(definition, today))
    if day > today:
        raise UsageError(
            f"{day} is still to come in {section.timezone}, where {base_id(definition)} is: name an earlier day"
        )
    return day_of(definition, day)


def _latest_day(definition: SourceDefinition, today: date) -> date:
    from backfill_pipeline.dual_ledger.client import BankClient

    section = scb_of(definition)
    last = today - timedelta(days=1)
    if last <= section.start:
        return section.start
    # A digest of years of entries would cost the bank more than the answer is worth.
    with BankClient(section.model_copy(update={"digest": False})) as client:
        totals = client.control_totals(section.start, last)
    with_entries = [day for day, one in totals.items() if one.count]
    return max(with_entries, default=last)
