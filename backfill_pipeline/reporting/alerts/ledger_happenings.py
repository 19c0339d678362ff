"""What the ledger says that people should be told of: sources completed, stalled, or with too many rejects.

Belongs here: the words of these alerts, and what makes two of them the same.
Does not: the queries (`ledger/attention.py`, `ledger/auditing`), runs of Dagster (`orchestration/alerts`), sending.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from backfill_pipeline.definition.scb_days import split_day_source_id
from backfill_pipeline.ledger.attention import (
    Completion,
    OverLimit,
    SourceCounts,
    completions,
    source_counts,
    sources_over_limit,
)
from backfill_pipeline.ledger.auditing.backfill_checks import stalled_checkpoints
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.reporting.alerts.message import Alert, Kind, Severity, alert
from backfill_pipeline.reporting.alerts.postbox import Happening
from backfill_pipeline.settings import AlertSettings
from backfill_pipeline.wording import are, counted

RECONCILIATION_GRACE: Final = timedelta(minutes=10)
"""How long a source that is posted may take to be reconciled before it is told without a verdict."""


def completed(connection: Connection, since: datetime) -> list[Happening]:
    """Sources that were posted in full, with how their reconciliation ended.

    Args:
        connection: to the ledger.
        since: only what became known from then on.
    """
    return [
        Happening(
            _completion_key(one),
            one.at,
            partial(_tell_completion, connection, one),
        )
        for one in completions(connection, since, RECONCILIATION_GRACE)
    ]


def over_threshold(connection: Connection, since: datetime, settings: AlertSettings) -> list[Happening]:
    """Sources with more rejects and conflicts than the limits allow.

    Args:
        connection: to the ledger.
        since: only sources that went on from then on.
        settings: the limits.
    """
    found = sources_over_limit(
        connection, since, failed_max=settings.rejects_max, rate_max=settings.reject_rate_max
    )
    return [
        Happening(
            f"threshold/{one.source_id}/{_stamp(one.started_at)}",
            one.last_checkpoint_at,
            partial(_tell_threshold, one, settings),
        )
        for one in found
    ]


def stalled(connection: Connection, settings: AlertSettings) -> list[Happening]:
    """Sources in progress that make none.

    Args:
        connection: to the ledger.
        settings: after how long.
    """
    check = stalled_checkpoints(connection, stalled_after=timedelta(seconds=settings.stalled_after_s))
    found = []
    for row in check.sample:
        moment = row["last_checkpoint_at"]
        assert isinstance(moment, datetime), "a checkpoint has its moment"
        at = moment.replace(tzinfo=UTC)
        source_id, processed = str(row["source_id"]), int(str(row["total_processed"] or 0))
        told = partial(_tell_stall, source_id, at, processed, is_written=bool(row["written_by_a_run"]))
        found.append(Happening(f"stalled/{source_id}/{_stamp(at)}", at, told))
    if check.count > len(found):
        # The sample is bounded: that there are more of them is told as well.
        found.append(_more_stalled(found, check.count))
    return found


def _tell_completion(connection: Connection, one: Completion) -> Alert:
    counts = source_counts(connection, one.registration_id)
    clean = not counts.conflicts and not counts.rejected
    day = split_day_source_id(one.source_id)
    if one.verdict == "break":
        differs = "the ledger differs from it" if day is None else "the bank's ledger and ours differ"
        severity, ending = Severity.ERROR, f"{differs} ({counted(one.breaks, 'break')})"
        again = (
            f"reconcile {one.source_id}"
            if day is None
            else f"sync reconcile {day[0]} --from {day[1]} --to {day[1]}"
        )
        remedy = f"backfill {again} names each break"
    elif one.verdict is None:
        severity, ending = Severity.WARNING, "it is not compared with the ledger yet"
        remedy = f"backfill reconcile {one.source_id}"
    else:
        severity = Severity.INFO if clean else Severity.WARNING
        ending = "the ledger is equal to it" if day is None else "both ledgers are equal"
        remedy = "" if clean else f"backfill rejects list {one.source_id} shows them with their reasons"
    bad = counts.conflicts + counts.rejected
    rejects = "" if clean else f", {counted(bad, 'row')} {are(bad)} not in the ledger (rejects and conflicts)"
    return alert(
        _completion_key(one),
        Kind.COMPLETED,
        severity,
        title=f"the ledger differs from {one.source_id}" if one.is_later else f"{one.source_id} is posted",
        text=f"{_equation(one, counts)}; {ending}{rejects}.",
        remedy=remedy,
        at=one.at,
        facts={
            "source": one.source_id,
            "revision": one.revision,
            "partitions": counts.partitions,
            "reconciliation": one.verdict or "not run yet",
            "registered": _moment(one.registered_at),
            "completed": _moment(one.completed_at),
        },
        source_id=one.source_id,
    )


def _completion_key(one: Completion) -> str:
    """A break that was found later is one by itself, however often it was put right before."""
    key = f"completed/{one.registration_id}/{_stamp(one.completed_at)}/{one.verdict or 'not reconciled'}"
    return f"{key}/{_stamp(one.at)}" if one.is_later else key


def _equation(one: Completion, counts: SourceCounts) -> str:
    return (
        f"{one.source_id}: read {counts.read:,} = posted {counts.posted:,} + duplicates {counts.duplicates:,}"
        f" + conflicts {counts.conflicts:,} + rejected {counts.rejected:,} + filtered {counts.filtered:,}"
    )


def _tell_threshold(one: OverLimit, settings: AlertSettings) -> Alert:
    limits = [f"{settings.reject_rate_max:%} of all rows"]
    if settings.rejects_max is not None:
        limits.append(counted(settings.rejects_max, "row"))
    return alert(
        f"threshold/{one.source_id}/{_stamp(one.started_at)}",
        Kind.THRESHOLD,
        Severity.WARNING,
        title=f"{one.source_id} has {counted(one.failed, 'reject or conflict', 'rejects and conflicts')}",
        text=f"{one.failed:,} of {counted(one.processed, 'row')} of {one.source_id} so far were rejected or are"
        f" conflicts ({one.rate:.2%}); the limit is {' or '.join(limits)}.",
        remedy=f"backfill rejects list {one.source_id} shows their reasons; repaired rows go in with backfill rejects"
        " export and replay",
        at=one.last_checkpoint_at,
        facts={
            "source": one.source_id,
            "rows so far": one.processed,
            "rejects and conflicts": one.failed,
            "begun": _moment(one.started_at),
        },
        source_id=one.source_id,
    )


def _tell_stall(source_id: str, at: datetime, processed: int, *, is_written: bool) -> Alert:
    day = split_day_source_id(source_id)
    again = f"backfill resume {source_id}" if day is None else f"backfill sync run {day[0]}"
    return alert(
        f"stalled/{source_id}/{_stamp(at)}",
        Kind.STALLED,
        Severity.ERROR,
        title=f"{source_id} makes no progress",
        text=f"{source_id} is in progress, and its last checkpoint is of {_moment(at)}; "
        + ("a run holds it." if is_written else "no run is working on it."),
        remedy=(
            f"Look at its run in the UI; once that has ended, {again} carries on"
            if is_written
            else f"{again} carries on at the first batch that is not posted"
        ),
        at=at,
        facts={"source": source_id, "rows so far": processed, "last checkpoint": _moment(at)},
        source_id=source_id,
    )


def _more_stalled(shown: Sequence[Happening], count: int) -> Happening:
    key = f"stalled/{count} in all"
    at = shown[-1].at

    def tell() -> Alert:
        return alert(
            key,
            Kind.STALLED,
            Severity.ERROR,
            title=f"{counted(count, 'source')} make no progress",
            text=f"{counted(count, 'source')} are in progress without a checkpoint for too long; the"
            f" {len(shown)} that wait longest are told one by one.",
            remedy="backfill audit counts them, backfill status shows them",
            at=at,
        )

    return Happening(key, at, tell)


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _stamp(at: datetime) -> str:
    """A moment as part of a key, exact: two that differ by a microsecond are two."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
