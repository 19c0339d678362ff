"""What a definition may say about times, against zoneinfo, datetime and fractions."""

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.times import TimeRule
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.mapping.times import read_times
from backfill_pipeline_tests.mapping.conftest import extracted
from backfill_pipeline_tests.mapping.test_times import LOCAL, NEAR_CHANGES, ZONES, expected_local

QUICK = settings(max_examples=200, deadline=None)
Found = list[tuple[datetime | None, str | None]]


def read(rule: dict[str, Any], **columns: list[str | None]) -> Found:
    rows = Rows(extracted(**columns))
    times = read_times(rows, TimeRule.model_validate(rule))
    assert times.type == pa.timestamp("us", tz="UTC")
    return list(zip(times.to_pylist(), rows.errors.columns(len(rows))[0].to_pylist(), strict=True))


# --- zones ------------------------------------------------------------------------------------------------------


@QUICK
@given(
    st.lists(LOCAL | NEAR_CHANGES, min_size=1, max_size=20),
    st.sampled_from(ZONES),
    st.sampled_from(["reject", "shift_forward"]),
    st.sampled_from(["reject", "earlier", "later"]),
)
def test_gaps_and_folds_are_settled_as_stated(
    locals_: list[datetime], zone: str, nonexistent: str, ambiguous: str
) -> None:
    rule = {"column": "t", "timezone": zone, "nonexistent": nonexistent, "ambiguous": ambiguous}
    for local, found in zip(locals_, read(rule, t=[one.isoformat() for one in locals_]), strict=True):
        time, code = expected_local(local, zone)
        early, late = (local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1))
        if code == "time_nonexistent" and nonexistent == "shift_forward":
            time, code = early, None
            shown = early.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
            assert shown - local == early - late  # behind the gap, by as much as it is wide
        if code == "time_ambiguous" and ambiguous != "reject":
            time, code = (early if ambiguous == "earlier" else late), None
        assert found == (time, code)


@QUICK
@given(
    st.lists(
        st.tuples(LOCAL | NEAR_CHANGES, st.sampled_from([*ZONES, "UTC", "", "CEST", "europe/paris", "../x"])),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_each_row_is_in_the_zone_that_its_column_names(
    pairs: list[tuple[datetime, str]], with_offset: bool
) -> None:
    texts: list[str | None] = [one.isoformat() + "+02:00" * with_offset for one, _ in pairs]
    zones: list[str | None] = [f" {zone} " for _, zone in pairs]
    for (local, zone), found in zip(
        pairs, read({"column": "t", "timezone_column": "z"}, t=texts, z=zones), strict=True
    ):
        if zone in ("CEST", "europe/paris", "../x"):
            assert found == (None, "time_zone_unknown")
        elif with_offset:
            assert found == ((local - timedelta(hours=2)).replace(tzinfo=UTC), None)
        elif not zone:
            assert found == (None, "time_zone_missing")
        else:
            assert found == expected_local(local, zone)


# --- several columns --------------------------------------------------------------------------------------------


def test_columns_are_joined_and_a_part_of_a_time_is_no_time() -> None:
    days: list[str | None] = ["01.03.2024", "01.03.2024", "", "", "1.3.2024 9:00", None]
    clocks: list[str | None] = ["09:00", "", "09:00", "", "x", None]
    rule = {"columns": ["d", "t"], "format": "%d.%m.%Y %H:%M", "timezone": "UTC"}
    assert read(rule, d=days, t=clocks) == [
        (datetime(2024, 3, 1, 9, tzinfo=UTC), None), (None, "time_missing"), (None, "time_missing"),
        (None, "time_missing"), (None, "time_malformed"), (None, None),
    ]  # fmt: skip
    # Also in ISO 8601, where the day alone would be midnight.
    assert read({"columns": ["d", "t"], "timezone": "UTC"}, d=["2024-03-01"], t=[""]) == [
        (None, "time_missing")
    ]


# --- two-digit years, 24:00 -------------------------------------------------------------------------------------


@QUICK
@given(st.integers(1900, 2100), st.lists(st.integers(0, 99), min_size=1))
def test_two_digits_are_a_year_of_the_hundred_from_the_pivot(pivot: int, years: list[int]) -> None:
    rule = {"column": "t", "format": "%y-%m-%d", "timezone": "UTC", "pivot": pivot}
    texts: list[str | None] = [f"{year:02d}-12-31" for year in years]
    for year, (time, code) in zip(years, read(rule, t=texts), strict=True):
        assert code is None
        assert time is not None
        assert time.year % 100 == year
        assert pivot <= time.year < pivot + 100


@pytest.mark.parametrize("text", ["4-12-31", "2024-12-31", "-1-12-31"])
def test_a_year_of_two_digits_has_two(text: str) -> None:
    rule = {"column": "t", "format": "%y-%m-%d", "timezone": "UTC", "pivot": 1970}
    assert read(rule, t=[text]) == [(None, "time_malformed")]


@QUICK
@given(
    st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2199, 1, 1)), min_size=1),
    st.sampled_from(["{:%Y-%m-%d}T24:00", "{:%Y-%m-%d} 24:00:00", "{:%Y-%m-%d} 24:00:00.000"]),
    st.booleans(),
)
def test_24_00_is_the_midnight_after_its_day_where_it_is_stated(
    days: list[datetime], shape: str, allowed: bool
) -> None:
    texts: list[str | None] = [shape.format(day) for day in days]
    ends = [
        datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1) if allowed else None
        for day in days
    ]
    codes = [None if allowed else "time_malformed"] * len(days)
    for more in ({}, {"format": "%Y-%m-%d %H:%M:%S"}):
        if more and " 24:00:00" not in shape:
            continue
        cut = [text and text[:19] for text in texts] if more else texts
        rule = {"column": "t", "timezone": "UTC", "allow_24": allowed, **more}
        assert read(rule, t=cut) == list(zip(ends, codes, strict=True))


@pytest.mark.parametrize(
    "text", ["2024-03-01 24:01", "2024-03-01 24:00:01", "2024-03-01 25:00", "2023-02-29 24:00"]
)
def test_nothing_is_behind_24_00(text: str) -> None:
    for more in ({}, {"format": "%Y-%m-%d %H:%M" + ":%S" * (len(text) > 16)}):
        rule = {"column": "t", "timezone": "UTC", "allow_24": True, **more}
        assert read(rule, t=["2024-03-01 24:00:00"[: len(text)], text])[1] == (None, "time_malformed")


def test_24_00_is_local_and_settled_like_any_midnight() -> None:
    rule = {"column": "t", "timezone": "America/Sao_Paulo", "allow_24": True}  # midnight was skipped there
    assert read(rule, t=["2018-11-03 24:00", "2018-11-04 24:00"]) == [
        (None, "time_nonexistent"), (datetime(2018, 11, 5, 2, tzinfo=UTC), None),
    ]  # fmt: skip


# --- counts -----------------------------------------------------------------------------------------------------


@QUICK
@given(st.lists(st.integers(-(10**15), 10**16), min_size=1))
def test_microseconds_since_1970(counts: list[int]) -> None:
    begin = datetime(1970, 1, 1, tzinfo=UTC)
    found = read({"column": "t", "format": "epoch_microseconds"}, t=[str(one) for one in counts])
    assert found == [(begin + timedelta(microseconds=one), None) for one in counts]


DAYS = (
    st.integers(-10_000, 99_999).map(str)
    | st.from_regex(r"-?[0-9]{1,5}\.[0-9]{1,17}", fullmatch=True).filter(str.isascii)
    | st.builds(
        lambda day, second: f"{day + second / 86_400:.10f}", st.integers(0, 60_000), st.integers(0, 86_399)
    )
    | st.sampled_from(["0.5", "1.25", "1e3", ".5", "1.", "x", "45352.375000000000000000"])
)


@QUICK
@given(st.lists(DAYS, min_size=1, max_size=20), st.sampled_from(["exact", "second"]))
def test_a_fraction_of_a_day_is_exactly_a_time_or_an_error(texts: list[str], fraction: str) -> None:
    rule = {"column": "t", "format": "epoch_days", "epoch": date(1899, 12, 30), "fraction": fraction}
    for text, (time, code) in zip(texts, read(rule, t=list(texts)), strict=True):
        whole, _, decimals = text.partition(".")
        readable = whole.lstrip("-").isdigit() and ("." not in text or decimals.isdigit())
        if not readable or len(decimals.rstrip("0")) > 15:
            assert (time, code) == (None, "time_malformed")
            continue
        seconds = Fraction(text) * 86_400
        unit = Fraction(1, 1_000_000) if fraction == "exact" else Fraction(1)
        nearest = round(seconds / unit) * unit
        slack = Fraction(0) if fraction == "exact" else Fraction(1, 1000)
        if abs(abs(nearest - seconds) - slack) < Fraction(1, 1_000_000) and fraction == "second":
            continue  # within a microsecond of the limit
        if abs(nearest - seconds) <= slack:
            begin = datetime(1899, 12, 30, tzinfo=UTC)
            assert (time, code) == (begin + timedelta(microseconds=int(nearest * 1_000_000)), None)
        else:
            assert (time, code) == (None, "time_malformed")


# --- anything ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        {"column": "a", "timezone_column": "b", "allow_24": True},
        {
            "columns": ["a", "b"],
            "format": "%d/%m/%y %H:%M",
            "pivot": 1970,
            "timezone": "UTC",
            "allow_24": True,
        },
        {
            "columns": ["a", "b"],
            "timezone": "Europe/Paris",
            "ambiguous": "later",
            "nonexistent": "shift_forward",
        },
        {"column": "a", "format": "epoch_microseconds"},
        {"column": "a", "format": "epoch_days", "fraction": "exact"},
        {"column": "a", "format": "epoch_days", "fraction": "second", "timezone_column": "b"},
    ],
)
@QUICK
@given(
    st.lists(
        st.tuples(
            st.text("0123456789-T:Z+. /", max_size=22) | st.text(max_size=8),
            st.text("0123456789:", max_size=6) | st.sampled_from(ZONES) | st.text(max_size=8),
        ),
        min_size=1,
    )
)
def test_any_text_gives_a_time_or_an_error(rule: dict[str, Any], cells: list[tuple[str, str]]) -> None:
    for time, code in read(rule, a=[one for one, _ in cells], b=[other for _, other in cells]):
        assert (time is None) == (code is not None)
