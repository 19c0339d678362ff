"""Contenders inside the server: the limits, which are plain COPYs, and this product's posting.

Belongs here: one function per contender that needs no process of its own.
Does not: the command as users start it (`commands.py`), other products (`rivals.py`), repeating and comparing.
"""

from __future__ import annotations

import time

from backfill_pipeline.bench.figures import POSTING, POSTING_CONSTRAINED, Figures, insist
from backfill_pipeline.bench.workloads import Bench
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.plain_copy import time_plain_copy
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.prepare import StageName
from backfill_pipeline.stages.reconcile import reconcile
from backfill_pipeline.stages.runner import PartitionRunner
from backfill_pipeline.stages.work import open_work

_POSTING: tuple[StageName, ...] = ("posted",)

__all__ = ["Bench", "Figures", "plain_copy", "plain_copy_foreign_keys", "posting", "posting_constrained"]


def plain_copy(bench: Bench) -> Figures:
    """The limit: one COPY of all rows into the same table without triggers and foreign keys."""
    return _plain_copy(bench, foreign_keys=False)


def plain_copy_foreign_keys(bench: Bench) -> Figures:
    """The limit under constraints: the same with the two foreign keys, which the server checks row by row."""
    return _plain_copy(bench, foreign_keys=True)


def _plain_copy(bench: Bench, *, foreign_keys: bool) -> Figures:
    with bench.prepared_ledger() as (connection, _):
        seconds = time_plain_copy(connection, bench.entries, foreign_keys=foreign_keys)
    return {"seconds": seconds, "entries": float(bench.entries.num_rows)}


def posting(bench: Bench) -> Figures:
    """Posting alone, as a run does it by default: COPY, triggers, batch rows, checkpoints; no constraints yet."""
    return _posting(bench, POSTING, constrained=False)


def posting_constrained(bench: Bench) -> Figures:
    """The same into a ledger in which the balance constraints and the foreign keys are in force."""
    return _posting(bench, POSTING_CONSTRAINED, constrained=True)


def _posting(bench: Bench, contender: str, *, constrained: bool) -> Figures:
    """Measures posting of prepared partitions; reconciled afterwards, outside the measured time."""
    with bench.prepared_ledger(constrained=constrained) as (_, work):
        keys = [partition.key for partition in work.registration.partitions]
        runner = PartitionRunner(work, BackfillConfig(), _POSTING, "bench", _silent)
        started = time.monotonic()
        failures = [report.error for report in runner.run(keys) if report.error is not None]
        seconds = time.monotonic() - started
        insist(not failures, contender, f"posting failed: {failures[0] if failures else ''}")
        try:
            report = reconcile(open_work(work.definition, work.places))
        except BackfillError as error:
            insist(False, contender, f"it cannot be reconciled: {error}")
            raise
        insist(
            report.matches and report.posted == bench.entries.num_rows,
            contender,
            f"the ledger is not what the source says: {report.posted:,} of {bench.entries.num_rows:,} entries posted,"
            f" {report.break_count:,} breaks {dict(report.break_kinds)}, {report.account_break_count:,} wrong balances",
        )
    return {"seconds": seconds, "entries": float(report.posted)}


def _silent(_message: str) -> None:
    return None
