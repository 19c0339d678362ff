"""Pruning Dagster's history: what is old goes, and the picture that the UI shows stays as it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from backfill_pipeline.orchestration.history import delete, old_history
from backfill_pipeline.orchestration.launch import launch_manifest, launch_range
from backfill_pipeline_tests.orchestration.test_assets import RICH, definitions, failure, shown
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = pytest.mark.e2e
CHECKS = [
    dg.AssetCheckKey(dg.AssetKey(["s", "reconciliation"]), "ledger_equals_source"),
    dg.AssetCheckKey(dg.AssetKey("balance_constraints"), "constraints_in_force"),
]
LATER = datetime.now(UTC) + timedelta(days=100)


def picture(instance: dg.DagsterInstance) -> list[object]:
    """All that the UI shows of assets, partitions and checks now."""
    partitions = dg.DynamicPartitionsDefinition(name="s_chunks")
    keys = sorted(instance.all_asset_keys())
    return [
        (
            key,
            instance.get_status_by_partition(key, instance.get_dynamic_partitions("s_chunks"), partitions),
            instance.get_latest_materialization_event(key),
            [
                instance.event_log_storage.get_latest_storage_id_by_partition(key, kind)
                for kind in (
                    dg.DagsterEventType.ASSET_MATERIALIZATION,
                    dg.DagsterEventType.ASSET_OBSERVATION,
                )
            ],
        )
        for key in keys
    ] + [
        {
            check: (latest.run_id, latest.status)
            for check, latest in instance.event_log_storage.get_latest_asset_check_execution_by_key(
                CHECKS
            ).items()
        }
    ]


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_run_ids())


@pytest.mark.slow
def test_runs_that_show_nothing_any_more_go_and_the_picture_stays(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", entries(25), accounts=RICH))
    first = launch_manifest(defs, instance, "s", accept_changed=False).run_id
    launch_manifest(defs, instance, "s", accept_changed=False)
    early = launch_range(defs, instance, "s", ["0001", "0002", "0003"]).run_id
    launch_range(defs, instance, "s", ["0001", "0002"])  # "0003" was last materialized by the run before
    # The run of one partition that is repeated later shows nothing once that is done.
    alone = launch_range(defs, instance, "s", ["0001"], finish=False).run_id
    launch_range(defs, instance, "s", ["0001", "0002"])
    entries_before, shown_before = world.snapshot(), picture(instance)
    found = old_history(instance, 90, LATER)
    assert {first, alone} <= set(found.run_ids)
    assert early not in found.run_ids
    assert found.events > 0
    assert found.kept + len(found.run_ids) == len(run_ids(instance))
    before = run_ids(instance)
    delete(instance, found)
    assert run_ids(instance) == before - set(found.run_ids)
    assert picture(instance) == shown_before
    assert shown(instance, "posted") == {"0001", "0002", "0003"}
    assert world.snapshot() == entries_before
    assert old_history(instance, 90, LATER).run_ids == ()  # nothing is left to do


@pytest.mark.slow
def test_a_partition_that_was_rolled_back_stays_red(world: World, instance: dg.DagsterInstance) -> None:
    defs = definitions(world.write("s", entries(25), accounts=RICH))
    launch_manifest(defs, instance, "s", accept_changed=False)
    assert launch_range(defs, instance, "s", ["0001", "0002", "0003"]).success

    def told(job: str, op: str, **config: object) -> dict[str, object]:
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance, run_config={"ops": {op: {"config": config}}}
        )
        (event,) = [one for one in result.all_events if one.event_type is dg.DagsterEventType.STEP_OUTPUT]
        return {name: value.value for name, value in event.step_output_data.metadata.items()}

    meant = {"source": "s", "partition": "0002"}
    plan = told("rollback_plan", "plan_rollback", **meant)
    told(
        "rollback_apply", "apply_rollback", **meant, plan_hash=plan["plan_hash"], actor="anna", reason="wrong"
    )
    shown_before = picture(instance)
    delete(instance, old_history(instance, 90, LATER))
    assert picture(instance) == shown_before
    key, partitions = dg.AssetKey(["s", "posted"]), dg.DynamicPartitionsDefinition(name="s_chunks")
    statuses = instance.get_status_by_partition(key, ["0001", "0002", "0003"], partitions)
    assert statuses is not None
    assert [str(status.value) for status in statuses.values() if status] == [
        "MATERIALIZED",
        "FAILED",
        "MATERIALIZED",
    ]


def test_what_is_young_or_unfinished_stays(world: World, instance: dg.DagsterInstance) -> None:
    defs = definitions(world.write("s", entries(25), accounts=RICH))
    first = launch_manifest(defs, instance, "s", accept_changed=False).run_id
    launch_manifest(defs, instance, "s", accept_changed=False)
    assert old_history(instance, 1).run_ids == ()  # none is a day old
    assert first in old_history(instance, 90, LATER).run_ids
    # A run that goes on and repeats the first one, and a backfill that goes on.
    repeated = instance.create_run_for_job(
        defs.resolve_job_def("register_s"),
        tags={"dagster/root_run_id": first, "dagster/parent_run_id": first},
    )
    found = old_history(instance, 90, LATER)
    assert first not in found.run_ids
    assert repeated.run_id not in found.run_ids
    instance.report_run_canceled(repeated)
    assert first in old_history(instance, 90, LATER).run_ids
    instance.add_run_tags(first, {"dagster/backfill": "abcdefgh"})
    instance.add_backfill(
        PartitionBackfill(
            backfill_id="abcdefgh",
            status=BulkActionStatus.REQUESTED,
            from_failure=False,
            tags={},
            backfill_timestamp=0.0,
            asset_selection=[],
            serialized_asset_backfill_data=None,
        )
    )
    assert first not in old_history(instance, 90, LATER).run_ids


def test_the_job_says_first_what_would_go_and_refuses_what_cannot_be_meant(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", entries(25), accounts=RICH))
    launch_manifest(defs, instance, "s", accept_changed=False)
    job = defs.resolve_job_def("prune_history")
    before = run_ids(instance)
    result = job.execute_in_process(instance=instance)
    assert result.success
    (output,) = [one for one in result.all_events if one.event_type is dg.DagsterEventType.STEP_OUTPUT]
    metadata = {name: value.value for name, value in output.step_output_data.metadata.items()}
    assert (metadata["runs"], metadata["deleted"]) == (0, False)
    assert before <= run_ids(instance)
    with pytest.raises(dg.DagsterInvalidConfigError, match="older_than_days"):
        job.execute_in_process(
            instance=instance, run_config={"ops": {"prune": {"config": {"older_than_days": "many"}}}}
        )
    refused = job.execute_in_process(
        instance=instance,
        run_config={"ops": {"prune": {"config": {"older_than_days": 0}}}},
        raise_on_error=False,
    )
    assert failure(refused) == (
        "older_than_days is 0 in the run's config: Input should be greater than or equal to 1"
    )
