"""Plots show what they are given: looked at as pictures, and read as text."""

import io
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from PIL import Image

from backfill_pipeline.ledger.figures import DayVolume, ThroughputPoint
from backfill_pipeline.reporting.plots import SERIES, Plot, daily_plot, rejects_plot, throughput_plot

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


def points(*rates: int) -> list[ThroughputPoint]:
    return [ThroughputPoint(BEGIN + timedelta(seconds=n), 2, rate * 2, 2.0) for n, rate in enumerate(rates)]


def volumes(days: int, *currencies: str) -> list[DayVolume]:
    return [
        DayVolume(date(2024, 1, 1) + timedelta(n), currency, n + 1, Decimal(100 * (n + 1)))
        for n in range(days)
        for currency in currencies
    ]


def colored_columns(plot: Plot, color: str) -> list[int]:
    """In which columns of pixels a colour can be seen."""
    picture = Image.open(io.BytesIO(plot.image)).convert("RGB")
    wanted = tuple(int(color[n : n + 2], 16) for n in (1, 3, 5))
    pixels = picture.load()
    return [
        x
        for x in range(picture.width)
        if any(
            max(abs(a - b) for a, b in zip(pixels[x, y], wanted, strict=True)) < 24
            for y in range(picture.height)
        )
    ]


def labels(plot: Plot) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", plot.image.decode())


def test_throughput_says_how_slow_and_how_fast_it_was() -> None:
    plot = throughput_plot(points(1000, 4000, 2500))
    assert plot is not None
    assert plot.text == "Throughput over 6 batches: from 1,000 to 4,000 entries per second."
    assert len(colored_columns(plot, SERIES[0])) > 300  # from left to right
    assert throughput_plot(points(1000)) is None


def test_days_of_several_currencies_have_a_scale_each() -> None:
    plot = daily_plot(volumes(40, "EUR", "USD"))
    assert plot is not None
    assert plot.text == (
        "1,640 entries on 40 days from 2024-01-01 to 2024-02-09, most on 2024-02-09: 80. Amounts in EUR, USD."
    )
    drawn = daily_plot(volumes(40, "EUR", "USD"), kind="svg")
    assert drawn is not None
    assert {"amount per day in EUR", "amount per day in USD"} <= set(labels(drawn))
    assert daily_plot([]) is None


def test_a_currency_of_large_amounts_hides_no_other() -> None:
    days = [
        DayVolume(date(2024, 1, 1) + timedelta(n), code, 6 - rank, Decimal(10) ** (3 * rank) * (1 + n % 3))
        for n in range(60)
        for rank, code in enumerate(("KWD", "USD", "INR", "JPY", "IDR", "VND"))
    ]
    plot = daily_plot(days)
    assert plot is not None
    assert all(len(colored_columns(plot, color)) > 300 for color in SERIES[:5])
    assert plot.text.endswith("Amounts in KWD, USD, INR, JPY and 2 more.")


def test_bars_of_years_of_days_can_be_seen() -> None:
    [first, last] = volumes(1, "EUR")[0], DayVolume(date(2044, 1, 1), "EUR", 1, Decimal(1))
    plot = daily_plot([first, last])
    assert plot is not None
    assert len(colored_columns(plot, SERIES[0])) >= 2


@pytest.mark.parametrize("days", [63, 100, 200, 365, 366, 731, 1096])
def test_days_that_all_have_entries_leave_no_gap(days: int) -> None:
    plot = daily_plot(
        [DayVolume(date(2024, 1, 1) + timedelta(n), "EUR", 12, Decimal(1)) for n in range(days)]
    )
    assert plot is not None
    columns = colored_columns(plot, SERIES[0])
    assert columns == list(range(columns[0], columns[-1] + 1))


def test_rejects_are_ordered_and_what_is_left_out_is_counted() -> None:
    counts = {f"code_{n:02}": n for n in range(1, 14)}
    plot = rejects_plot(counts, kind="svg")
    assert plot is not None
    assert plot.text.startswith("91 rejected rows: code_13 13, code_12 12")
    assert plot.text.endswith("code_04 4 and 3 more codes.")
    assert "code_13" in labels(plot)
    assert "code_03" not in labels(plot)
    assert rejects_plot({}) is None


def test_the_same_figures_are_the_same_bytes_and_small() -> None:
    for kind in ("png", "svg"):
        first, second = (daily_plot(volumes(365, "EUR", "USD", "JPY"), kind=kind) for _ in range(2))
        assert first is not None
        assert first == second
    png = daily_plot(volumes(365, "EUR", "USD", "JPY"))
    assert png is not None
    assert len(png.markdown()) < 30_000
    assert png.markdown().startswith(f"![{png.text}](data:image/png;base64,")


def test_few_days_are_named_and_batches_are_counted_whole() -> None:
    plot = daily_plot(volumes(3, "EUR"), kind="svg")
    assert plot is not None
    assert [one for one in labels(plot) if one.startswith("2024")] == [
        "2024-01-01",
        "2024-01-02",
        "2024-01-03",
    ]
    assert not [one for one in labels(plot) if ":" in one]
    rate = throughput_plot(points(1000, 2000), kind="svg")
    assert rate is not None
    assert not [one for one in labels(rate) if "." in one]
