"""Synchronising days of a bank: fetched ahead, posted in order, acknowledged, and both ledgers proven equal.

Belongs here: which days have to be worked on, how many at a time, and what a failure of one means for the others.
Does not: fetching (`fetch.py`), what is done with a day that is fetched (`one_day.py`), any orchestrator.

Days are sources of their own, so they are independent: one that fails stops no other. Only when the ledger is gone, or
the bank gives no answer for several days in a row, the rest is not tried.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb import ScbSection
from backfill_pipeline.definition.scb_days import day_window, days_between, last_ended_day, scb_of
from backfill_pipeline.dual_ledger.client import BankClient, is_away
from backfill_pipeline.dual_ledger.day_report import DayReport
from backfill_pipeline.dual_ledger.fetch import DayFetcher, StatedTotals
from backfill_pipeline.dual_ledger.ledger_session import LedgerSession
from backfill_pipeline.dual_ledger.one_day import DaySync, PostedDay, Step
from backfill_pipeline.errors import TransientLedgerError, TransientSourceError, UsageError
from backfill_pipeline.ledger import balances
from backfill_pipeline.ledger.banks import marks, sync_status
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.post import RunStoppedError, prepare_ledger
from backfill_pipeline.stages.retry import retrying
from backfill_pipeline.stages.work import Log, Places

Refetch = Literal["changed", "always"]

UNANSWERED_MAX: Final = 3
"""Days in a row for which the bank gives no answer; then it is taken to be away."""

_BEHIND: Final = 2
"""Days that are acknowledged or proven while another one is posted."""


class BankAwayError(TransientSourceError):
    """The day was not tried: the bank gave no answer for the days before."""


def sync_days(
    definition: SourceDefinition,
    places: Places,
    days: Sequence[date],
    *,
    run_id: str,
    config: BackfillConfig,
    log: Log,
    stop: threading.Event | None = None,
    refetch: Refetch = "changed",
) -> Generator[DayReport]:
    """Brings days of a bank's ledger and of ours into line; yields a report per day, in order, as each is done.

    Days that are complete, and whose control totals the bank still states, are left alone, unless entries of ours were
    posted for them since. Closing the generator, or
    setting `stop`, stops after the batch that is under way; the days behind are reported as not tried.

    Args:
        definition: of type scb.
        places: the ledger, and where captures and intermediates go.
        days: in the bank's time zone, in any order.
        run_id: kept with every batch.
        config: of the posting.
        log: takes progress messages; called from several threads.
        stop: set by whoever wants the run to end.
        refetch: changed fetches days whose control totals are no longer those that their entries were proven with, and
            those never fetched; always fetches all of them.

    Raises:
        SettingsError: an environment variable for a secret is missing.
        BackfillError: accounts or opening balances cannot be posted, or the ledger is kept with another bank.
    """
    wanted = sorted(set(days))
    if not wanted:
        return
    section = scb_of(definition)
    stopped = threading.Event() if stop is None else stop
    with ExitStack() as stack:
        bank = stack.enter_context(BankClient(section))
        session = LedgerSession(definition.id, places, config, log)
        stack.callback(session.close)
        _prepare_bank(definition, places, session, run_id, config, log)
        stated = StatedTotals(bank, wanted)
        fetcher = DayFetcher(definition, places, bank, stated, log, stopped)
        noted = session.run(
            lambda connection: sync_status.load(connection, definition.id, wanted[0], wanted[-1])
        )
        sync = DaySync(
            definition=definition,
            places=places,
            bank=bank,
            fetcher=fetcher,
            stated=stated,
            known={one.day: one for one in noted},
            reopened=session.run(
                lambda connection: sync_status.reopened_days(
                    connection, definition.id, section.bank_id, section.timezone
                )
            ),
            session=session,
            run_id=run_id,
            config=config,
            log=log,
            stop=stopped,
            always=refetch == "always",
            baseline=session.run(balances.trial_balance),
        )
        # Behind the bank and the session, so that these outlive the threads that use them.
        pipeline = stack.enter_context(_Pipeline.of(sync, section, wanted, stopped))
        for number, report in enumerate(pipeline.reports(), 1):
            yield report if number < len(wanted) else sync.balanced(report)


def nightly_days(connection: Connection, definition: SourceDefinition, now: datetime) -> list[date]:
    """The days that a night takes up: the one that ended, the look-back, and whatever is not settled before.

    A day is settled when it is complete, and the bank stated the same once more after the look-back. So a bank that was
    away for the last night of that is asked in the next one.

    Args:
        connection: to the ledger.
        definition: of type scb.
        now: with its offset.

    Returns:
        In order; none before `scb.start`, and none when the first day is not over.
    """
    section = scb_of(definition)
    last = last_ended_day(section, now)
    if last < section.start:
        return []
    known = sync_status.load(connection, definition.id, section.start, last)
    reopened = sync_status.reopened_days(connection, definition.id, section.bank_id, section.timezone)
    wait = timedelta(days=section.nightly.lookback_days)
    settled = {
        one.day
        for one in known
        if one.complete and one.checked_at is not None and one.checked_at >= one.window_to + wait
    } - reopened
    look_back = max(section.start, last - timedelta(days=section.nightly.lookback_days))
    first = min([look_back, *(one.day for one in known)])
    return [
        day
        for day in days_between(first, last)
        if (day >= look_back or day not in settled) and has_hours(section, day)
    ]


def has_hours(section: ScbSection, day: date) -> bool:
    """Whether the bank's time zone has such a day: one that crossed the date line left a day out."""
    begin, end = day_window(section, day)
    return begin < end


def _prepare_bank(
    definition: SourceDefinition,
    places: Places,
    session: LedgerSession,
    run_id: str,
    config: BackfillConfig,
    log: Log,
) -> None:
    """Marks the ledger as kept with the bank, opens the accounts and posts the opening balances. Once, for all days."""
    section, ledger_id = scb_of(definition), definition.dual_ledger_id
    since, _ = day_window(section, section.start)
    assert ledger_id is not None  # a definition of type scb has one
    noted = session.run(
        lambda connection: marks.mark_ledger(
            connection, ledger_id, section.bank_id, send_entries=section.send_entries, since=since
        )
    )
    if noted:
        log(
            f"{definition.id}: {noted:,} entries were in ledger {ledger_id} before, and are noted for the bank"
        )
    if opened := retrying(config, lambda: prepare_ledger(definition, places, run_id), log):
        log(f"{definition.id}: {opened:,} opening entries posted")


@dataclass(slots=True)
class _Pipeline:
    """Several days at a time: some are fetched, one is posted, the one before is acknowledged, and another is proven.

    Each kind of work is done in the order of the days, and waits mostly for another process: the bank, or the ledger.

    Attributes:
        fetching: up to `workers` days ahead of the one that is posted, in threads of their own.
        telling: one day at a time, in a thread of its own.
        proving: likewise. Posting is done by the thread that takes the reports.
    """

    sync: DaySync
    section: ScbSection
    days: Sequence[date]
    last_ended: date
    workers: int
    stop: threading.Event
    fetching: ThreadPoolExecutor
    telling: ThreadPoolExecutor
    proving: ThreadPoolExecutor
    _waiting: deque[date]
    _begun: dict[date, Future[Step]] = field(default_factory=dict)
    _unanswered: int = 0
    _gone: Exception | None = None  # why the rest is not tried

    @classmethod
    def of(cls, sync: DaySync, section: ScbSection, days: Sequence[date], stop: threading.Event) -> _Pipeline:
        """For these days; nothing is begun yet."""
        workers = section.fetch_workers
        fetching = ThreadPoolExecutor(workers, thread_name_prefix="fetch")
        telling = ThreadPoolExecutor(1, thread_name_prefix="tell")
        proving = ThreadPoolExecutor(1, thread_name_prefix="prove")
        ended = last_ended_day(section, datetime.now(UTC))
        asked = deque(day for day in days if day <= ended and has_hours(section, day))
        return cls(sync, section, days, ended, workers, stop, fetching, telling, proving, asked)

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.fetching.shutdown(wait=True, cancel_futures=True)
        self.telling.shutdown(wait=True, cancel_futures=True)
        self.proving.shutdown(wait=True, cancel_futures=True)

    def reports(self) -> Iterator[DayReport]:
        """Yields a report per day, in order."""
        behind: deque[Future[DayReport]] = deque()
        for day in self.days:
            behind.append(self._posted(day))
            while len(behind) > _BEHIND:
                yield behind.popleft().result()
        while behind:
            yield behind.popleft().result()

    def _posted(self, day: date) -> Future[DayReport]:
        """Posts a day as soon as it is fetched; what comes is what is then proven of it."""
        self._fetch_more()
        if not has_hours(self.section, day):
            return self.proving.submit(self.sync.nothing, day)
        if day > self.last_ended:
            return self.proving.submit(self.sync.not_tried, day, self._not_over(day))
        begun = self._begun.pop(day, None)
        if begun is None or self._gone is not None or self.stop.is_set():
            return self.proving.submit(self.sync.not_tried, day, self._why_not())
        try:
            step = begun.result()
        except Exception as error:  # the day failed, whatever it was; the others go on
            self._note_silence(error)
            return self.proving.submit(self._failed, day, error)
        self._unanswered = 0
        self._fetch_more()
        try:
            posted = self.sync.post(step)
        except Exception as error:  # as above
            return self.proving.submit(self._failed, day, error)
        if posted is None:
            return self.proving.submit(self.sync.unchanged, day)
        return self.proving.submit(self._proven, posted, day, self.telling.submit(self.sync.tell))

    def _proven(self, posted: PostedDay, day: date, told: Future[None]) -> DayReport:
        try:
            told.result()
            return self.sync.prove(posted, is_last=day == self.days[-1])
        except Exception as error:  # as above
            return self._failed(day, error)

    def _failed(self, day: date, error: Exception) -> DayReport:
        if isinstance(error, TransientLedgerError):
            # It was retried already: the ledger is away, and every other day would wait for it in vain.
            self._gone = TransientLedgerError(f"not tried: {error}")
        return self.sync.failed(day, error)

    def _not_over(self, day: date) -> UsageError:
        """A day that is still going on would be called complete with what is there of it."""
        return UsageError(
            f"{day} is not over yet in {self.section.timezone}: the last day that is over is {self.last_ended}"
        )

    def _why_not(self) -> Exception:
        return self._gone or RunStoppedError("not tried: the run was stopped")

    def _fetch_more(self) -> None:
        while self._waiting and len(self._begun) < self.workers:
            if self._gone is not None or self.stop.is_set():
                return
            day = self._waiting.popleft()
            self._begun[day] = self.fetching.submit(self.sync.begin, day)

    def _note_silence(self, error: Exception) -> None:
        """A bank that is away is not asked for each of a thousand days."""
        self._unanswered = self._unanswered + 1 if is_away(error) else 0
        if self._unanswered >= UNANSWERED_MAX:
            self._gone = BankAwayError(f"not tried, since the days before failed: {error}")
