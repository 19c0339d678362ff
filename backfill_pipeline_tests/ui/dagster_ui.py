"""Dagster's pages, as an operator works them.

Belongs here: every role and text of Dagster 1.13 that the tests rest on; nothing here knows a class name of its CSS.
Does not: what must be seen (the tests).

Each step waits for what it needs to see. Dagster's own clock is slow (its daemon looks around every few
seconds, and so do its pages), hence the long timeout of what a daemon does.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

DAEMON_MS = 150_000
"""For what waits for the daemon's next look, and the run that it launches."""
PAGE_MS = 60_000
"""For what a page shows after it was opened, on a busy machine."""
_AGAIN_MS = 4_000
_SELECTED_MS = 500


@dataclass(frozen=True)
class DagsterUi:
    """The UI at `url` in `page`."""

    page: Page
    url: str

    # --- getting about ------------------------------------------------------------------------------------------

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def follow(self, link: Locator) -> None:
        """As a click, but here: some links of Dagster open a tab of their own."""
        path = link.get_attribute("href")
        assert path is not None
        self.open(path)

    def find_asset(self, group: str, name: str) -> None:
        """From the catalog to an asset, by the group that it is in."""
        self.open("/assets")
        search = self.page.get_by_role("textbox", name="Search and filter assets")
        search.fill(f"group:{group}")
        search.press("Enter")
        self.page.get_by_role("link", name=f"{group} / {name}").click()
        expect(self.page.get_by_role("tab", name="Overview")).to_be_visible(timeout=PAGE_MS)

    def open_graph(self, group: str) -> None:
        """The assets of a group, on a screen so wide that their boxes have room for what is in them."""
        self.page.set_viewport_size({"width": 2240, "height": 600})
        self.open(f"/locations/ledger_backfill/asset-groups/{group}")
        expect(self.page.get_by_text("100% filled").first).to_be_visible(timeout=PAGE_MS)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, animations="disabled")

    # --- launching ----------------------------------------------------------------------------------------------

    def materialize(self) -> None:
        """Launches the asset that is shown, follows the notice to its run, and waits for the run's success."""
        self._click_materialize()
        self._follow_notice()
        self.expect_run("Success")

    def launch_partitions(self, job: str, which: str) -> None:
        """Launches partitions of a job and follows the notice to the backfill.

        Args:
            job: its name.
            which: the button of the dialog: "All", "Failed and missing" …
        """
        self.open(f"/locations/ledger_backfill/jobs/{job}")
        self._click_materialize()
        dialog = self.page.get_by_role("dialog").filter(has_text="Partition selection")
        launch = dialog.get_by_role("button", name=re.compile("^Launch"))
        deadline = time.monotonic() + PAGE_MS / 1000
        while True:
            dialog.get_by_role("button", name=which, exact=True).click()
            self.page.wait_for_timeout(_SELECTED_MS)
            if launch.is_enabled():
                break
            # Dagster selects of what it knows at the click: nothing, until it has asked for all partitions.
            assert time.monotonic() < deadline, f"{which} selects no partition of {job}"
        launch.click()
        self._follow_notice()

    def _click_materialize(self) -> None:
        """Dagster asks whether one is sure while any other source was never posted."""
        button = self.page.get_by_role("button", name=re.compile(r"materialization Materialize( all)?…?$"))
        expect(button).to_be_enabled(timeout=PAGE_MS)
        button.click()
        sure = self.page.get_by_role("button", name="Confirm")
        asked_or_done = sure.or_(self.page.get_by_text("Partition selection")).or_(self._notice_link())
        expect(asked_or_done.first).to_be_visible(timeout=PAGE_MS)
        if sure.is_visible():
            sure.click()

    def _notice_link(self) -> Locator:
        return self.page.get_by_role("region", name="Notifications").get_by_role("link", name="View")

    def _follow_notice(self) -> None:
        self._notice_link().click(timeout=PAGE_MS)
        self.page.wait_for_url("**/runs/**")

    # --- looking ------------------------------------------------------------------------------------------------

    def expect_run(self, outcome: str) -> None:
        """Of the run that is shown: Success or Failure, in its head."""
        head = self.page.get_by_text(re.compile(f"^{outcome}$"))
        expect(head.first).to_be_visible(timeout=DAEMON_MS)

    def expect_backfill(self, *, succeeded: int, failed: int = 0) -> None:
        """Waits until the backfill that is shown is at 100 %, and looks at its counts of partitions."""
        expect(self.page.get_by_text("Partition selection")).to_be_visible(timeout=PAGE_MS)
        done = self.page.get_by_role("row").filter(has_text="100% completed")
        for left_ms in range(DAEMON_MS, 0, -_AGAIN_MS):
            try:
                expect(done).to_be_visible(timeout=min(left_ms, _AGAIN_MS))
                break
            except AssertionError:
                # The page asks again by itself, but seldom.
                self.page.reload()
        counts = [cell.inner_text() for cell in done.get_by_role("cell").all()][1:]
        expected = [str(succeeded + failed), "0", str(succeeded), str(failed)]
        assert counts == expected, "partitions targeted, in progress, succeeded, failed"

    def expect_partitions(self, asset: str, *, materialized: int, failed: int = 0, missing: int = 0) -> None:
        """Opens an asset's partitions, whose counts stand beside the filters."""
        self.open(f"/assets/{asset}?view=partitions")
        for name, count in (("Failed", failed), ("Materialized", materialized), ("Missing", missing)):
            box = self.page.get_by_role("checkbox", name=f"{name} ({count})", exact=True)
            expect(box).to_be_attached(timeout=PAGE_MS)

    def open_partition(self, asset: str, partition: str) -> None:
        self.open(f"/assets/{asset}?view=partitions&partition={partition}")
        expect(self.page.get_by_text("Latest materialization")).to_be_visible(timeout=PAGE_MS)

    def expect_metadata(self, values: dict[str, str]) -> None:
        """Of the materialization or the check that is shown: key and value of a row each."""
        for key, value in values.items():
            expect(self.metadata(key)).to_contain_text(value, timeout=PAGE_MS)

    def metadata(self, key: str) -> Locator:
        """The row of a key, whose first cell is the key alone."""
        cell = self.page.get_by_role("cell", name=key, exact=True)
        return self.page.get_by_role("row").filter(has=cell).first

    def expect_table(self, key: str, *, row: str, cell: str) -> None:
        """Of the metadata: a table in sight, where a row with one text has another in a cell."""
        table = self.metadata(key).get_by_role("table")
        table.scroll_into_view_if_needed(timeout=PAGE_MS)
        expect(table).to_be_visible()
        here = table.get_by_role("row").filter(has_text=row)
        expect(here.get_by_role("cell", name=cell, exact=True).first).to_be_visible()

    def open_picture(self, key: str) -> Locator:
        """Opens Markdown in the metadata, and returns the image that it holds, once the browser could decode it."""
        self.metadata(key).get_by_text("Show Markdown").click(timeout=PAGE_MS)
        picture = self.page.get_by_role("dialog").get_by_role("img").last
        expect(picture).to_be_visible(timeout=PAGE_MS)
        expect(picture).to_have_js_property("complete", True)
        expect(picture).not_to_have_js_property("naturalWidth", 0)
        return picture
