"""Plots become parts of a page: small, in its colours, and without a name that another one has."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from backfill_pipeline.ledger.figures import DayVolume, ThroughputPoint
from backfill_pipeline.pages.parts import document
from backfill_pipeline.reporting.plots import daily_plot, throughput_plot
from backfill_pipeline.reporting.report.inline_plots import plot_figure
from backfill_pipeline.reporting.report.months import DAYS_MAX, by_month_when_many
from backfill_pipeline_tests.pages.reading import Page


def volumes(days: int, *currencies: str) -> list[DayVolume]:
    return [
        DayVolume(date(2000, 1, 1) + timedelta(n), code, 2, Decimal("0.000000000000000001"))
        for n in range(days)
        for code in currencies
    ]


def test_two_plots_fit_on_one_page() -> None:
    points = [ThroughputPoint(datetime(2024, 1, 1, tzinfo=UTC), 1, 100 * n, 1.0) for n in range(1, 9)]
    plots = [throughput_plot(points, kind="svg"), daily_plot(volumes(40, "EUR", "USD"), kind="svg")] * 2
    drawn = "".join(plot_figure(plot, f"plot{n}") for n, plot in enumerate(plots) if plot is not None)
    page = Page(document("x", f"<main><h1>x</h1>{drawn}</main>"))
    assert page.wrong == []
    assert page.source.count('role="img"') == 4
    assert "160 entries on 40 days" in page.source
    assert "EUR" in page.text


def test_a_year_of_days_is_drawn_day_by_day_and_small() -> None:
    plot = daily_plot(volumes(DAYS_MAX, "EUR", "USD", "JPY"), kind="svg")
    assert plot is not None
    drawn = plot_figure(plot, "volume")
    assert len(drawn) < 60_000 < len(plot.image)
    bars = max(drawn.split('d="'), key=lambda one: one.split('"')[0].count("z"))
    assert bars.split('"')[0].count("z") == DAYS_MAX


def test_more_days_become_months_and_no_entry_is_lost() -> None:
    few = volumes(DAYS_MAX, "EUR")
    assert by_month_when_many(few) == (few, False)
    many = volumes(DAYS_MAX + 1, "EUR", "USD")
    found, by_month = by_month_when_many(many)
    assert by_month
    assert len(found) == 2 * 14
    assert sum(one.entries for one in found) == sum(one.entries for one in many)
    assert sum(one.amount for one in found) == sum(one.amount for one in many)
    plot = daily_plot(found, kind="svg", period="month")
    assert plot is not None
    assert plot.title == "Entries and amounts per month"
    assert "on 14 months from 2000-01-01" in plot.text
