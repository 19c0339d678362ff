"""What the Launchpad takes, how it says no, and that nothing in it or in the graph is on its way out of Dagster."""

from __future__ import annotations

import warnings

import dagster as dg
import pytest
from pydantic.warnings import PydanticDeprecationWarning

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.orchestration.config import (
    BackfillRunConfig,
    ManifestConfig,
    PlanConfig,
    SyncRunConfig,
)
from backfill_pipeline.orchestration.launch import launch_manifest, launch_range
from backfill_pipeline_tests.orchestration.test_assets import RICH, failure
from backfill_pipeline_tests.stages.world import World, entries

LEAVING = (DeprecationWarning, dg.SupersessionWarning, dg.PreviewWarning, dg.BetaWarning)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"batch_size": 0},
            "batch_size is 0 in the run's config: Input should be greater than or equal to 1",
        ),
        (
            {"parallel_workers": 17},
            "parallel_workers is 17 in the run's config: Input should be less than or equal to 16",
        ),
        (
            {"max_retries": 0, "retry_delay": 5},
            "in the run's config, retry_delay is given, but max_retries is 0: remove one of them",
        ),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_a_sentence(
    values: dict[str, object], said: str
) -> None:
    with pytest.raises(dg.Failure) as refused:
        BackfillRunConfig(**values)
    assert (refused.value.description, refused.value.allow_retries) == (said, False)


def test_every_key_is_explained() -> None:
    for config in (BackfillRunConfig, SyncRunConfig, ManifestConfig, PlanConfig):
        assert all(field.description for field in config.model_fields.values())


@pytest.mark.e2e
def test_nothing_that_is_loaded_and_run_is_on_its_way_out_of_dagster(
    world: World, instance: dg.DagsterInstance
) -> None:
    path = world.write("s", entries(25), accounts=RICH)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        definition = load_definition(path)
        defs = build_defs({"s": definition})
        dg.Definitions.validate_loadable(defs)
        assert launch_manifest(defs, instance, "s", accept_changed=False).success
        assert launch_range(defs, instance, "s", ["0001", "0002", "0003"]).success
        for job in ("apply_constraints", "reconcile_s", "verify_seals", "checks", "prune_history"):
            assert defs.resolve_job_def(job).execute_in_process(instance=instance).success, job
        refused = defs.resolve_job_def("backfill_s").execute_in_process(
            instance=instance,
            partition_key="0001",
            run_config={"ops": {"s_stages": {"config": {"batch_size": 0}}}},
            raise_on_error=False,
        )
        assert not refused.success
        assert "batch_size is 0" in failure(refused)
        leaving = [one for one in warned if _is_leaving(one)]
        assert [str(one.message) for one in leaving] == []
        dg.AutoMaterializePolicy.eager()  # the test would see one
        assert [one for one in warned if _is_leaving(one)]


def _is_leaving(one: warnings.WarningMessage) -> bool:
    """Whether it is about a construct of Dagster; its own use of pydantic is no concern of ours."""
    return issubclass(one.category, LEAVING) and not issubclass(one.category, PydanticDeprecationWarning)
