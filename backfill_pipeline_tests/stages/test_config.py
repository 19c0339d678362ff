"""Defaults, the source file and the run: which one of them sets a run's configuration."""

import pytest

from backfill_pipeline.definition.models import RunConfig
from backfill_pipeline.stages.config import ONLINE_BATCH_SIZE, BackfillConfig, effective_config
from backfill_pipeline_tests.stages.world import World, entries

ONLINE = effective_config(RunConfig(online=True))


def test_what_nobody_sets_is_the_default() -> None:
    assert effective_config(RunConfig()) == effective_config(RunConfig(online=False)) == BackfillConfig()


def test_an_online_run_locks_few_accounts_for_a_short_time() -> None:
    assert ONLINE.batch_size * 20 <= BackfillConfig().batch_size
    assert ONLINE.parallel_workers == 1


def test_an_online_run_checks_balances_after_as_many_entries_as_any_other() -> None:
    other = BackfillConfig()
    assert ONLINE.checkpoint_interval * ONLINE.batch_size == other.checkpoint_interval * other.batch_size


@pytest.mark.parametrize("said_by", ["source", "run"])
def test_what_is_set_explicitly_stays_as_it_is_online(said_by: str) -> None:
    explicit = RunConfig(batch_size=7, checkpoint_interval=3, parallel_workers=4)
    online = RunConfig(online=True)
    both = effective_config(explicit, online) if said_by == "source" else effective_config(online, explicit)
    assert (both.batch_size, both.checkpoint_interval, both.parallel_workers) == (7, 3, 4)


def test_a_run_wins_over_the_source_file_about_being_online() -> None:
    assert effective_config(RunConfig(online=True), RunConfig(online=False)) == BackfillConfig()
    assert effective_config(RunConfig(online=False), RunConfig(online=True)) == ONLINE


def test_an_online_source_is_posted_in_small_batches(world: World) -> None:
    source = world.write("s", entries(1200), partition_rows="5000", online="true")
    world.post(source)
    sizes = world.query("SELECT read FROM backfill_batches WHERE kind = 'entries' ORDER BY first_row")
    assert sizes == [(ONLINE_BATCH_SIZE,), (ONLINE_BATCH_SIZE,), (1200 - 2 * ONLINE_BATCH_SIZE,)]
    assert world.reconcile(source).matches


def test_a_source_that_goes_online_half_way_is_carried_on_with(world: World) -> None:
    source = world.write("s", entries(30), config={"batch_size": "4"})
    world.post(source, keys=["0001"])
    source = world.write("s", entries(30), online="true")
    world.post(source)
    assert world.value("SELECT max(revision) FROM backfill_registrations") == 1
    sizes = world.query("SELECT read FROM backfill_batches WHERE kind = 'entries' ORDER BY first_row")
    assert sizes == [(4,), (4,), (2,), (10,), (10,)]
    assert world.reconcile(source).matches
