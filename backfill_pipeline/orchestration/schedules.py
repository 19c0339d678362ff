"""Schedules: each bank's days that ended are fetched without anybody asking for it.

Belongs here: Dagster's side of a bank's night: when, which runs, and why none.
Does not: which days there are to take (`dual_ledger/`), what a run does (`assets/bank_days.py`).

A tick looks at the ledger alone and never asks the bank: it has to answer within a minute, also while a bank hangs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Final

import dagster as dg
from dagster._utils.schedules import get_latest_completed_cron_tick

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import days_between, scb_of
from backfill_pipeline.dual_ledger.days import nightly_days
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.endpoint import resolve_ledger
from backfill_pipeline.orchestration.assets.keys import (
    BANK_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    sync_job_name,
)
from backfill_pipeline.orchestration.launch import sweep_orphans
from backfill_pipeline.settings import load_settings

LAUNCHED_BY: Final = "nightly schedule"


def nightly_schedule(definition: SourceDefinition) -> dg.ScheduleDefinition:
    """The schedule of a bank, on unless its definition says otherwise."""
    section = scb_of(definition)
    nightly = section.nightly
    zone = nightly.timezone or section.timezone

    @dg.schedule(
        name=f"nightly_{definition.id}",
        job_name=sync_job_name(definition.id),
        cron_schedule=nightly.cron,
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING
        if nightly.enabled
        else dg.DefaultScheduleStatus.STOPPED,
        description=f"Takes the day of {section.bank_id} that ended in {section.timezone}, the"
        f" {nightly.lookback_days} before it for entries that came late, and every day that is not complete.",
    )
    def night(context: dg.ScheduleEvaluationContext) -> Sequence[dg.RunRequest] | dg.SkipReason:
        tick = context.scheduled_execution_time
        newest = get_latest_completed_cron_tick(nightly.cron, _now(), zone)
        if tick < newest:
            return dg.SkipReason(f"missed: the tick of {newest:%Y-%m-%d %H:%M} takes its days as well")
        try:
            return _requests(context, definition, tick)
        except BackfillError as error:
            return dg.SkipReason(f"not run, the next tick takes its days as well: {error}")

    return night


def _requests(
    context: dg.ScheduleEvaluationContext, definition: SourceDefinition, tick: datetime
) -> Sequence[dg.RunRequest] | dg.SkipReason:
    section = scb_of(definition)
    # A command that was killed left its run behind as if it were going on.
    sweep_orphans(context.instance, only_own=True)
    with resolve_ledger(load_settings()) as endpoint, connect(endpoint.ledger_url) as connection:
        migrate(connection)
        days = nightly_days(connection, definition, tick)
    if not days:
        return dg.SkipReason(
            f"nothing to do: the days of {definition.id} begin on {section.start} (scb.start)"
        )
    return [_request(definition, tick, span) for span in day_spans(days)]


def _request(definition: SourceDefinition, tick: datetime, span: tuple[date, date]) -> dg.RunRequest:
    first, last = (day.isoformat() for day in span)
    return dg.RunRequest(
        run_key=f"{definition.id}/{tick.astimezone(UTC):%Y-%m-%dT%H:%MZ}/{first}..{last}",
        tags={
            RANGE_START_TAG: first,
            RANGE_END_TAG: last,
            BANK_TAG: definition.id,
            "backfill/launched_by": LAUNCHED_BY,
        },
    )


def day_spans(days: Sequence[date]) -> list[tuple[date, date]]:
    """The first and the last day of each run of neighbours, in order of time: each can be launched as one range."""
    wanted = set(days)
    spans: list[tuple[date, date]] = []
    for day in days_between(min(days), max(days)) if days else ():
        if day not in wanted:
            continue
        if spans and (day - spans[-1][1]).days == 1:
            spans[-1] = spans[-1][0], day
        else:
            spans.append((day, day))
    return spans


def _now() -> datetime:
    return datetime.now(UTC)
