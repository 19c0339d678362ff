"""Looks: colours in two schemes, and the style sheet of every page.

Belongs here: what can be seen and nothing that can be read.
Does not: parts of a page (`parts.py`).

Text is told apart from what is behind it by 4.5 to 1 at least, and shapes by 3 to 1, in both schemes: a test computes
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LIGHT: Final[Mapping[str, str]] = {
    "back": "#ffffff",
    "soft": "#f2f4f7",
    "line": "#d3dae1",
    "ink": "#1f2933",
    "muted": "#4f5d6b",
    "link": "#0a58a6",
    "good": "#17692f",
    "open": "#8a4b00",
    "bad": "#b3261e",
    "on-badge": "#ffffff",
    "series-1": "#0072b2",
    "series-2": "#c25400",
    "series-3": "#00795a",
    "series-4": "#a8488a",
    "series-5": "#8f6400",
    "series-6": "#3d7ea6",
    "series-7": "#66727f",
}
"""Name → colour, on a light ground."""

DARK: Final[Mapping[str, str]] = {
    "back": "#12171c",
    "soft": "#1c242b",
    "line": "#37434e",
    "ink": "#e6ebf0",
    "muted": "#a7b4c1",
    "link": "#82bdf7",
    "good": "#7ddc98",
    "open": "#f0b860",
    "bad": "#ff9b92",
    "on-badge": "#0d1216",
    "series-1": "#56b4e9",
    "series-2": "#ff9248",
    "series-3": "#2fbf95",
    "series-4": "#d98bbd",
    "series-5": "#e6b94d",
    "series-6": "#9ccfe8",
    "series-7": "#94a1ae",
}
"""The same names, on a dark ground."""


def _declared(colors: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colors.items())


STYLE: Final = f"""
:root {{ color-scheme: light dark; {_declared(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_declared(DARK)} }} }}
@media print {{ :root {{ color-scheme: light; {_declared(LIGHT)} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 2rem 1.25rem 4rem;
       background: var(--back); color: var(--ink); }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1.5rem 0 .25rem; overflow-wrap: anywhere; }}
p {{ margin: .4rem 0; max-width: 48rem; overflow-wrap: anywhere; }}
ul {{ margin: .4rem 0; padding-left: 1.2rem; max-width: 48rem; }}
li {{ overflow-wrap: anywhere; }}
a {{ color: var(--link); }}
.muted {{ color: var(--muted); }}
.badge {{ display: inline-block; padding: .1rem .6rem; border-radius: 1rem; color: var(--on-badge); font-weight: 600; }}
.good {{ background: var(--good); }} .bad {{ background: var(--bad); }} .open {{ background: var(--open); }}
.equation {{ font-size: 1.15rem; font-variant-numeric: tabular-nums; padding: .6rem .8rem; background: var(--soft);
            border-radius: .4rem; max-width: none; overflow-wrap: normal; }}
.wide {{ overflow-x: auto; }}
.wide:focus-visible, summary:focus-visible, a:focus-visible {{ outline: 2px solid var(--link); outline-offset: 2px; }}
table {{ border-collapse: collapse; width: 100%; margin: .5rem 0; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; color: var(--muted); padding: .2rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; }}
tbody th {{ font-weight: 400; }}
td.number, th.number {{ text-align: right; white-space: nowrap; padding-right: 1.2rem; }}
.facts th {{ width: 40%; }}
@media (max-width: 40rem) {{
  .wide > table:not(.facts) {{ width: max-content; min-width: 100%; }} .wide td {{ max-width: 17rem; }}
  caption {{ position: sticky; left: 0; width: calc(100vw - 2.5rem); }}
}}
code {{ font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }}
td code {{ white-space: pre-wrap; }} tbody th code {{ overflow-wrap: normal; white-space: nowrap; }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10pt; }}
  h2, h3, caption {{ break-after: avoid; }} tr, figure {{ break-inside: avoid; }}
  .badge {{ print-color-adjust: exact; }} .wide {{ overflow: visible; }}
  table {{ font-size: 8pt; }} td, th, code {{ overflow-wrap: break-word; }}
  code {{ font-size: 7.5pt; }} tbody th code {{ white-space: normal; }}
}}
"""
"""For a page's head. Colours are named, so that pictures inside the page can use them too."""
