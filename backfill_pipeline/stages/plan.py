"""Plans: everything that a run would do, found out by doing it without keeping any of it.

A plan goes the way of a run: it surveys the source, maps and validates each partition, and posts it, batch by batch, by
the same code. What a run writes into the ledger goes into temporary tables (`ledger/rehearsal.py`); what it writes into
the home goes into a scratch folder. So a plan says the numbers of the run, unless source or ledger change in between.

Belongs here: the order of these steps, and adding up what they found.
Does not: the steps, a reconciliation.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import BackfillError, LedgerError, TransientError, TransientLedgerError
from backfill_pipeline.ledger import forecast, outlook, status
from backfill_pipeline.ledger.connection import Connection, is_being_written
from backfill_pipeline.ledger.forecast import Recorded
from backfill_pipeline.ledger.migrate import bundled_migrations, pending
from backfill_pipeline.ledger.registrations import Partition, Registration
from backfill_pipeline.ledger.rehearsal import Rehearsal, rehearsing
from backfill_pipeline.mapping.accounts import AccountBook, read_accounts
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.stages.plan_posting import PlannedFrames, Refusals, Rehearser
from backfill_pipeline.stages.plan_report import Counts, Plan, PlannedPartition, estimate, total
from backfill_pipeline.stages.plan_source import FoundSource, find_source, scratch_folder
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline.stages.runner import describe
from backfill_pipeline.stages.work import Places, SourceWork

Progress = Callable[[int, int], None]
"""Told how many rows are planned, of how many."""


def _nobody(_done: int, _rows: int) -> None:
    return None


def make_plan(
    definition: SourceDefinition,
    connection: Connection,
    places: Places,
    *,
    accounts_of: SourceDefinition | None = None,
    accept_changed: bool = False,
    progress: Progress = _nobody,
) -> Plan:
    """Finds out what a run of a source would do. Nothing that lasts is written anywhere.

    Args:
        definition: the source.
        connection: to the ledger, autocommit, not in a transaction; good for nothing else afterwards.
        places: of the home, which is only read.
        accounts_of: whose accounts and opening balances a run would see to first, where not the source's own: of a
            day, those of its bank.
        accept_changed: as of the run.
        progress: told after each partition.

    Raises:
        SourceFileError: the source or its accounts file cannot be used.
        SourceChangedError: a run would refuse the source, and why.
        LedgerError: the ledger's schema is not that of this release.
        TransientError: ledger or source do not answer, or others post this source's entries meanwhile.
    """
    started = time.monotonic()
    owner = definition if accounts_of is None else accounts_of
    book = read_accounts(owner)
    is_new_ledger = _is_new(connection)
    is_running = is_being_written(connection, definition.id)
    with scratch_folder() as scratch, rehearsing(connection, empty_ledger=is_new_ledger) as rehearsal:
        found = find_source(definition, connection, places, scratch, accept_changed=accept_changed)
        surveyed = time.monotonic()
        planner = _Planner(found, rehearsal, book, owner.id, progress)
        planner.plan()
        ended = time.monotonic()
        counted, accounts = outlook.new_accounts(connection)
        unknown, unknown_sample = outlook.unknown_accounts(connection)
        registration = found.work.registration
        return Plan(
            source_id=definition.id,
            definition=str(definition.path),
            place=definition.place,
            is_live=definition.is_live,
            is_running=is_running or is_being_written(connection, definition.id),
            is_new_ledger=is_new_ledger,
            revision=registration.revision,
            is_registered=found.is_registered,
            changes=found.changes,
            counts=total([one.counts for one in planner.partitions]),
            partitions=planner.partitions,
            rejects_by_code=dict(sorted(planner.refusals.by_code.items(), key=lambda one: (-one[1], one[0]))),
            reject_samples=planner.refusals.samples,
            filtered_by_reason=dict(planner.filtered.most_common()),
            totals=outlook.totals(connection, opening=False),
            opening_entries=planner.opening_entries,
            opening_totals=outlook.totals(connection, opening=True),
            new_accounts=counted,
            account_sample=accounts,
            unknown_accounts=unknown,
            unknown_sample=unknown_sample,
            constraints=outlook.constraint_outlook(connection, rehearsal.tables.constraints_now),
            estimate=estimate(
                planner.open_rows, ended - started, surveyed - started, forecast.run_rates(connection)
            ),
            errors=planner.errors,
            seconds=round(time.monotonic() - started, 3),
        )


def _is_new(connection: Connection) -> bool:
    """Whether the database holds no ledger yet, which a run would make.

    Raises:
        LedgerError: it holds one of another release.
    """
    missing = pending(connection)
    if not missing:
        return False
    if len(missing) == len(bundled_migrations()):
        return True
    names = ", ".join(f"{one.version:04d} {one.name}" for one in missing)
    raise LedgerError(
        f"the ledger lacks migrations that a run would apply first ({names}), and a plan changes nothing:"
        " apply them with backfill db migrate, and plan again"
    )


@dataclass(slots=True)
class _Planner:
    """Takes the partitions of a source through a rehearsal, in source order, the next one prepared meanwhile."""

    found: FoundSource
    rehearsal: Rehearsal
    book: AccountBook | None
    book_owner: str
    progress: Progress
    partitions: list[PlannedPartition] = field(default_factory=list)
    refusals: Refusals = field(default_factory=Refusals)
    filtered: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    opening_entries: int = 0
    open_rows: int = 0

    @property
    def _work(self) -> SourceWork:
        return self.found.work

    def plan(self) -> None:
        """Fills the fields above."""
        registration = self._work.registration
        posted = self._take_posted(registration)
        waiting = [one for one in registration.partitions if one.key not in posted]
        self.open_rows = sum(one.plan.row_count for one in waiting)
        try:
            self._rehearse_openings()
        except TransientError:
            raise
        except BackfillError as error:  # a run ends here, before its first partition
            self.errors.append(describe(error))
            untried = {one.key: self._untried(one) for one in waiting}
        else:
            untried = {one.key: one for one in self._rehearse(waiting)}
        every = posted | untried
        self.partitions = [every[one.key] for one in registration.partitions]

    def _take_posted(self, registration: Registration) -> dict[str, PlannedPartition]:
        """Partitions that a run passes over; their rows are duplicates to it."""
        if not self.found.is_registered:
            return {}
        connection = self.rehearsal.connection
        keys = {one.id: one.key for one in registration.partitions}
        for partition_id, code, count in forecast.recorded_rejects(connection, registration.id):
            if partition_id in keys:
                self.refusals.by_code[code] += count
        self.filtered.update(forecast.recorded_filtered(connection, registration.id))
        done = {one.key for one in registration.partitions if one.posted}
        return {
            one.partition_key: PlannedPartition(
                one.partition_key,
                one.read,
                "posted",
                Counts(one.read, 0, one.posted + one.duplicates, one.conflicts, one.rejected, one.filtered),
            )
            for one in status.partition_outcomes(connection, registration.id)
            if one.partition_key in done
        }

    def _untried(self, partition: Partition) -> PlannedPartition:
        return PlannedPartition(partition.key, partition.plan.row_count, "open", Counts(), self.errors[0])

    def _rehearse_openings(self) -> None:
        """As `post.prepare_ledger`."""
        if self.book is None:
            return
        names = self.book.equity_accounts.column_names
        self.rehearsal.open_accounts(
            pa.concat_tables([self.book.equity_accounts, self.book.accounts.select(names)])
        )
        self.opening_entries = self.rehearsal.post_opening_entries(self.book_owner, self.book.opening_entries)

    def _rehearse(self, waiting: list[Partition]) -> Iterator[PlannedPartition]:
        stop = threading.Event()
        config = effective_config(self._work.definition.config)
        rehearser = Rehearser(
            self._work,
            config,
            "plan",
            stop,
            lambda _: None,
            {},
            rehearsal=self.rehearsal,
            refusals=self.refusals,
        )

        def prepare(partition: Partition) -> tuple[PlannedFrames, Exception | None]:
            frames = PlannedFrames(self._work, partition.key, STAGES, config)
            try:
                if not stop.is_set():
                    frames.validated()
            except Exception as error:  # as in a run: the partition fails, whatever it was
                return frames, error
            finally:
                frames.release()
            return frames, None

        self.progress(0, self.open_rows)
        done_rows = 0
        with ThreadPoolExecutor(1, thread_name_prefix="prepare") as preparing:
            try:
                ahead: deque[Future[tuple[PlannedFrames, Exception | None]]] = deque()
                for place, partition in enumerate(waiting):
                    for other in waiting[place + len(ahead) : place + 2]:
                        ahead.append(preparing.submit(prepare, other))
                    frames, error = ahead.popleft().result()
                    yield self._rehearse_one(rehearser, partition, frames, error)
                    frames.remove_files()
                    done_rows += partition.plan.row_count
                    self.progress(done_rows, self.open_rows)
            finally:
                stop.set()
                preparing.shutdown(cancel_futures=True)

    def _rehearse_one(
        self,
        rehearser: Rehearser,
        partition: Partition,
        frames: PlannedFrames,
        error: Exception | None,
    ) -> PlannedPartition:
        recorded = (
            forecast.recorded_batches(self.rehearsal.connection, partition.id)
            if self.found.is_registered
            else Recorded()
        )
        rehearser.begin(recorded)
        early = 0
        if frames.early is not None:
            early = frames.early.num_rows
            self.refusals.add(partition.key, frames.early)
            self.filtered.update(frames.filtered)
        if error is None:
            try:
                rehearser.post(frames)
            except Exception as failure:  # as in a run
                error = failure
        if isinstance(error, TransientError):
            raise error
        now = rehearser.counts
        rows = partition.plan.row_count
        left_out = sum(frames.filtered.values()) if error is None else 0
        counts = Counts(
            read=now.read + recorded.read + (early + left_out if error is None else 0),
            posted=now.posted,
            duplicates=now.duplicates + recorded.settled,
            conflicts=now.conflicts + recorded.conflicts,
            rejected=now.rejected + recorded.rejected + (early if error is None else 0),
            filtered=left_out,
        )
        if error is None and counts.read != rows:
            raise TransientLedgerError(
                f"partition {partition.key} of {self._work.definition.id} does not add up: it has {rows} rows, and"
                f" {counts.read} are planned; a run posted some of them meanwhile: plan it again"
            )
        return PlannedPartition(
            partition.key,
            rows,
            "partly posted" if recorded.ranges else "open",
            counts,
            None if error is None else describe(error),
        )
