"""Windows: every moment belongs to exactly one of them, whatever clocks do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.api import Windows
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.http.windows import questions
from backfill_pipeline_tests.sources.api_server import (
    PAGINATIONS,
    ApiServer,
    json_response,
    read,
    record,
    section,
    served,
)

NOW = datetime(2024, 3, 31, 22, 30, tzinfo=UTC)


def asked(now: datetime = NOW, **keys: str) -> list[tuple[str, str]]:
    windows = Windows.model_validate({"start": "2024-03-30", "end": "2024-04-02", "days": "1", **keys})
    return [(one["from"], one["to"]) for one in questions(windows, now)]


def test_days_are_half_open_and_the_last_window_may_be_short() -> None:
    assert asked(days="2") == [("2024-03-30", "2024-04-01"), ("2024-04-01", "2024-04-02")]
    assert asked(days="30") == [("2024-03-30", "2024-04-02")]


def test_an_inclusive_end_is_the_last_day() -> None:
    assert asked(days="2", to_inclusive="true") == [
        ("2024-03-30", "2024-03-31"),
        ("2024-04-01", "2024-04-01"),
    ]
    assert asked(format="%d.%m.%y", to_inclusive="true")[0] == ("30.03.24", "30.03.24")


@pytest.mark.parametrize(
    ("form", "second"),
    [
        ("iso8601", ("2024-03-31T00:00:00+01:00", "2024-04-01T00:00:00+02:00")),
        ("iso8601_utc", ("2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z")),
        ("epoch_seconds", ("1711839600", "1711922400")),
        ("epoch_milliseconds", ("1711839600000", "1711922400000")),
        ("%Y%m%d%H%M%z", ("202403310000+0100", "202404010000+0200")),
    ],
)
def test_the_day_on_which_clocks_go_forward_has_23_hours(form: str, second: tuple[str, str]) -> None:
    assert asked(format=form, timezone="Europe/Berlin")[1] == second


def test_today_is_the_day_in_the_time_zone_and_is_not_read_yet() -> None:
    assert asked(end="today")[-1] == ("2024-03-30", "2024-03-31")
    assert asked(end="today", timezone="Europe/Berlin")[-1] == ("2024-03-31", "2024-04-01")
    assert asked(now=datetime(2024, 1, 1, tzinfo=UTC), end="today") == []


@pytest.mark.parametrize(
    ("zone", "day", "first"),
    [
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"),  # 00:00 was skipped
        ("Asia/Beirut", "2022-03-27", "2022-03-26T22:00:00Z"),  # likewise
        ("America/Havana", "2023-11-05", "2023-11-05T04:00:00Z"),  # 00:00 was there twice
    ],
)
def test_days_without_midnight_and_with_two_begin_with_their_first_moment(
    zone: str, day: str, first: str
) -> None:
    end = str(date.fromisoformat(day) + timedelta(days=1))
    assert asked(start=day, end=end, timezone=zone, format="iso8601_utc")[0][0] == first


def test_a_day_that_a_country_left_out_has_no_moments() -> None:
    days = {"start": "2011-12-29", "end": "2012-01-01", "timezone": "Pacific/Apia"}
    assert asked(**days, format="iso8601_utc") == [
        ("2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"),
        ("2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
    ]
    assert len(asked(**days)) == 3


@settings(max_examples=200, deadline=None)
@given(
    zone=st.sampled_from(
        ["Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Pacific/Apia", "Asia/Kathmandu", "UTC",
         "Africa/Monrovia", "Australia/Lord_Howe"]
    ),
    start=st.dates(date(1960, 1, 1), date(2030, 1, 1)),
    length=st.integers(1, 400),
    days=st.integers(1, 50),
)  # fmt: skip
def test_windows_follow_each_other_without_gap_or_overlap(
    zone: str, start: date, length: int, days: int
) -> None:
    end = start + timedelta(days=length)
    keys = {"start": str(start), "end": str(end), "days": str(days), "timezone": zone}
    found = [(int(first), int(stop)) for first, stop in asked(**keys, format="epoch_seconds")]
    assert all(first < stop for first, stop in found)
    assert all(left[1] == right[0] for left, right in pairwise(found))
    first, stop = found[0][0], found[-1][1]
    for moment, day in ((first, start), (stop, end)):
        assert local_day(moment - 1, zone) < day <= local_day(moment, zone)


def local_day(epoch_s: int, zone: str) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=epoch_s)).astimezone(ZoneInfo(zone)).date()


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with served(ApiServer([record(one) for one in range(1, 29)])) as server:
        yield server


WINDOWS = {"start": "2024-01-01", "end": "2024-01-29", "days": "10"}


@pytest.mark.parametrize("name", ["page", "cursor", "link header", "none"])
def test_each_window_has_pages_and_a_total_of_its_own(api: ApiServer, name: str) -> None:
    api.style, pagination = PAGINATIONS[name]
    table = read(section(api.url, pagination=pagination, windows=WINDOWS, total="meta.total"))
    assert sorted(table["id"].to_pylist()) == [f"R{one:04d}" for one in range(1, 29)]
    assert table["line"].to_pylist() == list(range(1, 29))
    begins = [one.params.get("from") for one in api.asked if one.params.get("page", "1") == "1"]
    assert list(dict.fromkeys(begins)) == ["2024-01-01", "2024-01-11", "2024-01-21"]


def test_a_server_that_ignores_the_windows_is_found_out(api: ApiServer) -> None:
    with pytest.raises(
        SourceFileError, match=r"since=2024-01-11, until=2024-01-21: gives a page of 28 records that"
    ):
        api.style = "none"
        read(section(api.url, windows={**WINDOWS, "from": "since", "to": "until"}))


def test_windows_without_records_are_fine(api: ApiServer) -> None:
    api.answer = lambda request: json_response({"data": {"entries": []}})
    assert read(section(api.url, windows=WINDOWS)).num_rows == 0
    assert len(api.asked) == 3
