"""A bank that is away for a day, a ledger that goes away: what the next night heals, and what it says until then."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.errors import BackfillError, TransientLedgerError
from backfill_pipeline.scb_simulator.tokens import Credentials
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.syncing import errors, night, outcomes, sync, tell
from backfill_pipeline_tests.dual_ledger.world import Dual, running_dual

THIRD_NIGHT = datetime.fromisoformat("2024-04-01T01:00:00Z")  # the last of the three days has ended


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("lookback", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_bank_that_is_down_for_a_day_is_caught_up_with_the_next_night(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lookback: int
) -> None:
    port, credentials = free_port(), Credentials.random()

    def bank() -> object:
        return running_dual(
            ledger_url,
            tmp_path,
            state=tmp_path / "bank.sqlite",
            port=port,
            credentials=credentials,
            monkeypatch=monkeypatch,
            days=3,
        )

    with bank() as dual:
        dual.write_scb(scb={"max_attempts": 2, "nightly": {"lookback_days": lookback}})
        assert outcomes(night(dual, "SCB-01", THIRD_NIGHT - timedelta(days=2))) == ["synced"]
    # Nobody answers at all. Somebody posts an entry here meanwhile.
    dual.post_here("OURS-1")
    reports = night(dual, "SCB-01", THIRD_NIGHT - timedelta(days=1))
    assert reports
    assert set(outcomes(reports)) == {"failed"}
    for report in reports:
        assert report.reason is not None
        assert "127.0.0.1" in report.reason
    assert tell(dual).left == 1
    assert dual.outbox_states()["acknowledgement", "ACKNOWLEDGED"] == 40
    assert set(dict(dual.outbox_states())) == {("acknowledgement", "ACKNOWLEDGED"), ("entry", "SENT")}
    with bank() as dual:
        dual.later()
        tell(dual)
        reports = night(dual, "SCB-01", THIRD_NIGHT)
        assert [one.day for one in reports][-2:] == dual.days()[-2:]
        assert set(outcomes(reports)) <= {"synced", "unchanged"}, errors(reports)
        dual.assert_equal()
        assert [row[0] for row in dual.query("SELECT complete FROM sync_status ORDER BY day")] == [True] * 3


def test_the_first_night_takes_up_no_day_before_the_start_and_none_that_is_not_over(dual: Dual) -> None:
    first = datetime.fromisoformat("2024-03-29T22:59:59Z")  # 23:59:59 of the first day in Paris
    assert night(dual, "SCB-01", first) == []
    assert [one.day for one in night(dual, "SCB-01", first + timedelta(seconds=1))] == dual.days()[:1]
    dual.assert_equal(days=dual.days()[:1])


def test_late_entries_are_caught_by_the_look_back_and_a_night_repeats_nothing(make_dual: MakeDual) -> None:
    dual = make_dual(days=6)
    last = datetime.fromisoformat("2024-04-04T01:00:00Z")
    dual.write_scb(scb={"nightly": {"lookback_days": 2}})
    sync(dual)
    late = dual.add_late(dual.days()[3], 2)
    reports = night(dual, "SCB-01", last)
    assert [(one.day, one.outcome) for one in reports] == [
        (dual.days()[3], "synced"),
        (dual.days()[4], "unchanged"),
        (dual.days()[5], "unchanged"),
    ]
    assert set(late) <= set(dual.acknowledged())
    dual.assert_equal()


def test_wrong_credentials_are_told_and_nothing_is_given_up(
    dual: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    dual.write_scb(scb={"send_attempts": 2})
    sync(dual, days=dual.days()[:1])
    dual.post_here("OURS-1")
    right = dual.environment["SCB_SIMULATOR_TOKEN"]
    monkeypatch.setenv("SCB_SIMULATOR_TOKEN", "wrong-token-of-somebody")
    for _ in range(4):  # more than send_attempts
        dual.later()
        report = tell(dual)
        assert report.errors
    reports = sync(dual)
    assert set(outcomes(reports)) == {"failed"}
    assert "wrong-token" not in str(errors(reports)) + str(report.errors)
    assert {status for _, status in dual.outbox_states()} == {"ACKNOWLEDGED", "SENT"}, dual.outbox()
    monkeypatch.setenv("SCB_SIMULATOR_TOKEN", right)
    dual.later()
    tell(dual)
    assert set(outcomes(sync(dual))) <= {"synced", "unchanged"}
    dual.assert_equal()


def cut(url: str, dice: random.Random, stop: threading.Event, cuts: list[int]) -> None:
    """Ends every connection of the product to the ledger, at random moments."""
    with psycopg.connect(url, autocommit=True) as connection:
        while not stop.wait(dice.uniform(0.05, 0.5)):
            done = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchall()
            cuts.append(len(done))


@pytest.mark.parametrize(
    "seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_ledger_whose_connections_break_loses_nothing(make_dual: MakeDual, seed: int) -> None:
    dual = make_dual(days=3, entries_per_day=60)
    dual.write_scb(scb={"page_size": 20, "batch_size": 10}, config={"batch_size": 10, "retry_delay": 50})
    stop, cuts = threading.Event(), list[int]()
    breaker = threading.Thread(target=cut, args=(dual.url, random.Random(seed), stop, cuts))
    breaker.start()
    try:
        for _ in range(3):
            with suppress(TransientLedgerError):  # before the first day: accounts could not be opened
                reports = sync(dual)
                assert all(isinstance(one.error, BackfillError) for one in reports if one.outcome == "failed")
    finally:
        stop.set()
        breaker.join()
    assert sum(cuts) > 0
    dual.later()
    tell(dual)
    reports = sync(dual)
    assert set(outcomes(reports)) <= {"synced", "unchanged"}, errors(reports)
    dual.assert_equal()
