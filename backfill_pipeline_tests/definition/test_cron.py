"""Cron expressions of a definition: what is allowed is what Dagster's schedules understand, and the rest is a sentence."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from dagster._utils.schedules import cron_string_iterator, is_valid_cron_string
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from backfill_pipeline.definition.cron import _FIELDS, CronText, _Field, hours_later


class Scheduled(BaseModel):
    cron: CronText


def _part(field: _Field) -> st.SearchStrategy[str]:
    number = st.integers(field.low, field.high)
    value = number.map(str) | (st.sampled_from(sorted(field.names)) if field.names else st.nothing())
    spans = st.tuples(number, number).map(lambda two: f"{min(two)}-{max(two)}") | st.just("*")
    stepped = st.tuples(spans, st.integers(1, field.high)).map(lambda two: f"{two[0]}/{two[1]}")
    return value | spans | stepped


def _written(field: _Field) -> st.SearchStrategy[str]:
    return st.just("*") | st.lists(_part(field), min_size=1, max_size=3).map(",".join)


@given(st.tuples(*(_written(field) for field in _FIELDS)).map(" ".join))
def test_whatever_is_allowed_dagster_reads_and_finds_its_next_moment(text: str) -> None:
    try:
        cron = Scheduled(cron=text).cron
    except ValidationError:
        return
    assert is_valid_cron_string(cron)
    now = datetime(2024, 3, 30, 12, tzinfo=UTC).timestamp()
    assert next(cron_string_iterator(now, cron, "Europe/Paris")).timestamp() >= now


@pytest.mark.parametrize(
    "text",
    [
        "0 3 * * *",
        " 30  2 * * MON-FRI ",
        "*/15 0-6/2 1,15 jan-Jun 1-5",
        "0 3 29 2 *",
        "0 0 31 4 1",
        "5 4 * * 7",
    ],
)
def test_what_crons_hold_is_read(text: str) -> None:
    assert Scheduled(cron=text).cron == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 3 * *", "must be five fields"),
        ("0 0 3 * * *", "must be five fields"),
        ("@daily", "must be five fields"),
        ("", "must be five fields"),
        ("60 3 * * *", "has '60' as its minute: allowed are 0 to 59"),
        ("0 24 * * *", "has '24' as its hour"),
        ("0 3 0 * *", "has '0' as its day of the month"),
        ("0 3 * 13 *", "has '13' as its month"),
        ("0 3 * * 8", "has '8' as its day of the week"),
        ("0 3 * * MONDAY", "has 'MONDAY' as its day of the week"),
        ("0 3 * * FRI-MON", "has 'FRI-MON' as its day of the week"),
        ("5/10 3 * * *", "has '5/10' as its minute"),
        ("*/0 3 * * *", "has '*/0' as its minute"),
        ("0,,1 3 * * *", "has '0,,1' as its minute"),
        ("-1 3 * * *", "has '-1' as its minute"),
        ("٣ 3 * * *", "as its minute"),
        ("0 3 L * *", "has 'L' as its day of the month"),
        ("0 3 31 4,6 *", "names a day that none of its months has"),
        ("0 3 30 2 *", "names a day that none of its months has"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match="problem") as caught:
        Scheduled(cron=text)
    assert said in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("cron", "later"),
    [
        ("0 3 * * *", "0 6 * * *"),
        ("30 20 1 * MON", "30 23 1 * MON"),
        ("0 21 * * *", "0 21 * * *"),  # would be another day
        ("0 3,4 * * *", "0 3,4 * * *"),
        ("*/5 * * * *", "*/5 * * * *"),
    ],
)
def test_hours_are_added_where_the_day_stays(cron: str, later: str) -> None:
    assert hours_later(cron, 3) == later
