"""Killed at any moment, the sync and the dispatcher leave nothing that the next run does not heal."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from backfill_pipeline_tests.cli.command import count_or_zero, wait_until
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.syncing import errors, outcomes, started, sync, tell
from backfill_pipeline_tests.dual_ledger.world import Dual

pytestmark = pytest.mark.timeout(600)

_ENTRIES = "SELECT count(*) FROM ledger_entries"
_ACKNOWLEDGED = "SELECT count(*) FROM dual_ledger_outbox WHERE status = 'ACKNOWLEDGED'"


def kill_when(dual: Dual, what: str, statement: str, count: int, pause_s: float) -> bool:
    """Starts it, and kills it when a count is reached, and a moment later. False when it ended before."""
    with started(dual, what) as process:
        wait_until(lambda: process.poll() is not None or count_or_zero(dual.url, statement) >= count)
        time.sleep(pause_s)
        if process.poll() is not None:
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def healed(dual: Dual) -> None:
    """The next night."""
    dual.faults()
    dual.later()
    for bank in dual.ledgers:
        reports = sync(dual, bank)
        assert set(outcomes(reports)) <= {"synced", "unchanged"}, errors(reports)
        assert {one.verdict for one in reports} == {"match"}, errors(reports)
    dual.assert_equal()
    assert dual.value("SELECT count(*) FROM sync_status WHERE NOT complete") == 0
    assert dual.value("SELECT count(*) FROM dual_ledger_deliveries WHERE answered_at IS NULL") == 0


def small_steps(make_dual: MakeDual, **options: object) -> Dual:
    """A bank that is slow to answer, and posting in batches so small that there are many moments to be killed at."""
    dual = make_dual(**options)
    for bank in dual.ledgers:
        dual.write_scb(
            bank,
            scb={"page_size": 20, "batch_size": 7, "fetch_workers": 2},
            config={"batch_size": 5},
            partition_rows=30,
        )
    dual.faults({"kind": "slow", "delay_s": 0.03, "operations": ["acknowledge", "push", "entries"]})
    return dual


def test_a_sync_that_is_killed_while_it_posts_and_while_it_acknowledges(make_dual: MakeDual) -> None:
    dual = small_steps(make_dual, days=3, entries_per_day=60)
    opening = len(dual.book().ledger.accounts)
    killed = [
        kill_when(dual, "sync", _ENTRIES, opening + 20, 0.0),
        kill_when(dual, "sync", _ACKNOWLEDGED, 20, 0.01),
    ]
    assert all(killed)
    assert dual.value("SELECT count(*) FROM sync_status WHERE NOT complete") != 0
    healed(dual)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_sync_that_is_killed_at_random_moments(make_dual: MakeDual, seed: int) -> None:
    dice = random.Random(seed)
    dual = small_steps(make_dual, days=3, entries_per_day=80, ledgers=2)
    for number in range(6):
        dual.faults(
            {"kind": "slow", "delay_s": 0.05, "operations": ["acknowledge", "entries", "totals"]},
            {"kind": "lost_answer", "probability": 0.2, "seed": seed},
            {"kind": "truncated", "probability": 0.05, "seed": number},
        )
        with started(dual, "sync") as process:
            time.sleep(dice.uniform(1.0, 5.0))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    healed(dual)


@pytest.mark.slow
def test_a_sync_that_is_killed_and_whose_home_is_lost(make_dual: MakeDual) -> None:
    """What was captured is gone, half of a day is posted, and the bank says something else by now."""
    dual = small_steps(make_dual, days=2, entries_per_day=60)
    opening = len(dual.book().ledger.accounts)
    assert kill_when(dual, "sync", _ENTRIES, opening + 20, 0.0)
    shutil.rmtree(dual.folder / "home")
    late = dual.add_late(dual.days()[0], 2)
    healed(dual)
    assert set(late) <= set(dual.entries_here())


def prepared(make_dual: MakeDual, entries: int = 30) -> Dual:
    """A day that is posted, and entries of ours; nothing of it told."""
    dual = small_steps(make_dual, days=1, entries_per_day=60)
    dual.open()
    dual.post_day(dual.days()[0])
    dice = random.Random(7)
    shared = [one.id for one in dual.book().ledger.accounts if one.shared and one.currency == "EUR"]
    for number in range(entries):
        debit, credit = dice.sample(shared, 2)
        dual.post_here(f"OURS-{number:04d}", debit=debit, credit=credit)
    return dual


def in_order(dual: Dual) -> None:
    """For each account, the bank got our entries in the order in which they were posted."""
    received = dual.received()
    posted = [str(row[0]) for row in dual.outbox() if row[1] == "entry"]
    accounts = {one.debit_account for one in received.values()} | {
        one.credit_account for one in received.values()
    }
    for account in accounts:
        of_account = [
            received[reference].sequence
            for reference in posted
            if account in (received[reference].debit_account, received[reference].credit_account)
        ]
        assert all(before < after for before, after in pairwise(of_account)), account


def answers(dual: Dual) -> list[dict[str, int]]:
    """What the bank answered to each key."""
    with dual.simulator.bank.store.read() as connection:
        return [json.loads(row[0]) for row in connection.execute("SELECT answer FROM idempotency").fetchall()]


def test_a_dispatcher_that_is_killed_sends_nothing_twice_and_loses_nothing(make_dual: MakeDual) -> None:
    dual = prepared(make_dual)
    dual.faults(
        {"kind": "slow", "delay_s": 0.1, "operations": ["acknowledge", "push"]},
        {"kind": "lost_answer", "count": 3, "after": 2},
    )
    killed = [
        kill_when(dual, "dispatch", _ACKNOWLEDGED, 14, 0.05),
        kill_when(dual, "dispatch", "SELECT count(*) FROM dual_ledger_outbox WHERE kind = 'entry' AND"
                  " status = 'ACKNOWLEDGED'", 7, 0.05),
    ]  # fmt: skip
    assert any(killed)
    dual.faults()
    dual.later()
    tell(dual)
    dual.assert_told()
    in_order(dual)
    # A killed one's request was repeated with its key, so no item was ever judged under two keys.
    assert sum(one["accepted"] for one in answers(dual)) == 60 + 30
    assert sum(one["known"] for one in answers(dual)) == 0


def test_what_was_sent_without_an_answer_is_sent_again_under_the_same_key(make_dual: MakeDual) -> None:
    """The bank took it and nobody heard of it: a later dispatcher repeats it, and the bank does nothing twice."""
    dual = prepared(make_dual)
    dual.write_scb(scb={"batch_size": 7, "max_attempts": 1})
    dual.faults({"kind": "lost_answer", "count": 4})
    for _ in range(6):
        tell(dual)
        dual.later()
    assert dual.fired() == {"lost_answer": 4}
    dual.assert_told()
    in_order(dual)
    assert sum(one["accepted"] for one in answers(dual)) == 60 + 30
    assert sum(one["known"] for one in answers(dual)) == 0


def test_several_dispatchers_at_once_send_each_row_once_and_keep_the_order(make_dual: MakeDual) -> None:
    dual = prepared(make_dual)
    dual.faults({"kind": "slow", "delay_s": 0.02, "operations": ["acknowledge", "push"]})
    with ThreadPoolExecutor(4) as pool:
        reports = [one.result() for one in [pool.submit(tell, dual, wait_s=30) for _ in range(4)]]
    assert sum(one.acknowledged for one in reports) == 60 + 30
    assert sum(one.failed + one.dead for one in reports) == 0
    dual.assert_told()
    in_order(dual)
    assert sum(one["accepted"] for one in answers(dual)) == 60 + 30
    assert sum(one["known"] for one in answers(dual)) == 0


def test_two_syncs_of_one_bank_at_once_post_everything_once(make_dual: MakeDual) -> None:
    dual = small_steps(make_dual, days=3, entries_per_day=60)
    with ThreadPoolExecutor(2) as pool:
        for reports in [one.result() for one in [pool.submit(sync, dual) for _ in range(2)]]:
            assert all(one.reason for one in reports if one.outcome == "failed")
    healed(dual)
