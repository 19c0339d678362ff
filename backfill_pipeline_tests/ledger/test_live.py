"""Looks at work as it happens: what is running, what failed last, and a ledger that goes away and comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.errors import TransientLedgerError
from backfill_pipeline.ledger.connection import Connection, source_lock
from backfill_pipeline.ledger.monitoring import sources
from backfill_pipeline.ledger.monitoring.live import FAILURES_MAX, LiveLook, Looker
from backfill_pipeline.ledger.monitoring.moment import one_moment
from backfill_pipeline.ledger.monitoring.snapshot import Unavailable
from backfill_pipeline.ledger.monitoring.standings import standings
from backfill_pipeline.ledger.rolled_back import all_open_rollbacks
from backfill_pipeline_tests.ledger.test_sync_status import days, fail, finish
from backfill_pipeline_tests.ledger.world import Entry
from backfill_pipeline_tests.ledger.world import World as LedgerWorld
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import World, entries, entry


@pytest.fixture
def backfills(ledger_url: str, tmp_path: Path) -> World:
    return World(ledger_url, tmp_path)


def seen(looker: Looker) -> LiveLook:
    found = looker.look()
    assert isinstance(found, LiveLook), found
    return found


def test_what_runs_is_known_by_its_lock_and_counts_the_rows_since_it_took_that(world: LedgerWorld) -> None:
    looker = Looker(world.url)
    world.open("A", "B")
    registration = world.register(2, 2)
    world.post(registration, [Entry("1", row=1), Entry("2", row=2)])
    assert seen(looker).running == []
    with source_lock(world.url, "bank"):
        [run] = seen(looker).running
        assert (run.source, run.part, run.rows) == ("bank", None, 0)
        assert run.since is not None
        assert run.since <= seen(looker).taken_at
        world.post(registration, [Entry("3", row=3), Entry("4", row=4)], partition=1)
        [run] = seen(looker).running
        assert run.rows == 2
    assert seen(looker).running == []
    looker.close()


def test_a_day_that_is_being_written_is_told_with_its_bank(world: LedgerWorld) -> None:
    looker = Looker(world.url)
    for day in ("2024-03-01", "2024-03-02"):
        world.register(2, source_id=f"scb_01@{day}")
    with source_lock(world.url, "scb_01@2024-03-02"):
        [run] = seen(looker).running
    assert (run.source, run.part) == ("scb_01", "2024-03-02")
    looker.close()


def test_the_newest_failures_are_told_and_all_are_counted(backfills: World, connection: Connection) -> None:
    old = backfills.write("old", [entry(number, amount="x") for number in range(1, 41)], max_error_rate="0")
    backfills.run(old)
    rows = [*entries(10, first=50), *[entry(number, amount="x") for number in range(60, 70)]]
    new = backfills.write("new", rows, max_error_rate="0")
    backfills.run(new)
    backfills.query(
        "UPDATE ledger_backfill_checkpoints SET last_checkpoint_at = last_checkpoint_at - interval '1 day'"
        " WHERE source_id = 'old'"
    )
    looker = Looker(backfills.url)
    found = seen(looker)
    assert (found.failed, len(found.failures)) == (5, FAILURES_MAX)
    assert [(one.source, one.part) for one in found.failures] == [
        ("new", "0002"),
        *[("old", f"000{number}") for number in (4, 3, 2, 1)],
    ]
    assert "max_error_rate" in found.failures[0].error
    [first, *_] = days(3)
    finish(connection, first)
    assert seen(looker).failed == 5
    fail(connection, first, error="the bank is away")
    found = seen(looker)
    assert (found.failed, found.failures[0].part, found.failures[0].error) == (
        6,
        "2024-03-03",
        "the bank is away",
    )
    looker.close()


def test_it_needs_to_read_only(backfills: World, connection: Connection) -> None:
    backfills.post(backfills.write("bank", entries(5)))
    connection.execute("DROP ROLE IF EXISTS only_watcher")
    connection.execute("CREATE ROLE only_watcher")
    connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO only_watcher")
    separator = "&" if "?" in backfills.url else "?"
    looker = Looker(f"{backfills.url}{separator}options=-c%20role%3Donly_watcher")
    try:
        with source_lock(backfills.url, "bank"):
            found = seen(looker)
        assert [(one.source, one.rows) for one in found.source_rows] == [("bank", 5)]
        assert [one.source for one in found.running] == ["bank"]
        assert abs(found.taken_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert found.size_bytes > 0
    finally:
        looker.close()
        connection.execute("DROP OWNED BY only_watcher")
        connection.execute("DROP ROLE only_watcher")


def test_a_server_that_ends_the_connection_is_said_and_found_again(
    ledger_url: str, connection: Connection
) -> None:
    looker = Looker(ledger_url)
    seen(looker)
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backfill watch'"
        " AND datname = current_database()"
    )
    found = looker.look()
    assert isinstance(found, Unavailable)
    assert found.reason == "unreachable"
    seen(looker)
    looker.close()


def test_a_look_that_somebody_keeps_waiting_is_given_up(ledger_url: str, connection: Connection) -> None:
    looker = Looker(ledger_url)
    seen(looker)
    with psycopg.connect(ledger_url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("LOCK TABLE backfill_partitions IN ACCESS EXCLUSIVE MODE")
        found = thread.submit(looker.look).result(timeout=60)
    assert isinstance(found, Unavailable)
    assert found.reason == "timeout"
    seen(looker)
    looker.close()


def test_a_look_that_was_stopped_half_way_keeps_nobody_from_the_tables(
    ledger_url: str, connection: Connection
) -> None:
    with pytest.raises(TransientLedgerError), one_moment(connection, idle_timeout_s=0.1):
        connection.execute("SELECT count(*) FROM bank_accounts")
        with psycopg.connect(ledger_url) as other:
            other.execute(
                "LOCK TABLE bank_accounts IN ACCESS EXCLUSIVE MODE"
            )  # waits until nobody reads them
        connection.execute("SELECT 1")


def test_a_ledger_of_another_release_is_said_until_it_is_migrated(server: Server) -> None:
    with server.empty_database() as url:
        looker = Looker(url)
        found = looker.look()
    assert isinstance(found, Unavailable)
    assert (found.reason, "backfill db migrate" in found.sentence) == ("schema", True)


def test_no_password_is_told_when_nothing_answers() -> None:
    found = Looker("postgresql://reader:geheim@127.0.0.1:1/ledger").look()
    assert isinstance(found, Unavailable)
    assert found.reason == "unreachable"
    assert "geheim" not in found.sentence


def test_two_thousand_partitions_are_not_asked_for_one_by_one(world: LedgerWorld) -> None:
    """By the server's own count of the scans that a look, and `backfill status`, begin: a few for each query."""
    connection = world.connection
    for name in ("one", "two", "three"):
        world.register(*[10] * 2_000, source_id=name)
    connection.execute("SET session_replication_role = replica")
    connection.execute(
        "INSERT INTO backfill_batches (partition_id, source_id, kind, first_row, last_row, read, posted, duplicates,"
        " conflicts, rejected, run_id, path, started_at, seconds)"
        " SELECT p.id, r.source_id, 'entries', p.first_row, p.first_row + 9, 10, 7, 0, 0, 3, 'run', 'copy', now(), 1"
        " FROM backfill_partitions p JOIN backfill_registrations r ON r.id = p.registration_id"
    )
    connection.execute(
        "INSERT INTO backfill_rejects (partition_id, source_row, source_line, byte_offset, stage, code, reason, raw)"
        " SELECT id, first_row + n, 1, 1, 'post', 'code_' || n, 'x', 'y'"
        " FROM backfill_partitions, generate_series(0, 2) AS n"
    )
    connection.execute(
        "INSERT INTO backfill_rollbacks (source_id, mode, plan_hash, plan, actor, proof)"
        " VALUES ('two', 'delete', 'h', '{}', 'anna', '{}')"
    )
    connection.execute(
        "UPDATE backfill_partitions SET rolled_back_at = now() + interval '1 h',"
        " rollback_id = (SELECT max(id) FROM backfill_rollbacks)"
        " WHERE number % 2 = 0"
    )
    connection.execute("ANALYZE")
    scans = "SELECT sum(seq_scan + coalesce(idx_scan, 0)) FROM pg_stat_xact_user_tables WHERE relname LIKE 'backfill%'"
    with one_moment(connection):
        before = world.value(scans)
        found, _ = standings(connection)
        assert [len(one.states) for one in found] == [2, 2, 2]
        assert len(all_open_rollbacks(connection)) == 3
        for query in (sources.source_rows, sources.source_progress, sources.open_rejects):
            assert len(query(connection)) > 0
        begun = world.value(scans) - before
    assert 0 < begun < 200
