"""Running balances as the server sums them, on every server: own entries by their order, others by their time."""

from datetime import datetime, timedelta
from decimal import Decimal

import pyarrow as pa

from backfill_pipeline.ledger.history.running_balances import Comparison, running_balances
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.schemas.frames import STATED_SCHEMA
from backfill_pipeline_tests.ledger.world import NOON, Entry, World

STRIDE = 10**13
NOTHING = pa.table(
    {"source_row": [], "source_line": [], "detail": []},
    schema=pa.schema([("source_row", pa.int64()), ("source_line", pa.int64()), ("detail", pa.string())]),
)


def stated(balances: dict[int, str], account: str = "A", side: str | None = None) -> pa.Table:
    """Row number → balance after it."""
    columns: dict[str, list[object]] = {
        "source_row": list(balances),
        "source_line": [row + 1 for row in balances],
        "account_id": [account] * len(balances),
        "balance": [Decimal(balance) for balance in balances.values()],
        "balance_scale": [2] * len(balances),
        "side": [side] * len(balances),
        "problem": [None] * len(balances),
    }
    assert STATED_SCHEMA.field("balance").type == AMOUNT_TYPE
    return pa.table(columns, schema=STATED_SCHEMA)


def compare(world: World, bank: Registration, said: pa.Table, *, descending: bool = False) -> Comparison:
    with running_balances(world.connection, descending=descending, file_stride=STRIDE) as running:
        running.add(said, NOTHING, byte_offset=0)
        return running.compare(bank.id, step_limit=5)


def entries(*amounts: str, at: datetime = NOON) -> list[Entry]:
    return [
        Entry(f"R{row}", amount=amount, row=row, at=at + timedelta(minutes=row))
        for row, amount in enumerate(amounts, 1)
    ]


def test_in_the_order_of_the_statement(world: World) -> None:
    world.open("A", "B")
    bank = world.register(3)
    world.post(bank, entries("1.00", "2.00", "4.00"))
    upwards = compare(world, bank, stated({1: "1.00", 2: "3.00", 3: "7.00"}))
    assert (upwards.compared, upwards.differing, upwards.last) == (3, 0, Decimal(0))
    downwards = compare(world, bank, stated({1: "7.00", 2: "6.00", 3: "4.00"}), descending=True)
    assert (downwards.compared, downwards.differing) == (3, 0)
    assert world.rows("SELECT relname FROM pg_class WHERE relpersistence = 't'") == []


def test_another_side_and_an_account_that_is_not_there(world: World) -> None:
    world.open("A", "B")
    bank = world.register(2)
    world.post(bank, entries("1.00", "2.00"))
    found = compare(world, bank, stated({1: "1.00", 2: "3.50"}, "B", "credit"))
    (step,) = found.steps
    assert (step.stated, step.ledger, step.difference) == (Decimal("3.50"), Decimal(3), Decimal("0.50"))
    assert found.last == Decimal("-0.50")  # on the account's own side
    assert compare(world, bank, stated({1: "1.00"}, "NOBODY")).unknown == 1


def test_others_count_from_their_time_on(world: World) -> None:
    world.open("A", "B")
    bank = world.register(3)
    world.post(bank, entries("1.00", "2.00", "4.00"))
    world.post_one(Entry("before", amount="100.00", at=NOON))
    assert compare(world, bank, stated({1: "101.00", 2: "103.00", 3: "107.00"})).differing == 0
    world.post_one(Entry("between", amount="1000.00", at=NOON + timedelta(minutes=2, seconds=30)))
    world.post_one(Entry("after", amount="5.00", at=NOON + timedelta(minutes=4)))
    assert compare(world, bank, stated({1: "101.00", 2: "103.00", 3: "1107.00"})).differing == 0


def test_an_account_that_only_others_moved(world: World) -> None:
    world.open("A", "B", "C")
    bank = world.register(1)
    world.post(bank, entries("1.00"))
    world.post_one(Entry("other", debit="C", amount="9.00"))
    assert compare(world, bank, stated({1: "9.00"}, "C")).differing == 0


def test_the_first_steps_are_told_and_all_are_counted(world: World) -> None:
    world.open("A", "B")
    bank = world.register(9)
    world.post(bank, entries(*["1.00"] * 9))
    found = compare(world, bank, stated({row: str(2 * row) for row in range(1, 10)}))
    assert (found.differing, found.step_count, len(found.steps)) == (9, 9, 5)
    assert (found.smallest, found.largest, found.last) == (Decimal(1), Decimal(9), Decimal(9))
    assert [step.is_first for step in found.steps] == [True, False, False, False, False]
    assert {step.unposted for step in found.steps} == {None}
