"""The night of a simulated bank: its tick is shown, and so is the run that it launched."""

import re

import pytest
from playwright.sync_api import expect

from backfill_pipeline_tests.ui.conftest import ARTEFACTS, Operator
from backfill_pipeline_tests.ui.dagster_ui import PAGE_MS, DagsterUi

pytestmark = pytest.mark.ui
NIGHT_MS = 150_000
"""The night is at most two minutes after the UI was started, most of which went by during the tests before."""


def test_the_tick_of_the_night_is_shown_and_its_run_takes_the_days(operator: Operator, ui: DagsterUi) -> None:
    ui.open("/automation")
    ui.page.get_by_role("link", name=re.compile("nightly_scb_01")).click(timeout=PAGE_MS)
    tick = ui.page.get_by_role("row").filter(
        has_text=re.compile(f"^.*{operator.night:%H:%M}:00.*1 run requested")
    )
    tick = tick.filter(has=ui.page.get_by_role("link"))
    expect(tick).to_be_visible(timeout=NIGHT_MS)
    ui.screenshot(ARTEFACTS / "nightly-tick.png")
    ui.follow(tick.get_by_role("link"))
    ui.expect_run("Success")
    ui.screenshot(ARTEFACTS / "nightly-run.png")

    ui.expect_partitions("scb_01/reconciliation", materialized=len(operator.bank_days))
    ui.open_partition("scb_01/reconciliation", operator.bank_days[-1].isoformat())
    ui.expect_metadata({"verdict": "match", "equal": "40", "breaks": "0"})
    there = operator.world.value(
        "SELECT count(*) FROM ledger_entries WHERE ledger_id = 'OURS-SCB-01' AND transaction_type <> 'OPENING_BALANCE'"
    )
    assert there == 40 * len(operator.bank_days)
