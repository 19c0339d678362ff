"""The audit in Dagster: all checks as a table, and an asset check for each severity that somebody has to act on."""

from __future__ import annotations

import dagster as dg
import pytest

from backfill_pipeline_tests.orchestration.test_assets import RICH, definitions, materialize
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = pytest.mark.e2e


def posted(world: World, instance: dg.DagsterInstance, accounts: dict[str, object] = RICH) -> dg.Definitions:
    path = world.write("s", entries(20), accounts=accounts)
    defs = definitions(path)
    assert materialize(defs, instance, "s/manifest").success
    world.post(path)
    return defs


def audited(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.asset_materializations_for_node("audit")
    return {name: value.value for name, value in event.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def test_a_healthy_ledger_passes_and_shows_its_totals(world: World, instance: dg.DagsterInstance) -> None:
    defs = posted(world, instance)
    result = materialize(defs, instance, "audit")
    assert result.success
    assert {name: one.passed for name, one in checks(result).items()} == {
        "nothing_is_broken": True,
        "nothing_to_look_at": True,
    }
    told = audited(result)
    assert (told["breaks"], told["skipped"], told["warnings"]) == (0, 0, 0)
    assert told["entries"] == 20 + 3  # with the opening entries
    assert {"checks", "totals", "latest_days", "trial_balance"} <= told.keys()


def test_what_a_person_should_look_at_is_a_warning(world: World, instance: dg.DagsterInstance) -> None:
    result = materialize(posted(world, instance, {"A": 0, "B": 100}), instance, "audit")
    evaluations = checks(result)
    assert evaluations["nothing_is_broken"].passed
    dips = evaluations["nothing_to_look_at"]
    assert (dips.passed, dips.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "accounts whose balances break a balance constraint: 1" in str(dips.description)


def test_what_is_broken_fails_the_check_with_a_sample_and_a_remedy(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = posted(world, instance)
    world.tamper(
        "UPDATE bank_accounts SET balance = balance + 1, available_balance = available_balance + 1 WHERE id = 'B'"
    )
    result = materialize(defs, instance, "audit")
    assert result.success
    broken = checks(result)["nothing_is_broken"]
    assert (broken.passed, broken.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "not what the legs say: 2" in str(broken.description)
    table = broken.metadata["found/balances_differ_from_legs"]
    assert isinstance(table, dg.TableMetadataValue)
    assert "B" in [value for record in table.records for value in record.data.values()]
