"""Plots: small pictures of how a backfill went, each with a sentence that says the same.

Belongs here: drawing with matplotlib, which is loaded when the first plot is drawn and not before.
Does not: asking the ledger (`ledger/figures.py`), where a plot is shown.

Without pyplot: figures are objects of their own, so that plots can be drawn in any thread and leave nothing behind.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from backfill_pipeline.ledger.figures import DayVolume, ThroughputPoint
from backfill_pipeline.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#1f2933"
MUTED: Final = "#7b8794"
GRID: Final = "#e4e7eb"
# Told apart also by those who do not see all colours (Okabe and Ito), and in grey.
SERIES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_SIZE_INCHES: Final = (5.6, 1.9)
_DPI: Final = 110
_COLORS: Final = 64
_CODES_SHOWN: Final = 10
_CURRENCIES_SHOWN: Final = len(SERIES)
# So few days have their names below them; more would not fit, and single ones would be given as hours.
_DAYS_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture.

    Attributes:
        title: a few words, above it.
        text: what it shows, in a sentence: the alternative text.
        image: PNG or SVG.
        kind: which of the two.
    """

    title: str
    text: str
    image: bytes
    kind: Literal["png", "svg"]

    def markdown(self) -> str:
        """As an image in Markdown that needs no file and no network."""
        mime = "image/png" if self.kind == "png" else "image/svg+xml"
        return f"![{self.text}](data:{mime};base64,{b64encode(self.image).decode()})"


def load() -> None:
    """Loads what draws, which takes half a second: in a thread, it is there when the first plot is asked for."""
    import matplotlib.backends.backend_agg
    import matplotlib.dates
    import matplotlib.figure  # noqa: F401 - loaded, not used


def throughput_plot(points: Sequence[ThroughputPoint], *, kind: Literal["png", "svg"] = "png") -> Plot | None:
    """Entries per second over batches, in the order in which they were posted; None when there are no two points."""
    if len(points) < 2:
        return None
    rates = [point.entries_per_s for point in points]
    ends: list[int] = []
    for point in points:
        ends.append(point.batches + (ends[-1] if ends else 0))
    with _drawing("entries per second, batch after batch") as (figure, axes):
        axes.step([0, *ends], [rates[0], *rates], color=SERIES[0], linewidth=1.4)
        axes.fill_between(
            [0, *ends], [rates[0], *rates], step="pre", color=SERIES[0], alpha=0.12, linewidth=0
        )
        axes.set_xlim(0, ends[-1])
        axes.set_ylim(0, max(rates) * 1.08 or 1)
        _plain_numbers(axes)
        _whole_numbers(axes)
        text = (
            f"Throughput over {counted(ends[-1], 'batch', 'batches')}: from {min(rates):,.0f} to {max(rates):,.0f}"
            " entries per second."
        )
        return _finished(figure, "Throughput", text, kind)


def daily_plot(
    days: Sequence[DayVolume],
    *,
    kind: Literal["png", "svg"] = "png",
    period: Literal["day", "month"] = "day",
) -> Plot | None:
    """Entries per day as bars, and amounts per day and currency as lines below; None without entries.

    Args:
        days: of entries.
        kind: of the image.
        period: with "month", each of `days` is the first of a month and stands for all of it.
    """
    if not days:
        return None
    entries: dict[str, int] = {}
    amounts: dict[str, list[DayVolume]] = {}
    for one in days:
        entries[one.day.isoformat()] = entries.get(one.day.isoformat(), 0) + one.entries
        amounts.setdefault(one.currency_code, []).append(one)
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, datestr2num

    with _drawing(f"entries per {period}", height=2) as (figure, axes):
        places = [datestr2num(day) for day in entries]
        axes.bar(places, list(entries.values()), color=SERIES[0], width=_bar_width(places, period))
        _plain_numbers(axes)
        below = figure.add_subplot(2, 1, 2, sharex=axes)
        _style(below, f"amount per {period}")
        shown = sorted(amounts, key=lambda code: -sum(one.entries for one in amounts[code]))[
            :_CURRENCIES_SHOWN
        ]
        for code, color in zip(shown, SERIES, strict=False):
            line = [datestr2num(one.day.isoformat()) for one in amounts[code]]
            below.plot(
                line,
                [float(one.amount) for one in amounts[code]],  # a place in a picture, not money
                color=color,
                linewidth=1.2,
                marker="o" if len(line) <= 31 else None,
                markersize=2.5,
                label=code,
            )
        below.legend(
            loc="lower right",
            bbox_to_anchor=(1, 0.97),
            fontsize=7,
            frameon=False,
            ncols=len(shown),
            borderpad=0,
        )
        below.set_ylim(bottom=0)
        _short_numbers(below)
        if len(places) <= _DAYS_NAMED:
            below.set_xlim(min(places) - 1, max(places) + 1)
            below.set_xticks(places, list(entries))
        else:
            locator = AutoDateLocator(minticks=2, maxticks=8)
            below.xaxis.set_major_locator(locator)
            below.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.tick_params(labelbottom=False)
        busiest = max(entries, key=lambda day: entries[day])
        left_out = len(amounts) - len(shown)
        text = (
            f"{counted(sum(entries.values()), 'entry', 'entries')} on {counted(len(entries), period)} from"
            f" {min(entries)} to {max(entries)}, most on {busiest}: {entries[busiest]:,}. Amounts in"
            f" {', '.join(shown)}{f' and {left_out} more' if left_out else ''}."
        )
        return _finished(figure, f"Entries and amounts per {period}", text, kind)


def rejects_plot(counts: Mapping[str, int], *, kind: Literal["png", "svg"] = "png") -> Plot | None:
    """Rejected rows by code, the most frequent first; None without rejects."""
    if not counts:
        return None
    shown = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:_CODES_SHOWN]
    with _drawing("rejected rows by code", height=max(0.6, 0.14 * len(shown) + 0.3)) as (figure, axes):
        bars = axes.barh(
            [code for code, _ in shown], [count for _, count in shown], color=SERIES[1], height=0.62
        )
        axes.bar_label(bars, labels=[f"{count:,}" for _, count in shown], padding=3, fontsize=7, color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(visible=False)
        axes.tick_params(labelbottom=False, bottom=False)
        axes.spines["bottom"].set_visible(False)
        more = len(counts) - len(shown)
        text = (
            f"{counted(sum(counts.values()), 'rejected row')}: "
            + ", ".join(f"{code} {count:,}" for code, count in shown)
            + (f" and {counted(more, 'more code')}." if more else ".")
        )
        return _finished(figure, "Rejects by code", text, kind)


@contextmanager
def _drawing(title: str, *, height: float = 1) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one set of axes; with a height of 2, there is room for another below it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    width, one = _SIZE_INCHES
    # Text stays text in an SVG: it can be read out, searched, and takes the page's own colour.
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "plots", "font.family": ["DejaVu Sans", "sans-serif"]}
    ):
        figure = Figure(figsize=(width, one * height), dpi=_DPI, layout="constrained")
        axes = figure.add_subplot(2 if height == 2 else 1, 1, 1)
        _style(axes, title)
        yield figure, axes


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=8, color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(labelsize=7, colors=MUTED, labelcolor=INK, length=2, left=False)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _place: f"{value:,.0f}")


def _whole_numbers(axes: Axes) -> None:
    """Of batches, on the axis below: there is no half of one."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _short_numbers(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _bar_width(places: Sequence[float], period: Literal["day", "month"]) -> float:
    """In days; years of days would otherwise be thinner than a point and vanish."""
    return 20 if period == "month" else max(0.8, (max(places) - min(places)) / 400)


def _finished(figure: Figure, title: str, text: str, kind: Literal["png", "svg"]) -> Plot:
    buffer = io.BytesIO()
    if kind == "svg":
        # Nothing of the moment: the same figures are the same bytes.
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    else:
        _save_small(figure, buffer)
    return Plot(title, text, buffer.getvalue(), kind)


def _save_small(figure: Figure, buffer: io.BytesIO) -> None:
    """As PNG with a palette: a quarter of the size, and every materialization keeps one for ever."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(_COLORS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        buffer, format="PNG", optimize=True
    )
