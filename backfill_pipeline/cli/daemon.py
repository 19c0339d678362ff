"""Dagster's daemon, as `backfill up` starts it: `python -m backfill_pipeline.cli.daemon run -w workspace.yaml`.

Who launches partitions in the UI looks at the page until something happens. Dagster's daemon looks for launched
backfills every 30 seconds, and for that it has no setting: twice half a minute of nothing in the life of a backfill.

Belongs here: that process, with a shorter wait.
Does not: starting it, and stopping it (`up.py`); what it does, which is Dagster's own.
"""

from __future__ import annotations

from typing import Final

from dagster._daemon import controller
from dagster._daemon.cli import main

BACKFILLS_EVERY_S: Final = 5
"""A look is three small queries while no backfill is under way."""


def look_often() -> None:
    """Sets the wait between two looks at backfills, which Dagster's loop reads when it starts."""
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = BACKFILLS_EVERY_S


if __name__ == "__main__":
    look_often()
    main()
