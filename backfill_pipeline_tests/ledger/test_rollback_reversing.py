"""Mode reverse: whose numbers, batches and seals reversing entries get."""

import pytest

from backfill_pipeline.ledger import posting, rollback, seals
from backfill_pipeline.ledger.rollback import RollbackScope
from backfill_pipeline_tests.ledger.test_rollback import BANK, apply, ring
from backfill_pipeline_tests.ledger.world import Entry, World, many, table

LINKS = "SELECT reversal_entry_id FROM ledger_reversals ORDER BY entry_id"


def test_reversing_entries_take_numbers_that_nobody_has_or_is_about_to_take(world: World) -> None:
    """Sessions keep numbers in stock, and whoever inserts entries with numbers of their own leaves gaps behind them."""
    ring(world, 5)
    registration = world.register(5, source_id="bank")
    world.open("A", "B")
    other = world.connect()
    world.post_one(Entry("LIVE-1"), other)
    world.post(registration, many(3, 7, prefix="again-", first_row=901), connection=other)
    world.connection.execute(
        "INSERT INTO ledger_entries (id, ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
        " transaction_type, reference_id, timestamp_utc) VALUES (5000, 'MASTER', 'A', 'B', 1, 'USD', 'T', 'OWN', now())"
    )
    done = apply(world, mode="reverse")
    numbers = [number for (number,) in world.rows(LINKS)]
    assert done["proof"]["entries"] == len(numbers) == 5 + 7 + 3
    assert numbers == sorted(numbers), "in the order of what they reverse"
    assert numbers[0] > 5000
    for number in range(150):
        world.post_one(Entry(f"LATER-{number}"), other if number % 2 else world.connection)
    world.post_one(Entry("LAST"), world.connect())
    world.assert_balances_follow_entries()


def test_reversing_entries_are_of_the_batch_of_their_source_and_origin(world: World) -> None:
    """Days of a bank, whose batches lie among each other."""
    world.open_ring(7)
    world.open("EQUITY", normal_side="credit")
    days = [f"bank@2024-03-0{day}" for day in (1, 2, 3)]
    registrations = {day: world.register(20, source_id=day) for day in days}
    for first in (1, 6, 11):
        for day in days:
            world.post(registrations[day], many(5, 7, prefix=f"{day}-", first_row=first))
    openings = [Entry(f"OPEN-{n}", f"a{n:06d}", "EQUITY") for n in range(7)]
    posting.post_opening_entries(world.connection, days[1], table(openings), "run-1")
    apply(world, mode="reverse")
    expected = [(day, "LOCAL", 15) for day in days]
    expected.insert(2, (days[1], "OPENING", 7))
    assert (
        world.rows(
            "SELECT source_id, origin, posted FROM backfill_batches WHERE kind = 'reversal' ORDER BY id"
        )
        == expected
    )
    assert (
        world.rows(
            "SELECT now.source_id, now.origin, count(*) FROM ledger_reversals r"
            " JOIN ledger_entries reversed ON reversed.id = r.entry_id"
            " JOIN backfill_batches_ever was ON was.id = reversed.batch_id"
            " JOIN ledger_entries reversing ON reversing.id = r.reversal_entry_id"
            " JOIN backfill_batches now ON now.id = reversing.batch_id"
            " WHERE (now.source_id, now.origin) = (was.source_id, was.origin) GROUP BY 1, 2 ORDER BY 1, 2"
        )
        == expected
    )


@pytest.mark.parametrize("others_seal", [False, True])
def test_reversing_entries_are_sealed_once_it_is_done_or_else_by_the_next_run(
    world: World, others_seal: bool
) -> None:
    ring(world, 5)
    seals.seal_batches(world.connection)
    found = rollback.plan(world.connection, BANK, mode="reverse")
    other = world.connect()
    world.connection.execute("SET lock_timeout = '100ms'")
    with other.transaction():
        if others_seal:
            other.execute("LOCK TABLE ledger_seals IN SHARE ROW EXCLUSIVE MODE")
        done = rollback.apply(
            world.connection, BANK, plan_hash=str(found["plan_hash"]), actor="ana", mode="reverse"
        )
    assert done["applied"] is True
    left = len(done["proof"]["reversal_batches"]) if others_seal else 0
    assert len(seals.unsealed(world.connection).batches) == left
    assert seals.seal_batches(world.connection) == left
    assert seals.chain_faults(world.connection) == []


def test_the_hash_of_another_plan_is_said_to_be_one(world: World) -> None:
    ring(world, 5, 5)
    other_plans = (
        (BANK, "reverse", None),
        (BANK, "reverse", "now"),
        (RollbackScope("bank", partition_key="0001"), None, None),
    )
    for scope, mode, at in other_plans:
        plan_hash = str(rollback.plan(world.connection, scope, mode=mode, reverse_at=at)["plan_hash"])
        with pytest.raises(
            rollback.StalePlanError, match="another plan, where partition, batch, mode or --at"
        ):
            rollback.apply(world.connection, BANK, plan_hash=plan_hash, actor="ana")
    assert world.count("backfill_rollbacks") == 0
