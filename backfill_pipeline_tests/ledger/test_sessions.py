"""Sessions as they are in practice: ordinary roles, odd search paths, temporary tables, lost connections."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from backfill_pipeline.errors import LedgerError, SourceBusyError, TransientLedgerError
from backfill_pipeline.ledger import balances, constraints, reconciliation
from backfill_pipeline.ledger import connection as connections
from backfill_pipeline.ledger.auditing import audit
from backfill_pipeline.ledger.batches import BatchOutcome
from backfill_pipeline.ledger.connection import connect, is_transient, ledger_errors, source_lock
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline_tests.ledger.world import Entry, World, numbered, table
from backfill_pipeline_tests.postgresql import Server

INSERT = (
    "INSERT INTO public.ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
    " transaction_type, reference_id, timestamp_utc, fx_rate) VALUES ('M', '{}', '{}', 10, 'USD', 'T', '{}', now(), 2)"
)


class TestSearchPath:
    @pytest.fixture
    def world(self, world: World) -> World:
        world.open("A", "B")
        world.open("E", currency="EUR")
        return world

    @pytest.mark.parametrize("path", ["", "pg_catalog", "elsewhere, public"])
    def test_balances_follow_entries_whatever_it_is(self, world: World, path: str) -> None:
        world.connection.execute("CREATE SCHEMA elsewhere")
        world.connection.execute("CREATE TABLE elsewhere.bank_accounts AS SELECT * FROM bank_accounts")
        other = world.connect()
        other.execute("SELECT set_config('search_path', %s, false)", [path])
        other.execute(INSERT.format("A", "B", "r1"))
        other.execute(INSERT.format("E", "B", "r2"))
        other.execute("SELECT public.post_ledger_entry('M', 'A', 'B', 1, 'USD', 'fiat', 'T', 'r3')")
        assert world.balances() == {"A": 11, "B": -21, "E": 20}
        other.execute("DELETE FROM public.ledger_entries WHERE reference_id = 'r2'")
        assert world.balances() == {"A": 11, "B": -11, "E": 0}

    def test_a_temporary_table_of_the_same_name_does_not_take_the_movements(self, world: World) -> None:
        for name in ("bank_accounts", "ledger_entry_conversions", "currencies", "ledger_entries"):
            world.connection.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM public.{name}")
        world.connection.execute(INSERT.format("A", "B", "r1"))
        world.connection.execute(INSERT.format("E", "B", "r2"))
        world.connection.execute("SELECT post_ledger_entry('M', 'A', 'B', 1, 'USD', 'fiat', 'T', 'r3')")
        world.connection.execute("DISCARD TEMP")
        assert world.balances() == {"A": 11, "B": -21, "E": 20}
        world.assert_balances_follow_entries()

    def test_a_ledger_can_live_in_a_schema_of_its_own(self, server: Server) -> None:
        with server.empty_database() as url:
            with connect(url) as connection:
                connection.execute("CREATE SCHEMA tenant")
                connection.execute(f"ALTER DATABASE {connection.info.dbname} SET search_path = tenant")
            with connect(url) as connection:
                migrate(connection)
                tenant = World(url, connection)
                tenant.open("A", "B")
                registration = tenant.register(10)
                tenant.post(registration, [Entry("r1"), Entry("r1"), Entry("r2", "A", "A")])
                tenant.assert_balances_follow_entries()
                assert audit.audit(connection).clean
                assert tenant.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


class TestOrdinaryRole:
    """A role that owns the database and is nothing else."""

    @pytest.fixture
    def owned(self, server: Server) -> Iterator[World]:
        role = f"owner_{time.monotonic_ns()}"
        with server.empty_database() as url:
            with psycopg.connect(url, autocommit=True) as admin:
                name = admin.info.dbname
                admin.execute(f"CREATE ROLE {role} LOGIN")
                admin.execute(f"ALTER DATABASE {name} OWNER TO {role}")
                admin.execute(f"ALTER ROLE {role} SET role = {role}")
                user = admin.info.user
            mine = f"{url}{'&' if '?' in url else '?'}user={role}"
            mine = mine.replace(f"//{user}@", "//")
            with connect(mine) as connection:
                yield World(mine, connection)
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(f"DROP ROLE {role}")

    def test_can_do_everything(self, owned: World) -> None:
        migrate(owned.connection)
        assert owned.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        owned.open("A", "B")
        owned.open("FUND", normal_side="credit")
        registration = owned.register(4)
        with source_lock(owned.url, "bank"):
            owned.post(registration, [Entry("r1", "A", "FUND"), Entry("r1", "A", "FUND")])
            owned.post(registration, numbered([Entry("r2", "A", "FUND")], 3))
        reconciliation.prepare(owned.connection)
        assert reconciliation.posted_entries(owned.connection, registration.partitions[0].id).num_rows == 2
        assert constraints.apply(owned.connection).state == "applied"
        owned.post(registration, numbered([Entry("r3", "B", "A", "50")], 4))
        assert owned.rejects() == {4: "balance_constraint"}
        assert constraints.suspend(owned.connection)
        assert audit.audit(owned.connection).clean
        owned.assert_balances_follow_entries()

    def test_somebody_who_may_only_read_can_audit(self, owned: World) -> None:
        migrate(owned.connection)
        owned.connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC")
        with psycopg.connect(owned.url, autocommit=True) as reader:
            found = audit.audit(reader)
            reader.execute("SELECT balance_as_of('A', now()), (SELECT count(*) FROM account_statement('A'))")
        assert (found.clean, found.missing, found.skipped) == (True, (), ())


class TestAudit:
    def test_counts_what_is_there(self, world: World) -> None:
        world.open("A", "B")
        world.post_one(Entry("r1"))
        found = audit.audit(world.connection)
        assert (found.entries, found.accounts, found.inconsistent_balances, found.duplicate_references) == (
            1,
            2,
            1,
            0,
        )
        assert (found.clean, found.missing, found.constraints) == (True, (), "not applied")

    @pytest.mark.parametrize(
        ("damage", "missing"),
        [
            (
                "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_ledger_id_reference_id_key",
                "idempotency",
            ),
            ("DROP TABLE dual_ledger_outbox CASCADE", "table dual_ledger_outbox"),
            ("DROP FUNCTION post_ledger_entry", "function post_ledger_entry"),
            ("ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_append_only", "enabled triggers"),
            ("DROP TRIGGER ledger_entries_apply_balances_on_insert ON ledger_entries", "enabled triggers"),
        ],
    )
    def test_finds_what_is_missing(self, world: World, damage: str, missing: str) -> None:
        world.connection.execute(damage)
        found = audit.audit(world.connection)
        assert not found.clean
        assert missing in found.missing[0]

    def test_of_no_ledger_is_an_error_in_words(self, server: Server) -> None:
        with (
            server.empty_database() as url,
            connect(url) as connection,
            pytest.raises(
                LedgerError, match='cannot audit the ledger: relation "ledger_entries" does not exist'
            ),
        ):
            audit.audit(connection)


class TestReuseOfOneSession:
    def test_batches_of_all_kinds_one_after_the_other(self, world: World) -> None:
        world.open("A", "B")
        world.open("E", currency="EUR")
        world.open("FUND", normal_side="credit")
        registration = world.register()
        row = 1

        def post(*rows: Entry, staging: bool = False, policy: PostingPolicy | None = None) -> BatchOutcome:
            nonlocal row
            outcome = world.post(registration, numbered(rows, row), staging=staging, policy=policy)
            row += len(rows)
            return outcome

        for cycle in range(8):  # more than five: statements become prepared ones, plans generic
            assert post(Entry(f"a{cycle}", "A", "FUND", "100")).path == "copy"
            assert post(Entry(f"a{cycle}", "A", "FUND", "100")).duplicates == 1
            assert post(Entry(f"e{cycle}", "E", "FUND", "1", fx_rate="1.5"), staging=True).posted == 1
            created = post(
                Entry(f"n{cycle}", f"N{cycle}", "FUND"), policy=PostingPolicy(create_unknown_accounts=True)
            )
            assert created.posted == 1
            if cycle % 2:
                constraints.apply(world.connection)
                refused = post(
                    Entry(f"x{cycle}", "B", f"N{cycle}", "99"), Entry(f"y{cycle}", "B", f"N{cycle}", "1")
                )
                assert (refused.posted, refused.rejected) == (1, 1)
                constraints.suspend(world.connection)
            with pytest.raises(LedgerError):
                world.post(
                    registration, table([Entry("bad", metadata="{", row=row)]), staging=bool(cycle % 3)
                )
            balances.examine(world.connection)
        world.assert_balances_follow_entries()


class TestErrors:
    @pytest.mark.parametrize(
        ("statement", "transient"),
        [
            ("SELECT pg_terminate_backend(pg_backend_pid())", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '08006'; END $$", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '08P01'; END $$", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57P01'; END $$", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '57P05'; END $$", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53300'; END $$", True),
            ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '53100'; END $$", False),
            ("SET statement_timeout = 10; SELECT pg_sleep(5)", True),
            ("SELECT 1 / 0", False),
            ("SELECT * FROM nowhere", False),
        ],
    )
    def test_of_the_server_are_told_apart(self, world: World, statement: str, transient: bool) -> None:
        with pytest.raises(psycopg.Error) as caught:
            world.connection.execute(statement)
        assert is_transient(caught.value) is transient

    def test_a_closed_connection_is_transient(self, world: World) -> None:
        lost = world.connect()
        lost.close()
        with pytest.raises(TransientLedgerError, match="the connection is closed"), ledger_errors("ask"):
            lost.execute("SELECT 1")

    def test_a_missing_database_is_not(self, server: Server) -> None:
        with pytest.raises(LedgerError, match='database "no_such" does not exist'):
            connect(server.url("no_such"))

    def test_a_server_that_is_not_there_is_transient(self) -> None:
        with pytest.raises(TransientLedgerError):
            connect("postgresql://nobody@/ledger?host=/nowhere")

    def test_a_message_is_one_line(self, world: World) -> None:
        with pytest.raises(LedgerError) as caught, ledger_errors("try"):
            world.connection.execute(
                "DO $$ BEGIN RAISE EXCEPTION E'two\\nlines' USING DETAIL = E'and\\nmore'; END $$"
            )
        assert str(caught.value) == "cannot try the ledger: two lines (and more)"


class TestSourceLock:
    def test_has_one_holder(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "SOURCE_LOCK_WAIT_S", 0.3)
        with source_lock(world.url, "bank"):
            with (
                pytest.raises(SourceBusyError, match="source bank is being written by another run"),
                source_lock(world.url, "bank"),
            ):
                pass
            with source_lock(world.url, "other"):
                pass
        with source_lock(world.url, "bank"):
            pass

    def test_of_a_killed_run_is_free_at_once(self, world: World) -> None:
        with ThreadPoolExecutor(1) as pool, pytest.raises(psycopg.Error), source_lock(world.url, "bank"):
            killed = world.value(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backfill lock bank'"
            )
            assert killed
            taken = pool.submit(self.take, world.url)
            assert taken.result(timeout=120)
            raise psycopg.OperationalError("the run sees it at its next statement")

    @staticmethod
    def take(url: str) -> bool:
        with source_lock(url, "bank"):
            return True
