"""A closed period takes no entry and gives none away, whoever asks and whenever."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from backfill_pipeline.errors import LedgerError, TransientLedgerError
from backfill_pipeline.ledger import audit_log, periods
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline_tests.ledger.world import POST, Entry, World

FEBRUARY = date(2024, 2, 1)
IN_FEBRUARY = datetime(2024, 2, 14, 12, tzinfo=UTC)
FIRST = datetime(2024, 2, 1, tzinfo=UTC)
NEXT = datetime(2024, 3, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def bank(world: World) -> Registration:
    """Two accounts, and one entry of February 2024."""
    world.open("A", "B")
    world.post_one(Entry("live", at=IN_FEBRUARY))
    return world.register()


def close(world: World, month: date = FEBRUARY, ledger: str = "MASTER") -> bool:
    return periods.close(world.connection, ledger, month, actor="ann", reason="month end")


def insert(world: World, entry: Entry) -> None:
    world.connection.execute(
        "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,"
        " transaction_type, reference_id, fx_rate, metadata, timestamp_utc)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        entry.arguments(),
    )


def copy(world: World, entry: Entry) -> None:
    with world.connection.cursor().copy(
        "COPY ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,"
        " transaction_type, reference_id, fx_rate, metadata, timestamp_utc) FROM STDIN"
    ) as rows:
        rows.write_row(entry.arguments())


def test_what_is_dated_in_it_is_refused_in_words_by_every_way_of_posting(
    world: World, bank: Registration
) -> None:
    assert close(world)
    ways: list[Callable[[Entry], object]] = [
        world.post_one,
        lambda entry: insert(world, entry),
        lambda entry: copy(world, entry),
    ]
    for post in ways:
        for moment in (FIRST, NEXT - MICROSECOND):
            with pytest.raises(psycopg.errors.CheckViolation) as caught:
                post(Entry("late", at=moment))
            assert caught.value.diag.constraint_name == "ledger_entries_period_open"
            assert "entry late is dated 2024-02-" in str(caught.value.diag.message_primary)
            assert "period 2024-02 of ledger MASTER is closed" in str(caught.value.diag.message_primary)
            assert caught.value.diag.message_hint
    assert world.references() == {"live"}
    world.assert_balances_follow_entries()


def test_the_months_beside_it_and_other_ledgers_stay_open(world: World, bank: Registration) -> None:
    close(world)
    world.post_one(Entry("before", at=FIRST - MICROSECOND))
    world.post_one(Entry("after", at=NEXT))
    world.post_one(Entry("elsewhere", at=IN_FEBRUARY, ledger="OTHER"))
    assert world.count() == 4
    assert world.value("SELECT ledger_period_is_closed('MASTER', %s)", NEXT - MICROSECOND)
    assert not world.value("SELECT ledger_period_is_closed('MASTER', %s)", NEXT)
    assert not world.value("SELECT ledger_period_is_closed('OTHER', %s)", IN_FEBRUARY)


def test_its_entries_cannot_be_deleted(world: World, bank: Registration) -> None:
    world.post_one(Entry("march", at=NEXT))
    close(world)
    with pytest.raises(psycopg.errors.CheckViolation, match="entry live stays") as caught:
        world.connection.execute("DELETE FROM ledger_entries")
    assert caught.value.diag.constraint_name == "ledger_entries_period_open"
    world.connection.execute("DELETE FROM ledger_entries WHERE reference_id = 'march'")
    assert world.references() == {"live"}
    world.assert_balances_follow_entries()


def test_rows_of_a_batch_in_it_are_rejected_and_all_others_posted(world: World, bank: Registration) -> None:
    world.post_one(Entry("known", at=IN_FEBRUARY))
    close(world)
    rows = [
        Entry("january", at=FIRST - MICROSECOND),
        Entry("february", at=IN_FEBRUARY),
        Entry("known", at=IN_FEBRUARY),                     # a duplicate stays one
        Entry("live", at=IN_FEBRUARY, amount="11"),         # a conflict as well
        Entry("nobody", debit="NOBODY", at=IN_FEBRUARY),    # the period is looked at before the accounts
        Entry("march", at=NEXT),
    ]  # fmt: skip
    outcome = world.post(bank, rows)
    assert (outcome.read, outcome.posted, outcome.duplicates, outcome.conflicts, outcome.rejected) == (
        6,
        2,
        1,
        1,
        2,
    )
    assert world.rejects() == {2: "period_closed", 4: "conflict", 5: "period_closed"}
    field, reason = world.rows("SELECT field, reason FROM backfill_rejects WHERE source_row = 2")[0]
    assert field == "timestamp_utc"
    assert reason == "is dated 2024-02-14T12:00:00Z, and period 2024-02 of ledger MASTER is closed"
    world.assert_balances_follow_entries()


def test_a_month_that_is_not_over_and_a_ledger_without_entries_are_not_closed(
    world: World, bank: Registration
) -> None:
    with pytest.raises(LedgerError, match="is not over: it can be closed from"):
        close(world, datetime.now(UTC).date())
    with pytest.raises(LedgerError, match="ledger MISSPELT has no entries"):
        close(world, ledger="MISSPELT")
    assert periods.closed_periods(world.connection) == []


def test_closing_twice_does_it_once_and_is_in_the_audit_log(world: World, bank: Registration) -> None:
    assert close(world, IN_FEBRUARY.date())
    assert not close(world)
    (found,) = periods.closed_periods(world.connection, "MASTER")
    assert (found.month, found.closed_by, found.reason, found.entries) == (FEBRUARY, "ann", "month end", 1)
    (written,) = audit_log.entries(world.connection, subject="MASTER 2024-02")
    assert (written.action, written.actor, written.reason) == ("period_close", "ann", "month end")
    assert written.after is not None
    assert written.after["entries"] == 1
    assert audit_log.faults(world.connection) == []


def test_reopening_takes_two_people(world: World, bank: Registration) -> None:
    def reopen(actor: str) -> bool:
        return periods.reopen(
            world.connection, "MASTER", FEBRUARY, actor=actor, reason="an invoice came late"
        )

    assert reopen("ann")  # it is open: there is nothing to do, and nobody to ask
    assert audit_log.open_requests(world.connection) == []
    close(world)
    assert not reopen("ann")
    assert not reopen("ann")
    with pytest.raises(psycopg.errors.CheckViolation):
        world.post_one(Entry("late", at=IN_FEBRUARY))
    assert reopen("bob")
    world.post_one(Entry("late", at=IN_FEBRUARY))
    assert [one.action for one in audit_log.entries(world.connection)] == [
        "period_reopen", "period_reopen_requested", "period_close"
    ]  # fmt: skip
    assert close(world)
    assert [one.entries for one in periods.closed_periods(world.connection)] == [2]


def test_an_entry_that_belongs_to_it_can_be_dated_in_the_next_open_one(
    world: World, bank: Registration
) -> None:
    def moment(wanted: datetime) -> datetime:
        found: datetime = world.value("SELECT ledger_open_moment('MASTER', %s)", wanted)
        return found

    assert moment(IN_FEBRUARY) == IN_FEBRUARY
    close(world)
    assert moment(IN_FEBRUARY) == NEXT
    close(world, NEXT.date())
    assert moment(IN_FEBRUARY) == datetime(2024, 4, 1, tzinfo=UTC)
    assert moment(FIRST - MICROSECOND) == FIRST - MICROSECOND
    world.post_one(Entry("corrected", at=moment(IN_FEBRUARY)))


def test_closing_waits_for_what_is_being_posted_and_counts_it(world: World, bank: Registration) -> None:
    other, closing = world.connect(), world.connect()
    with ThreadPoolExecutor(1) as thread:
        with other.transaction():
            other.execute(POST, Entry("under way", at=IN_FEBRUARY).arguments())
            done = thread.submit(periods.close, closing, "MASTER", FEBRUARY, actor="ann", reason=None)
            _wait_until_somebody_waits(world)
        assert done.result(timeout=30)
    (found,) = periods.closed_periods(world.connection)
    assert found.entries == 2


def test_a_closing_whose_session_is_killed_leaves_nothing(world: World, bank: Registration) -> None:
    other, closing = world.connect(), world.connect()
    with ThreadPoolExecutor(1) as thread:
        with other.transaction():
            other.execute(POST, Entry("under way", at=IN_FEBRUARY).arguments())
            done = thread.submit(periods.close, closing, "MASTER", FEBRUARY, actor="ann", reason=None)
            _wait_until_somebody_waits(world)
            world.connection.execute("SELECT pg_terminate_backend(%s)", [closing.info.backend_pid])
        with pytest.raises(TransientLedgerError, match="cannot close a period of the ledger right now"):
            done.result(timeout=30)
    assert world.count("ledger_seals") == world.count("audit_log") == world.count("ledger_periods") == 0
    assert close(world)


def test_an_older_snapshot_posts_nothing_into_it(world: World, bank: Registration) -> None:
    other = world.connect()
    with (
        pytest.raises(psycopg.errors.SerializationFailure),
        other.transaction(),
    ):
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM ledger_entries")
        close(world)
        other.execute(POST, Entry("late", at=IN_FEBRUARY).arguments())
    assert world.references() == {"live"}


def test_a_closing_that_is_undone_leaves_nothing(world: World, bank: Registration) -> None:
    other = world.connect()
    with other.transaction(force_rollback=True):
        other.execute("SELECT close_period('MASTER', '2024-02-01', 'ann')")
    world.post_one(Entry("late", at=IN_FEBRUARY))
    assert world.count("ledger_seals") == world.count("audit_log") == world.count("ledger_periods") == 0


def test_whatever_the_time_zone_of_the_session_months_are_utc(world: World, bank: Registration) -> None:
    close(world)
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        world.connection.execute("SELECT set_config('timezone', %s, false)", [zone])
        world.post_one(Entry(f"{zone} before", at=FIRST - MICROSECOND))
        world.post_one(Entry(f"{zone} after", at=NEXT))
        for moment in (FIRST, NEXT - MICROSECOND):
            with pytest.raises(psycopg.errors.CheckViolation):
                world.post_one(replace(Entry(f"{zone} within"), at=moment))


def _wait_until_somebody_waits(world: World) -> None:
    for _ in range(3000):
        if world.value(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'ledger_entries'::regclass"
        ):
            return
        world.connection.execute("SELECT pg_sleep(0.01)")
    pytest.fail("nobody waits")
