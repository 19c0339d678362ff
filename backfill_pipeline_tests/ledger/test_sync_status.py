"""The days of banks: what is noted about each, and how far behind a bank is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.banks import bank_progress, marks, sync_status
from backfill_pipeline.ledger.banks.sync_status import DayCounts, SyncStatus
from backfill_pipeline.ledger.connection import Connection

BANK, SOURCE = "SCB-01", "scb_01"
COUNTS = DayCounts(10, 7, 1, 0, 1, 1, 7, 7, datetime(2024, 3, 3, tzinfo=UTC))


def window(day: date) -> tuple[datetime, datetime]:
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return begin, begin + timedelta(days=1)


def begin(connection: Connection, day: date, source: str = SOURCE) -> None:
    sync_status.begin(connection, source_id=source, bank_id=BANK, day=day, window=window(day), run_id="run")


def finish(connection: Connection, day: date, verdict: str = "match", source: str = SOURCE) -> None:
    begin(connection, day, source)
    end(connection, day, verdict, source)


def end(
    connection: Connection, day: date, verdict: str = "match", source: str = SOURCE, run_id: str = "run"
) -> None:
    """What a run notes about a day that it began."""
    sync_status.fetched(
        connection,
        source,
        day,
        records=10,
        control_totals={"count": 10},
        mapping_sha256="m",
        run_id=run_id,
    )
    sync_status.counted(connection, source, day, COUNTS, run_id=run_id)
    details = {} if verdict == "match" else {"reason": "one differs"}
    sync_status.finish(
        connection, source, day, verdict=verdict, break_count=0, details=details, run_id=run_id
    )


def fail(connection: Connection, day: date, error: str = "the bank is away") -> None:
    sync_status.fail(
        connection, source_id=SOURCE, bank_id=BANK, day=day, window=window(day), run_id="run", error=error
    )


def only(connection: Connection) -> SyncStatus:
    (found,) = sync_status.load(connection)
    return found


def days(*numbers: int) -> list[date]:
    return [date(2024, 3, number) for number in numbers]


def test_a_day_is_complete_only_when_it_is_finished_and_both_ledgers_agree(connection: Connection) -> None:
    (day,) = days(1)
    begin(connection, day)
    assert (only(connection).state, only(connection).complete, only(connection).attempts) == (
        "open",
        False,
        1,
    )
    finish(connection, day)
    found = only(connection)
    assert (found.state, found.complete, found.reason) == ("complete", True, None)
    assert (found.fetched, found.posted, found.acknowledged, found.rejected) == (10, 7, 7, 1)
    assert found.control_totals == {"count": 10}
    finish(connection, day, "break")
    assert (only(connection).state, only(connection).reason) == ("break", "one differs")


def test_a_run_that_another_one_overtook_completes_nothing(connection: Connection) -> None:
    """What the other one fetched may not be posted, and if it is killed, the next night must take the day up."""
    (day,) = days(1)
    begin(connection, day)
    sync_status.begin(
        connection, source_id=SOURCE, bank_id=BANK, day=day, window=window(day), run_id="another"
    )
    end(connection, day)
    assert (only(connection).complete, only(connection).control_totals) == (False, None)
    end(connection, day, run_id="another")
    assert only(connection).complete


def test_a_day_is_reconciled_as_of_before_the_comparison(connection: Connection) -> None:
    """What the bank is told while a day is compared was not compared: it reopens the day."""
    (day,) = days(1)
    begin(connection, day)
    sync_status.counted(connection, SOURCE, day, COUNTS, run_id="run")
    connection.execute(
        "INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload, status,"
        " acknowledged_at) VALUES ('L', 'E', 'SCB-01', 'LOCAL', %s, 'ACKNOWLEDGED', now())",
        ['{"booked_at": "2024-03-01T12:00:00Z"}'],
    )
    sync_status.finish(connection, SOURCE, day, verdict="match", break_count=0, details={}, run_id="run")
    assert only(connection).complete
    assert sync_status.reopened_days(connection, SOURCE, BANK, "UTC") == {day}


def test_a_run_that_was_killed_leaves_a_day_that_is_not_complete(connection: Connection) -> None:
    (day,) = days(1)
    finish(connection, day)
    begin(connection, day)
    found = only(connection)
    assert (found.state, found.attempts) == ("open", 1)
    assert found.control_totals == {"count": 10}  # what was proven stays known
    begin(connection, day)
    assert only(connection).attempts == 2


def test_a_failure_is_noted_also_before_the_day_began_and_goes_with_a_success(connection: Connection) -> None:
    (day,) = days(1)
    fail(connection, day)
    assert (only(connection).state, only(connection).reason) == ("failed", "the bank is away")
    finish(connection, day)
    assert only(connection).complete
    fail(connection, day, "refused")
    assert (only(connection).complete, only(connection).error, only(connection).posted) == (
        False,
        "refused",
        7,
    )


def test_days_are_found_by_source_and_range(connection: Connection) -> None:
    for day in days(1, 2, 3):
        finish(connection, day)
    finish(connection, days(2)[0], source="scb_02")
    assert [one.day for one in sync_status.load(connection, SOURCE, *days(2, 3))] == days(2, 3)
    assert [(one.source_id, one.day.day) for one in sync_status.load(connection)] == [
        (SOURCE, 1),
        (SOURCE, 2),
        (SOURCE, 3),
        ("scb_02", 2),
    ]


class TestReopening:
    """Entries of ours for a day that was complete: the day is proven again."""

    ROW = (
        "INSERT INTO dual_ledger_outbox (ledger_id, reference_id, destination, origin, payload, status, created_at,"
        " acknowledged_at) VALUES ('L', %s, 'SCB-01', %s, jsonb_build_object('booked_at', %s::text), %s, %s, %s)"
    )
    BEFORE, AFTER = "2000-01-01Z", "2099-01-01Z"

    @pytest.mark.parametrize(
        ("origin", "status", "created", "acknowledged", "reopens"),
        [
            ("LOCAL", "ACKNOWLEDGED", BEFORE, BEFORE, False),
            ("LOCAL", "ACKNOWLEDGED", BEFORE, AFTER, True),
            ("LOCAL", "ACKNOWLEDGED", AFTER, AFTER, True),
            ("LOCAL", "DEAD", BEFORE, None, True),
            ("LOCAL", "PENDING", BEFORE, None, True),
            ("SCB-01", "PENDING", AFTER, None, False),
        ],
    )
    def test_what_the_bank_was_or_is_to_be_told_since_reopens_a_day(
        self,
        connection: Connection,
        origin: str,
        status: str,
        created: str,
        acknowledged: str | None,
        reopens: bool,
    ) -> None:
        for day in days(1, 2):
            finish(connection, day)
        # In Paris the second day begins an hour before it does in UTC.
        row = ["E", origin, "2024-03-01T23:30:00Z", status, created, acknowledged]
        connection.execute(self.ROW, row)
        found = sync_status.reopened_days(connection, SOURCE, BANK, "Europe/Paris")
        assert found == (set(days(2)) if reopens else set())
        assert sync_status.reopened_days(connection, "scb_02", BANK, "Europe/Paris") == set()
        assert sync_status.reopened_days(connection, SOURCE, "SCB-02", "Europe/Paris") == set()


class TestProgress:
    NOW = datetime(2024, 3, 6, 6, tzinfo=UTC)

    def test_a_bank_is_as_far_as_all_its_days_are_complete(self, connection: Connection) -> None:
        for day in days(1, 2, 4):
            finish(connection, day)
        fail(connection, days(5)[0])
        (found,) = bank_progress.progress(connection, self.NOW)
        assert (found.days, found.complete, found.complete_to) == (4, 3, days(2)[0])
        assert found.incomplete == days(3, 5)
        assert found.lag == timedelta(days=3, hours=6)
        assert (found.entries, found.unacknowledged) == (21, 0)

    def test_a_bank_without_a_gap_lags_since_its_last_day(self, connection: Connection) -> None:
        for day in days(4, 5):
            finish(connection, day)
        (found,) = bank_progress.progress(connection, self.NOW)
        assert (found.complete_to, found.lag, found.incomplete) == (days(5)[0], timedelta(hours=6), [])

    def test_a_bank_whose_first_day_is_open_lags_since_it_began(self, connection: Connection) -> None:
        begin(connection, days(5)[0])
        (found,) = bank_progress.progress(connection, self.NOW)
        assert (found.complete_to, found.lag) == (None, timedelta(days=1, hours=6))

    def test_a_day_that_the_zone_left_out_is_no_gap(self, connection: Connection) -> None:
        finish(connection, days(1)[0])
        finish(connection, days(3)[0])
        connection.execute("UPDATE sync_status SET window_to = '2024-03-03 00:00Z' WHERE day = '2024-03-01'")
        (found,) = bank_progress.progress(connection, self.NOW)
        assert (found.complete_to, found.incomplete) == (days(3)[0], [])

    def test_nothing_was_begun(self, connection: Connection) -> None:
        assert bank_progress.progress(connection, self.NOW) == []


def mark(connection: Connection, ledger_id: str = "L", bank_id: str = BANK, *, send: bool = True) -> int:
    since = datetime(2024, 3, 1, tzinfo=UTC)
    return marks.mark_ledger(connection, ledger_id, bank_id, send_entries=send, since=since)


class TestMarking:
    def test_marking_again_does_not_look_at_the_entries(self, connection: Connection) -> None:
        assert mark(connection, "L", BANK, send=True) == 0
        with connection.transaction():
            connection.execute("LOCK TABLE ledger_entries IN ACCESS SHARE MODE")
            assert mark(connection, "L", BANK, send=True) == 0
            held = connection.execute(
                "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'ledger_entries'::regclass"
            ).fetchall()
        assert held == [("AccessShareLock",)]

    def test_what_is_sent_can_change(self, connection: Connection) -> None:
        mark(connection, "L", BANK, send=True)
        mark(connection, "L", BANK, send=False)
        assert connection.execute("SELECT send_entries FROM dual_ledgers").fetchall() == [(False,)]

    def test_a_ledger_is_kept_with_one_bank(self, connection: Connection) -> None:
        mark(connection, "L", BANK, send=True)
        with pytest.raises(
            LedgerError, match="ledger L is kept with bank SCB-01 already, so ledger L cannot"
        ):
            mark(connection, "L", "SCB-02", send=True)
        with pytest.raises(
            LedgerError, match="ledger L is kept with bank SCB-01 already, so ledger M cannot"
        ):
            mark(connection, "M", BANK, send=True)


def test_a_window_ends_after_it_began(connection: Connection) -> None:
    moment = datetime(2024, 3, 1, tzinfo=UTC)
    with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
        connection.execute(
            "INSERT INTO sync_status (source_id, bank_id, day, window_from, window_to)"
            " VALUES ('s', 'b', '2024-03-01', %s, %s)",
            [moment, moment],
        )
