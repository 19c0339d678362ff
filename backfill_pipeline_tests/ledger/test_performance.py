"""Guards against quadratic work: generous bounds that only a wrong plan misses."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from backfill_pipeline.ledger import constraints, reconciliation
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import NOON, Entry, World, many

ROWS = 50_000
ACCOUNTS = 5_000
BOUND_S = 120.0  # seconds on an idle machine; with a wrong plan, many minutes


@pytest.fixture
def bank(world: World) -> Registration:
    world.open_ring(ACCOUNTS)
    return world.register()


@contextmanager
def within(seconds: float = BOUND_S) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def replaced(rows: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, rows.schema.field(index), values)
    return rows


def renumbered(rows: pa.Table, by: int) -> pa.Table:
    return replaced(rows, source_row=pc.add(rows.column("source_row"), by))


def test_a_batch_of_nothing_but_duplicates_and_conflicts(world: World, bank: Registration) -> None:
    rows = many(ROWS, ACCOUNTS)
    assert world.post(bank, rows).posted == ROWS
    conflicting = replaced(
        rows, amount=pa.repeat(pa.scalar(Decimal(2), rows.schema.field("amount").type), ROWS)
    )
    with within():
        assert world.post(bank, renumbered(rows, ROWS)).duplicates == ROWS
    with within():
        assert world.post(bank, renumbered(conflicting, 2 * ROWS)).conflicts == ROWS
    assert world.count() == ROWS


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_small_batch_of_duplicates_does_not_read_a_large_ledger(
    world: World, bank: Registration, shuffled: bool
) -> None:
    """Found together where they were posted, or looked up one by one; never by a scan of all entries."""
    rows = many(ROWS, ACCOUNTS)
    world.post(bank, rows)
    repeated = rows.slice(1000, 500) if not shuffled else rows.take(pa.array(range(0, ROWS, 100)))
    session = world.connect()
    scans = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'ledger_entries'"
    world.connection.execute("SELECT pg_stat_force_next_flush()")
    before = world.value(scans)
    outcome = world.post(bank, renumbered(repeated, ROWS), connection=session)
    assert (outcome.path, outcome.duplicates) == ("staging", 500)
    session.execute("SELECT pg_stat_force_next_flush()")
    assert world.value(scans) - before < ROWS // 10


def test_reading_a_partition_back_does_not_read_a_large_ledger(world: World, bank: Registration) -> None:
    """Also without statistics, as right after a load: the planner then thinks that a scan of everything is cheap."""
    rows = many(ROWS, ACCOUNTS)
    world.post(bank, rows)
    small = world.register(source_id="small")
    world.post(small, replaced(rows.slice(0, 100), reference_id=pa.array([f"R{n}" for n in range(100)])))
    with world.connect() as session:
        reconciliation.prepare(session)
        session.execute("UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE relname = 'ledger_entries'")
        scans = "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'ledger_entries'"
        session.execute("SELECT pg_stat_force_next_flush()")
        before = world.value(scans)
        assert reconciliation.posted_entries(session, small.partitions[0].id).num_rows == 100
        session.execute("SELECT pg_stat_force_next_flush()")
        assert world.value(scans) == before


def test_a_batch_is_read_from_its_own_pages_although_others_left_some_behind(
    world: World, bank: Registration
) -> None:
    """Batches lie together, but here and there is a row of a much later one, as after posting two at a time."""
    world.open("FROM", "TO")
    world.connection.execute(
        "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
        " transaction_type, reference_id, timestamp_utc, batch_id)"
        " SELECT 'M', 'FROM', 'TO', 1, 'USD', 'T', 'spread ' || n, now(),"
        "        CASE WHEN n %% 300 = 0 THEN 40 ELSE n / %s END FROM generate_series(1, %s) AS n",
        [ROWS // 40, ROWS],
    )
    reconciliation.prepare(world.connection)
    world.connection.execute("SET enable_seqscan = off")
    plan = world.value("EXPLAIN (ANALYZE, FORMAT json) SELECT * FROM ledger_entries WHERE batch_id = 20")[0][
        "Plan"
    ]
    pages = world.value("SELECT pg_relation_size('ledger_entries') / 8192")
    assert plan["Actual Rows"] > 0
    assert plan["Lossy Heap Blocks"] < pages / 5


def test_a_batch_that_repeats_one_reference(world: World, bank: Registration) -> None:
    rows = replaced(many(ROWS, ACCOUNTS), reference_id=pa.repeat("same", ROWS))
    with within():
        assert world.post(bank, rows).posted == 1


def test_thousands_of_affected_accounts_under_constraints(world: World, bank: Registration) -> None:
    """Every account has a little, and is asked for more than it ever gets: all are affected, some rows are borne."""
    world.open("FUND", normal_side="credit")
    world.connection.execute(
        "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
        " transaction_type, reference_id, timestamp_utc)"
        " SELECT 'M', id, 'FUND', 3, 'USD', 'T', 'fund ' || id, now() FROM bank_accounts WHERE id <> 'FUND'"
    )
    constraints.apply(world.connection)
    rows = many(ROWS, ACCOUNTS)
    rows = replaced(rows, amount=pc.add(modulo(rows, 7), 1).cast(rows.schema.field("amount").type))
    with within():
        outcome = world.post(bank, rows)
    assert outcome.posted + outcome.rejected == ROWS
    assert outcome.posted > 0
    assert outcome.rejected > 0
    assert world.value("SELECT min(available_balance) FROM bank_accounts") >= 0
    world.assert_balances_follow_entries()


def modulo(rows: pa.Table, divisor: int) -> pa.ChunkedArray:
    numbers = rows.column("source_row")
    return pc.subtract(numbers, pc.multiply(pc.divide(numbers, divisor), divisor))


def test_a_long_chain_of_accounts_that_rely_on_one_another(world: World, bank: Registration) -> None:
    """Account i + 1 lives on what account i passes on, and account 0 has nothing: each round finds one account more."""
    constraints.apply(world.connection)
    count = ACCOUNTS - 1
    rows = many(count, ACCOUNTS + 1)  # row i pays from account i + 1 to account i
    rows = replaced(
        rows,
        debit_account_id=pa.array([f"a{n + 1:06d}" for n in range(count)]),
        credit_account_id=pa.array([f"a{n:06d}" for n in range(count)]),
        timestamp_utc=pa.repeat(pa.scalar(NOON, rows.schema.field("timestamp_utc").type), count),
    )
    with within():
        assert world.post(bank, rows).rejected == count


def test_a_large_batch_after_single_postings_in_the_same_session(world: World, bank: Registration) -> None:
    """The plan of the first, tiny statement must not be that of the large one."""
    world.open("EUR", currency="EUR")
    for number in range(10):
        world.post_one(Entry(f"s{number}", "a000000", "a000001"))
        world.post_one(Entry(f"e{number}", "EUR", "a000001", fx_rate="1.1"))
        world.post(
            bank,
            [Entry(f"b{number}", "EUR", "a000001", fx_rate="1.1", row=number + 1)],
            staging=bool(number % 2),
        )
    rows = many(ROWS, ACCOUNTS, first_row=101)
    with within():
        assert world.post(bank, rows).path == "copy"
    # half of the accounts in another currency, every entry with a rate, straight through the trigger
    world.connection.execute(
        "INSERT INTO bank_accounts (id, currency_code)"
        " SELECT 'x' || lpad(n::text, 6, '0'), CASE n % 2 WHEN 0 THEN 'USD' ELSE 'EUR' END FROM generate_series(0, 19999) n"
    )
    with within():
        world.connection.execute(
            "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
            " transaction_type, reference_id, timestamp_utc, fx_rate)"
            " SELECT 'M', 'x' || lpad((n % 20000)::text, 6, '0'), 'x' || lpad(((n + 1) % 20000)::text, 6, '0'), 1, 'USD',"
            " 'T', 'fx' || n, now(), 1.1 FROM generate_series(0, 49999) n"
        )
    with within():
        world.connection.execute("DELETE FROM ledger_entries WHERE reference_id LIKE 'fx%'")
    world.assert_balances_follow_entries()


def test_a_single_posting_does_not_read_all_accounts(world: World) -> None:
    """With 100,000 accounts, one posting costs what it costs with two: milliseconds, where a scan takes a hundred."""
    world.open_ring(100_000)
    world.open("EUR", currency="EUR")
    live = world.connect()
    for number in range(20):
        world.post_one(Entry(f"warm{number}", "a000000", "a000001"), live)
        world.post_one(Entry(f"warmer{number}", "EUR", "a000001", fx_rate="2"), live)
    scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'bank_accounts'"
    live.execute("SELECT pg_stat_force_next_flush()")
    before = live.execute(scans).fetchone()
    for number in range(20):
        world.post_one(Entry(f"r{number}", "a099998", "a099999"), live)
        world.post_one(Entry(f"e{number}", "EUR", "a099999", fx_rate="2"), live)
    live.execute("SELECT pg_stat_force_next_flush()")
    assert live.execute(scans).fetchone() == before


def test_a_batch_whose_bad_row_comes_last_is_explained_quickly(world: World, bank: Registration) -> None:
    rows = many(ROWS, ACCOUNTS)
    last = pa.chunked_array(
        [rows.column("debit_account_id").combine_chunks().slice(0, ROWS - 1), pa.array(["NOBODY"])]
    )
    with within():
        outcome = world.post(bank, replaced(rows, debit_account_id=last))
    assert (outcome.posted, outcome.rejected) == (ROWS - 1, 1)
