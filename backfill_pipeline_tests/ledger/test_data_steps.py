"""Data steps of migrations: in batches, resumable, while others post, and no way around history.

The migration is one that a release could bring: a new column of `ledger_entries` that follows from another one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.errors import LedgerError, TransientLedgerError
from backfill_pipeline.ledger import data_steps
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.data_steps import StepProgress
from backfill_pipeline.ledger.migrate import (
    Migration,
    bundled_migrations,
    data_steps_of,
    migrate,
    read_migrations,
)
from backfill_pipeline.ledger.rehearsal_tables import ENTRIES, rehearsal_tables
from backfill_pipeline_tests.ledger.world import POST, Entry, World, many

ROWS = 10_000
ACCOUNTS = 500

SCHEMA = """
CREATE FUNCTION ledger_event_month(moment timestamptz) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    $$ SELECT date_trunc('month', moment AT TIME ZONE 'UTC')::date $$;
ALTER TABLE ledger_entries ADD COLUMN event_month date;
ALTER TABLE ledger_entries ADD CONSTRAINT ledger_entries_event_month_check
    CHECK (event_month IS NOT NULL AND event_month = ledger_event_month(timestamp_utc)) NOT VALID;
CREATE FUNCTION ledger_entries_set_event_month() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.event_month := ledger_event_month(NEW.timestamp_utc);
    RETURN NEW;
END $$;
CREATE TRIGGER ledger_entries_set_event_month BEFORE INSERT ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_entries_set_event_month();
SELECT ledger_open_column('event_month');
"""
DATA = """-- over ledger_entries by id, 1000 rows a batch
UPDATE ledger_entries SET event_month = ledger_event_month(timestamp_utc)
WHERE id > $1 AND id <= $2 AND event_month IS NULL
"""
# Validating reads all entries and keeps nobody waiting; with it, the last statement need not read them again.
FINISH = """
ALTER TABLE ledger_entries VALIDATE CONSTRAINT ledger_entries_event_month_check;
SELECT ledger_close_column('event_month');
ALTER TABLE ledger_entries ALTER event_month SET NOT NULL;
"""


def with_migration(
    folder: Path, *, schema: str = SCHEMA, data: str = DATA, finish: str = FINISH
) -> list[Migration]:
    """The bundled migrations and one more, read from files."""
    for part, text in {"": schema, ".data": data, ".finish": finish}.items():
        (folder / f"9001_event_month{part}.sql").write_text(text)
    return [*bundled_migrations(), *read_migrations(folder)]


def run(
    world: World, migrations: list[Migration], report: data_steps.Report = lambda _: None
) -> list[StepProgress]:
    return data_steps.run(world.connect(), data_steps_of(migrations), report, rest_share=0)


def unfilled(world: World) -> int:
    return int(
        world.value(
            "SELECT count(*) FROM ledger_entries WHERE event_month IS DISTINCT FROM ledger_event_month(timestamp_utc)"
        )
    )


def history(world: World) -> tuple[object, ...]:
    """Everything that entries say, but for the new column."""
    return world.rows(
        "SELECT count(*), sum(hashtextextended((id, ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
        " asset_type, transaction_type, reference_id, timestamp_utc, posted_at, fx_rate, metadata, batch_id,"
        " source_row)::text, 7)) FROM ledger_entries"
    )[0]


@pytest.fixture
def ledger(world: World) -> World:
    world.open_ring(ACCOUNTS)
    world.post(world.register(), many(ROWS, ACCOUNTS))
    return world


class TestAFill:
    def test_fills_what_was_there_and_changes_nothing_else(self, ledger: World, tmp_path: Path) -> None:
        migrations = with_migration(tmp_path)
        before, balances = history(ledger), ledger.balances()
        sealed = ledger.rows("SELECT * FROM ledger_batch_digests(ARRAY(SELECT id FROM backfill_batches))")
        migrate(ledger.connect(), migrations)
        assert unfilled(ledger) == ROWS  # the schema part alone touches no row
        seen: list[StepProgress] = []
        (done,) = run(ledger, migrations, seen.append)
        assert (done.rows_done, done.batches, done.share, done.finished) == (ROWS, ROWS // 1000, 1.0, True)
        assert [one.rows_done for one in seen] == [*range(1000, ROWS + 1, 1000), ROWS]
        assert unfilled(ledger) == 0
        assert (history(ledger), ledger.balances()) == (before, balances)
        assert sealed == ledger.rows(
            "SELECT * FROM ledger_batch_digests(ARRAY(SELECT id FROM backfill_batches))"
        )
        ledger.assert_balances_follow_entries()
        assert run(ledger, migrations) == []
        assert migrate(ledger.connect(), migrations) == ()

    def test_what_is_posted_meanwhile_has_the_column_at_once_and_is_not_touched(
        self, ledger: World, tmp_path: Path
    ) -> None:
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)
        ledger.post_one(Entry("live", debit="a000001", credit="a000002"))
        assert ledger.value("SELECT event_month FROM ledger_entries WHERE reference_id = 'live'") == date(
            2024, 3, 1
        )
        (done,) = run(ledger, migrations)
        assert done.rows_done == ROWS

    def test_a_new_ledger_has_nothing_left_to_do(self, world: World, tmp_path: Path) -> None:
        migrations = with_migration(tmp_path)
        migrate(world.connect(), migrations)
        assert [one.finished for one in data_steps.progress(world.connection)] == [True]
        world.open("A", "B")
        with pytest.raises(psycopg.errors.NotNullViolation):
            world.connection.execute(
                "ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_set_event_month"
            )
            world.post_one(Entry("r"))

    def test_a_ledger_of_one_batch_is_done_with_the_schema(self, world: World, tmp_path: Path) -> None:
        world.open("A", "B")
        world.post_one(Entry("one"))
        migrate(world.connect(), with_migration(tmp_path))
        assert (unfilled(world), data_steps.progress(world.connection)[0].finished) == (0, True)

    def test_rows_that_are_gone_leave_gaps_that_nothing_stumbles_over(
        self, ledger: World, tmp_path: Path
    ) -> None:
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)
        ledger.connection.execute("DELETE FROM ledger_entries WHERE id BETWEEN 500 AND 8000 OR id % 7 = 0")
        left = ledger.count()
        assert run(ledger, migrations)[0].rows_done == left
        assert unfilled(ledger) == 0

    def test_a_row_that_does_not_take_it_stops_the_step_where_it_is(
        self, ledger: World, tmp_path: Path
    ) -> None:
        wrong = DATA.replace(
            "= ledger_event_month(timestamp_utc)\n",
            "= ledger_event_month(timestamp_utc) + (id = 5500)::int\n",
        )
        migrations = with_migration(tmp_path, data=wrong)
        migrate(ledger.connect(), migrations)
        with pytest.raises(
            LedgerError, match="cannot migrate the rows of the ledger: .*ledger_entries_event_month_check"
        ):
            run(ledger, migrations)
        (stopped,) = data_steps.progress(ledger.connection)
        assert (stopped.finished, stopped.rows_done) == (False, ROWS - unfilled(ledger))
        assert 0 < stopped.rows_done < ROWS

    def test_a_plan_rehearses_the_new_column_too(self, ledger: World, tmp_path: Path) -> None:
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)
        run(ledger, migrations)
        session = ledger.connect()
        with rehearsal_tables(session, empty_ledger=False):
            session.execute("INSERT INTO bank_accounts (id, currency_code) VALUES ('A', 'USD'), ('B', 'USD')")
            session.execute(
                f"INSERT INTO {ENTRIES} (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
                " transaction_type, reference_id, timestamp_utc) VALUES ('MASTER', 'A', 'B', 1, 'USD', 'T', 'new',"
                " '2024-05-17T00:00:00Z')"
            )
            assert session.execute(f"SELECT event_month FROM {ENTRIES}").fetchall() == [(date(2024, 5, 1),)]


class TestBeingKilled:
    def test_it_carries_on_behind_the_last_commit(self, ledger: World, tmp_path: Path) -> None:
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)
        before = history(ledger)

        def dies(progress: StepProgress) -> None:
            if progress.batches == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(ledger, migrations, dies)
        assert unfilled(ledger) == ROWS - 3000
        seen: list[StepProgress] = []
        (done,) = run(ledger, migrations, seen.append)
        assert (seen[0].batches, done.batches, done.rows_done) == (4, ROWS // 1000, ROWS)
        assert (unfilled(ledger), history(ledger)) == (0, before)

    def test_at_any_moment(self, ledger: World, tmp_path: Path) -> None:
        """Each batch takes a moment, so that most kills meet one that is under way."""
        slow = DATA.replace(
            "event_month IS NULL", "event_month IS NULL AND (SELECT pg_sleep(0.03)) IS NOT NULL"
        )
        migrations = with_migration(tmp_path, data=slow)
        before = history(ledger)
        program = (
            "import sys; from pathlib import Path\n"
            "from backfill_pipeline.ledger import data_steps\n"
            "from backfill_pipeline.ledger.connection import connect\n"
            "from backfill_pipeline.ledger.migrate import *\n"
            "found = [*bundled_migrations(), *read_migrations(Path(sys.argv[1]))]\n"
            "with connect(sys.argv[2]) as connection:\n"
            "    migrate(connection, found)\n"
            "    data_steps.run(connection, data_steps_of(found), lambda p: print(p.batches, flush=True), rest_share=0)\n"
        )
        for kill_at in (1, 2, 3):
            process = subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path), ledger.url], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            for _, _line in zip(range(kill_at), process.stdout, strict=False):
                pass
            process.send_signal(signal.SIGKILL)
            process.communicate()
            # In one statement: a commit that the killed process sent may still be under way.
            assert ledger.value(
                "SELECT rows_done = (SELECT count(event_month) FROM ledger_entries) FROM ledger_data_steps"
            )
        eventually(lambda: run(ledger, migrations))
        assert (unfilled(ledger), history(ledger)) == (0, before)
        assert data_steps.progress(ledger.connection)[0].rows_done == ROWS

    def test_a_lost_connection_is_transient_and_loses_nothing(self, ledger: World, tmp_path: Path) -> None:
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)

        def cut(progress: StepProgress) -> None:
            if progress.batches == 2:
                ledger.connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

        with pytest.raises(TransientLedgerError):
            run(ledger, migrations, cut)
        assert run(ledger, migrations)[0].rows_done == ROWS


def eventually(action: Callable[[], object]) -> None:
    """A killed session's last transaction may still hold its locks for a moment."""
    for _ in range(20):
        try:
            action()
            return
        except TransientLedgerError:
            time.sleep(0.2)
    action()


class TestTwoAtOnce:
    def test_the_second_waits_for_the_first_and_finds_it_done(self, ledger: World, tmp_path: Path) -> None:
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)
        begun, waited = threading.Event(), threading.Event()

        def first(progress: StepProgress) -> None:
            begun.set()
            if progress.batches == 2:
                assert waited.wait(60)

        def second(progress: StepProgress) -> None:
            if not progress.finished:
                waited.set()

        thread = threading.Thread(target=run, args=[ledger, migrations, first])
        thread.start()
        assert begun.wait(60)
        run(ledger, migrations, second)
        thread.join()
        assert waited.is_set()
        (done,) = data_steps.progress(ledger.connection)
        assert (done.rows_done, done.batches) == (ROWS, ROWS // 1000)

    def test_other_commands_do_not_wait_for_a_long_one(self, ledger: World, tmp_path: Path) -> None:
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)
        seen: list[object] = []

        def another_command(progress: StepProgress) -> None:
            if progress.batches == 2:
                with connect(ledger.url) as connection:
                    connection.execute("SET lock_timeout = '1s'")
                    seen.append(migrate(connection, migrations))

        run(ledger, migrations, another_command)
        assert seen == [()]


class TestGivingWay:
    def test_a_schema_part_waits_in_nobodys_way(self, ledger: World, tmp_path: Path) -> None:
        """While somebody's transaction holds the table, others post on between its tries."""
        migrations = with_migration(tmp_path)
        busy, live = ledger.connect(), ledger.connect()
        busy.execute("BEGIN")
        ledger.post_one(Entry("busy", debit="a000001", credit="a000002"), busy)
        thread = threading.Thread(target=migrate, args=[ledger.connect(), migrations])
        thread.start()
        try:
            live.execute("SET lock_timeout = '20s'")
            for number in range(5):
                ledger.post_one(Entry(f"live {number}", debit="a000003", credit="a000004"), live)
        finally:
            busy.execute("COMMIT")
            thread.join()
        run(ledger, migrations)
        assert (unfilled(ledger), ledger.count()) == (0, ROWS + 6)

    def test_a_batch_tries_again_when_rows_are_locked(
        self, ledger: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(data_steps, "_LOCK_TRIES_S", (0.05, 30.0))
        migrations = with_migration(tmp_path)
        migrate(ledger.connect(), migrations)
        busy = ledger.connect()
        busy.execute("BEGIN")
        busy.execute("DELETE FROM ledger_entries WHERE reference_id = 'M1500'")
        timer = threading.Timer(0.5, lambda: busy.execute("ROLLBACK"))
        timer.start()
        assert run(ledger, migrations)[0].rows_done == ROWS
        timer.join()


class TestHistory:
    """Append-only is no weaker for it."""

    @pytest.fixture
    def opened(self, world: World) -> World:
        world.open("A", "B")
        for number in range(1, 4):
            world.post_one(Entry(f"r{number}", amount="10.00", metadata='{"a": 1}'))
        # With a CHECK that lets the column be empty, so that history alone refuses what is tried here.
        world.connection.execute(SCHEMA.replace("event_month IS NOT NULL AND ", ""))
        return world

    @pytest.mark.parametrize(
        "change",
        [
            "amount = 11", "amount = 10.0", "metadata = NULL", "fx_rate = 1", "id = id + 10", "id = 4 - id",
            "reference_id = reference_id || 'x'", "batch_id = 7", "posted_at = now()",
            "event_month = ledger_event_month(timestamp_utc), amount = 10.0",
        ],
    )  # fmt: skip
    def test_nothing_but_the_open_column_can_be_filled(self, opened: World, change: str) -> None:
        before = opened.rows("SELECT e::text FROM ledger_entries e ORDER BY id")
        if change.startswith("id = 4"):  # swapped ids: every row is somebody's, and none is what it was
            opened.connection.execute("DELETE FROM ledger_entries WHERE reference_id = 'r2'")
            before = opened.rows("SELECT e::text FROM ledger_entries e ORDER BY id")
            opened.connection.execute("ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pkey")
        with pytest.raises(
            psycopg.errors.RestrictViolation, match="only empty fields of event_month may be filled"
        ):
            opened.connection.execute(f"UPDATE ledger_entries SET {change}")
        assert opened.rows("SELECT e::text FROM ledger_entries e ORDER BY id") == before

    def test_what_is_filled_stays(self, opened: World) -> None:
        fill = "UPDATE ledger_entries SET event_month = ledger_event_month(timestamp_utc)"
        opened.connection.execute(fill + " WHERE reference_id = 'r1'")
        for change in (fill, "UPDATE ledger_entries SET event_month = NULL"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                opened.connection.execute(change)
        opened.connection.execute(fill + " WHERE event_month IS NULL")
        assert unfilled(opened) == 0

    def test_what_is_filled_is_what_follows(self, opened: World) -> None:
        with pytest.raises(psycopg.errors.CheckViolation, match="ledger_entries_event_month_check"):
            opened.connection.execute("UPDATE ledger_entries SET event_month = '1999-01-01'")

    def test_a_closed_column_is_closed_and_truncate_never_open(self, opened: World) -> None:
        with pytest.raises(psycopg.errors.RestrictViolation, match="TRUNCATE on ledger_entries is refused"):
            opened.connection.execute("TRUNCATE ledger_entries")
        opened.connection.execute("SELECT ledger_close_column('event_month')")
        with pytest.raises(
            psycopg.errors.RestrictViolation, match="is append-only, post a correcting entry instead"
        ):
            opened.connection.execute(
                "UPDATE ledger_entries SET event_month = ledger_event_month(timestamp_utc)"
            )

    @pytest.mark.parametrize("column", ["fx_rate", "metadata", "amount", "batch_id", "timestamp_utc"])
    def test_no_column_of_history_can_be_opened(self, world: World, column: str) -> None:
        with pytest.raises(
            psycopg.errors.RestrictViolation, match=f"column {column} of ledger_entries is history"
        ):
            world.connection.execute("SELECT ledger_open_column(%s)", [column])

    def test_a_column_whose_content_nothing_says_cannot_be_opened(self, world: World) -> None:
        world.connection.execute("ALTER TABLE ledger_entries ADD COLUMN anything text")
        with pytest.raises(
            psycopg.errors.ObjectNotInPrerequisiteState, match="no CHECK that says what its column anything"
        ):
            world.connection.execute("SELECT ledger_open_column('anything')")

    def test_opening_and_closing_are_in_the_audit_log(self, opened: World) -> None:
        opened.connection.execute("SELECT ledger_close_column('event_month')")
        assert opened.rows(
            "SELECT action FROM audit_log WHERE subject = 'ledger_entries.event_month' ORDER BY number"
        ) == [("column_opened",), ("column_closed",)]


class TestFiles:
    def test_a_data_step_says_what_it_goes_over(self, tmp_path: Path) -> None:
        with pytest.raises(
            LedgerError, match='first line of 9001_event_month.data.sql must be "-- over TABLE by KEY'
        ):
            with_migration(tmp_path, data="UPDATE ledger_entries SET event_month = NULL")

    def test_a_part_needs_the_one_before_it(self, tmp_path: Path) -> None:
        (tmp_path / "0001_one.sql").write_text("SELECT 1")
        (tmp_path / "0001_one.finish.sql").write_text("SELECT 1")
        with pytest.raises(LedgerError, match=r"migration 0001_one has .*without the part before it"):
            read_migrations(tmp_path)

    def test_an_edited_data_step_is_an_edited_migration(self, world: World, tmp_path: Path) -> None:
        migrate(world.connect(), with_migration(tmp_path))
        with pytest.raises(
            LedgerError, match="migration 9001_event_month was edited after it had been applied"
        ):
            migrate(world.connect(), with_migration(tmp_path, data=DATA + "-- and more"))


@dataclass
class LivePosters:
    """Clients that post one entry after another; each waits for the one before it."""

    url: str
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def post(self, client: int) -> None:
        entry = Entry("", debit=f"a{client:06d}", credit=f"a{client + 100:06d}", amount="1.00", ledger="LIVE")
        try:
            with connect(self.url) as connection:
                number = 0
                while not self.stopped.wait(0.005):
                    number += 1
                    began = time.monotonic()
                    connection.execute(POST, replace(entry, reference=f"{client}-{number}").arguments())
                    self.latencies_s.append(time.monotonic() - began)
        except Exception as error:  # in a thread: the test must hear of it, whatever it was
            self.failures.append(str(error))


@contextmanager
def live_posting(world: World, clients: int = 2) -> Iterator[LivePosters]:
    posters = LivePosters(world.url)
    threads = [threading.Thread(target=posters.post, args=[number]) for number in range(1, clients + 1)]
    for thread in threads:
        thread.start()
    try:
        yield posters
    finally:
        posters.stopped.set()
        for thread in threads:
            thread.join()


def migrate_while_posting(world: World, migrations: list[Migration], rows: int) -> LivePosters:
    before, held = history(world), world.count()
    connection: Connection = world.connect()
    with live_posting(world) as live:
        migrate(connection, migrations)
        data_steps.run(connection, data_steps_of(migrations), lambda _: None)
    assert live.failures == []
    posted = world.value("SELECT count(*) FROM ledger_entries WHERE ledger_id = 'LIVE'")
    assert posted == len(live.latencies_s) > 0
    assert (unfilled(world), world.count()) == (0, held + posted)
    world.connection.execute("DELETE FROM ledger_entries WHERE ledger_id = 'LIVE'")
    assert history(world) == before
    assert set(world.balances().values()) == {Decimal(0)}
    (done,) = data_steps.progress(world.connection)
    assert (done.finished, rows <= done.rows_done <= rows + posted) == (True, True)
    return live


def test_a_new_column_while_entries_are_posted(world: World, tmp_path: Path) -> None:
    world.open_ring(ACCOUNTS)
    world.post(world.register(), many(50_000, ACCOUNTS))
    migrate_while_posting(world, with_migration(tmp_path), 50_000)


@pytest.mark.slow
def test_a_new_column_over_a_million_entries_while_entries_are_posted(world: World, tmp_path: Path) -> None:
    """Nobody's posting waits for it: the slowest of all is a matter of one batch, not of the table."""
    rows = 1_000_000
    world.open_ring(ACCOUNTS)
    registration = world.register()
    for first in range(1, rows, 100_000):
        world.post(registration, many(100_000, ACCOUNTS, first_row=first))
    size = world.value("SELECT pg_relation_size('ledger_entries')")
    with live_posting(world) as quiet:
        time.sleep(5)
    world.connection.execute("DELETE FROM ledger_entries WHERE ledger_id = 'LIVE'")
    started = time.monotonic()
    live = migrate_while_posting(
        world, with_migration(tmp_path, data=DATA.replace("1000 rows", "10000 rows")), rows
    )
    took_s = time.monotonic() - started
    growth = world.value("SELECT pg_relation_size('ledger_entries')") / size

    def at(latencies: list[float], share: float) -> str:
        return f"{sorted(latencies)[int(share * (len(latencies) - 1))] * 1000:.1f} ms"

    print(
        f"\n{rows:,} entries in {took_s:.1f} s, table {growth:.2f} times as large; posting one entry: median"
        f" {at(quiet.latencies_s, 0.5)} alone, {at(live.latencies_s, 0.5)} beside it; 99 % {at(quiet.latencies_s, 0.99)}"
        f" and {at(live.latencies_s, 0.99)}; slowest {at(quiet.latencies_s, 1)} and {at(live.latencies_s, 1)}"
    )
    assert growth < 1.6
    assert max(live.latencies_s) < took_s / 4
