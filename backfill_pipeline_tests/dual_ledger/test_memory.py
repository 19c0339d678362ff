"""Fetching is concurrent and bounded, and memory does not grow with a day."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.syncing import errors, outcomes, started, sync

MIB = 1 << 20


@pytest.mark.parametrize("workers", [1, 3])
def test_so_many_days_are_fetched_at_once_and_no_more(make_dual: MakeDual, workers: int) -> None:
    dual = make_dual(days=8, entries_per_day=30)
    dual.write_scb(scb={"fetch_workers": workers})
    book = dual.book()
    page, lock = book.page, threading.Lock()
    now = most = 0

    def counting(*arguments: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            time.sleep(0.1)
            return page(*arguments)
        finally:
            with lock:
                now -= 1

    book.page = counting
    reports = sync(dual)
    assert outcomes(reports) == ["synced"] * 8, errors(reports)
    assert min(workers, 2) <= most <= workers


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_day_of_100_000_entries_takes_no_more_memory_than_one_of_20_000(make_dual: MakeDual) -> None:
    peaks = {}
    dual = make_dual(ledgers=[
        {"id": "SCB-01", "entries_per_day": 20_000},
        {"id": "SCB-02", "entries_per_day": 100_000},
    ], days=1)  # fmt: skip
    for bank in dual.ledgers:
        dual.write_scb(bank, scb={"page_size": 5000, "batch_size": 5000}, partition_rows=10_000)
        with started(dual, "sync", bank) as process:
            stdout, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
        assert "synced None" in stdout, stdout
        peaks[bank] = int(stdout.rsplit("peak_bytes ", 1)[1])
    dual.assert_equal()
    assert peaks["SCB-02"] - peaks["SCB-01"] < 100 * MIB, peaks
