"""The stages of a run, rehearsed: the same code, with what it writes kept back.

Belongs here: what a rehearsed partition does instead of writing to the ledger or the home.
Does not: the stages (`prepare.py`, `post.py`), the tables it is rehearsed in (`ledger/rehearsal.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from backfill_pipeline.ledger.batches import BatchOutcome, BatchPlan
from backfill_pipeline.ledger.forecast import Recorded
from backfill_pipeline.ledger.posting import PostingPolicy, RejectWriter
from backfill_pipeline.ledger.rehearsal import Rehearsal
from backfill_pipeline.stages.gaps import RowRange
from backfill_pipeline.stages.plan_report import SAMPLES_PER_CODE, Counts, RejectSample
from backfill_pipeline.stages.post import Poster
from backfill_pipeline.stages.prepare import STAGES, PartitionFrames


@dataclass(slots=True)
class PlannedFrames(PartitionFrames):
    """The frames of a partition whose rejects are recorded here, and nowhere else.

    Attributes:
        early: REJECTS_SCHEMA, the rows that would not reach posting; None when preparing failed before.
    """

    early: pa.Table | None = None
    filtered: Mapping[str, int] = field(default_factory=dict)

    def _record(self, valid: pa.Table, rejected: pa.Table, filtered: Mapping[str, int]) -> None:
        self.early, self.filtered = rejected, dict(filtered)

    def remove_files(self) -> None:
        """Removes what the stages wrote into the scratch folder."""
        for stage in STAGES:
            self.work.intermediates.path(stage, self.key).unlink(missing_ok=True)


@dataclass(slots=True)
class Refusals:
    """Rows that would be rejected: counted, and the first of each code kept."""

    by_code: Counter[str] = field(default_factory=Counter)
    samples: list[RejectSample] = field(default_factory=list)

    def add(self, partition: str, rejects: pa.Table) -> None:
        """Takes rejects (REJECTS_SCHEMA) of a partition, in source order."""
        codes = rejects.column("code")
        for counted in codes.value_counts().to_pylist():
            code, count = counted["values"], counted["counts"]
            missing = SAMPLES_PER_CODE - self.by_code[code]
            self.by_code[code] += count
            if missing <= 0:
                continue
            first = rejects.filter(pa.compute.equal(codes, code)).slice(0, missing)
            self.samples += [
                RejectSample(
                    partition=partition,
                    row=one["source_row"],
                    line=one["source_line"],
                    **{name: one[name] for name in ("stage", "code", "field", "reason", "raw")},
                )
                for one in first.to_pylist()
            ]


@dataclass(slots=True)
class Rehearser(Poster):
    """Posts partitions into a rehearsal.

    Attributes:
        recorded: what earlier runs posted of the partition that is next.
        counts: of the batches of the partition that was last.
    """

    rehearsal: Rehearsal | None = None
    refusals: Refusals = field(default_factory=Refusals)
    recorded: Recorded = field(default_factory=Recorded)
    counts: Counts = field(default_factory=Counts)

    def begin(self, recorded: Recorded) -> None:
        """Another partition is next."""
        self.recorded, self.counts = recorded, Counts()

    def _posted_ranges(self, partition_id: int) -> list[RowRange]:
        return list(self.recorded.ranges)

    def _rejected_early(self, frames: PartitionFrames) -> int:
        assert isinstance(frames, PlannedFrames)
        return 0 if frames.early is None else frames.early.num_rows

    def _unknown_accounts(self, named: list[str]) -> list[str]:
        assert self.rehearsal is not None
        return self.rehearsal.unknown_accounts(named)

    def _others_posted(self) -> bool:
        if self._others is None:
            assert self.rehearsal is not None
            self._others = self.rehearsal.others_posted(self.work.registration.id)
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
        assert self.rehearsal is not None
        number = self.work.registration.partition(plan.partition_key).plan.number
        outcome, rejects = self.rehearsal.post_batch(
            number, batch, policy, describe, expect_trouble=expect_trouble
        )
        if rejects is not None:
            self.refusals.add(plan.partition_key, rejects)
        self.counts = Counts(
            self.counts.read + outcome.read,
            self.counts.posted + outcome.posted,
            self.counts.duplicates + outcome.duplicates,
            self.counts.conflicts + outcome.conflicts,
            self.counts.rejected + outcome.rejected,
        )
        return outcome

    def _complete(self, key: str, *, refused: bool) -> None:
        return

    def _check_along_the_way(self, key: str) -> None:
        return
