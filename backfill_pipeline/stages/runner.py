"""The runner: takes partitions, one after the other, through the selected stages.

Belongs here: the order of work, the overlap of preparing and posting, and what a failure of one partition means.
Does not: what a stage does; any orchestrator (it consumes the reports and logs them as its own events).

While PostgreSQL posts partitions k and k+1, partition k+2 is read, mapped and validated. At most `parallel_workers` + 1
partitions are in memory. What ends up in the ledger is that of posting one partition after the other (`turns.py`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Final

import pyarrow as pa

from backfill_pipeline.errors import BackfillError, TransientError
from backfill_pipeline.ledger import balances, checkpoints, registrations
from backfill_pipeline.ledger.connection import Connection, source_lock
from backfill_pipeline.ledger.constraints import balance_constraints_in_force
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.in_database import InDatabasePoster
from backfill_pipeline.stages.post import Poster, RunStoppedError, prepare_ledger
from backfill_pipeline.stages.prepare import PartitionFrames, StageName, StageReport
from backfill_pipeline.stages.taken_source import is_in_database
from backfill_pipeline.stages.turns import Turns
from backfill_pipeline.stages.work import Log, SourceWork

_ANY_REFERENCE: Final = pa.chunked_array([pa.array([""])])


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """What a run did to one partition. Stages that ran have a report, also when a later one failed."""

    key: str
    stages: tuple[StageReport, ...]
    error: Exception | None = None
    already_posted: bool = False


@dataclass(slots=True)
class PartitionRunner:
    """Runs partitions of one source.

    Attributes:
        selected: the stages to materialize; the others are read from their files.
        run_id: kept with every batch.
        log: takes progress messages; called from several threads.
        baseline: the trial balance that posting must not change; None: that of the ledger as it is.
    """

    work: SourceWork
    config: BackfillConfig
    selected: Collection[StageName]
    run_id: str
    log: Log
    stop: threading.Event = field(default_factory=threading.Event)
    baseline: dict[str, Decimal] | None = None
    _turns: Turns = field(default_factory=Turns)

    def run(self, keys: Sequence[str]) -> Iterator[PartitionReport]:
        """Yields a report per partition, in the order of `keys`, as soon as it is done.

        A partition that fails does not stop the others, unless the ledger cannot be reached: then the rest is reported
        as not tried. Closing the iterator, or interrupting it, stops after the batches that are under way.

        Raises:
            SourceBusyError: another run writes this source.
            BackfillError: accounts or opening balances cannot be posted.
        """
        with ExitStack() as stack:
            locked = stack.enter_context(source_lock(self.work.places.ledger_url, self.work.definition.id))
            preparing = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="prepare"))
            stack.callback(self.stop.set)
            # The first one while accounts are opened and opening balances posted.
            prepared = {key: preparing.submit(self._prepare, key) for key in keys[:1]}
            posters = self._posters(stack, locked) if "posted" in self.selected else []
            posting = stack.enter_context(ThreadPoolExecutor(max(len(posters), 1), thread_name_prefix="post"))
            idle: deque[Poster] = deque(posters)
            stack.callback(self.stop.set)  # again: what was entered last is left first
            pending: deque[Future[PartitionReport]] = deque()
            waiting = deque(keys)
            failed: list[PartitionReport] = []
            while waiting or pending:
                while waiting and len(pending) <= max(len(posters), 1):
                    key = waiting.popleft()
                    frames = prepared.pop(key, None) or preparing.submit(self._prepare, key)
                    pending.append(posting.submit(self._finish, key, frames, idle))
                report = pending.popleft().result()
                if report.error is not None:
                    failed.append(report)
                    self._note(report)
                yield report
            self._note_outcome(failed)

    def _posters(self, stack: ExitStack, connection: Connection) -> list[Poster]:
        opened = prepare_ledger(self.work.definition, self.work.places, self.run_id)
        if opened:
            self.log(f"{opened:,} opening entries posted")
        baseline = balances.trial_balance(connection) if self.baseline is None else self.baseline
        # Inside the database, partitions take turns at posting in any case; rows of the next one are taken meanwhile.
        in_turn = self._order_matters(connection) and not is_in_database(self.work.definition)
        workers = 1 if in_turn else self.config.parallel_workers
        post_with = (
            partial(InDatabasePoster, await_turn=self._turns.wait)
            if is_in_database(self.work.definition)
            else Poster
        )
        posters = [
            post_with(self.work, self.config, self.run_id, self.stop, self.log, baseline)
            for _ in range(workers)
        ]
        for poster in posters:
            stack.callback(poster.close)
        return posters

    def _order_matters(self, connection: Connection) -> bool:
        """Whether a partition's outcome depends on what earlier ones did to accounts, not only on their references.

        Under balance constraints it does (what one pays in, the next can pay out), and where entries open accounts (the
        first one decides the currency).
        """
        return self.work.definition.unknown_accounts == "create" or balance_constraints_in_force(connection)

    def _prepare(self, key: str) -> tuple[PartitionFrames, Exception | None]:
        """In the preparing thread: everything up to validated, or up to the stage that fails, and its failure."""
        frames = PartitionFrames(self.work, key, self.selected, self.config, self.log)
        try:
            if self.stop.is_set():
                raise RunStoppedError(f"partition {key} was not tried: the run had been stopped")
            if not self._is_done(key):
                self._make(frames)
        except Exception as error:  # the partition failed, whatever it was; the others go on
            return frames, error
        finally:
            frames.release()
        return frames, None

    def _make(self, frames: PartitionFrames) -> None:
        if "posted" in self.selected and is_in_database(self.work.definition):
            # Whoever posts takes the rows, over its own connection; which references they share nobody knows before.
            self._turns.enter(frames.key, _ANY_REFERENCE)
        elif "posted" in self.selected:
            self._turns.enter(frames.key, frames.validated().column("reference_id"))
        elif "validated" in self.selected:
            frames.validated()
        elif "transformed" in self.selected:
            frames.transformed()
        else:
            frames.extracted()

    def _is_done(self, key: str) -> bool:
        """Whether nothing is left to do: every stage is asked for and the partition was posted in full before."""
        return len(self.selected) == 4 and self.work.registration.partition(key).posted

    def _finish(
        self, key: str, prepared: Future[tuple[PartitionFrames, Exception | None]], idle: deque[Poster]
    ) -> PartitionReport:
        """In a posting thread: waits for the frames and posts them. Failures become part of the report."""
        frames, failure = prepared.result()
        if failure is not None:
            return self._failure(key, tuple(frames.reports), failure)
        if self._is_done(key):
            return PartitionReport(key, (), already_posted=True)
        try:
            if "posted" in self.selected:
                if not is_in_database(self.work.definition):
                    self._turns.wait(key)
                poster = idle.popleft()
                try:
                    frames.reports.append(poster.post(frames))
                finally:
                    idle.append(poster)
            return PartitionReport(key, tuple(frames.reports))
        except Exception as error:  # as above
            return self._failure(key, tuple(frames.reports), error)
        finally:
            self._turns.leave(key)

    def _failure(self, key: str, stages: tuple[StageReport, ...], error: Exception) -> PartitionReport:
        if isinstance(error, TransientError):
            # It was retried already: the ledger is away, and every other partition would wait for it in vain.
            self.stop.set()
        return PartitionReport(key, stages, error=error)

    def _note(self, report: PartitionReport) -> None:
        """Keeps why a partition failed where `status` shows it. When the ledger is away there is nowhere to keep it."""
        if report.error is None or isinstance(report.error, (TransientError, RunStoppedError)):
            return
        partition = self.work.registration.partition(report.key)
        with self.work.connect() as connection:
            registrations.record_failure(connection, partition.id, describe(report.error))

    def _note_outcome(self, failed: Sequence[PartitionReport]) -> None:
        """Closes the checkpoint of a run that failed. At its end: every batch of a later partition opens it again."""
        noted = [
            report for report in failed if not isinstance(report.error, (TransientError, RunStoppedError))
        ]
        if not noted or self.stop.is_set():
            return
        first = noted[0]
        assert first.error is not None
        more = f" (and {len(noted) - 1} more partitions failed)" if len(noted) > 1 else ""
        with self.work.connect() as connection:
            checkpoints.finish(
                connection,
                self.work.definition.id,
                self.work.registration.source_type,
                error=f"partition {first.key}: {describe(first.error)}{more}",
            )


def describe(error: Exception) -> str:
    """A failure in one sentence; an unexpected one with its type, since its text alone may say nothing."""
    return str(error) if isinstance(error, BackfillError) else f"unexpected {type(error).__name__}: {error}"
