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

    # Of one partition: what came and went, what was refused and why, and the days that it is about.
    ui.expect_partitions("sample/posted", materialized=5)
    ui.open_partition("sample/posted", "0001")
    ui.expect_metadata(
        {"rows_in": "995", "posted": "993", "duplicates": "1", "conflicts": "1", "checkpoint_row": "1000"}
    )
    ui.screenshot(ARTEFACTS / "partition.png")
    ui.expect_table("rejects_by_code", row="conflict", cell="1")
    ui.expect_table("rejects_sample", row="conflict", cell="reference_id")
    ui.expect_table("totals", row="USD", cell="387")
    ui.screenshot(ARTEFACTS / "partition-tables.png")
    expect(ui.open_picture("daily_plot")).to_have_attribute("alt", re.compile(r"^993 entries on \d+ days"))
    ui.screenshot(ARTEFACTS / "partition-days.png")

    # What became of the whole source is on the last asset.
    ui.open("/assets/sample/reconciliation")
    ui.expect_metadata({"verdict": "match", "breaks": "0", "posted": "4970", "rejected": "28"})
    ui.screenshot(ARTEFACTS / "reconciliation.png")
    ui.expect_table("rejects_by_code", row="amount_malformed", cell="6")
    ui.expect_table("totals", row="USD", cell="USD")
    expect(ui.open_picture("daily_plot")).to_have_attribute("alt", re.compile(r"^4,970 entries on \d+ days"))
    ui.screenshot(ARTEFACTS / "daily-plot.png")
    assert (
        operator.world.value("SELECT count(*) FROM ledger_entries WHERE reference_id LIKE 'SAMPLE1-%%'")
        == 4970
    )

    ui.open_graph("sample")
    for kind in ("pandas", "Pandera", "Postgres"):
        expect(ui.page.get_by_text(kind, exact=True).first).to_be_visible()
    expect(ui.page.get_by_text("4 / 4 Passed")).to_be_visible(timeout=PAGE_MS)
    ui.screenshot(ARTEFACTS / "asset-graph.png")
