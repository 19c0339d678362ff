"""What a run did about a day of a bank, for whoever shows it.

Belongs here: the shape of the report, and what it says of what was counted and compared.
Does not: doing it (`one_day.py`), the table that keeps it (`ledger/banks/sync_status.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Literal

from backfill_pipeline.dual_ledger.dual_report import DualReport
from backfill_pipeline.ledger.banks.sync_status import DayCounts, SyncStatus
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.stages.prepare import STAGES, StageReport
from backfill_pipeline.stages.reconcile import ReconciliationReport
from backfill_pipeline.stages.runner import describe
from backfill_pipeline.stages.volumes import merged

Outcome = Literal["synced", "unchanged", "failed"]


@dataclass(frozen=True, slots=True)
class DayReport:
    """What a run did about a day.

    Attributes:
        outcome: synced (all steps were taken; `verdict` says whether both ledgers agree), unchanged (complete before,
            and the bank still says the same), failed (`error` says why; the next run takes it up).
        stages: what extracting, transforming, validating and posting did, summed over the day's partitions; those that
            nothing was left to do of are missing.
        fetched: records of the day; the sum of the next five once all of them are posted.
        posted: those that are entries now and were none before, by this run or an earlier one.
        acknowledged: entries of the day that the bank knows to be posted.
        verdict: match or break; None before the day got so far.
        dual: both ledgers held against each other; None where that was not done now.
        reconciliation: the ledger held against what was fetched; None likewise. Balances of the whole ledger are in
            that of the last day of a run.
        fetches: how often the bank was asked for the day until it was proven; 0 when it was not asked.
        error: why the day failed.
    """

    day: date
    outcome: Outcome
    source_id: str
    stages: tuple[StageReport, ...] = ()
    fetched: int = 0
    posted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    filtered: int = 0
    acknowledged: int = 0
    verdict: str | None = None
    dual: DualReport | None = None
    reconciliation: ReconciliationReport | None = None
    registration: Registration | None = None
    fetches: int = 0
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do about the day, for anybody."""
        return self.outcome != "failed" and self.verdict == "match"

    @property
    def reason(self) -> str | None:
        """Why the day is not complete, in a sentence; None when it is."""
        if self.error is not None:
            return describe(self.error)
        if self.complete:
            return None
        if self.dual is not None and self.dual.verdict != "match":
            return self.dual.sentence
        if self.reconciliation is not None and not self.reconciliation.matches:
            found = self.reconciliation
            count = found.break_count + found.account_break_count + len(found.currency_breaks)
            return f"the ledger is not what was fetched: {count:,} breaks"
        return "not reconciled"


def synced(
    day: date,
    counts: DayCounts,
    stages: Iterable[StageReport],
    registration: Registration,
    reconciliation: ReconciliationReport,
    dual: DualReport,
    *,
    verdict: str,
    fetches: int,
    seconds: float,
) -> DayReport:
    """The report of a day that went through all of its steps."""
    return DayReport(
        day,
        "synced",
        registration.source_id,
        stages=summed(stages),
        fetched=counts.read,
        posted=counts.posted,
        duplicates=counts.duplicates,
        conflicts=counts.conflicts,
        rejected=counts.rejected,
        filtered=counts.filtered,
        acknowledged=counts.acknowledged,
        verdict=verdict,
        dual=dual,
        reconciliation=reconciliation,
        registration=registration,
        fetches=fetches,
        seconds=seconds,
    )


def left_alone(source_id: str, noted: SyncStatus) -> DayReport:
    """The report of a day that was complete before, and that the bank states as it did then."""
    fetched, duplicates, conflicts = noted.fetched or 0, noted.duplicates or 0, noted.conflicts or 0
    rejected, filtered = noted.rejected or 0, noted.filtered or 0
    return DayReport(
        noted.day,
        "unchanged",
        source_id,
        fetched=fetched,
        posted=fetched - duplicates - conflicts - rejected - filtered,
        duplicates=duplicates,
        conflicts=conflicts,
        rejected=rejected,
        filtered=filtered,
        acknowledged=noted.acknowledged or 0,
        verdict=noted.verdict,
    )


def summed(reports: Iterable[StageReport]) -> tuple[StageReport, ...]:
    """One report per stage, in the order of the stages. Numbers are added, of other details the last one stays."""
    found: dict[str, StageReport] = {}
    for one in reports:
        before = found.get(one.stage)
        if before is None:
            found[one.stage] = one
            continue
        details = dict(before.details)
        for name, value in one.details.items():
            old = details.get(name, 0)
            details[name] = value + old if isinstance(value, int) and isinstance(old, int) else value
        found[one.stage] = StageReport(
            one.stage,
            before.rows_in + one.rows_in,
            before.rows_out + one.rows_out,
            before.seconds + one.seconds,
            details,
            (*before.batches, *one.batches),
            one.last_row,
            None if before.days is None or one.days is None else tuple(merged((*before.days, *one.days))),
        )
    for one in found.values():
        if "entries_per_second" in one.details:
            one.details["entries_per_second"] = round(one.rows_out / one.seconds) if one.seconds > 0 else 0
    return tuple(found[stage] for stage in STAGES if stage in found)
