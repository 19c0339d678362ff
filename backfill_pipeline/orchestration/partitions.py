"""Partitions: each source's chunks as dynamic partitions, one definition per source; a bank's days as daily ones.

Belongs here: names, and keeping Dagster's keys equal to the registration's.
Does not: deciding what the partitions are (`stages/manifest.py`).
"""

from __future__ import annotations

from typing import Final, Literal

import dagster as dg

from backfill_pipeline.definition.scb import ScbSection
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.orchestration.assets.keys import asset_key
from backfill_pipeline.stages.prepare import STAGES

PartitionState = Literal["materialized", "failed", "running"]

_RUNS_AT_ONCE: Final = 100


def partitions_name(source_id: str) -> str:
    """Name of a source's partitions definition in the instance."""
    return f"{source_id}_chunks"


def source_partitions(source_id: str) -> dg.DynamicPartitionsDefinition:
    """The partitions of a source; empty until its manifest is materialized."""
    return dg.DynamicPartitionsDefinition(name=partitions_name(source_id))


def bank_days(section: ScbSection) -> dg.DailyPartitionsDefinition:
    """The days of a bank in its own time zone, of 23 to 25 hours; the last one is the last that is over."""
    return dg.DailyPartitionsDefinition(start_date=section.start.isoformat(), timezone=section.timezone)


def sync_partitions(instance: dg.DagsterInstance, registration: Registration) -> None:
    """Makes the instance's keys those of the current registration, in source order.

    Keys of an earlier revision go: their materializations stay in the event log, their batches in the ledger.
    """
    name = partitions_name(registration.source_id)
    wanted = [partition.key for partition in registration.partitions]
    present = instance.get_dynamic_partitions(name)
    if present == wanted:
        return
    for key in present:
        if key not in wanted:
            instance.delete_dynamic_partition(name, key)
    if [key for key in present if key in wanted] != wanted[: len(present)]:
        for key in instance.get_dynamic_partitions(name):
            instance.delete_dynamic_partition(name, key)
    instance.add_dynamic_partitions(name, wanted)


def partition_states(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, PartitionState]:
    """Partition key → what Dagster shows of it, for those that were materialized or tried; the latest try counts."""
    states: dict[str, PartitionState] = dict.fromkeys(
        instance.get_materialized_partitions(key), "materialized"
    )
    tries = instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
        key
    )
    run_ids = sorted({run_id for run_id, _ in tries.values()})
    runs: dict[str, dg.DagsterRunStatus] = {}
    for start in range(0, len(run_ids), _RUNS_AT_ONCE):
        wanted = dg.RunsFilter(run_ids=run_ids[start : start + _RUNS_AT_ONCE])
        runs |= {run.run_id: run.status for run in instance.get_runs(wanted)}
    for partition, (run_id, _) in tries.items():
        status = runs.get(run_id)
        if status is dg.DagsterRunStatus.FAILURE:
            states[partition] = "failed"
        elif status not in (None, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.SUCCESS):
            states[partition] = "running"
    return states


def show_posted(instance: dg.DagsterInstance, registration: Registration) -> list[str]:
    """Shows partitions as materialized that the ledger has in full and Dagster does not know of; returns them.

    A run that is killed between its last commit and its event leaves such a one: the ledger is the truth.
    """
    posted = [partition.key for partition in registration.partitions if partition.posted]
    shown = partition_states(instance, asset_key(registration.source_id, "posted"))
    unknown = [key for key in posted if shown.get(key) not in ("materialized", "running")]
    for key in unknown:
        for stage in STAGES:
            instance.report_runless_asset_event(
                dg.AssetMaterialization(
                    asset_key(registration.source_id, stage),
                    partition=key,
                    metadata={"note": "posted by a run that was killed before it could say so"},
                )
            )
    return unknown
