"""What the site needs beyond MkDocs: tables as on GitHub, and nothing that is fetched from elsewhere.

The build itself is `make docs`, which is strict.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from backfill_pipeline.documentation.site import foreign, on_page_markdown, on_post_build


def shown(markdown: str, path: str = "page.md", docs: Path = Path()) -> str:
    """What the site makes a page of, by its path below docs/."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri=path), meta={})
    return on_page_markdown(markdown, page, {"docs_dir": str(docs)})


def test_bars_in_the_code_of_a_table_lose_their_backslash() -> None:
    assert shown("| `a\\|b` | c\\|d |\n") == "| `a|b` | c\\|d |\n"
    text = "say `a\\|b`\n\n```text\n| `a\\|b` |\n```\n"
    assert shown(text) == text


def test_reasons_are_found_behind_instructions() -> None:
    pages = [
        SimpleNamespace(file=SimpleNamespace(src_uri=path), meta={}) for path in ("decisions/a.md", "a.md")
    ]
    for page in pages:
        on_page_markdown("# A\n", page, {"docs_dir": "."})
    assert pages[0].meta["search"]["boost"] < 1
    assert pages[1].meta == {}


def test_files_that_are_no_pages_are_named() -> None:
    assert (
        shown("see [the rules](../deploy/rules.yml)\n")
        == "see the rules (`deploy/rules.yml` of the repository)\n"
    )
    assert shown("see [`deploy`](../deploy)\n") == "see `deploy`\n"
    assert (
        shown("[a](../a.md), [files](../../deploy)\n", "reference/page.md")
        == "[a](../a.md), files (`deploy` of the repository)\n"
    )
    text = "```text\n[the rules](../deploy/rules.yml)\n```\n"
    assert shown(text) == text


def test_links_that_show_the_name_of_a_file_show_its_title(tmp_path: Path) -> None:
    (tmp_path / "decisions").mkdir()
    (tmp_path / "audit.md").write_text(
        "<!-- a remark -->\n\n# Audit and history\n\n```sh\n# No title\n```\n\n## The audit: a look\n"
    )
    assert shown("([audit.md](audit.md))\n", docs=tmp_path) == "([Audit and history](audit.md))\n"
    assert shown("[audit.md](audit.md#the-audit-a-look)\n", docs=tmp_path) == (
        "[The audit: a look](audit.md#the-audit-a-look)\n"
    )
    assert (
        shown("[docs/audit.md](../audit.md)\n", "decisions/a.md", tmp_path)
        == "[Audit and history](../audit.md)\n"
    )
    text = "[the audit](audit.md), [`audit.md`](audit.md), [gone.md](gone.md)\n"
    assert shown(text, docs=tmp_path) == text


@pytest.mark.parametrize(
    ("html", "address"),
    [
        ('<script src="https://x.example/a.js"></script>', "https://x.example/a.js"),
        ('<img src="//x.example/a.png">', "//x.example/a.png"),
        ('<link rel="stylesheet" href="http://x.example/a.css">', "http://x.example/a.css"),
        ('<link rel="preconnect" href="https://x.example">', "https://x.example"),
        ("<style>@import 'https://x.example/a.css'</style>", "the page's own style"),
        ("<style>p { background: url(//x.example/a.png) }</style>", "the page's own style"),
    ],
)
def test_what_a_page_would_fetch_is_found(tmp_path: Path, html: str, address: str) -> None:
    (tmp_path / "page.html").write_text(f"<html><body>{html}</body></html>")
    assert list(foreign(tmp_path)) == [(Path("page.html"), address)]
    with pytest.raises(SystemExit, match=r"page\.html"):
        on_post_build({"site_dir": str(tmp_path)})


def test_a_style_sheet_that_would_fetch_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("@font-face { src: url('https://x.example/f.woff2') }")
    assert [place for place, _ in foreign(tmp_path)] == [Path("a.css")]


def test_links_that_a_reader_may_follow_are_no_fetching(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<link rel="canonical" href="https://x.example/"><a href="https://x.example/">x</a><img src="a.png">'
    )
    (tmp_path / "a.css").write_text("p { background: url(a.png) }")
    assert list(foreign(tmp_path)) == []
    on_post_build({"site_dir": str(tmp_path)})
