"""Closing periods, sealing and verifying with the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = pytest.mark.e2e


@pytest.fixture
def source(backfill: Backfill, world: World) -> Path:
    """Posted in January 2024, and sealed."""
    assert backfill("db", "migrate").code == 0
    path = world.write("s", entries(25), accounts={"A": 100, "B": 0})
    world.post(path)
    assert world.reconcile(path).matches
    return path


def test_a_month_is_closed_and_reopened_by_two_people(backfill: Backfill, source: Path) -> None:
    assert backfill("period", "close", "MASTER", "2024-13").code == 2
    refused = backfill("period", "close", "MASTER", "2199-01")
    assert (refused.code, refused.stdout) == (1, "")
    assert "period 2199-01 of ledger MASTER is not over" in refused.sentence

    closed = backfill("period", "close", "MASTER", "2024-01", "--by", "ann", "--reason", "month end")
    assert closed.code == 0
    assert closed.stdout.startswith("MASTER 2024-01 is closed with 25 entries, seal ")
    again = backfill("period", "close", "MASTER", "2024-01", "--by", "bob", "--json")
    assert (again.code, again.json["closed_now"], again.json["closed_by"]) == (0, False, "ann")

    for actor, code, state in (("ann", 3, "waiting for another person"), ("bob", 0, "open")):
        asked = backfill("period", "reopen", "MASTER", "2024-01", "--by", actor, "--json")
        assert (asked.code, asked.json["state"]) == (code, state)
    assert backfill("period", "list", "--json").json == {"closed": []}

    # Names and reasons are shown as they are, whatever is in them.
    assert (
        backfill("period", "close", "MASTER", "2024-01", "--by", "[/]\x1b[2Jann", "--reason", "[red]").code
        == 0
    )
    odd = backfill("period", "close", "MASTER", "2024-01")
    assert (odd.code, odd.stdout.rstrip().split(" by ")[1]) == (0, "[/]\\x1b[2Jann")
    unreadable = backfill("period", "reopen", "MASTER", "2024-01", "--reason", os.fsdecode(b"\xff"))
    assert (unreadable.code, "is not written in UTF-8" in unreadable.sentence) == (2, True)


@pytest.mark.slow
def test_what_was_touched_is_named(backfill: Backfill, world: World, source: Path) -> None:
    sealed = backfill("seal", "s", "--by", "ann", "--json")
    assert (sealed.code, sealed.json["sealed_now"]) == (0, 4)
    assert backfill("seal", "s", "--batch", "99").code == 2
    intact = backfill("verify")
    assert intact.code == 0
    assert intact.stdout.startswith("intact  4 seals over 26 entries")

    world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000017'")
    touched = backfill("verify", "s", "--since", "2024-01-01")
    assert touched.code == 4
    assert "of s, partition 0002 is not as it was sealed: 10 entries sealed, 10 found" in touched.stdout
    assert "R000017" in touched.stdout
    told = backfill("verify", "--json").json
    assert told["verdict"] == "touched"
    assert [one["breaks"][0]["source_row"] for one in told["touched"]] == [17]
    assert backfill("verify", "--since", "yesterday").code == 2
