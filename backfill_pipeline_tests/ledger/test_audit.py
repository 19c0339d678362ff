"""The audit finds what is wrong with a ledger: each check is provoked, and says nothing about a ledger that is right."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from backfill_pipeline.ledger import audit_log, checkpoints, registrations, rollback
from backfill_pipeline.ledger.auditing import audit
from backfill_pipeline.ledger.auditing.findings import SAMPLE_SIZE, Severity
from backfill_pipeline.ledger.connection import source_lock
from backfill_pipeline_tests.ledger.world import NOON, Entry, World, many, numbered

UNIQUE = "ledger_entries_ledger_id_reference_id_key"


@pytest.fixture
def bank(world: World) -> World:
    """A ledger with what an ordinary one has: a batch, live postings, a conversion, two currencies."""
    world.open("A", "FUND", "IDLE")
    world.open("EQUITY", normal_side="credit")
    world.open("E", currency="EUR")
    registration = world.register(3)
    world.post(
        registration,
        [Entry("r1", "A", "EQUITY"), Entry("r2", "FUND", "EQUITY", "5.5"), Entry("r3", "A", "EQUITY")],
    )
    registrations.record_validated(
        world.connection, registration.partitions[0].id, rejected=0, filtered=0, valid_rows=3
    )
    registrations.complete_partition(world.connection, registration, registration.partitions[0].id)
    world.post_one(Entry("live", "E", "A", "2", fx_rate="0.9"))
    world.connection.execute("SELECT seal_batches()")
    return world


@contextmanager
def unguarded(world: World) -> Iterator[None]:
    """No trigger of ours fires: what somebody can do who owns the tables, or a restore that went wrong."""
    world.connection.execute("SET session_replication_role = replica")
    yield
    world.connection.execute("SET session_replication_role = origin")


def found(world: World) -> dict[str, int]:
    """Checks that found something, with their counts."""
    return {check.name: check.count for check in audit.audit(world.connection).checks if check.count}


def broken(world: World) -> dict[str, int]:
    return {check.name: check.count for check in audit.audit(world.connection).breaks}


def sample(world: World, name: str) -> tuple[dict[str, object], ...]:
    return tuple(dict(row) for row in audit.audit(world.connection).check(name).sample)


class TestOfALedgerThatIsRight:
    def test_finds_what_is_worth_knowing_and_nothing_else(self, bank: World) -> None:
        examined = audit.audit(bank.connection)
        assert (examined.clean, examined.breaks, examined.skipped) == (True, (), ())
        assert found(bank) == {"accounts_never_used": 1}
        assert [row["account_id"] for row in sample(bank, "accounts_never_used")] == ["IDLE"]
        assert {check.outcome for check in examined.checks} == {"passed", "note"}

    def test_every_check_says_what_it_looks_for_and_what_to_do(self, bank: World) -> None:
        checks = audit.audit(bank.connection).checks
        assert len({check.name for check in checks}) == len(checks) >= 20
        assert all(check.looks_for and check.remedy for check in checks)

    def test_of_an_empty_ledger_is_clean(self, world: World) -> None:
        examined = audit.audit(world.connection)
        assert (examined.clean, examined.entries, examined.earliest, examined.totals.ledgers) == (
            True,
            0,
            None,
            (),
        )
        assert found(world) == {}

    def test_changes_nothing_and_leaves_nothing(self, bank: World) -> None:
        before = bank.rows(
            "SELECT relname FROM pg_class WHERE relnamespace IN ('public'::regnamespace, pg_my_temp_schema())"
        )
        settings = bank.rows("SELECT name, setting FROM pg_settings WHERE name LIKE 'enable%'")
        audit.audit(bank.connection)
        assert set(
            bank.rows(
                "SELECT relname FROM pg_class WHERE relnamespace IN ('public'::regnamespace, pg_my_temp_schema())"
            )
        ) == set(before)
        assert bank.rows("SELECT name, setting FROM pg_settings WHERE name LIKE 'enable%'") == settings

    def test_postings_meanwhile_do_not_show(self, bank: World, monkeypatch: pytest.MonkeyPatch) -> None:
        other = bank.connect()
        real = audit.balance_checks

        def post_in_between(*arguments: object) -> object:
            bank.post_one(Entry("meanwhile", "A", "EQUITY"), other)
            return real(*arguments)

        monkeypatch.setattr(audit, "balance_checks", post_in_between)
        examined = audit.audit(bank.connection)
        assert (examined.clean, examined.entries) == (True, 4)
        assert bank.count() == 5


class TestBalances:
    @pytest.mark.parametrize(
        ("damage", "names"),
        [
            ("UPDATE bank_accounts SET balance = balance + 0.01 WHERE id = 'A'", {"balances_differ_from_legs": 1, "currencies_out_of_balance": 1}),
            ("UPDATE bank_accounts SET available_balance = 1 WHERE id = 'A'", {"balances_differ_from_legs": 1}),
            ("UPDATE ledger_entry_conversions SET amount = 99", {"balances_differ_from_legs": 3, "currencies_out_of_balance": 1}),
            ("DELETE FROM ledger_entry_conversions", {"balances_differ_from_legs": 2, "currencies_out_of_balance": 2}),
            ("DELETE FROM bank_accounts WHERE id = 'FUND'", {"entries_of_unknown_accounts": 1, "balances_differ_from_legs": 2, "currencies_out_of_balance": 1}),
            ("DELETE FROM ledger_entries WHERE reference_id = 'live'", {"conversions_without_entry": 1, "balances_differ_from_legs": 4, "currencies_out_of_balance": 2}),
        ],
    )  # fmt: skip
    def test_that_were_changed_directly(self, bank: World, damage: str, names: dict[str, int]) -> None:
        with unguarded(bank):
            bank.connection.execute(damage)
        assert broken(bank) == names

    def test_that_break_a_constraint_are_a_warning(self, bank: World) -> None:
        bank.post_one(Entry("over", "FUND", "A", "100"))
        examined = audit.audit(bank.connection)
        assert examined.clean
        assert [check.name for check in examined.findings(Severity.WARNING)] == ["inconsistent_balances"]
        assert examined.check("inconsistent_balances").sample[0]["account_id"] == "A"

    def test_below_zero_in_history_are_named_with_their_moments(self, bank: World) -> None:
        first, second = NOON - timedelta(days=10), NOON - timedelta(days=5)
        bank.post_one(Entry("d1", "EQUITY", "A", "3", at=first))
        bank.post_one(Entry("u1", "A", "EQUITY", "4", at=first + timedelta(days=1)))
        bank.post_one(Entry("d2", "EQUITY", "A", "8", at=second))
        bank.post_one(Entry("d3", "EQUITY", "A", "1", at=second + timedelta(hours=1)))
        rows = {row["account_id"]: row for row in sample(bank, "historical_dips")}
        assert rows["A"] == {
            "account_id": "A", "currency_code": "USD", "dips": 2, "first_dip_at": first,
            "lowest_balance": Decimal("-8"), "lowest_at": second + timedelta(hours=1), "ended_at": NOON,
        }  # fmt: skip

    def test_still_below_zero_have_no_end(self, bank: World) -> None:
        bank.post_one(Entry("d1", "EQUITY", "A", "300", at=NOON + timedelta(days=1)))
        rows = {row["account_id"]: row for row in sample(bank, "historical_dips")}
        assert rows["A"]["ended_at"] is None
        assert rows["EQUITY"]["first_dip_at"] == NOON + timedelta(days=1)

    def test_that_dip_inside_a_moment_did_not_dip(self, bank: World) -> None:
        at = NOON - timedelta(days=1)
        bank.post_one(Entry("out", "EQUITY", "A", "7", at=at))
        bank.post_one(Entry("in", "A", "EQUITY", "7", at=at))
        assert "historical_dips" not in found(bank)


class TestReferencesAndIndexes:
    def test_a_reference_that_is_there_twice_and_an_index_that_lost_it(self, bank: World) -> None:
        self.set_index(bank, kept=False)
        assert broken(bank)["unhealthy_indexes"] == 1
        bank.post_one(Entry("live", "A", "EQUITY"))
        self.set_index(bank, kept=True)
        assert broken(bank) == {"duplicate_references": 1, "unique_indexes_differ_from_tables": 1}
        assert sample(bank, "duplicate_references") == (
            {"ledger_id": "MASTER", "reference_id": "live", "entries": 2},
        )
        assert sample(bank, "unique_indexes_differ_from_tables") == ({"index": UNIQUE, "keys": 4, "rows": 5},)
        assert audit.audit(bank.connection).duplicate_references == 1

    @staticmethod
    def set_index(world: World, *, kept: bool) -> None:
        world.connection.execute(
            "UPDATE pg_index SET indisready = %s, indisvalid = %s WHERE indexrelid = %s::regclass",
            [kept, kept, UNIQUE],
        )

    def test_a_sequence_behind_its_column(self, bank: World) -> None:
        bank.connection.execute("ALTER SEQUENCE ledger_entries_id_seq RESTART WITH 1")
        (row,) = sample(bank, "sequences_behind")
        assert (row["table"], row["column"], broken(bank)) == (
            "ledger_entries",
            "id",
            {"sequences_behind": 1},
        )

    def test_a_sequence_that_is_nearly_used_up(self, bank: World) -> None:
        bank.connection.execute("SELECT setval('ledger_backfill_checkpoints_id_seq', 2000000000)")
        assert [row["table"] for row in sample(bank, "sequences_nearly_used_up")] == [
            "ledger_backfill_checkpoints"
        ]
        assert audit.audit(bank.connection).clean


class TestSchema:
    @pytest.mark.parametrize(
        ("damage", "missing"),
        [
            ("DROP TRIGGER ledger_entries_tell_banks ON ledger_entries", "enabled triggers on ledger_entries: ledger_entries_tell_banks"),
            ("ALTER TABLE audit_log DISABLE TRIGGER ALL", "enabled triggers on audit_log: audit_log_append_only, audit_log_chain"),
            ("ALTER TABLE bank_accounts ENABLE REPLICA TRIGGER bank_accounts_keep_identity", "enabled triggers on bank_accounts: bank_accounts_keep_identity"),
            ("DROP FUNCTION balance_as_of", "function balance_as_of"),
        ],
    )  # fmt: skip
    def test_that_is_not_in_force_is_named(self, bank: World, damage: str, missing: str) -> None:
        bank.connection.execute(damage)
        assert audit.audit(bank.connection).missing == (missing,)
        assert broken(bank) == {"schema_incomplete": 1}

    @pytest.mark.parametrize(
        "damage", ["DROP VIEW backfill_partition_outcomes", "DROP FUNCTION ledger_balance_dips"]
    )
    def test_a_check_that_cannot_be_made_is_not_passed(self, bank: World, damage: str) -> None:
        bank.connection.execute(damage)
        examined = audit.audit(bank.connection)
        (skipped,) = examined.skipped
        assert (skipped.outcome, examined.clean) == ("skipped", False)
        assert damage.split()[-1] in str(skipped.skipped)


class TestBackfills:
    def test_entries_of_a_batch_that_nobody_recorded(self, bank: World) -> None:
        with unguarded(bank):
            bank.connection.execute("UPDATE ledger_entries SET batch_id = 77 WHERE reference_id = 'live'")
        assert broken(bank) == {"entries_of_unknown_batches": 1}
        assert sample(bank, "entries_of_unknown_batches") == (
            {"batch_id": 77, "entries": 1, "first_reference": "live"},
        )

    def test_batches_that_lost_some_or_all_of_their_entries(self, bank: World) -> None:
        bank.connection.execute("DELETE FROM ledger_entries WHERE reference_id = 'r2'")
        assert broken(bank) == {"batches_differ_from_entries": 1}
        (row,) = sample(bank, "batches_differ_from_entries")
        assert (row["source_id"], row["posted"], row["entries"]) == ("bank", 3, 2)
        bank.connection.execute("DELETE FROM ledger_entries WHERE batch_id IS NOT NULL")
        assert broken(bank) == {"batches_without_entries": 1}

    def test_a_batch_that_posted_nothing_is_none_without_entries(self, bank: World) -> None:
        registration = bank.register(3, source_id="again")
        bank.post(registration, numbered([Entry("r1", "A", "EQUITY")]))
        assert bank.value("SELECT posted FROM backfill_batches WHERE source_id = 'again'") == 0
        assert broken(bank) == {}

    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE backfill_batches SET read = read - 1, posted = posted - 1",
            "UPDATE backfill_partitions SET rejected_early = 1",
            "UPDATE backfill_partitions SET row_count = 4",
        ],
    )
    def test_partitions_whose_rows_do_not_add_up(self, bank: World, damage: str) -> None:
        bank.connection.execute(damage)
        assert broken(bank)["partitions_with_lost_rows"] == 1

    def test_checkpoints_that_stall(self, bank: World) -> None:
        bank.register(5, source_id="other")
        checkpoints.start(bank.connection, "other", "CSV", {})
        assert "stalled_checkpoints" not in found(bank)
        bank.connection.execute(
            "UPDATE ledger_backfill_checkpoints SET last_checkpoint_at = last_checkpoint_at - interval '61 minutes'"
        )
        (row,) = sample(bank, "stalled_checkpoints")
        assert (row["source_id"], row["written_by_a_run"]) == ("other", False)
        with source_lock(bank.url, "other"):
            assert sample(bank, "stalled_checkpoints")[0]["written_by_a_run"] is True
        patient = audit.audit(bank.connection, stalled_after=timedelta(hours=2))
        assert patient.check("stalled_checkpoints").count == 0
        assert patient.check("stalled_checkpoints").looks_for.endswith("2 h")

    def test_an_audit_log_that_was_edited(self, bank: World) -> None:
        for number in range(3):
            audit_log.write(bank.connection, actor="ann", action="try", subject=str(number))
        assert broken(bank) == {}
        with unguarded(bank):
            bank.connection.execute("UPDATE audit_log SET actor = 'bob' WHERE number = 2")
        assert broken(bank) == {"audit_log_chain": 1}

    def test_seals_that_were_edited_or_removed(self, bank: World) -> None:
        with unguarded(bank):
            bank.connection.execute("UPDATE ledger_seals SET entries = 4")
        assert broken(bank) == {"seal_chain": 1}
        with unguarded(bank):
            bank.connection.execute("DELETE FROM ledger_seals")
        assert found(bank) == {"seal_chain": 1, "batches_not_sealed": 1, "accounts_never_used": 1}

    def test_a_batch_that_vanished_with_its_entries(self, bank: World) -> None:
        """Nothing else in the ledger tells that it was there."""
        bank.connection.execute("UPDATE backfill_partitions SET posted_at = NULL")
        bank.connection.execute("DELETE FROM ledger_entries WHERE batch_id IS NOT NULL")
        bank.connection.execute("DELETE FROM backfill_batches")
        assert broken(bank) == {"sealed_batches_missing": 1}

    def test_columns_that_may_be_written(self, bank: World) -> None:
        bank.connection.execute("INSERT INTO ledger_open_columns (column_name) VALUES ('note')")
        assert found(bank)["open_columns"] == 1

    def test_requests_that_wait_for_another_person(self, bank: World) -> None:
        assert audit_log.set_four_eyes(bank.connection, False, actor="ann", reason="alone") is False
        assert found(bank)["open_requests"] == 1
        assert sample(bank, "open_requests")[0]["requested_by"] == "ann"


@pytest.mark.parametrize("mode", ["delete", "reverse"])
def test_what_was_rolled_back_is_accounted_for(bank: World, mode: rollback.Mode) -> None:
    scope = rollback.RollbackScope("bank")
    planned = rollback.plan(bank.connection, scope, mode=mode)
    rollback.apply(
        bank.connection,
        scope,
        plan_hash=str(planned["plan_hash"]),
        actor="ann",
        reason="wrong file",
        mode=mode,
    )
    assert bank.count() == {"delete": 1, "reverse": 7}[mode]
    assert broken(bank) == {}
    lost = bank.connection.execute("DELETE FROM ledger_entries WHERE reference_id LIKE 'r1%'").rowcount
    assert broken(bank).get("linked_entries_missing", 0) == lost == {"delete": 0, "reverse": 2}[mode]


@pytest.mark.parametrize(
    "change",
    ["amount = 1.01", "(debit_account_id, credit_account_id) = (credit_account_id, debit_account_id)", "transaction_type = 'OTHER'", "fx_rate = 2",
     "reference_id = reference_id || 'x'", "currency_code = 'EUR'"],
)  # fmt: skip
def test_a_reversing_entry_that_was_changed_before_it_was_sealed(bank: World, change: str) -> None:
    scope = rollback.RollbackScope("bank")
    planned = rollback.plan(bank.connection, scope, mode="reverse")
    rollback.apply(
        bank.connection, scope, plan_hash=str(planned["plan_hash"]), actor="ann", reason="x", mode="reverse"
    )
    assert "reversals_that_differ" not in broken(bank)
    with unguarded(bank):
        changed = bank.connection.execute(
            f"UPDATE ledger_entries SET {change} WHERE reference_id LIKE 'r1%~reversed'"
        ).rowcount
    assert broken(bank)["reversals_that_differ"] == changed > 0


class TestTotals:
    def test_per_ledger_currency_and_day_in_utc(self, bank: World) -> None:
        bank.post_one(Entry("late", "A", "EQUITY", "1.25", at=datetime(2024, 3, 1, 23, 59, 59, tzinfo=UTC)))
        bank.post_one(Entry("next", "A", "EQUITY", "1.25", at=datetime(2024, 3, 2, tzinfo=UTC)))
        bank.post_one(replace(Entry("other", "A", "EQUITY", "7"), ledger="OTHER"))
        bank.connection.execute("SET timezone = 'Asia/Tokyo'")
        totals = audit.audit(bank.connection).totals
        assert [(day.day, day.ledger_id, day.entries, day.amount) for day in totals.days] == [
            (date(2024, 3, 1), "MASTER", 5, Decimal("28.75")),
            (date(2024, 3, 1), "OTHER", 1, Decimal(7)),
            (date(2024, 3, 2), "MASTER", 1, Decimal("1.25")),
        ]
        assert [
            (one.ledger_id, one.currency_code, one.entries, one.amount, one.days) for one in totals.ledgers
        ] == [
            ("MASTER", "USD", 6, Decimal("30.00"), 2),
            ("OTHER", "USD", 1, Decimal(7), 1),
        ]
        assert (totals.entries, totals.day_count, totals.earliest, totals.latest) == (
            7,
            3,
            NOON,
            datetime(2024, 3, 2, tzinfo=UTC),
        )


def test_counts_are_complete_however_short_the_sample(world: World) -> None:
    world.open_ring(200)
    world.connection.execute("UPDATE bank_accounts SET balance = 1, available_balance = 1")
    check = audit.audit(world.connection).check("accounts_never_used")
    assert (check.count, len(check.sample)) == (200, SAMPLE_SIZE)
    differ = audit.audit(world.connection).check("balances_differ_from_legs")
    assert (differ.count, len(differ.sample)) == (400, SAMPLE_SIZE)  # both balances of each


def test_reads_each_table_a_bounded_number_of_times(world: World) -> None:
    """Set-wise: ten times the entries take no more statements."""
    world.open_ring(50)
    registration = world.register()

    def statements() -> int:
        counted = 0
        real = world.connection.cursor

        def count(*arguments: object, **options: object) -> object:
            nonlocal counted
            counted += 1
            return real(*arguments, **options)

        world.connection.cursor = count
        audit.audit(world.connection)
        world.connection.cursor = real
        return counted

    world.post(registration, many(100, 50))
    few = statements()
    world.post(registration, many(1000, 50, prefix="more", first_row=101))
    assert statements() == few > 20
