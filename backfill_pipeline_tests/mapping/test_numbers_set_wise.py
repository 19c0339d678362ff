"""Reading numbers and times takes no more lines of Python for more rows, whatever a definition states about them."""

from typing import Any

import pyarrow as pa
import pytest

from backfill_pipeline.definition.numbers import NumberRule
from backfill_pipeline.definition.times import TimeRule
from backfill_pipeline.mapping.amounts import read_numbers
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.mapping.times import read_times
from backfill_pipeline_tests.mapping.conftest import extracted
from backfill_pipeline_tests.stages.test_set_wise import lines_executed

ZONES = ["Europe/Paris", "Asia/Tokyo", "UTC", "x", ""]


def table(rows: int) -> pa.Table:
    """A bad one among every eleven rows."""
    bad = [number % 11 == 0 for number in range(rows)]
    return extracted(
        amount=["x" if one else f"€ {number:,}.50-" for number, one in enumerate(bad)],
        cents=["1.5" if one else str(number) for number, one in enumerate(bad)],
        denominator=["3" if one else "100" for one in bad],
        dc=["?" if one else "D" for one in bad],
        out=["1" if one else "" for one in bad],
        day=[f"{number % 28 + 1:02d}.03.24" for number in range(rows)],
        clock=["99:99" if one else f"{number % 24:02d}:00" for number, one in enumerate(bad)],
        serial=["z" if one else f"45{number % 365:03d}.375" for number, one in enumerate(bad)],
        zone=[ZONES[number % len(ZONES)] for number in range(rows)],
    )


@pytest.mark.parametrize(
    "rule",
    [
        {"column": "amount", "symbols": ["€"], "minus": ["trailing", "parentheses"], "thousands_mark": ","},
        {
            "column": "cents",
            "minor_units": "currency",
            "sign": {"column": "dc", "negative": "D", "positive": "C"},
        },
        {"numerator": "cents", "denominator": "denominator", "absolute": True, "zero": "filter"},
        {"in": "cents", "out": "out", "empty": ["0"]},
    ],
    ids=str,
)
def test_numbers(rule: dict[str, Any]) -> None:
    compiled = NumberRule.model_validate(rule)

    def lines(rows: int) -> int:
        chunk = Rows(table(rows))
        currencies = pa.array(["EUR", "JPY"] * (rows // 2))
        return lines_executed(
            lambda: read_numbers(chunk, compiled, "amount", "amount_missing", lambda: currencies)
        ).total()

    lines(100)  # what is made once per process
    assert 20 < lines(4_000) == lines(1_000)


@pytest.mark.parametrize(
    "rule",
    [
        {"columns": ["day", "clock"], "format": "%d.%m.%y %H:%M", "pivot": 1970, "timezone_column": "zone"},
        {"column": "serial", "format": "epoch_days", "fraction": "exact", "timezone": "Europe/Paris"},
    ],
    ids=str,
)
def test_times(rule: dict[str, Any]) -> None:
    compiled = TimeRule.model_validate(rule)

    def lines(rows: int) -> int:
        chunk = Rows(table(rows))
        return lines_executed(lambda: read_times(chunk, compiled)).total()

    lines(100)
    assert 20 < lines(4_000) == lines(2_000)  # each day and zone is there in both
