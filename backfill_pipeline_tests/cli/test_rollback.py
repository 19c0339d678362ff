"""`backfill rollback`: a plan first, exactly that plan or nothing, and never half of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from backfill_pipeline.cli.rollback import rollback
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.generate import generate
from backfill_pipeline_tests.cli.command import Backfill, finish
from backfill_pipeline_tests.ledger.test_rollback import ring
from backfill_pipeline_tests.ledger.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ENTRIES = "SELECT count(*) FROM ledger_entries"


@pytest.fixture
def posted(backfill: Backfill, tmp_path: Path) -> Backfill:
    """A source of three partitions that is posted, under balance constraints."""
    export = generate(3_000, 60, 3, 0.0, tmp_path / "export", name="books", partition_rows=1_000)
    outcome = backfill("run", export.definition_file, "--json")
    assert outcome.code == 0, outcome
    return backfill


@pytest.mark.slow
def test_planned_applied_said_again_and_posted_again(posted: Backfill) -> None:
    (count,) = posted.query(ENTRIES)[0]
    shown = posted("rollback", "books")
    assert shown.code == 0
    assert "rolling back books: mode delete" in shown.stdout
    assert "--apply --plan-hash " in shown.stdout
    plan = posted("rollback", "books", "--plan", "--json").json
    assert str(plan["plan_hash"]) in shown.stdout
    assert posted.query(ENTRIES) == [(count,)]

    partition = posted("rollback", "books", "--partition", "0002", "--plan", "--json").json
    refused = posted("rollback", "books", "--apply", "--plan-hash", partition["plan_hash"])
    assert refused.code == 1
    assert "the ledger changed since the plan" in refused.sentence
    assert posted.query(ENTRIES) == [(count,)]

    arguments = ("rollback", "books", "--apply", "--plan-hash", plan["plan_hash"], "--by", "ana")
    done = posted(*arguments, "--reason", "wrong export", "--json")
    assert done.code == 0
    assert done.json["applied"] is True
    assert posted.query(ENTRIES) == [(0,)]
    assert posted.query("SELECT actor, reason FROM audit_log WHERE action = 'rollback'") == [
        ("ana", "wrong export")
    ]
    again = posted(*arguments)
    assert again.code == 0
    assert "was rolled back at" in again.stdout
    assert "by ana already: nothing of it is posted" in again.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"apply": True}, "--apply takes the hash of the plan that was shown"),
        ({"plan_hash": "a" * 64}, "--plan-hash goes with --apply"),
        ({"plan": True, "apply": True, "plan_hash": "a" * 64}, "planned or applied, not both at once"),
        ({"mode": "erase"}, "--mode is delete or reverse, not erase"),
        ({"at": "noon"}, "--at is original or now, not noon"),
    ],
)
def test_options_that_cannot_be_meant_are_usage(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        rollback("books", **options)


def test_what_was_never_registered_is_usage(backfill: Backfill) -> None:
    outcome = backfill("rollback", "nobody")
    assert outcome.code == 2
    assert "source nobody was never registered: there is nothing of it to roll back" in outcome.sentence


@pytest.fixture
def days(backfill: Backfill) -> Backfill:
    """Two days of a bank that are posted, and the ledger that they are in."""
    with connect(backfill.ledger_url) as connection:
        migrate(connection)
        world = World(backfill.ledger_url, connection)
        for day in ("2024-03-01", "2024-03-02"):
            ring(world, 3, source_id=f"scb@{day}")
    return backfill


def test_a_day_of_a_bank_is_a_partition_and_goes_alone(days: Backfill) -> None:
    shown = days("rollback", "scb", "--partition", "2024-03-01", "--mode", "reverse", "--at", "now")
    assert shown.code == 0, shown
    assert "rolling back scb partition 2024-03-01: mode reverse, dated now" in shown.stdout
    assert "days of a bank are incomplete afterwards: its next night takes them up again" in shown.stdout
    command = shown.stdout.split("to do this  backfill ")[1].split()
    assert command[:8] == ["rollback", "scb", "--partition", "2024-03-01", "--mode", "reverse", "--at", "now"]
    done = days(*command)
    assert done.code == 0, done
    assert "scb partition 2024-03-01 is rolled back: 3 entries reversed" in done.stdout
    assert "post it again with backfill sync run scb --from 2024-03-01 --to 2024-03-01" in done.stdout
    assert days.query(
        "SELECT DISTINCT b.source_id, b.kind FROM backfill_batches b WHERE b.kind <> 'opening' ORDER BY 1"
    ) == [("scb@2024-03-01", "reversal"), ("scb@2024-03-02", "entries")]
    again = days(*command)
    assert (again.code, "already: nothing of it is posted" in again.stdout) == (0, True)


def test_a_bank_is_all_of_its_days(days: Backfill) -> None:
    plan_hash = days("rollback", "scb", "--json").json["plan_hash"]
    done = days("rollback", "scb", "--apply", "--plan-hash", plan_hash)
    assert done.code == 0, done
    assert "post it again with backfill sync run scb --from 2024-03-01 --to 2024-03-02" in done.stdout
    assert days.query(ENTRIES) == [(0,)]


def test_what_is_not_there_is_usage_and_says_what_is(days: Backfill) -> None:
    outcome = days("rollback", "scb", "--partition", "2024-03-09")
    assert outcome.code == 2
    assert outcome.sentence.endswith("source scb has no partition 2024-03-09; it has 2024-03-01, 2024-03-02")
    outcome = days("rollback", "scb@2024-03-01", "--batch", "99")
    assert outcome.code == 2
    assert "source scb@2024-03-01 has no batch 99; it has 1, 2" in outcome.sentence
    outcome = days("rollback", "scb", "--mode", "delete", "--at", "now")
    assert outcome.code == 2
    assert "what is deleted is not dated" in outcome.sentence


@pytest.mark.parametrize(
    "pause_s",
    [0.05, *(pytest.param(one, marks=pytest.mark.slow) for one in (0.0, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0))],
)
def test_killed_at_any_moment_it_is_done_or_not_done(posted: Backfill, pause_s: float) -> None:
    (before,) = posted.query(ENTRIES)[0]
    balances = posted.query("SELECT id, balance FROM bank_accounts ORDER BY id")
    plan_hash = posted("rollback", "books", "--json").json["plan_hash"]
    with posted.started("rollback", "books", "--apply", "--plan-hash", plan_hash) as process:
        # From the moment on at which it is connected.
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if posted.query(
                "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'backfill command'"
            ):
                break
        time.sleep(pause_s)
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
    # The server may still be at it for a moment.
    while posted.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"):
        time.sleep(0.01)
    (left,) = posted.query(ENTRIES)[0]
    assert left in (0, before)
    rollbacks, kept = posted.query(
        "SELECT (SELECT count(*) FROM backfill_rollbacks), (SELECT count(*) FROM backfill_batches)"
    )[0]
    assert (rollbacks, kept == 0) == ((1, True) if left == 0 else (0, False))
    if left:
        assert posted.query("SELECT id, balance FROM bank_accounts ORDER BY id") == balances

    again = posted("rollback", "books", "--apply", "--plan-hash", plan_hash)
    assert again.code == 0, again
    assert posted.query(ENTRIES) == [(0,)]
    assert posted.query("SELECT count(*) FROM backfill_rollbacks") == [(1,)]
