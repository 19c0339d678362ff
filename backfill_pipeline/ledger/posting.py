"""Posting: moves validated entries into the ledger, one transaction per batch.

Belongs here: the order of steps inside a batch's transaction.
Does not: telling the rows of a refused batch apart (`staging`), reading or validating entries, retrying (the caller's
policy), deciding what a partition is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from typing import Final

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import LedgerError, TransientLedgerError
from backfill_pipeline.ledger import checkpoints, rejects, replays, staging, taken_rows
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors
from backfill_pipeline.ledger.entries import COPY_SQL
from backfill_pipeline.ledger.parts import Parts, paired_otherwise
from backfill_pipeline.ledger.reversed_references import await_rollbacks, current_references
from backfill_pipeline.ledger.sampling import Sample, take_sample
from backfill_pipeline.ledger.staging import REFUSED_SCHEMA, SortedOut
from backfill_pipeline.ledger.taken_rows import IN_DATABASE_PATH, TakenRows, put_entries

LOCAL_ORIGIN: Final = "LOCAL"
"""Of entries that were posted here first."""

OPENING_ORIGIN: Final = "OPENING"
"""Of opening balances, of which no bank is told."""

ROLLBACK_ORIGIN: Final = "ROLLBACK"
"""Of entries that reverse a bank's own: it is told what that means by the rollback itself."""

# What a batch can meet that its rows, told apart, may still get around.
ROW_PROBLEMS = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.CheckViolation,
)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Identity of a batch. Rows are numbered in the source; a batch is recorded under its partition and first row.

    Attributes:
        origin: the bank whose own entries these are; by it the bank is told that they are posted, and never sent them.
    """

    source_id: str
    source_type: str
    partition_id: int
    partition_key: str
    first_row: int
    last_row: int
    run_id: str
    origin: str = LOCAL_ORIGIN


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


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of one batch. `read` always equals the sum of the next four."""

    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    path: str
    seconds: float
    already_recorded: bool = False

    def __post_init__(self) -> None:
        if self.read != self.posted + self.duplicates + self.conflicts + self.rejected:
            raise AssertionError(f"a batch does not add up: {self}")


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
    """Posts one batch exactly once: recorded already? → COPY → triggers → batch, rejects, checkpoint → commit.

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
        _lock(connection, f"partition {plan.partition_id}")
        if recorded := find_batch(connection, plan):
            return recorded
        _post_as(connection, plan.origin)
        batch_id = _next_batch_id(connection)
        await_rollbacks(connection)
        current, current_policy = entries, policy
        if isinstance(entries, TakenRows):
            taken_rows.refuse_reversed(connection, entries)
        else:
            current, current_policy = as_current(connection, entries, policy)
        path, told = _post_entries(
            connection, current, batch_id, current_policy, expect_trouble=expect_trouble
        )
        last_id, last_time = _last_of(connection, entries)
        outcome = outcome_of(entries.num_rows, told, policy, path, time.monotonic() - started)
        _record_batch(connection, plan, batch_id, outcome)
        if told.refused.num_rows:
            rejects.insert(connection, plan.partition_id, batch_id, describe_rejects(told.refused))
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
    return replace(outcome, seconds=time.monotonic() - started)


def find_batch(connection: Connection, plan: BatchPlan) -> BatchOutcome | None:
    """The outcome of a batch that is recorded already, or None.

    Raises:
        LedgerError: rows of the batch are recorded, but as part of a batch that was cut in another way.
    """
    row = connection.execute(
        "SELECT first_row, last_row, read, posted, duplicates, conflicts, rejected, path, seconds FROM backfill_batches"
        " WHERE partition_id = %s AND kind = 'entries' AND first_row <= %s AND last_row >= %s"
        " ORDER BY first_row LIMIT 1",
        [plan.partition_id, plan.last_row, plan.first_row],
    ).fetchone()
    if row is None:
        return None
    first_row, last_row, read, posted, duplicates, conflicts, rejected, path, seconds = row
    if (first_row, last_row) != (plan.first_row, plan.last_row):
        raise LedgerError(
            f"rows {plan.first_row} to {plan.last_row} of partition {plan.partition_key} of {plan.source_id} overlap"
            f" rows {first_row} to {last_row}, which another run posted meanwhile: run it again, it goes on with the"
            " rows that are not posted"
        )
    return BatchOutcome(
        read, posted, duplicates, conflicts, rejected, path, float(seconds), already_recorded=True
    )


def post_replay(
    connection: Connection,
    plan: BatchPlan,
    attempts: pa.Table,
    entries: pa.Table,
    policy: PostingPolicy,
    replayed_by: str,
) -> None:
    """Posts repaired rows of a partition exactly once: like `post_batch`, with what was tried instead of reject rows.

    Args:
        connection: to the ledger, autocommit, not in a transaction.
        plan: identity of the batch: a replay is recorded under its run and first row.
        attempts: `replays.ATTEMPT_SCHEMA`, in source order: open rejects of the partition. Rows that are no entries
            have their outcome already.
        entries: VALIDATED_SCHEMA, in source order: the other rows.
        policy: what to do with rows that cannot simply be copied.
        replayed_by: who repaired them.

    Raises:
        TransientLedgerError: as `post_batch`; the next call finds out whether the batch is recorded.
        LedgerError: the ledger refuses the batch as a whole, or a row was settled meanwhile.
    """
    started = time.monotonic()
    with ledger_errors("replay rejects in"), connection.transaction():
        _lock(connection, f"partition {plan.partition_id}")
        if _replay_is_recorded(connection, plan):
            return
        _post_as(connection, plan.origin)
        batch_id = _next_batch_id(connection)
        path, told = "staging", SortedOut(0, 0, 0, 0, REFUSED_SCHEMA.empty_table())
        if entries.num_rows:
            # Duplicates are told as well: each row has an outcome of its own.
            await_rollbacks(connection)
            current, telling = as_current(connection, entries, replace(policy, skip_duplicates=False))
            path, told = _post_entries(connection, current, batch_id, telling, expect_trouble=False)
        attempts = replays.with_outcomes(attempts, told.refused, skip_duplicates=policy.skip_duplicates)
        rows = attempts.column("source_row").to_pylist()
        taken_rejected, taken_conflicts = replays.rows_taken(connection, plan.partition_id, rows)
        counts = replays.outcome_counts(attempts)
        if taken_rejected + taken_conflicts != counts.read or told.posted != counts.posted:
            raise LedgerError(
                f"a replay of partition {plan.partition_key} of {plan.source_id} does not add up: {counts.read} rows"
                f" came, {taken_rejected + taken_conflicts} of them are open rejects; export the rejects anew"
            )
        connection.execute(
            "INSERT INTO backfill_batches (id, partition_id, source_id, kind, first_row, last_row, read, posted,"
            " duplicates, conflicts, rejected, filtered, taken_rejected, taken_conflicts, run_id, path, started_at,"
            " seconds, origin) VALUES (%s, %s, %s, 'replay', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now(),"
            " %s, %s)",
            [
                batch_id,
                plan.partition_id,
                plan.source_id,
                plan.first_row,
                plan.last_row,
                *astuple(counts),
                taken_rejected,
                taken_conflicts,
                plan.run_id,
                path,
                round(time.monotonic() - started, 6),
                plan.origin,
            ],
        )
        replays.record(connection, plan.partition_id, batch_id, attempts, replayed_by)
        if counts.filtered:
            replays.count_filtered_reasons(connection, plan.partition_id, batch_id)
        checkpoints.correct(
            connection,
            plan.source_id,
            plan.source_type,
            successful=counts.posted + counts.duplicates,
            failed=counts.conflicts + counts.rejected - counts.read,
        )


def _replay_is_recorded(connection: Connection, plan: BatchPlan) -> bool:
    row = connection.execute(
        "SELECT 1 FROM backfill_batches WHERE partition_id = %s AND kind = 'replay' AND run_id = %s AND first_row = %s",
        [plan.partition_id, plan.run_id, plan.first_row],
    ).fetchone()
    return row is not None


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
        _lock(connection, f"opening {source_id}")
        _post_as(connection, OPENING_ORIGIN)
        batch_id = _next_batch_id(connection)
        await_rollbacks(connection)
        current = current_references(connection, entries)
        told = _sort_out(connection, current, batch_id, PostingPolicy(), None)
        staging.refuse_unless_duplicates(told, f"opening balances of source {source_id}")
        posted = told.posted
        if posted:
            connection.execute(
                "INSERT INTO backfill_batches (id, partition_id, source_id, kind, first_row, last_row, read, posted,"
                " duplicates, conflicts, rejected, run_id, path, started_at, seconds, origin) VALUES"
                " (%s, NULL, %s, 'opening', 1, %s, %s, %s, %s, 0, 0, %s, 'staging', now(), %s, %s)",
                [
                    batch_id,
                    source_id,
                    pc.max(entries.column("source_row")).as_py(),
                    entries.num_rows,
                    posted,
                    told.duplicates,
                    run_id,
                    round(time.monotonic() - started, 6),
                    OPENING_ORIGIN,
                ],
            )
    return posted


def _last_of(connection: Connection, entries: pa.Table | TakenRows) -> tuple[str, datetime]:
    """The last reference of a batch, and its latest event time."""
    if isinstance(entries, TakenRows):
        return taken_rows.last_of(connection, entries)
    return entries.column("reference_id")[-1].as_py(), pc.max(entries.column("timestamp_utc")).as_py()


def _post_entries(
    connection: Connection,
    entries: pa.Table | TakenRows,
    batch_id: int,
    policy: PostingPolicy,
    *,
    expect_trouble: bool,
) -> tuple[str, SortedOut]:
    """Posts entries by COPY, or through staging when something stands in the way; which of the two, and the outcome."""
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


def _lock(connection: Connection, what: str) -> None:
    """Waits until no other transaction works on the same thing, and keeps others waiting until this one ends."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [ADVISORY_LOCK_SPACE, what])


def _post_as(connection: Connection, origin: str) -> None:
    """Tells the database whose entries this transaction posts."""
    connection.execute("SELECT set_config('backfill.origin', %s, true)", [origin])


def _next_batch_id(connection: Connection) -> int:
    row = connection.execute("SELECT nextval(pg_get_serial_sequence('backfill_batches', 'id'))").fetchone()
    assert row is not None
    return int(row[0])


def outcome_of(read: int, told: SortedOut, policy: PostingPolicy, path: str, seconds: float) -> BatchOutcome:
    """What became of `read` rows that were told apart, by the policy for duplicates."""
    duplicates, rejected = told.duplicates, told.rejected
    if not policy.skip_duplicates:
        duplicates, rejected = 0, rejected + duplicates
    return BatchOutcome(read, told.posted, duplicates, told.conflicts, rejected, path, seconds)


def _record_batch(connection: Connection, plan: BatchPlan, batch_id: int, outcome: BatchOutcome) -> None:
    connection.execute(
        "INSERT INTO backfill_batches (id, partition_id, source_id, kind, first_row, last_row, read, posted,"
        " duplicates, conflicts, rejected, run_id, path, started_at, seconds, origin)"
        " VALUES (%s, %s, %s, 'entries', %s, %s, %s, %s, %s, %s, %s, %s, %s, now(), %s, %s)",
        [
            batch_id,
            plan.partition_id,
            plan.source_id,
            plan.first_row,
            plan.last_row,
            outcome.read,
            outcome.posted,
            outcome.duplicates,
            outcome.conflicts,
            outcome.rejected,
            plan.run_id,
            outcome.path,
            round(outcome.seconds, 6),
            plan.origin,
        ],
    )


def posted_ranges(connection: Connection, partition_id: int) -> list[tuple[int, int]]:
    """First and last source row of every recorded batch of the partition, in order; replays cover no rows of their own.

    Waits for a batch that is being committed: a killed run's last one may still be under way on the server, and whoever
    cuts the rest anew must not cut it up once more.
    """
    with ledger_errors("read progress from"), connection.transaction():
        _lock(connection, f"partition {partition_id}")
        rows = connection.execute(
            "SELECT first_row, last_row FROM backfill_batches WHERE partition_id = %s AND kind = 'entries'"
            " ORDER BY first_row",
            [partition_id],
        ).fetchall()
    return [(first_row, last_row) for first_row, last_row in rows]
