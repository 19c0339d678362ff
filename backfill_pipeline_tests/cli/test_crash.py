"""A crash of everything that `backfill up` started, and what the next one makes of it."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from backfill_pipeline_tests.cli.command import Backfill, batches, count_or_zero, wait_until
from backfill_pipeline_tests.cli.test_inbox import inbox, put, stopped, write_slow_source
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = pytest.mark.e2e
__all__ = ["inbox"]  # a fixture


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_next_up_marks_runs_that_a_crash_left_over_frees_their_slots_and_carries_on(
    backfill: Backfill, world: World, inbox: Path
) -> None:
    write_slow_source(world)
    url = backfill.url or ""
    put(inbox, "1.csv", entries(6000))
    with backfill.started("up") as up:
        try:
            wait_until(lambda: batches(url) > 50, timeout=400, every=0.02)
        finally:
            family = [*psutil.Process(up.pid).children(recursive=True), psutil.Process(up.pid)]
            for one in family:
                one.kill()
            psutil.wait_procs(family, timeout=30)
    assert batches(url) < 300
    with psycopg.connect(backfill.dagster_url, autocommit=True) as dagster:
        (run_id,) = dagster.execute("SELECT run_id FROM runs WHERE status = 'STARTED'").fetchone() or (None,)
        assert run_id is not None
        # A slot of a pool, as a step holds one that is killed; our steps take none.
        dagster.execute("INSERT INTO concurrency_limits (concurrency_key, \"limit\") VALUES ('pool', 1)")
        dagster.execute(
            "INSERT INTO concurrency_slots (concurrency_key, run_id, step_key, deleted)"
            " VALUES ('pool', %s, 'step', false)",
            [run_id],
        )
    with backfill.started("up") as up, stopped(up):
        wait_until(lambda: _posted(url) == 6000, timeout=400, every=0.5)
        wait_until(
            lambda: count_or_zero(url, "SELECT count(*) FROM backfill_reconciliations") == 1, timeout=200
        )
        with psycopg.connect(backfill.dagster_url, autocommit=True) as dagster:
            assert dagster.execute("SELECT status FROM runs WHERE run_id = %s", [run_id]).fetchone() == (
                "FAILURE",
            )
            assert dagster.execute("SELECT run_id FROM concurrency_slots").fetchall() == [(None,)]
    assert backfill.query("SELECT verdict FROM backfill_reconciliations") == [("match",)]
    assert backfill.query("SELECT sum(duplicates)::int FROM backfill_batches") == [(0,)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_up_that_is_stopped_while_it_posts_leaves_no_process(
    backfill: Backfill, world: World, inbox: Path
) -> None:
    write_slow_source(world)
    url = backfill.url or ""
    put(inbox, "1.csv", entries(60_000))
    with backfill.started("up") as up:
        wait_until(lambda: batches(url) > 20, timeout=400, every=0.02)
        family = psutil.Process(up.pid).children(recursive=True)
        began = time.monotonic()
        up.terminate()
        up.communicate(timeout=120)
        took_s = time.monotonic() - began
    assert not [one for one in family if _runs(one)]
    assert _posted(url) < 60_000
    assert took_s < 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_next_up_ends_the_ui_and_daemon_of_one_that_was_killed_alone(
    backfill: Backfill, world: World
) -> None:
    world.write("s", entries(10))
    with backfill.started("up") as up:
        _wait_until_ready(up)
        family = psutil.Process(up.pid).children(recursive=True)
        up.kill()
        up.wait(30)
    try:
        heads = [one for one in family if _runs(one) and _is_head(one)]
        assert len(heads) == 2
        told = _told_of_the_ui(backfill)
        assert told["outcome"] == "warning"
        assert all(str(one.pid) in told["remedy"] for one in heads)
        with backfill.started("up") as second, stopped(second):
            _wait_until_ready(second)
            assert not [one for one in family if _runs(one)]
            assert _told_of_the_ui(backfill)["outcome"] == "ok"
    finally:
        for one in family:
            with suppress(psutil.Error):
                one.kill()


def _told_of_the_ui(backfill: Backfill) -> dict[str, str]:
    checks = json.loads(backfill("doctor", "--json").stdout)["checks"]
    return next(one for one in checks if one["name"] == "UI")


def _wait_until_ready(up: subprocess.Popen[str]) -> None:
    assert up.stdout is not None
    assert "Dagster UI" in up.stdout.readline()


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _is_head(process: psutil.Process) -> bool:
    return bool({"dagster_webserver", "backfill_pipeline.cli.daemon"} & set(process.cmdline()))


def _posted(url: str) -> int:
    return count_or_zero(url, "SELECT count(*) FROM ledger_entries WHERE transaction_type = 'TRANSFER'")
