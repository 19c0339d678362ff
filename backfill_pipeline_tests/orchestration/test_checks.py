"""Checks that stand by themselves: what each finds, what it says to do, and that none passes that could not look."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition, mapping_sha256
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.orchestration.launch import launch_days, launch_manifest, launch_range
from backfill_pipeline.stages.manifest import register_source
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual
from backfill_pipeline_tests.orchestration.test_assets import RICH, definitions
from backfill_pipeline_tests.stages.world import World, entries, entry

pytestmark = pytest.mark.e2e
OF_A_SOURCE = {"nothing_lost", "no_partition_failed", "rejects_under_limit", "not_stalled"}
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
FAILED = AssetCheckExecutionRecordStatus.FAILED
SUCCEEDED = AssetCheckExecutionRecordStatus.SUCCEEDED


def made(defs: dg.Definitions, instance: dg.DagsterInstance) -> Mapping[str, dg.AssetCheckEvaluation]:
    """All checks, as the job `checks` makes them."""
    result = defs.resolve_job_def("checks").execute_in_process(instance=instance)
    assert result.success
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def shown(instance: dg.DagsterInstance, asset: str, name: str) -> tuple[AssetCheckExecutionRecordStatus, str]:
    """What the UI shows of a check, and its sentence."""
    key = dg.AssetCheckKey(dg.AssetKey(asset.split("/")), name)
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.evaluation is not None
    return record.status, str(record.evaluation.description)


def verdict(one: dg.AssetCheckEvaluation) -> tuple[bool, dg.AssetCheckSeverity]:
    return one.passed, one.severity


def sample(one: dg.AssetCheckEvaluation) -> list[object]:
    value = one.metadata["sample"]
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def posted(world: World) -> Path:
    """A source with a duplicate and a reject, and the constraints."""
    path = world.write(
        "s", [*entries(18), entry(3), entry(21, amount="x")], accounts=RICH, max_error_rate="1"
    )
    with connect(world.url) as connection:
        migrate(connection)
        register_source(load_definition(path), world.places)
        world.post(path)
        assert constraints.apply(connection).state == "applied"
    return path


def test_a_ledger_without_the_source_passes_nothing(world: World, instance: dg.DagsterInstance) -> None:
    found = made(definitions(world.write("s", entries(1))), instance)
    assert found.keys() == {*OF_A_SOURCE, "constraints_still_in_force"}
    assert not any(one.passed for one in found.values())
    assert found["nothing_lost"].description == (
        "it could not be looked: nothing of s is in this ledger yet. Materialize s/manifest first"
    )
    assert "What to do: materialize balance_constraints" in str(
        found["constraints_still_in_force"].description
    )


def test_what_a_posted_source_is_told_of_and_what_somebody_did_to_it_since(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    defs = definitions(posted(world))
    monkeypatch.setenv("BACKFILL_ALERT_REJECT_RATE_MAX", "0.05")
    found = made(defs, instance)
    assert {name: one.passed for name, one in found.items()} == dict.fromkeys(found, True)
    assert found["nothing_lost"].description == (
        "read 20 = posted 18 + duplicates 1 + conflicts 0 + rejected 1 + filtered 0, in 2 posted partitions"
    )

    world.tamper("DELETE FROM backfill_rejects")
    monkeypatch.setenv("BACKFILL_ALERT_REJECT_RATE_MAX", "0.0499")
    world.tamper(
        "UPDATE ledger_backfill_checkpoints SET status = 'IN_PROGRESS',"
        " last_checkpoint_at = timezone('UTC', now()) - interval '61 minutes'"
    )
    with connect(world.url) as connection:
        assert constraints.suspend(connection)
    found = made(defs, instance)
    assert {name: verdict(one) for name, one in found.items()} == {
        "nothing_lost": (False, ERROR),
        "no_partition_failed": (True, ERROR),
        "rejects_under_limit": (False, WARN),
        "not_stalled": (False, WARN),
        "constraints_still_in_force": (False, ERROR),
    }
    assert found["nothing_lost"].metadata["count"].value == 1
    assert sample(found["nothing_lost"])[0].items() >= {("partition_key", "0002"), ("rejects_recorded", "0")}
    assert "1 reject or conflict among 20 rows, more than 4.99% of all rows" in str(
        found["rejects_under_limit"].description
    )
    assert str(found["not_stalled"].description).endswith(
        "What to do: where a run writes it, look at that run in the UI; else backfill resume s carries on"
    )
    assert "backfill reconcile s says which counts" in str(found["nothing_lost"].description)
    assert str(found["constraints_still_in_force"].description).startswith("suspended: ")
    with connect(world.url) as connection:
        assert constraints.state(connection) == "suspended"  # looked at, and left as it was
    assert shown(instance, "balance_constraints", "constraints_still_in_force")[0] == FAILED
    assert defs.resolve_job_def("apply_constraints").execute_in_process(instance=instance).success
    assert shown(instance, "balance_constraints", "constraints_still_in_force")[0] == SUCCEEDED

    monkeypatch.setenv("BACKFILL_ALERT_STALLED_AFTER_S", "7200")
    assert made(defs, instance)["not_stalled"].passed


def test_a_failed_partition_fails_its_check_in_the_run_that_failed_until_it_is_posted(
    world: World, instance: dg.DagsterInstance
) -> None:
    rows = entries(40)
    rows[25] = entry(26, amount="much")
    path = world.write("s", rows, accounts=RICH)
    launch_manifest(definitions(path), instance, "s", accept_changed=False)
    keys = [f"{number:04d}" for number in range(1, 5)]
    assert not launch_range(definitions(path), instance, "s", keys).success
    status, sentence = shown(instance, "s/posted", "no_partition_failed")
    assert status is FAILED
    assert sentence == (
        "partitions that are not posted because their latest try failed: 1. What to do: mend what the error says; then"
        " backfill resume s, or launch failed and missing partitions from the UI: it carries on at the first batch that"
        " is not posted"
    )
    (one,) = sample(made(definitions(path), instance)["no_partition_failed"])
    assert isinstance(one, dict)
    assert one["partition_key"] == "0003"
    assert "max_error_rate" in one["error"]

    path.write_text(path.read_text() + "max_error_rate: 0.2\n")
    run = launch_range(definitions(path), instance, "s", ["0003"])
    assert run.checks.items() >= {(name, name != "rejects_under_limit") for name in OF_A_SOURCE}
    assert shown(instance, "s/posted", "no_partition_failed") == (SUCCEEDED, "no partition is left failed")


def test_checks_are_about_their_own_source_and_one_that_cannot_be_made_takes_no_other_with_it(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = posted(world)
    other = world.write("s_2", entries(10), accounts=RICH)
    register_source(load_definition(other), world.places)
    world.post(other)
    world.tamper("UPDATE backfill_partitions SET error = 'it broke', posted_at = NULL")
    world.tamper(
        "UPDATE backfill_partitions SET error = NULL, posted_at = now() WHERE registration_id ="
        " (SELECT id FROM backfill_registrations WHERE source_id = 's_2')"
    )
    monkeypatch.setenv("BACKFILL_ALERT_EMAIL_TO", "nobody at all")
    sources = {one.id: one for one in map(load_definition, (path, other))}
    job = build_defs(sources).resolve_job_def("checks")
    found = {
        (one.asset_key.path[0], one.check_name): one
        for one in job.execute_in_process(instance=instance).get_asset_check_evaluations()
    }
    assert found["s", "no_partition_failed"].metadata["count"].value == 2
    assert found["s_2", "no_partition_failed"].passed
    for source in sources:
        assert found[source, "nothing_lost"].passed
        assert not found[source, "not_stalled"].passed
        assert "BACKFILL_ALERT_EMAIL_TO" in str(found[source, "rejects_under_limit"].description)


def test_a_ledger_that_refuses_to_be_read_passes_nothing(world: World, instance: dg.DagsterInstance) -> None:
    defs = definitions(posted(world))
    world.tamper("ALTER TABLE backfill_registrations RENAME TO elsewhere")
    found = made(defs, instance)
    for name in OF_A_SOURCE:
        assert verdict(found[name]) == (False, ERROR)
        assert str(found[name].description).startswith("it could not be looked: ")


def test_one_check_can_be_executed_by_itself(world: World, instance: dg.DagsterInstance) -> None:
    defs = definitions(posted(world))
    key = dg.AssetCheckKey(dg.AssetKey(["s", "posted"]), "not_stalled")
    result = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_check_selection={key}, asset_selection=set()
    )
    evaluations = result.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert [one.check_name for one in evaluations] == ["not_stalled"]


def test_a_source_is_fresh_as_long_as_all_of_it_was_proven_lately(
    world: World, instance: dg.DagsterInstance
) -> None:
    path = world.write("s", entries(20), accounts=RICH, freshness={"at_most_hours": 26})
    defs = definitions(path)
    launch_manifest(defs, instance, "s", accept_changed=False)
    part = launch_range(defs, instance, "s", ["0001"])
    assert part.success
    assert part.checks["ledger_equals_source"]
    assert not part.checks["fresh"], "a part is proven, and not all of it"
    assert shown(instance, "s/reconciliation", "fresh")[1] == (
        "s was never posted in full and then found equal to the ledger, and freshness.at_most_hours of s is 26. What to"
        f" do: see that its export is there ({load_definition(path).place}); then backfill run s"
    )

    rest = launch_range(defs, instance, "s", ["0002"])
    assert rest.checks["fresh"], "it is made after the reconciliation of its own run"
    assert "proven equal to the ledger at" in shown(instance, "s/reconciliation", "fresh")[1]

    world.tamper(
        "UPDATE backfill_registrations SET completed_at = completed_at - interval '27 hours'",
    )
    world.tamper("UPDATE backfill_reconciliations SET reconciled_at = now() - interval '26 hours 1 minute'")
    found = made(defs, instance)["fresh"]
    assert verdict(found) == (False, WARN)
    assert found.metadata["age_hours"].value == pytest.approx(26.02, abs=0.1)
    assert "26.0 hours ago" in str(found.description)
    assert "backfill run s" in str(found.description)

    world.tamper("UPDATE backfill_reconciliations SET reconciled_at = now(), verdict = 'break'")
    assert not made(defs, instance)["fresh"].passed, "looked at just now, and it differs"


def test_a_source_that_is_not_expected_has_no_check_of_it_and_neither_has_a_bank(
    world: World, dual: Dual
) -> None:
    definition = load_definition(world.write("s", entries(1)))
    names = {key.name for key in build_defs({"s": definition}).resolve_asset_graph().asset_check_keys}
    assert "fresh" not in names
    dual.write_scb(freshness={"at_most_hours": 26})
    with pytest.raises(
        SourceDefinitionError, match=r"freshness cannot go together with type scb, .*scb\.nightly"
    ):
        dual.definition()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"at_most_hours": 0}, "freshness.at_most_hours .*outside the allowed range of 1 to 8784"),
        ({"at_most_hours": "26h"}, "freshness.at_most_hours"),
        ({}, "freshness.at_most_hours"),
        ({"at_most": 26}, "freshness.*at_most_hours"),
        (26, "freshness"),
    ],
)
def test_a_freshness_that_means_nothing_is_refused_where_it_stands(
    world: World, given: object, said: str
) -> None:
    with pytest.raises(SourceDefinitionError, match=said):
        load_definition(world.write("s", entries(1), freshness=given))


def test_freshness_is_no_part_of_the_mapping(world: World) -> None:
    without = mapping_sha256(load_definition(world.write("s", entries(1))))
    found = load_definition(world.write("s", entries(1), freshness={"at_most_hours": 26}))
    assert mapping_sha256(found) == without


def test_a_bank_is_checked_with_its_days_and_its_outbox(dual: Dual, instance: dg.DagsterInstance) -> None:
    dual.write_scb(max_error_rate="0")
    definition = dual.definition()
    defs = build_defs({definition.id: definition})
    assert not any(one.passed for one in made(defs, instance).values())
    run = launch_days(defs, instance, "scb_01", [FIRST_DAY], refetch="changed")
    assert run.success
    assert run.checks.items() >= dict.fromkeys((*OF_A_SOURCE, "outbox_keeps_up"), True).items()

    dual.tamper(
        "UPDATE dual_ledger_outbox SET status = 'FAILED', created_at = now() - interval '2 hours' WHERE id <= 3"
    )
    late = made(defs, instance)["outbox_keeps_up"]
    assert verdict(late) == (False, WARN)
    assert late.metadata["waiting_too_long"].value == 3
    dual.tamper("UPDATE dual_ledger_outbox SET status = 'DEAD' WHERE id <= 2")
    dual.tamper("UPDATE sync_status SET error = 'the bank hung up'")
    found = made(defs, instance)
    assert verdict(found["outbox_keeps_up"]) == (False, ERROR)
    assert "2 rows of the outbox" in str(found["outbox_keeps_up"].description)
    assert "backfill sync run scb_01" in str(found["no_partition_failed"].description)
    (day,) = sample(found["no_partition_failed"])
    assert isinstance(day, dict)
    assert (day["source_id"], day["error"]) == (f"scb_01@{FIRST_DAY}", "the bank hung up")
