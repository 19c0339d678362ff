"""What monitoring is told is what the tables say; what only grows never shrinks; and a look is whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.ledger import constraints, seals
from backfill_pipeline.ledger.banks import bank_days, bank_progress, outbox, sync_status
from backfill_pipeline.ledger.connection import Connection, source_lock
from backfill_pipeline.ledger.monitoring import banks, controls, snapshot, sources, work
from backfill_pipeline.ledger.monitoring.moment import one_moment
from backfill_pipeline.ledger.monitoring.snapshot import Snapshot, Unavailable, look
from backfill_pipeline.ledger.monitoring.standings import standings
from backfill_pipeline_tests.ledger.standings import assert_standings_as_asked_one_by_one
from backfill_pipeline_tests.ledger.test_sync_status import begin, fail, finish
from backfill_pipeline_tests.ledger.world import Entry
from backfill_pipeline_tests.ledger.world import World as LedgerWorld
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.repair import fix
from backfill_pipeline_tests.stages.rolling_back import roll_back
from backfill_pipeline_tests.stages.world import World, entries, entry

NOBODY = "NO-SUCH-ACCOUNT"
OUTCOMES = ("posted", "duplicates", "conflicts", "rejected", "filtered")


@pytest.fixture
def backfills(ledger_url: str, tmp_path: Path) -> World:
    return World(ledger_url, tmp_path)


def rows_of_all_kinds() -> list[list[object]]:
    """25 in three partitions: a duplicate, a conflict, two rejects before posting and one while it, a filtered one."""
    rows = entries(25)
    rows[4] = entry(1)
    rows[6] = entry(2, amount="99.00")
    rows[8] = entry(9, amount="x")
    rows[12] = entry(13, debit=NOBODY)
    rows[20] = entry(21, time="never")
    rows[22] = entry(23, note="pending")
    return rows


def write_bank(world: World) -> Path:
    rules = [{"when": {"note": "pending"}, "filter": "pending"}]
    return world.write("bank", rows_of_all_kinds(), rules=rules, max_error_rate="1")


def as_the_view_says(connection: Connection) -> dict[str, tuple[int, ...]]:
    """State → partitions, rows, and what became of the rows of those that are posted."""
    found: dict[str, Counter[str]] = {}
    for state, *counts in connection.execute(
        "SELECT status, read, posted, duplicates, conflicts, rejected, filtered FROM backfill_partition_outcomes o"
        " WHERE registration_id = (SELECT max(id) FROM backfill_registrations WHERE source_id = o.source_id)"
    ):
        one = found.setdefault(state, Counter())
        one.update({"partitions": 1, "read": counts[0]})
        if state == "posted":
            one.update(dict(zip(OUTCOMES, counts[1:], strict=True)))
    return {
        state: tuple(one[name] for name in ("partitions", "read", *OUTCOMES)) for state, one in found.items()
    }


def as_monitored(connection: Connection) -> dict[str, tuple[int, ...]]:
    return {
        one.state: (
            one.partitions,
            one.rows,
            *((getattr(one, name) if one.state == "posted" else 0) for name in OUTCOMES),
        )
        for one in sources.source_rows(connection)
    }


def assert_as_counted_elsewhere(connection: Connection) -> None:
    assert as_monitored(connection) == as_the_view_says(connection)
    assert [one.unaccounted for one in sources.source_rows(connection) if one.unaccounted] == []
    open_rejects = connection.execute(
        "SELECT x.stage, x.code, count(*) FROM backfill_rejects_now x JOIN backfill_partitions p ON p.id = x.partition_id"
        " WHERE x.state = 'open' AND p.registration_id = (SELECT max(id) FROM backfill_registrations)"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    ).fetchall()
    assert [(one.stage, one.code, one.rows) for one in sources.open_rejects(connection)] == open_rejects
    assert_standings_as_asked_one_by_one(connection)


def ever(connection: Connection) -> dict[tuple[str, ...], float]:
    """Everything that may only grow, by what it is."""
    grown: dict[tuple[str, ...], float] = {}
    for one in work.batch_work(connection):
        grown[one.source, one.kind, "batches"] = one.batches
        grown[one.source, one.kind, "seconds"] = one.seconds
        for outcome, rows in zip(work.OUTCOMES, one.rows, strict=True):
            grown[one.source, one.kind, outcome] = rows
        for bound, batches in zip(work.BATCH_BOUNDS_S, one.within, strict=True):
            grown[one.source, one.kind, f"within {bound}"] = batches
    for saved in work.checkpoint_work(connection):
        grown[saved.source, "checkpoints", "count"] = saved.checkpoints
        grown[saved.source, "checkpoints", "seconds"] = saved.seconds
        for bound, checkpoints in zip(work.CHECKPOINT_BOUNDS_S, saved.within, strict=True):
            grown[saved.source, "checkpoints", f"within {bound}"] = checkpoints
    for taken in work.rolled_back(connection):
        grown[taken.source, taken.mode, "rollbacks"] = taken.rollbacks
        grown[taken.source, taken.mode, "taken back"] = taken.entries
    for sealed in controls.seal_counts(connection):
        grown[sealed.ledger, sealed.kind, "seals"] = sealed.seals
    return grown


def test_through_the_life_of_a_source_counts_are_those_of_the_tables_and_counters_only_grow(
    backfills: World, connection: Connection
) -> None:
    path = write_bank(backfills)
    before: dict[tuple[str, ...], float] = {}

    def settled() -> dict[tuple[str, ...], float]:
        nonlocal before
        now = ever(connection)
        assert {key: (before[key], now.get(key)) for key in before if now.get(key, 0) < before[key]} == {}
        assert_as_counted_elsewhere(connection)
        before = now
        return now

    backfills.register(path)
    settled()
    backfills.run(path, selected=("extracted", "transformed", "validated"), register=False)
    assert as_monitored(connection)["validated"] == (3, 25, 0, 0, 0, 0, 0)
    settled()
    backfills.post(path)
    first = settled()
    assert as_monitored(connection) == {"posted": (3, 25, 19, 1, 1, 3, 1)}
    backfills.reconcile(path)
    fix(backfills, path, {9: {"amount": "1.00", "time": "never"}, 21: {"time": "2024-01-01T00:00:00Z"}})
    settled()  # one is rejected for another reason, the other is repaired
    fix(backfills, path, {9: {"amount": "1.00", "time": "2024-01-01T00:00:00Z"}})
    assert settled()["bank", "replay", "posted"] == 2
    roll_back(backfills, "bank", partition="0002")
    assert as_monitored(connection)["rolled back"] == (1, 10, 0, 0, 0, 0, 0)
    after = settled()
    assert after["bank", "entries", "posted"] == first["bank", "entries", "posted"]
    assert after["bank", "delete", "taken back"] == 9
    backfills.post(path)
    assert settled()["bank", "entries", "posted"] == first["bank", "entries", "posted"] + 9
    roll_back(backfills, "bank", partition="0001", mode="reverse", at="original")
    backfills.post(path)
    assert settled()["bank", "reversal", "posted"] > 0
    # A new revision begins at nothing; the work of the one before stays done.
    backfills.write_rows("bank", [*rows_of_all_kinds(), *entries(5, first=90)][1:])
    backfills.register(path, accept_changed=True)
    assert set(as_monitored(connection)) == {"registered"}
    settled()
    backfills.run(path, accept_changed=True)
    settled()


def test_a_partition_that_failed_shows_with_the_rows_that_its_batches_decided(
    backfills: World, connection: Connection
) -> None:
    rows = entries(20)
    rows[15] = entry(16, amount="x")
    path = backfills.write("bank", rows, max_error_rate="0")
    backfills.run(path)
    found = {one.state: one for one in sources.source_rows(connection)}
    assert (found["posted"].partitions, found["posted"].processed) == (1, 10)
    assert (found["failed"].partitions, found["failed"].rows, found["failed"].processed) == (1, 10, 0)
    assert_standings_as_asked_one_by_one(connection)
    with one_moment(connection):
        [one] = standings(connection)[0]
    assert list(one.failures) == ["0002"]


@pytest.mark.parametrize(
    ("change", "unaccounted"),
    [
        ("DELETE FROM backfill_rejects WHERE source_row = 9", 1),
        ("UPDATE backfill_partitions SET row_count = row_count + 2 WHERE number = 1", 2),
        ("UPDATE backfill_partitions SET row_count = row_count - 2 WHERE number = 1", 2),
        ("UPDATE backfill_partitions SET filtered = 0", 1),
        # One too many and one too few do not make up for each other.
        ("UPDATE backfill_partitions SET row_count = row_count + CASE number WHEN 1 THEN 1 ELSE -1 END", 3),
    ],
)
def test_a_row_that_is_lost_shows(
    backfills: World, connection: Connection, change: str, unaccounted: int
) -> None:
    backfills.post(write_bank(backfills))
    assert backfills.tamper(change) > 0
    assert sum(one.unaccounted for one in sources.source_rows(connection)) == unaccounted


def test_a_checkpoint_stalls_when_it_is_in_progress_and_an_hour_old(
    backfills: World, connection: Connection
) -> None:
    backfills.post(backfills.write("done", entries(5)))
    backfills.register(backfills.write("halfway", entries(5, first=10)))
    aged = "UPDATE ledger_backfill_checkpoints SET last_checkpoint_at = timezone('UTC', now()) - %s::interval"

    def stalled() -> dict[str, int]:
        return {one.source: one.stalled for one in sources.source_progress(connection)}

    backfills.query(
        f"{aged}, status = CASE source_id WHEN 'done' THEN 'COMPLETED' ELSE status END", "59 minutes"
    )
    assert stalled() == {"done": 0, "halfway": 0}
    backfills.query(aged, "61 minutes")
    assert stalled() == {"done": 0, "halfway": 1}
    # The strategy's own query, but that its times are UTC.
    assert backfills.query(
        "SELECT source_id FROM ledger_backfill_checkpoints WHERE status = 'IN_PROGRESS'"
        " AND last_checkpoint_at < timezone('UTC', now()) - INTERVAL '1 hour'"
    ) == [("halfway",)]


def test_progress_is_that_of_the_current_revision(backfills: World, connection: Connection) -> None:
    path = backfills.write("bank", entries(5))
    backfills.register(path)
    with source_lock(backfills.url, "bank"):
        [found] = sources.source_progress(connection)
        assert (found.source_type, found.revision, found.writers) == ("CSV", 1, 1)
    assert dict(zip(sources.CHECKPOINT_STATUSES, found.statuses, strict=True))["IN_PROGRESS"] == 1
    assert (list(found.verdicts), found.reconciled_at) == ([0, 0, 1], None)
    backfills.post(path)
    backfills.reconcile(path)
    [found] = sources.source_progress(connection)
    assert (list(found.verdicts), found.writers) == ([1, 0, 0], 0)
    assert found.reconciled_at is not None
    assert 0 < found.elapsed_s < 300
    [run] = work.last_runs(connection)
    assert (run.rows, run.entries, run.seconds > 0) == (5, 5, True)
    backfills.write_rows("bank", entries(6))
    backfills.register(path, accept_changed=True)
    [found] = sources.source_progress(connection)
    assert (found.revision, list(found.verdicts)) in ((1, [1, 0, 0]), (2, [0, 0, 1]))


def test_checkpoints_that_were_timed_are_counted_by_their_time_also_when_they_were_rolled_back(
    world: LedgerWorld,
) -> None:
    connection = world.connection
    world.open("A", "B")
    world.post(world.register(2), [Entry("1", row=1), Entry("2", row=2)])
    connection.execute("UPDATE backfill_batches SET checkpoint_seconds = NULL")
    assert work.checkpoint_work(connection) == []
    connection.execute("UPDATE backfill_batches SET checkpoint_seconds = 0.0025")
    connection.execute("SET session_replication_role = replica")  # of no rollback, for once
    columns = (
        "source_id, kind, first_row, last_row, read, posted, duplicates, conflicts, rejected, run_id, path, started_at,"
        " posted_at, seconds, filtered, taken_rejected, taken_conflicts, origin"
    )
    connection.execute(
        f"INSERT INTO backfill_rolled_back_batches (id, rollback_id, checkpoint_seconds, {columns})"
        f" SELECT -1, 1, 0.2, {columns} FROM backfill_batches"
    )
    [found] = work.checkpoint_work(connection)
    assert (found.source, found.checkpoints, found.seconds) == ("bank", 2, 0.2025)
    within = dict(zip(work.CHECKPOINT_BOUNDS_S, found.within, strict=True))
    assert (within[0.001], within[0.0025], within[0.1], within[0.25]) == (0, 1, 1, 2)


def test_breaks_are_told_by_kind_until_what_they_are_about_is_taken_back(
    backfills: World, connection: Connection
) -> None:
    path = backfills.write("bank", entries(5))
    backfills.post(path)
    backfills.reconcile(path)
    assert sources.reconciliation_breaks(connection) == []
    backfills.tamper("UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id = 'R000001'")
    report = backfills.reconcile(path)
    found = {one.kind: one.breaks for one in sources.reconciliation_breaks(connection)}
    assert {kind: breaks for kind, breaks in found.items() if kind != sources.BALANCES} == dict(
        report.break_kinds
    )
    assert found[sources.BALANCES] == report.account_break_count + len(report.currency_breaks) > 0
    [progress] = sources.source_progress(connection)
    assert list(progress.verdicts) == [0, 1, 0]
    backfills.tamper("UPDATE ledger_entries SET amount = amount - 1 WHERE reference_id = 'R000001'")
    roll_back(backfills, "bank")
    assert sources.reconciliation_breaks(connection) == []
    assert list(sources.source_progress(connection)[0].verdicts) == [0, 0, 1]


def test_days_of_a_bank_are_one_source_and_neighbours_in_name_are_not(world: LedgerWorld) -> None:
    world.open("A", "B")
    for number, name in enumerate(("scb_01@2024-03-01", "scb_01@2024-03-02", "scb_01", "scb_011@2024-03-01")):
        world.post(
            world.register(2, source_id=name), [Entry(f"{number}-1", row=1), Entry(f"{number}-2", row=2)]
        )
    assert {(one.source, one.rows) for one in sources.source_rows(world.connection)} == {
        ("scb_01", 6),
        ("scb_011", 2),
    }
    assert {one.source: one.batches for one in work.batch_work(world.connection)} == {
        "scb_01": 3,
        "scb_011": 1,
    }
    assert {one.source: sum(one.statuses) for one in sources.source_progress(world.connection)} == {
        "scb_01": 3,
        "scb_011": 1,
    }
    assert {one.name: one.count for one in controls.unsealed_batches(world.connection)} == {
        "scb_01": 3,
        "scb_011": 1,
    }
    seals.seal_batches(world.connection)
    assert controls.unsealed_batches(world.connection) == []
    with one_moment(world.connection):
        found, of_banks = standings(world.connection)
    assert [(one.source_id, one.rows) for one in found] == [("scb_01", 2)]
    for bank, days in (("scb_01", 2), ("scb_011", 1)):
        [one_bank] = [one for one in of_banks if one.source_id == bank]
        assert (one_bank.days, one_bank.rejects) == (bank_days.bank_days(world.connection, bank), {})
        assert (one_bank.days.days, one_bank.days.open_days) == (days, days)


class TestBanks:
    NOW = datetime(2024, 3, 9, 6, tzinfo=UTC)

    def assert_as_progress_has_it(self, connection: Connection) -> None:
        monitored = [
            (
                one.source,
                one.bank,
                sum(one.states),
                one.states[0],
                max(self.NOW - one.complete_to, timedelta(0)),
                one.entries,
                one.unacknowledged,
            )
            for one in banks.bank_days(connection)
        ]
        assert monitored == [
            (
                one.source_id,
                one.bank_id,
                one.days,
                one.complete,
                one.lag,
                one.entries,
                one.unacknowledged,
            )
            for one in bank_progress.progress(connection, self.NOW)
        ]

    def test_a_bank_is_as_far_as_all_its_days_are_complete(self, connection: Connection) -> None:
        def day(number: int) -> date:
            return date(2024, 3, number)

        self.assert_as_progress_has_it(connection)
        fail(connection, day(3))
        self.assert_as_progress_has_it(connection)
        for number in (1, 2, 3):
            finish(connection, day(number))
            self.assert_as_progress_has_it(connection)
        finish(connection, day(5))
        self.assert_as_progress_has_it(connection)  # the fourth is missing
        # A zone that has no fourth: the windows beside it touch.
        connection.execute("UPDATE sync_status SET window_from = '2024-03-04Z' WHERE day = '2024-03-05'")
        self.assert_as_progress_has_it(connection)
        finish(connection, day(7), verdict="break")
        begin(connection, day(8))
        fail(connection, day(6))
        for number in (2, 5):  # two are missing
            finish(connection, day(number), source="scb_02")
        self.assert_as_progress_has_it(connection)
        states = {
            one.source: dict(zip(banks.DAY_STATES, one.states, strict=True))
            for one in banks.bank_days(connection)
        }
        assert states["scb_01"] == {"complete": 4, "break": 1, "failed": 1, "open": 1}
        assert states["scb_01"] == Counter(one.state for one in sync_status.load(connection, "scb_01"))

    def test_what_a_bank_has_not_heard_of_is_counted_by_kind_and_status(self, connection: Connection) -> None:
        connection.execute("INSERT INTO dual_ledgers (ledger_id, bank_id) VALUES ('L', 'SCB-01')")
        told = [("PENDING", 3), ("FAILED", 2), ("DEAD", 1), ("ACKNOWLEDGED", 4), ("CANCELLED", 1)]
        number = 0
        for status, count in told:
            for _ in range(count):
                number += 1
                connection.execute(
                    "INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload, status,"
                    " created_at) VALUES ('L', %s, 'SCB-01', 'LOCAL', '{}', %s, %s)",
                    [f"E{number}", status, datetime(2024, 3, 1, 0, number, tzinfo=UTC)],
                )
        connection.execute(
            "WITH d AS (INSERT INTO dual_ledger_deliveries (destination, kind, body, first_item_id, item_count)"
            " SELECT 'SCB-01', 'entry', '[]', min(id), 2 FROM dual_ledger_outbox WHERE status = 'PENDING' RETURNING *)"
            " UPDATE dual_ledger_outbox o SET status = 'SENT', delivery_id = d.id FROM d"
            " WHERE o.id IN (d.first_item_id, d.first_item_id + 1)"
        )
        found = {(one.kind, one.status): (one.rows, one.oldest_at) for one in banks.waiting(connection)}
        assert len(found) == 8
        assert {key: rows for key, (rows, _) in found.items() if rows} == {
            ("entry", "PENDING"): 1,
            ("entry", "SENT"): 2,
            ("entry", "FAILED"): 2,
            ("entry", "DEAD"): 1,
        }
        waiting = {(one.kind, one.status): one for one in outbox.counts(connection)}
        for key, (rows, oldest_at) in found.items():
            if rows:
                assert (rows, oldest_at) == (waiting[key].count, waiting[key].oldest)

    def test_a_bank_that_does_not_answer_is_left_alone(self, connection: Connection) -> None:
        connection.execute("INSERT INTO dual_ledgers (ledger_id, bank_id) VALUES ('L', 'SCB-01')")
        [found] = banks.bank_connections(connection)
        assert found == banks.BankConnection("SCB-01", "L", 0, False, None)
        connection.execute(
            "INSERT INTO dual_ledger_banks (bank_id, consecutive_failures, open_until)"
            " VALUES ('SCB-01', 4, now() + interval '1 minute')"
        )
        [found] = banks.bank_connections(connection)
        assert (found.failures, found.is_left_alone) == (4, True)


class TestTheLedger:
    def test_constraints_are_told_one_by_one_and_accounts_that_stand_in_their_way(
        self, world: LedgerWorld
    ) -> None:
        connection = world.connection
        world.open("A", "B")
        world.post_one(Entry("1"))  # B is debit-normal, and falls below zero
        found = controls.ledger_state(connection)
        assert (found.constraints_state, found.offending_accounts) == ("not applied", 1)
        assert len(found.constraints_in_force) == 6
        assert not any(found.constraints_in_force.values())
        world.post_one(Entry("2", debit="B", credit="A"))
        constraints.apply(connection)
        found = controls.ledger_state(connection)
        assert (found.constraints_state, found.offending_accounts) == ("applied", 0)
        assert all(found.constraints_in_force.values())
        connection.execute("ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_debit_account_id_fkey")
        found = controls.ledger_state(connection)
        assert [name for name, holds in found.constraints_in_force.items() if not holds] == [
            "ledger_entries_debit_account_id_fkey"
        ]
        assert found.constraints_state == "not applied"

    def test_a_trigger_that_is_switched_off_shows(self, connection: Connection) -> None:
        assert controls.ledger_state(connection).missing_parts == 0
        connection.execute("ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_append_only")
        assert controls.ledger_state(connection).missing_parts == 1

    def test_corrections_are_counted_by_status_also_where_there_is_none(self, connection: Connection) -> None:
        found = {one.name: one.count for one in controls.correction_counts(connection)}
        assert found == dict.fromkeys(controls.CORRECTION_STATUSES, 0)


def taken(url: str) -> Snapshot:
    found = look(url)
    assert isinstance(found, Snapshot), found
    return found


class TestALook:
    def test_it_needs_to_read_only_and_changes_nothing(
        self, backfills: World, connection: Connection
    ) -> None:
        backfills.post(write_bank(backfills))
        connection.execute("DROP ROLE IF EXISTS only_reader")
        connection.execute("CREATE ROLE only_reader")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO only_reader")
        separator = "&" if "?" in backfills.url else "?"
        try:
            found = taken(f"{backfills.url}{separator}options=-c%20role%3Donly_reader")
        finally:
            connection.execute("DROP OWNED BY only_reader")
            connection.execute("DROP ROLE only_reader")
        assert [one.source for one in found.source_progress] == ["bank"]
        assert set(found.query_seconds) >= {"source_rows", "ledger", "waiting"}

    def test_a_server_that_is_not_there_is_unreachable_and_no_password_is_told(self) -> None:
        found = look("postgresql://reader:geheim@127.0.0.1:1/ledger")
        assert isinstance(found, Unavailable)
        assert found.reason == "unreachable"
        assert "geheim" not in found.sentence

    def test_a_database_without_our_schema_is_one_of_another_release(self, server: Server) -> None:
        with server.empty_database() as url:
            found = look(url)
        assert isinstance(found, Unavailable)
        assert found.reason == "schema"
        assert "backfill db migrate" in found.sentence

    def test_a_release_that_is_older_than_the_ledger_says_so(
        self, ledger_url: str, connection: Connection
    ) -> None:
        connection.execute("INSERT INTO ledger_schema_migrations VALUES (9999, 'later', 'x', now())")
        found = look(ledger_url)
        assert isinstance(found, Unavailable)
        assert (found.reason, "9999_later" in found.sentence) == ("schema", True)

    def test_it_waits_for_nobody_for_long(self, ledger_url: str) -> None:
        with holding_accounts(ledger_url):
            found = look(ledger_url, timeout_s=0.2)
        assert isinstance(found, Unavailable)
        assert found.reason == "timeout"
        taken(ledger_url)

    def test_a_server_that_goes_away_meanwhile_is_unreachable(
        self, ledger_url: str, connection: Connection
    ) -> None:
        ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = %s AND datname = %s"
        with holding_accounts(ledger_url), ThreadPoolExecutor(1) as thread:
            looking = thread.submit(look, ledger_url, timeout_s=60)
            while connection.execute(
                f"{ended} AND wait_event_type = 'Lock'", ["backfill metrics", connection.info.dbname]
            ).fetchone() == (0,):
                assert not looking.done()
            found = looking.result()
        assert isinstance(found, Unavailable)
        assert found.reason == "unreachable"

    def test_a_look_that_is_lost_lets_go_of_what_constraints_wait_for(
        self, ledger_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def reads_accounts(looking: Connection) -> list[sources.Breaks]:
            looking.execute("SELECT count(*) FROM bank_accounts")
            return []

        asked = work.batch_work

        def stops_short(looking: Connection) -> list[work.BatchWork]:
            with holding_accounts(ledger_url):  # which waits until nobody reads them
                return asked(looking)

        monkeypatch.setattr(snapshot, "_IDLE_TIMEOUT_MS", 100)
        monkeypatch.setattr(sources, "reconciliation_breaks", reads_accounts)
        monkeypatch.setattr(work, "batch_work", stops_short)
        found = look(ledger_url, timeout_s=60)
        assert isinstance(found, Unavailable)
        assert found.reason == "unreachable"

    def test_a_query_that_is_refused_fails_it_whole(self, ledger_url: str, connection: Connection) -> None:
        connection.execute("DROP VIEW backfill_batches_ever; ALTER TABLE ledger_seals RENAME TO elsewhere")
        found = look(ledger_url)
        assert isinstance(found, Unavailable)
        assert found.reason == "failed"


@contextmanager
def holding_accounts(url: str) -> Iterator[None]:
    """As whoever applies constraints."""
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE bank_accounts IN ACCESS EXCLUSIVE MODE")
        yield
