"""The flow of a source's rows as a picture: read, and what became of them.

Belongs here: the drawing, twice: for wide pages and for phones.
Does not: counting.

Each band is as thick as its share of the rows, but never too thin to be seen; its number says how much it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backfill_pipeline.ledger.overview import Counts
from backfill_pipeline.pages.parts import text

THINNEST_PX: Final = 3.0
_HEIGHT_PX: Final = 170.0
_SLOT_PX: Final = 40.0
_GAP_PX: Final = 8.0
_BAR_PX: Final = 12.0

STYLE: Final = """
.flow { margin: 1rem 0; } .flow svg { display: block; width: 100%; height: auto; }
.flow .wide-picture { max-width: 52rem; } .flow .narrow-picture { display: none; max-width: 26rem; }
.flow text { fill: var(--ink); font: 14px system-ui, sans-serif; } .flow .count { font-weight: 600; }
.flow .share { fill: var(--muted); font-size: 12px; }
.flow .posted { fill: var(--series-1); } .flow .duplicates { fill: var(--series-7); }
.flow .conflicts { fill: var(--series-4); } .flow .rejected { fill: var(--series-2); }
.flow .filtered { fill: var(--series-3); } .flow .not_posted { fill: var(--series-5); }
.flow .read { fill: var(--ink); } .flow .band { opacity: .35; }
@media (max-width: 40rem) { .flow .wide-picture { display: none; } .flow .narrow-picture { display: block; } }
"""

_MEANINGS: Final = {
    "posted": "new entries in the ledger",
    "duplicates": "in the ledger already, equal",
    "conflicts": "its reference has other content",
    "rejected": "refused, each with its reason",
    "filtered": "left out by the definition",
    "not_posted": "in partitions that are not posted",
}


@dataclass(frozen=True, slots=True)
class _Band:
    name: str
    rows: int
    thickness: float


def share(rows: int, of: int) -> str:
    """A share that never rounds something to nothing, nor a part to the whole."""
    if not of or not rows:
        return "0 %"
    if rows == of:
        return "100 %"
    percent = 100 * rows / of
    if percent < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"


def flow_picture(counts: Counts) -> str:
    """The picture as HTML, with the same in words for those who do not see it."""
    bands = _bands(counts)
    said = ", ".join(f"{one.name.replace('_', ' ')} {one.rows:,}" for one in bands)
    words = f"Of {counts.rows:,} rows: {said}."
    return (
        '<figure class="flow">'
        + _drawn(
            counts.rows, bands, words, width=760, left=130, label_at=440, css="wide-picture", meanings=True
        )
        + _drawn(counts.rows, bands, words, width=330, left=0, label_at=190, css="narrow-picture")
        + "<figcaption>Bands are as thick as their share of the rows; one that would be too thin to be seen is drawn"
        " thicker.</figcaption></figure>"
    )


def _bands(counts: Counts) -> list[_Band]:
    rows = {
        "posted": counts.posted,
        "duplicates": counts.duplicates,
        "conflicts": counts.conflicts,
        "rejected": counts.rejected,
        "filtered": counts.filtered,
    }
    if counts.not_posted:
        rows["not_posted"] = counts.not_posted
    whole = max(counts.rows, 1)
    return [
        _Band(name, number, max(THINNEST_PX, _HEIGHT_PX * number / whole) if number else 0.0)
        for name, number in rows.items()
    ]


def _drawn(
    rows: int,
    bands: Sequence[_Band],
    words: str,
    *,
    width: int,
    left: int,
    label_at: int,
    css: str,
    meanings: bool = False,
) -> str:
    slots = [max(one.thickness, _SLOT_PX) for one in bands]
    top = 0.0 if left else 44.0
    height = top + sum(slots) + _GAP_PX * (len(bands) - 1)
    whole = sum(one.thickness for one in bands)
    start = top + (height - top - whole) / 2 if left else top
    right = label_at - 12 - _BAR_PX
    drawn = [
        _label(
            f"{rows:,}",
            "rows of the source",
            x=left - 10 if left else 0,
            y=start + whole / 2 if left else 20,
            anchor="end" if left else "start",
        ),
        f'<rect class="read" x="{left}" y="{start:.1f}" width="{_BAR_PX:g}" height="{max(whole, 1):.1f}"/>',
    ]
    from_y, to_y = start, top
    for one, slot in zip(bands, slots, strict=True):
        middle = to_y + slot / 2
        if one.rows:
            at = middle - one.thickness / 2
            drawn.append(_band(one, left + _BAR_PX, from_y, right, at))
            drawn.append(
                f'<rect class="{one.name}" x="{right:g}" y="{at:.1f}" width="{_BAR_PX:g}"'
                f' height="{one.thickness:.1f}"/>'
            )
        told = share(one.rows, rows)
        if meanings:
            told = f"{told}, {_MEANINGS[one.name]}"
        drawn.append(_label(f"{one.rows:,}", told, x=label_at, y=middle, name=one.name.replace("_", " ")))
        from_y += one.thickness
        to_y += slot + _GAP_PX
    return (
        f'<svg class="{css}" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{text(words)}">'
        + "".join(drawn)
        + "</svg>"
    )


def _band(band: _Band, x: float, y: float, to_x: float, to_y: float) -> str:
    bend = (x + to_x) / 2
    low, to_low = y + band.thickness, to_y + band.thickness
    return (
        f'<path class="band {band.name}" d="M{x:g} {y:.1f}C{bend:g} {y:.1f} {bend:g} {to_y:.1f} {to_x:g} {to_y:.1f}'
        f'L{to_x:g} {to_low:.1f}C{bend:g} {to_low:.1f} {bend:g} {low:.1f} {x:g} {low:.1f}Z"/>'
    )


def _label(number: str, below: str, *, x: float, y: float, name: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{x:g}" y="{y - 2:.1f}" text-anchor="{anchor}"><tspan class="count">{number}</tspan>'
        f"{f' {text(name)}' if name else ''}</text>"
        f'<text class="share" x="{x:g}" y="{y + 14:.1f}" text-anchor="{anchor}">{text(below)}</text>'
    )
