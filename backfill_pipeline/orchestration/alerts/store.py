"""Where postboxes are kept: among Dagster's own records, so that they outlive daemons and an unreachable ledger.

Belongs here: reading and saving a postbox; one look at a time.
Does not: what is in it (`reporting/alerts/postbox.py`).
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import dagster as dg
from pydantic import ValidationError

from backfill_pipeline.reporting.alerts.message import Kind
from backfill_pipeline.reporting.alerts.postbox import Postbox

_KEY: Final = "backfill/alerts/{}"


def load(instance: dg.DagsterInstance, kind: Kind, now: datetime) -> Postbox:
    """The postbox of a kind of alerts; a new one when there is none that can be read.

    Args:
        instance: where it is kept.
        kind: of alerts.
        now: the moment, from which on a new one counts.
    """
    key = _KEY.format(kind.value)
    text = instance.daemon_cursor_storage.get_cursor_values({key}).get(key)
    if text:
        try:
            return Postbox.model_validate_json(text)
        except ValidationError:  # written by another release
            pass
    return Postbox(began=now, looked=now)


def save(instance: dg.DagsterInstance, kind: Kind, box: Postbox) -> None:
    """Keeps the postbox.

    Args:
        instance: where.
        kind: of alerts.
        box: as it is now.
    """
    instance.daemon_cursor_storage.set_cursor_values({_KEY.format(kind.value): box.model_dump_json()})


@contextmanager
def only_look(folder: Path, kind: Kind) -> Iterator[bool]:
    """Whether this is the only look at a kind of alerts: a person may try a sensor in the UI while the daemon ticks.

    Args:
        folder: for the lock, which goes with its process.
        kind: of alerts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"alerts-{kind.value}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
