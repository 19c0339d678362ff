"""A poisoned partition fails alone, its cause is mended, and "Failed and missing" relaunches exactly that one."""

import pytest
from playwright.sync_api import expect

from backfill_pipeline_tests.ui.conftest import ARTEFACTS, Operator
from backfill_pipeline_tests.ui.dagster_ui import PAGE_MS, DagsterUi

pytestmark = pytest.mark.ui


def test_failed_and_missing_relaunches_what_failed_until_all_is_green(
    operator: Operator, ui: DagsterUi, poisoned: str
) -> None:
    ui.page.goto(poisoned)
    # One run takes all partitions, and it failed: Dagster counts all four here. The asset knows better.
    ui.expect_backfill(succeeded=0, failed=4)
    ui.expect_partitions("payments/posted", materialized=3, failed=1)
    ui.screenshot(ARTEFACTS / "failed-partition.png")
    ui.open("/assets/payments/posted?view=checks")
    for name in ("no_partition_failed", "not_stalled", "nothing_lost", "rejects_under_limit"):
        expect(ui.page.get_by_text(name, exact=True).first).to_be_visible(timeout=PAGE_MS)
    why = ui.page.get_by_text(
        "partitions that are not posted because their latest try failed: 1. What to do: "
    )
    expect(why).to_be_visible()
    ui.expect_table("sample", row="0002", cell="payments")
    ui.screenshot(ARTEFACTS / "failed-check.png")
    posted = operator.world.query(
        "SELECT id FROM ledger_entries WHERE reference_id LIKE 'R0000%%' ORDER BY id"
    )
    assert len(posted) == 30

    # Partition 0002 names an account that the ledger does not have. Somebody opens it.
    operator.world.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('LATE', 'USD')")
    ui.launch_partitions("backfill_payments", "Failed and missing")
    ui.expect_run("Success")  # of a single partition, Dagster makes a run and no backfill
    ui.expect_partitions("payments/posted", materialized=4)
    ui.screenshot(ARTEFACTS / "all-green.png")
    again = operator.world.query(
        "SELECT id FROM ledger_entries WHERE reference_id LIKE 'R0000%%' ORDER BY id"
    )
    assert len(again) == 40
    assert set(posted) <= set(again), "what was posted is not posted again"
