"""The outbox on a real instance: what the sensor sees, what its job sends, and when it leaves a bank alone."""

from __future__ import annotations

from datetime import datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from backfill_pipeline.orchestration import outbox
from backfill_pipeline.orchestration.outbox import PAUSE_AFTER_FAILURE_S
from backfill_pipeline_tests.dual_ledger.world import Dual
from backfill_pipeline_tests.orchestration.test_assets import failure
from backfill_pipeline_tests.orchestration.test_scb_days import Synced

pytestmark = pytest.mark.e2e


class Telling(Synced):
    """A ledger in which entries are posted that the bank has to hear of."""

    def __init__(self, dual: Dual, instance: dg.DagsterInstance) -> None:
        super().__init__(dual, instance)
        dual.open()

    def tick(self) -> SensorExecutionData:
        defs = self.defs
        return defs.resolve_sensor_def("outbox").evaluate_tick(
            dg.build_sensor_context(instance=self.instance, definitions=defs, sensor_name="outbox")
        )

    def says(self) -> str:
        data = self.tick()
        assert data.run_requests == []
        return str(data.skip_message)

    def run(self) -> dg.ExecuteInProcessResult:
        (request,) = self.tick().run_requests or ()
        job = self.defs.resolve_job_def("dispatch_outbox")
        return job.execute_in_process(instance=self.instance, tags=dict(request.tags), raise_on_error=False)


@pytest.fixture
def telling(dual: Dual, instance: dg.DagsterInstance) -> Telling:
    return Telling(dual, instance)


def test_what_is_posted_here_is_sent_once_and_then_nothing_is_due(telling: Telling) -> None:
    assert telling.says() == "nothing is due"
    telling.dual.post_here("OURS-1")
    telling.dual.post_here("OURS-2")
    result = telling.run()
    assert result.success
    assert set(telling.dual.received()) == {"OURS-1", "OURS-2"}
    assert telling.says() == "nothing is due"
    telling.dual.assert_told()


def test_a_row_that_is_given_up_is_a_failed_run_that_says_what_to_do(telling: Telling) -> None:
    telling.dual.post_here(min(telling.dual.entries_there()))  # a name that an entry of the bank has
    told = failure(telling.run())
    assert "1 row given up: backfill outbox show says why" in told
    assert telling.dual.outbox_states() == {("entry", "DEAD"): 1}
    assert telling.says() == "nothing is due"


def test_a_bank_that_is_down_is_left_alone_after_a_failure(
    telling: Telling, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling.dual.write_scb(scb={"max_attempts": 1})
    telling.dual.post_here("OURS-1")
    telling.dual.faults({"kind": "server_error"})
    assert "SCB-01" in failure(telling.run())
    telling.dual.query("UPDATE dual_ledger_deliveries SET next_attempt_at = now()")
    telling.dual.query("UPDATE dual_ledger_banks SET open_until = NULL")
    assert "failed and says why; the next one follows in" in telling.says()
    telling.dual.faults()
    real = outbox._now()
    monkeypatch.setattr(outbox, "_now", lambda: real + timedelta(seconds=PAUSE_AFTER_FAILURE_S))
    assert telling.run().success
    assert set(telling.dual.received()) == {"OURS-1"}


def test_one_run_at_a_time(telling: Telling) -> None:
    telling.dual.post_here("OURS-1")
    job = telling.defs.resolve_job_def("dispatch_outbox")
    run = telling.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert telling.says() == f"run {run.run_id[:8]} is sending"


def test_a_bank_without_a_definition_is_named(telling: Telling) -> None:
    telling.dual.post_here("OURS-1")
    telling.dual.write_scb(scb={"bank_id": "OTHER", "ledger": "SCB-01"})
    assert telling.says() == "no source is defined for SCB-01"
    assert isinstance(outbox._now(), datetime)
