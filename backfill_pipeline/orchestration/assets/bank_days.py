"""The assets of a bank as one subsettable multi-asset, partitioned by the bank's days.

One run takes a range of days through manifest → extracted → transformed → validated → posted → acknowledged →
reconciliation, and logs each asset's materialization as it happens: a crash leaves the finished days shown as such.

Belongs here: Dagster's events around `dual_ledger/days.py`.
Does not: fetching, posting, telling or comparing.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import pairwise
from typing import Final

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.dual_ledger.day_report import DayReport
from backfill_pipeline.dual_ledger.days import sync_days
from backfill_pipeline.errors import TransientError
from backfill_pipeline.orchestration.assets.keys import DAY_ASSETS, asset_key, days_op_name
from backfill_pipeline.orchestration.assets.stages import FAILED_SHOWN
from backfill_pipeline.orchestration.assets.sync_status import status_event
from backfill_pipeline.orchestration.checks.sources import report_checks
from backfill_pipeline.orchestration.config import SyncRunConfig
from backfill_pipeline.orchestration.failures import TRANSIENT_MARK, terminal
from backfill_pipeline.orchestration.metadata import Metadata
from backfill_pipeline.orchestration.partitions import bank_days
from backfill_pipeline.orchestration.reconciliation_metadata import posted_as_a_whole
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.orchestration.sync_metadata import comparison, equality, equation, materialized
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.wording import are, counted

EQUAL_CHECK: Final = "ledgers_equal"
_DESCRIPTIONS: Final = {
    "manifest": "The day as the bank serves it, fetched once and proven complete with the bank's control totals before"
    " anything of it is posted.",
    "extracted": "The bank's entries as it wrote them; verified against the manifest.",
    "transformed": "Each of them as an entry: accounts, exact amounts, UTC times. Nothing is dropped.",
    "validated": "The entries that may be posted. The others are in the rejects table and file, with code and reason.",
    "posted": "Entries in the ledger, each exactly once, one transaction per batch. No batch is ever posted again.",
    "acknowledged": "The bank was told of every entry that is posted, and has said so.",
    "reconciliation": "Both ledgers compared for the day: control totals, then entry by entry and field by field, then"
    " what either side was told. A day that differs is not materialized.",
}
_KINDS: Final = {
    "manifest": {"scb"},
    "extracted": {"arrow"},
    "transformed": {"pandas", "arrow"},
    "validated": {"pandera", "arrow"},
    "posted": {"postgres"},
    "acknowledged": {"scb"},
    "reconciliation": {"postgres", "scb"},
}


def bank_assets(definition: SourceDefinition) -> dg.AssetsDefinition:
    """The multi-asset of a bank's days.

    Whichever of the assets are selected, a day is always taken through all that it still lacks: what is done is not
    done again, and nothing that is posted stays untold or uncompared.
    """
    section = scb_of(definition)
    keys = {name: asset_key(definition.id, name) for name in DAY_ASSETS}
    upstream = {after: [keys[before]] for before, after in pairwise(DAY_ASSETS)}

    @dg.multi_asset(
        name=days_op_name(definition.id),
        specs=[
            dg.AssetSpec(
                keys[name],
                deps=upstream.get(name, []),
                group_name=definition.id,
                description=_DESCRIPTIONS[name],
                kinds=_KINDS[name],
                skippable=True,
            )
            for name in DAY_ASSETS
        ],
        check_specs=[
            dg.AssetCheckSpec(
                EQUAL_CHECK,
                asset=keys["reconciliation"],
                blocking=True,
                description="Both ledgers hold the same entries of the days of the latest run, in every field, and"
                " neither has anything left to tell the other.",
            )
        ],
        partitions_def=bank_days(section),
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def days(
        context: dg.AssetExecutionContext, config: SyncRunConfig, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        # Neither is there when the check is executed by itself.
        if not (context.has_partition_key or context.has_partition_key_range):
            raise dg.Failure(
                description=f"{EQUAL_CHECK} is about days: materialize {definition.id}/reconciliation, and choose them",
                allow_retries=False,
            )
        wanted = [date.fromisoformat(key) for key in context.partition_keys]
        reports: list[DayReport] = []
        drawn: Metadata = {}  # of the last day: of all of them
        with terminal():
            for report in sync_days(
                definition,
                ledger.places,
                wanted,
                run_id=context.run.run_id,
                config=effective_config(definition.config, config.to_core()),
                log=context.log.info,
                refetch=config.refetch,
            ):
                reports.append(report)
                if report.day == wanted[-1]:
                    drawn = _range_figures(context, definition, ledger, reports)
                _log_events(context, definition.id, report, drawn)
            context.log_event(status_event(definition, ledger.places))
        if context.selected_asset_check_keys:
            yield _equal(reports)
        if failed := [report for report in reports if not report.complete]:
            report_checks(context.instance, ledger.places.ledger_url, definition)
            raise dg.Failure(
                description=failed_days_text(definition.id, failed, len(wanted)),
                metadata={TRANSIENT_MARK: any(isinstance(one.error, TransientError) for one in failed)},
                allow_retries=False,
            )
        if keys["reconciliation"] in context.selected_asset_keys:
            # What comes after waits for a result of its own. Dagster makes it one more event for each day, which would
            # hide what the first one tells.
            for report in reports:
                shown = {**comparison(report), **(drawn if report.day == wanted[-1] else {})}
                context.add_asset_metadata(shown, keys["reconciliation"], report.day.isoformat())
            yield dg.MaterializeResult(asset_key=keys["reconciliation"])

    return days


def _range_figures(
    context: dg.AssetExecutionContext,
    definition: SourceDefinition,
    ledger: LedgerResource,
    reports: Sequence[DayReport],
) -> Metadata:
    """Pictures and totals of all days of a run; nothing where none of them was read now."""
    registrations = [one.registration.id for one in reports if one.registration is not None]
    if not registrations:
        return {}
    return posted_as_a_whole(definition, ledger.places, registrations, context.log.warning)


def _log_events(
    context: dg.AssetExecutionContext, source_id: str, report: DayReport, drawn: Metadata
) -> None:
    """What became of a day: an event for each asset of it, whichever were selected, since the whole day was done."""
    day = report.day.isoformat()
    for name, metadata in materialized(report):
        shown = {**metadata, **drawn} if name == "reconciliation" else metadata
        context.log_event(dg.AssetMaterialization(asset_key(source_id, name), partition=day, metadata=shown))
    if report.complete:
        context.log.info(f"{day}: {report.outcome}, {equation(report)}, acknowledged {report.acknowledged:,}")
        return
    context.log.error(f"{day}: {report.reason}")
    if report.error is None:  # it was compared: the table tells what differs
        key = asset_key(source_id, "reconciliation")
        context.log_event(dg.AssetObservation(key, partition=day, metadata=comparison(report)))


def _equal(reports: Sequence[DayReport]) -> dg.AssetCheckResult:
    sentence, metadata = equality(reports)
    return dg.AssetCheckResult(
        passed=all(report.complete for report in reports),
        check_name=EQUAL_CHECK,
        severity=dg.AssetCheckSeverity.ERROR,
        description=sentence,
        metadata=metadata,
    )


def failed_days_text(source_id: str, failed: Sequence[DayReport], tried: int) -> str:
    """How many of the tried days are not complete, which, why the first is not, and what to do."""
    names = ", ".join(report.day.isoformat() for report in failed[:FAILED_SHOWN]) + (
        " …" if len(failed) > FAILED_SHOWN else ""
    )
    them = "it" if len(failed) == 1 else "them"
    return (
        f"{len(failed)} of {counted(tried, 'day')} of {source_id} {are(len(failed))} not complete ({names}), the first"
        f" because: {str(failed[0].reason).rstrip('.')}. The next night takes {them} up; at once: backfill sync run"
        f" {source_id} --from {failed[0].day} --to {failed[-1].day}, or materialize the failed days from the UI."
    )
