"""What an asset's own page says: whose it is, what it holds and where it is decided."""

import re

import pytest
from playwright.sync_api import expect

from backfill_pipeline_tests.ui.conftest import ARTEFACTS, OWNER, Operator
from backfill_pipeline_tests.ui.dagster_ui import PAGE_MS, DagsterUi

pytestmark = [pytest.mark.ui, pytest.mark.usefixtures("poisoned")]


def test_an_asset_says_whose_it_is_what_it_holds_and_where_it_is_decided(
    operator: Operator, ui: DagsterUi
) -> None:
    ui.open("/assets/payments/validated")
    expect(ui.page.get_by_text("The entries that may be posted.")).to_be_visible(timeout=PAGE_MS)
    expect(ui.page.get_by_text(OWNER.removeprefix("team:"), exact=True)).to_be_visible()
    expect(ui.page.get_by_text("Pandera", exact=True)).to_be_visible()
    amount = ui.page.get_by_role("row").filter(has=ui.page.get_by_role("cell", name="amount", exact=True))
    expect(amount.first).to_contain_text("above 0")
    source_file = operator.world.folder / "sources" / "payments.yaml"
    expect(ui.page.get_by_role("link", name="Open source file")).to_have_attribute(
        "href", re.compile(re.escape(str(source_file)))
    )
    ui.screenshot(ARTEFACTS / "asset-page.png")
