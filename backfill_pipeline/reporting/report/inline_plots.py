"""Plots inside a page: in the page's own colours, with text that is read as text.

Belongs here: what is done to an SVG of `plots.py` before it becomes a part of HTML.
Does not: drawing.
"""

from __future__ import annotations

import re
from typing import Final

from backfill_pipeline.pages.parts import text
from backfill_pipeline.reporting.plots import GRID, INK, MUTED, SERIES, Plot

STYLE: Final = """
figure { margin: 1rem 0; } figcaption { color: var(--muted); max-width: 48rem; }
.plot svg { display: block; width: 100%; min-width: 34rem; max-width: 52rem; height: auto; }
.plot text { font-family: system-ui, sans-serif; fill: var(--ink); }
@media print { .plot svg { min-width: 0; } }
"""

_COLORS: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}
_COLOR: Final = re.compile("|".join(map(re.escape, _COLORS)))
# Bars of one kind stand behind each other, and differ in their outline alone: one path can have them all.
_BARS: Final = re.compile(
    r'(?:<g id="patch_\d+"> ?<path d="([^"]*)" (clip-path="[^"]*" style="[^"]*")/> ?</g> ?)'
    r'(?:<g id="patch_\d+"> ?<path d="[^"]*" \2/> ?</g> ?)+'
)


def plot_figure(plot: Plot, name: str) -> str:
    """A plot as a figure of a page.

    Args:
        plot: an SVG.
        name: of the plot, and no other one on the page: it begins the ids in it.
    """
    assert plot.kind == "svg", plot.kind
    drawing = plot.image.decode()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"\s+", " ", drawing)
    view = re.search(r'viewBox="([^"]*)"', drawing)
    assert view is not None
    drawing = re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="{view[1]}" role="img" aria-label="{text(plot.text)}" stroke-linejoin="round">',
        drawing,
        count=1,
    )
    drawing = _BARS.sub(_one_path, drawing)
    drawing = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", drawing)  # of groups, which nothing names
    drawing = re.sub(r"(id=\"|url\(#|href=\"#)", rf"\g<1>{name}-", drawing).replace("xlink:href", "href")
    drawing = re.sub(r"font-family: [^;\"]*; ?", "", drawing)
    drawing = re.sub(r"(\d+\.\d\d)\d+", r"\1", drawing)
    drawing = _COLOR.sub(lambda found: _COLORS[found[0]], drawing)
    title = text(plot.title)
    return (
        f'<figure id="{name}"><div class="wide plot" role="region" aria-label="{title}" tabindex="0">{drawing}</div>'
        f"<figcaption>{text(plot.text)}</figcaption></figure>"
    )


def _one_path(found: re.Match[str]) -> str:
    outlines = re.findall(r' d="([^"]*)"', found[0])
    return f'<g><path d="{" ".join(outlines)}" {found[2]}/></g> '
