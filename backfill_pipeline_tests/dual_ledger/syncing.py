"""Syncing a world's banks: in this process, or in one of its own that can be killed.

As a program: `python -m backfill_pipeline_tests.dual_ledger.syncing sync|dispatch URL FOLDER [BANK…]`.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import days_between, scb_of
from backfill_pipeline.dual_ledger.day_report import DayReport
from backfill_pipeline.dual_ledger.days import nightly_days, sync_days
from backfill_pipeline.dual_ledger.dispatch import DispatchReport, dispatch
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.stages.work import Places
from backfill_pipeline_tests.dual_ledger.world import Dual, source_id_of
from backfill_pipeline_tests.stages.world import CHECKOUT

RUN_S_MAX = 240


def _quiet(_message: str) -> None:
    return None


def sync(
    dual: Dual,
    bank: str = "SCB-01",
    days: Sequence[date] | None = None,
    *,
    refetch: Literal["changed", "always"] = "changed",
    log: list[str] | None = None,
    stop: threading.Event | None = None,
) -> list[DayReport]:
    """Syncs days of a bank (all of them by default), as one run does."""
    definition = dual.definition(bank)
    return list(
        sync_days(
            definition,
            dual.places,
            dual.days() if days is None else days,
            run_id="test",
            config=effective_config(definition.config, None),
            log=_quiet if log is None else log.append,
            stop=stop,
            refetch=refetch,
        )
    )


def night(dual: Dual, bank: str, now: datetime) -> list[DayReport]:
    """What the nightly schedule of a bank does at a moment."""
    definition = dual.definition(bank)
    with connect(dual.url) as connection:
        days = nightly_days(connection, definition, now)
    return sync(dual, bank, days)


def tell(dual: Dual, *banks: str, wait_s: float = 0) -> DispatchReport:
    """One dispatcher that sends what is due."""
    definitions = [dual.definition(bank) for bank in banks or dual.ledgers]
    return dispatch(dual.places.ledger_url, definitions, log=_quiet, wait_s=wait_s)


def outcomes(reports: Sequence[DayReport]) -> list[str]:
    return [one.outcome for one in reports]


def errors(reports: Sequence[DayReport]) -> list[str]:
    """Why days are not complete."""
    return [f"{one.day}: {one.reason}" for one in reports if one.reason is not None]


# --- in processes of their own --------------------------------------------------------------------------------------


@contextmanager
def started(dual: Dual, what: str, *banks: str) -> Iterator[subprocess.Popen[str]]:
    """A sync or a dispatcher in the background, in a process group of its own; nothing of it outlives the block."""
    command = [sys.executable, "-m", __name__, what, dual.url, str(dual.folder), *(banks or dual.ledgers)]
    process = subprocess.Popen(
        command,
        env={
            **os.environ,
            **dual.environment,
            "PYTHONPATH": str(CHECKOUT),
            "SYNC_LAST_DAY": dual.days()[-1].isoformat(),
        },
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _main(what: str, url: str, folder: str, *banks: str) -> None:
    sources = Path(folder) / "sources"
    definitions: list[SourceDefinition] = [
        load_definition(sources / f"{source_id_of(bank)}.yaml") for bank in banks
    ]
    places = Places(url, Path(folder) / "home" / "intermediates", Path(folder) / "home" / "rejects")
    if what == "dispatch":
        dispatch(url, definitions, log=_quiet, wait_s=RUN_S_MAX)
        return
    for definition in definitions:
        first = scb_of(definition).start
        last = date.fromisoformat(os.environ["SYNC_LAST_DAY"])
        for report in sync_days(
            definition,
            places,
            list(days_between(first, last)),
            run_id=f"process {os.getpid()}",
            config=effective_config(definition.config, None),
            log=_quiet,
        ):
            print(report.day, report.outcome, report.reason, flush=True)
    print("peak_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
