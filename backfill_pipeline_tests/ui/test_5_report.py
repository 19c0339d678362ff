"""`backfill report`'s page in a browser: both colour schemes, on a desk and on a phone, with nothing loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from backfill_pipeline_tests.ui.conftest import ARTEFACTS, DESKTOP, PHONE, Operator

pytestmark = pytest.mark.ui


@pytest.fixture(scope="module")
def report(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "sample.html"
    if operator.world.value("SELECT count(*) FROM ledger_entries WHERE reference_id LIKE 'SAMPLE1-%%'") == 0:
        assert operator.backfill("run", "sample").code == 3, "no test launched it from the UI"
    assert operator.backfill("report", "sample", "--out", path).code == 3, (
        "28 rows of the sample are rejected"
    )
    return path


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def opened(
    request: pytest.FixtureRequest, browser: Browser, report: Path, scheme: str
) -> Iterator[tuple[Page, list[str]]]:
    """The page, and everything that it asked for."""
    page = browser.new_page(viewport=request.param, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.goto(report.as_uri())
    yield page, asked
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"report-{scheme}-{request.param['width']}.png")
    page.close()


def test_the_report_is_readable_everywhere(opened: tuple[Page, list[str]], report: Path, scheme: str) -> None:
    page, asked = opened
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("#outcome")).to_contain_text("4,970 posted")
    expect(page.locator("#equation")).to_contain_text("5,000")
    for landmark in ("banner", "main"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    sections = page.get_by_role("navigation", name="Sections").get_by_role("link")
    for link in sections.all():
        target = link.get_attribute("href")
        assert target is not None
        expect(page.locator(target)).to_have_count(1)
    # The flow is one picture with its numbers as text, drawn for the width that there is.
    pictures = page.locator("#flow").get_by_role("img")
    assert sum(picture.is_visible() for picture in pictures.all()) == 1
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
    bright = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).every(one => one > 127)"
    )
    assert bright is (scheme == "light")
