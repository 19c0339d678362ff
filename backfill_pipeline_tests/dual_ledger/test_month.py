"""Days of several banks, from nothing to two equal ledgers, and again."""

from __future__ import annotations

from datetime import date

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.scb_days import day_definition
from backfill_pipeline.ledger import replays
from backfill_pipeline.stages.post import prepare_ledger
from backfill_pipeline.stages.reject_export import latest_cells, source_cells, write_export
from backfill_pipeline.stages.replay import replay_rejects
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.syncing import errors, outcomes, sync, tell
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual


def test_days_of_three_banks_end_in_equal_ledgers_and_a_second_run_has_nothing_to_do(
    make_dual: MakeDual,
) -> None:
    dual = make_dual(ledgers=3, days=3, entries_per_day=60)
    for bank in dual.ledgers:
        reports = sync(dual, bank)
        assert outcomes(reports) == ["synced"] * 3, errors(reports)
        assert [report.day for report in reports] == dual.days()
        assert {report.verdict for report in reports} == {"match"}
        for report in reports:
            assert (report.fetched, report.posted, report.acknowledged) == (60, 60, 60)
            assert (report.duplicates, report.conflicts, report.rejected, report.filtered) == (0, 0, 0, 0)
    dual.assert_equal()
    dual.simulator.bank.log.clear()
    before = dual.snapshot()
    for bank in dual.ledgers:
        reports = sync(dual, bank)
        assert outcomes(reports) == ["unchanged"] * 3, errors(reports)
    assert len(dual.log()) == 3  # one request for totals of each bank
    assert dual.snapshot() == before
    dual.assert_equal()


def test_only_the_day_that_changed_is_fetched_again(make_dual: MakeDual) -> None:
    dual = make_dual(days=5)
    sync(dual)
    late = dual.add_late(dual.days()[1], 2)
    dual.simulator.bank.log.clear()
    reports = sync(dual)
    assert outcomes(reports) == ["unchanged", "synced", "unchanged", "unchanged", "unchanged"]
    assert (reports[1].posted, reports[1].duplicates, reports[1].acknowledged) == (2, 40, 42)
    assert set(late) <= set(dual.entries_here())
    asked = [line.query for line in dual.log() if line.operation == "entries"]
    assert asked
    assert all("from=2024-03-30" in query or "cursor=" in query for query in asked)
    dual.assert_equal()


def test_an_entry_that_changed_after_it_was_posted_is_a_conflict_and_never_an_overwrite(dual: Dual) -> None:
    sync(dual)
    reference = f"SCB-01-{FIRST_DAY:%Y%m%d}-000000003"
    before = dual.entries_here()[reference]
    dual.change(reference)
    first, *others = sync(dual)
    assert outcomes(others) == ["unchanged"] * 2
    assert first.verdict == "break"
    assert (first.conflicts, first.posted) == (1, 0)
    assert dual.entries_here()[reference] == before
    assert dual.assert_nothing_lost() == [reference]
    # Every further night says the same, posts nothing and asks no more than it must.
    again, *others = sync(dual)
    assert (again.verdict, outcomes(others)) == ("break", ["unchanged"] * 2)
    assert dual.assert_nothing_lost() == [reference]
    # When the bank takes the change back, the next night finds both ledgers equal.
    dual.change(reference, str(before.amount))
    healed, *_ = sync(dual)
    assert healed.verdict == "match", healed.error
    dual.assert_equal()


def test_asking_for_everything_again_posts_nothing(dual: Dual) -> None:
    sync(dual)
    before = dual.snapshot()
    reports = sync(dual, refetch="always")
    assert outcomes(reports) == ["synced"] * 3, errors(reports)
    assert [(one.fetches, one.posted, one.duplicates) for one in reports] == [
        (1, 40, 0)
    ] * 3  # the same revision
    assert dual.snapshot().entries == before.entries
    dual.assert_equal()


@pytest.mark.slow
def test_days_in_any_order_and_in_pieces_are_the_same_ledger(make_dual: MakeDual) -> None:
    dual = make_dual(days=4)
    days = dual.days()
    for some in ([days[2]], [days[3], days[0]], days):
        reports = sync(dual, days=some)
        assert {one.outcome for one in reports} <= {"synced", "unchanged"}, errors(reports)
    dual.assert_equal()


def test_days_without_entries_are_complete_too(make_dual: MakeDual) -> None:
    dual = make_dual(entries_per_day=0)
    reports = sync(dual)
    assert outcomes(reports) == ["synced"] * 3, errors(reports)
    assert {one.verdict for one in reports} == {"match"}
    late = dual.add_late(FIRST_DAY)
    assert outcomes(sync(dual)) == ["synced", "unchanged", "unchanged"]
    assert set(dual.entries_here()) == set(late)
    dual.assert_equal()


def test_one_bank_that_is_away_does_not_touch_the_others(make_dual: MakeDual) -> None:
    dual = make_dual(ledgers=2)
    dual.write_scb("SCB-01", scb={"base_url": "http://127.0.0.1:9", "max_attempts": 2})
    reports = sync(dual, "SCB-01")
    assert outcomes(reports) == ["failed"] * 3
    assert all(one.error for one in reports)
    assert outcomes(sync(dual, "SCB-02")) == ["synced"] * 3
    dual.assert_equal("SCB-02")
    assert dual.entries_here("SCB-01") == {}


def test_a_day_that_the_bank_cannot_prove_is_not_posted_and_stops_no_other(make_dual: MakeDual) -> None:
    dual = make_dual(days=3)
    sync(dual, days=[])
    # Totals are wrong for as long as the fault is on, in every answer.
    dual.faults({"kind": "wrong_totals", "what": "count"})
    dual.write_scb(scb={"max_attempts": 2})
    reports = sync(dual)
    assert outcomes(reports) == ["failed"] * 3
    for report in reports:
        assert report.reason is not None
        assert "control totals" in report.reason
    assert dual.entries_here() == {}
    dual.faults()
    assert outcomes(sync(dual)) == ["synced"] * 3
    dual.assert_equal()


def test_rejects_are_told_to_nobody_and_are_breaks_until_they_are_repaired(make_dual: MakeDual) -> None:
    """Accounts that we do not have: entries between them are rejected here, and both ledgers are not equal."""
    dual = make_dual(known_share=0.5)
    shared = [one.id for one in dual.book().ledger.accounts if one.shared]
    dual.write_scb(accounts=shared, max_error_rate=1)
    reports = sync(dual)
    assert {one.verdict for one in reports} == {"break"}
    assert all(one.rejected for one in reports)
    here, there = dual.entries_here(), dual.entries_there()
    assert set(here) < set(there)
    assert len(here) + sum(one.rejected for one in reports) == len(there)
    assert set(dual.acknowledged()) == set(here)
    dual.assert_counts()
    # The accounts are opened, and the rejects sent again as they are: the next night finds both ledgers equal.
    definition = load_definition(dual.write_scb(max_error_rate=1))
    prepare_ledger(definition, dual.places, "open")
    for day in dual.days():
        one_day = day_definition(definition, day)
        work = open_work(one_day, dual.places)
        with work.connect() as connection:
            states = replays.reject_states(connection, work.registration.id, open_only=True)
        file = dual.folder / f"rejects-{day}.csv"
        with file.open("wb") as opened:
            write_export(opened, work.registration, states, latest_cells(states, source_cells(work, states)))
        replay_rejects(
            one_day, dual.places, file, run_id="repair", replayed_by="a test", log=lambda message: None
        )
    assert dual.received() == {}
    reports = sync(dual)
    assert {one.verdict for one in reports} == {"match"}, [one.reason for one in reports]
    assert dual.received() == {}
    dual.assert_equal()


def test_entries_that_a_rule_filters_are_no_break(make_dual: MakeDual) -> None:
    dual = make_dual()
    dual.write_scb(rules=[{"when": {"type": "FEE"}, "filter": "fees are not ours"}])
    reports = sync(dual)
    assert outcomes(reports) == ["synced"] * 3, errors(reports)
    assert {one.verdict for one in reports} == {"match"}
    fees = [one for one in dual.entries_there().values() if one.type == "FEE"]
    assert fees
    assert sum(one.filtered for one in reports) == len(fees)
    assert len(dual.entries_here()) == 120 - len(fees)


@pytest.mark.slow
def test_a_month_of_three_banks(make_dual: MakeDual) -> None:
    dual = make_dual(start="2024-03-15", days=30, ledgers=3, entries_per_day=2000)
    for bank in dual.ledgers:
        reports = sync(dual, bank)
        assert outcomes(reports) == ["synced"] * 30, errors(reports)
        assert {report.verdict for report in reports} == {"match"}
    dual.assert_equal()
    assert dual.value("SELECT count(*) FROM dual_ledger_outbox WHERE status = 'ACKNOWLEDGED'") == 180_000
    assert date(2024, 3, 31) in dual.days()
    tell(dual)
    assert all(outcomes(sync(dual, bank)) == ["unchanged"] * 30 for bank in dual.ledgers)


def test_an_entry_of_ours_that_the_bank_does_not_have_reopens_its_day(dual: Dual) -> None:
    """A day is complete only as long as the bank has what was posted here for it, however late that was."""
    sync(dual)
    dual.post_here("OURS-1", at=f"{FIRST_DAY}T12:00:00Z", amount="1.5000001")  # no bank takes such an amount
    tell(dual)
    assert [row[2] for row in dual.outbox()][-1] == "DEAD"
    first, *others = sync(dual)
    assert first.verdict == "break"
    assert "OURS-1" in str(first.reason)
    assert outcomes(others) == ["unchanged"] * 2
    assert dual.query("SELECT complete FROM sync_status ORDER BY day") == [(False,), (True,), (True,)]
