"""The audit log: a row for every decision, in its transaction, chained so that a change of any of them shows."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from backfill_pipeline.ledger import audit_log
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline_tests.ledger.world import World


def write(world: World, count: int = 3) -> None:
    for number in range(1, count + 1):
        audit_log.write(
            world.connection, actor="ann", action="try_it", subject=f"thing {number}", reason="ünïcode ✓ 'quoted'",
            before={"n": number}, after={"n": number + 1, "nested": {"a": [1, None]}}, plan_hash="p" * 64,
        )  # fmt: skip


@contextmanager
def unguarded(world: World) -> Iterator[None]:
    world.connection.execute("SET session_replication_role = replica")
    yield
    world.connection.execute("SET session_replication_role = origin")


def faults(world: World) -> list[tuple[int, str]]:
    return [(one.number, one.fault) for one in audit_log.faults(world.connection)]


class TestRows:
    def test_are_read_back_as_they_were_written_newest_first(self, world: World) -> None:
        write(world)
        third, second, _ = audit_log.entries(world.connection)
        assert (third.number, third.actor, third.action, third.subject) == (3, "ann", "try_it", "thing 3")
        assert (third.reason, third.plan_hash) == ("ünïcode ✓ 'quoted'", "p" * 64)
        assert (third.before, third.after) == ({"n": 3}, {"n": 4, "nested": {"a": [1, None]}})
        assert third.database_user == world.value("SELECT session_user")
        assert third.happened_at > second.happened_at
        assert [row.number for row in audit_log.entries(world.connection, subject="thing 2")] == [2]
        assert [row.number for row in audit_log.entries(world.connection, limit=1)] == [3]
        head = audit_log.head(world.connection)
        assert (head.number, head.row_hash) == (3, third.row_hash)

    def test_of_a_transaction_that_is_rolled_back_leave_no_gap(self, world: World) -> None:
        write(world)
        with world.connection.transaction(force_rollback=True):
            write(world)
        write(world, 1)
        assert [row.number for row in audit_log.entries(world.connection)] == [4, 3, 2, 1]
        assert faults(world) == []

    def test_of_several_writers_are_one_chain(self, world: World) -> None:
        started = threading.Barrier(4)

        def writer(name: int) -> None:
            with connect(world.url) as connection:
                started.wait(timeout=60)
                for number in range(10):
                    audit_log.write(connection, actor=f"p{name}", action="try_it", subject=str(number))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(writer, range(4)))
        assert [row.number for row in audit_log.entries(world.connection)] == list(range(40, 0, -1))
        assert faults(world) == []

    def test_state_what_happened_and_nothing_else(self, world: World) -> None:
        """Number, time, hashes and the database's user are given by the database, whatever an INSERT says."""
        world.connection.execute(
            "INSERT INTO audit_log (number, happened_at, actor, database_user, action, subject, previous_hash, row_hash)"
            " VALUES (77, '2001-01-01', 'ann', 'somebody', 'try_it', 'x', '\\x00', '\\x00')"
        )
        (row,) = audit_log.entries(world.connection)
        assert (row.number, row.database_user) == (1, world.value("SELECT session_user"))
        assert row.happened_at.year > 2001
        assert faults(world) == []

    def test_are_written_whatever_the_search_path_is(self, world: World) -> None:
        other = world.connect()
        other.execute("SET search_path = pg_catalog")
        other.execute("SELECT public.write_audit_log('ann', 'try_it', 'x')")
        assert other.execute("SELECT * FROM public.audit_log_faults()").fetchall() == []

    @pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
    def test_fit_their_hash_in_every_time_zone_and_style(self, world: World, zone: str) -> None:
        write(world)
        world.connection.execute("SELECT set_config('timezone', %s, false)", [zone])
        world.connection.execute("SET datestyle = 'German'")
        world.connection.execute("SET extra_float_digits = 0")
        world.connection.execute("SET bytea_output = 'escape'")
        assert world.rows("SELECT * FROM audit_log_faults()") == []


class TestChanges:
    @pytest.mark.parametrize(
        "statement", ["UPDATE audit_log SET actor = 'bob'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
    )
    def test_are_refused(self, world: World, statement: str) -> None:
        write(world)
        with pytest.raises(
            psycopg.errors.RestrictViolation, match="what was decided stays as it was written"
        ):
            world.connection.execute(statement)

    def test_of_any_column_show(self, world: World) -> None:
        write(world)
        for change in (
            "actor = 'bob'", "database_user = 'bob'", "action = 'other'", "subject = 'other'", "reason = NULL",
            "before = '{}'", "after = after || '{\"n\": 9}'", "plan_hash = NULL", "happened_at = happened_at + interval '1 us'",
            "previous_hash = '\\x00'", "row_hash = '\\x00'", "number = 22",
        ):  # fmt: skip
            with world.connection.transaction(force_rollback=True), unguarded(world):
                world.connection.execute(f"UPDATE audit_log SET {change} WHERE number = 2")
                assert faults(world), change
        assert faults(world) == []

    def test_that_remove_rows_show(self, world: World) -> None:
        write(world)
        for removed, expected in (
            ("number = 1", [(2, "rows 1 to 1 before it were removed")]),
            ("number IN (1, 2)", [(3, "rows 1 to 2 before it were removed")]),
            ("number = 2", [(3, "rows 2 to 2 before it were removed")]),
            ("number = 3", [(3, "rows after 2 were removed")]),
            ("true", [(3, "rows after 0 were removed")]),
        ):
            with world.connection.transaction(force_rollback=True), unguarded(world):
                world.connection.execute(f"DELETE FROM audit_log WHERE {removed}")
                assert faults(world) == expected

    def test_that_rewrite_a_row_with_its_hash_show_at_the_next_one(self, world: World) -> None:
        write(world)
        with unguarded(world):
            world.connection.execute("UPDATE audit_log SET actor = 'bob' WHERE number = 2")
            world.connection.execute(
                "UPDATE audit_log a SET row_hash = audit_log_row_hash(a) WHERE number = 2"
            )
        assert faults(world) == [(3, "does not follow the row before it")]

    def test_that_put_a_row_behind_the_last_one_show(self, world: World) -> None:
        write(world)
        with unguarded(world):
            world.connection.execute(
                "INSERT INTO audit_log SELECT number + 1, happened_at, actor, database_user, action, subject, reason, before,"
                " after, plan_hash, row_hash, row_hash FROM audit_log WHERE number = 3"
            )
            world.connection.execute(
                "UPDATE audit_log a SET row_hash = audit_log_row_hash(a) WHERE number = 4"
            )
        assert faults(world) == [(3, "is not the row that was written last")]


class TestFourEyes:
    def ask(self, world: World, actor: str, subject: str = "MASTER 2024-01") -> bool:
        return bool(
            world.value("SELECT confirmed_by_another('period_reopen', %s, %s, 'why')", subject, actor)
        )

    def test_are_on_and_take_another_person(self, world: World) -> None:
        assert audit_log.four_eyes(world.connection)
        assert self.ask(world, "ann") is False
        assert self.ask(world, "ann") is False
        assert self.ask(world, "bob", subject="MASTER 2024-02") is False
        (first, second) = audit_log.open_requests(world.connection)
        assert (first.requested_by, second.requested_by) == ("ann", "bob")
        assert self.ask(world, "bob") is True
        assert [one.subject for one in audit_log.open_requests(world.connection)] == ["MASTER 2024-02"]

    def test_count_for_one_time_only(self, world: World) -> None:
        assert [self.ask(world, "ann"), self.ask(world, "bob")] == [False, True]
        assert self.ask(world, "bob") is False
        assert self.ask(world, "ann") is True

    def test_of_two_people_at_the_same_moment_are_one_request_and_its_confirmation(
        self, world: World
    ) -> None:
        started = threading.Barrier(2)

        def person(name: str) -> bool:
            with connect(world.url) as connection, connection.transaction():
                started.wait(timeout=60)
                row = connection.execute(
                    "SELECT confirmed_by_another('period_reopen', 'MASTER 2024-01', %s, 'why')", [name]
                ).fetchone()
                assert row is not None
                return bool(row[0])

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(person, ("ann", "bob"))) == [False, True]
        assert world.rows("SELECT requested_by <> approved_by FROM ledger_approvals") == [(True,)]

    def withdraw(self, world: World, request_id: int, actor: str) -> tuple[str, str | None]:
        done = audit_log.withdraw(world.connection, request_id, actor=actor, reason="a mistake")
        return done.outcome, done.by

    def test_a_withdrawn_request_confirms_nothing(self, world: World) -> None:
        self.ask(world, "ann")
        (request,) = audit_log.open_requests(world.connection)
        assert self.withdraw(world, request.id, "Ann ") == ("withdrawn", None)
        assert audit_log.open_requests(world.connection) == []
        assert self.ask(world, "bob") is False
        _, row, _ = audit_log.entries(world.connection, subject="MASTER 2024-01")
        assert (row.actor, row.action, row.reason) == ("Ann ", "period_reopen_withdrawn", "a mistake")
        assert row.before is not None
        assert (row.before["id"], row.before["requested_by"], row.before["reason"]) == (
            request.id, "ann", "why",
        )  # fmt: skip
        assert faults(world) == []

    def test_only_an_open_request_of_ones_own_is_withdrawn(self, world: World) -> None:
        self.ask(world, "ann")
        (request,) = audit_log.open_requests(world.connection)
        assert self.withdraw(world, request.id, "bob") == ("another person", "ann")
        assert self.withdraw(world, request.id + 1, "ann") == ("unknown", None)
        assert self.ask(world, "bob") is True
        assert self.withdraw(world, request.id, "ann") == ("confirmed", "bob")
        assert self.withdraw(world, request.id, "bob") == ("confirmed", "bob")
        assert [row.action for row in audit_log.entries(world.connection)] == ["period_reopen_requested"]
        assert world.rows("SELECT approved_by FROM ledger_approvals") == [("bob",)]

    def test_of_who_confirms_and_who_withdraws_at_the_same_moment_one_is_late(self, world: World) -> None:
        self.ask(world, "ann")
        (request,) = audit_log.open_requests(world.connection)
        waiting = (
            "SELECT count(*) FROM pg_locks WHERE relation = 'ledger_approvals'::regclass AND NOT granted"
        )
        with connect(world.url) as confirming, ThreadPoolExecutor(1) as pool:
            with confirming.transaction():
                confirming.execute(
                    "SELECT confirmed_by_another('period_reopen', 'MASTER 2024-01', 'bob', 'why')"
                )
                late = pool.submit(self.withdraw, world, request.id, "ann")
                while confirming.execute(waiting).fetchone() != (1,):
                    assert not late.done()
            assert late.result(timeout=60) == ("confirmed", "bob")

    def test_cannot_be_one_person_in_the_table_either(self, world: World) -> None:
        self.ask(world, "ann")
        with pytest.raises(psycopg.errors.CheckViolation, match="ledger_approvals_by_another"):
            world.connection.execute("UPDATE ledger_approvals SET approved_by = 'ann', approved_at = now()")

    def test_off_let_one_person_decide(self, world: World) -> None:
        assert audit_log.set_four_eyes(world.connection, False, actor="ann", reason="why") is False
        assert audit_log.set_four_eyes(world.connection, False, actor="bob", reason="why") is True
        assert self.ask(world, "ann") is True
        assert audit_log.set_four_eyes(world.connection, True, actor="ann", reason=None) is True
        assert self.ask(world, "ann") is False
        assert [row.action for row in reversed(audit_log.entries(world.connection))] == [
            "four_eyes_off_requested", "four_eyes_off", "four_eyes_on", "period_reopen_requested"
        ]  # fmt: skip
