"""Killed at any moment, by any signal: the next run ends in the ledger of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from backfill_pipeline.local.generate import generate
from backfill_pipeline_tests.cli.command import Backfill, batches, finish, wait_until
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import Snapshot, World, assert_same_ledger, snapshot, whole_database

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ENTRIES = 60_000
PARTITIONS = 6
BATCH = 500
DIRTY = 0.004
OPEN_RUNS = {"STARTED", "STARTING", "NOT_STARTED", "CANCELING", "QUEUED"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60,000 bookings in six partitions, posted in batches of 500; some are duplicates, conflicts and rejects."""
    folder = tmp_path_factory.mktemp("killed")
    export = generate(ENTRIES, 300, 7, DIRTY, folder, name="killed", partition_rows=ENTRIES // PARTITIONS)
    with export.definition_file.open("a") as file:
        file.write(f"config: {{batch_size: {BATCH}}}\n")
    return export.definition_file


@pytest.fixture(scope="module")
def undisturbed(server: Server, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """What the ledger is after one run that nobody disturbs."""
    with whole_database(server) as url:
        outcome = Backfill(tmp_path_factory.mktemp("undisturbed"), url)("run", source, "--json")
        assert outcome.code == 3, outcome
        assert outcome.json["reconciliation"] == "match"
        assert batches(url) >= ENTRIES // BATCH
        return snapshot(url)


def kill_when(backfill: Backfill, source: Path, committed: int, *, command: str, pause_s: float) -> None:
    """Starts the command and kills its process group when so many batches are committed, and a moment later."""
    assert backfill.url is not None
    with backfill.started(command, source) as process:
        wait_until(lambda: batches(backfill.url or "") >= committed or process.poll() is not None)
        time.sleep(pause_s)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_killed_while_posting_and_resumed_ends_in_the_same_ledger(
    backfill: Backfill, server: Server, tmp_path: Path
) -> None:
    """The short one, for every day: one moment, and the same source posted without any orchestrator to compare with."""
    export = generate(6_000, 60, 3, 0.004, tmp_path / "export", name="small", partition_rows=2_000)
    with export.definition_file.open("a") as file:
        file.write("config: {batch_size: 40}\n")
    with server.ledger_database() as url:
        alone = World(url, tmp_path / "alone")
        alone.post(export.definition_file)
        expected = alone.snapshot()
    kill_when(backfill, export.definition_file, 60, command="run", pause_s=0.0)
    assert backfill.url is not None
    assert 60 <= batches(backfill.url) < 150
    assert OPEN_RUNS & set(backfill.run_statuses())

    outcome = backfill("resume", "small", "--json")

    assert outcome.code == 3, outcome
    assert outcome.json["reconciliation"] == "match"
    assert_same_ledger(snapshot(backfill.url), expected)
    assert not OPEN_RUNS & set(backfill.run_statuses())
    assert backfill.materialized("small", "posted") == {"0001", "0002", "0003"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "resume"])
def test_killed_at_many_moments_ends_in_the_same_ledger(
    backfill: Backfill, source: Path, undisturbed: Snapshot, command: str
) -> None:
    dice = random.Random(command)
    for committed in (1, 17, 40, 63, 95):
        first = committed == 1
        kill_when(
            backfill, source, committed, command="run" if first else command, pause_s=dice.random() * 0.08
        )
        assert backfill.url is not None
        assert batches(backfill.url) >= committed
    assert any(status in OPEN_RUNS for status in backfill.run_statuses()), "nothing was killed"

    outcome = backfill(command, source, "--json")

    assert outcome.code == 3, outcome
    assert outcome.json["reconciliation"] == "match"
    assert outcome.json["failed_partitions"] == []
    assert_same_ledger(snapshot(backfill.url), undisturbed)
    assert not OPEN_RUNS & set(backfill.run_statuses())
    keys = {f"{number:04d}" for number in range(1, PARTITIONS + 1)}
    for stage in ("extracted", "transformed", "validated", "posted"):
        assert backfill.materialized("killed", stage) == keys


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 1.6, 2.8, 3.6])
def test_killed_before_anything_is_posted_leaves_nothing_in_the_way(
    backfill: Backfill, source: Path, undisturbed: Snapshot, seconds: float
) -> None:
    with backfill.started("run", source) as process:
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    outcome = backfill("run", source, "--json")

    assert outcome.code == 3, outcome
    assert backfill.url is not None
    assert_same_ledger(snapshot(backfill.url), undisturbed)
    assert not OPEN_RUNS & set(backfill.run_statuses())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_with_one_sentence_and_resume_carries_on(
    backfill: Backfill, source: Path, undisturbed: Snapshot, number: signal.Signals
) -> None:
    assert backfill.url is not None
    with backfill.started("run", source, "--json") as process:
        wait_until(lambda: batches(backfill.url or "") >= 20)
        os.kill(process.pid, number)
        stopped = finish(process)

    assert stopped.code == 130, stopped
    assert stopped.stdout == ""
    assert "resume" in stopped.sentence
    assert 20 <= batches(backfill.url) < ENTRIES // BATCH
    assert not OPEN_RUNS & set(backfill.run_statuses())

    assert backfill("resume", source).code == 3
    assert_same_ledger(snapshot(backfill.url), undisturbed)


@pytest.mark.slow
def test_ctrl_c_before_anything_runs_is_one_sentence_too(backfill: Backfill, source: Path) -> None:
    for seconds in (0.7, 2.0):
        with backfill.started("run", source, "--json") as process:
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGINT)
            stopped = finish(process)
        assert stopped.code == 130, stopped
        assert stopped.stdout == ""
