"""Assembles all definitions: one asset group per source file, and what the ledger needs once.

Belongs here: finding source files and putting assets, checks, jobs, schedules, sensors and resources together.
Does not: what any of them does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import dagster as dg

from backfill_pipeline.definition.catalogue import find_sources
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import BackfillError, SourceDefinitionError
from backfill_pipeline.orchestration.alerts.sensors import alert_sensors
from backfill_pipeline.orchestration.assets.audit import audit_asset
from backfill_pipeline.orchestration.assets.bank_days import bank_assets
from backfill_pipeline.orchestration.assets.constraints import constraints_asset
from backfill_pipeline.orchestration.assets.corrections import corrections_asset
from backfill_pipeline.orchestration.assets.glance import at_a_glance
from backfill_pipeline.orchestration.assets.keys import (
    BANK_TAG,
    CONSTRAINTS_KEY,
    DAY_ASSETS,
    asset_key,
    sync_job_name,
)
from backfill_pipeline.orchestration.assets.manifest import manifest_asset
from backfill_pipeline.orchestration.assets.plan import plan_asset
from backfill_pipeline.orchestration.assets.reconciliation import reconciliation_asset
from backfill_pipeline.orchestration.assets.seals import seals_asset
from backfill_pipeline.orchestration.assets.stages import stage_assets
from backfill_pipeline.orchestration.assets.sync_status import sync_status_asset
from backfill_pipeline.orchestration.checks.jobs import checks_job, checks_schedule
from backfill_pipeline.orchestration.checks.ledger import STILL_IN_FORCE, ledger_checks
from backfill_pipeline.orchestration.checks.sources import freshness_check, source_checks
from backfill_pipeline.orchestration.inbox import inbox_sources
from backfill_pipeline.orchestration.operations.jobs import operation_jobs
from backfill_pipeline.orchestration.outbox import dispatch_job, outbox_sensor
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.orchestration.schedules import nightly_schedule
from backfill_pipeline.orchestration.sensors import inbox_sensor
from backfill_pipeline.settings import load_settings
from backfill_pipeline.stages.prepare import STAGES

# Where a source's run applies constraints, their own check has just found the same. Who applies them by themselves
# repairs them, and wants to see the red check turn green.
_STILL_IN_FORCE = dg.AssetSelection.checks(dg.AssetCheckKey(CONSTRAINTS_KEY, STILL_IN_FORCE))


def build_defs(
    sources: Mapping[str, SourceDefinition | SourceDefinitionError] | None = None,
    resource_overrides: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """All definitions for the given sources.

    Args:
        sources: id → definition, or the error that its file has; by default what the environment's folders hold.
        resource_overrides: replaces resources by name, for tests.
    """
    if sources is None:
        settings = load_settings()
        sources = find_sources(settings.sources_dir, settings.registered_sources_dir)
    usable = [source for source in sources.values() if isinstance(source, SourceDefinition)]
    banks = [source for source in usable if source.scb is not None]
    assets = [asset for source in usable for asset in _assets(source)]
    broken = {name: error for name, error in sources.items() if isinstance(error, BackfillError)}
    assets += [
        _broken_source(f"{_plain(name)}_{number}" if _plain(name) != name else name, error)
        for number, (name, error) in enumerate(broken.items(), start=1)
    ]
    jobs = {source.id: _jobs(source) for source in usable}
    watched = inbox_sources(usable, load_settings().inbox_dir)
    # What constraints are applied to: all that is posted, of banks all that is proven equal.
    before = [asset_key(source.id, "posted" if source.scb is None else "reconciliation") for source in usable]
    dispatch = [dispatch_job(banks)] if banks else []
    fresh = (freshness_check(source) for source in usable)
    checks = [*(source_checks(source) for source in usable), *(one for one in fresh if one), ledger_checks()]
    return dg.Definitions(
        asset_checks=checks,
        assets=[*assets, constraints_asset(before), audit_asset(), corrections_asset(), seals_asset()],
        jobs=[
            *(job for of_source in jobs.values() for job in of_source),
            *(_reconcile_job(source) for source in usable if source.scb is None),
            *dispatch,
            *operation_jobs(),
            _constraints_job(),
            checks_job(checks),
        ],
        schedules=[*(nightly_schedule(bank) for bank in banks), checks_schedule()],
        sensors=[
            inbox_sensor(usable, [job for source in watched for job in jobs[source.id]]),
            *(outbox_sensor(banks, job) for job in dispatch),
            *alert_sensors(),
        ],
        resources={"ledger": LedgerResource(), **(resource_overrides or {})},
        # One process per run: a process per step costs four seconds each, and the steps share nothing but the ledger.
        executor=dg.in_process_executor,
    )


def _assets(source: SourceDefinition) -> list[dg.AssetsDefinition]:
    if source.scb is not None:
        assets = [bank_assets(source), sync_status_asset(source)]
    else:
        assets = [
            plan_asset(source),
            manifest_asset(source),
            stage_assets(source),
            reconciliation_asset(source),
        ]
    return [at_a_glance(one, source) for one in assets]


def _jobs(source: SourceDefinition) -> list[dg.UnresolvedAssetJobDefinition]:
    if source.scb is not None:
        return [_sync_job(source)]
    return [
        dg.define_asset_job(
            f"register_{source.id}",
            selection=dg.AssetSelection.assets(asset_key(source.id, "manifest")),
            description=f"Registers {source.id}: reads it once and plans its partitions.",
        ),
        dg.define_asset_job(
            f"backfill_{source.id}",
            selection=dg.AssetSelection.assets(
                *(asset_key(source.id, stage) for stage in STAGES),
                CONSTRAINTS_KEY,
                asset_key(source.id, "reconciliation"),
            )
            - _STILL_IN_FORCE,
            description=f"Takes partitions of {source.id} through all stages, applies the constraints and reconciles.",
        ),
    ]


def _sync_job(bank: SourceDefinition) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        sync_job_name(bank.id),
        selection=dg.AssetSelection.assets(
            *(asset_key(bank.id, name) for name in DAY_ASSETS), CONSTRAINTS_KEY
        )
        - _STILL_IN_FORCE,
        tags={BANK_TAG: bank.id},
        description=f"Takes days of {bank.id} through everything: fetched, posted, acknowledged, compared.",
    )


def _reconcile_job(source: SourceDefinition) -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        f"reconcile_{source.id}",
        selection=dg.AssetSelection.assets(asset_key(source.id, "reconciliation")),
        description=f"Compares all of {source.id} with the ledger, field by field. Posts nothing.",
    )


def _constraints_job() -> dg.UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        "apply_constraints",
        selection=dg.AssetSelection.assets(CONSTRAINTS_KEY),
        description="Applies the balance constraints to the whole ledger and probes them. While accounts offend,"
        " nothing is applied, and they are listed.",
    )


def _plain(name: str) -> str:
    """A file's name in the letters that Dagster allows in names; the error tells the real one."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _broken_source(name: str, error: BackfillError) -> dg.AssetsDefinition:
    """A source file that cannot be read shows in the graph, with its error, and does not take the others away."""

    @dg.asset(
        key=[name, "manifest"],
        group_name="broken_sources",
        description=f"This source's definition cannot be used: {error}",
    )
    def broken() -> None:
        raise dg.Failure(description=str(error), allow_retries=False)

    return broken
