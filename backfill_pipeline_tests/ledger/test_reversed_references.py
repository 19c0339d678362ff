"""Current references: by the ledger's own record of what was reversed, in sets, and never one of a moment ago."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.reversed_references import current_references
from backfill_pipeline_tests.ledger.test_exactly_once import wait_until_somebody_waits
from backfill_pipeline_tests.ledger.world import Entry, World, many, table

_ROLLBACK = """
    INSERT INTO backfill_rollbacks (source_id, mode, reverse_at, plan_hash, plan, actor, proof)
    VALUES ('bank', 'reverse', 'now', 'x', '{}', 'anna', '{}') RETURNING id
"""


def reverse(world: World, *references: str, ledger: str = "MASTER", times: int = 1) -> None:
    """Notes that entries were reversed so often, without entries."""
    rollback = world.value(_ROLLBACK)
    world.connection.execute(
        "INSERT INTO ledger_reversals (ledger_id, base_reference, generation, reference_id, reversal_reference_id,"
        " entry_id, reversal_entry_id, rollback_id)"
        " SELECT %s, reference, n, reference, reference, nextval('ledger_entries_id_seq'), n, %s"
        " FROM unnest(%s::text[]) AS reference CROSS JOIN generate_series(1, %s) AS n",
        [ledger, rollback, list(references), times],
    )


def current(world: World, *references: str, ledger: str = "MASTER") -> list[str]:
    entries = table([Entry(reference, ledger=ledger) for reference in references])
    found: list[str] = current_references(world.connection, entries).column("reference_id").to_pylist()
    return found


def test_where_nothing_was_reversed_nothing_is_touched(world: World) -> None:
    entries = many(100, 5)
    assert current_references(world.connection, entries) is entries
    empty = entries.slice(0, 0)
    assert current_references(world.connection, empty) is empty


@pytest.mark.parametrize("times", [1, 2, 11])
def test_behind_n_reversals_it_is_the_next(world: World, times: int) -> None:
    reverse(world, "P-2", times=times)
    assert current(world, "P-1", "P-2", "P-2", "P-3") == [
        "P-1",
        f"P-2~{times + 1}",
        f"P-2~{times + 1}",
        "P-3",
    ]


def test_each_ledger_has_references_of_its_own(world: World) -> None:
    reverse(world, "P-1", ledger="OTHER")
    assert current(world, "P-1") == ["P-1"]
    assert current(world, "P-1", ledger="OTHER") == ["P-1~2"]


def test_other_columns_stay_as_they_are(world: World) -> None:
    entries = many(5000, 50)
    references = entries.column("reference_id").to_pylist()
    reverse(world, *references[::2])
    found = current_references(world.connection, entries)
    assert found.schema == entries.schema
    assert found.drop(["reference_id"]).equals(entries.drop(["reference_id"]))
    assert found.column("reference_id").to_pylist() == [
        f"{reference}~2" if number % 2 == 0 else reference for number, reference in enumerate(references)
    ]


def test_any_table_with_ledger_and_reference_will_do(world: World) -> None:
    reverse(world, "ä'\t\"\\", "new\nline")
    named = pa.table({"reference_id": ["new\nline", "ä'\t\"\\", ""], "ledger_id": ["MASTER"] * 3})
    found = current_references(world.connection, named)
    assert found.column("reference_id").to_pylist() == ["new\nline~2", "ä'\t\"\\~2", ""]


@pytest.mark.parametrize("staging", [False, True])
def test_a_batch_waits_for_a_rollback_that_is_under_way(world: World, staging: bool) -> None:
    """Told a duplicate of an entry that is being reversed, its row would be lost."""
    world.open("A", "B")
    bank, other = world.register(source_id="bank"), world.register(source_id="other")
    assert world.post(bank, [Entry("P-1", row=1)]).posted == 1
    posting = world.connect()
    with ThreadPoolExecutor(1) as pool:
        with world.connection.transaction():
            world.connection.execute("LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE")
            again = pool.submit(
                world.post,
                other,
                [Entry("P-1", row=1), Entry("P-2", row=2)],
                connection=posting,
                staging=staging,
                policy=PostingPolicy(),
            )
            wait_until_somebody_waits(world)
            reverse(world, "P-1")
        outcome = again.result(timeout=120)
    assert (outcome.posted, outcome.duplicates) == (2, 0)
    assert world.references() == {"P-1", "P-1~2", "P-2"}
