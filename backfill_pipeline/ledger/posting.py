"""Posting: moves validated entries into the ledger, one transaction per batch.

Belongs here: the order of steps inside a batch's transaction.
Does not: a batch's identity and record (`batches.py`), telling the rows of a refused batch apart (`staging.py`),
repaired rows (`replay_posting.py`), reading or validating entries, retrying (the caller's policy), deciding what a
partition is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import TransientLedgerError
from backfill_pipeline.ledger import batches, checkpoints, rejects, staging, taken_rows
from backfill_pipeline.ledger.batches import OPENING_ORIGIN, BatchOutcome, BatchPlan, BatchRecord
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.entries import COPY_SQL
from backfill_pipeline.ledger.parts import Parts, paired_otherwise
from backfill_pipeline.ledger.reversed_references import await_rollbacks, current_references
from backfill_pipeline.ledger.sampling import Sample, take_sample
from backfill_pipeline.ledger.staging import REFUSED_SCHEMA, SortedOut
from backfill_pipeline.ledger.taken_rows import IN_DATABASE_PATH, TakenRows, put_entries

# What a batch can meet that its rows, told apart, may still get around.
ROW_PROBLEMS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.CheckViolation,
)


@dataclass(frozen=True, slots=True)
class PostingPolicy:
    """How rows are treated that the fast path cannot post.

    Attributes:
        skip_duplicates: True counts a repeated entry as a duplicate, False as a reject.
        create_unknown_accounts: True opens an account that an entry names and the ledger lacks.
        together: what the entries of the batch are parts of. Where the ledger has one in another form, no part of it is
            posted. None: each entry is by itself.
    """

    skip_duplicates: bool = True
    create_unknown_accounts: bool = False
    together: Parts | None = None


# Given the rows that posting refused (REFUSED_SCHEMA), returns them as reject rows with raw text and position.
RejectWriter = Callable[[pa.Table], pa.Table]


def post_batch(
    connection: Connection,
    plan: BatchPlan,
    entries: pa.Table | TakenRows,
    policy: PostingPolicy,
    describe_rejects: RejectWriter,
    *,
    expect_trouble: bool = False,
) -> BatchOutcome:
    """Posts one batch exactly once: recorded already? → COPY → triggers → checkpoint, batch, rejects → commit.

    A batch that meets the ledger's entries goes through staging instead of COPY: a COPY that fails half-way has cost as
    much as one that succeeds, and leaves dead rows in the table and its indexes.

    Args:
        connection: to the ledger, autocommit, not in a transaction.
        plan: identity of the batch; one that is recorded already is not posted again.
        entries: VALIDATED_SCHEMA, in source order; or rows that this connection has taken, and which never come here.
        policy: what to do with rows that cannot simply be copied.
        describe_rejects: turns refused rows into reject rows (`rejects.REJECTS_SCHEMA`).
        expect_trouble: go through staging at once, as the batch before had to.

    Raises:
        TransientLedgerError: connection lost, deadlock, serialization failure. Nothing was posted, or everything was:
            the next call finds out from the batch table.
        LedgerError: the ledger refuses the batch as a whole.
    """
    started = time.monotonic()
    with ledger_errors("post a batch to"), connection.transaction():
        # A killed run's last commit may still be under way: wait for it, then look.
        batches.lock(connection, f"partition {plan.partition_id}")
        if recorded := batches.find_batch(connection, plan):
            return recorded
        batch_id = batches.new_batch(connection, plan.origin)
        await_rollbacks(connection)
        current, current_policy = entries, policy
        if isinstance(entries, TakenRows):
            taken_rows.refuse_reversed(connection, entries)
        else:
            current, current_policy = as_current(connection, entries, policy)
        path, told = post_entries(
            connection, current, batch_id, current_policy, expect_trouble=expect_trouble
        )
        last_id, last_time = _last_of(connection, entries)
        outcome = outcome_of(entries.num_rows, told, policy, path, time.monotonic() - started)
        # What the pipeline makes of refused rows, before anybody else has to wait for the checkpoint.
        rejected = describe_rejects(told.refused) if told.refused.num_rows else None
        checkpoint_since = time.monotonic()
        checkpoints.advance(
            connection,
            plan.source_id,
            plan.source_type,
            last_id=last_id,
            last_time=last_time,
            processed=outcome.read,
            successful=outcome.posted + outcome.duplicates,
            failed=outcome.conflicts + outcome.rejected,
            metadata={"partition": plan.partition_key, "batch_id": batch_id, "last_row": plan.last_row},
        )
        now = time.monotonic()
        outcome = replace(outcome, seconds=now - started, checkpoint_seconds=now - checkpoint_since)
        batches.record(
            connection,
            BatchRecord(
                id=batch_id,
                partition_id=plan.partition_id,
                source_id=plan.source_id,
                kind="entries",
                first_row=plan.first_row,
                last_row=plan.last_row,
                read=outcome.read,
                posted=outcome.posted,
                duplicates=outcome.duplicates,
                conflicts=outcome.conflicts,
                rejected=outcome.rejected,
                run_id=plan.run_id,
                path=path,
                seconds=outcome.seconds,
                origin=plan.origin,
                checkpoint_seconds=outcome.checkpoint_seconds,
            ),
        )
        if isinstance(entries, TakenRows) and path == IN_DATABASE_PATH:
            taken_rows.expect_entries(connection, entries, batch_id)
        if rejected is not None:
            rejects.insert(connection, plan.partition_id, batch_id, rejected)
    return replace(outcome, seconds=time.monotonic() - started)


def post_opening_entries(connection: Connection, source_id: str, entries: pa.Table, run_id: str) -> int:
    """Posts a source's opening balances, all or none; returns how many were posted (0 when they were there already).

    Args:
        connection: to the ledger, autocommit, not in a transaction.
        source_id: whose opening balances these are.
        entries: VALIDATED_SCHEMA; `source_row` is the row of the accounts file.
        run_id: kept with the batch.

    Raises:
        LedgerError: an account's opening balance is in the ledger already with another content, or cannot be posted.
    """
    if not entries.num_rows:
        return 0
    started = time.monotonic()
    with ledger_errors("post opening balances to"), connection.transaction():
        batches.lock(connection, f"opening {source_id}")
        batch_id = batches.new_batch(connection, OPENING_ORIGIN)
        await_rollbacks(connection)
        current = current_references(connection, entries)
        told = _sort_out(connection, current, batch_id, PostingPolicy(), None)
        staging.refuse_unless_duplicates(told, f"opening balances of source {source_id}")
        if told.posted:
            batches.record(
                connection,
                BatchRecord(
                    id=batch_id,
                    partition_id=None,
                    source_id=source_id,
                    kind="opening",
                    first_row=1,
                    last_row=pc.max(entries.column("source_row")).as_py(),
                    read=entries.num_rows,
                    posted=told.posted,
                    duplicates=told.duplicates,
                    conflicts=0,
                    rejected=0,
                    run_id=run_id,
                    path="staging",
                    seconds=time.monotonic() - started,
                    origin=OPENING_ORIGIN,
                ),
            )
    return told.posted


def _last_of(connection: Connection, entries: pa.Table | TakenRows) -> tuple[str, datetime]:
    """The last reference of a batch, and its latest event time."""
    if isinstance(entries, TakenRows):
        return taken_rows.last_of(connection, entries)
    return entries.column("reference_id")[-1].as_py(), pc.max(entries.column("timestamp_utc")).as_py()


def post_entries(
    connection: Connection,
    entries: pa.Table | TakenRows,
    batch_id: int,
    policy: PostingPolicy,
    *,
    expect_trouble: bool,
) -> tuple[str, SortedOut]:
    """Posts entries by COPY, or through staging when something stands in the way; which of the two, and the outcome.

    Args:
        connection: in the batch's transaction.
        entries: under the references that they have in the ledger now.
        batch_id: of the batch.
        policy: what to do with rows that cannot simply be copied.
        expect_trouble: go through staging at once.
    """
    sample = take_sample(connection, entries)
    if (
        expect_trouble
        or sample.found
        or paired_otherwise(connection, entries, policy.together)
        or not _copy(connection, entries, batch_id)
    ):
        return "staging", _sort_out(connection, entries, batch_id, policy, sample)
    path = IN_DATABASE_PATH if isinstance(entries, TakenRows) else "copy"
    return path, SortedOut(entries.num_rows, 0, 0, 0, REFUSED_SCHEMA.empty_table())


def as_current(
    connection: Connection, entries: pa.Table, policy: PostingPolicy
) -> tuple[pa.Table, PostingPolicy]:
    """Entries, and what is left over of their transactions, under the references that they have in the ledger now."""
    current, together = current_references(connection, entries), policy.together
    if together is not None and together.left_over.num_rows:
        left_over = current_references(connection, together.left_over)
        policy = replace(policy, together=replace(together, left_over=left_over))
    return current, policy


def _copy(connection: Connection, entries: pa.Table | TakenRows, batch_id: int) -> bool:
    """COPY straight into the ledger; False (and nothing posted) when a row of the batch stands in the way."""
    try:
        with connection.transaction():
            put_entries(connection, COPY_SQL, entries, batch_id)
    except ROW_PROBLEMS:
        return False
    return True


def _sort_out(
    connection: Connection,
    entries: pa.Table | TakenRows,
    batch_id: int,
    policy: PostingPolicy,
    sample: Sample | None,
) -> SortedOut:
    try:
        return staging.sort_out(
            connection,
            entries,
            batch_id,
            create_unknown_accounts=policy.create_unknown_accounts,
            tell_duplicates=not policy.skip_duplicates,
            together=policy.together,
            sample=sample,
        )
    except psycopg.errors.UniqueViolation as error:
        raise TransientLedgerError(
            "another session posted references of this batch at the same moment: they will be told apart anew"
        ) from error


def outcome_of(read: int, told: SortedOut, policy: PostingPolicy, path: str, seconds: float) -> BatchOutcome:
    """What became of `read` rows that were told apart, by the policy for duplicates."""
    duplicates, rejected = told.duplicates, told.rejected
    if not policy.skip_duplicates:
        duplicates, rejected = 0, rejected + duplicates
    return BatchOutcome(read, told.posted, duplicates, told.conflicts, rejected, path, seconds)
