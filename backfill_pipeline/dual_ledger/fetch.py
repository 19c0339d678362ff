"""Fetching a day of a bank: captured, proven complete by the bank's control totals, and only then registered.

Belongs here: when a day has to be fetched, the proof, and fetching it again when it does not hold.
Does not: pages and requests (`sources/http/`), what happens to the entries of a day (`days.py`).

Nothing of a day is registered, let alone posted, before its capture agrees with the bank's totals to the last digit. A
list that lost an entry between two pages, gave one twice with two contents, or was overtaken by a late entry, is not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import pyarrow as pa

from backfill_pipeline.definition.load import mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb import CONTROL_COLUMNS, ScbSection
from backfill_pipeline.definition.scb_days import day_definition, scb_of
from backfill_pipeline.dual_ledger.client import BankClient, is_away
from backfill_pipeline.dual_ledger.control_totals import ControlTotals, totals_of
from backfill_pipeline.errors import BackfillError, SourceFileError, TransientError
from backfill_pipeline.sources.capture.captures import Capture
from backfill_pipeline.sources.http.client import RequestRefusedError
from backfill_pipeline.stages.manifest import LiveSurvey, ManifestReport, register_source
from backfill_pipeline.stages.post import RunStoppedError
from backfill_pipeline.stages.work import Log, Places

FETCHES_MAX: Final = 4
"""A day that does not agree with its totals is fetched so often in all."""

TOTALS_DAYS: Final = 31
"""Days whose totals are asked for at once: a bank adds up all of their entries for it."""

AWAY_S: Final = 30.0
"""A bank that did not answer, for as long as its client tried, is not asked for totals again before."""

_PAUSE_MAX_S: Final = 60.0
_REFUSED_FOR_GOOD: Final = frozenset((400, 403, 404, 410, 422))


class UnprovenDayError(SourceFileError):
    """What the bank serves for a day is not what its control totals say, however often it is fetched."""


@dataclass(frozen=True, slots=True)
class FetchedDay:
    """A day that is registered and proven.

    Attributes:
        definition: of the day.
        manifest: what registering it did.
        totals: of the bank, which the capture agrees with.
        fetches: how often it was fetched for that.
    """

    definition: SourceDefinition
    manifest: ManifestReport
    totals: ControlTotals
    mapping_sha256: str
    fetches: int


@dataclass(slots=True)
class StatedTotals:
    """What the bank says its days hold: asked for many days at once, when one of them is wanted. For several threads.

    Attributes:
        days: all days that will be wanted, in order.
    """

    bank: BankClient
    days: Sequence[date]
    _known: dict[date, ControlTotals] = field(default_factory=dict)
    _away: tuple[float, BackfillError] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, day: date) -> ControlTotals:
        """The totals of a day, as they were when they were first asked for.

        Raises:
            SourceFileError: the bank refuses, or its answer cannot be used.
            TransientSourceError: it does not answer.
        """
        with self._lock:
            if day not in self._known:
                # Those who waited meanwhile, and the next few, need not find out once more.
                if self._away is not None and time.monotonic() - self._away[0] < AWAY_S:
                    raise self._away[1]
                first, last = self._beside(day)
                try:
                    self._known |= self.bank.control_totals(first, last)
                except BackfillError as error:
                    self._away = (time.monotonic(), error) if is_away(error) else None
                    raise
            return self._known[day]

    def again(self, day: date) -> ControlTotals:
        """The totals of a day, asked for now."""
        found = self.bank.control_totals(day, day)[day]
        with self._lock:
            self._known[day] = found
        return found

    def _beside(self, day: date) -> tuple[date, date]:
        """The first and last of the wanted days that are asked for together with this one: those without a gap."""
        blocks: list[tuple[date, date]] = []
        for one in self.days:
            first, last = blocks[-1] if blocks else (one, one)
            if (one - last).days <= 1 and (one - first).days < TOTALS_DAYS:
                blocks[-1:] = [(first, one)]
            else:
                blocks.append((one, one))
        return next(((first, last) for first, last in blocks if first <= day <= last), (day, day))


@dataclass(slots=True)
class DayFetcher:
    """Fetches days of one bank. Safe for several threads.

    Attributes:
        stop: ends the pauses.
    """

    definition: SourceDefinition
    places: Places
    bank: BankClient
    stated: StatedTotals
    log: Log
    stop: threading.Event

    def fetch(self, day: date, *, accept_changed: bool = False) -> FetchedDay:
        """Captures a day, proves it, and registers it.

        Args:
            day: in the bank's time zone.
            accept_changed: although the revision before is partly posted.

        Raises:
            UnprovenDayError: it never agreed with the bank's totals. Nothing is registered.
            TransientSourceError: the bank does not answer.
            SourceFileError: the bank refuses.
            SourceChangedError: the mapping changed while the day is partly posted.
        """
        definition = day_definition(self.definition, day)
        assert definition.api is not None  # a day has one
        section = scb_of(self.definition)
        client = self.bank.beside(definition.api)
        proof = _Proof(section, day, self.stated)
        for number in range(1, FETCHES_MAX + 1):
            try:
                manifest = register_source(
                    definition,
                    self.places,
                    accept_changed=accept_changed,
                    live=LiveSurvey(client, proof.check),
                )
            except BackfillError as error:
                if number == FETCHES_MAX or not _may_heal(error):
                    raise
                self.log(f"{definition.id}: {error} (fetch {number} of {FETCHES_MAX})")
                self._pause(section, number)
            else:
                assert proof.totals is not None  # it was proven
                return FetchedDay(definition, manifest, proof.totals, mapping_sha256(definition), number)
        raise AssertionError("unreachable: the last try returns or raises")

    def _pause(self, section: ScbSection, number: int) -> None:
        if self.stop.wait(min(section.backoff_s * 2.0 ** (number - 1), _PAUSE_MAX_S)):
            raise RunStoppedError("stopped while a day was fetched")


@dataclass(slots=True)
class _Proof:
    """Holds captures of a day against what the bank says it holds."""

    section: ScbSection
    day: date
    stated: StatedTotals
    totals: ControlTotals | None = None

    def check(self, capture: Capture) -> None:
        """Raises UnprovenDayError, saying what differs; notes the totals that agree."""
        found = totals_of(control_columns(capture), digest=self.section.digest)
        stated = self.stated.of(self.day)
        if found.differences(stated):  # it may have moved on since it was asked, as the entries may have
            stated = self.stated.again(self.day)
        if differences := found.differences(stated):
            raise UnprovenDayError(
                f"{self.section.address}: the entries of {self.day} are not what the bank's control totals say:"
                f" {'; '.join(differences)}. Nothing of them was posted: try again later, or ask the bank."
            )
        self.totals = stated


def control_columns(capture: Capture) -> Iterator[pa.Table]:
    """The control columns of what was captured, piece by piece."""
    for table in capture.tables():
        yield table.select(list(CONTROL_COLUMNS))


def _may_heal(error: BackfillError) -> bool:
    """Whether fetching a day once more may help: pages that do not fit together, servers that are away for a moment."""
    if isinstance(error, RequestRefusedError):
        return error.status not in _REFUSED_FOR_GOOD
    return isinstance(error, (SourceFileError, TransientError))
