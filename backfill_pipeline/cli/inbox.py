"""`backfill inbox`: what lies in the inbox and how each source of it stands. Looks only; the sensor acts.

Belongs here: gathering and printing.
Does not: deciding what is to be done (`stages/inbox.py`), launching it (`orchestration/sensors.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from backfill_pipeline.cli.output import console, print_json
from backfill_pipeline.cli.session import dagster_instance, open_session
from backfill_pipeline.cli.tables import printable
from backfill_pipeline.definition.catalogue import find_sources
from backfill_pipeline.definition.models import SourceDefinition

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from backfill_pipeline.orchestration.inbox import InboxOverview, SourceState

_STYLES = {"done": "green", "running": "cyan", "ready": "cyan", "waiting": "yellow", "refused": "red"}
_FILES_SHOWN = 20
# Dagster's daemon says every 30 seconds that it looks at sensors.
_SENSORS: Final = "SENSOR"
_SILENT_S: Final = 90


def show_inbox(*, as_json: bool) -> None:
    """Every source that takes files from the inbox, and the files that no source takes."""
    with open_session() as session, dagster_instance(session) as instance:
        from backfill_pipeline.orchestration.inbox import inbox_sources, overview

        settings = session.settings
        definitions = find_sources(settings.sources_dir, settings.registered_sources_dir).values()
        usable = [one for one in definitions if isinstance(one, SourceDefinition)]
        sources = inbox_sources(usable, settings.inbox_dir)
        found = overview(
            session.connection,
            instance,
            sources,
            settings.inbox_dir,
            settle_s=settings.inbox_settle_s,
            remember=False,
        )
        folder = str(settings.inbox_dir)
        watched = _is_watched(instance)
    if as_json:
        print_json(_as_json(found, folder, watched=watched))
        return
    console.print(f"inbox  {printable(folder)}", markup=False)
    if not found.sources:
        console.print("no source takes files from there: give one files or a file in it")
    for state in found.sources:
        _print_source(state)
    for path in found.strangers:
        console.print(f"no source takes {printable(str(path))}", markup=False)
    if found.sources and not watched:
        console.print("nothing watches it now: start backfill up, or post them with backfill run SOURCE")


def _is_watched(instance: DagsterInstance) -> bool:
    """Whether a daemon looked at the sensors of this home lately; one that was just stopped still counts."""
    heartbeat = instance.get_daemon_heartbeats().get(_SENSORS)
    return heartbeat is not None and heartbeat.timestamp > time.time() - _SILENT_S


def _as_json(found: InboxOverview, folder: str, *, watched: bool) -> dict[str, object]:
    return {
        "inbox": folder,
        "watched": watched,
        "sources": [
            {
                "source_id": state.inbox.source_id,
                "state": state.state,
                "note": state.note,
                "files": [
                    {
                        "path": str(file.path),
                        "bytes": file.size_bytes,
                        "state": file.state,
                        "note": file.note,
                    }
                    for file in state.inbox.files
                ],
            }
            for state in found.sources
        ],
        "unknown": [str(path) for path in found.strangers],
    }


def _print_source(state: SourceState) -> None:
    style = _STYLES.get(state.state, "")
    told = f"[{style}]{state.state}[/{style}]" if style else state.state
    counts = Counter(file.state for file in state.inbox.files)
    console.print(f"[bold]{state.inbox.source_id}[/bold]  {told}  ", end="")
    console.print(", ".join(f"{count} {kind}" for kind, count in counts.items()) or "no file")
    if state.note:
        console.print(f"  {printable(state.note)}", markup=False)
    others = [file for file in state.inbox.files if file.state != "done"]
    for file in others[:_FILES_SHOWN]:
        note = f"  {file.note}" if file.note else ""
        console.print(f"  {file.state}  {printable(file.path.name)}{printable(note)}", markup=False)
    if len(others) > _FILES_SHOWN:
        console.print(f"  and {len(others) - _FILES_SHOWN} more; --json has all")
