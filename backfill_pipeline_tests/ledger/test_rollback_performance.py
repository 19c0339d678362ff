"""Rolling back a lot: no step of it may take longer than posting did by more than a constant, whatever planners guess.

Generous bounds that only a wrong plan misses, as in `test_performance.py`; nothing is analyzed here.
"""

import pytest

from backfill_pipeline.ledger import constraints, rollback
from backfill_pipeline.ledger.rollback import Mode, RollbackScope
from backfill_pipeline_tests.ledger.test_performance import within
from backfill_pipeline_tests.ledger.test_rollback import apply
from backfill_pipeline_tests.ledger.world import World, many

# Entries but for what posting them again gives anew.
ENTRIES = (
    "SELECT count(*), sum(hash_record_extended(ROW(ledger_id, reference_id, debit_account_id, credit_account_id, amount,"
    " currency_code, asset_type, transaction_type, timestamp_utc, fx_rate, metadata, source_row), 1))"
    " FROM ledger_entries"
)


def post(world: World, count: int, batch: int, suffix: str = "") -> None:
    """A ring, in which every account ends where it began."""
    registration = world.register(count)
    for first in range(1, count + 1, batch):
        rows = many(batch, 5_000, prefix="M", first_row=first)
        if suffix:
            at = rows.schema.get_field_index("reference_id")
            names = [f"{one}{suffix}" for one in rows.column("reference_id").to_pylist()]
            rows = rows.set_column(at, rows.schema.field(at), [names])
        assert world.post(registration, rows).posted == batch


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_many_batches_are_rolled_back_in_linear_time(world: World, mode: Mode) -> None:
    """Fifty batches: entries that meet batches, accounts or their reversals one by one would take minutes."""
    world.open_ring(5_000)
    post(world, 10_000, 200)
    with within(60):
        apply(world, mode=mode)
    assert world.value("SELECT count(*) FROM bank_accounts WHERE balance <> 0") == 0
    if mode == "reverse":
        post(world, 10_000, 200, "~2")
        with within(60):
            apply(world, mode=mode)
        assert world.value("SELECT max(generation) FROM ledger_reversals") == 2
        assert world.value("SELECT count(*) FROM bank_accounts WHERE balance <> 0") == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_entries_are_rolled_back_under_constraints_and_posted_again_entry_for_entry(
    world: World,
) -> None:
    world.open_ring(5_000)
    assert constraints.apply(world.connection).state == "applied"
    post(world, 1_000_000, 50_000)
    posted = world.rows(ENTRIES)
    with within():
        found = rollback.plan(world.connection, RollbackScope("bank"))
    with within():
        rollback.apply(
            world.connection, RollbackScope("bank"), plan_hash=str(found["plan_hash"]), actor="ana"
        )
    assert world.count() == 0
    post(world, 1_000_000, 50_000)
    assert world.rows(ENTRIES) == posted
    world.assert_balances_follow_entries()
