"""Dagster's daemon, as `backfill up` starts it: `python -m backfill_pipeline.cli.daemon run -w workspace.yaml`.

Two habits of it have no setting, and cost who runs it:

- It looks for launched backfills every 30 seconds, and who launches partitions in the UI looks at the page until
  something happens: twice half a minute of nothing in the life of a backfill.
- Every minute it loads the definitions anew, whether they changed or not: seconds of a processor, and a third code
  server beside the two that there are, for two thirds of the time.

Belongs here: that process, with a shorter wait, and definitions that are loaded when there is a reason to.
Does not: starting it, and stopping it (`up.py`); what it does, which is Dagster's own.
"""

from __future__ import annotations

from typing import Final

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.remote_representation.code_location import GrpcServerCodeLocation
from dagster._daemon import controller
from dagster._daemon.cli import main
from dagster._daemon.controller import DagsterDaemonController
from dagster._time import get_current_timestamp

from backfill_pipeline.definition.source_files import versions
from backfill_pipeline.settings import load_settings

BACKFILLS_EVERY_S: Final = 5
"""A look is three small queries while no backfill is under way."""
RELOADED_AFTER_S: Final = 3600
"""Definitions are loaded anew after so long in any case, as where the product itself was changed."""


def look_often() -> None:
    """Sets the wait between two looks at backfills, which Dagster's loop reads when it starts."""
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILLS_EVERY_S


def reload_with_reason() -> None:
    """Has the daemon load the definitions when source files changed or its code server is not well, else hardly ever.

    Once a minute at most, as Dagster does. A reload that fails is tried again and never ends the daemon, which goes on
    with the definitions that it has.
    """
    settings = load_settings()
    folders = (settings.sources_dir, settings.registered_sources_dir)
    reload_if_due = DagsterDaemonController.check_workspace_freshness
    loaded = versions(folders)

    def check(self: DagsterDaemonController, reloaded_at: float) -> float:
        """Is called every few seconds; returns when the definitions were loaded, by Dagster's clock."""
        nonlocal loaded
        now = get_current_timestamp()
        try:
            found = versions(folders)
        except OSError:  # a folder that cannot be read now: nothing is known to have changed
            found = loaded
        if found == loaded and now - reloaded_at < RELOADED_AFTER_S and _is_well(self):
            return reloaded_at
        # Longer ago, and Dagster's daemon would end when it fails.
        before = max(reloaded_at, now - controller.DEFAULT_WORKSPACE_FRESHNESS_TOLERANCE + 1)
        after = reload_if_due(self, before)
        if after > before:
            loaded = found
        return after

    # Dagster makes its controller itself, and takes no other: only the method can be replaced (docs/decisions/).
    DagsterDaemonController.check_workspace_freshness = check  # type: ignore[method-assign, assignment]


def _is_well(daemon: DagsterDaemonController) -> bool:
    """Whether every code server answers, and could load the definitions."""
    context = daemon._workspace_process_context.create_request_context()
    for entry in context.get_code_location_entries().values():
        location = entry.code_location
        if location is None:
            return False
        if isinstance(location, GrpcServerCodeLocation):
            try:
                location.client.ping("")
            except DagsterUserCodeUnreachableError:
                return False
    return True


if __name__ == "__main__":
    look_often()
    reload_with_reason()
    main()
