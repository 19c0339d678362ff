"""Operations on a real instance: what a person writes into the launchpad, what the job does, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg
import pytest

from backfill_pipeline.orchestration.launch import launch_manifest, launch_range
from backfill_pipeline.stages.evidence.check import check_pack
from backfill_pipeline_tests.orchestration.test_assets import RICH, definitions, failure, shown
from backfill_pipeline_tests.stages.world import World, assert_same_ledger, entries

pytestmark = pytest.mark.e2e
KEYS = ["0001", "0002", "0003"]


@dataclass
class Operator:
    """A posted source `s` of three partitions, and somebody who launches jobs."""

    world: World
    defs: dg.Definitions
    instance: dg.DagsterInstance

    def launch(self, job: str, op: str, **config: object) -> dg.ExecuteInProcessResult:
        """As the launchpad does, with the op's config."""
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, run_config={"ops": {op: {"config": config}}}, raise_on_error=False
        )

    def told(self, job: str, op: str, **config: object) -> dict[str, object]:
        """The metadata of a run that succeeded."""
        result = self.launch(job, op, **config)
        assert result.success
        (event,) = [one for one in result.all_events if one.event_type is dg.DagsterEventType.STEP_OUTPUT]
        return {name: value.value for name, value in event.step_output_data.metadata.items()}

    def refused(self, job: str, op: str, **config: object) -> str:
        """Why a run failed, in its one sentence."""
        result = self.launch(job, op, **config)
        assert not result.success
        return failure(result)

    def post(self) -> None:
        assert launch_range(self.defs, self.instance, "s", KEYS).success


@pytest.fixture
def operator(world: World, instance: dg.DagsterInstance) -> Operator:
    defs = definitions(world.write("s", entries(25), accounts=RICH))
    assert launch_manifest(defs, instance, "s", accept_changed=False).success
    world.post(world.folder / "sources" / "s.yaml")
    return Operator(world, defs, instance)


def test_a_rollback_is_planned_applied_by_its_hash_and_posted_again(operator: Operator) -> None:
    operator.post()  # again: for Dagster to know of it
    before = operator.world.snapshot()
    plan = operator.told("rollback_plan", "plan_rollback", source="s", partition="0002")
    assert (plan["entries"], plan["mode"]) == (10, "delete")
    assert operator.world.snapshot() == before
    assert str(plan["plan_hash"]) in str(plan["apply_it"])
    wanted = {"source": "s", "partition": "0002", "plan_hash": plan["plan_hash"]}
    done = operator.told("rollback_apply", "apply_rollback", **wanted, actor="anna", reason="wrong file")
    assert "10 entries deleted" in str(done["outcome"])
    assert len(operator.world.references()) == 15
    # What the operator sees, and what "failed and missing" takes: the partition that is gone, and no other.
    assert shown(operator.instance, "posted") - _failed(operator.instance) == {"0001", "0003"}
    again = operator.told("rollback_apply", "apply_rollback", **wanted, actor="anna")
    assert "already" in str(again["outcome"])
    assert launch_range(operator.defs, operator.instance, "s", ["0002"]).success
    assert_same_ledger(operator.world.snapshot(), before)
    assert operator.world.value(
        "SELECT actor || ': ' || reason FROM audit_log WHERE action = 'rollback'"
    ) == ("anna: wrong file")


def _failed(instance: dg.DagsterInstance) -> set[str]:
    return {
        key
        for key, status in instance.get_status_by_partition(
            dg.AssetKey(["s", "posted"]), KEYS, dg.DynamicPartitionsDefinition(name="s_chunks")
        ).items()
        if status is not None and status.value == "FAILED"
    }


def test_a_plan_of_an_older_ledger_is_refused_in_words(operator: Operator) -> None:
    plan = operator.told("rollback_plan", "plan_rollback", source="s")
    operator.world.query(
        "SELECT post_ledger_entry('MASTER', 'A', 'B', 1, 'USD', 'fiat', 'TRANSFER', 'LIVE-1', NULL, NULL)"
    )
    said = operator.refused(
        "rollback_apply", "apply_rollback", source="s", plan_hash=plan["plan_hash"], actor="anna"
    )
    assert "changed since the plan" in said
    assert len(operator.world.references()) == 25 + 1


def test_plans_of_something_that_cannot_be_meant(operator: Operator) -> None:
    for config, said in [
        ({"source": " "}, "source is empty in the run's config"),
        ({"source": "s", "partition": "0001", "batch": 1}, "partition and batch are both"),
        ({"source": "s", "batch": -1}, "batch is -1"),
        ({"source": "nobody"}, "nobody"),
        ({"source": "s", "partition": "9999"}, "9999"),
        ({"source": "s", "mode": "delete", "at": "now"}, "not dated"),
    ]:
        assert said in operator.refused("rollback_plan", "plan_rollback", **config)


def test_a_month_is_closed_refuses_entries_and_is_reopened_by_two(operator: Operator) -> None:
    month = str(
        operator.world.value(
            "SELECT to_char(min(timestamp_utc), 'YYYY-MM') FROM ledger_entries WHERE source_row > 0"
        )
    )
    period = {"ledger_id": "MASTER", "month": month}
    closed = operator.told("close_period", "close", **period, actor="anna", reason="done")
    assert (closed["outcome"], closed["closed_periods"]) == (f"period {month} of ledger MASTER is closed", 1)
    assert "already" in str(operator.told("close_period", "close", **period, actor="anna")["outcome"])
    plan = operator.told("rollback_plan", "plan_rollback", source="s", mode="delete")
    assert "closed" in str(plan["refused"])
    assert "waits for another person" in operator.refused("reopen_period", "reopen", **period, actor="anna")
    assert "waits for another person" in operator.refused("reopen_period", "reopen", **period, actor="anna")
    opened = operator.told("reopen_period", "reopen", **period, actor="ben")
    assert (opened["outcome"], opened["closed_periods"]) == (f"period {month} of ledger MASTER is open", 0)


def test_nobody_decides_without_a_name_or_about_no_month(operator: Operator) -> None:
    for month in ("", "2024", "2024-13", "2024-1", "January"):
        said = operator.refused("close_period", "close", ledger_id="MASTER", month=month, actor="anna")
        assert "write it like 2024-01" in said
    said = operator.refused("close_period", "close", ledger_id="MASTER", month="2024-01", actor=" ")
    assert said == "actor is empty in the run's config: write your name, for the audit log"
    with pytest.raises(dg.DagsterInvalidConfigError, match="actor"):
        operator.launch("close_period", "close", ledger_id="MASTER", month="2024-01")


def evaluated(operator: Operator) -> dg.AssetCheckEvaluation:
    """The check of seals, after all of them were verified."""
    result = operator.defs.resolve_job_def("verify_seals").execute_in_process(instance=operator.instance)
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_what_is_sealed_for_good_is_verified_and_cannot_be_deleted(operator: Operator) -> None:
    assert "nothing of nobody is posted" in operator.refused(
        "seal", "seal_batches", source="nobody", actor="anna"
    )
    sealed = operator.told("seal", "seal_batches", source="s", actor="anna")
    assert (
        sealed["sealed_now"]
        == sealed["batches"]
        == operator.world.value("SELECT count(*) FROM backfill_batches WHERE posted > 0")
    )
    plan = operator.told("rollback_plan", "plan_rollback", source="s")
    assert plan["mode"] == "reverse"
    assert evaluated(operator).passed
    operator.world.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000003'")
    broken = evaluated(operator)
    assert (broken.passed, broken.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "partition 0001" in str(broken.description)
    named = broken.metadata["touched_entries"]
    assert isinstance(named, dg.TableMetadataValue)
    assert {record.data["reference_id"] for record in named.records} == {"R000003"}


def proposals(operator: Operator) -> list[dict[str, object]]:
    """Open corrections as the asset shows them, which each job materializes."""
    (latest,) = operator.instance.fetch_materializations(dg.AssetKey("corrections"), limit=1).records
    assert latest.asset_materialization is not None
    table = latest.asset_materialization.metadata.get("proposals")
    return [] if table is None else [dict(record.data) for record in table.records]


def test_a_correction_takes_two_people_and_ends_in_a_match(operator: Operator) -> None:
    operator.world.query("DELETE FROM ledger_entries WHERE reference_id = 'R000007'")
    found = operator.told("propose_corrections", "propose", source="s", actor="anna", reason="reconciliation")
    assert (found["findings"], found["proposed"]) == (1, 1)
    (proposal,) = proposals(operator)
    assert (proposal["kind"], proposal["status"]) == ("missing", "proposed")
    assert "R000007" in str(proposal["about"])
    ids = [int(str(proposal["id"]))]
    assert "ids is empty" in operator.refused("approve_corrections", "decide", ids=[], actor="ben")
    assert "same person" in operator.refused("approve_corrections", "decide", ids=ids, actor="anna")
    assert "1 approved" in str(
        operator.told("approve_corrections", "decide", ids=ids, actor="ben")["outcome"]
    )
    assert proposals(operator)[0]["approved_by"] == "ben"
    applied = operator.told("apply_corrections", "apply_approved", actor="anna")
    assert (applied["done"], applied["verified"]) == (1, "match")
    assert proposals(operator) == []
    assert "nothing to do" in str(
        operator.told("apply_corrections", "apply_approved", actor="anna")["outcome"]
    )


def test_a_correction_of_a_ledger_that_changed_since_is_refused(operator: Operator) -> None:
    operator.world.query("DELETE FROM ledger_entries WHERE reference_id = 'R000007'")
    operator.told("propose_corrections", "propose", source="s", actor="anna")
    ids = [int(str(proposals(operator)[0]["id"]))]
    operator.told("approve_corrections", "decide", ids=ids, actor="ben")
    operator.world.query(
        "SELECT post_ledger_entry('MASTER', 'A', 'B', 1, 'USD', 'fiat', 'TRANSFER', 'R000007', NULL, NULL)"
    )
    assert "stale" in operator.refused("apply_corrections", "apply_approved", ids=ids, actor="anna")


def test_evidence_is_written_to_a_new_folder_and_is_as_written(operator: Operator) -> None:
    out = operator.world.folder / "evidence"
    wanted = {"source": "s", "actor": "anna"}
    assert "absolute path" in operator.refused("evidence", "write_evidence", **wanted, out="evidence")
    written = operator.told("evidence", "write_evidence", **wanted, out=str(out))
    assert written["outcome"] == "complete and proven"
    assert check_pack(out, None).faults == ()
    assert str(written["manifest_sha256"]) == check_pack(out, None).manifest_sha256
    assert "not an empty folder" in operator.refused("evidence", "write_evidence", **wanted, out=str(out))


def test_a_report_is_written_below_the_home_and_a_break_fails_the_run(operator: Operator) -> None:
    assert "absolute path" in operator.refused("report", "write_report", source="s", out="report.html")
    told = operator.told("report", "write_report", source="s")
    assert told["page"] == str(operator.world.folder / "home" / "reports" / "s.html")
    assert told["outcome"] == "not complete"
    assert "not reconciled, or rolled back since: backfill reconcile s" in str(told["findings"])
    operator.world.tamper("UPDATE backfill_partitions SET row_count = row_count + 1 WHERE number = 2")
    assert "the counts do not add up" in operator.refused("report", "write_report", source="s")
