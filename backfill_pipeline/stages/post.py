"""The posted stage: the valid entries of a partition into the ledger, batch by batch.

Belongs here: resuming with the rows that no recorded batch covers, retrying transient errors, checks along the way.
Does not: cutting batches (`gaps.py`), what happens inside one (`ledger/posting.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import BackfillError, LedgerError, TransientLedgerError
from backfill_pipeline.ledger import accounts, balances, posting, registrations, rejects
from backfill_pipeline.ledger.batches import BatchOutcome, BatchPlan, posted_ranges
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.figures import DayVolume
from backfill_pipeline.ledger.parts import Parts, others_posted
from backfill_pipeline.ledger.posting import PostingPolicy, RejectWriter
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.schemas.extracted import to_arrow, to_pandas
from backfill_pipeline.schemas.frames import FAILURES_SCHEMA, REJECTS_SCHEMA
from backfill_pipeline.schemas.rejects import RejectCode, build_rejects
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.gaps import RowRange, batches, uncovered
from backfill_pipeline.stages.prepare import PartitionFrames, StageReport, refuse_too_many_rejects
from backfill_pipeline.stages.reject_file import refresh_reject_file
from backfill_pipeline.stages.retry import retrying
from backfill_pipeline.stages.transactions import LEFT_OVER_ROWS, parts_of
from backfill_pipeline.stages.work import Log, Places, SourceWork
from backfill_pipeline.wording import counted

T = TypeVar("T")

_OF_THE_LEDGER = pa.array([RejectCode.BALANCE_CONSTRAINT.value, RejectCode.TRANSACTION_INCOMPLETE.value])
"""Rejects of the stage that speak of what else is in the ledger."""


class RunStoppedError(BackfillError):
    """The run was asked to stop; what is committed stays, the rest is for the next run."""


@dataclass(slots=True)
class Poster:
    """Posts partitions of one source over one connection, which is renewed after a transient error.

    Attributes:
        baseline: the trial balance when the run began; posting must not change it.
    """

    work: SourceWork
    config: BackfillConfig
    run_id: str
    stop: threading.Event
    log: Log
    baseline: dict[str, Decimal]
    _connection: Connection | None = None
    _batches: int = 0
    _others: bool | None = None  # as the ledger was when it was asked
    _trouble: bool = False  # the last batch held rows that could not be posted

    def post(self, frames: PartitionFrames) -> StageReport:
        """Posts what is not posted yet of a partition, then marks it posted when everything adds up.

        Raises:
            TransientLedgerError: still failing after all retries.
            TooManyRejectsError: too many rows name accounts that do not exist; nothing was posted.
            LedgerError: the ledger refuses a batch, or the counts do not add up.
            RunStoppedError: between two batches.
        """
        started = time.monotonic()
        partition = self.work.registration.partition(frames.key)
        validated = frames.validated()
        posted = self._posted_ranges(partition.id)
        remaining = uncovered(validated, posted)
        rejected_early = self._rejected_early(frames)
        unknown: list[str] = []
        if remaining.num_rows and not posted:
            unknown = self._meet_unknown_accounts(frames, remaining, rejected_early)
        outcomes: list[BatchOutcome] = []
        together = self._together(frames, remaining)
        for start, stop in batches(remaining, posted, self.config.batch_size, together):
            if self.stop.is_set():
                raise RunStoppedError(
                    f"stopped before row {remaining.column('source_row')[start].as_py()} of partition {frames.key}"
                )
            batch = remaining.slice(start, stop - start)
            rejected = rejected_early + sum(outcome.rejected for outcome in outcomes)
            outcomes.append(
                self._post_batch(
                    frames,
                    partition.id,
                    batch,
                    together=None if together is None else together.slice(start, stop),
                    rejected_before=rejected,
                    partly_posted=bool(outcomes or posted),
                    expect_trouble=self._trouble or _names_any(batch, unknown),
                )
            )
            # Also over the end of a partition: a source that repeats entries, or bad rows, goes on doing so.
            self._trouble = outcomes[-1].path == "staging" and outcomes[-1].posted < outcomes[-1].read
            self._check_along_the_way(frames.key)
        self._complete(frames.key, refused=any(outcome.conflicts or outcome.rejected for outcome in outcomes))
        days = next((report.days for report in frames.reports if report.stage == "validated"), None)
        return _report(validated, remaining, outcomes, days, time.monotonic() - started)

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post_batch(
        self,
        frames: PartitionFrames,
        partition_id: int,
        batch: pa.Table,
        *,
        together: Parts | None,
        rejected_before: int,
        partly_posted: bool,
        expect_trouble: bool,
    ) -> BatchOutcome:
        rows = batch.column("source_row")
        plan = BatchPlan(
            source_id=self.work.definition.id,
            source_type=self.work.registration.source_type,
            partition_id=partition_id,
            partition_key=frames.key,
            first_row=rows[0].as_py(),
            last_row=rows[-1].as_py(),
            run_id=self.run_id,
            origin=self.work.origin,
        )
        policy = PostingPolicy(
            skip_duplicates=self.config.skip_duplicates,
            create_unknown_accounts=self.work.definition.unknown_accounts == "create",
            together=together,
        )

        def describe(refused: pa.Table) -> pa.Table:
            # Inside the batch's transaction: raising takes the whole batch back.
            self._refuse_too_many(frames, rejected_before, refused, partly_posted=partly_posted)
            return _describe_rejects(self.work, frames, refused)

        return self._send_batch(plan, batch, policy, describe, expect_trouble=expect_trouble)

    def _together(self, frames: PartitionFrames, entries: pa.Table) -> Parts | None:
        """The transactions of entries; None where rows are entries by themselves."""
        section = self.work.definition.transactions
        if section is None or not entries.num_rows:
            return None
        left_over = LEFT_OVER_ROWS.empty_table()
        if section.references == "row" and self._others_posted():
            left_over = frames.left_over()
        return parts_of(entries, left_over, frames.transactions, self.work.registration.id)

    # --- what is asked of the ledger, each by itself: a plan rehearses these and nothing else (`plan_posting.py`) ---

    def _posted_ranges(self, partition_id: int) -> list[RowRange]:
        return self._retrying(lambda connection: posted_ranges(connection, partition_id))

    def _rejected_early(self, frames: PartitionFrames) -> int:
        """Rows that were rejected before posting; not those that were filtered."""
        partition_id = self.work.registration.partition(frames.key).id
        return self._retrying(lambda connection: rejects.count_early(connection, partition_id))

    def _unknown_accounts(self, named: list[str]) -> list[str]:
        return self._retrying(lambda connection: accounts.unknown_accounts(connection, named))

    def _others_posted(self) -> bool:
        """Whether the ledger has entries that rows of this source may have been before."""
        if self._others is None:
            registration = self.work.registration.id
            self._others = self._retrying(lambda connection: others_posted(connection, registration))
        return self._others

    def _send_batch(
        self,
        plan: BatchPlan,
        batch: pa.Table,
        policy: PostingPolicy,
        describe: RejectWriter,
        *,
        expect_trouble: bool,
    ) -> BatchOutcome:
        return self._retrying(
            lambda connection: posting.post_batch(
                connection, plan, batch, policy, describe, expect_trouble=expect_trouble
            )
        )

    def _complete(self, key: str, *, refused: bool) -> None:
        registration = self.work.registration
        partition_id = registration.partition(key).id
        self._retrying(
            lambda connection: registrations.complete_partition(connection, registration, partition_id)
        )
        if refused:
            self._retrying(lambda connection: refresh_reject_file(connection, self.work, key))

    def _retrying(self, action: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            if self._connection is None:
                self._connection = self.work.connect()
            try:
                return action(self._connection)
            except TransientLedgerError:
                # The connection may be lost or in an unknown state: the next try starts with a new one.
                self.close()
                raise

        return retrying(self.config, attempt, self.log)

    def _meet_unknown_accounts(
        self, frames: PartitionFrames, entries: pa.Table, rejected_early: int
    ) -> list[str]:
        """Before the first batch: a wrong account map shows as thousands of unknown accounts, and posts nothing.

        Returns:
            The accounts that the entries name and the ledger lacks, when there are few enough to go on.
        """
        if self.work.definition.unknown_accounts == "create":
            return []
        debits, credits = entries.column("debit_account_id"), entries.column("credit_account_id")
        named = pc.unique(pa.chunked_array([*debits.chunks, *credits.chunks], type=pa.string())).to_pylist()
        unknown = self._unknown_accounts(named)
        if not unknown:
            return []
        ids = pa.array(unknown, pa.string())
        count = pc.sum(pc.or_(pc.is_in(debits, ids), pc.is_in(credits, ids))).as_py()
        self._tell_unknown(frames.key, unknown, count, rejected_early)
        return unknown

    def _tell_unknown(self, key: str, unknown: Sequence[str], rows: int, rejected_early: int) -> None:
        """Says that `rows` rows of a partition name unknown accounts, and fails it when they are too many."""
        self.log(
            f"partition {key}: {counted(rows, 'row')} with {counted(len(unknown), 'unknown account')},"
            f" the first is {unknown[0]}"
        )
        refuse_too_many_rejects(
            self.work,
            key,
            rejected_early + rows,
            note=f"{rows:,} of them name an unknown account such as {unknown[0]}",
        )

    def _refuse_too_many(
        self,
        frames: PartitionFrames,
        rejected_before: int,
        refused: pa.Table,
        *,
        partly_posted: bool,
    ) -> None:
        """What only the ledger can tell, such as accounts of another currency, counts as much as what validation told.

        Conflicts, other entries of their transactions, and balance constraints do not count: they speak of what else is
        in the ledger, not of a bad source.
        """
        rejected = refused.filter(
            pc.and_not(
                pc.equal(refused.column("verdict"), "rejected"),
                pc.is_in(refused.column("code"), value_set=_OF_THE_LEDGER),
            )
        )
        if rejected.num_rows:
            first = rejected.slice(0, 1).to_pylist()[0]
            note = f"row {first['source_row']} {first['reason']}"
            count = rejected_before + rejected.num_rows
            refuse_too_many_rejects(self.work, frames.key, count, note=note, partly_posted=partly_posted)

    def _check_along_the_way(self, key: str) -> None:
        self._batches += 1
        if self._batches % self.config.checkpoint_interval:
            return
        if self.config.validate_balances:
            now = self._retrying(balances.trial_balance)
            moved = {
                c: d
                for c in {*now, *self.baseline}
                if (d := now.get(c, Decimal(0)) - self.baseline.get(c, Decimal(0)))
            }
            if moved:
                currency, difference = next(iter(sorted(moved.items())))
                raise LedgerError(
                    f"balances left their entries while partition {key} was posted: {currency} is off by {difference};"
                    " stop whatever changes balances directly, and run the reconciliation"
                )
        self.log(f"partition {key}: {counted(self._batches, 'batch', 'batches')} so far, balances agree")


def prepare_ledger(definition: SourceDefinition, places: Places, run_id: str) -> int:
    """Opens a source's accounts and posts its opening balances; returns how many opening entries were posted now."""
    book = read_accounts(definition)
    if book is None:
        return 0
    with places.connect(definition.id) as connection:
        accounts.open_accounts(
            connection,
            pa.concat_tables([book.equity_accounts, book.accounts.select(book.equity_accounts.column_names)]),
        )
        return posting.post_opening_entries(connection, definition.id, book.opening_entries, run_id)


def _names_any(entries: pa.Table, account_ids: list[str]) -> bool:
    """Whether any of the entries moves one of the accounts."""
    if not account_ids:
        return False
    ids = pa.array(account_ids, pa.string())
    return any(
        pc.any(pc.is_in(entries.column(side), ids)).as_py()
        for side in ("debit_account_id", "credit_account_id")
    )


def _describe_rejects(work: SourceWork, frames: PartitionFrames, refused: pa.Table) -> pa.Table:
    failures = pa.table(
        {
            "stage": pa.repeat("post", refused.num_rows),
            **{name: refused.column(name) for name in ("source_row", "code", "field", "reason")},
        },
        schema=FAILURES_SCHEMA,
    )
    positions = frames.positions(failures.column("source_row").combine_chunks())
    return to_arrow(build_rejects(to_pandas(failures), positions, work.reader), REJECTS_SCHEMA)


def _report(
    validated: pa.Table,
    remaining: pa.Table,
    outcomes: Sequence[BatchOutcome],
    days: tuple[DayVolume, ...] | None,
    seconds: float,
) -> StageReport:
    """What was posted of the entries of a partition, whose `days` are those that were posted if all of them were."""
    posted = sum(outcome.posted for outcome in outcomes)
    return StageReport(
        stage="posted",
        rows_in=validated.num_rows,
        rows_out=posted,
        seconds=seconds,
        details={
            "posted": posted,
            "posted_before": validated.num_rows - remaining.num_rows,
            "duplicates": sum(outcome.duplicates for outcome in outcomes),
            "conflicts": sum(outcome.conflicts for outcome in outcomes),
            "rejected": sum(outcome.rejected for outcome in outcomes),
            "entries_per_second": round(posted / seconds) if seconds > 0 else 0,
        },
        batches=tuple(outcomes),
        last_row=validated.column("source_row")[-1].as_py() if validated.num_rows else None,
        days=days if posted == validated.num_rows else None,
    )
