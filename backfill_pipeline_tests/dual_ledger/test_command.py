"""One command for everything: banks backfilled through Dagster, killed, resumed, and no secret in anything it leaves."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline_tests.cli.command import Backfill, count_or_zero, wait_until
from backfill_pipeline_tests.dual_ledger.test_secrets import assert_hidden, everything_in
from backfill_pipeline_tests.dual_ledger.world import Dual, running_dual
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import whole_database

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture
def commanded(server: Server, tmp_path: Path) -> Iterator[Any]:
    """Starts banks beside the command: options of the simulator; gives the command and the world."""
    with ExitStack() as stack:

        def make(**options: Any) -> tuple[Backfill, Dual]:
            url = stack.enter_context(whole_database(server))
            with connect(url) as connection:
                migrate(connection)
            dual = stack.enter_context(running_dual(url, tmp_path, **options))
            for bank in dual.ledgers:
                dual.write_scb(bank)
            return Backfill(tmp_path / "home", url, dual.sources_dir, dual.environment), dual

        yield make


def test_one_command_backfills_several_banks_and_says_so(commanded: Any) -> None:
    backfill, dual = commanded(ledgers=2, days=2, entries_per_day=60)
    done = backfill("sync", "run", "--from", "start", "--to", dual.days()[-1], "--json")
    assert done.code == 0, done
    for bank in done.json["banks"]:
        assert (bank["days"], bank["synced"], bank["incomplete"]) == (2, 2, [])
        assert bank["read"] == bank["posted"] == bank["acknowledged"] == 120
    dual.assert_equal()
    assert set(backfill.run_statuses()) == {"SUCCESS"}
    # What it leaves and prints holds no secret: the ledger, Dagster's records, files, output.
    secrets = [one for one in dual.environment.values() if one]
    assert_hidden(dual, secrets, everything_in(backfill.dagster_url), str(done))


@pytest.mark.slow
def test_what_is_wrong_is_never_told_as_right(commanded: Any) -> None:
    backfill, dual = commanded(days=2)
    dual.write_scb(scb={"nightly": {"enabled": False}})  # so that no night is missing
    backfill("sync", "run", "--from", "start", "--to", dual.days()[-1])
    assert backfill("sync", "reconcile").code == 0
    assert backfill("sync", "status").code == 0
    # An entry of ours that the bank refuses for good, booked on a day that was complete.
    dual.post_here("OURS-1", at="2024-03-29T12:00:00Z", amount="1.5000001")
    told = backfill("outbox", "dispatch")
    assert told.code != 0, told
    assert backfill("outbox", "status").code == 1
    assert backfill("sync", "reconcile").code == 4
    night = backfill("sync", "run", "--from", "start", "--to", dual.days()[-1])
    status = backfill("sync", "status")
    assert night.code != 0, night
    assert status.code != 0, status
    assert "OURS-1" in backfill("outbox", "show", "--status", "DEAD").stdout


@pytest.mark.slow
def test_the_command_is_killed_at_random_and_the_next_one_finishes(commanded: Any) -> None:
    backfill, dual = commanded(ledgers=2, days=4, entries_per_day=200)
    for bank in dual.ledgers:
        dual.write_scb(bank, scb={"page_size": 50, "batch_size": 40}, config={"batch_size": 20})
    dice = random.Random(3)
    total = 2 * 4 * 200
    for _ in range(5):
        dual.faults(
            {"kind": "slow", "delay_s": 0.05, "operations": ["entries", "acknowledge"]},
            {"kind": "lost_answer", "probability": 0.2},
        )
        wanted = dice.randrange(1, total)
        with backfill.started("sync", "run", "--from", "start", "--to", dual.days()[-1]) as process:
            wait_until(
                lambda wanted=wanted, process=process: (
                    process.poll() is not None
                    or count_or_zero(backfill.url or "", "SELECT count(*) FROM ledger_entries") >= wanted
                )
            )
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    dual.faults()
    dual.later()
    done = backfill("sync", "run", "--from", "start", "--to", dual.days()[-1], "--json")
    assert done.code == 0, done
    dual.assert_equal()
    with psycopg.connect(backfill.dagster_url) as connection:
        open_runs = connection.execute(
            "SELECT count(*) FROM runs WHERE status IN ('STARTED', 'STARTING', 'QUEUED')"
        ).fetchone()
    assert open_runs == (0,)


@pytest.mark.slow
def test_a_month_of_three_banks_with_one_command(commanded: Any) -> None:
    backfill, dual = commanded(start="2024-03-15", days=30, ledgers=3, entries_per_day=2000)
    done = backfill("sync", "run", "--from", "start", "--to", dual.days()[-1], "--json", timeout=800)
    assert done.code == 0, done
    for bank in done.json["banks"]:
        assert (bank["days"], bank["synced"], bank["read"], bank["acknowledged"]) == (30, 30, 60_000, 60_000)
    dual.assert_equal()
