"""The constraints step in the UI: refused while an account offends, with the account and what to do; then in force."""

import pytest
from playwright.sync_api import expect

from backfill_pipeline_tests.ui.conftest import ARTEFACTS, Operator
from backfill_pipeline_tests.ui.dagster_ui import PAGE_MS, DagsterUi

pytestmark = pytest.mark.ui
CHECKS = "/assets/balance_constraints?view=checks"


def test_the_constraints_step_refuses_and_says_why(operator: Operator, ui: DagsterUi) -> None:
    operator.backfill("constraints", "suspend")
    overdrawn = operator.backfill("run", "rent")
    assert operator.balance("OVERDRAWN") == -250, overdrawn
    ui.open("/assets/balance_constraints")
    ui.materialize()
    ui.open(CHECKS)
    why = ui.page.get_by_text("refused: 1 account would break a balance constraint, the worst is OVERDRAWN")
    expect(why).to_be_visible(timeout=PAGE_MS)
    expect(
        ui.page.get_by_text("correct them by entries, then run backfill constraints apply")
    ).to_be_visible()
    expect(ui.page.get_by_text("Failed", exact=True).first).to_be_visible()
    ui.expect_metadata({"state": "refused", "offending_accounts": "1"})
    ui.screenshot(ARTEFACTS / "constraints-refused.png")

    # What it lacks is posted by a run of the command, whose own constraints step shows here too.
    repaired = operator.backfill("run", "deposit")
    assert operator.balance("OVERDRAWN") == 50, repaired
    ui.open(CHECKS)
    expect(ui.page.get_by_text("constraints are now applied and verified")).to_be_visible(timeout=PAGE_MS)
    expect(ui.page.get_by_text("Passed", exact=True).first).to_be_visible()
