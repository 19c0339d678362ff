"""Posting repaired rows: rejects that were sent again, one transaction per batch.

Belongs here: the order of steps inside a replay's transaction, and that its counts are those of the rejects it takes.
Does not: how rejects stand, and the rows that a replay writes (`replays.py`), batches of a source (`posting.py`).
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import pyarrow as pa

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import batches, checkpoints, replays
from backfill_pipeline.ledger.batches import BatchPlan, BatchRecord
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.posting import PostingPolicy, as_current, post_entries
from backfill_pipeline.ledger.reversed_references import await_rollbacks
from backfill_pipeline.ledger.staging import REFUSED_SCHEMA, SortedOut


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
        batches.lock(connection, f"partition {plan.partition_id}")
        if batches.replay_is_recorded(connection, plan):
            return
        batch_id = batches.new_batch(connection, plan.origin)
        path, told = "staging", SortedOut(0, 0, 0, 0, REFUSED_SCHEMA.empty_table())
        if entries.num_rows:
            # Duplicates are told as well: each row has an outcome of its own.
            await_rollbacks(connection)
            current, telling = as_current(connection, entries, replace(policy, skip_duplicates=False))
            path, told = post_entries(connection, current, batch_id, telling, expect_trouble=False)
        attempts = replays.with_outcomes(attempts, told.refused, skip_duplicates=policy.skip_duplicates)
        rows = attempts.column("source_row").to_pylist()
        taken_rejected, taken_conflicts = replays.rows_taken(connection, plan.partition_id, rows)
        counts = replays.outcome_counts(attempts)
        if taken_rejected + taken_conflicts != counts.read or told.posted != counts.posted:
            raise LedgerError(
                f"a replay of partition {plan.partition_key} of {plan.source_id} does not add up: {counts.read} rows"
                f" came, {taken_rejected + taken_conflicts} of them are open rejects; export the rejects anew"
            )
        batches.record(
            connection,
            BatchRecord(
                id=batch_id,
                partition_id=plan.partition_id,
                source_id=plan.source_id,
                kind="replay",
                first_row=plan.first_row,
                last_row=plan.last_row,
                **asdict(counts),
                taken_rejected=taken_rejected,
                taken_conflicts=taken_conflicts,
                run_id=plan.run_id,
                path=path,
                seconds=time.monotonic() - started,
                origin=plan.origin,
            ),
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
