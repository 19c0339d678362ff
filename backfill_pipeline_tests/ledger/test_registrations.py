"""Registrations bind a source's progress to its content and its mapping."""

from dataclasses import replace

import pyarrow as pa
import pytest

from backfill_pipeline.errors import SourceChangedError
from backfill_pipeline.ledger import checkpoints, registrations, source_data
from backfill_pipeline.ledger.registrations import RegistrationPlan, partition_key, register
from backfill_pipeline_tests.ledger.world import Entry, World, registration_plan


@pytest.fixture
def plan() -> RegistrationPlan:
    return registration_plan("bank", 2, 1)


def post_all(world: World, registration: registrations.Registration) -> None:
    """Posts every partition of (2, 1) rows and completes it."""
    world.connection.execute(
        "INSERT INTO bank_accounts (id, currency_code) VALUES ('A', 'USD'), ('B', 'USD') ON CONFLICT DO NOTHING"
    )
    row = 1
    for number, partition in enumerate(registration.partitions):
        entries = [Entry(f"r{row + n}", row=row + n) for n in range(partition.plan.row_count)]
        world.post(registration, entries, partition=number)
        row += len(entries)
        registrations.record_validated(
            world.connection, partition.id, rejected=0, filtered=0, valid_rows=len(entries)
        )
        registrations.complete_partition(world.connection, registration, partition.id)


def test_the_first_time_everything_is_kept(world: World, plan: RegistrationPlan) -> None:
    registration, new = register(world.connection, plan)
    assert new
    assert registration.revision == 1
    assert [(p.key, p.plan) for p in registration.partitions] == [
        ("0001", plan.partitions[0]), ("0002", plan.partitions[1]),
    ]  # fmt: skip
    assert (registration.header, registration.mapping_parts) == (plan.header, plan.mapping_parts)
    assert (registration.row_count, registration.completed_at) == (3, None)
    assert registrations.load(world.connection, "bank") == registration
    assert registration.partition("0002").plan.first_row == 3
    with pytest.raises(KeyError):
        registration.partition("0003")
    checkpoint = checkpoints.load(world.connection, "bank")
    assert checkpoint is not None
    assert (checkpoint.status, checkpoint.processed) == ("IN_PROGRESS", 0)


def test_the_same_again_is_the_same(world: World, plan: RegistrationPlan) -> None:
    first, _ = register(world.connection, plan)
    world.open("A", "B")
    world.post(first, [Entry("r1")])
    again, new = register(world.connection, plan)
    assert not new
    assert again == first
    checkpoint = checkpoints.load(world.connection, "bank")
    assert checkpoint is not None
    assert checkpoint.processed == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sha256": "e" * 64}, "the content of export.csv (SHA-256 ffffffffffff… → eeeeeeeeeeee…)"),
        ({"sha256": "e" * 64, "size_bytes": 12345}, "the content of export.csv (400 → 12,345 bytes, SHA-256"),
        ({"mapping_parts": {"fields": "2", "reference_columns": "id"}}, "the mapping section 'fields'"),
        ({"mapping_parts": {"fields": "1", "reference_columns": "id", "csv": "x"}}, "the mapping section 'csv'"),
        ({"mapping_parts": {"reference_columns": "id"}}, "the mapping section 'fields'"),
    ],
)  # fmt: skip
def test_a_change_while_partitions_are_open_is_refused_naming_it(
    world: World, plan: RegistrationPlan, change: dict[str, object], named: str
) -> None:
    first, _ = register(world.connection, plan)
    world.open("A", "B")
    world.post(first, [Entry("r1")])
    with pytest.raises(SourceChangedError) as caught:
        register(world.connection, replace(plan, **change))
    assert named in str(caught.value)
    assert "2 of 2 partitions are not posted yet" in str(caught.value)
    assert registrations.load(world.connection, "bank") == first


def test_as_long_as_nothing_is_posted_a_change_is_free(world: World, plan: RegistrationPlan) -> None:
    register(world.connection, plan)
    second, new = register(
        world.connection, replace(plan, sha256="e" * 64, mapping_parts={"reference_columns": "x"})
    )
    assert (second.revision, new) == (2, True)


def test_other_reference_columns_are_refused_even_when_only_an_earlier_revision_posted(
    world: World, plan: RegistrationPlan
) -> None:
    first, _ = register(world.connection, plan)
    post_all(world, first)
    register(world.connection, replace(plan, sha256="e" * 64))  # nothing of it is posted
    changed = replace(plan, sha256="d" * 64, mapping_parts={"fields": "1", "reference_columns": "other"})
    with pytest.raises(SourceChangedError, match="makes its references from other columns"):
        register(world.connection, changed)


def test_a_change_after_everything_is_posted_is_a_new_revision(world: World, plan: RegistrationPlan) -> None:
    first, _ = register(world.connection, plan)
    post_all(world, first)
    source_data.replace(
        world.connection, "bank", first.partitions[0].id,
        pa.table({"source_row": [1], "ledger_id": ["MASTER"], "reference_id": ["r1"]}),
    )  # fmt: skip
    second, new = register(world.connection, replace(plan, sha256="e" * 64))
    assert new
    assert (second.revision, [p.key for p in second.partitions]) == (2, ["r2-0001", "r2-0002"])
    assert not any(p.posted for p in second.partitions)
    assert world.count("backfill_source_data") == 0
    checkpoint = checkpoints.load(world.connection, "bank")
    assert checkpoint is not None
    assert (checkpoint.status, checkpoint.processed) == ("IN_PROGRESS", 0)
    post_all(world, second)  # the same references: nothing twice
    assert world.count() == 3
    assert world.value("SELECT sum(duplicates) FROM backfill_batches") == 3


def test_other_columns_for_generated_references_are_refused_even_then(
    world: World, plan: RegistrationPlan
) -> None:
    first, _ = register(world.connection, plan)
    post_all(world, first)
    changed = replace(plan, mapping_parts={"fields": "1", "reference_columns": "other"})
    with pytest.raises(SourceChangedError, match="makes its references from other columns"):
        register(world.connection, changed)
    second, new = register(world.connection, changed, accept_changed=True)
    assert (second.revision, new) == (2, True)


def test_an_accepted_change_is_a_new_revision_whatever_is_open(world: World, plan: RegistrationPlan) -> None:
    register(world.connection, plan)
    second, new = register(world.connection, replace(plan, sha256="e" * 64), accept_changed=True)
    assert (second.revision, new) == (2, True)
    third, new = register(world.connection, replace(plan, sha256="e" * 64), accept_changed=True)
    assert (third.revision, new) == (2, False)


def test_sources_do_not_meet(world: World, plan: RegistrationPlan) -> None:
    register(world.connection, plan)
    register(world.connection, replace(plan, source_id="other", sha256="0" * 64))
    assert registrations.source_ids(world.connection) == ["bank", "other"]
    assert registrations.load(world.connection, "nobody") is None


def test_keys_sort_in_source_order() -> None:
    keys = [partition_key(1, number, 20_000) for number in (1, 2, 10, 9_999, 10_000, 20_000)]
    assert keys == sorted(keys)
    assert partition_key(1, 7, 12) == "0007"


def test_a_failure_is_kept_until_the_next_success(world: World, plan: RegistrationPlan) -> None:
    registration, _ = register(world.connection, plan)
    registrations.record_failure(world.connection, registration.partitions[0].id, "no disk")
    loaded = registrations.load(world.connection, "bank")
    assert loaded is not None
    assert loaded.partitions[0].error == "no disk"
    post_all(world, registration)
    loaded = registrations.load(world.connection, "bank")
    assert loaded is not None
    assert [(p.posted, p.error) for p in loaded.partitions] == [(True, None), (True, None)]


def test_what_a_source_says_is_replaced_per_partition(world: World, plan: RegistrationPlan) -> None:
    registration, _ = register(world.connection, plan)
    one, two = (partition.id for partition in registration.partitions)
    rows = pa.table({"source_row": [1, 2], "ledger_id": ["M", "M"], "reference_id": ["r1", "r\n'2\\"]})
    source_data.replace(world.connection, "bank", one, rows)
    source_data.replace(world.connection, "bank", two, rows.slice(0, 1))
    source_data.replace(world.connection, "bank", one, rows.slice(1, 1))
    assert world.rows("SELECT partition_id = %s, source_row, reference_id FROM backfill_source_data ORDER BY 1, 2", one) == [
        (False, 1, "r1"), (True, 2, "r\n'2\\"),
    ]  # fmt: skip
    source_data.replace(world.connection, "bank", one, rows.slice(0, 0))
    assert world.count("backfill_source_data") == 1
