"""Rolling back a lot: no step of it may take longer than posting did by more than a constant, whatever planners guess.

Generous bounds that only a wrong plan misses, as in `test_performance.py`; nothing is analyzed here.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backfill_pipeline.ledger import constraints, posting, rollback, seals
from backfill_pipeline.ledger.rollback import Mode, RollbackScope
from backfill_pipeline_tests.ledger.test_performance import within
from backfill_pipeline_tests.ledger.test_rollback import apply
from backfill_pipeline_tests.ledger.world import Entry, World, many, table

# Entries but for what posting them again gives anew, as numbers of their content.
CONTENT = (
    "hash_record_extended(ROW(ledger_id, debit_account_id, credit_account_id, amount, scale(amount), currency_code,"
    " asset_type, transaction_type, regexp_replace(reference_id, '~2$', ''), timestamp_utc, fx_rate, metadata, source_row)"
)
ENTRIES = f"SELECT count(*), sum({CONTENT}, 1)), sum({CONTENT}, 2)) FROM ledger_entries"


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
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_a_million_entries_are_rolled_back_under_constraints_and_posted_again_entry_for_entry(
    world: World, mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    count, batch = 1_000_000, 50_000
    scope = RollbackScope("bank")
    took_s: dict[str, float] = {}

    @contextmanager
    def taken(what: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        took_s[what] = time.monotonic() - started

    world.open_ring(5_000)
    world.open("EQUITY", normal_side="credit")
    posting.post_opening_entries(
        world.connection,
        "other",
        table([Entry(f"OPEN-{n}", f"a{n:06d}", "EQUITY", "1000.00") for n in range(5_000)]),
        "run-1",
    )
    assert constraints.apply(world.connection).state == "applied"
    balances = world.balances()
    with taken("posting"):
        post(world, count, batch)
    with taken("seals"):  # as each run does at its end
        seals.seal_batches(world.connection)
    posted, moved = world.rows(ENTRIES), world.balances()
    with taken("plan"):
        found = rollback.plan(world.connection, scope, mode=mode)
    with taken("apply"):
        done = rollback.apply(
            world.connection, scope, plan_hash=str(found["plan_hash"]), actor="ana", mode=mode
        )
    assert (done["applied"], done["proof"]["entries"]) == (True, count)
    assert world.balances() == balances
    assert constraints.verify(world.connection).state == "applied"
    assert world.count() == 5_000 + (0 if mode == "delete" else 2 * count)
    with taken("posting again"):
        post(world, count, batch, "" if mode == "delete" else "~2")
    # Reversed entries and what reversed them stay; what was posted again differs from them by its reference alone.
    stays = (
        ""
        if mode == "delete"
        else " WHERE id NOT IN (SELECT unnest(ARRAY[entry_id, reversal_entry_id]) FROM ledger_reversals)"
    )
    assert world.rows(ENTRIES + stays) == posted
    assert world.balances() == moved
    world.assert_balances_follow_entries()
    with capsys.disabled():
        print(f"\n{mode}: {', '.join(f'{what} {seconds:.1f} s' for what, seconds in took_s.items())}")
