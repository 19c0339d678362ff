"""Deleting Dagster's old history, as a job.

Belongs here: Dagster's side of `orchestration/history.py`.
Does not: choosing what can go.
"""

import dagster as dg
from pydantic import Field

from backfill_pipeline.orchestration.failures import terminal
from backfill_pipeline.orchestration.history import OLDER_THAN_DAYS, delete, old_history
from backfill_pipeline.orchestration.launchpad import LaunchpadConfig
from backfill_pipeline.wording import counted


class PruneConfig(LaunchpadConfig):
    """How old, and whether it is meant."""

    older_than_days: int = Field(
        default=OLDER_THAN_DAYS,
        ge=1,
        description="Runs that ended less than so many days ago all stay.",
    )
    delete: bool = Field(
        default=False, description="false: only say what would go. true: delete it, for good."
    )


def prune_job() -> dg.JobDefinition:
    """The job `prune_history`."""

    @dg.op(
        name="prune",
        description="Finds the runs that nobody needs any more, and deletes them if it is meant.",
    )
    def prune(context: dg.OpExecutionContext, config: PruneConfig) -> None:
        with terminal():
            found = old_history(context.instance, config.older_than_days)
        if config.delete:
            delete(context.instance, found)
        outcome = (
            f"{counted(len(found.run_ids), 'run')} with {counted(found.events, 'event')}"
            f" {'deleted' if config.delete else 'would be deleted: launch it with delete: true'};"
            f" {counted(found.kept, 'older run')} kept, of which the UI shows something"
        )
        context.log.info(outcome)
        context.add_output_metadata(
            {
                "outcome": outcome,
                "runs": len(found.run_ids),
                "events": found.events,
                "kept": found.kept,
                "ended_before": found.before.isoformat(timespec="seconds"),
                "deleted": config.delete,
            }
        )

    @dg.job(
        name="prune_history",
        description="Deletes Dagster's runs and events older than so many days, but never the latest materialization of"
        " a partition, nor what is unfinished. The ledger is not touched. Says first what would go.",
    )
    def job() -> None:
        prune()

    return job
