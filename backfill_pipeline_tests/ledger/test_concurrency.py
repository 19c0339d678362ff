"""Hot accounts under many writers: nobody deadlocks, no update is lost."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from backfill_pipeline.errors import TransientLedgerError
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import Entry, World, numbered

HOT = [f"hot{number}" for number in range(8)]


@pytest.fixture
def banks(world: World) -> list[Registration]:
    world.open(*HOT[:6])
    world.open(HOT[6], currency="EUR")
    world.open(HOT[7], normal_side="credit")
    return [world.register(source_id=f"bank{number}") for number in range(4)]


def shuffled(seed: int, count: int, prefix: str, accounts: list[str]) -> list[Entry]:
    """Entries among the same few accounts, in an order of their own."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        debit, credit = chance.sample(accounts, 2)
        rows.append(Entry(f"{prefix}-{number}", debit, credit, f"{chance.randint(1, 99)}.01", fx_rate="1.1"))
    return [row if row.debit != HOT[6] else replace(row, currency="USD") for row in rows]


def together(tasks: list[Callable[[], object]]) -> None:
    """Runs all tasks at the same moment; a deadlock, like any other error, fails the test."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> object:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        for done in [pool.submit(run, task) for task in tasks]:
            done.result(timeout=120)


def test_batches_and_single_postings_on_the_same_accounts_in_opposite_orders(
    world: World, banks: list[Registration]
) -> None:
    def bulk(bank: Registration, number: int, *, staging: bool) -> None:
        with world.connect() as connection:
            for batch in range(12):
                rows = shuffled(number * 100 + batch, 60, f"b{number}-{batch}", HOT)
                if number % 2:
                    rows.reverse()
                rows = numbered(rows, batch * 60 + 1)
                assert world.post(bank, rows, connection=connection, staging=staging).posted == 60

    def singles(number: int) -> None:
        with world.connect() as connection:
            for row in shuffled(number, 150, f"s{number}", HOT):
                world.post_one(row, connection)

    together(
        [
            lambda: bulk(banks[0], 0, staging=False),
            lambda: bulk(banks[1], 1, staging=False),
            lambda: bulk(banks[2], 2, staging=True),
            lambda: singles(10),
            lambda: singles(11),
        ]
    )
    assert world.count() == 3 * 12 * 60 + 300
    assert world.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    world.assert_balances_follow_entries()


def test_batches_that_refuse_rows_for_their_balance_do_not_deadlock(
    world: World, banks: list[Registration]
) -> None:
    world.open("fund", normal_side="credit")
    for account in HOT[:6]:
        world.post_one(Entry(f"fund {account}", account, "fund", "500.00"))
    constraints.apply(world.connection)

    def bulk(bank: Registration, number: int) -> None:
        with world.connect() as connection:
            for batch in range(8):
                rows = shuffled(number * 100 + batch, 40, f"b{number}-{batch}", HOT[:6])
                outcome = world.post(bank, numbered(rows, batch * 40 + 1), connection=connection)
                assert outcome.read == 40

    together([lambda: bulk(banks[0], 1), lambda: bulk(banks[1], 2), lambda: bulk(banks[2], 3)])
    assert world.value("SELECT sum(rejected) FROM backfill_batches") > 0
    assert world.value("SELECT min(available_balance) FROM bank_accounts") >= 0
    world.assert_balances_follow_entries()


def test_batches_that_open_the_same_accounts_do_not_deadlock(world: World, banks: list[Registration]) -> None:
    policy = PostingPolicy(create_unknown_accounts=True)

    def bulk(bank: Registration, number: int) -> None:
        with world.connect() as connection:
            for batch in range(6):
                accounts = [f"new{batch}-{n}" for n in range(10)] + HOT[:3]
                rows = numbered(shuffled(number + batch, 40, f"b{number}-{batch}", accounts), batch * 40 + 1)
                while True:
                    try:
                        outcome = world.post(bank, rows, connection=connection, policy=policy)
                    except TransientLedgerError as error:
                        assert "deadlock" not in str(error)
                        continue
                    break
                assert outcome.posted == 40

    together([lambda: bulk(banks[0], 1), lambda: bulk(banks[1], 2), lambda: bulk(banks[2], 3)])
    assert world.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    world.assert_balances_follow_entries()


def test_posting_and_deleting_at_once_loses_nothing(world: World, banks: list[Registration]) -> None:
    for row in shuffled(1, 200, "old", HOT):
        world.post_one(row)

    def delete(connection: Connection) -> None:
        for digit in range(10):
            connection.execute("DELETE FROM ledger_entries WHERE reference_id LIKE %s", [f"old-%{digit}"])

    together(
        [
            lambda: delete(world.connect()),
            lambda: world.post(banks[0], shuffled(2, 500, "new", HOT), connection=world.connect()),
        ]
    )
    assert world.count() == 500
    world.assert_balances_follow_entries()


def test_a_waiting_posting_adds_to_what_the_other_left(world: World, banks: list[Registration]) -> None:
    """READ COMMITTED: the update starts from the row as it is when its turn comes, not as it was when it began to wait."""
    first = world.connect()
    with ThreadPoolExecutor(2) as pool:
        with first.transaction():
            world.post_one(Entry("r1", HOT[0], HOT[1], "1"), first)
            waiting: list[Future[Any]] = [
                pool.submit(world.post_one, Entry("r2", HOT[1], HOT[0], "10"), world.connect()),
                pool.submit(
                    world.post, banks[0], [Entry("r3", HOT[0], HOT[2], "100")], connection=world.connect()
                ),
            ]
        for one in waiting:
            one.result(timeout=120)
    assert world.balance(HOT[0]) == Decimal(91)
    world.assert_balances_follow_entries()
