"""The manifest asset: materializing it registers the source.

Belongs here: Dagster's side of `stages/manifest.py`.
Does not: reading the source.
"""

from collections.abc import Iterator

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.orchestration.assets.keys import asset_key
from backfill_pipeline.orchestration.config import ManifestConfig
from backfill_pipeline.orchestration.failures import terminal
from backfill_pipeline.orchestration.metadata import manifest_metadata
from backfill_pipeline.orchestration.partitions import sync_partitions
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.post import prepare_ledger
from backfill_pipeline.wording import counted


def manifest_asset(definition: SourceDefinition) -> dg.AssetsDefinition:
    """The unpartitioned asset at the head of a source's group."""

    @dg.asset(
        key=asset_key(definition.id, "manifest"),
        group_name=definition.id,
        kinds={definition.type},
        description="Reads the source once, fingerprints and counts it, and registers its partitions."
        " Materialize this first; again when the source got new content.",
    )
    def manifest(
        context: dg.AssetExecutionContext, config: ManifestConfig, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        with terminal():
            report = register_source(
                definition,
                ledger.places,
                accept_changed=config.accept_changed,
                names=config.files or None,
            )
            if not report.registration.partitions:
                # Opening balances are posted with the first partition; an export without rows has none.
                prepare_ledger(definition, ledger.places, context.run.run_id)
        sync_partitions(context.instance, report.registration)
        context.log.info(
            f"{'registered' if report.is_new else 'already registered'}:"
            f" {counted(report.registration.row_count, 'row')} in"
            f" {counted(len(report.registration.partitions), 'partition')}, revision {report.registration.revision}"
            + (f", {counted(report.carried, 'partition')} of before kept: it grew" if report.carried else "")
        )
        yield dg.MaterializeResult(
            metadata=manifest_metadata(
                report.registration, report.repeated_rows, report.carried, report.details
            )
        )

    return manifest
