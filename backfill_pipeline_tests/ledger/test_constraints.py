"""The balance constraints: applied as a whole or not at all, proven, and never at the price of a posting."""

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.constraints import BALANCE_CHECKS, FOREIGN_KEYS
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import Entry, World, many, numbered

ALL = {*BALANCE_CHECKS, *FOREIGN_KEYS}


@pytest.fixture
def bank(world: World) -> Registration:
    world.open("A", "B")
    world.open("FUND", normal_side="credit")
    return world.register()


def events(world: World) -> list[str]:
    return [event for (event,) in world.rows("SELECT event FROM ledger_constraint_events ORDER BY id")]


class TestApply:
    def test_makes_all_six_and_says_so(self, world: World, bank: Registration) -> None:
        world.post_one(Entry("r1", "A", "FUND"))
        assert constraints.state(world.connection) == "not applied"
        report = constraints.apply(world.connection)
        assert (report.state, report.newly_applied, report.offending) == ("applied", True, 0)
        assert constraints.constraints_in_force(world.connection) == ALL
        assert constraints.state(world.connection) == "applied"
        assert events(world) == ["applied"]

    def test_a_second_time_only_verifies(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        report = constraints.apply(world.connection)
        assert (report.state, report.newly_applied) == ("applied", False)
        assert events(world) == ["applied"]

    def test_from_two_sessions_at_once_applies_once(self, world: World, bank: Registration) -> None:
        sessions = [world.connect(), world.connect(), world.connect()]
        with ThreadPoolExecutor(3) as pool:
            reports = list(pool.map(constraints.apply, sessions))
        assert {report.state for report in reports} == {"applied"}
        assert sum(report.newly_applied for report in reports) == 1
        assert events(world) == ["applied"]

    def test_is_refused_with_the_exact_list_and_nothing_is_applied(
        self, world: World, bank: Registration
    ) -> None:
        world.open(*(f"X{number:02d}" for number in range(30)))
        for number in range(1, 26):
            world.post_one(Entry(f"r{number}", "A", f"X{number:02d}", f"{number}.50"))
        world.connection.execute("UPDATE bank_accounts SET reserved_balance = -1 WHERE id = 'X26'")
        world.connection.execute("UPDATE bank_accounts SET available_balance = 1 WHERE id = 'X27'")
        world.connection.execute("UPDATE bank_accounts SET reserved_balance = 9 WHERE id = 'X28'")
        report = constraints.apply(world.connection)
        assert (report.state, report.offending) == ("refused", 28)
        assert report.worst is not None
        assert (report.worst.account_id, report.worst.available_balance) == ("X25", Decimal("-25.5"))
        assert [offender.account_id for offender in report.sample] == [f"X{n:02d}" for n in range(25, 5, -1)]
        assert constraints.constraints_in_force(world.connection) == set()
        assert constraints.state(world.connection) == "refused"
        assert world.rows(
            "SELECT event, offending, details -> 'sample' ->> 0 FROM ledger_constraint_events"
        ) == [("refused", 28, "X25")]

    def test_offenders_are_those_of_the_strategys_query(self, world: World, bank: Registration) -> None:
        values = [-2, 0, 1]
        world.connection.execute(
            "INSERT INTO bank_accounts (id, currency_code, balance, available_balance, reserved_balance)"
            " SELECT format('%%s/%%s/%%s', b, a, r), 'USD', b, a, r"
            " FROM unnest(%(v)s) b, unnest(%(v)s) a, unnest(%(v)s) r",
            {"v": values},
        )
        expected = world.value(
            "SELECT count(*) FROM bank_accounts WHERE available_balance < 0 OR reserved_balance < 0"
            " OR available_balance > balance OR (available_balance + reserved_balance) > balance"
        )
        assert 0 < expected < 27
        assert constraints.offenders(world.connection).offending == expected

    def test_an_entry_of_an_account_that_is_gone_refuses_all_of_it(
        self, world: World, bank: Registration
    ) -> None:
        world.post_one(Entry("r1", "A", "FUND"))
        world.connection.execute("DELETE FROM bank_accounts WHERE id = 'FUND'")
        with pytest.raises(
            LedgerError, match="cannot apply constraints to the ledger: .*credit_account_id_fkey.*FUND"
        ):
            constraints.apply(world.connection)
        assert constraints.constraints_in_force(world.connection) == set()
        assert events(world) == []

    def test_makes_a_constraint_valid_that_was_added_not_valid(
        self, world: World, bank: Registration
    ) -> None:
        add_not_valid(world)
        assert constraints.apply(world.connection).newly_applied
        assert constraints.constraints_in_force(world.connection) == ALL
        assert world.value("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == 0

    def test_puts_back_only_what_is_missing(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        world.connection.execute(
            "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_debit_account_id_fkey"
        )
        assert constraints.apply(world.connection).newly_applied
        assert constraints.constraints_in_force(world.connection) == ALL


class TestVerify:
    @pytest.mark.parametrize("name", sorted(ALL))
    def test_finds_a_dropped_constraint(self, world: World, bank: Registration, name: str) -> None:
        constraints.apply(world.connection)
        relation = "bank_accounts" if name in BALANCE_CHECKS else "ledger_entries"
        world.connection.execute(f"ALTER TABLE {relation} DROP CONSTRAINT {name}")
        report = constraints.verify(world.connection)
        assert (report.state, report.missing) == ("not applied", (name,))
        assert constraints.state(world.connection) == "not applied"

    def test_finds_one_that_is_not_valid(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        name = add_not_valid(world)
        assert constraints.verify(world.connection).missing == (name,)

    @pytest.mark.parametrize("name", sorted(BALANCE_CHECKS))
    def test_finds_one_that_is_there_in_name_only(self, world: World, bank: Registration, name: str) -> None:
        constraints.apply(world.connection)
        world.connection.execute(
            f"ALTER TABLE bank_accounts DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK (balance > -1000000)"
        )
        assert constraints.verify(world.connection).missing == (name,)
        with pytest.raises(LedgerError, match=f"{name} is not enforced"):
            constraints.apply(world.connection)

    def test_leaves_nothing_behind(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        before = world.rows("SELECT * FROM bank_accounts ORDER BY id")
        assert constraints.verify(world.connection).state == "applied"
        constraints.suspend(world.connection)
        assert constraints.verify(world.connection).state == "suspended"
        world.connection.execute(
            "ALTER TABLE bank_accounts ADD CONSTRAINT bank_accounts_available_balance_nonnegative CHECK (true)"
        )
        constraints.verify(world.connection)
        assert world.rows("SELECT * FROM bank_accounts ORDER BY id") == before
        assert world.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    def test_the_probe_does_not_touch_an_account_of_its_name(self, world: World, bank: Registration) -> None:
        world.open("backfill constraint probe")
        constraints.apply(world.connection)
        assert constraints.verify(world.connection).state == "applied"
        assert world.balance("backfill constraint probe") == 0


class TestSuspend:
    def test_lifts_all_and_apply_puts_them_back(self, world: World, bank: Registration) -> None:
        assert not constraints.suspend(world.connection)
        constraints.apply(world.connection)
        assert constraints.suspend(world.connection)
        assert constraints.constraints_in_force(world.connection) == set()
        assert constraints.state(world.connection) == "suspended"
        assert not constraints.suspend(world.connection)
        assert constraints.apply(world.connection).newly_applied
        assert events(world) == ["applied", "suspended", "applied"]

    def test_lifts_one_that_is_not_valid_too(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        add_not_valid(world)
        assert constraints.suspend(world.connection)
        assert world.value("SELECT count(*) FROM pg_constraint WHERE conname = ANY(%s)", sorted(ALL)) == 0

    def test_a_suspended_ledger_takes_a_negative_balance(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        constraints.suspend(world.connection)
        assert world.post(bank, [Entry("r1")]).path == "copy"
        assert world.balance("B") == -10


class TestWhileOthersPost:
    def test_no_posting_fails_while_constraints_come_and_go(self, world: World, bank: Registration) -> None:
        world.open_ring(20)
        for number in range(20):
            world.post_one(Entry(f"fund{number}", f"a{number:06d}", "FUND", "100000"))
        stop = threading.Event()
        registrations = [world.register(source_id="one"), world.register(source_id="two")]

        def bulk(registration: Registration) -> int:
            with world.connect() as connection:
                for batch in range(10_000):
                    if stop.is_set():
                        break
                    rows = many(50, 20, prefix=f"{registration.source_id}-", first_row=batch * 50 + 1)
                    # every other batch looks at accounts before it writes entries
                    staging = bool(batch % 2)
                    assert world.post(registration, rows, connection=connection, staging=staging).posted == 50
            return batch

        def singles() -> int:
            with world.connect() as connection:
                for number in range(100_000):
                    if stop.is_set():
                        break
                    world.post_one(Entry(f"s{number}", f"a{number % 19:06d}", "a000019", "1"), connection)
            return number

        with ThreadPoolExecutor(3) as pool:
            writers = [pool.submit(singles)]
            writers += [pool.submit(bulk, registration) for registration in registrations]
            try:
                for _ in range(6):
                    assert constraints.apply(world.connection).newly_applied
                    assert constraints.suspend(world.connection)
            finally:
                stop.set()
            assert min(writer.result(timeout=60) for writer in writers) > 0
        assert world.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
        world.assert_balances_follow_entries()

    def test_a_session_that_read_an_account_and_posts_later_is_not_the_victim(
        self, world: World, bank: Registration
    ) -> None:
        live = world.connect()
        with ThreadPoolExecutor(1) as pool:
            with live.transaction():
                live.execute("SELECT balance FROM bank_accounts WHERE id = 'A'").fetchone()
                applying = pool.submit(constraints.apply, world.connect())
                live.execute("SELECT pg_sleep(0.5)")
                world.post_one(Entry("r1", "A", "FUND"), live)
                live.execute("SELECT pg_sleep(1.2)")  # longer than deadlock_timeout
            assert applying.result(timeout=120).newly_applied
        assert world.count() == 1
        assert world.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


class TestPostingWithConstraints:
    def test_the_fast_path_stays_fast_and_offenders_are_told_apart(
        self, world: World, bank: Registration
    ) -> None:
        constraints.apply(world.connection)
        assert world.post(bank, [Entry("r1", "A", "FUND", "100")]).path == "copy"
        outcome = world.post(bank, numbered([Entry("r2", "B", "A", "60"), Entry("r3", "B", "A", "60")], 2))
        assert (outcome.path, outcome.posted, outcome.rejected) == ("staging", 1, 1)
        assert world.rejects() == {3: "balance_constraint"}
        world.assert_balances_follow_entries()

    def test_an_account_with_entries_cannot_be_deleted(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        world.post(bank, [Entry("r1", "A", "FUND")])
        for account in ("A", "FUND"):
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                world.connection.execute("DELETE FROM bank_accounts WHERE id = %s", [account])
        world.connection.execute("DELETE FROM bank_accounts WHERE id = 'B'")

    def test_post_ledger_entry_is_refused_with_23514(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        with pytest.raises(psycopg.errors.CheckViolation, match="available_balance_nonnegative"):
            world.post_one(Entry("r1", "A", "B"))

    def test_deleting_entries_that_others_rely_on_is_refused(self, world: World, bank: Registration) -> None:
        constraints.apply(world.connection)
        world.post_one(Entry("r1", "A", "FUND", "10"))
        world.post_one(Entry("r2", "B", "A", "10"))
        with pytest.raises(psycopg.errors.CheckViolation):
            world.connection.execute("DELETE FROM ledger_entries WHERE reference_id = 'r1'")
        assert world.connection.execute("DELETE FROM ledger_entries").rowcount == 2
        assert set(world.balances().values()) == {0}

    def test_movements_of_two_currencies_are_one_movement(self, world: World, bank: Registration) -> None:
        world.open("EUR", currency="EUR")
        world.open("EFUND", currency="EUR", normal_side="credit")
        constraints.apply(world.connection)
        rows = [  # in its own currency alone EUR would end at -100, with the converted entry at 0
            Entry("r1", "EFUND", "EUR", "100", currency="EUR"),
            Entry("r0", "EUR", "EFUND", "10", currency="EUR"),
            Entry("r2", "EUR", "FUND", "50", currency="USD", fx_rate="2"),
            Entry("r3", "EUR", "EFUND", "110", currency="EUR"),
        ]
        outcome = world.post(bank, rows)
        assert (outcome.path, outcome.posted) == ("copy", 4)
        assert world.balance("EUR") == 120


def add_not_valid(world: World) -> str:
    name = "bank_accounts_reserved_balance_nonnegative"
    world.connection.execute(f"ALTER TABLE bank_accounts DROP CONSTRAINT IF EXISTS {name}")
    world.connection.execute(
        f"ALTER TABLE bank_accounts ADD CONSTRAINT {name} CHECK (reserved_balance >= 0) NOT VALID"
    )
    return name
