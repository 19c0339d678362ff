"""A batch is posted exactly once: whatever fails, whoever tries again, however the rest is cut."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from backfill_pipeline.errors import LedgerError, TransientLedgerError
from backfill_pipeline.ledger import batches, checkpoints, entries, posting, registrations
from backfill_pipeline.ledger.batches import BatchOutcome, BatchPlan
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import Entry, World, as_rejects, many, numbered, table


@pytest.fixture
def bank(world: World) -> Registration:
    world.open("A", "B")
    world.open_ring(50)
    return world.register(1000, 1000)


class CommitsAndFails(psycopg.Connection[Any]):
    """A connection that is lost in the one moment that matters: the server has committed, the client does not know."""

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        outermost = self.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with super().transaction(*args, **kwargs) as transaction:
            yield transaction
        if outermost:
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")


class TestFailures:
    def test_commit_succeeded_but_client_saw_an_error__next_try_posts_nothing_twice(
        self, world: World, bank: Registration
    ) -> None:
        batch = many(500, 50)
        cut = CommitsAndFails.connect(world.url, autocommit=True)
        with pytest.raises(TransientLedgerError):
            world.post(bank, batch, connection=cut)
        outcome = world.post(bank, batch)
        assert outcome.already_recorded
        assert (outcome.posted, outcome.path) == (500, "copy")  # what the first try did
        assert world.count() == 500
        assert world.count("backfill_batches") == 1
        checkpoint = checkpoints.load(world.connection, "bank")
        assert checkpoint is not None
        assert checkpoint.processed == 500
        world.assert_balances_follow_entries()

    @pytest.mark.parametrize("staging", [False, True])
    def test_connection_killed_in_the_middle_of_copy__nothing_is_posted_and_the_next_try_posts_all(
        self, world: World, bank: Registration, monkeypatch: pytest.MonkeyPatch, staging: bool
    ) -> None:
        batch = many(900, 50)
        doomed = world.connect()
        encode = entries.encode_entries

        def encode_and_cut(rows: pa.Table, batch_id: int) -> Iterator[bytes]:
            for number, buffer in enumerate(encode(rows, batch_id)):
                if number == 1:
                    world.connection.execute("SELECT pg_terminate_backend(%s)", [doomed.info.backend_pid])
                yield buffer

        monkeypatch.setattr(entries, "encode_entries", encode_and_cut)
        with pytest.raises(TransientLedgerError):
            world.post(bank, batch, connection=doomed, staging=staging)
        monkeypatch.undo()
        assert world.count() == 0
        assert world.count("backfill_batches") == 0
        assert set(world.balances().values()) == {0}
        assert world.post(bank, batch, staging=staging).posted == 900
        world.assert_balances_follow_entries()

    def test_an_error_after_copy_takes_the_entries_back(self, world: World, bank: Registration) -> None:
        rows = table([Entry("r1"), Entry("r1", amount="2")])

        def broken(_: object) -> pa.Table:
            raise RuntimeError("no raw text to be had")

        with pytest.raises(RuntimeError):
            posting.post_batch(world.connection, world.plan(bank, rows), rows, PostingPolicy(), broken)
        assert world.count() == 0
        assert set(world.balances().values()) == {0}
        assert world.post(bank, rows).posted == 1

    def test_a_batch_that_the_server_cannot_read_posts_nothing(
        self, world: World, bank: Registration
    ) -> None:
        rows = table([Entry("r1"), Entry("r2", metadata="{not json")])
        with pytest.raises(
            LedgerError, match="cannot post a batch to the ledger: invalid input syntax for type json"
        ):
            world.post(bank, rows)
        assert world.count() == 0
        assert not world.connection.broken
        assert world.post(bank, [Entry("r1")]).posted == 1


class TestTwoAtOnce:
    def test_the_same_batch_from_two_processes_is_posted_once(self, world: World, bank: Registration) -> None:
        batch = many(900, 50)
        barrier = threading.Barrier(2)

        def post(connection: Connection) -> BatchOutcome:
            barrier.wait()
            return world.post(bank, batch, connection=connection)

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(post, [world.connect(), world.connect()]))
        assert sorted(outcome.already_recorded for outcome in outcomes) == [False, True]
        assert {outcome.posted for outcome in outcomes} == {900}
        assert world.count() == 900
        world.assert_balances_follow_entries()

    def test_a_reference_that_a_live_posting_takes_meanwhile_is_transient_and_then_told_apart(
        self, world: World, bank: Registration
    ) -> None:
        live = world.connect()
        rows = [Entry("r1"), Entry("r2"), Entry("r2", amount="1")]
        with ThreadPoolExecutor(1) as pool:
            with live.transaction():
                world.post_one(Entry("r1", amount="7"), live)  # not visible to the batch yet
                trying = pool.submit(world.post, bank, rows, connection=world.connect(), staging=True)
                wait_until_somebody_waits(world)
            with pytest.raises(TransientLedgerError, match="told apart anew"):
                trying.result(timeout=120)
        assert world.references() == {"r1"}
        outcome = world.post(bank, rows)
        assert (outcome.posted, outcome.conflicts) == (1, 2)
        world.assert_balances_follow_entries()

    def test_a_live_posting_of_the_same_entry_during_the_fast_path_is_a_duplicate(
        self, world: World, bank: Registration
    ) -> None:
        live = world.connect()
        with ThreadPoolExecutor(1) as pool:
            with live.transaction():
                world.post_one(Entry("r1"), live)
                trying = pool.submit(world.post, bank, [Entry("r0"), Entry("r1")], connection=world.connect())
                wait_until_somebody_waits(world)
            outcome = trying.result(timeout=120)
        assert (outcome.path, outcome.posted, outcome.duplicates) == ("staging", 1, 1)

    def test_an_account_that_is_opened_while_a_posting_waits_makes_it_try_again(
        self, world: World, bank: Registration
    ) -> None:
        holder = world.connect()
        rows = [Entry("r1"), Entry("r2", credit="NEW")]
        with ThreadPoolExecutor(1) as pool:
            with holder.transaction():
                holder.execute("UPDATE bank_accounts SET asset_type = 'fiat' WHERE id = 'A'")
                trying = pool.submit(world.post, bank, rows, connection=world.connect())
                wait_until_somebody_waits(world)
                world.open("NEW")
            with pytest.raises(TransientLedgerError, match="opened while they were posted"):
                trying.result(timeout=120)
        assert world.post(bank, rows).posted == 2


class TestResuming:
    def test_with_another_batch_size_goes_on_after_the_last_row(
        self, world: World, bank: Registration
    ) -> None:
        rows = many(1000, 50)
        for start in (0, 100, 200):
            world.post(bank, rows.slice(start, 100))
        assert batches.posted_ranges(world.connection, bank.partitions[0].id) == [
            (1, 100),
            (101, 200),
            (201, 300),
        ]
        for start in range(300, 1000, 350):
            assert world.post(bank, rows.slice(start, 350)).path == "copy"
        assert world.count() == 1000
        registrations.record_validated(
            world.connection, bank.partitions[0].id, rejected=0, filtered=0, valid_rows=1000
        )
        registrations.complete_partition(world.connection, bank, bank.partitions[0].id)

    def test_waits_for_a_batch_that_a_killed_run_is_still_committing(
        self, world: World, bank: Registration
    ) -> None:
        killed = world.connect()
        with ThreadPoolExecutor(1) as pool:
            with killed.transaction():
                world.post(bank, many(100, 50), connection=killed)
                asking = pool.submit(batches.posted_ranges, world.connect(), bank.partitions[0].id)
                wait_until_somebody_waits(world)
                assert not asking.done()
            assert asking.result(timeout=120) == [(1, 100)]

    @pytest.mark.parametrize(("start", "length"), [(0, 50), (50, 50), (0, 200), (50, 100), (20, 10)])
    def test_a_batch_that_was_cut_across_posted_rows_is_refused(
        self, world: World, bank: Registration, start: int, length: int
    ) -> None:
        rows = many(1000, 50)
        world.post(bank, rows.slice(0, 100))
        with pytest.raises(
            LedgerError, match=r"rows \d+ to \d+ of partition 0001 of bank overlap rows 1 to 100"
        ):
            world.post(bank, rows.slice(start, length))
        assert world.count() == 100
        assert world.post(bank, rows.slice(100, 100)).posted == 100

    def test_partitions_do_not_meet(self, world: World, bank: Registration) -> None:
        world.post(bank, many(100, 50), partition=0)
        world.post(bank, many(100, 50, prefix="N"), partition=1)
        assert world.count() == 200
        assert batches.posted_ranges(world.connection, bank.partitions[1].id) == [(1, 100)]

    def test_a_row_gap_left_by_rejects_is_no_obstacle(self, world: World, bank: Registration) -> None:
        world.post(bank, [Entry("r1", row=3), Entry("r2", row=9)])
        assert batches.posted_ranges(world.connection, bank.partitions[0].id) == [(3, 9)]
        world.post(bank, [Entry("r3", row=14)])
        assert world.count() == 3

    def test_nothing_posted_yet_is_no_range(self, world: World, bank: Registration) -> None:
        assert batches.posted_ranges(world.connection, bank.partitions[0].id) == []


class TestCheckpoint:
    def test_commits_with_the_batch_and_carries_on(self, world: World, bank: Registration) -> None:
        world.post(bank, numbered([Entry("r1"), Entry("r2")]))
        world.post(
            bank, numbered([Entry("r2"), Entry("r3"), Entry("r4", "A", "A"), Entry("r1", amount="1")], 3)
        )
        checkpoint = checkpoints.load(world.connection, "bank")
        assert checkpoint is not None
        assert (checkpoint.processed, checkpoint.successful, checkpoint.failed) == (6, 4, 2)
        assert (checkpoint.status, checkpoint.last_processed_id) == ("IN_PROGRESS", "r1")
        assert world.value("SELECT metadata FROM ledger_backfill_checkpoints")["last_row"] == 6

    def test_does_not_move_when_a_recorded_batch_is_asked_for_again(
        self, world: World, bank: Registration
    ) -> None:
        for _ in range(3):
            world.post(bank, [Entry("r1")])
        checkpoint = checkpoints.load(world.connection, "bank")
        assert checkpoint is not None
        assert checkpoint.processed == 1

    def test_the_longest_reference_fits(self, world: World, bank: Registration) -> None:
        world.post(bank, [Entry("é" * 255)])
        checkpoint = checkpoints.load(world.connection, "bank")
        assert checkpoint is not None
        assert checkpoint.last_processed_id == "é" * 255


class TestEquation:
    @pytest.fixture
    def partition(self, world: World, bank: Registration) -> int:
        world.post(bank, numbered([Entry("r1"), Entry("r1"), Entry("r1", amount="1"), Entry("r2", "A", "A")]))
        return bank.partitions[0].id

    def complete(
        self, world: World, bank: Registration, partition: int, *, rejected: int, filtered: int
    ) -> None:
        registrations.record_validated(
            world.connection, partition, rejected=rejected, filtered=filtered, valid_rows=4
        )
        registrations.complete_partition(world.connection, bank, partition)

    def test_holds_when_every_row_is_accounted_for(
        self, world: World, bank: Registration, partition: int
    ) -> None:
        self.complete(world, bank, partition, rejected=0, filtered=996)
        assert world.rows(
            "SELECT status, read, posted, duplicates, conflicts, rejected, filtered FROM backfill_partition_outcomes"
            " WHERE number = 1"
        ) == [("posted", 1000, 1, 1, 1, 1, 996)]

    def test_refuses_when_rows_are_missing(self, world: World, bank: Registration, partition: int) -> None:
        with pytest.raises(LedgerError, match="partition 0001 of bank does not add up: read 1000, posted 1"):
            self.complete(world, bank, partition, rejected=0, filtered=995)
        assert world.value("SELECT posted_at FROM backfill_partitions WHERE number = 1") is None

    def test_refuses_when_a_reject_was_counted_but_not_kept(
        self, world: World, bank: Registration, partition: int
    ) -> None:
        with pytest.raises(LedgerError, match="2 rejects kept"):
            self.complete(world, bank, partition, rejected=1, filtered=995)

    def test_refuses_when_a_kept_reject_was_lost(
        self, world: World, bank: Registration, partition: int
    ) -> None:
        world.connection.execute("DELETE FROM backfill_rejects WHERE source_row = 3")
        with pytest.raises(LedgerError, match="1 rejects kept"):
            self.complete(world, bank, partition, rejected=0, filtered=996)

    def test_refuses_a_partition_that_was_never_validated(
        self, world: World, bank: Registration, partition: int
    ) -> None:
        with pytest.raises(LedgerError, match="does not add up"):
            registrations.complete_partition(world.connection, bank, partition)

    def test_completing_twice_counts_once_also_at_the_same_time(
        self, world: World, bank: Registration, partition: int
    ) -> None:
        registrations.record_validated(world.connection, partition, rejected=0, filtered=996, valid_rows=4)
        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(
                    lambda connection: registrations.complete_partition(connection, bank, partition),
                    [world.connect(), world.connect()],
                )
            )
        checkpoint = checkpoints.load(world.connection, "bank")
        assert checkpoint is not None
        assert checkpoint.processed == 1000

    def test_the_database_keeps_no_batch_that_does_not_add_up(self, world: World, partition: int) -> None:
        with pytest.raises(psycopg.errors.CheckViolation, match="nothing_lost"):
            world.connection.execute("UPDATE backfill_batches SET posted = posted + 1")

    def test_the_source_is_completed_with_its_last_partition(self, world: World) -> None:
        bank = world.register(1, 1, source_id="small")
        for number, partition in enumerate(bank.partitions):
            world.post(bank, [Entry(f"s{number}", row=number + 1)], partition=number)
            registrations.record_validated(
                world.connection, partition.id, rejected=0, filtered=0, valid_rows=1
            )
            assert checkpoint_status(world) == "IN_PROGRESS"
            registrations.complete_partition(world.connection, bank, partition.id)
        assert checkpoint_status(world) == "COMPLETED"
        loaded = registrations.load(world.connection, "small")
        assert loaded is not None
        assert loaded.completed_at is not None


def checkpoint_status(world: World) -> str:
    checkpoint = checkpoints.load(world.connection, "small")
    assert checkpoint is not None
    return checkpoint.status


def wait_until_somebody_waits(world: World) -> None:
    """Until a session of this ledger waits for a lock."""
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def test_a_batch_plan_names_what_it_posts(world: World, bank: Registration) -> None:
    rows = table([Entry("r1")])
    plan = world.plan(bank, rows)
    assert plan == BatchPlan("bank", "CSV", bank.partitions[0].id, "0001", 1, 1, "run-1")
    posting.post_batch(world.connection, plan, rows, PostingPolicy(), as_rejects)
    assert world.rows("SELECT source_id, kind, run_id, seconds > 0 FROM backfill_batches") == [
        ("bank", "entries", "run-1", True)
    ]
