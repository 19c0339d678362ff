"""Entries between currencies: what is converted, how it is rounded, and that it can be taken back."""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.money import CURRENCY_DECIMALS, round_half_even
from backfill_pipeline_tests.ledger.world import Entry, World


@pytest.fixture
def world(world: World) -> World:
    world.open("USD", "USD2")
    world.open("EUR", currency="EUR")
    world.open("JPY", currency="JPY")
    world.open("KWD", currency="KWD")
    world.open("XAU", currency="XAU")
    world.open("LIAB", currency="JPY", normal_side="credit")
    return world


@pytest.mark.parametrize(
    ("account", "amount", "rate", "moved"),
    [
        # halves go to the even neighbour, everything else to the nearest
        ("JPY", "1", "0.5", "0"), ("JPY", "3", "0.5", "2"), ("JPY", "5", "0.5", "2"), ("JPY", "7", "0.5", "4"),
        ("JPY", "1", "0.500000000000000001", "1"), ("JPY", "1", "0.499999999999999999", "0"),
        ("JPY", "10.00", "110.25", "1102"), ("JPY", "10.00", "110.35", "1104"), ("JPY", "10.00", "110.26", "1103"),
        ("EUR", "1", "0.125", "0.12"), ("EUR", "1", "0.135", "0.14"), ("EUR", "1", "0.145", "0.14"),
        ("EUR", "1", "0.1250000001", "0.13"), ("EUR", "0.01", "0.5", "0.00"), ("EUR", "0.03", "0.5", "0.02"),
        ("KWD", "1", "0.3075", "0.308"), ("KWD", "1", "0.3065", "0.306"), ("KWD", "1", "0.30651", "0.307"),
        ("KWD", "99999999999999999999", "1.0005", "100049999999999999999.000"),
        # no minor unit: kept to 18 decimals
        ("XAU", "0.1", "0.000000000000000005", "0.000000000000000000"),
        ("XAU", "0.3", "0.000000000000000005", "0.000000000000000002"),
        ("XAU", "2", "0.0004171", "0.0008342"),
        ("XAU", "0.000000000000000001", "0.5", "0"),
    ],
)  # fmt: skip
def test_the_other_currency_moves_by_the_product_rounded_half_even(
    world: World, account: str, amount: str, rate: str, moved: str
) -> None:
    world.post_one(Entry("r1", account, "USD", amount, fx_rate=rate))
    assert world.balance(account) == Decimal(moved)
    assert world.balance("USD") == -Decimal(amount)
    assert world.rows("SELECT side, account_id, currency_code, amount FROM ledger_entry_conversions") == [
        ("debit", account, account, Decimal(moved))
    ]
    world.assert_balances_follow_entries()


def test_the_credit_side_converts_alike_and_a_liability_moves_its_own_way(world: World) -> None:
    world.post_one(Entry("r1", "USD", "LIAB", "2.00", fx_rate="150"))
    assert world.balance("LIAB") == 300
    assert world.balance("USD") == 2
    assert world.rows("SELECT side, amount FROM ledger_entry_conversions") == [("credit", 300)]
    world.assert_balances_follow_entries()


def test_the_legs_view_shows_each_side_in_its_accounts_currency(world: World) -> None:
    world.post_one(Entry("r1", "JPY", "USD", "10.00", fx_rate="150.123"))
    world.post_one(
        Entry("r2", "USD", "USD2", "1.00", fx_rate="2")
    )  # a rate that nobody needs changes nothing
    assert world.rows(
        "SELECT reference_id, side, account_id, amount, currency_code, entry_amount, entry_currency_code"
        " FROM ledger_entry_legs ORDER BY 1, 2"
    ) == [
        ("r1", "credit", "USD", Decimal("10.00"), "USD", Decimal("10.00"), "USD"),
        ("r1", "debit", "JPY", Decimal("1501"), "JPY", Decimal("10.00"), "USD"),
        ("r2", "credit", "USD2", Decimal("1.00"), "USD", Decimal("1.00"), "USD"),
        ("r2", "debit", "USD", Decimal("1.00"), "USD", Decimal("1.00"), "USD"),
    ]


def test_one_statement_holds_entries_with_and_without_conversion(world: World) -> None:
    world.connection.execute(
        "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
        " transaction_type, reference_id, timestamp_utc, fx_rate) VALUES"
        " ('M', 'USD', 'USD2', 5, 'USD', 'T', '1', now(), NULL), ('M', 'USD', 'EUR', 5, 'EUR', 'T', '2', now(), 1.1),"
        " ('M', 'JPY', 'USD', 300, 'JPY', 'T', '3', now(), 0.0066), ('M', 'EUR', 'JPY', 1, 'EUR', 'T', '4', now(), 160)"
    )
    assert world.balances() == {
        "USD": Decimal("5") + Decimal("5.50") - Decimal("1.98"), "USD2": -5, "EUR": -4, "JPY": 140, "KWD": 0, "XAU": 0,
        "LIAB": 0,
    }  # fmt: skip
    world.assert_balances_follow_entries()
    world.connection.execute("DELETE FROM ledger_entries WHERE reference_id IN ('1', '3')")
    assert world.count("ledger_entry_conversions") == 2
    world.assert_balances_follow_entries()
    world.connection.execute("DELETE FROM ledger_entries")
    assert world.count("ledger_entry_conversions") == 0
    assert set(world.balances().values()) == {0}


def test_without_a_rate_it_is_refused(world: World) -> None:
    with pytest.raises(
        psycopg.errors.CheckViolation, match="entry r1 moves between EUR and USD without an fx_rate"
    ):
        world.post_one(Entry("r1", "EUR", "USD"))


def test_with_neither_account_in_its_currency_it_is_refused_rate_or_not(world: World) -> None:
    for rate in (None, "1.5"):
        with pytest.raises(
            psycopg.errors.CheckViolation, match="entry r1 is in USD, its accounts are in EUR and JPY"
        ):
            world.post_one(Entry("r1", "EUR", "JPY", fx_rate=rate))
    with pytest.raises(psycopg.errors.CheckViolation, match="is in JPY, its accounts are in USD and USD"):
        world.post_one(Entry("r1", "USD", "USD2", currency="JPY", fx_rate="1"))
    assert world.count() == 0
    assert set(world.balances().values()) == {0}


def test_minor_units_of_the_database_are_those_of_the_product(world: World) -> None:
    assert dict(world.rows("SELECT code, minor_units FROM currencies")) == dict(CURRENCY_DECIMALS)


values = st.decimals(
    min_value=Decimal("1e-18"), max_value=Decimal("99999999999999999999.999999999999999999"), places=18
)
# amount, rate and decimals whose product is a half, or next to one
halves = st.builds(
    lambda whole, half, rate_decimals, decimals: (
        (Decimal(whole) + Decimal(half) / 2).scaleb(rate_decimals - decimals),
        Decimal(1).scaleb(-rate_decimals),
        decimals,
    ),
    st.integers(0, 10**12),
    st.sampled_from([Decimal(0), Decimal(1), Decimal("0.9999"), Decimal("1.0001")]),
    st.integers(0, 18),
    st.integers(0, 18),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(halves | st.tuples(values, values, st.integers(0, 18)), min_size=1, max_size=40))
def test_rounding_equals_pythons_half_even(world: World, cases: list[tuple[Decimal, Decimal, int]]) -> None:
    with localcontext() as context:
        context.prec = 120
        expected = [
            (value * rate).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)
            for value, rate, decimals in cases
        ]
        assert expected == [round_half_even(value * rate, decimals) for value, rate, decimals in cases]
        rows = world.rows(
            "SELECT round_half_even(v * r, d), round_half_even(-v * r, d) FROM unnest(%s::numeric[], %s::numeric[],"
            " %s::int[]) WITH ORDINALITY AS t (v, r, d, n) ORDER BY n",
            [value for value, _, _ in cases],
            [rate for _, rate, _ in cases],
            [decimals for _, _, decimals in cases],
        )
        assert [positive for positive, _ in rows] == expected
        assert [-negative for _, negative in rows] == expected
