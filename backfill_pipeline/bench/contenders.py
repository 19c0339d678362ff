"""What is measured: the limit (a plain COPY), this product's posting, and its whole pipeline as a user starts it.

Belongs here: preparing the data once, and one function per contender.
Does not: repeating and comparing (`__main__`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.ledger.plain_copy import time_plain_copy
from backfill_pipeline.local.embedded import EmbeddedServer, embedded_server
from backfill_pipeline.local.endpoint import ensure_database
from backfill_pipeline.local.generate import generate
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.post import prepare_ledger
from backfill_pipeline.stages.prepare import PartitionFrames, StageName
from backfill_pipeline.stages.reconcile import reconcile
from backfill_pipeline.stages.runner import PartitionRunner
from backfill_pipeline.stages.work import Places, SourceWork, open_work

Figures = dict[str, float]
_POLL_S = 0.05
_PREPARING: tuple[StageName, ...] = ("validated",)
_POSTING: tuple[StageName, ...] = ("posted",)


@dataclass(frozen=True, slots=True)
class Bench:
    """The prepared benchmark: a server, an export, and its entries as posting takes them."""

    home: Path
    server: EmbeddedServer
    source_file: Path
    entries: pa.Table

    @staticmethod
    @contextmanager
    def prepare(home: Path, entries: int, accounts: int) -> Iterator[Bench]:
        """Generates the export and maps it once, so that posting alone can be measured."""
        with embedded_server(home) as server:
            export = generate(entries, accounts, 1, 0.0, home / "export", name="bench")
            bench = Bench(home, server, export.definition_file, pa.table({}))
            with bench.fresh_ledger() as (_, places):
                work = bench.registered(places)
                frames = [
                    PartitionFrames(work, partition.key, ()).validated()
                    for partition in work.registration.partitions
                ]
                prepared = home / "entries.parquet"
                pq.write_table(pa.concat_tables(frames), prepared)
            yield Bench(home, server, export.definition_file, pq.read_table(prepared))

    @contextmanager
    def fresh_ledger(self) -> Iterator[tuple[Connection, Places]]:
        """An empty, migrated ledger of its own, dropped afterwards."""
        url = self.server.url("bench")
        ensure_database(url)
        try:
            with connect(url) as connection:
                migrate(connection)
                connection.execute("CHECKPOINT")
                yield connection, Places(url, self.home / "intermediates", self.home / "rejects")
        finally:
            with connect(self.server.url("postgres")) as connection:
                connection.execute("DROP DATABASE bench WITH (FORCE)")

    def registered(self, places: Places) -> SourceWork:
        """The generated source, registered in a fresh ledger."""
        definition = load_definition(self.source_file)
        register_source(definition, places)
        return open_work(definition, places)


def plain_copy(bench: Bench) -> Figures:
    """The limit: one COPY of all rows into the same table without triggers."""
    with bench.fresh_ledger() as (connection, _):
        return {
            "seconds": time_plain_copy(connection, bench.entries),
            "entries": float(bench.entries.num_rows),
        }


def posting(bench: Bench) -> Figures:
    """Posting alone, in batches of the default size: COPY, triggers, batch rows, checkpoints; no constraints yet."""
    return _posting(bench, BackfillConfig())


def posting_two_workers(bench: Bench) -> Figures:
    """The same over two connections: while one batch is in its trigger, the next is being copied."""
    return _posting(bench, BackfillConfig(parallel_workers=2))


def _posting(bench: Bench, config: BackfillConfig) -> Figures:
    """Measures posting of prepared partitions; reconciled afterwards, outside the measured time."""
    with bench.fresh_ledger() as (connection, places):
        work = bench.registered(places)
        keys = [partition.key for partition in work.registration.partitions]
        for _ in PartitionRunner(work, config, _PREPARING, "prepare", _silent).run(keys):
            pass
        prepare_ledger(work, "bench")
        work = open_work(work.definition, places)
        # What preparing wrote is flushed first, as before every contender: it is not posting's to write.
        connection.execute("CHECKPOINT")
        started = time.monotonic()
        for _ in PartitionRunner(work, config, _POSTING, "bench", _silent).run(keys):
            pass
        seconds = time.monotonic() - started
        report = reconcile(open_work(work.definition, places))
        if not report.matches or report.posted != bench.entries.num_rows:
            raise SystemExit(f"posting does not reconcile: {report.break_kinds}")
        return {
            "seconds": seconds,
            "entries": float(report.posted),
            "reconciliation_seconds": report.seconds,
        }


def pipeline(bench: Bench) -> Figures:
    """`backfill run` as a user starts it: interpreter, imports, server, all stages, constraints, reconciliation."""
    home = bench.home / "pipeline"
    shutil.rmtree(home, ignore_errors=True)
    ours = ("BACKFILL", "LEDGER", "DAGSTER")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    started = time.monotonic()
    with (bench.home / "pipeline.out").open("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "backfill_pipeline.cli", "run", str(bench.source_file), "--json"],
            env={**environment, "BACKFILL_HOME": str(home)},
            stdout=output,
        )
        peak = _watch_memory(process)
        seconds = time.monotonic() - started
        output.seek(0)
        printed = output.read()
    shutil.rmtree(home)
    result = json.loads(printed) if process.returncode == 0 else {}
    if result.get("reconciliation") != "match" or result.get("posted") != bench.entries.num_rows:
        raise SystemExit(f"backfill run ended with {process.returncode}: {printed}")
    return {
        "seconds": seconds,
        "entries": float(result["posted"]),
        "peak_memory_mib": peak,
    }


def _watch_memory(process: subprocess.Popen[bytes]) -> float:
    """Waits for a process; returns the peak of its resident memory in MiB.

    Read from the kernel while it runs: what wait4 reports counts the fork of this process, before the exec, as well.
    """
    peak = 0.0
    while process.poll() is None:
        try:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]) / 1024)
        except (OSError, ProcessLookupError):
            break
        time.sleep(_POLL_S)
    process.wait()
    return peak


def _silent(_message: str) -> None:
    return None


CONTENDERS: dict[str, Callable[[Bench], Figures]] = {
    "plain COPY, no triggers": plain_copy,
    "posting": posting,
    "posting, two workers": posting_two_workers,
    "whole pipeline": pipeline,
}
