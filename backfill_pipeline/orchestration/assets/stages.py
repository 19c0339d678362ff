"""The four partitioned assets of a source as one subsettable multi-asset.

One run takes a whole range partition by partition through extracted → transformed → validated → posted, and logs each
asset's materialization as it happens: a crash leaves the first partitions whole and shown as such. Each of the four can
still be selected by itself.

Belongs here: Dagster's events around `stages/runner.py`.
Does not: the stages.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import TransientError
from backfill_pipeline.orchestration.assets.keys import asset_key
from backfill_pipeline.orchestration.checks.sources import report_checks
from backfill_pipeline.orchestration.config import BackfillRunConfig
from backfill_pipeline.orchestration.failures import TRANSIENT_MARK, terminal
from backfill_pipeline.orchestration.metadata import Metadata
from backfill_pipeline.orchestration.partitions import source_partitions
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.orchestration.stage_metadata import StageFigures
from backfill_pipeline.reporting import drawing
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.stages.prepare import STAGES, StageName
from backfill_pipeline.stages.runner import PartitionReport, PartitionRunner, describe
from backfill_pipeline.stages.work import open_work
from backfill_pipeline.wording import counted

_DESCRIPTIONS = {
    "extracted": "The source's records as it wrote them, with row, line and offset; verified against the manifest.",
    "transformed": "Each record as an entry: accounts, exact amounts, UTC times, references. Nothing is dropped.",
    "validated": "The entries that may be posted. The others are in the rejects table and file, with code and reason.",
    "posted": "Entries in the ledger, each exactly once, one transaction per batch. No batch is ever posted again.",
}
_KINDS = {
    "extracted": {"arrow"},
    "transformed": {"pandas", "arrow"},
    "validated": {"pandera", "arrow"},
    "posted": {"postgres"},
}
# How many failed partitions a message names; the count is always complete.
FAILED_SHOWN = 10
_TOLD_AGAIN_MAX = 400


def stage_assets(definition: SourceDefinition) -> dg.AssetsDefinition:
    """The multi-asset of a source's four stages."""
    keys = {stage: asset_key(definition.id, stage) for stage in STAGES}
    upstream = {"extracted": asset_key(definition.id, "manifest")} | {
        stage: keys[before] for before, stage in pairwise(STAGES)
    }

    @dg.multi_asset(
        name=f"{definition.id}_stages",
        specs=[
            dg.AssetSpec(
                keys[stage],
                deps=[upstream[stage]],
                group_name=definition.id,
                description=_DESCRIPTIONS[stage],
                kinds=_KINDS[stage],
                skippable=True,
            )
            for stage in STAGES
        ],
        partitions_def=source_partitions(definition.id),
        backfill_policy=dg.BackfillPolicy.single_run(),
        can_subset=True,
    )
    def stages(
        context: dg.AssetExecutionContext, config: BackfillRunConfig, ledger: LedgerResource
    ) -> Iterator[dg.MaterializeResult[None]]:
        selected = [stage for stage in STAGES if keys[stage] in context.selected_asset_keys]
        with terminal(), ExitStack() as stack:
            work = open_work(definition, ledger.places)
            runner = PartitionRunner(
                work=work,
                config=effective_config(definition.config, config.to_core()),
                selected=selected,
                run_id=context.run.run_id,
                log=context.log.info,
            )
            failed: list[PartitionReport] = []
            shown: list[tuple[StageName, str, Metadata]] = []
            if "posted" in selected:
                drawing.begin()
            figures = StageFigures(
                work.connect,
                work.registration.id,
                {one.key: one.id for one in work.registration.partitions},
                context.log.warning,
            )
            stack.callback(figures.close)
            for report in runner.run(context.partition_keys):
                last = report.key == context.partition_keys[-1]
                shown += _log_materializations(context, keys, selected, report, figures, last=last)
                if report.error is not None:
                    failed.append(report)
                    context.log.error(f"partition {report.key}: {describe(report.error)}")
            drawn = figures.drawn()
            # What is told again is what the UI shows of a partition: with its pictures, which were being drawn.
            shown = [
                (stage, key, {**metadata, **drawn.get(key, {})} if stage == STAGES[-1] else metadata)
                for stage, key, metadata in shown
            ]
        if failed:
            for stage, key, metadata in shown:
                if stage == STAGES[-1] and key in drawn:
                    context.log_event(dg.AssetMaterialization(keys[stage], partition=key, metadata=metadata))
            report_checks(context.instance, ledger.places.ledger_url, definition)
            raise dg.Failure(
                description=failure_text(definition.id, failed, len(context.partition_keys)),
                metadata={TRANSIENT_MARK: any(isinstance(one.error, TransientError) for one in failed)},
                allow_retries=False,
            )
        # What comes after waits for a result of its own, besides the materializations of the partitions. Dagster makes
        # it one more event for each, which would hide what the first one tells.
        for stage, key, metadata in _told_again(shown):
            context.add_asset_metadata(metadata, keys[stage], key)
        for stage in selected:
            yield dg.MaterializeResult(asset_key=keys[stage])

    return stages


def _log_materializations(
    context: dg.AssetExecutionContext,
    keys: Mapping[StageName, dg.AssetKey],
    selected: Sequence[StageName],
    report: PartitionReport,
    figures: StageFigures,
    *,
    last: bool,
) -> list[tuple[StageName, str, Metadata]]:
    """One event per stage that this run took the partition through; returns what they tell."""
    shown: list[tuple[StageName, str, Metadata]] = []
    if report.already_posted:
        note: Metadata = {"note": "posted before: nothing to do"}
        shown += [
            (stage, report.key, {**note, **figures.standing(report.key)} if stage == STAGES[-1] else note)
            for stage in selected
        ]
    shown += [
        (done.stage, report.key, figures.metadata(report.key, done, last=last)) for done in report.stages
    ]
    for stage, key, metadata in shown:
        context.log_event(dg.AssetMaterialization(keys[stage], partition=key, metadata=metadata))
    return shown


def _told_again(
    shown: Sequence[tuple[StageName, str, Metadata]],
) -> Sequence[tuple[StageName, str, Metadata]]:
    """What is told again at the end of a run: everything, or of long runs what was posted.

    Dagster lists all partitions for each: 4 ms where there are two thousand, which is 8 s for one stage and 30 s for
    four. What the other stages told is in the history of their events.
    """
    if len(shown) <= _TOLD_AGAIN_MAX:
        return shown
    return [one for one in shown if one[0] == STAGES[-1]]


def failure_text(source_id: str, failed: list[PartitionReport], tried: int) -> str:
    """How many of the tried partitions failed, which, why the first did, and what to do."""
    names = ", ".join(report.key for report in failed[:FAILED_SHOWN]) + (
        " …" if len(failed) > FAILED_SHOWN else ""
    )
    first = failed[0]
    assert first.error is not None
    return (
        f"{len(failed)} of {counted(tried, 'partition')} of {source_id} failed ({names}), the first because:"
        f" {describe(first.error)}."
        f" Then: backfill resume {source_id}, or launch failed and missing partitions from the UI."
    )
