"""How a command is stopped.

Belongs here: SIGTERM as Ctrl-C, and both as one event for commands that go on until they are stopped.
Does not: what a command does when it is stopped.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def treat_sigterm_as_ctrl_c() -> None:
    """Whoever ends this process with SIGTERM, such as a service manager, has it clean up as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)  # to whoever handles Ctrl-C at this moment
        else:  # in the background of a script, Ctrl-C is ignored
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: both end the command in the same, clean way."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
