"""Links of all pages lead somewhere, every page is found from the site's contents, and pages mean the same in both places.

`make docs` looks at links too; this needs no MkDocs, and knows the pages outside docs/ as well.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *(CHECKOUT / "data").rglob("README.md"),
        CHECKOUT / "README.md",
        CHECKOUT / "CHANGELOG.md",
    ]
)
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?:(?!\1).)+\1")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


@cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Where a page can be linked into: headings as GitHub names them, and anchors of its own."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    named = re.findall(r'<a id="([^"]+)">', prose(page))
    return frozenset(
        [*named, *(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)]
    )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=name)
def test_a_page_of_the_site_means_the_same_on_github(page: Path) -> None:
    """Lists hold what is indented by four blanks on the site and by two on GitHub, and begin after an empty line there."""
    problems, before = [], ""
    in_fence = in_inner_paragraph = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if re.match(r" *```", line):
            if re.match(r" {1,3}```", line):
                problems.append(f"{number}: indent it by four")
            in_fence = not in_fence
        elif not in_fence:
            if re.match(r"(-|\d+\.) ", line) and before.strip() and not re.match(r" *(-|\d+\.) | ", before):
                problems.append(f"{number}: an empty line before the list")
            if re.match(r"(-|\d+\.) ", line) and before.strip() and in_inner_paragraph:
                problems.append(f"{number}: an empty line behind the paragraph in the list")
            in_inner_paragraph = bool(line.strip()) and (
                in_inner_paragraph or (not before.strip() and line.startswith("    "))
            )
            if re.match(r" {1,3}(-|\d+\.|\|)", line) or (not before.strip() and re.match(r" {1,3}\S", line)):
                problems.append(f"{number}: indent it by four")
            if re.match(r" *```mermaid", line):
                problems.append(f"{number}: the site draws no Mermaid")
        before = line
    assert problems == []
    assert "```mermaid" not in page.read_text(encoding="utf-8"), "the site has nothing that draws it"


def test_every_page_is_in_the_contents_of_the_site() -> None:
    contents = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"[\w/-]+\.md", contents)
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    decisions = {page for page in pages if page.startswith("decisions/")} - {"decisions/README.md"}
    assert sorted(listed) == sorted(pages - decisions)  # each once; decisions have a list of their own


def test_the_page_on_the_architecture_names_every_package() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z_]+)` \|", page.partition("## The life of a run")[0], re.MULTILINE))
    packages = {file.parent.name for file in (CHECKOUT / "backfill_pipeline").glob("*/__init__.py")}
    assert named == packages
    picture = (DOCS / "images" / "layers.svg").read_text(encoding="utf-8")
    assert [one for one in packages if one not in picture] == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "decisions" / "dependencies.md").read_text(encoding="utf-8")
    named = [*project["dependencies"], *project["optional-dependencies"]["tools"]]
    names = [re.split(r"[\[<>=~! ]", requirement)[0].removesuffix("-binary") for requirement in named]
    assert [one for one in names if one not in page] == []


@pytest.mark.parametrize("picture", sorted((DOCS / "images").glob("*.svg")), ids=lambda picture: picture.name)
def test_a_picture_can_be_read_aloud_and_fetches_nothing(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    assert root.get("role") == "img"
    for part in ("title", "desc"):
        said = root.find(f"{{http://www.w3.org/2000/svg}}{part}")
        assert said is not None
        assert (said.text or "").strip()
    text = picture.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "//" not in text
    assert "prefers-color-scheme: dark" in text
