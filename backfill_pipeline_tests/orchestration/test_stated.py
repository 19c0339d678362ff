"""What Dagster shows of stated balances: a table, and a check that warns and stops nothing."""

from __future__ import annotations

import dagster as dg
import pytest

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.orchestration.launch import launch_manifest, launch_range
from backfill_pipeline_tests.stages.test_stated import COLUMNS, STATED, statement
from backfill_pipeline_tests.stages.world import World

pytestmark = pytest.mark.e2e


def test_a_drift_is_a_warning_with_a_table(world: World, instance: dg.DagsterInstance) -> None:
    rows = statement(12, opening=107, changes={5: {"amount": "x"}})
    path = world.write(
        "s",
        rows,
        header=COLUMNS,
        stated_balances=STATED,
        accounts={"A": 100, "B": 9000},
        max_error_rate="0.5",
    )
    defs = build_defs({"s": load_definition(path)})
    assert launch_manifest(defs, instance, "s", accept_changed=False).success
    run = launch_range(defs, instance, "s", ["0001", "0002"])
    assert run.success
    assert run.errors == []
    assert run.checks["ledger_equals_source"] is True
    assert run.checks["stated_balances_agree"] is False
    (event,) = [
        one.event_log_entry.dagster_event
        for one in instance.fetch_materializations(dg.AssetKey(["s", "reconciliation"]), limit=1).records
    ]
    assert event is not None
    metadata = event.step_materialization_data.materialization.metadata
    assert str(metadata["stated_balances"].value).startswith("12 compared, 12 differ, from line 2 on")
    table = metadata["stated_balance_drift"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [(one.data["line"], one.data["difference"]) for one in table.records] == [
        ("2", "7.00"),
        ("6", "13.00"),
    ]
    (failed,) = [
        one.dagster_event.asset_check_evaluation_data
        for one in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        if one.dagster_event is not None
        and one.dagster_event.asset_check_evaluation_data.check_name == "stated_balances_agree"
    ]
    assert (failed.severity, failed.blocking) == (dg.AssetCheckSeverity.WARN, False)


def test_the_check_is_only_there_where_balances_are_stated(world: World) -> None:
    for name, settings in (("with", {"stated_balances": STATED}), ("without", {})):
        path = world.write(name, statement(1), header=COLUMNS, **settings)
        graph = build_defs({name: load_definition(path)}).resolve_asset_graph()
        names = {key.name for key in graph.asset_check_keys}
        assert ("stated_balances_agree" in names) == (name == "with")
