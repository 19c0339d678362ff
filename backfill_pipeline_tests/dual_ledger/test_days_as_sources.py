"""A day of a bank as a source of its own: what the sync is built on, without the sync."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backfill_pipeline.definition.scb_days import (
    day_definition,
    day_source_id,
    day_window,
    days_between,
    last_ended_day,
    scb_of,
    split_day_source_id,
)
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual

ZONES = (
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Africa/Cairo",  # begins at midnight, which does not exist
    "America/Santiago",
    "Asia/Tokyo",
    "Pacific/Apia",  # 2011-12-30 never was
    "America/Havana",
    "UTC",
)


def test_days_of_a_bank_are_posted_each_by_itself_in_any_order(dual: Dual) -> None:
    dual.open()
    for day in reversed(dual.days()):
        report = dual.post_day(day)
        assert report.error is None
    dual.assert_entries_equal()
    dual.assert_counts()
    assert dual.outbox_states() == {("acknowledgement", "PENDING"): 120}
    assert dual.received() == {}


def test_a_day_that_is_fetched_again_posts_what_is_new_and_reports_what_changed(dual: Dual) -> None:
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.add_late(FIRST_DAY, 3)
    changed = f"SCB-01-{FIRST_DAY:%Y%m%d}-000000007"
    before = dual.entries_here()[changed]
    dual.change(changed)
    dual.post_day(FIRST_DAY)
    here = dual.entries_here()
    assert len(here) == 43
    assert here[changed] == before != dual.entries_there()[changed]
    assert [code for _, _, code, _ in dual.rejects()] == ["conflict"]
    dual.assert_counts()
    assert dual.outbox_states() == {("acknowledgement", "PENDING"): 43}


def test_late_entries_of_one_day_leave_the_next_alone(dual: Dual) -> None:
    dual.open()
    first, second = dual.days()[:2]
    dual.post_day(first)
    dual.post_day(second)
    dual.add_late(first, 2)
    dual.post_day(first)
    revisions = dual.query(
        "SELECT source_id, max(revision) FROM backfill_registrations GROUP BY 1 ORDER BY 1"
    )
    assert revisions == [(day_source_id("scb_01", first), 2), (day_source_id("scb_01", second), 1)]


@pytest.mark.parametrize("zone", ZONES)
def test_days_follow_each_other_without_gap_or_overlap(make_dual: MakeDual, zone: str) -> None:
    dual = make_dual(timezone=zone)
    section = scb_of(dual.definition())
    for year in (2011, 2024):
        days = list(days_between(date(year, 1, 1), date(year, 12, 31)))
        windows = [day_window(section, day) for day in days]
        for (_, end), (begin, _), day in zip(windows[:-1], windows[1:], days[1:], strict=True):
            assert end == begin, day
        calendar = dual.book().ledger.calendar
        for day, (begin, end) in zip(days, windows, strict=True):
            assert begin.timestamp() == calendar.start_s(day), day
            assert end.timestamp() == calendar.start_s(day + timedelta(days=1)), day
        hours = {(end - begin) / timedelta(hours=1) for begin, end in windows}
        assert hours <= {0, 23, 23.5, 24, 24.5, 25}


def test_what_a_day_asks_the_bank_for_is_its_window(dual: Dual) -> None:
    sunday = date(2024, 3, 31)
    api = day_definition(dual.definition(), sunday).api
    assert api is not None
    assert api.windows is not None
    register_source(day_definition(dual.definition(), sunday), dual.places)
    (asked,) = {
        line.query for line in dual.log() if line.operation == "entries" and "cursor" not in line.query
    }
    assert asked.startswith("from=2024-03-31T00:00:00+01:00&to=2024-04-01T00:00:00+02:00")


@pytest.mark.parametrize(
    ("now", "ended"),
    [
        ("2024-03-31T21:59:59Z", date(2024, 3, 30)),  # 23:59:59 in Paris, summer time since that morning
        ("2024-03-31T22:00:00Z", date(2024, 3, 31)),
        ("2024-10-27T22:59:59Z", date(2024, 10, 26)),
        ("2024-10-27T23:00:00Z", date(2024, 10, 27)),
    ],
)
def test_a_day_has_ended_when_the_next_begins_in_the_banks_zone(dual: Dual, now: str, ended: date) -> None:
    section = scb_of(dual.definition())
    assert last_ended_day(section, datetime.fromisoformat(now)) == ended
    assert last_ended_day(section, datetime.fromisoformat(now).astimezone(ZoneInfo("Asia/Tokyo"))) == ended
    assert day_window(section, ended)[1] <= datetime.fromisoformat(now).astimezone(UTC)


def test_ids_of_days_are_read_back_and_nothing_else_is() -> None:
    assert split_day_source_id(day_source_id("scb_01", FIRST_DAY)) == ("scb_01", FIRST_DAY)
    for other in (
        "scb_01",
        "scb_01@",
        "scb_01@2024-3-29",
        "scb_01@2024-02-30",
        "a@b@2024-03-29",
        "@2024-03-29",
    ):
        assert split_day_source_id(other) is None, other


def test_what_is_posted_here_is_for_the_bank_and_the_worlds_own_checks_can_fail(dual: Dual) -> None:
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.post_here("OURS-1")
    assert dual.outbox_states() == {("acknowledgement", "PENDING"): 40, ("entry", "PENDING"): 1}
    assert set(dual.entries_here(origin="LOCAL")) == {"OURS-1"}
    dual.assert_entries_equal(days=[FIRST_DAY])
    with pytest.raises(AssertionError):
        dual.assert_told()
    with pytest.raises(pytest.fail.Exception, match="80 lost"):
        dual.assert_entries_equal()
    dual.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id LIKE '%%000000001'")
    with pytest.raises(pytest.fail.Exception, match="1 different"):
        dual.assert_entries_equal(days=[FIRST_DAY])
    with pytest.raises(AssertionError):
        dual.assert_counts()
