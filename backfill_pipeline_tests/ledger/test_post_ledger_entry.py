"""The atomic posting function, called as the strategy document calls it and as history needs it."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from backfill_pipeline_tests.ledger.world import NOON, Entry, World


@pytest.fixture
def world(world: World) -> World:
    world.open("A", "B")
    return world


def test_returns_the_entrys_id_and_stores_every_field(world: World) -> None:
    entry = Entry(
        "r1", amount="12.30", fx_rate="1.10", metadata='{"note": "é \\"q\\""}', ledger="SOVEREIGN", asset_type="cbdc", kind="FEE"
    )  # fmt: skip
    entry_id = world.post_one(entry)
    assert world.rows(
        "SELECT id, ledger_id, debit_account_id, credit_account_id, amount::text, currency_code, asset_type,"
        " transaction_type, reference_id, timestamp_utc, fx_rate::text, metadata, batch_id, source_row FROM ledger_entries"
    ) == [
        (entry_id, "SOVEREIGN", "A", "B", "12.30", "USD", "cbdc", "FEE", "r1", NOON, "1.10", {"note": 'é "q"'}, None, None)
    ]  # fmt: skip


def test_the_event_time_is_kept_apart_from_the_time_of_posting(world: World) -> None:
    event = datetime(1999, 12, 31, 23, 59, 59, 123456, tzinfo=UTC)
    world.post_one(Entry("r1", at=event))
    stored, posted_at, age = world.rows(
        "SELECT timestamp_utc, posted_at, now() - posted_at FROM ledger_entries"
    )[0]
    assert stored == event
    assert posted_at.year >= 2024
    assert timedelta(0) <= age < timedelta(minutes=5)


def test_ten_arguments_as_in_the_strategy_mean_a_live_posting(world: World) -> None:
    entry_id = world.value(
        "SELECT post_ledger_entry(%s::TEXT, %s::TEXT, %s::TEXT, %s::NUMERIC, %s::TEXT, %s::TEXT, %s::TEXT, %s::TEXT,"
        " %s::NUMERIC, %s::JSONB)",
        "MASTER", "A", "B", "1000.00", "USD", "fiat", "TRANSFER", "r1", None, None,
    )  # fmt: skip
    assert world.rows("SELECT id, amount::text, timestamp_utc = posted_at FROM ledger_entries") == [
        (entry_id, "1000.00", True)
    ]


def test_arguments_by_name(world: World) -> None:
    world.connection.execute(
        "SELECT post_ledger_entry(p_reference_id => 'r1', p_ledger_id => 'MASTER', p_amount => 5, p_currency_code => 'USD',"
        " p_debit_account_id => 'A', p_credit_account_id => 'B', p_asset_type => 'fiat', p_transaction_type => 'T',"
        " p_timestamp_utc => '2020-02-29 12:00+02')"
    )
    assert world.value("SELECT timestamp_utc FROM ledger_entries") == datetime(2020, 2, 29, 10, tzinfo=UTC)


def test_a_reference_is_taken_once_per_ledger(world: World) -> None:
    world.post_one(Entry("r1"))
    for again in (Entry("r1"), Entry("r1", amount="99")):
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            world.post_one(again)
        assert caught.value.sqlstate == "23505"
    world.post_one(Entry("r1", ledger="OTHER"))
    assert world.balance("A") == 20


@pytest.mark.parametrize(
    ("entry", "sqlstate"),
    [
        (Entry("r1", debit="NOBODY"), "23503"), (Entry("r1", credit="NOBODY"), "23503"), (Entry("r1", "A", "A"), "23514"),
        (Entry("r1", amount="-1"), "23514"), (Entry("r1", currency="EUR"), "23514"), (Entry("r1", currency="QQQ"), "23514"),
    ],
)  # fmt: skip
def test_what_the_ledger_does_not_allow_has_its_code(world: World, entry: Entry, sqlstate: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        world.post_one(entry)
    assert caught.value.sqlstate == sqlstate
    assert world.count() == 0


def test_a_missing_event_time_is_refused_never_now(world: World) -> None:
    arguments = Entry("r1").arguments()
    with pytest.raises(psycopg.errors.NotNullViolation):
        world.connection.execute(
            "SELECT post_ledger_entry(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, NULL::timestamptz)",
            arguments[:10],
        )


def test_a_script_that_posts_row_by_row_and_skips_unique_violations_works(world: World) -> None:
    """The strategy's SQL backfill script, with its table."""
    world.connection.execute(
        "CREATE TABLE ledger_entries_legacy AS SELECT n AS id, 'MASTER' AS ledger_id, 'A' AS debit_account_id,"
        " 'B' AS credit_account_id, n AS amount, 'USD' AS currency_code, 'fiat' AS asset_type, 'T' AS transaction_type,"
        " 'r' || n % 5 AS reference_id, NULL AS fx_rate, NULL AS metadata FROM generate_series(1, 10) n"
    )
    world.connection.execute("""
        DO $$
        DECLARE entry RECORD; successful INTEGER := 0; failed INTEGER := 0;
        BEGIN
            FOR entry IN SELECT * FROM ledger_entries_legacy ORDER BY id LOOP
                BEGIN
                    PERFORM post_ledger_entry(entry.ledger_id::TEXT, entry.debit_account_id::TEXT,
                        entry.credit_account_id::TEXT, entry.amount::NUMERIC, entry.currency_code::TEXT,
                        entry.asset_type::TEXT, entry.transaction_type::TEXT, entry.reference_id::TEXT,
                        entry.fx_rate::NUMERIC, entry.metadata::JSONB);
                    successful := successful + 1;
                EXCEPTION WHEN unique_violation THEN failed := failed + 1;
                END;
            END LOOP;
            ASSERT successful = 5 AND failed = 5;
        END $$
    """)
    assert world.balance("A") == 15
    world.assert_balances_follow_entries()
