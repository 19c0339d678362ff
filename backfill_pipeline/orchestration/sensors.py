"""The sensor that watches the inbox.

Belongs here: Dagster's side of `inbox.py`: when it looks, what it requests, what it says.
Does not: deciding anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.endpoint import resolve_ledger
from backfill_pipeline.orchestration.inbox import (
    InboxOverview,
    SourceState,
    inbox_sources,
    overview,
    run_request,
)
from backfill_pipeline.orchestration.launch import sweep_orphans
from backfill_pipeline.settings import Settings, load_settings
from backfill_pipeline.sources.several import file_label
from backfill_pipeline.stages.inbox_files import path_key, strangers

INTERVAL_S = 30
_SHOWN = 5


def inbox_sensor(
    definitions: Sequence[SourceDefinition], jobs: Sequence[dg.UnresolvedAssetJobDefinition]
) -> dg.SensorDefinition:
    """The sensor `inbox`.

    Args:
        definitions: all sources.
        jobs: of those that take files from the inbox.
    """

    @dg.sensor(
        name="inbox",
        jobs=list(jobs) or None,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches the inbox: files that a source takes are registered and posted once they are complete."
        " Does nothing while no source takes files from there.",
    )
    def inbox(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            return _look(context, definitions)
        except BackfillError as error:
            return dg.SkipReason(str(error))

    return inbox


def _look(
    context: dg.SensorEvaluationContext, definitions: Sequence[SourceDefinition]
) -> dg.SensorResult | dg.SkipReason:
    settings = load_settings()
    sources = inbox_sources(definitions, settings.inbox_dir)
    if not sources:
        lying = strangers(settings.inbox_dir, [])
        return dg.SkipReason(
            " ".join([f"no source takes files from {settings.inbox_dir}", *_strange(lying, settings)])
        )
    # A command that was killed left its run behind as if it were going on.
    sweep_orphans(context.instance, only_own=True)
    with resolve_ledger(settings) as endpoint, connect(endpoint.ledger_url) as connection:
        migrate(connection)
        found = overview(
            connection,
            context.instance,
            sources,
            settings.inbox_dir,
            settle_s=settings.inbox_settle_s,
            remember=True,
        )
    ready = [state for state in found.sources if state.state == "ready"]
    text = summary(found, settings)
    if not ready:
        return dg.SkipReason(text)
    context.log.info(text)
    return dg.SensorResult(run_requests=[run_request(state) for state in ready])


def summary(found: InboxOverview, settings: Settings) -> str:
    """The inbox in a line or two per source."""
    lines = [_told(state) for state in found.sources]
    return "\n".join([*lines, *_strange(found.strangers, settings)])


def _told(state: SourceState) -> str:
    files = state.inbox.files
    counts = {
        kind: count for kind in ("waiting", "new", "changed", "done", "copy", "refused")
        if (count := sum(file.state == kind for file in files))
    }  # fmt: skip
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "no file"
    copies = [f"{file_label(file.path)} {file.note}" for file in files if file.state == "copy"][:_SHOWN]
    note = f": {state.note}" if state.note else ""
    return "; ".join([f"{state.inbox.source_id} {state.state} ({told}){note}", *copies])


def _strange(found: Sequence[Path], settings: Settings) -> list[str]:
    if not found:
        return []
    named = ", ".join(path_key(path) for path in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"no source takes {named}{more}: give a source in {settings.sources_dir} files that match"]
