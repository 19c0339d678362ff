"""Parts of a page: text, tables, sections, and the document around them.

Belongs here: HTML; every text is escaped here, and nowhere else.
Does not: looks (`looks.py`), words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from html import escape
from typing import Final

from backfill_pipeline.pages.looks import STYLE
from backfill_pipeline.wording import printable

LONG: Final = 300
"""Characters of a value of somebody else that a page shows."""

# Were a text ever not escaped, it still could neither run nor load anything.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

Cells = Sequence[object]


class Safe(str):
    """HTML that was made here, with every text in it escaped."""

    __slots__ = ()


class Code(str):
    """A hash or a record, in a fixed width."""

    __slots__ = ()

    def __new__(cls, value: object) -> Code:
        """Of anything but None, which is empty."""
        return super().__new__(cls, "" if value is None else value)


class Link(str):
    """A file beside the page."""

    __slots__ = ()


class Number(str):
    """An exact number as text."""

    __slots__ = ()

    def __new__(cls, value: object) -> Number:
        """Of a text that is a number already."""
        return super().__new__(cls, value)


def text(value: object, limit: int | None = None) -> str:
    """A value as HTML that can neither mark up nor turn around what is beside it; None is empty.

    Args:
        value: anything.
        limit: characters that are shown at most; None for all.
    """
    return "" if value is None else escape(printable(str(value), limit))


def amount(value: Decimal) -> Number:
    """An exact amount with thousands separators."""
    return Number(f"{value:,f}")


def moment(value: object) -> str:
    """A moment to the second; anything else as `text`."""
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else text(value)


def badge(kind: str, words: str) -> str:
    """A verdict in a word or two. `kind` is good, open or bad; the words alone say as much."""
    return f'<span class="badge {kind}">{text(words)}</span>'


def section(title: str, content: str, *, name: str | None = None) -> str:
    """A part of the page with its heading.

    Args:
        title: of the heading.
        content: HTML.
        name: what it can be found by; None makes one of the title.
    """
    found = name or "".join(one if one.isalnum() else "-" for one in title.lower())
    return (
        f'<section id="{found}" aria-labelledby="{found}-title">\n<h2 id="{found}-title">{text(title)}</h2>\n{content}'
        "\n</section>"
    )


def table(header: Sequence[str], rows: Iterable[Cells], *, caption: str) -> str:
    """Rows, or the word None where there are none; numbers are aligned at their right.

    Args:
        header: of each column; none for a list of names and values.
        rows: of equal length; the first cell names its row.
        caption: what the rows are.
    """
    listed = list(rows)
    if not listed:
        return "<p>None.</p>"
    # A column is one of numbers; in a list of names and values, each value is a kind of its own.
    numbers = [bool(header) and _is_number(value) for value in listed[0]]
    head = "".join(
        f'<th scope="col"{_aligned(number)}>{text(name)}</th>'
        for name, number in zip(header, numbers, strict=bool(header))
    )
    body = "\n".join(
        f'<tr><th scope="row"{_aligned(numbers[0])}>{cell(row[0])}</th>'
        + "".join(
            f"<td{_aligned(number)}>{cell(value)}</td>"
            for number, value in zip(numbers[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in listed
    )
    above = f"<thead><tr>{head}</tr></thead>" if header else ""
    return (
        f'<div class="wide" role="region" aria-label="{text(caption)}" tabindex="0">'
        f"<table{'' if header else ' class=facts'}><caption>{text(caption)}</caption>{above}<tbody>\n{body}\n"
        "</tbody></table></div>"
    )


def cell(value: object) -> str:
    """What is in a cell."""
    if isinstance(value, Safe):
        return value
    if isinstance(value, Code):
        return f"<code>{text(value)}</code>" if value else ""
    if isinstance(value, Link):
        return f'<a href="{text(value)}">{text(value)}</a>'
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, date):  # a moment is one too
        return moment(value)
    return text(value)


def document(title: str, content: str, *, style: str = "", generator: str | None = None) -> str:
    """A whole page.

    Args:
        title: of the window.
        content: HTML of its body.
        style: rules besides those of every page.
        generator: what made it; None for nothing.
    """
    made_by = f'<meta name="generator" content="{text(generator)}">' if generator else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'{made_by}<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}{style}</style></head><body>\n{content}\n</body></html>\n"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | Number) and not isinstance(value, bool)


def _aligned(number: bool) -> str:
    return " class=number" if number else ""
