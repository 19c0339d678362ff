"""Imports under way while a server starts, and Python's collector out of their way.

Belongs here: importing a command's heavy modules in a thread; when the collector looks for garbage.
Does not: which modules those are (the commands name them).

Dagster, pandas and pyarrow make a quarter of a million objects that live as long as the process. The collector goes
through them again and again while they are made, and several times more at the end of the process: a third of the
imports' time, and a second of every run's end, spent on finding nothing. What the command itself makes is collected as
usual, to the end. Files and connections do not wait for it: whoever opens one closes it.
"""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_USUAL_THRESHOLDS = gc.get_threshold()
_ALLOCATIONS_WHILE_IMPORTING = 20_000


def import_mostly() -> None:
    """The process begins: it imports, and makes next to no garbage until `work_from_now_on`."""
    gc.set_threshold(_ALLOCATIONS_WHILE_IMPORTING, *_USUAL_THRESHOLDS[1:])


def work_from_now_on() -> None:
    """Everything is imported: the collector works as usual, on what is made from now on."""
    gc.freeze()
    gc.set_threshold(*_USUAL_THRESHOLDS)


@contextmanager
def preloading(modules: Sequence[str]) -> Iterator[None]:
    """Imports `modules`, in this order, while the block does something else, and is done with it when the block ends.

    The block should import nothing itself: two threads that enter a circle of modules from two sides would each see
    half of it. A block that fails does not wait for more than the module that is being imported. A module that cannot
    be imported fails where it is imported in earnest, with its traceback.
    """
    failed = threading.Event()
    thread = threading.Thread(target=_import, args=(modules, failed), name="preload")
    thread.start()
    try:
        yield
    except BaseException:
        failed.set()
        raise
    finally:
        thread.join()


def _import(modules: Sequence[str], failed: threading.Event) -> None:
    for name in modules:
        if failed.is_set():
            return
        try:
            importlib.import_module(name)
        except Exception:  # whatever it is, the import in earnest meets it again, where somebody hears of it
            return
