"""The plan asset: materializing it says what a run of the source would do, and changes nothing.

Belongs here: Dagster's side of `stages/plan.py`.
Does not: planning.
"""

from collections.abc import Iterator

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.orchestration.assets.keys import asset_key
from backfill_pipeline.orchestration.config import PlanConfig
from backfill_pipeline.orchestration.failures import terminal
from backfill_pipeline.orchestration.plan_metadata import plan_metadata
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.stages.plan import make_plan


def plan_asset(definition: SourceDefinition) -> dg.AssetsDefinition:
    """An unpartitioned asset beside the others of a source; nothing depends on it, and no backfill includes it."""

    @dg.asset(
        key=asset_key(definition.id, "plan"),
        group_name=definition.id,
        kinds={"postgres"},
        description="Everything that a run would do, found out by a rehearsal that leaves nothing behind: rows by"
        " outcome, sums per currency, new accounts, rejects, and who would break a balance constraint.",
    )
    def plan(
        context: dg.AssetExecutionContext, config: PlanConfig, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        places = ledger.places
        with terminal(), connect(places.ledger_url, application_name="backfill plan") as connection:
            found = make_plan(definition, connection, places, accept_changed=config.accept_changed)
        context.log.info(found.outcome)
        yield dg.MaterializeResult(metadata=plan_metadata(found))

    return plan
