"""The inbox as people use it: `backfill up` watches, files are dropped, and `backfill inbox` tells."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance
from dagster._daemon.types import DaemonHeartbeat

from backfill_pipeline.cli.inbox import _is_watched
from backfill_pipeline_tests.cli.command import Backfill, batches, count_or_zero, wait_until
from backfill_pipeline_tests.stages.world import HEADER, World, entries

pytestmark = pytest.mark.e2e
RICH = {"A": 1, "B": 10**9, "C": 1}


def put(folder: Path, name: str, rows: Sequence[Sequence[object]]) -> Path:
    """As a client does that sends a file: under another name until it is complete."""
    part = folder / f"{name}.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *rows])
    return part.rename(folder / name)


@contextmanager
def stopped(up: subprocess.Popen[str]) -> Iterator[None]:
    """Ends the UI and the daemon with the block, whatever happens in it: they are in sessions of their own."""
    try:
        yield
    finally:
        os.kill(up.pid, signal.SIGTERM)
        up.communicate(timeout=60)


def write_slow_source(world: World) -> None:
    """A source of the inbox that is posted in many small batches: there is time to disturb it."""
    world.write(
        "s",
        [],
        file=None,
        files="../inbox/*.csv",
        accounts=RICH,
        partition_rows="2000",
        config={"batch_size": "20"},
    )


@pytest.fixture
def inbox(backfill: Backfill, tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    backfill.extra |= {"BACKFILL_INBOX_DIR": str(folder), "BACKFILL_INBOX_SETTLE_S": "1"}
    return folder


def test_the_inbox_is_shown_and_only_looked_at(backfill: Backfill, world: World, inbox: Path) -> None:
    nothing = backfill("inbox")
    assert nothing.code == 0, nothing
    assert "no source takes files from there" in nothing.stdout
    world.write("s", [], file=None, files="../inbox/*.csv", accounts=RICH)
    put(inbox, "1.csv", entries(10))
    (inbox / "notes [1].txt").write_text("?")
    for _ in range(2):
        shown = backfill("inbox", "--json").json
        assert shown == {
            "inbox": str(inbox),
            "watched": False,
            "sources": [
                {
                    "source_id": "s",
                    "state": "waiting",
                    "note": "1 file may still grow",
                    "files": [
                        {
                            "path": str(inbox / "1.csv"),
                            "bytes": (inbox / "1.csv").stat().st_size,
                            "state": "waiting",
                            "note": "may still grow",
                        }
                    ],
                }
            ],
            "unknown": [str(inbox / "notes [1].txt")],
        }
    text = backfill("inbox").stdout
    assert "s  waiting  1 waiting" in text
    assert "nothing watches it now: start backfill up" in text
    assert "notes [1].txt" in text
    assert backfill.query("SELECT count(*)::int FROM backfill_inbox_files") == [(0,)]


@pytest.mark.parametrize(("seconds_ago", "watched"), [(5, True), (60, True), (600, False)])
def test_a_daemon_that_was_heard_of_lately_watches(seconds_ago: float, watched: bool) -> None:
    with DagsterInstance.ephemeral() as instance:
        assert not _is_watched(instance)
        now = time.time()
        for kind, when in (("SENSOR", now - seconds_ago), ("SCHEDULER", now)):
            instance.add_daemon_heartbeat(DaemonHeartbeat(when, kind, "a daemon", []))
        assert _is_watched(instance) is watched


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_files_are_processed_by_the_daemon_also_after_kill_9(
    backfill: Backfill, world: World, inbox: Path
) -> None:
    """Everything for real: the daemon's ticks, its queue, run workers of their own, and one of them killed."""
    write_slow_source(world)
    url = backfill.url or ""
    with backfill.started("up") as up, stopped(up):
        put(inbox, "2024-01-02.csv", entries(6000))
        wait_until(lambda: batches(url) > 50, timeout=400, every=0.02)
        _kill_worker(up)
        assert batches(url) < 300
        wait_until(lambda: _posted(url) == 6000, timeout=400, every=0.5)
        wait_until(lambda: _verdicts(url) == 1, timeout=200, every=0.5)

        put(inbox, "2024-01-01.csv", entries(1000, first=6001))  # an earlier day comes later
        wait_until(lambda: _verdicts(url) == 2, timeout=300, every=0.5)
        assert backfill("inbox", "--json").json["watched"] is True
    assert _posted(url) == 7000
    assert backfill.query("SELECT revision, row_count::int FROM backfill_registrations") == [(1, 7000)]
    assert backfill.query("SELECT DISTINCT verdict FROM backfill_reconciliations") == [("match",)]
    assert backfill.query("SELECT sum(duplicates)::int FROM backfill_batches") == [(0,)]
    assert backfill.materialized("s", "posted") == {"0001", "0002", "0003", "0004"}
    shown = backfill("inbox", "--json").json["sources"]
    assert isinstance(shown, list)
    assert [(one["state"], [file["state"] for file in one["files"]]) for one in shown] == [
        ("done", ["done", "done"])
    ]


def _posted(url: str) -> int:
    return count_or_zero(url, "SELECT count(*) FROM ledger_entries WHERE transaction_type = 'TRANSFER'")


def _verdicts(url: str) -> int:
    return count_or_zero(url, "SELECT count(*) FROM backfill_reconciliations WHERE verdict = 'match'")


def _kill_worker(up: subprocess.Popen[str]) -> None:
    """Kills the process that executes the run: the only one that Dagster's code server starts."""
    family = psutil.Process(up.pid).children(recursive=True)
    commands = {one: " ".join(one.cmdline()) for one in family}
    workers = [one for one, command in commands.items() if "multiprocessing-fork" in command]
    assert workers, list(commands.values())
    for one in workers:
        one.kill()


@pytest.mark.slow
def test_a_run_of_a_source_that_grew_counts_what_was_there_as_duplicates(
    backfill: Backfill, world: World, inbox: Path
) -> None:
    world.write("s", [], file=None, files="../inbox/*.csv", accounts=RICH)
    put(inbox, "2.csv", entries(15))
    first = backfill("run", "s", "--json")
    assert first.code == 0, first
    put(inbox, "1.csv", entries(10, first=16))
    second = backfill("run", "s", "--json")
    assert second.code == 0, second
    counts = {
        name: second.json[name] for name in ("read", "posted", "duplicates", "partitions", "reconciliation")
    }
    assert counts == {"read": 25, "posted": 10, "duplicates": 15, "partitions": 3, "reconciliation": "match"}
    (inbox / "2.csv").unlink()
    refused = backfill("run", "s")
    assert refused.code == 1
    assert "lacks what was registered of it: 2.csv; put it back" in refused.sentence
