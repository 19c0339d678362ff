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
_WIDTH_INCHES: Final = 5.6
_PANEL_INCHES: Final = 1.9
_CURRENCY_INCHES: Final = 1.0
# Room around a panel: for numbers, a title, and the names of days. Set and not found out: looking for it takes
# matplotlib twice as long as drawing.
_LEFT_INCHES: Final = 0.62
_RIGHT_INCHES: Final = 0.08
_TITLE_INCHES: Final = 0.24
_BELOW_INCHES: Final = 0.2
_DPI: Final = 110
_COLORS: Final = 64
_CODES_SHOWN: Final = 10
_LETTER_INCHES: Final = 0.062  # of a label, the widest ones and the narrowest together
_DAYS_WITH_GAPS: Final = 62
_CURRENCIES_SHOWN: Final = 4
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
    with _panels(["entries per second, batch after batch"], [_PANEL_INCHES]) as (figure, [axes]):
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
    """Entries per day as bars, and below them the amounts of each currency on a scale of its own; None without entries.

    Currencies with the most entries have a place; the others are counted in the text.

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

    shown = sorted(amounts, key=lambda code: (-sum(one.entries for one in amounts[code]), code))[
        :_CURRENCIES_SHOWN
    ]
    heights = [_PANEL_INCHES, *(_CURRENCY_INCHES for _ in shown)]
    with _panels(
        [f"entries per {period}", *(f"amount per {period} in {code}" for code in shown)], heights
    ) as (
        figure,
        [axes, *below],
    ):
        places = [datestr2num(day) for day in entries]
        width = _bar_width(places, period)
        # A pixel that two bars share would be lighter, as a gap is.
        axes.bar(places, list(entries.values()), color=SERIES[0], width=width, antialiased=width < 1)
        _plain_numbers(axes)
        # Each currency has its own scale: on a common one, a hundred yen to the dollar leave nothing of the dollars.
        for code, color, panel in zip(shown, SERIES[1:], below, strict=False):
            line = [datestr2num(one.day.isoformat()) for one in amounts[code]]
            panel.plot(
                line,
                [float(one.amount) for one in amounts[code]],  # a place in a picture, not money
                color=color,
                linewidth=1.2,
                marker="o" if len(line) <= 31 else None,
                markersize=2.5,
            )
            panel.set_ylim(bottom=0)
            _short_numbers(panel)
        lowest = below[-1]
        if len(places) <= _DAYS_NAMED:
            lowest.set_xlim(min(places) - 1, max(places) + 1)
            lowest.set_xticks(places, list(entries))
        else:
            locator = AutoDateLocator(minticks=2, maxticks=8)
            lowest.xaxis.set_major_locator(locator)
            lowest.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        for panel in (axes, *below[:-1]):
            panel.tick_params(labelbottom=False)
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
    longest = max(len(code) for code, _ in shown)
    with _panels(
        ["rejected rows by code"],
        [0.5 + 0.24 * len(shown)],
        left=min(_LETTER_INCHES * longest + 0.12, _WIDTH_INCHES / 2),
    ) as (figure, [axes]):
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
def _panels(
    titles: Sequence[str], heights: Sequence[float], *, left: float = _LEFT_INCHES
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with panels below each other, which share the axis below the lowest one.

    Args:
        titles: one above each panel.
        heights: of the panels with their titles, in inches.
        left: room for what is written there, in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text in an SVG: it can be read out, searched, and takes the page's own colour.
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "plots", "font.family": ["DejaVu Sans", "sans-serif"]}
    ):
        whole = sum(heights) + _BELOW_INCHES
        figure = Figure(figsize=(_WIDTH_INCHES, whole), dpi=_DPI)
        panels: list[Axes] = []
        top = whole
        for title, height in zip(titles, heights, strict=True):
            top -= height
            place = (left, top, _WIDTH_INCHES - left - _RIGHT_INCHES, height - _TITLE_INCHES)
            scale = (_WIDTH_INCHES, whole, _WIDTH_INCHES, whole)
            x, y, wide, high = (inches / size for inches, size in zip(place, scale, strict=True))
            axes = figure.add_axes((x, y, wide, high), sharex=panels[0] if panels else None)
            _style(axes, title)
            panels.append(axes)
        yield figure, panels


def _style(axes: Axes, title: str) -> None:
    # Where it is, is said: else all labels are measured, so that it is above them.
    axes.set_title(title, loc="left", fontsize=8, color=INK, y=1)
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
    """In days; years of days would otherwise be thinner than a point and vanish.

    Bars of a few pixels touch: gaps narrower than a pixel are drawn for some days and not for others, as if those had
    no entries.
    """
    days = max(places) - min(places)
    if period == "month":
        return 20
    return 0.8 if days < _DAYS_WITH_GAPS else max(1.02, days / 400)  # of 1, some edges come apart


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
