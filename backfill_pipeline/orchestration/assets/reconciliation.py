"""The reconciliation asset of a source, with the check that a break fails.

Belongs here: Dagster's side of `stages/reconcile.py`.
Does not: comparing.
"""

from collections.abc import Iterator

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.orchestration.assets.keys import (
    CONSTRAINTS_KEY,
    asset_key,
)
from backfill_pipeline.orchestration.failures import TRANSIENT_RETRIES, terminal
from backfill_pipeline.orchestration.reconciliation_metadata import (
    beside,
    reconciliation_metadata,
    stated_metadata,
)
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.stages.reconcile import ReconciliationReport, corrected_text, equation, reconcile
from backfill_pipeline.stages.stated import StatedReport
from backfill_pipeline.stages.work import open_work
from backfill_pipeline.wording import counted

MATCH_CHECK = "ledger_equals_source"
STATED_CHECK = "stated_balances_agree"


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
            ),
            *([_stated_check(key)] if definition.stated_balances else []),
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
            with beside(definition, ledger.places, [work.registration.id], context.log.warning) as figures:
                report = reconcile(work)
        context.log.info(reconciliation_text(report))
        metadata = reconciliation_metadata(report)
        yield dg.MaterializeResult(
            metadata={**metadata, **figures.result()},
            check_results=[
                dg.AssetCheckResult(
                    passed=report.matches,
                    check_name=MATCH_CHECK,
                    severity=dg.AssetCheckSeverity.ERROR,
                    description=reconciliation_text(report),
                    metadata=metadata,
                ),
                *([] if report.stated is None else [_stated_result(report.stated)]),
            ],
        )

    return reconciliation


def _stated_check(key: dg.AssetKey) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        STATED_CHECK,
        asset=key,
        blocking=False,
        description="The balances that the source states after its rows are those of the ledger. A drift is a warning:"
        " a rejected row explains it, and so does a bank's own rounding.",
    )


def _stated_result(report: StatedReport) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=report.agrees,
        check_name=STATED_CHECK,
        severity=dg.AssetCheckSeverity.WARN,
        description=report.sentence,
        metadata=stated_metadata(report),
    )


def reconciliation_text(report: ReconciliationReport) -> str:
    """The outcome in a sentence."""
    if report.matches:
        still_open = report.open_partitions
        corrected = corrected_text(report)
        so_far = f" so far, with {counted(still_open, 'partition')} not posted yet" if still_open else ""
        return (
            f"match{so_far}: {counted(report.entries_compared, 'entry', 'entries')} equal in every field"
            f"{f' ({corrected})' if corrected else ''},"
            f" {counted(report.opening_entries_compared, 'opening entry', 'opening entries')}, every balance equal"
            f" to its legs; {equation(report)}"
        )
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.break_kinds.most_common())
    return (
        f"break: {kinds or 'no entry differs'}; {counted(report.account_break_count, 'account')} and"
        f" {counted(len(report.currency_breaks), 'currency', 'currencies')} differ; {equation(report)}:"
        f" see the tables of breaks; backfill corrections propose {report.source_id} proposes what corrects them"
    )
