"""A source of many partitions: what a run leaves in Dagster's database for each, which its pages have to read.

Belongs here: bounds of what is ours, counted: events, their size, queries.
Does not: times, which are the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import psycopg
import pytest
from dagster_postgres.event_log import PostgresEventLogStorage
from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url

from backfill_pipeline.orchestration.launch import launch_manifest, launch_range
from backfill_pipeline.orchestration.partitions import partition_states, partitions_name
from backfill_pipeline.orchestration.stage_metadata import PARTITIONS_DRAWN
from backfill_pipeline.stages.prepare import STAGES
from backfill_pipeline_tests.orchestration.test_assets import RICH, definitions
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

ROWS = 10
FEW, MANY = 20, 120  # of more than 100 partitions, a run tells `posted` alone again
EVENTS_MAX = 13
"""Of a partition: for each of four stages that it is planned and done, and again when the run ends."""
BYTES_MAX = 8192
"""Of an event without pictures."""
DRAWN_BYTES_MAX = 100_000
"""Of an event with pictures."""


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """Every statement that Dagster's storage executes meanwhile."""
    statements: list[str] = []

    def note(
        _connection: object, _cursor: object, statement: str, _values: object, _context: object, _many: object
    ) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def left(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str | None, int]]:
    """Partition and size in bytes of every event of a run."""
    storage = instance.event_log_storage
    assert isinstance(storage, PostgresEventLogStorage)
    url = make_url(storage.postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT partition, octet_length(event) FROM event_logs WHERE run_id = %s", [run_id]
        ).fetchall()


def test_a_partition_costs_the_same_however_many_there_are(
    world: World, instance: dg.DagsterInstance
) -> None:
    counts: dict[int, int] = {}
    looks: dict[int, int] = {}
    for partitions in (FEW, MANY):
        source = f"s{partitions}"
        rows = [[f"{source}-{row[0]}", *row[1:]] for row in entries(partitions * ROWS)]
        defs = definitions(world.write(source, rows, accounts=RICH, partition_rows=str(ROWS)))
        assert not launch_manifest(defs, instance, source, accept_changed=False).errors
        keys = instance.get_dynamic_partitions(partitions_name(source))
        assert len(keys) == partitions
        run = launch_range(defs, instance, source, keys)
        assert run.success, run.errors
        events = left(instance, run.run_id)
        counts[partitions] = len(events)
        sizes = sorted((size for _, size in events), reverse=True)
        # `posted` of the first two and the last has pictures, which may be told again when the run ends; and so has
        # the reconciliation.
        assert sizes[0] <= DRAWN_BYTES_MAX
        assert sum(size > BYTES_MAX for size in sizes) <= 2 * (PARTITIONS_DRAWN + 1) + 3
        newest: dict[str | None, set[str]] = {}
        for record in instance.fetch_materializations(
            dg.AssetKey([source, "posted"]), limit=5 * MANY
        ).records:
            told = record.asset_materialization
            assert told is not None
            newest.setdefault(told.partition, set(told.metadata))
        assert len(newest) == partitions
        assert all({"rows_in", "posted", "totals"} <= told for told in newest.values()), "what the UI shows"
        with counted_statements() as statements:
            for stage in STAGES:
                assert partition_states(instance, dg.AssetKey([source, stage])) == dict.fromkeys(
                    keys, "materialized"
                )
        looks[partitions] = len(statements)
    assert counts[MANY] - counts[FEW] <= EVENTS_MAX * (MANY - FEW)
    assert 0 < looks[MANY] == looks[FEW]
