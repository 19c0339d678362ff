"""The reconciliation asset of a source, with the check that a break fails.

Belongs here: Dagster's side of `stages/reconcile.py`.
Does not: comparing.
"""

from collections.abc import Collection, Iterator

import dagster as dg

from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.mapping.definition import SourceDefinition
from backfill_pipeline.orchestration.assets.keys import (
    CONSTRAINTS_KEY,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    asset_key,
)
from backfill_pipeline.orchestration.failures import TRANSIENT_RETRIES, terminal
from backfill_pipeline.orchestration.metadata import reconciliation_metadata
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.stages.reconcile import ReconciliationReport, equation, reconcile
from backfill_pipeline.stages.work import open_work

MATCH_CHECK = "ledger_equals_source"


def reconciliation_asset(definition: SourceDefinition) -> dg.AssetsDefinition:
    """Every field of every entry, every count, every balance; tolerance zero."""
    key = asset_key(definition.id, "reconciliation")

    @dg.asset(
        key=key,
        deps=[asset_key(definition.id, "posted"), CONSTRAINTS_KEY],
        group_name=definition.id,
        kinds={"postgres"},
        check_specs=[
            dg.AssetCheckSpec(
                MATCH_CHECK,
                asset=key,
                blocking=True,
                description="read = posted + duplicates + conflicts + rejected + filtered; every field of every entry"
                " as in the source; debits = credits per currency; every balance equal to its legs.",
            )
        ],
        retry_policy=TRANSIENT_RETRIES,
        description="Compares the whole source with the ledger, entry by entry and field by field, and every"
        " balance with its legs. A break fails the check.",
    )
    def reconciliation(
        context: dg.AssetExecutionContext, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        with terminal():
            work = open_work(definition, ledger.places)
            report = reconcile(work, _partitions_of_run(context, work.registration))
        context.log.info(reconciliation_text(report))
        metadata = reconciliation_metadata(report)
        yield dg.MaterializeResult(
            metadata=metadata,
            check_results=[
                dg.AssetCheckResult(
                    passed=report.matches,
                    check_name=MATCH_CHECK,
                    severity=dg.AssetCheckSeverity.ERROR,
                    description=reconciliation_text(report),
                    metadata=metadata,
                )
            ],
        )

    return reconciliation


def _partitions_of_run(
    context: dg.AssetExecutionContext, registration: Registration
) -> Collection[str] | None:
    """The partitions that this run was launched for; None when it was launched for none, as by itself in the UI."""
    tags = context.run.tags
    first = tags.get(RANGE_START_TAG, tags.get(PARTITION_TAG))
    last = tags.get(RANGE_END_TAG, first)
    keys = [partition.key for partition in registration.partitions]
    if first not in keys or last not in keys:
        return None
    return keys[keys.index(first) : keys.index(last) + 1]


def reconciliation_text(report: ReconciliationReport) -> str:
    """The outcome in a sentence."""
    if report.matches:
        still_open = (
            f"; {report.open_partitions:,} partitions are not posted yet" if report.open_partitions else ""
        )
        return (
            f"match: {report.entries_compared:,} entries equal in every field,"
            f" {report.opening_entries_compared:,} opening entries, every balance equal to its legs;"
            f" {equation(report)}{still_open}"
        )
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.break_kinds.most_common())
    return (
        f"break: {kinds or 'no entry differs'}; {report.account_break_count:,} accounts and"
        f" {len(report.currency_breaks)} currencies differ; {equation(report)}:"
        " see the tables of breaks, correct by entries, and reconcile again"
    )
