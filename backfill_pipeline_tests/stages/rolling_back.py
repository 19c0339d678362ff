"""Rolling back, for tests of what comes after it: the plan, and exactly that plan applied."""

from __future__ import annotations

from typing import Any

import psycopg

from backfill_pipeline_tests.stages.world import World


def roll_back(
    world: World,
    source_id: str,
    *,
    partition: str | None = None,
    batch: int | None = None,
    mode: str | None = None,
    at: str | None = None,
) -> dict[str, Any]:
    """Applies the plan as it is now, as anna; returns the plan."""
    scope = [source_id, partition, batch, mode, at]
    with psycopg.connect(world.url, autocommit=True) as connection:
        row = connection.execute("SELECT rollback_plan(%s, %s, %s, %s, %s)", scope).fetchone()
        assert row is not None
        plan: dict[str, Any] = row[0]
        assert not plan["refused"], plan["refused"]
        connection.execute(
            "SELECT rollback_apply(%s, %s, %s, %s, %s, %s, %s, %s)",
            [*scope, plan["plan_hash"], "anna", "wrong export"],
        )
    return plan
