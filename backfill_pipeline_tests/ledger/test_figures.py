"""Figures say what the tables say: counted again from the rows themselves."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.figures import (
    Scope,
    batch_figures,
    currency_totals,
    daily_volume,
    throughput,
)
from backfill_pipeline_tests.stages.world import World


@pytest.fixture
def world(ledger_url: str, tmp_path: Path) -> World:
    world = World(ledger_url, tmp_path)
    # Twice the first row, a bad one, and three days.
    rows = [
        (f"R{n}", "A", "B", f"{n}.25", "USD", f"2024-01-0{1 + n % 3}T23:59:59Z", "") for n in range(1, 31)
    ]
    rows += [rows[0], ("BAD", "A", "B", "x", "USD", "2024-01-01T00:00:00Z", "")]
    world.post(world.write("one", rows, partition_rows="8", max_error_rate="1"), batch_size="3")
    world.post(
        world.write("two", [(f"X{n}", "A", "B", "1", "USD", "2024-02-01T00:00:00Z", "") for n in range(5)])
    )
    return world


@pytest.fixture
def ledger(world: World) -> Iterator[Connection]:
    with connect(world.url) as connection:
        yield connection


def scope(world: World, source_id: str = "one", *keys: str) -> Scope:
    [(registration,)] = world.query(f"SELECT id FROM backfill_registrations WHERE source_id = '{source_id}'")
    return Scope([registration], keys or None)


def test_what_batches_took_is_what_their_rows_say(world: World, ledger: Connection) -> None:
    found = batch_figures(ledger, scope(world))
    seconds = sorted(
        float(one) for (one,) in world.query("SELECT seconds FROM backfill_batches WHERE source_id = 'one'")
    )
    assert found is not None
    assert (found.batches, found.rows, found.posted) == (len(seconds), 31, 30)
    assert found.p50_s == seconds[(len(seconds) + 1) // 2 - 1]
    assert found.p95_s == seconds[-(-len(seconds) * 95 // 100) - 1]
    assert (found.slowest_s, found.busy_s) == (seconds[-1], pytest.approx(sum(seconds)))
    assert found.entries_per_s is not None
    assert found.entries_per_s == pytest.approx(30 / (found.ended_at - found.started_at).total_seconds())


def test_a_curve_has_no_more_points_than_asked_for_and_loses_no_entry(
    world: World, ledger: Connection
) -> None:
    every = throughput(ledger, scope(world))
    few = throughput(ledger, scope(world), points_max=4)
    assert len(few) == 4 < len(every)
    assert sum(one.posted for one in few) == sum(one.posted for one in every) == 30
    assert sum(one.batches for one in few) == len(every)
    assert [one.posted_at for one in few] == sorted(one.posted_at for one in few)


def test_totals_and_days_are_those_of_the_entries_of_this_source_alone(
    world: World, ledger: Connection
) -> None:
    [total] = currency_totals(ledger, scope(world))
    assert (total.currency_code, total.entries) == ("USD", 30)
    assert total.amount == sum(Decimal(n) + Decimal("0.25") for n in range(1, 31))
    days = daily_volume(ledger, scope(world))
    expected = Counter(1 + n % 3 for n in range(1, 31))
    assert [(one.day.day, one.entries) for one in days] == sorted(expected.items())
    assert sum(one.amount for one in days) == total.amount


def test_a_partition_and_a_run_can_be_asked_for_alone(world: World, ledger: Connection) -> None:
    [(key, posted)] = world.query(
        "SELECT p.partition_key, sum(b.posted)::int FROM backfill_batches b JOIN backfill_partitions p"
        " ON p.id = b.partition_id WHERE b.source_id = 'one' GROUP BY p.number, 1 ORDER BY p.number LIMIT 1"
    )
    found = batch_figures(ledger, scope(world, "one", str(key)))
    assert found is not None
    assert found.posted == posted == 8
    [(run,)] = world.query("SELECT DISTINCT run_id FROM backfill_batches WHERE source_id = 'one'")
    both = Scope([*scope(world).registration_ids, *scope(world, "two").registration_ids], None, [str(run)])
    assert sum(one.entries for one in currency_totals(ledger, both)) == 30


def test_of_nothing_there_are_no_figures(ledger: Connection) -> None:
    nothing = Scope([10**9])
    assert batch_figures(ledger, nothing) is None
    assert (throughput(ledger, nothing), currency_totals(ledger, nothing), daily_volume(ledger, nothing)) == (
        [],
        [],
        [],
    )
