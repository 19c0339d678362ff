"""What the commands show of stated balances, and that they never decide an exit code."""

from __future__ import annotations

import pytest

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.stages.test_stated import COLUMNS, STATED, statement
from backfill_pipeline_tests.stages.world import World

pytestmark = pytest.mark.e2e

RICH = {"A": 100, "B": 9000}


def test_a_drift_is_shown_by_run_and_reconcile__and_is_no_failure(backfill: Backfill, world: World) -> None:
    path = world.write("s", statement(25, opening=107), header=COLUMNS, stated_balances=STATED, accounts=RICH)
    ran = backfill("run", path)
    assert ran.code == 0, ran.stderr
    sentence = "25 compared, 25 differ, from line 2 on: from the first row on: look at the opening balance"
    assert f"  stated balances {sentence}\n" in ran.stdout
    assert "backfill reconcile s   (shows where stated balances part from the ledger)" in ran.stdout
    shown = backfill("reconcile", "s")
    assert shown.code == 0
    assert f"  stated balances: {sentence}\n" in shown.stdout
    assert (
        "stated minus ledger: 7.00 to 7.00, 7.00 at the last row; accounts that differ at theirs: 1 of 1"
        in shown.stdout
    )
    table = [line.split() for line in shown.stdout.splitlines()]
    assert ["2", "A", "109.00", "102.00", "7.00", "from", "the", "first", "row"] in [row[:9] for row in table]
    again = backfill("run", path, "--json").json
    assert again["reconciliation"] == "match"
    for printed in (again, backfill("reconcile", "s", "--json").json):
        stated = printed["stated_balances"]
        assert isinstance(stated, dict)
        assert (stated["compared"], stated["differing"], stated["agrees"]) == (25, 25, False)
        assert (stated["smallest"], stated["last"], stated["steps"][0]["line"]) == ("7.00", "7.00", 2)


@pytest.mark.slow
def test_rejects_explain_it__and_a_part_is_not_compared(backfill: Backfill, world: World) -> None:
    rows = statement(25, opening=100, changes={12: {"amount": "x"}})
    path = world.write("s", rows, header=COLUMNS, stated_balances=STATED, accounts=RICH, max_error_rate="0.5")
    part = backfill("run", path, "--partitions", "1..2")
    assert part.code == 3
    assert "  stated balances not compared yet: 1 partition is not posted\n" in part.stdout
    ran = backfill("resume", path)
    assert ran.code == 0, ran.stderr
    assert (
        "stated balances 25 compared, 14 differ, from line 13 on: this row was rejected (amount_malformed)\n"
        in ran.stdout
    )


def test_a_source_without_them_says_nothing(backfill: Backfill, world: World) -> None:
    path = world.write("s", statement(5), header=COLUMNS)
    ran = backfill("run", path)
    assert "stated" not in ran.stdout
    assert backfill("reconcile", "s", "--json").json["stated_balances"] is None
