"""The plan of a source as an asset: launched from the UI, it tells and changes nothing."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.orchestration.partitions import partitions_name
from backfill_pipeline.stages import plan_report
from backfill_pipeline_tests.orchestration.test_assets import definitions, failure, materialize
from backfill_pipeline_tests.stages.planning import assert_as_planned, planned, ran
from backfill_pipeline_tests.stages.world import World, entries, entry

pytestmark = pytest.mark.e2e


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node("s__plan")
    return {name: value.value for name, value in event.metadata.items()}


def source(world: World) -> Path:
    rows = [*entries(20), entry(3), entry(4, amount="9.99"), entry(30, amount="x"), entry(31, debit="NOBODY")]
    return world.write("s", rows, accounts={"A": 0, "B": 10}, max_error_rate="1")


def test_it_says_what_a_run_does_afterwards(world: World, instance: dg.DagsterInstance) -> None:
    path = source(world)
    result = materialize(definitions(path), instance, "s/plan")
    assert result.success
    told = metadata(result)
    assert told["outcome"] == (
        "would post 20 of 24 rows; 1 duplicate, 1 conflict, 2 rejects, constraints refused by 1 account:"
        " a run would exit 3"
    )
    assert list(instance.get_dynamic_partitions(partitions_name("s"))) == []
    plan = planned(world, path)
    assert (told["posted"], told["rejected"]) == (plan.counts.posted, plan.counts.rejected)
    assert {"would_be_posted", "rejects_by_code", "reject_sample", "accounts_below_zero"} <= told.keys()
    assert_as_planned(plan, ran(world, path))


def test_a_refused_change_is_a_failure_in_one_sentence(world: World, instance: dg.DagsterInstance) -> None:
    path = world.write("s", entries(25))
    assert materialize(definitions(path), instance, "s/manifest").success
    world.post(path, keys=["0001"])
    world.write_rows("s", entries(25, amount="3.00"))
    assert "changed since it was registered" in failure(materialize(definitions(path), instance, "s/plan"))
    config: dict[str, object] = {"ops": {"s__plan": {"config": {"accept_changed": True}}}}
    result = materialize(definitions(path), instance, "s/plan", run_config=config)
    assert metadata(result)["revision"] == 2


def test_the_exit_codes_of_plans_are_those_of_the_command() -> None:
    codes = {
        "clean": ExitCode.CLEAN,
        "failed": ExitCode.FAILED,
        "rejects or refused": ExitCode.REJECTS_OR_REFUSED,
    }
    assert codes == plan_report._EXIT_CODES
