"""Synchronising days: what is done about each, and that nothing is done twice, lost or guessed."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import psycopg
import pytest

from backfill_pipeline.definition.scb_days import day_definition
from backfill_pipeline.dual_ledger.day_report import DayReport
from backfill_pipeline.dual_ledger.days import UNANSWERED_MAX, nightly_days, sync_days
from backfill_pipeline.dual_ledger.fetch import FETCHES_MAX
from backfill_pipeline.errors import LedgerError
from backfill_pipeline.stages.config import effective_config
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline.stages.runner import PartitionRunner
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.test_fetch import lose_an_entry
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual

_runs = itertools.count(1)


def sync(
    dual: Dual, days: Sequence[date] | None = None, *, bank: str = "SCB-01", **arguments: Any
) -> list[DayReport]:
    definition = dual.definition(bank)
    return list(
        sync_days(
            definition,
            dual.places,
            dual.days() if days is None else days,
            run_id=f"sync {next(_runs)}",
            config=effective_config(definition.config, None),
            log=lambda message: None,
            **arguments,
        )
    )


def killed(dual: Dual, day: date, partitions: int) -> None:
    """A day of which the first partitions are posted, as a run leaves it that was killed."""
    dual.write_scb(partition_rows="10")
    dual.open()
    definition = day_definition(dual.definition(), day)
    register_source(definition, dual.places)
    work = open_work(definition, dual.places)
    config = effective_config(definition.config, None)
    runner = PartitionRunner(work, config, STAGES, "killed", lambda message: None)
    keys = [partition.key for partition in work.registration.partitions]
    assert [report.error for report in runner.run(keys[:partitions])] == [None] * partitions


def test_days_are_posted_acknowledged_and_proven_equal(dual: Dual) -> None:
    reports = sync(dual)
    assert [report.error for report in reports] == [None] * 3
    assert [(report.outcome, report.verdict) for report in reports] == [("synced", "match")] * 3
    assert [report.day for report in reports] == dual.days()
    dual.assert_equal()


def test_a_second_run_asks_for_control_totals_once_and_does_nothing(dual: Dual) -> None:
    sync(dual)
    before, asked = dual.snapshot(), len(dual.log())
    reports = sync(dual)
    assert [(report.outcome, report.verdict) for report in reports] == [("unchanged", "match")] * 3
    assert [(report.fetched, report.posted, report.acknowledged) for report in reports] == [(40, 40, 40)] * 3
    assert [line.operation for line in dual.log()[asked:]] == ["totals"]
    assert dual.snapshot() == before


def test_entries_of_ours_reopen_a_day_that_was_complete(dual: Dual) -> None:
    sync(dual)
    dual.post_here("OURS-1", at=f"{FIRST_DAY}T12:00:00Z")
    asked = len(dual.log())
    reports = sync(dual)
    assert [(report.outcome, report.verdict) for report in reports] == [
        ("synced", "match"),
        ("unchanged", "match"),
        ("unchanged", "match"),
    ]
    assert "entries" not in [line.operation for line in dual.log()[asked:]]  # told and proven, not fetched
    assert [report.outcome for report in sync(dual)] == ["unchanged"] * 3
    dual.assert_equal()


def test_late_entries_of_a_past_day_are_found_by_its_totals(dual: Dual) -> None:
    sync(dual)
    late = dual.add_late(dual.days()[1], 3)
    reports = sync(dual)
    assert [report.outcome for report in reports] == ["unchanged", "synced", "unchanged"]
    assert (reports[1].fetched, reports[1].posted, reports[1].duplicates) == (43, 3, 40)
    assert set(late) <= set(dual.entries_here())
    dual.assert_equal()


def test_an_entry_that_changed_after_it_was_posted_is_a_conflict_and_never_an_overwrite(dual: Dual) -> None:
    sync(dual)
    before = dual.entries_here()
    reference = next(one for one in before if "20240330" in one)
    dual.change(reference)
    reports = sync(dual)
    assert [(report.outcome, report.verdict) for report in reports] == [
        ("unchanged", "match"),
        ("synced", "break"),
        ("unchanged", "match"),
    ]
    assert (reports[1].conflicts, reports[1].duplicates, reports[1].posted) == (1, 39, 0)
    assert not reports[1].complete
    assert reference in str(reports[1].reason)
    assert dual.entries_here() == before
    # It stays open until somebody decides, and nothing is fetched for that.
    asked = len(dual.log())
    again = sync(dual)
    assert [report.verdict for report in again] == ["match", "break", "match"]
    assert "entries" not in [line.operation for line in dual.log()[asked:]]
    assert dual.query("SELECT day, complete FROM sync_status ORDER BY day") == [
        (day, day != dual.days()[1]) for day in dual.days()
    ]


@pytest.mark.parametrize("totals_lie", [True, False], ids=["wrong totals", "lists that lose an entry"])
def test_a_day_that_is_never_proven_fails_before_anything_of_it_is_posted(
    dual: Dual, monkeypatch: pytest.MonkeyPatch, totals_lie: bool
) -> None:
    with monkeypatch.context() as patched:
        if totals_lie:
            dual.faults({"kind": "wrong_totals", "what": "count"})
            reason = "control totals that contradict those of their days"
        else:
            lose_an_entry(patched)
            reason = (
                "the entries of 2024-03-29 are not what the bank's control totals say: 39 entries, not 40"
            )
        reports = sync(dual, [FIRST_DAY])
    assert [report.outcome for report in reports] == ["failed"]
    assert reason in str(reports[0].reason)
    assert dual.entries_here() == {}
    assert dual.query("SELECT count(*) FROM backfill_registrations WHERE source_id LIKE '%%@%%'") == [(0,)]
    assert reason in str(dual.value("SELECT error FROM sync_status"))
    dual.faults()
    assert [report.complete for report in sync(dual)] == [True] * 3
    dual.assert_equal()


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "wrong_totals", "what": "sum", "count": 2},
        {"kind": "changed_entry", "count": 2},
        {"kind": "late_entries", "count": 2},
        {"kind": "overlapping_pages", "entries": 3},
        {"kind": "duplicate_page", "count": 2},
        {"kind": "looping_cursor", "count": 2},
        {"kind": "truncated", "count": 3},
        {"kind": "expired_token", "count": 2},
    ],
    ids=lambda fault: fault["kind"],
)
def test_what_passes_is_healed_by_fetching_again(make_dual: MakeDual, fault: dict[str, Any]) -> None:
    dual = make_dual(days=2)
    dual.write_scb(scb={"page_size": 15})
    dual.faults({**fault, "operations": ["totals" if fault["kind"] == "wrong_totals" else "entries"]})
    sync(dual)
    dual.faults()
    reports = sync(dual)
    assert [(report.complete, report.reason) for report in reports] == [(True, None)] * 2
    dual.assert_equal()


def test_a_bank_that_is_away_leaves_reasons_and_is_not_asked_for_ever(make_dual: MakeDual) -> None:
    dual = make_dual(days=9)
    dual.write_scb(scb={"max_attempts": 1, "fetch_workers": 1})
    dual.faults({"kind": "dropped"})
    reports = sync(dual)
    assert [report.outcome for report in reports] == ["failed"] * 9
    assert len(dual.log()) == UNANSWERED_MAX * FETCHES_MAX
    assert "not tried" in str(reports[-1].reason)
    dual.faults()
    assert [report.complete for report in sync(dual)] == [True] * 9
    dual.assert_equal()


def test_wrong_credentials_are_told_by_the_name_of_their_variable(
    dual: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    dual.definition()
    monkeypatch.setenv("SCB_SIMULATOR_TOKEN", "not-the-secret-one")
    reports = sync(dual)
    assert [report.outcome for report in reports] == ["failed"] * 3
    assert "SCB_SIMULATOR_TOKEN" in str(reports[0].reason)
    assert "not-the-secret-one" not in str(dual.query("SELECT * FROM sync_status"))


def test_a_day_that_is_partly_posted_is_finished_and_then_fetched_again(dual: Dual) -> None:
    day = FIRST_DAY
    killed(dual, day, 2)
    late = dual.add_late(day, 2)
    reports = sync(dual, [day])
    assert [(report.complete, report.fetched) for report in reports] == [(True, 42)]
    assert set(late) <= set(dual.entries_here())
    dual.assert_equal(days=[day])


@pytest.mark.parametrize("bank_moves_on", [False, True])
def test_a_day_whose_capture_is_gone_is_fetched_anew(dual: Dual, bank_moves_on: bool) -> None:
    day = FIRST_DAY
    killed(dual, day, 1)
    shutil.rmtree(dual.places.intermediates_dir)
    if bank_moves_on:
        dual.add_late(day, 2)
    reports = sync(dual, [day])
    assert [(report.complete, report.reason) for report in reports] == [(True, None)]
    dual.assert_equal(days=[day])


def test_a_mapping_that_changed_while_a_day_is_partly_posted_is_refused(dual: Dual) -> None:
    day = FIRST_DAY
    killed(dual, day, 1)
    dual.write_scb(partition_rows="10", metadata=["narrative"])
    reports = sync(dual, [day])
    assert reports[0].outcome == "failed"
    assert "metadata" in str(reports[0].reason)
    dual.write_scb(partition_rows="10")
    assert sync(dual, [day])[0].complete
    dual.assert_equal(days=[day])


def test_a_mapping_that_changed_fetches_days_again(dual: Dual) -> None:
    sync(dual, [FIRST_DAY])
    dual.write_scb(metadata=["narrative"])
    report = sync(dual, [FIRST_DAY])[0]
    assert (report.outcome, report.conflicts) == ("synced", 40)


def test_days_are_fetched_again_when_that_is_asked_for(dual: Dual) -> None:
    sync(dual)
    reports = sync(dual, refetch="always")
    assert [(report.outcome, report.verdict, report.fetches) for report in reports] == [
        ("synced", "match", 1)
    ] * 3
    dual.assert_equal()


def test_a_run_that_is_stopped_ends_soon_and_the_next_one_goes_on(make_dual: MakeDual) -> None:
    dual = make_dual(days=6)
    definition, stop = dual.definition(), threading.Event()
    running = sync_days(
        definition,
        dual.places,
        dual.days(),
        run_id="stopped",
        config=effective_config(definition.config, None),
        log=lambda message: None,
        stop=stop,
    )
    first = next(running)
    stop.set()
    rest = list(running)
    assert first.complete
    assert [report.day for report in (first, *rest)] == dual.days()
    assert any("stopped" in str(report.reason) for report in rest)
    assert dual.query("SELECT 1 FROM sync_status WHERE error IS NOT NULL") == []
    assert [report.complete for report in sync(dual)] == [True] * 6
    dual.assert_equal()


def test_connections_that_are_lost_on_the_way_end_no_run(make_dual: MakeDual) -> None:
    dual = make_dual(days=4)
    dual.write_scb(config={"retry_delay": "0", "max_retries": "20"})
    over = threading.Event()
    lost = 0

    def cut() -> None:
        nonlocal lost
        while not over.wait(0.2) and lost < 12:
            lost += len(
                dual.query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    cutting = threading.Thread(target=cut)
    cutting.start()
    try:
        reports = sync(dual)
    finally:
        over.set()
        cutting.join()
    assert lost > 0
    assert [(report.complete, report.reason) for report in reports] == [(True, None)] * 4
    dual.assert_equal()


def test_a_generator_that_is_closed_leaves_no_thread_behind(make_dual: MakeDual) -> None:
    dual = make_dual(days=6)
    definition = dual.definition()
    running = sync_days(
        definition,
        dual.places,
        dual.days(),
        run_id="closed",
        config=effective_config(definition.config, None),
        log=lambda message: None,
    )
    next(running)
    running.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("fetch", "tell", "prove", "post", "prepare"))]
    assert [report.complete for report in sync(dual)] == [True] * 6
    dual.assert_equal()


def test_days_that_are_not_over_are_left_alone(dual: Dual) -> None:
    (report,) = sync(dual, [date(2199, 1, 1)])
    assert report.outcome == "failed"
    assert "2199-01-01 is not over yet in Europe/Paris" in str(report.reason)
    assert dual.query("SELECT 1 FROM sync_status") == []


def test_a_day_that_the_zone_left_out_has_nothing_to_fetch(make_dual: MakeDual) -> None:
    dual = make_dual(start="2011-12-29", days=3, timezone="Pacific/Apia")
    dual.write_scb(scb={"start": "2011-12-29"})
    reports = sync(dual, [date(2011, 12, 29), date(2011, 12, 30), date(2011, 12, 31)])
    assert [(report.complete, report.reason) for report in reports] == [(True, None)] * 3
    assert reports[1].outcome == "unchanged"
    dual.assert_counts()


def test_two_runs_at_once_post_nothing_twice(dual: Dual) -> None:
    dual.definition()
    failures: list[Exception] = []

    def run() -> None:
        try:
            sync(dual)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [report.complete for report in sync(dual)] == [True] * 3
    dual.assert_equal()


def test_a_ledger_that_another_bank_keeps_is_refused(dual: Dual) -> None:
    dual.query("SELECT mark_dual_ledger('OURS-SCB-01', 'SCB-09')")
    with pytest.raises(LedgerError, match="OURS-SCB-01 is kept with bank SCB-09 already"):
        sync(dual)


def test_balances_are_summed_once_for_all_days_of_a_run(dual: Dual) -> None:
    reports = sync(dual)
    looked = [bool(report.reconciliation and report.reconciliation.currencies) for report in reports]
    assert looked == [False, False, True]


def test_balances_that_left_their_entries_fail_the_run_that_sees_it(dual: Dual) -> None:
    sync(dual, dual.days()[:1])
    dual.tamper(
        "UPDATE bank_accounts SET balance = balance + 1 WHERE id = (SELECT min(id) FROM bank_accounts)"
    )
    reports = sync(dual)
    assert [report.complete for report in reports] == [True, True, False]


def test_days_without_entries_are_complete(make_dual: MakeDual) -> None:
    dual = make_dual(entries_per_day=0)
    assert [(report.complete, report.fetched) for report in sync(dual)] == [(True, 0)] * 3
    late = dual.add_late(dual.days()[2], 1)
    assert [report.outcome for report in sync(dual)] == ["unchanged", "unchanged", "synced"]
    assert list(dual.entries_here()) == late


class TestNights:
    def test_the_day_that_ended_and_the_look_back_come_first(self, make_dual: MakeDual) -> None:
        dual = make_dual(days=10)
        dual.write_scb(scb={"nightly": {"lookback_days": "2"}})
        assert self.days(dual, "2024-04-05T03:00+02:00") == [date(2024, 4, day) for day in (2, 3, 4)]
        # Before the zone's midnight the day is not over, whatever UTC says.
        assert self.days(dual, "2024-04-04T22:30+00:00")[-1] == date(2024, 4, 4)
        assert self.days(dual, "2024-04-04T21:30+00:00")[-1] == date(2024, 4, 3)
        assert self.days(dual, "2024-03-29T12:00+01:00") == []
        assert self.days(dual, "2024-03-30T12:00+01:00") == [FIRST_DAY]

    def test_days_that_are_not_complete_are_taken_up_and_so_are_nights_that_were_missed(
        self, make_dual: MakeDual
    ) -> None:
        dual = make_dual(days=10)
        dual.write_scb(scb={"nightly": {"lookback_days": "0"}})
        sync(dual, [date(2024, 3, 30), date(2024, 4, 1)])
        assert self.days(dual, "2024-04-04T03:00+02:00") == [
            date(2024, 3, 31),
            date(2024, 4, 2),
            date(2024, 4, 3),
        ]
        dual.faults({"kind": "server_error"})
        sync(dual, [date(2024, 4, 1), date(2024, 4, 2)])
        # What was proven stays so while the bank cannot be asked; what never was is still to do.
        assert self.days(dual, "2024-04-04T03:00+02:00") == [
            date(2024, 3, 31),
            date(2024, 4, 2),
            date(2024, 4, 3),
        ]

    def test_a_day_is_asked_for_until_the_bank_says_the_same_after_the_look_back(
        self, make_dual: MakeDual
    ) -> None:
        dual = make_dual(days=10)
        dual.write_scb(scb={"nightly": {"lookback_days": "2"}})
        sync(dual, [date(2024, 3, 30)])
        month = "2024-04-08T03:00+02:00"
        assert date(2024, 3, 30) not in self.days(dual, month)
        # As if it had been complete since the night after it, and the bank away ever since.
        with psycopg.connect(dual.url) as connection:
            connection.execute("UPDATE sync_status SET checked_at = window_to + interval '3 hours'")
        assert date(2024, 3, 30) in self.days(dual, month)
        dual.faults({"kind": "server_error"})
        sync(dual, [date(2024, 3, 30)])
        assert date(2024, 3, 30) in self.days(dual, month)
        dual.faults()
        (report,) = sync(dual, [date(2024, 3, 30)])
        assert report.outcome == "unchanged"
        assert date(2024, 3, 30) not in self.days(dual, month)

    def days(self, dual: Dual, now: str) -> list[date]:
        with dual.places.connect("test") as connection:
            return nightly_days(connection, dual.definition(), datetime.fromisoformat(now))
