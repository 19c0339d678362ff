"""Rolled back partitions as Dagster shows them: failed, by a run that says who took them back and why.

Dagster cannot take back a materialization of one partition: its PostgreSQL storage wipes assets as a whole, with all
their history. What it does know are runs that meant to materialize a partition and failed. So a rollback is such a run:
it does nothing, and ends as failed with the sentence of the rollback. The partitions turn red, *failed and missing*
takes exactly them, and the history stays.

Belongs here: making Dagster say what the ledger says of rolled back partitions; it may be called at any time.
Does not: rolling back.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import dagster as dg
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEventBatchMetadata,
)
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._core.utils import make_new_run_id

from backfill_pipeline.definition.scb_days import split_day_source_id
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.rolled_back import RolledBackPartition, rolled_back_partitions
from backfill_pipeline.orchestration.assets.keys import (
    DAY_ASSETS,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    asset_key,
    sync_job_name,
)
from backfill_pipeline.orchestration.assets.reconciliation import MATCH_CHECK
from backfill_pipeline.orchestration.launch import contiguous_ranges, job_origin, process_tags
from backfill_pipeline.orchestration.partitions import partition_states, partitions_name
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline.wording import counted

ROLLBACK_TAG: Final = "backfill/rollback"
"""Of a run that shows a rollback: its id in the ledger."""


def show_rolled_back(instance: dg.DagsterInstance, connection: Connection, source_id: str) -> list[str]:
    """Shows partitions as rolled back that the ledger took back and Dagster still shows as materialized; returns them.

    The ledger decides, so it does not matter how often this is called, or whether the process that rolled back was
    killed before it could.

    Args:
        instance: where runs and events are recorded.
        connection: to the ledger.
        source_id: the source; of a bank, its own id or that of a day.
    """
    day = split_day_source_id(source_id)
    found = rolled_back_partitions(connection, source_id if day is None else day[0])
    if not found:
        return []
    is_bank = split_day_source_id(found[0].source_id) is not None
    owner = source_id if day is None else day[0]
    by_key = {one.shown_key: one for one in found}
    shown = partition_states(instance, asset_key(owner, "posted"))
    stale = [key for key in by_key if shown.get(key) == "materialized"]
    if not stale:
        return []
    every = sorted(shown) if is_bank else instance.get_dynamic_partitions(partitions_name(owner))
    assets = DAY_ASSETS if is_bank else STAGES
    for rollback_id in sorted({by_key[key].rollback_id for key in stale}):
        of_one = [key for key in stale if by_key[key].rollback_id == rollback_id]
        for keys in contiguous_ranges(of_one, every):
            of_run = {key: by_key[key] for key in keys}
            _report_run(instance, owner, assets, of_run, is_bank=is_bank)
    if not is_bank:
        _report_check(instance, owner, [by_key[key] for key in stale])
    return stale


def _report_run(
    instance: dg.DagsterInstance,
    source_id: str,
    assets: Sequence[str],
    partitions: Mapping[str, RolledBackPartition],
    *,
    is_bank: bool,
) -> None:
    keys = list(partitions)
    whole = replace(partitions[keys[0]], entries=sum(one.entries for one in partitions.values()))
    job_name = sync_job_name(source_id) if is_bank else f"backfill_{source_id}"
    run = instance.add_run(
        dg.DagsterRun(
            job_name,
            run_id=make_new_run_id(),
            run_config={},
            tags={
                ROLLBACK_TAG: str(whole.rollback_id),
                "backfill/launched_by": "rollback",
                ".dagster/repository": "__repository__@ledger_backfill",
                # Dagster starts runs again whose worker died. This one never had a worker.
                MAX_RETRIES_TAG: "0",
                **process_tags(),
                **(
                    {PARTITION_TAG: keys[0]}
                    if len(keys) == 1
                    else {RANGE_START_TAG: keys[0], RANGE_END_TAG: keys[-1]}
                ),
            },
            asset_selection=frozenset(asset_key(source_id, name) for name in assets),
            remote_job_origin=job_origin(job_name),
        )
    )
    events = [
        event
        for key, one in partitions.items()
        for event in (
            *(_planned(job_name, asset_key(source_id, name), key) for name in assets),
            _observed(job_name, asset_key(source_id, "posted"), key, one),
        )
    ]
    batch_id = str(uuid.uuid4())
    for number, event in enumerate(events, 1):
        batch = DagsterEventBatchMetadata(batch_id, number == len(events))
        instance.report_dagster_event(event, run.run_id, logging.DEBUG, batch_metadata=batch)
    instance.report_run_failed(
        run,
        f"{counted(len(keys), 'partition')} of {source_id}: {whole.sentence}."
        " Nothing went wrong: materialize them to post them again.",
    )


def _planned(job_name: str, key: dg.AssetKey, partition: str) -> dg.DagsterEvent:
    return dg.DagsterEvent.build_asset_materialization_planned_event(
        job_name, "rollback", AssetMaterializationPlannedData(key, partition=partition)
    )


def _observed(job_name: str, key: dg.AssetKey, partition: str, one: RolledBackPartition) -> dg.DagsterEvent:
    observation = dg.AssetObservation(
        key,
        partition=partition,
        description=one.sentence,
        metadata={
            "rolled_back_by": one.actor,
            "rolled_back_at": one.rolled_back_at.isoformat(),
            "reason": one.reason or "none given",
            "mode": one.mode,
            "entries": one.entries,
            "rollback": one.rollback_id,
        },
    )
    return dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_OBSERVATION.value,
        job_name=job_name,
        message=one.sentence,
        event_specific_data=AssetObservationData(observation),
        step_key="rollback",
    )


def _report_check(instance: dg.DagsterInstance, source_id: str, back: Sequence[RolledBackPartition]) -> None:
    """What was last found equal is not there any more: the check is due again."""
    whole = replace(back[0], entries=sum(one.entries for one in back))
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=asset_key(source_id, "reconciliation"),
            check_name=MATCH_CHECK,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"due again: {counted(len(back), 'partition')} {whole.sentence}",
        )
    )
