"""SIGTERM ends a command as Ctrl-C does, also where Ctrl-C is ignored, as in the background of a script."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

_WAITS = """
import time
from backfill_pipeline.cli.signals import treat_sigterm_as_ctrl_c
treat_sigterm_as_ctrl_c()
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    print("cleaned up")
"""


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("before", [None, _ignore_ctrl_c])
def test_sigterm_is_a_keyboard_interrupt(before: Callable[[], None] | None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WAITS], stdout=subprocess.PIPE, text=True, preexec_fn=before
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == "cleaned up\n"
        finally:
            process.kill()
    assert process.returncode == 0
