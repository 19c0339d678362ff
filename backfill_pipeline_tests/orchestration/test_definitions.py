"""What Dagster loads: names, groups, dependencies, partitions, checks and jobs, on which people and schedules rely."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.catalogue import find_sources
from backfill_pipeline_tests.orchestration.test_assets import LOOKED
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entries


@pytest.fixture
def sources(tmp_path: Path) -> World:
    return World("postgresql:///unused", tmp_path)


# Of the ledger as a whole, and of no source.
LEDGER_ASSETS = {"balance_constraints", "audit", "corrections", "seals"}
LEDGER_CHECKS = {
    "balance_constraints:constraints_in_force": False,
    "balance_constraints:constraints_still_in_force": False,
    "audit:nothing_is_broken": False,
    "audit:nothing_to_look_at": False,
    "seals:sealed_entries_intact": False,
}
LEDGER_JOBS = {
    *(
        "rollback_plan",
        "rollback_apply",
        "close_period",
        "reopen_period",
        "seal",
        "verify_seals",
        "evidence",
        "report",
    ),
    *("propose_corrections", "approve_corrections", "apply_corrections", "checks"),
    *("apply_constraints", "prune_history"),
}


def loaded(world: World) -> dg.Definitions:
    defs = build_defs(find_sources(world.folder / "sources", world.folder / "none"))
    dg.Definitions.validate_loadable(defs)
    return defs


def test_the_graph_of_a_source(sources: World) -> None:
    sources.write("s", entries(1))
    graph = loaded(sources).resolve_asset_graph()
    picture = {
        key.to_user_string(): (
            graph.get(key).group_name,
            sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            graph.get(key).partitions_def.name if graph.get(key).partitions_def else None,
        )
        for key in graph.get_all_asset_keys()
        if key.to_user_string() not in LEDGER_ASSETS - {"balance_constraints"}
    }
    assert picture == {
        "s/plan": ("s", [], None),
        "s/manifest": ("s", [], None),
        "s/extracted": ("s", ["s/manifest"], "s_chunks"),
        "s/transformed": ("s", ["s/extracted"], "s_chunks"),
        "s/validated": ("s", ["s/transformed"], "s_chunks"),
        "s/posted": ("s", ["s/validated"], "s_chunks"),
        "balance_constraints": ("ledger", ["s/posted"], None),
        "s/reconciliation": ("s", ["balance_constraints", "s/posted"], None),
    }


def test_checks_and_which_of_them_block(sources: World) -> None:
    sources.write("s", entries(1))
    graph = loaded(sources).resolve_asset_graph()
    checks = {
        f"{key.asset_key.to_user_string()}:{key.name}": graph.get(key).blocking
        for key in graph.asset_check_keys
    }
    looked = dict.fromkeys((f"s/posted:{name}" for name in LOOKED), False)
    assert checks == LEDGER_CHECKS | looked | {"s/reconciliation:ledger_equals_source": True}


def test_jobs(sources: World) -> None:
    sources.write("s", entries(1))
    sources.write("t", entries(1))
    defs = loaded(sources)
    jobs = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert jobs == LEDGER_JOBS | {
        f"{does}_{source}" for does in ("register", "backfill", "reconcile") for source in "st"
    }
    backfill = {
        key.to_user_string() for key in defs.resolve_job_def("backfill_s").asset_layer.executable_asset_keys
    }
    assert backfill == {
        "s/extracted",
        "s/transformed",
        "s/validated",
        "s/posted",
        "balance_constraints",
        "s/reconciliation",
    }


def test_the_inbox_is_watched_by_a_sensor_that_is_on_and_knows_its_sources_alone(
    sources: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKFILL_INBOX_DIR", str(sources.folder / "sources" / "in"))
    sources.write("s", entries(1))
    sources.write("watched", [], file=None, files="in/*.csv")
    sensor = loaded(sources).resolve_sensor_def("inbox")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 30
    assert {target.job_name for target in sensor.targets} == {"register_watched", "backfill_watched"}


def test_stages_run_a_whole_range_in_one_run_and_can_be_taken_apart(sources: World) -> None:
    sources.write("s", entries(1))
    stages = loaded(sources).resolve_assets_def(dg.AssetKey(["s", "posted"]))
    assert stages.can_subset
    assert stages.backfill_policy == dg.BackfillPolicy.single_run()
    assert all(spec.description and spec.kinds for spec in stages.specs)


@pytest.mark.parametrize(
    "name", ["bad", "1", "über", "with space", "a.b", "大きい", "config", "type", "-", "x" * 200]
)
def test_a_broken_file_of_any_name_shows_its_error_and_takes_no_other_away(sources: World, name: str) -> None:
    sources.write("good", entries(1))
    (sources.folder / "sources" / f"{name}.yaml").write_text("id: [")
    keys = {key.to_user_string() for key in loaded(sources).resolve_asset_graph().get_all_asset_keys()}
    assert "good/posted" in keys
    (broken,) = [key for key in keys if key.endswith("/manifest") and key != "good/manifest"]
    graph = loaded(sources).resolve_asset_graph()
    assert f"{name}.yaml" in str(graph.get(dg.AssetKey(broken.split("/"))).description)


@pytest.mark.parametrize(
    "source_id",
    [
        "config",
        "context",
        "type",
        "input",
        "output",
        "class",
        "import",
        "ledger",
        "default",
        "balance_constraints",
        "s" * 63,
    ],
)
def test_any_id_that_a_definition_allows_can_be_loaded(sources: World, source_id: str) -> None:
    sources.write(source_id, entries(1))
    sources.write("good", entries(1))
    keys = {key.to_user_string() for key in loaded(sources).resolve_asset_graph().get_all_asset_keys()}
    assert {f"{source_id}/posted", "good/posted"} <= keys


def test_a_broken_file_named_like_another_sources_id_takes_neither_away(sources: World) -> None:
    path = sources.write("good", entries(1))
    path.rename(path.with_name("a_file.yaml"))
    path.write_text("id: [")  # good.yaml is broken; the source good is in a_file.yaml
    found = find_sources(sources.folder / "sources", sources.folder / "none")
    assert len(found) == 2


def test_without_any_source_there_is_still_something_to_load(sources: World) -> None:
    (sources.folder / "sources").mkdir()
    keys = loaded(sources).resolve_asset_graph().get_all_asset_keys()
    assert {key.to_user_string() for key in keys} == LEDGER_ASSETS


def _python(code: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + done.stderr.strip()


def test_loading_the_definitions_warns_of_nothing() -> None:
    code = (
        "import dagster, warnings\n"
        "from pydantic.warnings import PydanticDeprecationWarning\n"
        "warnings.simplefilter('error')\n"
        "warnings.simplefilter('ignore', PydanticDeprecationWarning)  # Dagster's own use of pydantic\n"
        "import backfill_pipeline.definitions as d\n"
        "dagster.Definitions.validate_loadable(d.defs)\n"
        "d.defs.resolve_all_job_defs()"
    )
    assert _python(code) == ""


def test_the_core_imports_no_dagster() -> None:
    core = ["stages.runner", "stages.reconcile", "stages.manifest", "local.generate", "ledger.posting"]
    code = (
        f"import sys\nfrom importlib import import_module\nfor module in {core}:\n"
        "    import_module(f'backfill_pipeline.{module}')\n"
        "    assert not [name for name in sys.modules if name.startswith('dagster')], module"
    )
    assert _python(code) == ""
