"""The list of decisions, from the pages themselves.

Belongs here: their titles.
Does not: the decisions (`docs/decisions/`).
"""

from __future__ import annotations

from pathlib import Path

from backfill_pipeline.documentation.markdown import page

_INTRODUCTION = """\
Why it is built this way. Each page says what was to be decided, what was decided, what follows from it, and what
would make us decide otherwise."""


def decisions_page(docs: Path) -> str:
    """`docs/decisions/README.md`, which GitHub shows for the folder and the site as its first page.

    Args:
        docs: the folder of the documentation.
    """
    pages = sorted(one for one in (docs / "decisions").glob("*.md") if one.name != "README.md")
    titles = {
        one.name: one.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for one in pages
    }
    return page(
        "Decisions", _INTRODUCTION, "\n".join(f"- [{title}]({name})" for name, title in titles.items())
    )
