"""What the ledger keeps about a whole source: the same as its rows, and nothing of another source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill_pipeline.ledger import overview, status
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import World, entries, entry


@pytest.fixture
def world(ledger_url: str, tmp_path: Path) -> World:
    world = World(ledger_url, tmp_path)
    rows = [
        *entries(25),
        entry(1),
        entry(30, amount="x" * 90),
        entry(31, amount="y"),
        entry(32, debit="nobody"),
    ]
    world.post(world.write("one", rows, max_error_rate="1"))
    world.post(world.write("other", entries(5, first=50)))
    return world


@pytest.fixture
def ledger(world: World) -> Iterator[Connection]:
    with connect(world.url) as connection:
        yield connection


def test_counts_are_those_of_the_partitions(world: World, ledger: Connection) -> None:
    ids = overview.registration_ids(ledger, "one")
    found = overview.counts(ledger, ids)
    parts = status.partition_outcomes(ledger, ids[0])
    for name in ("read", "posted", "duplicates", "conflicts", "rejected", "filtered"):
        assert getattr(found, name) == sum(getattr(part, name) for part in parts), name
    assert (found.rows, found.adds_up, found.not_posted, found.partitions) == (29, True, 0, {"posted": 3})
    world.tamper(
        "UPDATE backfill_partitions SET posted_at = NULL WHERE partition_key = '0001' AND registration_id = %s",
        ids[0],
    )
    found = overview.counts(ledger, ids)
    assert (found.read, found.not_posted, found.in_progress) == (19, 10, 10)
    assert found.partitions == {"posted": 2, "posting": 1}
    assert overview.counts(ledger, []).rows == 0


def test_rejects_are_counted_by_code_and_shown_in_part(ledger: Connection) -> None:
    ids = overview.registration_ids(ledger, "one")
    assert [(one.code, one.rejected, one.repaired) for one in overview.reject_counts(ledger, ids)] == [
        ("amount_malformed", 2, 0),
        ("unknown_account", 1, 0),
    ]
    samples = overview.reject_samples(ledger, ids, per_code=1, characters=20)
    assert [(one.code, one.source_row, one.partition_key) for one in samples] == [
        ("amount_malformed", 27, "0003"),
        ("unknown_account", 29, "0003"),
    ]
    assert max(len(one.raw) for one in samples) == 21  # one more, so that it can be told that it was cut


def test_a_bank_is_all_of_its_days_and_no_neighbour(world: World, ledger: Connection) -> None:
    world.query(
        "INSERT INTO backfill_registrations (source_id, source_type, revision, file_name, size_bytes, sha256,"
        " mapping_sha256, mapping_parts, header, row_count)"
        " SELECT name, source_type, revision, file_name, size_bytes, sha256, mapping_sha256, mapping_parts, header, 0"
        " FROM backfill_registrations, unnest(ARRAY['bank', 'bank_2@2024-03-01', 'bank2@2024-03-01', 'ban@2024-03-01',"
        " 'bank@2024-03-01', 'bank@2024-03-02', 'banka@2024-03-01']) AS name WHERE source_id = 'one'"
    )
    names = dict(world.query("SELECT id, source_id FROM backfill_registrations"))
    assert [names[one] for one in overview.registration_ids(ledger, "bank")] == [
        "bank",
        "bank@2024-03-01",
        "bank@2024-03-02",
    ]
    assert [names[one] for one in overview.registration_ids(ledger, "bank@2024-03-01")] == ["bank@2024-03-01"]


def test_what_was_decided_and_sealed(world: World, ledger: Connection) -> None:
    assert overview.rollbacks(ledger, "one", limit=5) == (0, [])
    before = overview.sealed(ledger, "one")
    assert (before.batches, before.final) == (3, 0)
    roll_back(world, "one", partition="0001", mode="delete")
    roll_back(world, "other", mode="delete")
    count, [latest] = overview.rollbacks(ledger, "one", limit=5)
    assert (count, latest.scope, latest.mode, latest.entries, latest.actor) == (
        1,
        "partition 0001",
        "delete",
        10,
        "anna",
    )
    assert overview.sealed(ledger, "one").batches == 2
    [revision] = overview.revisions(ledger, "one")
    assert (revision.revision, revision.rows, revision.file_name) == (1, 29, "one.csv")
    assert overview.corrections(ledger, "one", limit=5) == (0, [])
