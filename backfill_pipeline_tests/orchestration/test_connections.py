"""Dagster's connections are kept open for a run, replaced when they died, and closed after it."""

from __future__ import annotations

import dagster as dg
import psycopg

from backfill_pipeline.orchestration.connections import kept_open
from backfill_pipeline_tests.stages.world import World

_OTHERS = "FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


def _sessions(world: World) -> set[int]:
    """Process ids of the sessions in Dagster's database."""
    with psycopg.connect(world.url) as connection:
        rows = connection.execute(f"SELECT pid {_OTHERS}", [f"{connection.info.dbname}_dagster"]).fetchall()
    return {row[0] for row in rows}


def test_one_session_per_storage_serves_many_statements_and_is_gone_afterwards(
    instance: dg.DagsterInstance, world: World
) -> None:
    assert _sessions(world) == set()
    with kept_open(instance):
        instance.get_runs()
        first = _sessions(world)
        for number in range(5):
            instance.add_dynamic_partitions("letters", [str(number)])
            instance.get_runs()
        assert len(first) == 1
        assert first < _sessions(world)
        assert len(_sessions(world)) == 2  # runs, and events with partitions
    assert _sessions(world) == set()


def test_a_session_that_died_is_replaced_before_it_is_used(
    instance: dg.DagsterInstance, world: World
) -> None:
    with kept_open(instance):
        instance.add_dynamic_partitions("letters", ["a"])
        before = _sessions(world)
        with psycopg.connect(world.url, autocommit=True) as connection:
            connection.execute(
                f"SELECT pg_terminate_backend(pid, 5000) {_OTHERS}", [f"{connection.info.dbname}_dagster"]
            )
        instance.add_dynamic_partitions("letters", ["b"])
        assert instance.get_dynamic_partitions("letters") == ["a", "b"]
        assert not before & _sessions(world)
