"""All checks at once: the job that people launch, and the schedule that they may turn on.

Belongs here: which checks are in it.
Does not: the checks (the modules beside this one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import dagster as dg

CHECKS_JOB: Final = "checks"


def checks_job(checks: Sequence[dg.AssetChecksDefinition]) -> dg.UnresolvedAssetJobDefinition:
    """The job that makes all checks that stand by themselves, of all sources."""
    keys = [key for one in checks for key in one.check_keys]
    return dg.define_asset_job(
        CHECKS_JOB,
        selection=dg.AssetSelection.checks(*keys),
        description="Makes every check that looks at the ledger alone, of all sources and banks. Changes nothing; takes"
        " seconds.",
    )


def checks_schedule() -> dg.ScheduleDefinition:
    """Every hour, once somebody turns it on: alerts tell of the same without it."""
    return dg.ScheduleDefinition(
        name="hourly_checks",
        job_name=CHECKS_JOB,
        cron_schedule="17 * * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Makes all checks every hour. Off until you turn it on.",
    )
