"""Small pieces of Markdown that mean the same on GitHub and on the site.

Belongs here: tables, code, texts that must not be taken for markup.
Does not: what pages say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE_OR_MARK = re.compile(r"(``.+?``|`[^`]+`)|[<*]", re.DOTALL)


def code(text: object) -> str:
    """A text in the letters of code; empty for an empty text."""
    written = str(text)
    if not written:
        return ""
    return f"`` {written} ``" if "`" in written else f"`{written}`"


def plain(text: str) -> str:
    """A sentence from the code: its `code` stays code, everything else stands for itself."""
    one_line = " ".join(text.split())
    return _CODE_OR_MARK.sub(lambda found: found[1] or "\\" + found[0], one_line)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, with a line break at its end; empty when there is no row."""
    lines = [_row(cell.replace("|", "\\|") for cell in row) for row in rows]
    if not lines:
        return ""
    return "\n".join([_row(header), f"|{'---|' * len(header)}", *lines]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def page(title: str, *parts: str) -> str:
    """A page of its parts, with a remark for who opens the file."""
    remark = "<!-- Made from the code by `make reference`: what is changed here is overwritten. -->"
    return "\n\n".join([remark, f"# {title}", *(part.strip("\n") for part in parts if part.strip())]) + "\n"
