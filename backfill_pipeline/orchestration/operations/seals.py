"""Sealing for good what a source posted, and verifying all seals, as jobs.

Belongs here: Dagster's side of `ledger/seals.py`.
Does not: verifying (`assets/seals.py`); sealing provisionally, which every run does.
"""

import dagster as dg
from pydantic import Field

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import seals
from backfill_pipeline.orchestration.assets.keys import SEALS_KEY
from backfill_pipeline.orchestration.operations.operating import DecisionConfig, operating, stated
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.wording import counted


class SealConfig(DecisionConfig):
    """What is sealed for good."""

    source: str = Field(description="The source's id; of a bank with @ and a day.")
    batch: int = Field(default=0, description="Only this batch, by its number. 0: all that is posted.")


def seal_job() -> dg.JobDefinition:
    """The job `seal`."""

    @dg.op(name="seal_batches", description="Makes the seals of the source's batches final.")
    def seal_batches(context: dg.OpExecutionContext, config: SealConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            source = stated(config.source, "source", "name the source that is sealed")
            batches = seals.batches_of(connection, source, config.batch or None)
            if not batches:
                raise UsageError(
                    f"nothing of {source} is posted"
                    + (f" in a batch {config.batch}" if config.batch else "")
                    + ": there is nothing to seal"
                )
            became = seals.make_final(
                connection,
                batches,
                actor=config.person,
                subject=f"{source} batch {config.batch}" if config.batch else source,
                reason=config.why,
            )
        before = len(batches) - became
        outcome = (
            f"{counted(became, 'batch', 'batches')} of {source} sealed for good, {before:,} were so already"
        )
        context.log.info(outcome)
        context.add_output_metadata({"outcome": outcome, "sealed_now": became, "batches": len(batches)})

    @dg.job(
        name="seal",
        description="Seals for good what a source posted: from then on it can be reversed, and never be deleted.",
    )
    def job() -> None:
        seal_batches()

    return job


def verify_job() -> "dg.UnresolvedAssetJobDefinition":
    """The job `verify_seals`, which materializes the seals."""
    return dg.define_asset_job(
        "verify_seals",
        selection=dg.AssetSelection.assets(SEALS_KEY),
        description="Hashes anew what was sealed, and names what was touched since. Changes nothing.",
    )
