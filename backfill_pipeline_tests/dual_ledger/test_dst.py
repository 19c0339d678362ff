"""Days of 23 and 25 hours: neither a gap nor an overlap, in any zone, and every entry once."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from urllib.parse import parse_qs

import pytest

from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.syncing import errors, outcomes, sync

DAYS = (
    ("Europe/Paris", "2024-03-30", [24, 23, 24]),
    ("Europe/Paris", "2024-10-26", [24, 25, 24]),
    pytest.param("Australia/Lord_Howe", "2024-04-06", [24, 24.5, 24], marks=pytest.mark.slow),  # half an hour
    pytest.param(
        "Africa/Cairo", "2024-04-25", [24, 23, 24], marks=pytest.mark.slow
    ),  # a midnight that does not exist
    ("America/Havana", "2024-11-02", [24, 25, 24]),  # its midnight comes twice
)


@pytest.mark.parametrize(("zone", "start", "hours"), DAYS)
def test_days_around_a_change_of_the_clock_are_whole_and_do_not_meet(
    make_dual: MakeDual, zone: str, start: str, hours: list[float]
) -> None:
    dual = make_dual(timezone=zone, start=start, days=3, entries_per_day=100)
    reports = sync(dual)
    assert outcomes(reports) == ["synced"] * 3, errors(reports)
    assert {one.verdict for one in reports} == {"match"}, errors(reports)
    assert [one.posted for one in reports] == [100] * 3
    dual.assert_equal()
    windows = dual.query("SELECT window_from, window_to FROM sync_status ORDER BY day")
    assert [(end - begin) / timedelta(hours=1) for begin, end in windows] == hours
    assert all(before[1] == after[0] for before, after in pairwise(windows))
    # The bank was asked for exactly these.
    asked = {
        (found["from"][0], found["to"][0])
        for line in dual.log()
        if line.operation == "entries" and "cursor=" not in line.query
        for found in [parse_qs(line.query.replace("+", "%2B"))]
    }
    assert len(asked) == 3
    assert all(before[1] == after[0] for before, after in pairwise(sorted(asked)))
    # Every entry is in the day that it belongs to, and in no other.
    days = dual.query(
        "SELECT s.day, count(*) FROM sync_status s JOIN ledger_entries e ON e.timestamp_utc >= s.window_from"
        " AND e.timestamp_utc < s.window_to JOIN backfill_batches b ON b.id = e.batch_id"
        " WHERE b.source_id = 'scb_01@' || s.day GROUP BY 1 ORDER BY 1"
    )
    assert [count for _, count in days] == [100] * 3
