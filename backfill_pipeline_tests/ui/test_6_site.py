"""The documentation site in a browser, opened as a file: both colour schemes, search, a phone, and nothing fetched."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from backfill_pipeline_tests.stages.world import CHECKOUT
from backfill_pipeline_tests.ui.conftest import ARTEFACTS, DESKTOP, PHONE

pytestmark = pytest.mark.ui


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_site_finds_pages_and_fetches_nothing(browser: Browser, site: Path, scheme: str) -> None:
    with browser.new_page(viewport=DESKTOP, color_scheme=scheme) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.screenshot(path=ARTEFACTS / f"site-{scheme}.png")
        page.get_by_role("textbox", name="Search").click()
        page.keyboard.type("plan hash")
        page.locator(".md-search-result__link[href*='rollback.html']").first.click()
        expect(page).to_have_url(re.compile("rollback.html"))
        bright = page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).every(one => one > 127)"
        )
        assert bright is (scheme == "light")
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_pages_fit_on_a_phone(browser: Browser, site: Path) -> None:
    with browser.new_page(viewport=PHONE) as page:
        for name in (
            "index",
            "tutorial",
            "operations",
            "dagster-ui",
            "reference/commands",
            "reference/tables",
        ):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
        page.screenshot(path=ARTEFACTS / "site-phone.png")
