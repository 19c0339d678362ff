"""Reading a page as a browser and a screen reader do, and everything that is wrong with it.

Shared by the tests of whatever makes pages.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})
_SHAPES = frozenset({"path", "rect", "use", "g", "defs", "clippath", "text", "tspan", "circle", "line"})


@dataclass
class Page(HTMLParser):
    """A page taken apart.

    Attributes:
        wrong: what is not as it must be, in words.
        headings: level and text, in order.
        text: all of it that can be read.
        tables: caption → rows of cells.
    """

    source: str
    wrong: list[str] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    text: str = ""
    tables: dict[str, list[list[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self._ids: list[str] = []
        self._meant: list[str] = []
        self._landmarks: list[str] = []
        self._rows: list[list[str]] = []
        self._policy = ""
        self._caption = ""
        self.feed(self.source)
        self.close()
        self._check()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if len(given) != len(attrs):
            self.wrong.append(f"{tag} has an attribute twice: {attrs}")
        if any(name.startswith("on") for name in given) or tag in (
            "script",
            "iframe",
            "object",
            "link",
            "img",
        ):
            self.wrong.append(f"{tag} loads or runs something")
        for name, value in given.items():
            if name in ("src", "srcset", "action", "data", "xmlns") or name.startswith("xmlns:"):
                self.wrong.append(f"{tag} names another place: {name}={value}")
            elif name in ("style", "clip-path", "fill"):
                self._refuse_loading(value)
        if given.get("http-equiv") == "Content-Security-Policy":
            self._policy = given.get("content", "")
        if tag == "html" and given.get("lang") != "en":
            self.wrong.append("the language is not named")
        if (
            tag == "svg"
            and given.get("aria-hidden") != "true"
            and not (given.get("role") == "img" and given.get("aria-label"))
        ):
            self.wrong.append("a picture has no words")
        if tag == "th" and given.get("scope") not in ("col", "row"):
            self.wrong.append("a heading of a table does not say of what it is one")
        if tag == "section" and "aria-labelledby" not in given:
            self.wrong.append("a section has no name")
        if "id" in given:
            self._ids.append(given["id"])
        self._meant += [given[name] for name in ("aria-labelledby",) if name in given]
        self._meant += [value[1:] for name, value in given.items() if name == "href" and value[:1] == "#"]
        self._meant += [one for value in given.values() for one in re.findall(r"url\(#([^)]*)\)", value)]
        if tag in ("header", "nav", "main"):
            self._landmarks.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
        if tag not in _VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SHAPES and tag not in _VOID:
            self.wrong.append(f"{tag} is closed where it begins")
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.wrong.append(f"{tag} ends where {self._open[-1:]} is open")
            return
        self._open.pop()
        if tag == "table":
            if not self._caption:
                self.wrong.append("a table has no caption")
            self.tables[self._caption] = [row for row in self._rows if row]

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self._refuse_loading(data)
            return
        self.text += data
        if "caption" in self._open:
            self._caption += data
        elif self._rows and self._rows[-1] and ("td" in self._open or "th" in self._open):
            self._rows[-1][-1] += data
        if self.headings and self._open and self._open[-1] == f"h{self.headings[-1][0]}":
            level, said = self.headings[-1]
            self.headings[-1] = (level, said + data)

    def _refuse_loading(self, rules: str) -> None:
        if found := re.search(r"https?:|@import|url\((?!#)|expression", rules):
            self.wrong.append(f"a rule would load something: {found[0]}")

    def _check(self) -> None:
        self.wrong += [f"{tag} is never closed" for tag in self._open]
        self.wrong += [f"the id {one} is there twice" for one in set(self._ids) if self._ids.count(one) > 1]
        self.wrong += [f"nothing has the id {one}" for one in self._meant if one not in self._ids]
        levels = [level for level, _ in self.headings]
        if levels[:1] != [1] or levels.count(1) != 1:
            self.wrong.append(f"there is not one first heading: {self.headings}")
        if any(after > before + 1 for before, after in itertools.pairwise(levels)):
            self.wrong.append(f"a level of headings is left out: {self.headings}")
        if "default-src 'none'" not in self._policy:
            self.wrong.append("the page may load something")
        if "main" not in self._landmarks:
            self.wrong.append("nothing is the main part")
