"""`backfill sync`: days of a bank through everything by one command, and what it says when something is wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backfill_pipeline_tests.cli.command import Backfill, finish, wait_until
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual, execute, running_dual

pytestmark = pytest.mark.e2e

SPAN = ("--from", "start", "--to", "2024-03-31")
SECOND = "2024-03-30"


@pytest.fixture
def dual(backfill: Backfill, tmp_path: Path) -> Iterator[Dual]:
    """A bank with 3 days of 40 entries, its definition in the folder of sources, its credentials where commands run."""
    assert backfill.url is not None
    with running_dual(backfill.url, tmp_path) as made:
        made.write_scb(scb={"max_attempts": 2})
        backfill.extra.update(made.environment)
        yield made


def the_bank(found: dict[str, Any]) -> dict[str, Any]:
    (bank,) = found["banks"]
    assert isinstance(bank, dict)
    names = ("posted", "duplicates", "conflicts", "rejected", "filtered")
    if "read" in bank:
        assert bank["read"] == sum(bank[name] for name in names)
    return bank


def test_from_the_first_run_to_a_bank_that_is_behind(backfill: Backfill, dual: Dual) -> None:
    assert "no bank was synchronised here yet" in backfill("sync", "status").stdout
    first = backfill("sync", "run", *SPAN, "--json")
    assert first.code == 0, first
    bank = the_bank(first.json)
    assert (bank["days"], bank["synced"], bank["unchanged"], bank["incomplete"]) == (3, 3, 0, [])
    assert (bank["posted"], bank["acknowledged"], bank["opening_entries"]) == (120, 120, 40)
    assert (first.json["constraints"], first.json["exit_code"]) == ("applied", 0)
    dual.assert_equal()
    assert backfill.materialized("scb_01", "reconciliation") == {str(day) for day in dual.days()}

    # What came late is posted, and nothing else. What the bank changed is a conflict and a break, in words.
    dual.book().add_late(FIRST_DAY, 2, 0)
    dual.change(next(iter(dual.entries_there(day=dual.days()[1]))), amount="0.01")
    changed = backfill("sync", "run", "scb_01", *SPAN)
    assert changed.code == 4, changed
    assert "1 synced, 1 unchanged, 1 not complete" in changed.stdout
    assert "read 82 = posted 2 + duplicates 79 + conflicts 1 + rejected 0 + filtered 0" in changed.stdout
    assert f"{SECOND}  break  the ledgers differ: different 1;" in changed.stdout
    assert f"next            backfill rejects list scb_01@{SECOND}" in changed.stdout
    status = backfill("sync", "status", "scb_01", "--json")
    assert status.code == 1
    (incomplete,) = the_bank(status.json)["incomplete"]
    assert (incomplete["day"], incomplete["state"]) == (SECOND, "break")
    assert (
        f"backfill sync reconcile scb_01 --from {SECOND} --to {SECOND}" in backfill("sync", "status").stdout
    )
    compared = backfill("sync", "reconcile", "scb_01")
    assert compared.code == 4
    assert "3 days compared: 1 break, 2 match" in compared.stdout
    listed = backfill("rejects", "list", "scb_01", "--json")
    assert listed.json == {"source_id": "scb_01", "by_code": {"conflict": 1}, "by_day": {SECOND: 1}}
    whole = backfill("status")
    assert "scb_01  3 days of a bank, 2024-03-29 to 2024-03-31" in whole.stdout
    assert "@" not in whole.stdout  # a bank is one source, however many days it has


@pytest.mark.slow
def test_a_bank_that_is_down_and_one_that_is_back(backfill: Backfill, dual: Dual) -> None:
    dual.faults({"kind": "down", "how": "close", "for_s": 3600})
    down = backfill("sync", "run", "scb_01", *SPAN)
    assert down.code == 1, down
    assert "2024-03-31: 3 not complete" in down.stdout
    assert "2024-03-29  failed  " in down.stdout
    assert "Traceback" not in down.stderr
    unreachable = backfill("sync", "reconcile", "scb_01", "--from", SECOND, "--to", SECOND)
    assert (unreachable.code, "failed: scb_01 2024-03-30: " in unreachable.stderr) == (1, True)
    dual.faults()
    assert backfill("sync", "run", "scb_01", *SPAN).code == 0
    dual.assert_equal()
    again = the_bank(backfill("sync", "run", "scb_01", *SPAN, "--json").json)  # nothing is read
    assert (again["unchanged"], again["read"], again["acknowledged"]) == (3, 0, 120)
    dual.faults({"kind": "down", "how": "close", "for_s": 3600})
    away = backfill("sync", "run", "scb_01", *SPAN)  # it may have changed since: nobody can tell
    assert away.code == 1
    assert "2024-03-31: 3 complete before, not asked now" in away.stdout
    assert "failed: 3 of 3 days of scb_01 are not complete" in away.stderr
    assert "3 days complete" in backfill("sync", "status", "scb_01").stdout


@pytest.mark.slow
def test_ctrl_c_leaves_what_the_same_command_finishes(backfill: Backfill, dual: Dual) -> None:
    dual.faults({"kind": "slow", "delay_s": 1})
    with backfill.started("sync", "run", "scb_01", *SPAN) as process:
        wait_until(lambda: bool(dual.log()))
        os.kill(process.pid, signal.SIGINT)
        stopped = finish(process)
    assert stopped.code == 130, stopped
    assert "the same command carries on" in stopped.stderr
    dual.faults()
    assert backfill("sync", "run", "scb_01", *SPAN).code == 0
    dual.assert_equal()


def told(process: psutil.Process) -> str:
    """Its command line; nothing for a child that ended while it was asked (a git that Dagster called, say)."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie is one, too
        return ""


def test_ctrl_c_in_a_terminal_is_answered_in_one_sentence(backfill: Backfill, dual: Dual) -> None:
    """There it goes to every process of the command, also to Dagster's that copy the output of a step."""
    dual.faults({"kind": "slow", "delay_s": 1})
    with backfill.started("sync", "run", "scb_01", *SPAN) as process:
        helpers: list[psutil.Process] = []

        def all_are_there() -> bool:
            helpers[:] = psutil.Process(process.pid).children()
            return sum("watch_orphans" in told(one) for one in helpers) == 2 and bool(dual.log())

        wait_until(all_are_there)
        os.killpg(process.pid, signal.SIGINT)
        stopped = finish(process)  # and no traceback of anybody
    assert (stopped.code, "the same command carries on" in stopped.sentence) == (130, True)
    assert not any(one.is_running() for one in helpers)


def test_entries_of_ours_reach_the_bank_and_refusals_are_told(backfill: Backfill, dual: Dual) -> None:
    assert backfill("sync", "run", "scb_01", "--from", FIRST_DAY, "--to", FIRST_DAY).code == 0
    ids = [one.id for one in dual.book().ledger.accounts if not one.shared and one.currency == "EUR"]
    execute(dual.url, "INSERT INTO bank_accounts (id, currency_code) VALUES ('ONLY-OURS', 'EUR')")
    dual.post_here("OURS-1")
    dual.post_here("OURS-2", debit="ONLY-OURS", credit=ids[0])
    waiting = backfill("outbox", "status", "--json", "--check")
    assert waiting.code == 0
    assert {(one["kind"], one["status"], one["count"]) for one in waiting.json["counts"]} == {
        ("acknowledgement", "ACKNOWLEDGED", 40),
        ("entry", "PENDING", 2),
    }
    sent = backfill("outbox", "dispatch", "--bank", "SCB-01")
    assert sent.code == 1, sent
    assert "SCB-01  acknowledged 1, refused for now 1, left 1" in sent.stdout
    assert set(dual.received()) == {"OURS-1"}
    shown = backfill("outbox", "show", "--bank", "scb_01", "--status", "failed")
    assert "OURS-2" in shown.stdout
    assert "unknown_account" in shown.stdout
    assert backfill("outbox", "retry", "--reference", "OURS-2").stdout.startswith("1 row is due again")
    none = backfill("outbox", "retry", "--reference", "OURS-1")
    assert (none.code, "no such row speaks of OURS-1" in none.stderr) == (2, True)
    again = backfill("outbox", "dispatch", "--json")
    assert (again.code, again.json["failed"], again.json["left"]) == (1, 1, 1)


@pytest.mark.slow
def test_a_dispatcher_that_watches_ends_cleanly(backfill: Backfill, dual: Dual) -> None:
    assert backfill("sync", "run", "scb_01", "--from", FIRST_DAY, "--to", FIRST_DAY).code == 0
    with backfill.started("outbox", "dispatch", "--watch") as process:
        dual.post_here("OURS-1")
        wait_until(lambda: "OURS-1" in dual.received())
        os.killpg(process.pid, signal.SIGTERM)
        stopped = finish(process)
    assert stopped.code == 0, stopped
    assert "SCB-01  acknowledged 1" in stopped.stdout
