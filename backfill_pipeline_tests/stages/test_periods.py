"""Backfills that meet a closed period: foretold, rejected row by row, and repaired once it is open."""

from __future__ import annotations

from datetime import date

import pytest

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import periods, seals
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline_tests.stages.planning import assert_planned_and_run_agree, planned
from backfill_pipeline_tests.stages.repair import fix
from backfill_pipeline_tests.stages.world import World, entries, entry

FEBRUARY = date(2024, 2, 1)
IN_FEBRUARY = "2024-02-29T23:59:59.999999Z"


def close(world: World, month: date = FEBRUARY) -> None:
    with connect(world.url) as connection:
        assert periods.close(connection, "MASTER", month, actor="ann", reason=None)


def reopen(world: World, month: date = FEBRUARY) -> None:
    with connect(world.url) as connection:
        for actor in ("ann", "bob"):
            done = periods.reopen(connection, "MASTER", month, actor=actor, reason=None)
        assert done


def test_a_plan_foretells_what_a_run_rejects_and_a_replay_posts_it_once_the_period_is_open(
    world: World,
) -> None:
    world.post(world.write("first", entries(5), accounts={"A": 100, "B": 0}))
    close(world)
    rows = [*entries(9, first=10), entry(20, time=IN_FEBRUARY), entry(21, time="2024-03-01T00:00:00Z")]
    path = world.write("s", [*rows, *entries(2)], max_error_rate="0.5")
    plan = assert_planned_and_run_agree(world, path)
    assert plan.rejects_by_code == {"period_closed": 1}
    assert (plan.counts.posted, plan.counts.duplicates, plan.counts.rejected) == (10, 2, 1)
    assert world.rejects() == [(10, "post", "period_closed", "timestamp_utc")]
    assert world.reconcile(path).matches
    assert fix(world, path, {}).counts.posted == 0
    reopen(world)
    assert fix(world, path, {}).counts.posted == 1
    assert "R000020" in world.references()
    assert world.reconcile(path).matches


def test_a_source_that_lies_in_it_altogether_is_stopped_before_anything_is_posted(world: World) -> None:
    world.post(world.write("first", entries(5), accounts={"A": 100, "B": 0}))
    close(world, date(2024, 1, 1))
    path = world.write("s", entries(30, first=10))
    assert planned(world, path).ending == "failed"
    errors = [report.error for report in world.run(path)]
    assert all("period 2024-01 of ledger MASTER is closed" in str(error) for error in errors), errors
    assert len(world.references()) == 5
    # What is in the ledger already is no news, and is found there.
    world.post(world.write("again", entries(5), accounts={"A": 100, "B": 0}))


def test_opening_balances_are_refused_in_one_sentence(world: World) -> None:
    world.post(world.write("first", entries(5), accounts={"A": 100, "B": 0}))
    close(world, date(2023, 12, 1))
    with pytest.raises(
        LedgerError, match="row 1 is dated 2023-12-31T23:59:59Z, and period 2023-12 of ledger MASTER"
    ):
        world.run(world.write("s", entries(5, first=10), accounts={"Z": 5, "A": 0, "B": 0}))


def test_a_run_seals_what_it_posted(world: World) -> None:
    path = world.write("s", entries(25), accounts={"A": 100, "B": 0})
    world.post(path)
    with connect(world.url) as connection:
        assert len(seals.unsealed(connection).batches) == 4
        assert world.reconcile(path).matches
        assert seals.unsealed(connection).batches == ()
    assert world.value("SELECT sum(entries) FROM ledger_seals WHERE kind = 'batch'") == 26
