"""Balances follow entries, whatever writes them, and history is not edited."""

import io
from dataclasses import replace
from decimal import Decimal, localcontext

import psycopg
import pytest

from backfill_pipeline.ledger import balances
from backfill_pipeline.ledger.entries import COPY_SQL, copy_entries
from backfill_pipeline_tests.ledger.world import Entry, World, many, table

INSERT = (
    "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
    " transaction_type, reference_id, timestamp_utc) "
)


@pytest.fixture
def world(world: World) -> World:
    world.open("A", "B")
    world.open("LOAN", "DEPOSIT", normal_side="credit")
    return world


class TestWhateverWrites:
    def test_post_ledger_entry(self, world: World) -> None:
        world.post_one(Entry("r1", "A", "DEPOSIT", "10.00"))
        assert world.balance("A") == Decimal("10.00")
        assert world.balance("DEPOSIT") == Decimal("10.00")

    def test_insert_of_many_rows_in_psql(self, world: World) -> None:
        world.connection.execute(
            INSERT
            + "SELECT 'MASTER', 'A', 'B', n, 'USD', 'T', 'r' || n, now() FROM generate_series(1, 1000) AS n"
        )
        assert world.balance("A") == 500500
        assert world.balance("B") == -500500
        world.assert_balances_follow_entries()

    def test_binary_copy(self, world: World) -> None:
        copy_entries(
            world.connection, COPY_SQL, table([Entry("r1", amount="1.5"), Entry("r2", amount="2.25")]), 7
        )
        assert world.balance("A") == Decimal("3.75")
        world.assert_balances_follow_entries()

    def test_text_copy(self, world: World) -> None:
        lines = io.StringIO(
            "MASTER\tA\tB\t1.10\tUSD\tT\tr1\t2024-01-01Z\nMASTER\tB\tLOAN\t0.10\tUSD\tT\tr2\t2024-01-01Z\n"
        )
        with world.connection.cursor().copy(
            "COPY ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
            " transaction_type, reference_id, timestamp_utc) FROM STDIN"
        ) as copy:
            copy.write(lines.read())
        assert world.balances() == {
            "A": Decimal("1.10"), "B": Decimal("-1.00"), "LOAN": Decimal("0.10"), "DEPOSIT": 0,
        }  # fmt: skip

    def test_merge_and_on_conflict_do_nothing_move_only_what_they_insert(self, world: World) -> None:
        world.post_one(Entry("r1", amount="5"))
        world.connection.execute(
            INSERT + "VALUES ('MASTER', 'A', 'B', 100, 'USD', 'T', 'r1', now()),"
            " ('MASTER', 'A', 'B', 2, 'USD', 'T', 'r2', now()) ON CONFLICT DO NOTHING"
        )
        world.connection.execute(
            "MERGE INTO ledger_entries e USING (VALUES ('r2'), ('r3')) AS s (reference_id)"
            " ON e.reference_id = s.reference_id"
            " WHEN MATCHED THEN DELETE"
            " WHEN NOT MATCHED THEN INSERT (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
            " transaction_type, reference_id, timestamp_utc)"
            " VALUES ('MASTER', 'A', 'B', 30, 'USD', 'T', s.reference_id, now())"
        )
        assert world.references() == {"r1", "r3"}
        assert world.balance("A") == 35

    def test_two_inserts_in_one_statement_count_once_each(self, world: World) -> None:
        world.connection.execute(
            f"WITH first AS ({INSERT} VALUES ('MASTER', 'A', 'B', 1, 'USD', 'T', 'r1', now()) RETURNING id)"
            f" {INSERT} VALUES ('MASTER', 'A', 'B', 10, 'USD', 'T', 'r2', now())"
        )
        assert world.balance("A") == 11

    def test_insert_of_no_rows_is_nothing(self, world: World) -> None:
        world.connection.execute(INSERT + "SELECT 'MASTER', 'A', 'B', 1, 'USD', 'T', 'r', now() WHERE false")
        world.assert_balances_follow_entries()

    def test_available_balance_moves_alike_and_reserved_stays(self, world: World) -> None:
        world.connection.execute("UPDATE bank_accounts SET reserved_balance = 3 WHERE id = 'A'")
        world.post_one(Entry("r1", amount="10"))
        assert world.rows(
            "SELECT balance, available_balance, reserved_balance FROM bank_accounts WHERE id = 'A'"
        ) == [(10, 10, 3)]


class TestSides:
    @pytest.mark.parametrize(
        ("debit", "credit", "moved"),
        [
            ("A", "B", {"A": 7, "B": -7}),
            ("A", "DEPOSIT", {"A": 7, "DEPOSIT": 7}),
            ("LOAN", "B", {"LOAN": -7, "B": -7}),
            ("LOAN", "DEPOSIT", {"LOAN": -7, "DEPOSIT": 7}),
        ],
    )
    def test_a_debit_raises_debit_normal_and_lowers_credit_normal(
        self, world: World, debit: str, credit: str, moved: dict[str, int]
    ) -> None:
        world.post_one(Entry("r1", debit, credit, "7"))
        assert {account: balance for account, balance in world.balances().items() if balance} == moved

    def test_delete_takes_movements_back(self, world: World) -> None:
        for number, (debit, credit) in enumerate(
            [("A", "B"), ("A", "DEPOSIT"), ("LOAN", "A"), ("B", "LOAN")]
        ):
            world.post_one(Entry(f"keep{number}", debit, credit, "1.01"))
        before = world.balances()
        for number, (debit, credit) in enumerate(
            [("A", "B"), ("A", "DEPOSIT"), ("LOAN", "A"), ("B", "LOAN")]
        ):
            world.post_one(Entry(f"go{number}", debit, credit, "2.02"))
        assert (
            world.connection.execute("DELETE FROM ledger_entries WHERE reference_id LIKE 'go%'").rowcount == 4
        )
        assert world.balances() == before
        world.assert_balances_follow_entries()

    def test_delete_of_many_thousand_entries_takes_all_back(self, world: World) -> None:
        world.open_ring(100)
        copy_entries(world.connection, COPY_SQL, many(5_000, 100), 1)
        world.connection.execute("DELETE FROM ledger_entries")
        assert set(world.balances().values()) == {0}


class TestRefused:
    @pytest.mark.parametrize("table_name", ["ledger_entries", "ledger_entry_conversions"])
    @pytest.mark.parametrize("statement", ["UPDATE {} SET amount = amount WHERE false", "TRUNCATE {}"])
    def test_update_and_truncate_are_refused_even_of_nothing(
        self, world: World, table_name: str, statement: str
    ) -> None:
        with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
            world.connection.execute(statement.format(table_name))

    def test_upsert_is_an_update_and_refused(self, world: World) -> None:
        with pytest.raises(psycopg.errors.RestrictViolation):
            world.connection.execute(
                INSERT + "VALUES ('MASTER', 'A', 'B', 1, 'USD', 'T', 'r1', now())"
                " ON CONFLICT (ledger_id, reference_id) DO UPDATE SET amount = 5"
            )
        assert world.count() == 0

    def test_a_refused_row_refuses_its_statement_and_moves_nothing(self, world: World) -> None:
        with pytest.raises(psycopg.errors.ForeignKeyViolation, match="entry r2 names account NOBODY"):
            copy_entries(world.connection, COPY_SQL, table([Entry("r1"), Entry("r2", credit="NOBODY")]), 1)
        assert world.count() == 0
        assert set(world.balances().values()) == {0}

    def test_an_account_with_itself(self, world: World) -> None:
        with pytest.raises(psycopg.errors.CheckViolation, match="accounts_differ"):
            world.post_one(Entry("r1", "A", "A"))

    @pytest.mark.parametrize(
        "change", ["id = 'Z'", "currency_code = 'EUR'", "normal_side = 'credit'", "id = 'Z', balance = 1"]
    )
    def test_identity_of_an_account_is_fixed(self, world: World, change: str) -> None:
        with pytest.raises(psycopg.errors.RestrictViolation, match="account A keeps its id"):
            world.connection.execute(f"UPDATE bank_accounts SET {change} WHERE id = 'A'")

    def test_writing_an_account_unchanged_is_allowed(self, world: World) -> None:
        world.connection.execute(
            "UPDATE bank_accounts SET currency_code = 'USD', normal_side = 'debit' WHERE id = 'A'"
        )

    @pytest.mark.parametrize("currency", ["QQQ", "usd", ""])
    def test_an_account_has_a_currency_of_iso_4217(self, world: World, currency: str) -> None:
        with pytest.raises((psycopg.errors.ForeignKeyViolation, psycopg.errors.CheckViolation)):
            world.open("Z", currency=currency)


class TestAmounts:
    @pytest.mark.parametrize(
        "amount",
        [
            "10.00", "10", "10.0", "163.3", "0.000000000000000001", "99999999999999999999.999999999999999999",
            "99999999999999999999", "12345678901234567890.123456789012345678", "1.000000000000000000", "10000", "0.0001",
            "100000000", "1.10",
        ],
    )  # fmt: skip
    def test_come_back_as_written_from_the_function_and_from_copy(self, world: World, amount: str) -> None:
        world.post_one(Entry("one", amount=amount))
        copy_entries(world.connection, COPY_SQL, table([Entry("bulk", amount=amount)]), 1)
        assert world.rows("SELECT amount::text FROM ledger_entries") == [(amount,), (amount,)]
        with localcontext(prec=60):
            assert world.balance("A") == 2 * Decimal(amount)

    def test_of_all_scales_in_one_batch_keep_their_own(self, world: World) -> None:
        written = {f"r{scale}": f"3.{'7' * scale}".rstrip(".") for scale in range(19)}
        rows = [
            Entry(reference, amount=amount, fx_rate=amount if index % 3 == 0 else None)
            for index, (reference, amount) in enumerate(written.items())
        ]
        copy_entries(world.connection, COPY_SQL, table(rows), 1)
        stored = world.rows("SELECT reference_id, amount::text, fx_rate::text FROM ledger_entries")
        assert {reference: amount for reference, amount, _ in stored} == written
        assert {(r, rate) for r, _, rate in stored} == {(row.reference, row.fx_rate) for row in rows}

    @pytest.mark.parametrize(
        "amount",
        ["NaN", "Infinity", "-Infinity", "0", "0.00", "-1", "-0.01", "0.0000000000000000001", "1.0000000000000000000",
         "100000000000000000000", "1e20"],
    )  # fmt: skip
    @pytest.mark.parametrize("what", ["amount", "fx_rate"])
    def test_that_are_none_are_refused(self, world: World, what: str, amount: str) -> None:
        entry = (
            replace(Entry("r1"), amount=amount) if what == "amount" else replace(Entry("r1"), fx_rate=amount)
        )
        with pytest.raises(psycopg.errors.CheckViolation, match=f"ledger_entries_{what}_check"):
            world.post_one(entry)
        assert world.count() == 0


class TestProof:
    def test_a_balance_changed_by_hand_is_found(self, world: World) -> None:
        world.post_one(Entry("r1"))
        world.connection.execute(
            "UPDATE bank_accounts SET balance = balance + 0.000000000000000001 WHERE id = 'B'"
        )
        found = balances.examine(world.connection)
        assert found.break_count == 1
        (broken,) = found.breaks
        assert (broken.account_id, broken.what) == ("B", "balance")
        assert broken.actual - broken.expected == Decimal("1e-18")
        (dollars,) = found.currencies
        assert (dollars.difference, dollars.drift) == (Decimal(0), Decimal("1e-18"))
        assert balances.trial_balance(world.connection)["USD"] == Decimal("1e-18")

    def test_an_available_balance_changed_by_hand_is_found(self, world: World) -> None:
        world.connection.execute("UPDATE bank_accounts SET available_balance = 1 WHERE id = 'A'")
        assert [b.what for b in balances.examine(world.connection).breaks] == ["available_balance"]

    def test_a_balance_without_entries_and_entries_without_account_are_found(self, world: World) -> None:
        world.connection.execute(
            "INSERT INTO bank_accounts (id, currency_code, balance) VALUES ('X', 'USD', 5)"
        )
        world.post_one(Entry("r1", "A", "B", "10"))
        world.connection.execute("DELETE FROM bank_accounts WHERE id = 'B'")
        assert {(b.account_id, b.what, b.expected, b.actual) for b in balances.examine(world.connection).breaks} == {
            ("X", "balance", Decimal(0), Decimal(5)), ("B", "balance", Decimal(-10), Decimal(0)), ("B", "available_balance", Decimal(-10), Decimal(0)),
        }  # fmt: skip

    def test_all_breaks_are_counted_and_the_first_are_shown(self, world: World) -> None:
        world.open_ring(150)
        world.connection.execute("UPDATE bank_accounts SET balance = 1 WHERE id LIKE 'a0%'")
        found = balances.examine(world.connection)
        assert found.break_count == 150
        assert [b.account_id for b in found.breaks] == [f"a{n:06d}" for n in range(balances.BREAK_SAMPLE)]

    def test_the_largest_amounts_are_summed_exactly(self, world: World) -> None:
        world.open("EUR", currency="EUR")
        world.post_one(Entry("r1", "A", "EUR", "99999999999999999999.999999999999999999", fx_rate="0.7"))
        world.post_one(Entry("r2", "A", "EUR", "0.000000000000000001", fx_rate="0.7"))
        world.post_one(Entry("r3", "B", "EUR", "77777777777777777777.777777777777777777", fx_rate="0.7"))
        world.assert_balances_follow_entries()
        world.connection.execute(
            "UPDATE bank_accounts SET balance = balance + 0.000000000000000001 WHERE id = 'A'"
        )
        totals = {totals.currency_code: totals for totals in balances.examine(world.connection).currencies}
        assert totals["USD"].difference == 0
        assert totals["USD"].drift == Decimal("1e-18")
