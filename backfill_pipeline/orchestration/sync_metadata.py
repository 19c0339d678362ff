"""Metadata of a bank's days: what an operator sees on a materialization, an observation or the check.

Belongs here: turning the reports of `dual_ledger/` into Dagster's metadata values.
Does not: computing anything, tables as such (`metadata.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Final

from backfill_pipeline.dual_ledger.day_report import DayReport
from backfill_pipeline.ledger.banks.bank_progress import BankProgress
from backfill_pipeline.ledger.banks.sync_status import SyncStatus
from backfill_pipeline.orchestration.metadata import Metadata, manifest_metadata, table
from backfill_pipeline.orchestration.stage_metadata import stage_metadata
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline.wording import are, counted

_UNCHANGED: Final = {
    "note": "complete before, and the bank still states the same control totals: nothing to do"
}
_DONE_BEFORE: Final = {"note": "done by an earlier run: nothing to do"}
# Breaks that say that the bank does not know of an entry as it should.
_UNTOLD: Final = frozenset(("no outbox row", "dead", "failed", "not told yet"))


def materialized(report: DayReport) -> Iterator[tuple[str, Metadata]]:
    """The assets of a day that are as they should be, in their order, and what there is to show of each."""
    if report.outcome == "failed":
        return
    yield "manifest", _manifest(report)
    done = {one.stage: one for one in report.stages}
    for stage in STAGES:
        if report.outcome == "unchanged":
            yield stage, _UNCHANGED
        else:
            yield stage, stage_metadata(done[stage]) if stage in done else _DONE_BEFORE
    if report.dual is None or not _UNTOLD & report.dual.break_kinds.keys():
        yield "acknowledged", {"acknowledged": report.acknowledged}
    if report.complete:
        yield "reconciliation", comparison(report)


def _manifest(report: DayReport) -> Metadata:
    if report.outcome == "unchanged" or report.registration is None:
        return _UNCHANGED
    stated = None if report.dual is None else report.dual.stated
    return {
        **manifest_metadata(report.registration, None),
        "fetches": report.fetches,
        **(
            {"bank_states": f"{stated.count:,} entries", "bank_digest": stated.digest or ""} if stated else {}
        ),
    }


def comparison(report: DayReport) -> Metadata:
    """How both ledgers compare on a day, with the first breaks."""
    counts: Metadata = {
        "dagster/partition_row_count": report.fetched,
        "verdict": report.verdict or "not compared",
        "equation": equation(report),
        "posted": report.posted,
        "duplicates": report.duplicates,
        "conflicts": report.conflicts,
        "rejected": report.rejected,
        "filtered": report.filtered,
        "acknowledged": report.acknowledged,
        "seconds": round(report.seconds, 3),
    }
    if report.outcome == "unchanged":
        return {**counts, **_UNCHANGED}
    dual = report.dual
    if dual is None:
        return {**counts, "outcome": report.reason or ""}
    tables = {
        "currencies": table(dual.currency_rows()),
        "breaks_sample": table(dual.break_rows()),
        "outbox": table(dual.outbox_rows()),
    }
    return {
        **counts,
        "outcome": report.reason or dual.sentence,
        "equal": dual.equal,
        "breaks": dual.break_count,
        "sent_and_received": dual.sent_equal,
        **{name: rows for name, rows in tables.items() if rows is not None},
    }


def equation(report: DayReport) -> str:
    """The count equation of a day in words."""
    return (
        f"read {report.fetched:,} = posted {report.posted:,} + duplicates {report.duplicates:,}"
        f" + conflicts {report.conflicts:,} + rejected {report.rejected:,} + filtered {report.filtered:,}"
    )


def equality(reports: Sequence[DayReport]) -> tuple[str, Metadata]:
    """What the days of a run have shown, in a sentence, and in a table whose first rows are those of unequal days."""
    wrong = [one for one in reports if not one.complete]
    breaks = [one for one in wrong if one.error is None]
    equal = len(reports) - len(wrong)
    parts = [f"{equal:,} of {counted(len(reports), 'day')} {are(equal)} equal in both ledgers"]
    if breaks:
        parts.append(f"{len(breaks):,} differ, {breaks[0].day} first: {breaks[0].reason}")
    if not_compared := [one for one in wrong if one.error is not None]:
        first = not_compared[0]
        parts.append(f"{len(not_compared):,} could not be compared, {first.day} first: {first.reason}")
    rows = table([_day_row(one) for one in [*wrong, *(one for one in reports if one.complete)]])
    return "; ".join(parts), {
        "days": len(reports),
        "days_equal": len(reports) - len(wrong),
        "days_different": len(breaks),
        "days_not_compared": len(not_compared),
        "entries_equal": sum(0 if one.dual is None else one.dual.equal for one in reports),
        **({"days_table": rows} if rows else {}),
    }


def _day_row(report: DayReport) -> dict[str, object]:
    dual = report.dual
    return {
        "day": report.day,
        "verdict": report.verdict if report.error is None else "not compared",
        "there": None if dual is None else dual.stated.count,
        "here": None if dual is None else dual.here,
        "equal": None if dual is None else dual.equal,
        "breaks": None if dual is None else dual.break_count,
        "why": report.reason or ("unchanged since" if report.outcome == "unchanged" else None),
    }


def status_metadata(
    progress: BankProgress | None, latest: Sequence[SyncStatus], wrong: Sequence[SyncStatus], ended: date
) -> Metadata:
    """How far a bank is.

    Args:
        progress: of the bank; None when no day of it was ever begun.
        latest: its latest days, in order; the newest ones are shown.
        wrong: days that were begun and are not complete, in order; they may be older than the latest ones.
        ended: the last day that is over.
    """
    if progress is None:
        return {"state": "no day was fetched yet"}
    days = table([_status_row(one) for one in reversed(latest)])
    not_complete = table([_status_row(one) for one in wrong])
    return {
        "state": status_text(progress, ended),
        "complete_to": str(progress.complete_to or "none"),
        "last_day_ended": str(ended),
        "days": progress.days,
        "days_complete": progress.complete,
        "lag_hours": round(progress.lag / timedelta(hours=1), 1),
        "entries": progress.entries,
        "entries_unacknowledged": progress.unacknowledged,
        **({"days_not_complete": not_complete} if not_complete else {}),
        **({"latest_days": days} if days else {}),
    }


def status_text(progress: BankProgress, ended: date) -> str:
    """The same in a sentence."""
    open_days = [day for day in progress.incomplete if day <= ended]
    missing = len(open_days) + max(0, (ended - progress.last_day).days)
    if not missing:
        return f"complete: every day from {progress.first_day} to {ended}"
    first = open_days[0] if open_days else progress.last_day + timedelta(days=1)
    return f"behind: {counted(missing, 'day')} {are(missing)} not complete, the first is {first}"


def _status_row(one: SyncStatus) -> dict[str, object]:
    return {
        "day": one.day,
        "state": one.state,
        "fetched": one.fetched,
        "posted": one.posted,
        "conflicts": one.conflicts,
        "rejected": one.rejected,
        "acknowledged": one.acknowledged,
        "verdict": one.verdict,
        "error": one.error,
    }
