"""A newcomer's path through the bundled sample: found, registered, launched, watched, and looked into."""

import re

import pytest
from playwright.sync_api import expect

from backfill_pipeline_tests.ui.conftest import ARTEFACTS, Operator
from backfill_pipeline_tests.ui.dagster_ui import PAGE_MS, DagsterUi

pytestmark = [pytest.mark.ui, pytest.mark.usefixtures("poisoned")]  # for later: it waits meanwhile


def test_a_newcomer_backfills_the_sample_and_sees_what_became_of_it(
    operator: Operator, ui: DagsterUi
) -> None:
    ui.find_asset("sample", "manifest")
    ui.materialize()
    ui.launch_partitions("backfill_sample", "All")
    ui.expect_backfill(succeeded=5)
    ui.screenshot(ARTEFACTS / "backfill-finished.png")

    ui.expect_partitions("sample/posted", materialized=5)
    ui.page.get_by_text("0001", exact=True).first.click()
    expect(ui.page.get_by_text("Latest materialization")).to_be_visible(timeout=PAGE_MS)

    # What became of the whole source is on the last asset: numbers, tables and pictures.
    ui.open("/assets/sample/reconciliation")
    ui.expect_metadata({"verdict": "match", "breaks": "0", "posted": "4970", "rejected": "28"})
    rejects = ui.metadata("rejects_by_code").get_by_role("table")
    expect(rejects.get_by_role("row").filter(has_text="amount_malformed")).to_contain_text("6")
    expect(ui.metadata("totals").get_by_role("table")).to_contain_text("USD")
    ui.screenshot(ARTEFACTS / "reconciliation.png")
    picture = ui.open_picture("daily_plot")
    expect(picture).to_have_attribute("alt", re.compile(r"^4,970 entries on \d+ days"))
    assert picture.evaluate("one => one.complete && one.naturalWidth > 300"), "it is drawn"
    ui.screenshot(ARTEFACTS / "daily-plot.png")
    assert (
        operator.world.value("SELECT count(*) FROM ledger_entries WHERE reference_id LIKE 'SAMPLE1-%%'")
        == 4970
    )
