"""One day of a bank from its first look to its verdict.

Belongs here: what is left to do about a day, and its steps in their order.
Does not: which days, and how many at a time (`days.py`); each step itself; the report (`day_report.py`).

What is left follows from the ledger alone, so a run that was killed anywhere is taken up where it ended: a day that is
partly posted is finished with what was captured, and fetched again afterwards when the bank says something else then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import TypeVar

from backfill_pipeline.definition.load import mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import day_definition, day_source_id, day_window, scb_of
from backfill_pipeline.dual_ledger.client import BankClient, is_away
from backfill_pipeline.dual_ledger.control_totals import ControlTotals
from backfill_pipeline.dual_ledger.day_report import DayReport, left_alone, synced
from backfill_pipeline.dual_ledger.dispatch import dispatch
from backfill_pipeline.dual_ledger.dual_report import DualReport
from backfill_pipeline.dual_ledger.fetch import DayFetcher, StatedTotals
from backfill_pipeline.dual_ledger.ledger_session import LedgerSession
from backfill_pipeline.dual_ledger.reconcile import reconcile_day
from backfill_pipeline.errors import BackfillError, LedgerError, SourceChangedError
from backfill_pipeline.ledger import balances, registrations, status
from backfill_pipeline.ledger.banks import outbox, sync_status
from backfill_pipeline.ledger.banks.sync_status import SyncStatus
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.post import RunStoppedError
from backfill_pipeline.stages.prepare import STAGES, StageReport
from backfill_pipeline.stages.reconcile import reconcile
from backfill_pipeline.stages.retry import retrying
from backfill_pipeline.stages.runner import PartitionReport, PartitionRunner, describe
from backfill_pipeline.stages.work import Log, Places, SourceWork, all_mapping_parts, open_work

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """A day that is fetched as far as it has to be.

    Attributes:
        registration: what is to be posted, acknowledged and reconciled; None for a day that is left alone.
        again: whether the bank says something else than was registered, so that it is fetched once more afterwards.
    """

    day: date
    started: float
    registration: Registration | None
    again: bool = False
    fetches: int = 0


@dataclass(frozen=True, slots=True)
class PostedDay:
    """A day of which everything that is registered is posted.

    Attributes:
        stages: what this run did for that, partition by partition.
    """

    step: Step
    work: SourceWork
    stages: Sequence[StageReport]


class _StopOfDay(threading.Event):
    """Set with the run's, and by the runner of a day for itself alone, which sets it at its end."""

    def __init__(self, of_run: threading.Event) -> None:
        super().__init__()
        self._of_run = of_run

    def is_set(self) -> bool:
        """Whether the day, or the run, is to stop."""
        return super().is_set() or self._of_run.is_set()


@dataclass(slots=True)
class DaySync:
    """Takes days of one bank through their steps: `begin`, `post`, `tell`, `prove`; each may be at another day.

    Attributes:
        known: what is noted about each day.
        reopened: complete days for which the bank was, or is to be, told more since: they are proven again.
        always: whether to fetch days anew whose control totals are what they were.
        baseline: the trial balance that posting must not change.
    """

    definition: SourceDefinition
    places: Places
    bank: BankClient
    fetcher: DayFetcher
    stated: StatedTotals
    known: Mapping[date, SyncStatus]
    reopened: Collection[date]
    session: LedgerSession
    run_id: str
    config: BackfillConfig
    log: Log
    stop: threading.Event
    always: bool
    baseline: dict[str, Decimal]
    balances_due: bool = False  # entries were posted since all balances were held against theirs

    # --- fetching -----------------------------------------------------------------------------------------------

    def begin(self, day: date) -> Step:
        """Looks what is left to do about a day, and fetches it if it has to be.

        Raises:
            BackfillError: it cannot be fetched, or is not what the bank's control totals say.
        """
        started = time.monotonic()
        noted = self.known.get(day)
        definition = day_definition(self.definition, day)
        mapping = mapping_sha256(definition)
        agrees = noted is not None and noted.mapping_sha256 == mapping and self._says_the_same(noted)
        if noted is not None and noted.complete and agrees and not self.always and day not in self.reopened:
            return Step(day, started, None)
        self._note_begin(day)
        registration = self.session.run(
            lambda connection: registrations.load(connection, day_source_id(self.definition.id, day))
        )
        if registration is not None and registration.completed_at is None and self._has_begun(registration):
            _refuse_other_mapping(definition, registration)
            return Step(day, started, registration, again=self.always or not agrees)
        if registration is not None and registration.completed_at is not None and agrees and not self.always:
            return Step(day, started, registration)
        return self._fetched(Step(day, started, registration), mapping)

    def _says_the_same(self, noted: SyncStatus) -> bool:
        """Whether the bank still states the control totals that the day was proven with."""
        if noted.control_totals is None:
            return False
        return not self.stated.of(noted.day).differences(ControlTotals.from_json(noted.control_totals))

    def _has_begun(self, registration: Registration) -> bool:
        """Whether any of it was posted."""
        outcomes = self.session.run(lambda connection: status.partition_outcomes(connection, registration.id))
        return any(outcome.status == "posted" or outcome.processed for outcome in outcomes)

    def _note_begin(self, day: date) -> None:
        section = scb_of(self.definition)
        self.session.run(
            lambda connection: sync_status.begin(
                connection,
                source_id=self.definition.id,
                bank_id=section.bank_id,
                day=day,
                window=day_window(section, day),
                run_id=self.run_id,
            )
        )

    def _fetched(self, step: Step, mapping: str) -> Step:
        before = step.registration
        # What was posted under another mapping must not be taken for settled.
        same_mapping = before is not None and before.mapping_sha256 == mapping
        found = self.fetcher.fetch(step.day, accept_changed=same_mapping)
        registration = found.manifest.registration
        self.session.run(
            lambda connection: sync_status.fetched(
                connection,
                self.definition.id,
                step.day,
                records=registration.row_count,
                control_totals=found.totals.as_json(),
                mapping_sha256=mapping,
                run_id=self.run_id,
            )
        )
        return replace(step, registration=registration, again=False, fetches=step.fetches + found.fetches)

    # --- everything behind it -----------------------------------------------------------------------------------

    def post(self, step: Step) -> PostedDay | None:
        """Posts what is left to post of a day; None for a day that is left alone.

        Raises:
            BackfillError: a partition failed; what was posted stays.
        """
        if step.registration is None:
            return None
        stages: list[StageReport] = []
        work, step = self._posted(step, stages)
        return PostedDay(step, work, stages)

    def tell(self) -> None:
        """Tells the bank what is due: that its entries are posted, and entries of ours.

        One that does not answer is told later; that is no failure of the day, but a break.

        Raises:
            TransientLedgerError: the ledger cannot be reached.
        """
        self._retrying(
            lambda: dispatch(self.places.ledger_url, [self.definition], log=self.log, stop=self.stop)
        )

    def prove(self, posted: PostedDay, *, is_last: bool) -> DayReport:
        """Holds both ledgers against each other on a day that the bank was told of.

        Args:
            posted: what `post` gave.
            is_last: whether balances are held against their entries now, for all days of the run.

        Raises:
            BackfillError: a step failed; what was reached stays.
        """
        step, work = posted.step, posted.work
        registration, section = work.registration, scb_of(self.definition)
        counts = self.session.run(
            lambda connection: sync_status.count_day(
                connection, work.definition.id, registration.id, section.bank_id
            )
        )
        self.session.run(
            lambda connection: sync_status.counted(
                connection, self.definition.id, step.day, counts, run_id=self.run_id
            )
        )
        reconciliation = self._retrying(lambda: reconcile(work, with_balances=is_last))
        self.balances_due = not is_last
        dual = self._compared(step.day)
        if dual.untold and self._told_as_theirs(dual):
            dual = self._compared(step.day)
        verdict = "match" if reconciliation.matches and dual.verdict == "match" else "break"
        report = synced(
            step.day,
            counts,
            posted.stages,
            registration,
            reconciliation,
            dual,
            verdict=verdict,
            fetches=step.fetches,
            seconds=time.monotonic() - step.started,
        )
        self.session.run(
            lambda connection: sync_status.finish(
                connection,
                self.definition.id,
                step.day,
                verdict=verdict,
                break_count=reconciliation.break_count + dual.break_count,
                details={} if report.reason is None else {"reason": report.reason},
                run_id=self.run_id,
            )
        )
        return report

    def _compared(self, day: date) -> DualReport:
        return self._retrying(lambda: reconcile_day(self.definition, self.places, day, self.bank))

    def _told_as_theirs(self, dual: DualReport) -> int:
        """Tells the bank that entries of its own, which were here before it served them, are posted; how many."""
        ledger_id = self.definition.dual_ledger_id
        assert ledger_id is not None
        noted = self.session.run(
            lambda connection: outbox.note_as_theirs(connection, ledger_id, dual.bank_id, dual.untold)
        )
        if noted:
            self.log(
                f"{dual.source_id} {dual.day}: {noted:,} entries of {dual.bank_id} were here before it served them,"
                " and are noted as its own"
            )
            self.tell()
        return noted

    def _retrying(self, action: Callable[[], T]) -> T:
        """Does something that can be done again, as often as it takes while the ledger or the bank is away."""
        return retrying(self.config, action, self.log)

    def failed(self, day: date, error: Exception) -> DayReport:
        """Notes why a day failed, as far as the ledger can be reached."""
        section = scb_of(self.definition)
        if isinstance(error, RunStoppedError):
            return self.not_tried(day, error)
        with suppress(BackfillError):
            self.session.run(
                lambda connection: sync_status.fail(
                    connection,
                    source_id=self.definition.id,
                    bank_id=section.bank_id,
                    day=day,
                    window=day_window(section, day),
                    run_id=self.run_id,
                    error=describe(error),
                    keep_complete=is_away(error),
                )
            )
        return self.not_tried(day, error)

    def balanced(self, report: DayReport) -> DayReport:
        """The last report of a run; when no day looked at balances that were moved, they are looked at now."""
        if not self.balances_due:
            return report
        try:
            found = self.session.run(balances.examine)
        except BackfillError as error:
            return report if report.error is not None else replace(report, outcome="failed", error=error)
        count = found.break_count + sum(bool(one.difference or one.drift) for one in found.currencies)
        if not count:
            return report
        text = f"{count:,} balances of the ledger are not what their entries make them: backfill reconcile names them"
        return replace(report, outcome="failed", error=LedgerError(text), verdict="break")

    def nothing(self, day: date) -> DayReport:
        """The report of a day that the bank's time zone left out."""
        return DayReport(day, "unchanged", day_source_id(self.definition.id, day), verdict="match")

    def not_tried(self, day: date, error: Exception) -> DayReport:
        """The report of a day that nothing was done about."""
        return DayReport(day, "failed", day_source_id(self.definition.id, day), error=error)

    def unchanged(self, day: date) -> DayReport:
        """The report of a day that is complete, and left alone."""
        noted = self.known[day]
        self.session.run(
            lambda connection: sync_status.still_the_same(connection, self.definition.id, day, self.run_id)
        )
        return left_alone(day_source_id(self.definition.id, day), noted)

    def _posted(self, step: Step, stages: list[StageReport]) -> tuple[SourceWork, Step]:
        """Posts what is registered; when the bank says something else by then, that too."""
        definition = day_definition(self.definition, step.day)
        mapping = mapping_sha256(definition)
        while True:
            assert step.registration is not None
            try:
                work = self._post(open_work(definition, self.places, registration=step.registration), stages)
            except SourceChangedError:
                # What was captured is gone, and the bank says something else: its references tell what is posted.
                if step.fetches or step.registration.mapping_sha256 != mapping:
                    raise
                step = replace(step, again=True)
            if not step.again:
                return work, step
            step = self._fetched(step, mapping)

    def _post(self, work: SourceWork, stages: list[StageReport]) -> SourceWork:
        """Posts a registration that is open; the work as it is afterwards."""
        if work.registration.completed_at is not None:
            return work

        def run() -> list[PartitionReport]:
            runner = PartitionRunner(
                work=work,
                config=self.config,
                selected=STAGES,
                run_id=self.run_id,
                log=self.log,
                stop=_StopOfDay(self.stop),
                baseline=self.baseline,
            )
            return list(runner.run([partition.key for partition in work.registration.partitions]))

        first: Exception | None = None
        for report in self._retrying(run):
            stages.extend(report.stages)
            first = first or report.error
        if first is not None:
            raise first
        registration = self.session.run(lambda connection: registrations.load(connection, work.definition.id))
        assert registration is not None
        return replace(work, registration=registration)


def _refuse_other_mapping(definition: SourceDefinition, registration: Registration) -> None:
    """What is left of a day must not be posted by other rules than what is posted of it."""
    parts = all_mapping_parts(definition, registration.header)
    if changes := registrations.describe_mapping_changes(registration, parts):
        raise SourceChangedError(
            f"{definition.id}: is partly posted, and {' and '.join(changes)} changed since: restore {definition.path}"
            " and sync the day again; after that it can be changed"
        )
