"""The assets on a real instance: what each does by itself, and what Dagster shows of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from sqlalchemy.engine import make_url

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.orchestration.launch import (
    contiguous_ranges,
    launch_manifest,
    launch_range,
    sweep_orphans,
)
from backfill_pipeline.orchestration.partitions import partitions_name, show_posted
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline_tests.stages.world import World, entries, entry

pytestmark = pytest.mark.e2e
RICH = {"A": 1, "B": 100_000, "C": 1}
LOOKED = dict.fromkeys(("nothing_lost", "no_partition_failed", "rejects_under_limit", "not_stalled"), True)
CONSTRAINED = {"constraints_in_force": True, "constraints_still_in_force": True}


def definitions(path: Path) -> dg.Definitions:
    definition = load_definition(path)
    return build_defs({definition.id: definition})


def materialize(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    *names: str,
    partition: str | None = None,
    run_config: dict[str, object] | None = None,
) -> dg.ExecuteInProcessResult:
    """As the UI does: a selection of assets, and a partition or none."""
    keys = [dg.AssetKey(name.split("/")) for name in names]
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=keys,
        partition_key=partition,
        run_config=run_config,
        raise_on_error=False,
    )


def shown(instance: dg.DagsterInstance, stage: str) -> set[str]:
    return set(instance.get_materialized_partitions(dg.AssetKey(["s", stage])))


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data
    assert data.user_failure_data is not None, data.error
    return str(data.user_failure_data.description)


def test_a_manifest_registers_its_partitions_in_source_order(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", entries(120)))
    assert materialize(defs, instance, "s/manifest").success
    keys = [f"{number:04d}" for number in range(1, 13)]
    assert list(instance.get_dynamic_partitions(partitions_name("s"))) == keys
    assert materialize(defs, instance, "s/manifest").success
    assert list(instance.get_dynamic_partitions(partitions_name("s"))) == keys


def test_a_new_revision_replaces_the_partitions(world: World, instance: dg.DagsterInstance) -> None:
    source = world.write("s", entries(30))
    defs = definitions(source)
    materialize(defs, instance, "s/manifest")
    materialize(defs, instance, "s/posted", partition="0002")
    world.write_rows("s", entries(45, first=0))
    refused = materialize(defs, instance, "s/manifest")
    assert "--accept-changed" in failure(refused)
    accepted = materialize(
        defs,
        instance,
        "s/manifest",
        run_config={"ops": {"s__manifest": {"config": {"accept_changed": True}}}},
    )
    assert accepted.success
    assert list(instance.get_dynamic_partitions(partitions_name("s"))) == [f"r2-{n:04d}" for n in range(1, 6)]


def test_a_source_that_grew_keeps_its_partitions_and_what_is_shown_of_them(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", entries(20), accounts=RICH))
    launch_manifest(defs, instance, "s", accept_changed=False)
    launch_range(defs, instance, "s", ["0001", "0002"])
    world.write_rows("s", entries(45))
    grown = materialize(defs, instance, "s/manifest")
    assert grown.success
    (manifest,) = grown.asset_materializations_for_node("s__manifest")
    assert manifest.metadata["partitions_kept"].value == 2
    assert list(instance.get_dynamic_partitions(partitions_name("s"))) == [f"{n:04d}" for n in range(1, 6)]
    assert [shown(instance, stage) for stage in STAGES] == [{"0001", "0002"}] * 4
    added = launch_range(defs, instance, "s", ["0003", "0004", "0005"])
    assert added.success
    assert added.checks == LOOKED | CONSTRAINED | {"ledger_equals_source": True}
    assert [shown(instance, stage) for stage in STAGES] == [{f"{n:04d}" for n in range(1, 6)}] * 4
    assert len(world.references()) == 45


def test_each_stage_can_be_materialized_by_itself(world: World, instance: dg.DagsterInstance) -> None:
    defs = definitions(world.write("s", entries(30)))
    materialize(defs, instance, "s/manifest")
    for number, stage in enumerate(STAGES):
        assert materialize(defs, instance, f"s/{stage}", partition="0002").success, stage
        assert [shown(instance, one) for one in STAGES] == [
            {"0002"} if position <= number else set() for position in range(4)
        ]
    assert world.references() == [f"R{number:06d}" for number in range(11, 21)]


def test_each_stage_makes_what_it_needs_when_the_files_before_it_are_gone(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", [*entries(19), entry(20, amount="x")], max_error_rate="0.5"))
    materialize(defs, instance, "s/manifest")
    for stage in reversed(STAGES):
        shutil.rmtree(world.places.intermediates_dir)
        assert materialize(defs, instance, f"s/{stage}", partition="0002").success, stage
    assert len(world.references()) == 9
    assert world.rejects() == [(20, "transform", "amount_malformed", "amount")]


def test_a_posted_partition_materialized_again_posts_nothing_twice(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", [*entries(20), entry(5)], accounts=RICH))
    materialize(defs, instance, "s/manifest")
    for partition in ("0001", "0003"):
        for names in (["s/posted"], [f"s/{stage}" for stage in STAGES], ["s/validated", "s/posted"]):
            assert materialize(defs, instance, *names, partition=partition).success
    assert len(world.references()) == 10
    materialize(defs, instance, "s/posted", partition="0002")
    assert materialize(defs, instance, "balance_constraints", "s/reconciliation").success
    assert world.value("SELECT verdict FROM backfill_reconciliations ORDER BY id DESC LIMIT 1") == "match"
    assert world.value("SELECT total_processed::int FROM ledger_backfill_checkpoints") == 21


def test_a_poisoned_partition_is_missing_and_the_rest_is_shown(
    world: World, instance: dg.DagsterInstance
) -> None:
    rows = entries(60)
    rows[25] = entry(26, amount="much")
    source = world.write("s", rows, accounts=RICH)
    defs = definitions(source)
    assert launch_manifest(defs, instance, "s", accept_changed=False).success
    keys = list(instance.get_dynamic_partitions(partitions_name("s")))
    run = launch_range(defs, instance, "s", keys)
    assert not run.success
    assert len(run.errors) == 1
    assert "0003" in run.errors[0]
    others = set(keys) - {"0003"}
    assert [shown(instance, stage) for stage in STAGES] == [set(keys), set(keys), others, others]
    assert run.checks == {}

    source.write_text(source.read_text() + "max_error_rate: 0.2\n")
    healed = launch_range(definitions(source), instance, "s", ["0003"])
    assert healed.success
    assert [shown(instance, stage) for stage in STAGES] == [set(keys)] * 4
    assert healed.checks == LOOKED | CONSTRAINED | {
        "rejects_under_limit": False,
        "ledger_equals_source": True,
    }


def test_refused_constraints_fail_their_check_and_the_reconciliation_still_runs(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", entries(20), accounts={"A": 1, "B": 3, "C": 1}))
    launch_manifest(defs, instance, "s", accept_changed=False)
    run = launch_range(defs, instance, "s", ["0001", "0002"])
    assert run.success
    assert run.checks == LOOKED | dict.fromkeys(CONSTRAINED, False) | {"ledger_equals_source": True}
    metadata = run.metadata["balance_constraints"]
    assert (metadata["state"], metadata["offending_accounts"]) == ("refused", 1)
    assert "B" in str(metadata["worst"])


def test_a_break_fails_its_blocking_check(world: World, instance: dg.DagsterInstance) -> None:
    defs = definitions(world.write("s", entries(20), accounts=RICH))
    launch_manifest(defs, instance, "s", accept_changed=False)
    assert launch_range(defs, instance, "s", ["0001", "0002"]).success
    world.tamper("UPDATE bank_accounts SET balance = balance + 1 WHERE id = 'C'")
    run = launch_range(defs, instance, "s", ["0001"])
    assert not run.success
    assert run.checks["ledger_equals_source"] is False
    assert run.metadata["s/reconciliation"]["account_breaks"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": "many"},
        {"parallel_workers": 99},
        {"batchsize": 5},
        {"max_retries": -1},
    ],
)
def test_a_wrong_launchpad_configuration_is_refused_and_posts_nothing(
    world: World, instance: dg.DagsterInstance, wrong: dict[str, object]
) -> None:
    defs = definitions(world.write("s", entries(20)))
    materialize(defs, instance, "s/manifest")
    config: dict[str, object] = {"ops": {"s_stages": {"config": wrong}}}
    try:
        result = materialize(defs, instance, "s/posted", partition="0001", run_config=config)
    except dg.DagsterInvalidConfigError as error:
        text = str(error)
    else:
        assert not result.success
        (event,) = [event for event in result.all_events if event.is_step_failure]
        text = str(event.step_failure_data.error)
    assert next(iter(wrong)) in text
    assert world.references() == []


def test_the_launchpad_overrules_the_source_file(world: World, instance: dg.DagsterInstance) -> None:
    defs = definitions(world.write("s", entries(10), config={"batch_size": "5"}))
    materialize(defs, instance, "s/manifest")
    config: dict[str, object] = {"ops": {"s_stages": {"config": {"batch_size": 2}}}}
    assert materialize(defs, instance, "s/posted", partition="0001", run_config=config).success
    assert world.value("SELECT count(*)::int FROM backfill_batches WHERE kind = 'entries'") == 5


def test_partitions_that_only_the_ledger_knows_to_be_posted_are_shown(
    world: World, instance: dg.DagsterInstance
) -> None:
    source = world.write("s", entries(30))
    defs = definitions(source)
    materialize(defs, instance, "s/manifest")
    world.post(source, keys=["0001", "0003"], register=False)  # as a run that is killed before it says so
    from backfill_pipeline.ledger.registrations import load

    with connect(world.url) as connection:
        registration = load(connection, "s")
    assert registration is not None
    assert show_posted(instance, registration) == ["0001", "0003"]
    assert show_posted(instance, registration) == []
    assert [shown(instance, stage) for stage in STAGES] == [{"0001", "0003"}] * 4


# --- runs whose process is gone -----------------------------------------------------------------------------------


def _started_run(instance: dg.DagsterInstance, defs: dg.Definitions, tags: dict[str, str]) -> str:
    run = instance.create_run_for_job(job_def=defs.resolve_job_def("register_s"), tags=tags)
    instance.report_engine_event("started by a test", run)
    instance.add_run_tags(run.run_id, {})
    instance.handle_run_event(
        run.run_id,
        dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name),
    )
    return run.run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_only_runs_whose_process_on_this_machine_is_gone_are_swept(
    world: World, instance: dg.DagsterInstance
) -> None:
    from backfill_pipeline.orchestration.launch import process_tags

    defs = definitions(world.write("s", entries(5)))
    ours = process_tags()
    alive = _started_run(instance, defs, ours)
    gone = _started_run(
        instance, defs, {name: ("1" if "started" in name else value) for name, value in ours.items()}
    )
    elsewhere = _started_run(
        instance, defs, {name: ("elsewhere" if "host" in name else "1") for name in ours}
    )
    of_the_ui = _started_run(instance, defs, {})
    assert sweep_orphans(instance, only_own=True) == [gone]
    assert status_of(instance, gone) is dg.DagsterRunStatus.FAILURE
    for run_id in (alive, elsewhere, of_the_ui):
        assert status_of(instance, run_id) is dg.DagsterRunStatus.STARTED
    assert sweep_orphans(instance, only_own=False) == [of_the_ui]


# --- secrets ------------------------------------------------------------------------------------------------------


def test_no_password_reaches_dagsters_tables_or_files(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "tr0ub4dor-and-3"
    parameters = psycopg.conninfo.conninfo_to_dict(world.url)
    given = f"postgresql://{parameters['user']}:{password}@/{parameters['dbname']}?host={parameters['host']}"
    monkeypatch.setenv(
        "LEDGER_DATABASE_URL", given + (f"&port={parameters['port']}" if "port" in parameters else "")
    )
    rows = entries(20)
    rows[3] = entry(4, amount="?")
    defs = definitions(world.write("s", rows))
    launch_manifest(defs, instance, "s", accept_changed=False)
    launch_range(defs, instance, "s", ["0001", "0002"])
    dagster_url = make_url(str(instance.storage_url)) if hasattr(instance, "storage_url") else None
    name = f"{parameters['dbname']}_dagster"
    with psycopg.connect(psycopg.conninfo.make_conninfo(world.url, dbname=name)) as connection:
        tables = [
            table
            for (table,) in connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
        ]
        assert len(tables) > 10
        for table in tables:
            found = connection.execute(
                f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE %s", [f"%{password}%"]
            ).fetchone()
            assert found == (0,), table
    assert dagster_url is None or password not in str(dagster_url)
    files = [file for file in (world.folder / "home").rglob("*") if file.is_file()]
    assert not [file for file in files if password.encode() in file.read_bytes()]


# --- ranges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", []),
        ("abcd", ["abcd"]),
        ("b", ["b"]),
        ("ad", ["a", "d"]),
        ("abd", ["ab", "d"]),
        ("dba", ["ab", "d"]),
    ],
)
def test_missing_partitions_are_launched_as_ranges_of_neighbours(
    wanted: str, expected: Sequence[str]
) -> None:
    assert ["".join(part) for part in contiguous_ranges(wanted, "abcd")] == expected


def test_suspended_constraints_are_applied_again_by_their_asset(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", entries(20), accounts=RICH))
    launch_manifest(defs, instance, "s", accept_changed=False)
    launch_range(defs, instance, "s", ["0001", "0002"])
    with connect(world.url) as connection:
        assert constraints.suspend(connection)
        assert constraints.state(connection) == "suspended"
        assert materialize(defs, instance, "balance_constraints").success
        assert constraints.state(connection) == "applied"


def test_constraints_that_are_applied_again_put_no_other_reconciliation_out_of_date(
    world: World, instance: dg.DagsterInstance
) -> None:
    defs = definitions(world.write("s", entries(20), accounts=RICH))
    launch_manifest(defs, instance, "s", accept_changed=False)
    assert launch_range(defs, instance, "s", ["0001", "0002"]).success
    assert materialize(defs, instance, "balance_constraints").success
    shown = CachingStaleStatusResolver(instance, defs.resolve_asset_graph(), LoadingContextForTest(instance))
    assert shown.get_status(dg.AssetKey(["s", "reconciliation"])) is StaleStatus.FRESH
