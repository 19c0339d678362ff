"""Plots as SVG, written by hand: two pictures do not need a library.

Belongs here: drawing bars and lines from labelled numbers.
Does not: which numbers (`report.py`).

Both read on light and on dark pages (they bring their own ground), without colours (kinds stand in groups and differ in
lightness, lines in dash and mark, and every value is written out), and aloud (title and description).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from backfill_pipeline.bench.results import Kind

_WIDTH: Final = 900
_LETTER_WIDTH: Final = 7.0  # of the widest usual font at 13 px: nothing here can measure text
_STYLE: Final = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .faint { fill: #59636e; font-size: 12px }
  .ground { fill: #ffffff; stroke: #d1d9e0 }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .limit { fill: #818b98; stroke: #818b98 }
  .ours { fill: #0969da; stroke: #0969da }
  .rival { fill: #bc4c00; stroke: #bc4c00; fill-opacity: 0.35 }
  polyline { fill: none !important; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .faint { fill: #9198a1 }
    .ground { fill: #0d1117; stroke: #3d444d }
    .grid { stroke: #3d444d }
    .limit { fill: #9198a1; stroke: #9198a1 }
    .ours { fill: #4493f8; stroke: #4493f8 }
    .rival { fill: #db6d28; stroke: #db6d28 }
  }
"""
_KINDS: Final[dict[Kind, str]] = {
    "limit": "limit of the server",
    "ours": "this product",
    "rival": "others",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One value, and how it is written."""

    label: str
    value: float
    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: x → y, x rising."""

    label: str
    points: tuple[tuple[float, float], ...]
    kind: Kind


def bars(title: str, description: str, values: Sequence[Bar]) -> str:
    """Horizontal bars on one linear scale from zero."""
    top, right, pitch, thickness = 74, 120, 26, 16
    left = 34 + _LETTER_WIDTH * max((len(bar.label) for bar in values), default=0)
    height = top + pitch * len(values) + 16
    largest = max((bar.value for bar in values), default=1.0) or 1.0
    scale = (_WIDTH - left - right) / largest
    body = []
    x = 24.0
    for kind in dict.fromkeys(bar.kind for bar in values):
        body.append(_rectangle(x, 46, 12, 12, kind))
        body.append(_text(x + 18, 57, _KINDS[kind], css="faint"))
        x += 18 + _LETTER_WIDTH * len(_KINDS[kind]) + 24
    for number, bar in enumerate(values):
        y = top + pitch * number
        length = max(bar.value * scale, 1.0)
        body.append(_text(left - 10, y + 13, bar.label, anchor="end"))
        body.append(_rectangle(left, y, length, thickness, bar.kind))
        body.append(_text(left + length + 8, y + 13, bar.text, css="faint"))
    return _document(title, description, height, body)


def lines(
    title: str,
    description: str,
    curves: Sequence[Line],
    *,
    name_x: Callable[[float], str],
    name_y: Callable[[float], str],
) -> str:
    """Curves over two logarithmic axes; ticks where the points are (x), and at 1, 2, 5, 10, … (y)."""
    top, left, right, bottom, height = 60, 76, 190, 44, 400
    every_x = sorted({x for curve in curves for x, _ in curve.points})
    every_y = [y for curve in curves for _, y in curve.points]
    ticks = _ticks(min(every_y, default=1.0), max(every_y, default=10.0))
    place_x = _logarithmic(
        every_x[0] if every_x else 1.0, every_x[-1] if every_x else 10.0, left, _WIDTH - right
    )
    place_y = _logarithmic(ticks[0], ticks[-1], height - bottom, top)
    body = []
    for tick in ticks:
        y = place_y(tick)
        body.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(_text(left - 8, y + 4, name_y(tick), anchor="end", css="faint"))
    body += [
        _text(place_x(x), height - bottom + 22, name_x(x), anchor="middle", css="faint") for x in every_x
    ]
    ends = _apart([place_y(curve.points[-1][1]) for curve in curves], 17)
    for number, (curve, end) in enumerate(zip(curves, ends, strict=True)):
        points = [(place_x(x), place_y(y)) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ("", "7 4", "2 3", "10 3 2 3")[number % 4]
        body.append(f'<polyline class="{curve.kind}" points="{path}" stroke-dasharray="{dash or "none"}"/>')
        body += [_mark(x, y, number, curve.kind) for x, y in points]
        body.append(_text(points[-1][0] + 14, end + 4, f"{curve.label}, {name_y(curve.points[-1][1])}"))
    return _document(title, description, height, body)


def _document(title: str, description: str, height: float, body: Sequence[str]) -> str:
    inner = "\n".join(body)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" \
aria-labelledby="title description">
<title id="title">{escape(title)}</title>
<desc id="description">{escape(description)}</desc>
<style>{_STYLE}</style>
<rect class="ground" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>
{_text(24, 32, title, css="title")}
{inner}
</svg>
"""


def _text(x: float, y: float, text: str, *, anchor: str = "start", css: str = "") -> str:
    style = f' class="{css}"' if css else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, kind: Kind) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"/>'


def _mark(x: float, y: float, number: int, kind: Kind) -> str:
    """Circle, square, triangle, diamond, and again."""
    r = 5
    if number % 4 == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    corners = (
        ((-r, -r), (r, -r), (r, r), (-r, r)),
        ((0, -r - 1), (r + 1, r), (-r - 1, r)),
        ((0, -r - 2), (r + 2, 0), (0, r + 2), (-r - 2, 0)),
    )[number % 4 - 1]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="{kind}" points="{points}"/>'


def _logarithmic(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    span = math.log(high / low) or 1.0
    return lambda value: first + math.log(value / low) / span * (last - first)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … from the last one not above the lowest value to the first not below the highest."""
    steps = [factor * 10.0**power for power in range(-6, 10) for factor in (1, 2, 5)]
    first = max((step for step in steps if step <= low), default=steps[0])
    last = min((step for step in steps if step >= high and step > first), default=steps[-1])
    return [step for step in steps if first <= step <= last]


def _apart(places: Sequence[float], distance: float) -> list[float]:
    """The same places moved down as far as needed for no two labels to overlap."""
    moved = [0.0] * len(places)
    last = -math.inf
    for index in sorted(range(len(places)), key=lambda index: places[index]):
        moved[index] = last = max(places[index], last + distance)
    return moved
