"""Times equal those of Python's datetime and zoneinfo, or are errors; none is moved, cut or guessed."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.times import TimeRule
from backfill_pipeline.mapping.times import parse_times
from backfill_pipeline.schemas.row_errors import RowErrors

ZONES = [
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Africa/Casablanca",
]
QUICK = settings(max_examples=300, deadline=None)


def parse(texts: list[str | None], **rule: object) -> tuple[list[datetime | None], list[str | None]]:
    errors = RowErrors()
    times = parse_times(
        pa.array(texts, pa.string()), TimeRule.model_validate({"column": "t", **rule}), errors
    )
    assert times.type == pa.timestamp("us", tz="UTC")
    return times.to_pylist(), errors.columns(len(texts))[0].to_pylist()


def expected_local(local: datetime, zone: str) -> tuple[datetime | None, str | None]:
    """By the rules of PEP 495."""
    early, late = (local.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    if early.utcoffset() == late.utcoffset():
        return early.astimezone(UTC), None
    back = early.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    return None, "time_ambiguous" if back == local else "time_nonexistent"


LOCAL = st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31))
NEAR_CHANGES = st.sampled_from(
    [
        datetime(2024, 3, 31, 2), datetime(2024, 10, 27, 2), datetime(2024, 3, 10, 2), datetime(2024, 11, 3, 1),
        datetime(2024, 4, 7, 1, 30), datetime(2024, 10, 6, 2), datetime(2018, 11, 4), datetime(2018, 2, 17, 23),
        datetime(2011, 12, 30, 12), datetime(2023, 3, 19, 2), datetime(1911, 3, 11),
    ]
).flatmap(lambda at: st.timedeltas(timedelta(hours=-3), timedelta(hours=3)).map(lambda by: at + by))  # fmt: skip


@QUICK
@given(st.lists(LOCAL | NEAR_CHANGES, min_size=1, max_size=30), st.sampled_from(ZONES), st.booleans())
def test_local_times_equal_zoneinfo_and_gaps_and_folds_are_rejected(
    locals_: list[datetime], zone: str, whole_seconds: bool
) -> None:
    if whole_seconds:
        locals_ = [one.replace(microsecond=0) for one in locals_]
    times, codes = parse([one.isoformat() for one in locals_], timezone=zone)
    assert list(zip(times, codes, strict=True)) == [expected_local(one, zone) for one in locals_]


OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@QUICK
@given(
    st.lists(st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1), timezones=OFFSETS), min_size=1),
    st.booleans(),
)
def test_times_with_offset_are_exact_to_the_microsecond(moments: list[datetime], with_junk: bool) -> None:
    texts: list[str | None] = [one.isoformat() for one in moments]
    times, codes = parse([*texts, "junk"] if with_junk else texts, timezone="Europe/Paris")
    assert times[: len(moments)] == [one.astimezone(UTC) for one in moments]
    assert codes == [None] * len(moments) + ["time_malformed"] * with_junk


@QUICK
@given(
    st.lists(st.datetimes(datetime(1000, 1, 1), datetime(9000, 1, 1), timezones=OFFSETS), min_size=1),
    st.sampled_from(
        ["%Y-%m-%d %H:%M:%S.%f %z", "%d/%b/%Y:%H:%M:%S.%f %z", "%I:%M:%S.%f %p %B %d, %Y %z", "%Y%j %T.%f%z"]
    ),
)
def test_strptime_formats_read_what_strftime_writes(moments: list[datetime], text_format: str) -> None:
    texts: list[str | None] = [one.strftime(text_format.replace("%Y", f"{one.year:04d}")) for one in moments]
    times, codes = parse(texts, format=text_format)
    assert codes == [None] * len(moments)
    assert times == [one.astimezone(UTC) for one in moments]


@QUICK
@given(st.lists(st.text("0123456789-T:Z+. /", max_size=22), min_size=1))
def test_any_text_gives_a_time_or_an_error(texts: list[str]) -> None:
    for text_format in ("iso8601", "epoch_seconds", "epoch_milliseconds", "epoch_days", "%d/%m/%Y %H:%M %z"):
        times, codes = parse(list(texts), format=text_format)
        for text, time, code in zip(texts, times, codes, strict=True):
            assert (time is None) == (code is not None or text == "")


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "2023-02-30T00:00:00Z", "2023-02-29T00:00:00Z", "2100-02-29T00:00:00Z", "2023-04-31", "2023-13-01T00:00:00Z",
        "2023-01-01T24:00:00Z", "2023-01-01T23:60:00Z", "2023-01-01T23:59:60Z", "2023-01-01T00:00:00.1234567Z",
        "2023-01-01T00:00:00+24:00", "23-01-01T00:00:00Z", "01/02/2023", "2023-1-1", "1700000000", "yesterday",
        "2023-01-01T00:00:00Zjunk", "2023-01-01Z",
    ],
)  # fmt: skip
def test_no_date_of_the_calendar_and_nothing_finer_than_microseconds_is_malformed(
    text: str, alone: bool
) -> None:
    texts = [text] if alone else ["2024-02-29T12:00:00Z", text, "2024-02-29T12:00"]
    times, codes = parse(list(texts), timezone="UTC")
    assert codes[texts.index(text)] == "time_malformed"
    assert times[texts.index(text)] is None
    if not alone:
        assert times[0] == times[2] == datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_trailing_zeros_of_a_fraction_say_nothing() -> None:
    assert parse(["2024-01-01T00:00:00.120000000Z"])[0] == [datetime(2024, 1, 1, 0, 0, 0, 120000, tzinfo=UTC)]


def test_a_local_time_without_a_zone_is_rejected_and_one_with_offset_is_not() -> None:
    times, codes = parse(["2024-01-01T10:00:00", "2024-01-01T10:00:00+02:00", "2024-01-01", None, ""])
    assert codes == ["time_zone_missing", None, "time_zone_missing", None, None]
    assert times == [None, datetime(2024, 1, 1, 8, tzinfo=UTC), None, None, None]


def test_strptime_does_not_take_30_february_as_2_march() -> None:
    times, codes = parse(["30/02/2023", "29/02/2024", "31/04/2024"], format="%d/%m/%Y", timezone="UTC")
    assert codes == ["time_malformed", None, "time_malformed"]
    assert times[1] == datetime(2024, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "rule", "expected"),
    [
        ("0", {"format": "epoch_days", "epoch": date(2019, 1, 1)}, datetime(2019, 1, 1, tzinfo=UTC)),
        ("365", {"format": "epoch_days", "epoch": date(2019, 1, 1)}, datetime(2020, 1, 1, tzinfo=UTC)),
        ("-1", {"format": "epoch_days"}, datetime(1969, 12, 31, tzinfo=UTC)),
        ("19723", {"format": "epoch_days", "timezone": "Asia/Tokyo"}, datetime(2023, 12, 31, 15, tzinfo=UTC)),
        ("1700000000", {"format": "epoch_seconds"}, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000.000001", {"format": "epoch_seconds"}, datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)),
        ("-0.5", {"format": "epoch_seconds"}, datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=UTC)),
        (
            "1700000000123.4560",
            {"format": "epoch_milliseconds"},
            datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC),
        ),
        ("1.5", {"format": "epoch_days"}, "time_malformed"),
        ("1700000000.0000001", {"format": "epoch_seconds"}, "time_malformed"),
        ("1e9", {"format": "epoch_seconds"}, "time_malformed"),
        ("1700000000123", {"format": "epoch_seconds"}, "time_malformed"),
        ("999999999999", {"format": "epoch_seconds"}, "time_out_of_range"),
        ("9999999", {"format": "epoch_days"}, "time_out_of_range"),
    ],
)
def test_counts_since_an_epoch(text: str, rule: dict[str, object], expected: datetime | str) -> None:
    times, codes = parse([text], **rule)
    assert (codes[0] or times[0]) == expected


@pytest.mark.parametrize("text", ["0000-01-01T00:00:00Z", "0000-06-01", "9999-12-31T23:59:59Z"])
def test_years_that_no_calendar_library_holds_are_out_of_range(text: str) -> None:
    assert parse([text], timezone="UTC") == ([None], ["time_out_of_range"])
