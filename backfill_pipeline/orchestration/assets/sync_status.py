"""The asset that says how far a bank is, and is fresh as long as the bank is not behind.

It is materialized whenever all days that have ended are complete: in every field the same in both ledgers. While a day
is missing it is only observed, with the same table. So its freshness is that of the bank, whichever old days are
repeated meanwhile: Dagster's freshness looks at the latest materialization alone, of whatever partition.

Belongs here: Dagster's side of `ledger/banks/sync_status.py` and `bank_progress.py`.
Does not: finding out about a day (`dual_ledger/days.py`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from backfill_pipeline.definition.cron import hours_later
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb import ScbSection
from backfill_pipeline.definition.scb_days import last_ended_day, scb_of
from backfill_pipeline.ledger.banks import bank_progress, sync_status
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.orchestration.assets.keys import asset_key, sync_status_key
from backfill_pipeline.orchestration.failures import terminal
from backfill_pipeline.orchestration.metadata import TABLE_ROWS, Metadata
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.orchestration.sync_metadata import status_metadata
from backfill_pipeline.stages.work import Places

# How long after its schedule a bank may be busy before it counts as behind.
GRACE_HOURS: Final = 3
_EARLY: Final = timedelta(minutes=1)


def sync_status_asset(definition: SourceDefinition) -> dg.AssetsDefinition:
    """How far a bank is; every run of the bank tells it anew, and so does materializing it by itself."""
    section = scb_of(definition)

    @dg.asset(
        key=sync_status_key(definition.id),
        deps=[asset_key(definition.id, "reconciliation")],
        group_name="ledger",
        kinds={"postgres"},
        output_required=False,
        freshness_policy=_freshness(section),
        description=f"How far {section.bank_id} is. Every run of the bank materializes it, but only while all days that"
        " have ended are complete: it is stale when the bank is behind. What is missing then, the latest observation"
        " says (Events).",
    )
    def status(
        context: dg.AssetExecutionContext, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        with terminal():
            event = status_event(definition, ledger.places)
        if isinstance(event, dg.AssetMaterialization):
            yield dg.MaterializeResult(metadata=event.metadata)
        else:
            context.log.warning(str(event.metadata["state"].value))
            context.log_event(event)

    return status


def status_event(
    definition: SourceDefinition, places: Places
) -> dg.AssetMaterialization | dg.AssetObservation:
    """How far a bank is now: a materialization while it is not behind, else an observation."""
    key = sync_status_key(definition.id)
    in_step, metadata = look(definition, places)
    if in_step:
        return dg.AssetMaterialization(key, metadata=metadata)
    return dg.AssetObservation(key, metadata=metadata)


def look(definition: SourceDefinition, places: Places) -> tuple[bool, Metadata]:
    """Whether all days that have ended are complete, and what there is to show."""
    now = _now()
    ended = last_ended_day(scb_of(definition), now)
    with connect(places.ledger_url, application_name=f"backfill {definition.id}"[:63]) as connection:
        progress = bank_progress.progress(connection, now)
        latest = sync_status.load(connection, definition.id, ended - timedelta(days=TABLE_ROWS - 1), ended)
        mine = next((one for one in progress if one.source_id == definition.id), None)
        missing = () if mine is None else mine.incomplete[:TABLE_ROWS]
        begun = sync_status.load(connection, definition.id, missing[0], missing[-1]) if missing else []
    in_step = mine is not None and mine.complete_to is not None and mine.complete_to >= ended
    return in_step, status_metadata(mine, latest, [one for one in begun if not one.complete], ended)


def _freshness(section: ScbSection) -> dg.FreshnessPolicy | None:
    """None without a schedule: then nobody has promised when a day is there."""
    nightly = section.nightly
    if not nightly.enabled:
        return None
    deadline = hours_later(nightly.cron, GRACE_HOURS)
    return dg.FreshnessPolicy.cron(
        deadline_cron=deadline,
        lower_bound_delta=_EARLY if deadline == nightly.cron else timedelta(hours=GRACE_HOURS) + _EARLY,
        timezone=nightly.timezone or section.timezone,
    )


def _now() -> datetime:
    return datetime.now(UTC)
