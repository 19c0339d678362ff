"""What live postings feel while a backfill goes on: latencies of `post_ledger_entry` beside it.

Belongs here: the phases (idle, beside a backfill in default batches, beside one in online batches) and percentiles.
Does not: posting live (`live_client.py`), tables and targets (`results.py`, `targets.py`).
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backfill_pipeline.bench.figures import LATENCY, Figures, insist
from backfill_pipeline.bench.live_client import CALLS_PER_SECOND, CLIENTS
from backfill_pipeline.bench.workloads import Bench
from backfill_pipeline.definition.models import RunConfig
from backfill_pipeline.ledger import checkpoints
from backfill_pipeline.stages.config import BackfillConfig, effective_config
from backfill_pipeline.stages.post import prepare_ledger
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline.stages.reconcile import reconcile
from backfill_pipeline.stages.runner import PartitionRunner
from backfill_pipeline.stages.work import SourceWork, open_work

SAMPLES_MIN = 1_000
"""So many calls a phase has at least, when the export is large enough: a 99th percentile rests on ten of them."""

_WARM_UP_S = 1.0
_LIMIT_S = 15.0  # in which small batches post a small part of a large export: what is left goes in large ones
_IDLE_S = 0.55 * SAMPLES_MIN / (CLIENTS * CALLS_PER_SECOND)  # on each of two ledgers, and some to spare
_PERCENTILES = (50, 99)


def live_latency(bench: Bench) -> Figures:
    """Latencies of live postings on an idle ledger and beside a backfill, in milliseconds.

    Two clients in a process of their own post between random accounts of the backfill's, one commit each, at a steady
    pace. Each kind of backfill (default batches, online batches) has a ledger of its own, in which the idle latencies
    are taken first; those of both ledgers count together. The backfill goes through all its stages, as a run does;
    when enough calls are made beside it, the rest is posted unmeasured. Afterwards every ledger is reconciled, and its
    balances must be those of backfilled and live entries together.

    Returns:
        `idle_p50_ms`, `idle_p99_ms`, the same with `default_` and `online_`; `…_calls` behind each; and the rates of
        the two backfills, `default_entries_per_s` and `online_entries_per_s`. With fewer than a million entries a
        backfill is over before `SAMPLES_MIN` calls are made, and the 99th percentile rests on few of them.

    Raises:
        BrokenContenderError: entries or balances are not what they must be afterwards.
    """
    latencies_s: dict[str, list[float]] = {}
    figures: Figures = {}
    for phase, config in (
        ("default", BackfillConfig()),
        ("online", effective_config(RunConfig(online=True))),
    ):
        beside = beside_a_backfill(bench, config)
        figures[f"{phase}_entries_per_s"] = beside.entries_per_s
        latencies_s.setdefault("idle", []).extend(beside.idle_s)
        latencies_s[phase] = beside.loaded_s
    for phase, values in latencies_s.items():
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        figures |= {f"{phase}_p{percent}_ms": cuts[percent - 1] * 1000 for percent in _PERCENTILES}
        figures[f"{phase}_calls"] = float(len(values))
    return figures


@dataclass(frozen=True, slots=True)
class Beside:
    """What live postings took before and beside one backfill, each in seconds, and how fast the backfill was."""

    idle_s: list[float]
    loaded_s: list[float]
    entries_per_s: float


def beside_a_backfill(bench: Bench, config: BackfillConfig, idle_s: float = _IDLE_S) -> Beside:
    """Measures one backfill with live postings before and beside it, on a fresh ledger, and reconciles it.

    Raises:
        BrokenContenderError: entries or balances are not what they must be afterwards, or nothing could be measured.
    """
    with bench.fresh_ledger() as (connection, places):
        work = bench.registered(places)
        prepare_ledger(work.definition, work.places, "bench")
        work = open_work(work.definition, places)
        connection.execute("CHECKPOINT")
        with _live_client(places.ledger_url) as client:
            time.sleep(_WARM_UP_S)
            client.begin("idle")
            time.sleep(idle_s)
            client.begin("loaded")
            entries_per_s = _backfill(work, config)
            latencies_s = client.stop()
        _backfill(open_work(work.definition, places), BackfillConfig(), limit_s=math.inf)
        _insist_on_balance(work, bench.entries.num_rows)
    for phase in ("idle", "loaded"):
        insist(len(latencies_s.get(phase, [])) >= 2, LATENCY, f"too few calls were made while {phase}")
    return Beside(latencies_s["idle"], latencies_s["loaded"], entries_per_s)


class _Client:
    """The process of the live clients, as their parent sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, phase: str) -> None:
        self._say(f"phase {phase}")

    def stop(self) -> dict[str, list[float]]:
        """Ends the last phase; returns seconds by phase."""
        self._say("stop")
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.read())
        insist(not said["failures"], LATENCY, f"live postings failed: {said['failures'][:1]}")
        latencies_s: dict[str, list[float]] = said["latencies_s"]
        return latencies_s

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


@contextmanager
def _live_client(url: str) -> Iterator[_Client]:
    """Starts the clients; whatever happens, they are gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-m", "backfill_pipeline.bench.live_client", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield _Client(process)
        finally:
            process.kill()


def _backfill(work: SourceWork, config: BackfillConfig, limit_s: float = _LIMIT_S) -> float:
    """All stages of one partition after the other, until the limit is over; returns entries per second."""
    keys = [partition.key for partition in work.registration.partitions]
    started = time.monotonic()
    runner = PartitionRunner(work, config, STAGES, "bench", _silent)
    for report in runner.run(keys):
        if report.error is not None and not runner.stop.is_set():
            raise report.error
        if time.monotonic() - started > limit_s:
            runner.stop.set()  # after the batch that is under way; what comes after is reported as not tried
    seconds = time.monotonic() - started
    with work.connect() as connection:
        checkpoint = checkpoints.load(connection, work.definition.id)
    return checkpoint.processed / seconds if checkpoint else 0.0


def _insist_on_balance(work: SourceWork, entries: int) -> None:
    """Every backfilled entry is there, and balances are those of backfilled and live entries together."""
    report = reconcile(open_work(work.definition, work.places))
    insist(
        report.matches and report.posted == entries,
        LATENCY,
        f"the ledger is not what the source says: {report.posted:,} of {entries:,} entries posted,"
        f" {report.break_count:,} breaks {dict(report.break_kinds)}, {report.account_break_count:,} wrong balances",
    )


def _silent(_message: str) -> None:
    return None
