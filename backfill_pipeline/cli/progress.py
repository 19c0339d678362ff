"""The progress bar of a run, fed from what every batch, or every day of a bank, commits.

Belongs here: polling and drawing.
Does not: what progress is (`ledger/status.py`).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from backfill_pipeline.cli.output import remarks
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.banks.bank_days import ended_since
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.status import processed_rows

_POLL_S = 0.3


class _Rate(ProgressColumn):
    """Rows per second, over the last polls."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")


@contextmanager
def posting_progress(ledger_url: str, source_id: str, rows: int, *, show: bool) -> Iterator[None]:
    """Shows how far a source's checkpoint moves while the block runs.

    Args:
        ledger_url: where the checkpoint is.
        source_id: whose checkpoint.
        rows: how many rows the run will go through.
        show: False does nothing, for JSON output.
    """
    if not show or not rows:
        yield
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=remarks,
    )
    done = threading.Event()
    task = progress.add_task(source_id, total=rows)
    watcher = threading.Thread(
        target=_watch, args=(ledger_url, source_id, rows, progress, task, done), name="progress", daemon=True
    )
    with progress:
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


@contextmanager
def days_progress(ledger_url: str, source_id: str, days: Sequence[date], *, show: bool) -> Iterator[None]:
    """Shows how many days of a bank are done while the block runs.

    Args:
        ledger_url: where the status of days is.
        source_id: of the bank.
        days: those of the run, in order.
        show: False does nothing, for JSON output.
    """
    if not show or not days:
        yield
        return
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("days"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=remarks,
    )
    done = threading.Event()
    task = progress.add_task(source_id, total=len(days))
    watcher = threading.Thread(
        target=_watch_days,
        args=(ledger_url, source_id, days, progress, task, done),
        name="progress",
        daemon=True,
    )
    with progress:
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _watch_days(
    ledger_url: str,
    source_id: str,
    days: Sequence[date],
    progress: Progress,
    task: TaskID,
    done: threading.Event,
) -> None:
    """Days are taken in order, so that the latest one that was ended since says how many are done."""
    began = datetime.now(UTC)
    try:
        with connect(ledger_url, application_name="backfill progress") as connection:
            finished = False
            while not finished:
                finished = done.wait(_POLL_S)
                latest = ended_since(connection, source_id, days[0], days[-1], began)
                progress.update(task, completed=0 if latest is None else bisect_right(days, latest))
            # All days were complete before: a bar left at nothing would look like a run that did not get on.
            if not progress.tasks[0].completed:
                progress.update(task, visible=False)
    except BackfillError:
        return


def _watch(
    ledger_url: str, source_id: str, rows: int, progress: Progress, task: TaskID, done: threading.Event
) -> None:
    """A bar that cannot be fed stands still; it never harms the run."""
    try:
        with connect(ledger_url, application_name="backfill progress") as connection:
            before = processed_rows(connection, source_id)
            finished = False
            while not finished:
                finished = done.wait(_POLL_S)
                progress.update(task, completed=min(rows, processed_rows(connection, source_id) - before))
            # Everything was posted before: a bar left at nothing would look like a run that did not get on.
            if not progress.tasks[0].completed:
                progress.update(task, visible=False)
    except BackfillError:
        return
