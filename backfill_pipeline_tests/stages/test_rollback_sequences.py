"""Whatever is posted, rolled back, interrupted and posted again, in whatever order: one more run makes the same ledger."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.errors import BackfillError
from backfill_pipeline.stages.gaps import batches, uncovered
from backfill_pipeline_tests.ledger.world import many
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import World, entries, entry

# What stands in the ledger, under the references of the source: neither reversed nor reversing.
_STANDING = """
    SELECT ledger_id, ledger_base_reference(ledger_id, reference_id), debit_account_id, credit_account_id, amount::text,
           currency_code, asset_type, transaction_type, timestamp_utc, fx_rate::text, metadata::text, source_row
    FROM ledger_entries e
    WHERE NOT EXISTS (SELECT FROM ledger_reversals r WHERE e.id IN (r.entry_id, r.reversal_entry_id))
    ORDER BY 1, 2
"""
_BOOKS = """
    SELECT partition_key, status, read, posted, duplicates, conflicts, rejected, filtered, rejects_recorded
    FROM backfill_partition_outcomes ORDER BY number
"""
_CHECKPOINT = (
    "SELECT status, total_processed, total_successful, total_failed FROM ledger_backfill_checkpoints"
)
_BALANCES = "SELECT id, trim_scale(balance)::text FROM bank_accounts ORDER BY id"
_LOST = "SELECT * FROM backfill_batches WHERE read <> posted + duplicates + conflicts + rejected + filtered"


def books(world: World) -> list[list[tuple[object, ...]]]:
    """Everything that must be as it was."""
    return [world.query(query) for query in (_STANDING, _BOOKS, _CHECKPOINT, _BALANCES)]


@contextmanager
def interrupted(world: World, after_s: float) -> Iterator[None]:
    """Ends every session on this ledger after a while, as a killed process and a lost connection do."""
    done = threading.Event()

    def end_them() -> None:
        done.wait(after_s)
        with psycopg.connect(world.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    thread = threading.Thread(target=end_them)
    thread.start()
    try:
        with suppress(BackfillError, psycopg.Error):
            yield
    finally:
        done.set()
        thread.join()


class Sequence:
    """Random steps on one source."""

    def __init__(self, world: World, path: Path, seed: int) -> None:
        self.world, self.path, self.random = world, path, random.Random(seed)
        self.told: list[str] = []

    def step(self) -> None:
        chosen: Callable[[], None] = self.random.choice(
            [
                self.run,
                self.run_some,
                self.run_interrupted,
                self.roll_back,
                self.roll_back,
                self.roll_back_interrupted,
            ]
        )
        self.told.append(chosen.__name__)
        chosen()
        assert self.world.query(_LOST) == [], self.told

    def run(self) -> None:
        self.world.post(self.path, batch_size=self.random.choice(["2", "5", "50"]))

    def run_some(self) -> None:
        self.world.post(self.path, keys=self.random.sample(["0001", "0002", "0003"], 2))

    def run_interrupted(self) -> None:
        with interrupted(self.world, self.random.uniform(0, 0.4)):
            self.world.run(self.path, batch_size="2", max_retries="0")

    def roll_back(self) -> None:
        scope = self.random.choice(["source", "partition", "batch"])
        mode = self.random.choice(["delete", "reverse"])
        if scope == "source":
            roll_back(self.world, "bank", mode=mode)
        elif scope == "partition":
            roll_back(self.world, "bank", partition=self.random.choice(["0001", "0002", "0003"]), mode=mode)
        elif recorded := self.world.query("SELECT id FROM backfill_batches WHERE kind <> 'reversal'"):
            roll_back(self.world, "bank", batch=int(str(self.random.choice(recorded)[0])), mode=mode)

    def roll_back_interrupted(self) -> None:
        with interrupted(self.world, self.random.uniform(0, 0.1)):
            self.roll_back()


def check_sequence(world: World, seed: int, steps: int) -> None:
    rows = entries(30)
    rows[3] = entry(4, amount="1e3")
    rows[12] = entry(13, debit="NOBODY")
    rows[15] = entry(16, ref="R000015", amount="99.00")
    rows[16] = rows[14]
    path = world.write(
        "bank", rows, accounts={"A": 0, "B": 1000}, max_error_rate="1", config={"batch_size": "4"}
    )
    world.post(path)
    expected = books(world)
    sequence = Sequence(world, path, seed)
    for _ in range(steps):
        sequence.step()
    world.post(path)
    assert books(world) == expected, sequence.told
    report = world.reconcile(path)
    assert report.matches, (sequence.told, report.breaks)
    before = world.value("SELECT count(*) FROM ledger_entries")
    world.post(path)
    assert world.value("SELECT count(*) FROM ledger_entries") == before, sequence.told


@pytest.mark.parametrize("seed", range(2))
def test_a_sequence_ends_in_the_same_ledger(world: World, seed: int) -> None:
    check_sequence(world, seed, 8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_long_sequences_end_in_the_same_ledger(world: World, seed: int) -> None:
    check_sequence(world, seed, 25)


@pytest.mark.parametrize("seed", range(20))
def test_gaps_are_covered_exactly_once(seed: int) -> None:
    """Any batches that are left, and any new batch size: together they cover every row, none twice, in order."""
    chance = random.Random(seed)
    rows = many(chance.randint(1, 60), 5)
    bounds, start = [], 0
    while start < rows.num_rows:
        stop = min(rows.num_rows, start + chance.randint(1, 9))
        bounds.append((start + 1, stop))
        start = stop
    posted = [one for one in bounds if chance.random() < 0.5]
    left = uncovered(rows, posted)
    new = []
    for begin, end in batches(left, posted, chance.randint(1, 12), None):
        numbers = left.column("source_row").to_pylist()[begin:end]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        new.append((numbers[0], numbers[-1]))
    covered = [row for first, last in sorted([*posted, *new]) for row in range(first, last + 1)]
    assert covered == list(range(1, rows.num_rows + 1))
