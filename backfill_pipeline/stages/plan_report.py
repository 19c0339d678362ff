"""What a plan says.

Belongs here: the shapes of a plan, and what its numbers mean for the run that follows.
Does not: finding them out (`plan.py`), showing them (`cli/plan.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from backfill_pipeline.ledger.outlook import ConstraintOutlook, NewAccount, Total
from backfill_pipeline.wording import counted

SAMPLES_PER_CODE: Final = 2
"""Rejected rows that a plan shows of each code."""

PartitionState = Literal["open", "partly posted", "posted"]
Ending = Literal["clean", "failed", "rejects or refused"]

_EXIT_CODES: Final[dict[Ending, int]] = {"clean": 0, "failed": 1, "rejects or refused": 3}

# A run starts Python, Dagster and perhaps the server before it reads anything.
_START_S = (3.0, 8.0)
# Runs of one ledger differ by so much from one another; other sources have other columns.
_OTHER_RUNS = (0.75, 1.5)
# Of the plan's own time: a run also writes the ledger for good and reconciles. Measured: 1.7, on an idle machine and on
# a busy one, for entries and for duplicates.
_OWN_TIME = (1.2, 2.5)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a run would print. `read` equals the sum of the next five."""

    read: int = 0
    posted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    filtered: int = 0


@dataclass(frozen=True, slots=True)
class PlannedPartition:
    """One partition after the run.

    Attributes:
        rows: all that it holds.
        state: before the run. What was posted then counts as duplicates, as it does in a run.
        counts: of a partition that would fail, those of the batches before.
        error: why it would fail.
    """

    key: str
    rows: int
    state: PartitionState
    counts: Counts
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RejectSample:
    """A row that would be rejected."""

    partition: str
    row: int
    line: int
    stage: str
    code: str
    field: str | None
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a run would take, in seconds. An estimate: `based_on` says of what."""

    low_s: int
    high_s: int
    based_on: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run would do.

    Attributes:
        place: what is read.
        is_live: a run reads such a source anew, unless it is resumed.
        is_running: another run writes the source now; the plan is about what was open when it looked.
        revision: of the source that would be posted.
        is_registered: it is registered already, and at most grew since.
        changes: what changed since it was registered, in words.
        counts: of all partitions.
        rejects_by_code: with conflicts, most frequent first, as `status` would show them; also those of partitions that
            would fail.
        new_accounts: how many would be opened by what (accounts file, entries); `account_sample` has the first.
        opening_entries: that would be posted now.
        errors: why the run would fail as a whole.
        seconds: that the plan took.
    """

    source_id: str
    definition: str
    place: str
    is_live: bool
    is_running: bool
    is_new_ledger: bool
    revision: int
    is_registered: bool
    changes: Sequence[str]
    counts: Counts
    partitions: Sequence[PlannedPartition]
    rejects_by_code: Mapping[str, int]
    reject_samples: Sequence[RejectSample]
    filtered_by_reason: Mapping[str, int]
    totals: Sequence[Total]
    opening_entries: int
    opening_totals: Sequence[Total]
    new_accounts: Mapping[str, int]
    account_sample: Sequence[NewAccount]
    unknown_accounts: int
    unknown_sample: Sequence[str]
    constraints: ConstraintOutlook
    estimate: Estimate
    errors: Sequence[str]
    seconds: float

    @property
    def failed(self) -> list[PlannedPartition]:
        """Partitions that would not be posted."""
        return [one for one in self.partitions if one.error is not None]

    @property
    def ending(self) -> Ending:
        """How a run would end: a failure outweighs rejects. Reconciliation is not foreseen."""
        if self.errors or self.failed:
            return "failed"
        if self.counts.rejected or self.counts.conflicts or self.constraints.after == "refused":
            return "rejects or refused"
        return "clean"

    @property
    def exit_code(self) -> int:
        """That of the run (`cli/exit_codes.py`)."""
        return _EXIT_CODES[self.ending]

    @property
    def outcome(self) -> str:
        """The plan in one line."""
        counts = self.counts
        rows = sum(partition.rows for partition in self.partitions)
        refused = self.constraints.after == "refused" and self.ending != "failed"
        told = [
            some(counts.duplicates, "duplicate"),
            some(counts.conflicts, "conflict"),
            some(counts.rejected, "reject"),
            f"{counts.filtered:,} filtered" if counts.filtered else "",
            some(len(self.failed), "failed partition"),
            f"constraints refused by {some(self.constraints.offending, 'account')}" if refused else "",
        ]
        others = ", ".join(one for one in told if one)
        return (
            f"would post {counts.posted:,} of {counted(rows, 'row')}{f'; {others}' if others else ''}:"
            f" a run would exit {self.exit_code}"
        )


def some(count: int, what: str) -> str:
    """A number of things in words; nothing when there are none."""
    return counted(count, what) if count else ""


def total(parts: Sequence[Counts]) -> Counts:
    """The sum of counts."""
    names = Counts.__dataclass_fields__
    return Counts(**{name: sum(getattr(part, name) for part in parts) for name in names})


def estimate(open_rows: int, own_s: float, survey_s: float, rates: Sequence[float]) -> Estimate:
    """How long a run would take.

    Args:
        open_rows: that it would go through.
        own_s: that the plan took for them, the survey included.
        survey_s: that the survey took, which a run repeats.
        rates: rows per second of earlier runs in this ledger, in any order.
    """
    if rates and open_rows:
        low = survey_s + open_rows / max(rates) * _OTHER_RUNS[0]
        high = survey_s + open_rows / min(rates) * _OTHER_RUNS[1]
        based_on = (
            f"the last {len(rates)} long runs in this ledger" if len(rates) > 1 else "the last long run"
        )
    else:
        low, high = own_s * _OWN_TIME[0], own_s * _OWN_TIME[1]
        based_on = "the time that the plan took"
    return Estimate(round(low + _START_S[0]), round(high + _START_S[1]), based_on)
