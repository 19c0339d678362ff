"""What Dagster loads for a bank: names, groups, days, checks, jobs and schedules, on which people rely."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.freshness import CronFreshnessPolicy

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.catalogue import find_sources
from backfill_pipeline.definition.scb_days import day_window, days_between, scb_of
from backfill_pipeline.orchestration.assets.keys import DAY_ASSETS
from backfill_pipeline.orchestration.operations.jobs import operation_jobs
from backfill_pipeline.orchestration.partitions import bank_days
from backfill_pipeline_tests.dual_ledger.world import Dual
from backfill_pipeline_tests.orchestration.test_assets import LOOKED
from backfill_pipeline_tests.orchestration.test_definitions import loaded
from backfill_pipeline_tests.stages.world import entries

CHAIN = {f"scb_01/{after}": [f"scb_01/{before}"] for before, after in pairwise(DAY_ASSETS)}


def schedule(dual: Dual, nightly: Mapping[str, object]) -> dg.ScheduleDefinition:
    dual.write_scb(scb={"nightly": nightly})
    return loaded(dual).resolve_schedule_def("nightly_scb_01")


def test_the_graph_of_a_bank_beside_that_of_a_file(dual: Dual) -> None:
    dual.write_scb()
    dual.write("s", entries(1))
    graph = loaded(dual).resolve_asset_graph()
    parents = {
        key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        for key in graph.get_all_asset_keys()
        if key.path[0] in ("scb_01", "sync_status_scb_01", "balance_constraints")
    }
    assert parents == {
        "scb_01/manifest": [],
        **CHAIN,
        "sync_status_scb_01": ["scb_01/reconciliation"],
        "balance_constraints": ["s/posted", "scb_01/reconciliation"],
    }
    groups = {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()}
    assert {name for name, group in groups.items() if group == "scb_01"} == {"scb_01/manifest", *CHAIN}
    assert groups["sync_status_scb_01"] == "ledger"
    assert "s/manifest" in groups


def test_days_are_those_of_the_bank_and_the_last_is_the_last_that_is_over(dual: Dual) -> None:
    definition = dual.definition()
    section = scb_of(definition)
    days = bank_days(section)
    keys = days.get_partition_keys()
    now = datetime.now(ZoneInfo(section.timezone))
    assert keys[0] == section.start.isoformat()
    assert keys[-1] in {(now.date() - timedelta(days=ago)).isoformat() for ago in (1, 2)}
    assert len(keys) == (date.fromisoformat(keys[-1]) - section.start).days + 1
    bank = build_defs({definition.id: definition}).resolve_assets_def(dg.AssetKey(["scb_01", "posted"]))
    assert bank.partitions_def == days
    assert bank.can_subset
    assert bank.backfill_policy == dg.BackfillPolicy.single_run()


@pytest.mark.parametrize(
    "zone",
    ["Europe/Paris", "America/Sao_Paulo", "Africa/Cairo", "Pacific/Apia", "America/Havana", "Asia/Tehran"],
)
def test_a_day_is_the_same_to_dagster_and_to_the_sync(dual: Dual, zone: str) -> None:
    """Also where clocks change at midnight, and where a day was left out (Apia, 2011-12-30)."""
    first, last = date(2011, 12, 1), date(2018, 12, 31)
    section = scb_of(dual.definition()).model_copy(update={"timezone": zone, "start": first})
    days = bank_days(section)
    keys = days.get_partition_keys(current_time=datetime(2019, 1, 1, 12, tzinfo=ZoneInfo(zone)))
    assert keys == [day.isoformat() for day in days_between(first, last)]
    for key in keys:
        begins = days.time_window_for_partition_key(key).start
        assert begins.timestamp() == day_window(section, date.fromisoformat(key))[0].timestamp(), key


def test_the_check_of_both_ledgers_blocks(dual: Dual) -> None:
    dual.write_scb()
    graph = loaded(dual).resolve_asset_graph()
    checks = {
        f"{key.asset_key.to_user_string()}:{key.name}": graph.get(key).blocking
        for key in graph.asset_check_keys
        if key.asset_key.path[0] not in ("audit", "seals")
    }
    assert checks == {
        "scb_01/reconciliation:ledgers_equal": True,
        **{f"scb_01/reconciliation:{name}": False for name in (*LOOKED, "outbox_keeps_up")},
        "balance_constraints:constraints_in_force": False,
        "balance_constraints:constraints_still_in_force": False,
    }


def test_jobs_and_the_outbox(dual: Dual) -> None:
    dual.write_scb()
    defs = loaded(dual)
    jobs = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    of_ledgers = {job.name for job in operation_jobs()}
    assert jobs - of_ledgers == {"sync_scb_01", "dispatch_outbox", "checks", "apply_constraints"}
    job = defs.resolve_job_def("sync_scb_01")
    assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} == {
        "scb_01/manifest",
        *CHAIN,
        "balance_constraints",
    }
    assert job.tags["backfill/bank"] == "scb_01"
    sensor = defs.resolve_sensor_def("outbox")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.job_name == "dispatch_outbox"


def test_without_a_bank_there_is_no_nightly_schedule_and_no_outbox(dual: Dual) -> None:
    dual.write("s", entries(1))
    defs = build_defs(find_sources(dual.sources_dir, dual.folder / "none"))
    assert "outbox" not in [one.name for one in defs.sensors or []]
    (hourly,) = defs.schedules or []
    assert isinstance(hourly, dg.ScheduleDefinition)
    assert (hourly.name, hourly.default_status) == ("hourly_checks", dg.DefaultScheduleStatus.STOPPED)


def test_a_night_is_on_in_the_zone_of_the_bank_unless_the_definition_says_otherwise(dual: Dual) -> None:
    default = schedule(dual, {})
    assert (default.cron_schedule, default.execution_timezone) == ("0 3 * * *", "Europe/Paris")
    assert default.default_status is dg.DefaultScheduleStatus.RUNNING
    assert default.job_name == "sync_scb_01"
    other = schedule(dual, {"cron": "30 23 * * MON-FRI", "timezone": "Asia/Tokyo", "enabled": False})
    assert (other.cron_schedule, other.execution_timezone) == ("30 23 * * MON-FRI", "Asia/Tokyo")
    assert other.default_status is dg.DefaultScheduleStatus.STOPPED


@pytest.mark.parametrize(
    ("cron", "deadline", "early"),
    [
        ("0 3 * * *", "0 6 * * *", timedelta(hours=3, minutes=1)),
        ("30 22 * * *", "30 22 * * *", timedelta(minutes=1)),
        ("* * * * *", "* * * * *", timedelta(minutes=1)),
    ],
)
def test_a_bank_has_to_be_in_step_hours_after_its_night(
    dual: Dual, cron: str, deadline: str, early: timedelta
) -> None:
    dual.write_scb(scb={"nightly": {"cron": cron}})
    policy = loaded(dual).resolve_asset_graph().get(dg.AssetKey("sync_status_scb_01")).freshness_policy
    assert isinstance(policy, CronFreshnessPolicy)
    assert (policy.deadline_cron, policy.lower_bound_delta, policy.timezone) == (
        deadline,
        early,
        "Europe/Paris",
    )


def test_nobody_promises_a_bank_whose_nights_are_off(dual: Dual) -> None:
    dual.write_scb(scb={"nightly": {"enabled": False}})
    graph = loaded(dual).resolve_asset_graph()
    assert graph.get(dg.AssetKey("sync_status_scb_01")).freshness_policy is None


def test_a_broken_cron_is_a_broken_source_with_its_key(dual: Dual) -> None:
    path = dual.write_scb(scb={"nightly": {"cron": "61 3 * * *"}})
    graph = loaded(dual).resolve_asset_graph()
    (key,) = [key for key in graph.get_all_asset_keys() if key.path[-1] == "manifest"]
    told = str(graph.get(key).description)
    assert path.name in told
    assert "scb.nightly.cron is '61 3 * * *', which has '61' as its minute" in told
