"""The daemon of `backfill up` looks for launched backfills more often than Dagster does by itself."""

import logging
import threading
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._daemon import controller
from dagster._daemon.backfill import execute_backfill_iteration_loop

from backfill_pipeline.cli.daemon import BACKFILLS_EVERY_S, look_often


class Clock(threading.Event):
    """Notes for how long it was waited, and does not wait."""

    waited_s: float | None = None

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s = timeout
        return False


def waits_s() -> float:
    """How long Dagster's own loop waits after a look at an instance without backfills."""
    clock = Clock()
    with dg.DagsterInstance.ephemeral() as instance:
        loop = execute_backfill_iteration_loop(
            SimpleNamespace(instance=instance), logging.getLogger(__name__), clock
        )
        while clock.waited_s is None:
            next(loop)
    return clock.waited_s


def test_dagsters_loop_waits_as_long_as_we_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", 30)
    assert BACKFILLS_EVERY_S < waits_s() <= 30
    look_often()
    assert 0 <= waits_s() <= BACKFILLS_EVERY_S
