"""What Dagster shows of a rollback: the partitions as failed, by a run that says who took them back, and nothing else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import should_retry

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.ledger.registrations import load
from backfill_pipeline.orchestration.assets.keys import DAY_ASSETS
from backfill_pipeline.orchestration.assets.reconciliation import MATCH_CHECK
from backfill_pipeline.orchestration.launch import launch_days, launch_manifest, launch_range
from backfill_pipeline.orchestration.partitions import partitions_name, show_posted, sync_partitions
from backfill_pipeline.orchestration.rollbacks import ROLLBACK_TAG, show_rolled_back
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = pytest.mark.e2e
FAILED, MATERIALIZED = AssetPartitionStatus.FAILED, AssetPartitionStatus.MATERIALIZED


def definitions(path: Path) -> dg.Definitions:
    definition = load_definition(path)
    return build_defs({definition.id: definition})


def states(
    instance: dg.DagsterInstance, defs: dg.Definitions, source_id: str, name: str
) -> dict[str, object]:
    """Partition key → what the UI shows."""
    key = dg.AssetKey([source_id, name])
    partitions = defs.resolve_assets_def(key).partitions_def
    assert partitions is not None
    keys = partitions.get_partition_keys(dynamic_partitions_store=instance)
    found = instance.get_status_by_partition(key, list(keys), partitions)
    assert found is not None
    return dict(found)


def show(world: World, instance: dg.DagsterInstance, source_id: str) -> list[str]:
    with connect(world.url) as connection:
        return show_rolled_back(instance, connection, source_id)


def runs_of_rollbacks(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return [run for run in instance.get_runs() if ROLLBACK_TAG in run.tags]


@pytest.fixture
def posted(world: World, instance: dg.DagsterInstance) -> dg.Definitions:
    """A source of three partitions, posted and reconciled, as the command does it."""
    defs = definitions(world.write("s", entries(30)))
    assert launch_manifest(defs, instance, "s", accept_changed=False).success
    assert launch_range(defs, instance, "s", ["0001", "0002", "0003"]).success
    return defs


def reconciled(instance: dg.DagsterInstance) -> bool:
    """What the check of the reconciliation says now."""
    key = dg.AssetCheckKey(dg.AssetKey(["s", "reconciliation"]), MATCH_CHECK)
    (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    assert record.event.dagster_event is not None
    return record.event.dagster_event.asset_check_evaluation_data.passed


def test_a_rolled_back_partition_is_failed_until_it_is_posted_again(
    world: World, instance: dg.DagsterInstance, posted: dg.Definitions
) -> None:
    assert reconciled(instance)
    roll_back(world, "s", partition="0002", mode="reverse")
    assert show(world, instance, "s") == ["0002"]
    for stage in STAGES:
        assert states(instance, posted, "s", stage) == {
            "0001": MATERIALIZED,
            "0002": FAILED,
            "0003": MATERIALIZED,
        }
    assert not reconciled(instance)
    assert show(world, instance, "s") == []  # nothing is told twice
    (run,) = runs_of_rollbacks(instance)
    assert (run.job_name, run.tags["dagster/partition"]) == ("backfill_s", "0002")
    assert not should_retry(run, instance)  # or Dagster's daemon would post it again by itself
    (failure,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "1 partition of s: rolled back by anna" in failure.message
    assert "10 entries reversed: wrong export" in failure.message
    (observed,) = instance.fetch_observations(
        dg.AssetRecordsFilter(dg.AssetKey(["s", "posted"]), asset_partitions=["0002"]), limit=10
    ).records
    assert observed.asset_observation is not None
    told = {name: value.value for name, value in observed.asset_observation.metadata.items()}
    assert (told["rolled_back_by"], told["reason"]) == ("anna", "wrong export")
    assert (told["mode"], told["entries"]) == ("reverse", 10)

    assert launch_range(posted, instance, "s", ["0002"]).success
    assert set(states(instance, posted, "s", "posted").values()) == {MATERIALIZED}
    assert reconciled(instance)
    assert show(world, instance, "s") == []


def test_runs_name_exactly_what_was_rolled_back(world: World, instance: dg.DagsterInstance) -> None:
    """Their tags are a range: whoever opens such a run in the launchpad launches nothing else."""
    with connect(world.url) as connection:
        migrate(connection)
    source = world.write("s", entries(30))
    world.post(source)
    with connect(world.url) as connection:
        registration = load(connection, "s")
    assert registration is not None
    sync_partitions(instance, registration)
    show_posted(instance, registration)
    roll_back(world, "s", partition="0001")
    roll_back(world, "s", partition="0003")
    assert show(world, instance, "s") == ["0001", "0003"]
    apart = runs_of_rollbacks(instance)
    assert sorted(run.tags["dagster/partition"] for run in apart) == ["0001", "0003"]

    # Posted again by a run that is killed before it can say so.
    world.post(source, register=False)
    with connect(world.url) as connection:
        registration = load(connection, "s")
    assert registration is not None
    assert show(world, instance, "s") == []
    assert show_posted(instance, registration) == ["0001", "0003"]
    assert show_posted(instance, registration) == []
    defs = definitions(source)
    assert set(states(instance, defs, "s", "posted").values()) == {MATERIALIZED}

    roll_back(world, "s")
    assert show(world, instance, "s") == ["0001", "0002", "0003"]
    (whole,) = [run for run in runs_of_rollbacks(instance) if run.run_id not in {one.run_id for one in apart}]
    assert whole.tags["dagster/asset_partition_range_start"] == "0001"
    assert whole.tags["dagster/asset_partition_range_end"] == "0003"
    assert whole.asset_selection == {dg.AssetKey(["s", stage]) for stage in STAGES}
    assert set(states(instance, defs, "s", "posted").values()) == {FAILED}


def test_partitions_that_dagster_never_showed_stay_missing(
    world: World, instance: dg.DagsterInstance
) -> None:
    with connect(world.url) as connection:
        migrate(connection)
    world.post(world.write("s", entries(30)))
    roll_back(world, "s")
    assert show(world, instance, "s") == []
    assert instance.get_dynamic_partitions(partitions_name("s")) == []
    assert runs_of_rollbacks(instance) == []


def test_a_day_of_a_bank_is_a_partition(dual: Dual, world: World, instance: dg.DagsterInstance) -> None:
    dual.write_scb(max_error_rate="0")
    definition = dual.definition()
    defs = build_defs({definition.id: definition})
    days = [FIRST_DAY + timedelta(days=number) for number in range(3)]
    assert launch_days(defs, instance, "scb_01", days).success
    roll_back(world, f"scb_01@{days[1]}")
    assert show(world, instance, f"scb_01@{days[1]}") == [str(days[1])]
    for name in DAY_ASSETS:
        found = states(instance, defs, "scb_01", name)
        assert [found[str(day)] for day in days] == [MATERIALIZED, FAILED, MATERIALIZED]
    assert launch_days(defs, instance, "scb_01", [days[1]]).success
    found = states(instance, defs, "scb_01", "posted")
    assert {found[str(day)] for day in days} == {MATERIALIZED}
    dual.assert_entries_equal()
