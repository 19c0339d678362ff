"""Metrics of sources: progress, performance and quality, as the strategy asks for them, and rollbacks.

Belongs here: their names and help, and which figure of a snapshot each shows.
Does not: banks and the ledger as a whole (`ledger_metrics.py`).

What is true of a source now is a gauge: a rollback takes rows away, and a new revision begins with none. What was done
is a counter: it grows with every batch, over all revisions, and a rollback takes nothing from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from backfill_pipeline.ledger.monitoring import work
from backfill_pipeline.ledger.monitoring.snapshot import Snapshot
from backfill_pipeline.ledger.monitoring.sources import CHECKPOINT_STATUSES, PARTITION_STATES, VERDICTS
from backfill_pipeline.reporting.metrics.family import Classes, Family, Sample

_ROW_FIELDS: Final = {
    "posted": "posted",
    "duplicate": "duplicates",
    "conflict": "conflicts",
    "rejected": "rejected",
    "filtered": "filtered",
}
assert tuple(_ROW_FIELDS) == work.OUTCOMES


def _summed(snapshot: Snapshot, field: str) -> Iterator[Sample]:
    """A figure of all partitions of each source."""
    sums: Counter[str] = Counter()
    for one in snapshot.source_rows:
        sums[one.source] += getattr(one, field)
    yield from (((source,), value) for source, value in sums.items())


def _rows(snapshot: Snapshot) -> Iterator[Sample]:
    for outcome, field in _ROW_FIELDS.items():
        for (source,), value in _summed(snapshot, field):
            yield (source, outcome), value


def _partitions(snapshot: Snapshot) -> Iterator[Sample]:
    found = {(one.source, one.state): one.partitions for one in snapshot.source_rows}
    for source in dict.fromkeys(one.source for one in snapshot.source_rows):
        for state in PARTITION_STATES:
            yield (source, state), found.get((source, state), 0)


def _checkpoints(snapshot: Snapshot) -> Iterator[Sample]:
    for one in snapshot.source_progress:
        for status, count in zip(CHECKPOINT_STATUSES, one.statuses, strict=True):
            yield (one.source, status), count


def _reconciliations(snapshot: Snapshot) -> Iterator[Sample]:
    for one in snapshot.source_progress:
        for verdict, count in zip(VERDICTS, one.verdicts, strict=True):
            yield (one.source, verdict), count


def _batch_work(snapshot: Snapshot) -> Iterator[work.BatchWork]:
    """All batches; of a source that has none yet, that there are none: what a counter begins with is in no rate."""
    yield from snapshot.batch_work
    begun = {one.source for one in snapshot.batch_work if one.kind == "entries"}
    for progress in snapshot.source_progress:
        if progress.source not in begun:
            nothing, none_within = (0,) * len(work.OUTCOMES), (0,) * len(work.BATCH_BOUNDS_S)
            yield work.BatchWork(progress.source, "entries", 0, nothing, 0.0, none_within)


def _batch_rows(snapshot: Snapshot) -> Iterator[Sample]:
    for one in _batch_work(snapshot):
        for outcome, count in zip(work.OUTCOMES, one.rows, strict=True):
            yield (one.source, one.kind, outcome), count


SOURCE_METRICS: Final[tuple[Family, ...]] = (
    Family(
        "backfill_source_info",
        "gauge",
        ("source", "type"),
        "A source that was registered; a bank is one, with all of its days",
        lambda s: (((one.source, one.source_type), 1) for one in s.source_progress),
    ),
    Family(
        "backfill_source_revision",
        "gauge",
        ("source",),
        "The revision that all gauges of a source are about; of a bank, the highest of its days",
        lambda s: (((one.source,), one.revision) for one in s.source_progress),
    ),
    # --- progress ---------------------------------------------------------------------------------------------------
    Family(
        "backfill_expected_rows",
        "gauge",
        ("source",),
        "Rows of the source: the total to process",
        lambda s: _summed(s, "rows"),
        strategy=True,
    ),
    Family(
        "backfill_processed_rows",
        "gauge",
        ("source",),
        "Rows of which it is decided what becomes of them: the sum of backfill_rows over all outcomes",
        lambda s: _summed(s, "processed"),
        strategy=True,
    ),
    Family(
        "backfill_rows",
        "gauge",
        ("source", "outcome"),
        "Decided rows by outcome: posted, duplicate, conflict, rejected, filtered",
        _rows,
        strategy=True,
    ),
    Family(
        "backfill_partitions",
        "gauge",
        ("source", "state"),
        "Partitions by state: registered, validated, posting, posted, failed, rolled back",
        _partitions,
    ),
    Family(
        "backfill_checkpoints",
        "gauge",
        ("source", "status"),
        "Checkpoints by status: IN_PROGRESS, COMPLETED, FAILED, PAUSED; a source has one, a bank one for each day",
        _checkpoints,
    ),
    Family(
        "backfill_stalled_checkpoints",
        "gauge",
        ("source",),
        "Checkpoints in progress that did not move for more than an hour",
        lambda s: (((one.source,), one.stalled) for one in s.source_progress),
        strategy=True,
    ),
    Family(
        "backfill_last_checkpoint_timestamp_seconds",
        "gauge",
        ("source",),
        "When the source's checkpoint last moved",
        lambda s: (((one.source,), one.last_checkpoint_at.timestamp()) for one in s.source_progress),
        unit="seconds",
        strategy=True,
    ),
    Family(
        "backfill_writers",
        "gauge",
        ("source",),
        "Runs that write the source at this moment",
        lambda s: (((one.source,), one.writers) for one in s.source_progress),
    ),
    # --- performance ------------------------------------------------------------------------------------------------
    Family(
        "backfill_batch_rows",
        "counter",
        ("source", "kind", "outcome"),
        "Rows that batches worked on, ever, by kind of batch (entries, opening, replay, reversal) and outcome; its rate"
        " is the processing rate",
        _batch_rows,
        strategy=True,
    ),
    Family(
        "backfill_batch_duration_seconds",
        "histogram",
        ("source", "kind"),
        "Time of batches in the database, from the first row to the commit",
        lambda s: (
            ((one.source, one.kind), Classes(work.BATCH_BOUNDS_S, one.within, one.batches, one.seconds))
            for one in _batch_work(s)
        ),
        unit="seconds",
        strategy=True,
    ),
    Family(
        "backfill_checkpoint_duration_seconds",
        "histogram",
        ("source",),
        "Time of writing the checkpoint, inside the transaction of its batch; of batches whose checkpoint was timed",
        lambda s: (
            ((one.source,), Classes(work.CHECKPOINT_BOUNDS_S, one.within, one.checkpoints, one.seconds))
            for one in s.checkpoint_work
        ),
        unit="seconds",
        strategy=True,
    ),
    Family(
        "backfill_elapsed_seconds",
        "gauge",
        ("source",),
        "Time since the current revision was begun, until its last checkpoint when it is not in progress",
        lambda s: (((one.source,), one.elapsed_s) for one in s.source_progress),
        unit="seconds",
        strategy=True,
    ),
    Family(
        "backfill_last_run_rows",
        "gauge",
        ("source",),
        "Rows that the latest run read",
        lambda s: (((one.source,), one.rows) for one in s.last_runs),
    ),
    Family(
        "backfill_last_run_entries",
        "gauge",
        ("source",),
        "Entries that the latest run posted",
        lambda s: (((one.source,), one.entries) for one in s.last_runs),
    ),
    Family(
        "backfill_last_run_duration_seconds",
        "gauge",
        ("source",),
        "Time from the latest run's first batch to its last; with the one before, its entries per second",
        lambda s: (((one.source,), one.seconds) for one in s.last_runs),
        unit="seconds",
        strategy=True,
    ),
    Family(
        "backfill_last_run_end_timestamp_seconds",
        "gauge",
        ("source",),
        "When the latest run's last batch was committed",
        lambda s: (((one.source,), one.ended_at.timestamp()) for one in s.last_runs),
        unit="seconds",
    ),
    # --- quality ----------------------------------------------------------------------------------------------------
    Family(
        "backfill_unaccounted_rows",
        "gauge",
        ("source",),
        "Rows of posted partitions that read = posted + duplicates + conflicts + rejected + filtered does not account"
        " for, and rejects that are counted and not kept: anything but 0 is a loss",
        lambda s: _summed(s, "unaccounted"),
    ),
    Family(
        "backfill_rejects",
        "gauge",
        ("source", "stage", "code"),
        "Rows that are rejected now, conflicts among them; those that were repaired are not",
        lambda s: (((one.source, one.stage, one.code), one.rows) for one in s.open_rejects),
        strategy=True,
    ),
    Family(
        "backfill_reconciliations",
        "gauge",
        ("source", "verdict"),
        "Current revisions by the verdict of their latest reconciliation: match, break, not run; a source has one, a"
        " bank one for each day",
        _reconciliations,
        strategy=True,
    ),
    Family(
        "backfill_reconciliation_breaks",
        "gauge",
        ("source", "kind"),
        "What the latest reconciliation found to differ, by kind; balances are accounts and currencies whose balance is"
        " not what their legs say. No series: nothing",
        lambda s: (((one.source, one.kind), one.breaks) for one in s.reconciliation_breaks),
        strategy=True,
    ),
    Family(
        "backfill_last_reconciliation_timestamp_seconds",
        "gauge",
        ("source",),
        "When the source was last reconciled",
        lambda s: (
            ((one.source,), one.reconciled_at.timestamp())
            for one in s.source_progress
            if one.reconciled_at is not None
        ),
        unit="seconds",
    ),
    Family(
        "backfill_rollbacks",
        "counter",
        ("source", "mode"),
        "Rollbacks, ever, by mode: delete, reverse",
        lambda s: (((one.source, one.mode), one.rollbacks) for one in s.rolled_back),
    ),
    Family(
        "backfill_rolled_back_entries",
        "counter",
        ("source", "mode"),
        "Entries that rollbacks took back, ever",
        lambda s: (((one.source, one.mode), one.entries) for one in s.rolled_back),
    ),
)
