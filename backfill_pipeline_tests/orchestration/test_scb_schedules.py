"""Nights on a real instance: which days a tick asks for, what its runs do, and what is said when there are none."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData

from backfill_pipeline.orchestration import schedules
from backfill_pipeline.orchestration.schedules import day_spans
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual
from backfill_pipeline_tests.orchestration.test_scb_days import Synced

pytestmark = pytest.mark.e2e
PARIS = ZoneInfo("Europe/Paris")


class Nightly(Synced):
    """A bank whose schedule is evaluated as the daemon does, and its requests run in this process."""

    def __init__(self, dual: Dual, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(dual, instance)
        self.monkeypatch = monkeypatch

    def tick(self, day: date, *, now: datetime | None = None) -> ScheduleExecutionData:
        """The tick at three o'clock of a day, evaluated at `now`, by default a minute later."""
        at = datetime(day.year, day.month, day.day, 3, tzinfo=PARIS)
        self.monkeypatch.setattr(schedules, "_now", lambda: now or at + timedelta(minutes=1))
        return self.defs.resolve_schedule_def("nightly_scb_01").evaluate_tick(
            dg.build_schedule_context(instance=self.instance, scheduled_execution_time=at)
        )

    def requested(self, day: date) -> list[tuple[str, str]]:
        return [
            (
                one.tags["dagster/asset_partition_range_start"],
                one.tags["dagster/asset_partition_range_end"],
            )
            for one in self.tick(day).run_requests or ()
        ]

    def night(self, day: date) -> list[dg.ExecuteInProcessResult]:
        """A tick with its runs."""
        job = self.defs.resolve_job_def("sync_scb_01")
        return [
            job.execute_in_process(instance=self.instance, tags=dict(one.tags), raise_on_error=False)
            for one in self.tick(day).run_requests or ()
        ]


@pytest.fixture
def nightly(dual: Dual, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Nightly:
    return Nightly(dual, instance, monkeypatch)


def after(days: int) -> date:
    return FIRST_DAY + timedelta(days=days)


def test_a_night_takes_the_day_that_ended_and_looks_back(nightly: Nightly) -> None:
    assert nightly.requested(after(0)) == []
    assert nightly.requested(after(1)) == [("2024-03-29", "2024-03-29")]
    assert nightly.requested(after(3)) == [("2024-03-29", "2024-03-31")]
    (request,) = nightly.tick(after(3)).run_requests or ()
    assert request.run_key == "scb_01/2024-04-01T01:00Z/2024-03-29..2024-03-31"
    assert request.tags["backfill/bank"] == "scb_01"
    (result,) = nightly.night(after(3))
    assert result.success
    nightly.dual.assert_equal()


def test_what_came_late_and_what_failed_is_taken_up_by_the_next_night(nightly: Nightly) -> None:
    nightly.dual.write_scb(scb={"nightly": {"lookback_days": 1}}, max_error_rate="0")
    bad = nightly.spoil(FIRST_DAY)
    (result,) = nightly.night(after(1))
    assert not result.success
    nightly.repair(bad)
    (result,) = nightly.night(after(2))
    assert result.success
    nightly.dual.add_late(after(1), 2)
    (result,) = nightly.night(after(3))
    assert result.success
    nightly.dual.assert_equal()
    assert len(nightly.dual.entries_here()) == 122


@pytest.mark.slow
def test_days_with_a_gap_between_them_are_a_run_each(nightly: Nightly) -> None:
    nightly.dual.write_scb(scb={"nightly": {"lookback_days": 0}}, max_error_rate="0")
    bad = nightly.spoil(FIRST_DAY)
    nightly.night(after(1))
    nightly.night(after(2))
    assert nightly.requested(after(3)) == [("2024-03-29", "2024-03-29"), ("2024-03-31", "2024-03-31")]
    nightly.repair(bad)
    assert [one.success for one in nightly.night(after(3))] == [True, True]
    nightly.dual.assert_equal()


def test_a_tick_that_was_missed_leaves_its_days_to_the_newest_one(nightly: Nightly) -> None:
    late = datetime(2024, 4, 5, 12, tzinfo=UTC)
    missed = nightly.tick(after(2), now=late)
    assert (missed.run_requests, missed.skip_message) == (
        [],
        "missed: the tick of 2024-04-05 03:00 takes its days as well",
    )
    assert nightly.tick(date(2024, 4, 5), now=late).run_requests


def test_before_the_first_day_is_over_a_night_says_so(nightly: Nightly) -> None:
    assert nightly.tick(FIRST_DAY).skip_message == (
        "nothing to do: the days of scb_01 begin on 2024-03-29 (scb.start)"
    )


def test_a_ledger_that_is_away_is_a_sentence(nightly: Nightly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://nobody:geheim@127.0.0.1:1/gone")
    skipped = nightly.tick(after(1))
    assert skipped.run_requests == []
    told = str(skipped.skip_message)
    assert told.startswith("not run, the next tick takes its days as well: ")
    assert "geheim" not in told


def test_a_tick_asks_the_bank_nothing(nightly: Nightly) -> None:
    assert nightly.launch().success
    asked = len(nightly.dual.log())
    assert nightly.requested(after(4)) == [("2024-03-29", "2024-04-01")]
    assert len(nightly.dual.log()) == asked


def test_spans_of_days() -> None:
    days = [date(2024, 2, 28), date(2024, 3, 1), date(2024, 2, 29), date(2024, 3, 5)]
    assert day_spans(days) == [(date(2024, 2, 28), date(2024, 3, 1)), (date(2024, 3, 5), date(2024, 3, 5))]
    assert day_spans([]) == []
