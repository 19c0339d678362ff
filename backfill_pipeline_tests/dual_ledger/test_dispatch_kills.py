"""A dispatcher that is killed leaves nothing that the next one does not heal, at whatever moment it happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backfill_pipeline_tests.dual_ledger.test_dispatch import AT_ONCE, tell
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual

CHECKOUT = Path(__file__).resolve().parents[2]
WAIT_S = 60
PROGRAM = """
import sys
from pathlib import Path
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.dual_ledger.dispatch import dispatch
dispatch(sys.argv[1], [load_definition(Path(sys.argv[2]))], log=print)
"""


def start(dual: Dual, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, dual.places.ledger_url, str(path)],
        env={**os.environ, **dual.environment},
        cwd=CHECKOUT,
    )


def kill_when(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not happened():
        assert process.poll() is None, "it ended before anybody could kill it"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)


def count(dual: Dual, query: str) -> int:
    return int(str(dual.query(query)[0][0]))


def prepared(dual: Dual) -> Path:
    path = dual.write_scb(scb={"batch_size": 10})
    dual.open()
    dual.post_day(FIRST_DAY)
    for number in range(20):
        dual.post_here(f"HERE-{number:02d}")
    return path


@pytest.mark.parametrize("moment", ["request under way", "the bank has it", "between two requests"])
def test_a_killed_dispatcher_is_healed_by_the_next_one(dual: Dual, moment: str) -> None:
    path = prepared(dual)
    if moment != "between two requests":
        # The bank takes the request at once, or later, but answers late: long enough for the kill to come first.
        dual.faults({"kind": "slow", "delay_s": 3600, "after": 2})
    happened: dict[str, Callable[[], bool]] = {
        "request under way": lambda: dual.fired().get("slow", 0) > 0,
        "the bank has it": lambda: len(dual.acknowledged()) >= 20,
        "between two requests": lambda: count(dual, "SELECT count(*) FROM dual_ledger_deliveries") > 1,
    }
    process = start(dual, path)
    kill_when(process, happened[moment])
    dual.faults()
    before = dual.query("SELECT id, idempotency_key FROM dual_ledger_deliveries WHERE answered_at IS NULL")
    assert tell(dual, wait_s=WAIT_S).left == 0
    after = dual.query("SELECT id, idempotency_key FROM dual_ledger_deliveries")
    assert set(before) <= set(after), "an open delivery keeps its key"
    assert list(dual.received()) == [f"HERE-{number:02d}" for number in range(20)]
    dual.assert_told()


def test_killed_after_claiming_and_before_sending(dual: Dual, monkeypatch: pytest.MonkeyPatch) -> None:
    """What such a dispatcher leaves: rows that say SENT, in a delivery that the bank never saw."""
    from backfill_pipeline.ledger.banks import breakers, outbox_deliveries
    from backfill_pipeline.ledger.connection import connect

    prepared(dual)
    with connect(dual.places.ledger_url) as connection:
        breakers.breaker(connection, "SCB-01")
        assert outbox_deliveries.claim_acknowledgements(connection, "SCB-01", 10) == 10
    assert dual.acknowledged() == {}
    assert tell(dual, pauses=AT_ONCE).left == 0
    dual.assert_told()


def test_the_ledger_ends_the_session_while_a_request_is_under_way(dual: Dual) -> None:
    """The answer cannot be written down; the same request is sent once more, and the bank knows it again."""
    path = prepared(dual)
    dual.faults({"kind": "slow", "delay_s": 1, "count": 1})
    process = start(dual, path)
    deadline = time.monotonic() + WAIT_S
    while not dual.fired().get("slow"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    dual.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'backfill outbox%' AND pid <> pg_backend_pid()"
    )
    assert process.wait(WAIT_S) == 0
    assert tell(dual, wait_s=WAIT_S).left == 0
    dual.assert_told()
