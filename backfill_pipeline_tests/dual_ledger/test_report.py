"""The report of a bank and of its days: what both ledgers say, day by day."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import day_definition
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.reporting.report.outcome import Level
from backfill_pipeline.reporting.report.write import Report, write_report
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.syncing import sync
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual
from backfill_pipeline_tests.pages.reading import Page


def reported(dual: Dual, definition: SourceDefinition) -> tuple[Report, Page]:
    out = Path(dual.folder) / "report.html"
    with connect(dual.url) as connection:
        written = write_report(connection, definition, out, now=datetime(2026, 1, 31, tzinfo=UTC))
    page = Page(out.read_text(encoding="utf-8"))
    assert page.wrong == []
    return written, page


def test_a_bank_is_told_day_by_day_and_a_day_by_its_comparison(dual: Dual) -> None:
    sync(dual)
    written, page = reported(dual, dual.definition())
    # Nothing applied the constraints yet: that is all there is to do.
    assert [one.level for one in written.outcome.findings] == [Level.OPEN]
    assert "balance constraints" in written.outcome.findings[0].text
    assert written.outcome.sentence.endswith("Both ledgers are equal on 3 of 3 days.")
    assert page.headings[0] == (1, "Sync of scb_01")
    assert [row[0] for row in page.tables["Days on which both ledgers are equal"][1:]] == [
        str(day) for day in dual.days()
    ]
    assert "read 120 = posted 120" in page.text
    told = page.tables["Rows of the outbox for this bank"]
    assert [row[1:3] for row in told[1:]] == [["ACKNOWLEDGED", "120"]]

    written, page = reported(dual, day_definition(dual.definition(), FIRST_DAY))
    assert page.headings[0] == (1, f"Sync of scb_01, {FIRST_DAY}")
    assert written.outcome.sentence.endswith("Both ledgers are equal.")
    assert "Both ledgers have the same entries" in page.text
    assert ["Entries that it stated", "40"] in page.tables["The day at SCB-01"]
    assert {row[0] for row in page.tables["Control totals of the bank"][1:]} <= {"EUR", "JPY", "KWD", "USD"}


def test_a_day_that_differs_or_failed_comes_first_with_its_reason(make_dual: MakeDual) -> None:
    dual = make_dual(days=4)
    days = dual.days()
    sync(dual, days=[days[0], days[1], days[3]])
    changed = next(one for one in dual.entries_here() if days[1].strftime("%Y%m%d") in one)
    dual.change(changed)
    sync(dual, days=[days[1]])
    dual.query("UPDATE sync_status SET error = 'the bank <b>does not answer</b>' WHERE day = %s", days[3])

    written, page = reported(dual, dual.definition())
    waiting = page.tables["Days that are not complete"][1:]
    assert [row[:2] for row in waiting] == [[str(days[1]), "break"], [str(days[3]), "failed"]]
    assert changed in waiting[0][-1]
    assert waiting[1][-1] == "the bank <b>does not answer</b>"
    assert [(one.level, one.text) for one in written.outcome.findings[:3]] == [
        (Level.BROKEN, f"1 day: both ledgers differ, the first is {days[1]}"),
        (Level.FAILED, f"1 day: failed, the first is {days[3]}"),
        (Level.OPEN, f"1 day: never begun, the first is {days[2]}"),
    ]
    assert written.outcome.findings[0].remedy.endswith(f"reconcile scb_01 --from {days[1]} --to {days[1]}")
    sample = page.tables["All rejected rows"]
    assert sample[1][:2] == ["conflict", str(days[1])]

    written, page = reported(dual, day_definition(dual.definition(), days[1]))
    assert written.outcome.level is Level.BROKEN
    assert f"backfill sync reconcile scb_01 --from {days[1]} --to {days[1]}" in page.text
