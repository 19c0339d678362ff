"""Hooks of the documentation site, named in `mkdocs.yml`.

Belongs here: what makes the same pages right on the site and where they are read as files, and the proof that the built
site asks nothing of the network.
Does not: what pages say, the look of the site (`mkdocs.yml`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Final, Protocol

_CODE: Final = re.compile(r"(`+)(.+?)\1")
_FENCE: Final = re.compile(r"\s*(```|~~~)")
_BLOCK: Final = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_FILE_NAME: Final = re.compile(r"\[(?:[\w-]+/)*[\w-]+\.md\]\(([^)#]+\.md)(#[^)]+)?\)")
_STYLE_URL: Final = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import\s+['\"]?(?:https?:)?//")

# What a browser fetches by itself. Links that a reader clicks may lead anywhere.
_FETCHED: Final = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src", "srcset"),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
}
_BEHIND: Final = 0.3
"""What a match in such a page weighs, where one in any other weighs 1."""

# Relations of a link that name another page and fetch nothing.
_NAMED_ONLY: Final = frozenset({"canonical", "next", "prev", "edit"})


class _File(Protocol):
    """What is asked of MkDocs' file."""

    src_uri: str


class _Page(Protocol):
    """What is asked of MkDocs' page."""

    file: _File
    meta: MutableMapping[str, object]


def on_page_markdown(markdown: str, page: _Page, config: Mapping[str, object], **_: object) -> str:
    """Makes a page mean what it means on GitHub.

    There, `|` in code has to be written with a backslash inside a table; Python-Markdown would show the backslash. And
    there, files of the repository that are no pages can be linked to; the site names them instead. Where a link shows
    the name of a page's file, which is what readers of files look for, the site shows its title or its section's.

    Why something is so is found behind how it is done.
    """
    if page.file.src_uri.startswith("decisions/"):
        page.meta["search"] = {"boost": _BEHIND}
    depth = page.file.src_uri.count("/") + 1
    outside = re.compile(rf"\[([^\]]+)\]\((?:\.\./){{{depth}}}([^)]+)\)")
    folder = (Path(str(config["docs_dir"])) / page.file.src_uri).parent
    lines, in_fence = [], False
    for line in markdown.splitlines():
        if _FENCE.match(line):
            in_fence = not in_fence
        if not in_fence:
            line = outside.sub(_named, _FILE_NAME.sub(lambda link: _titled(link, folder), line))
        if not in_fence and line.lstrip().startswith("|"):
            line = _CODE.sub(lambda code: code.group().replace("\\|", "|"), line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _titled(link: re.Match[str], folder: Path) -> str:
    target = folder / link[1]
    if not target.is_file():
        return link.group()
    titles = re.findall(r"^#+ (.+)$", _BLOCK.sub("", target.read_text(encoding="utf-8")), re.MULTILINE)
    anchor = link[2] or ""
    named = [title for title in titles if not anchor or f"#{_slug(title)}" == anchor]
    return f"[{named[0]}]({link[1]}{anchor})" if named else link.group()


def _slug(title: str) -> str:
    """What a heading can be linked by, on the site as on GitHub."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _named(link: re.Match[str]) -> str:
    text, path = link.groups()
    return text if path in text else f"{text} (`{path}` of the repository)"


def on_post_build(config: Mapping[str, object], **_: object) -> None:
    """Refuses a site that would fetch something from elsewhere.

    Raises:
        SystemExit: it would; each file and address is named.
    """
    found = [f"{place}: {address}" for place, address in foreign(Path(str(config["site_dir"])))]
    if found:
        raise SystemExit("\n".join(["The site would fetch from elsewhere:", *found]))


def foreign(site: Path) -> Iterator[tuple[Path, str]]:
    """Files of a built site, with each address outside it that a browser would fetch while it shows them."""
    for page in sorted(site.rglob("*.html")):
        reader = _Fetched()
        reader.feed(page.read_text(encoding="utf-8"))
        yield from ((page.relative_to(site), address) for address in reader.foreign)
    for style in sorted(site.rglob("*.css")):
        if _STYLE_URL.search(style.read_text(encoding="utf-8")):
            yield style.relative_to(site), "a style sheet's url() or @import"


class _Fetched(HTMLParser):
    """Collects what a page fetches from other places than its own."""

    def __init__(self) -> None:
        super().__init__()
        self.foreign: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks at the addresses of one element."""
        self._in_style = tag == "style"
        given = dict(attrs)
        if tag == "link" and (given.get("rel") or "") in _NAMED_ONLY:
            return
        for name in _FETCHED.get(tag, ()):
            value = given.get(name) or ""
            if re.match(r"(?:https?:)?//", value.strip()):
                self.foreign.append(value)

    def handle_data(self, data: str) -> None:
        """Looks at the styles of a page."""
        if self._in_style and _STYLE_URL.search(data):
            self.foreign.append("the page's own style")
