"""What somebody did around the procedures, with rights on the tables, shows in the audit; nobody decides with themselves."""

from datetime import UTC, date, datetime

import psycopg
import pytest

from backfill_pipeline.ledger import audit_log, periods, seals
from backfill_pipeline.ledger.auditing import audit
from backfill_pipeline.ledger.auditing.controls import control_checks
from backfill_pipeline.ledger.auditing.schema import present_objects
from backfill_pipeline_tests.ledger.world import Entry, World, table

JANUARY = date(2024, 1, 1)
DECISIONS = "decisions_without_record"


@pytest.fixture
def bank(world: World) -> World:
    """One sealed batch in January, which is closed."""
    world.open("A", "B")
    registration = world.register()
    world.post(registration, table([Entry("r1", at=datetime(2024, 1, 9, tzinfo=UTC))]))
    periods.close(world.connection, "MASTER", JANUARY, actor="ann", reason=None)
    return world


def odd(world: World) -> list[tuple[object, object]]:
    found = audit.audit(world.connection).check(DECISIONS)
    assert found.skipped is None
    return [(row["what"], row["subject"]) for row in found.sample]


class TestDecisions:
    def test_that_were_made_by_the_procedures_are_recorded(self, bank: World) -> None:
        assert odd(bank) == []
        for actor in ("ann", "bob"):
            audit_log.set_four_eyes(bank.connection, False, actor=actor, reason="x")
        periods.reopen(bank.connection, "MASTER", JANUARY, actor="ann", reason="x")
        batches = seals.batches_of(bank.connection, "bank")
        seals.make_final(bank.connection, batches, actor="ann", subject="bank", reason=None)
        assert odd(bank) == []

    def test_that_were_made_around_them_are_breaks(self, bank: World) -> None:
        for statement, what, subject in (
            ("UPDATE ledger_controls SET four_eyes = false", "four eyes switched off", "ledger"),
            ("DELETE FROM ledger_controls", "four eyes switched off", "ledger"),
            ("DELETE FROM ledger_periods", "period opened", "MASTER 2024-01"),
            ("INSERT INTO ledger_open_columns VALUES ('note')", "column opened", "ledger_entries.note"),
            ("INSERT INTO ledger_seals (ledger_id, kind, month, entries, digest)"
             " VALUES ('MASTER', 'annulment', '2024-01-01', 1, '')", "period seal annulled", "MASTER 2024-01"),
            ("INSERT INTO ledger_seals (ledger_id, kind, batch_id, entries, digest)"
             " SELECT ledger_id, 'annulment', batch_id, entries, digest FROM ledger_seals WHERE kind = 'batch'",
             "batch annulled", "seal 3 of ledger MASTER, batch 1"),
        ):  # fmt: skip
            bank.connection.execute("BEGIN")
            bank.connection.execute(statement)
            present = present_objects(bank.connection)
            (found,) = [one for one in control_checks(bank.connection, present) if one.name == DECISIONS]
            assert [(row["what"], row["subject"]) for row in found.sample] == [(what, subject)]
            bank.connection.execute("ROLLBACK")

    def test_a_batch_that_is_made_to_vanish_with_its_seal_is_missed(self, bank: World) -> None:
        """Annulled by hand, so that nothing is expected of it, and then deleted with its entries."""
        world = bank
        world.post(world.register(source_id="other"), table([Entry("r2")]))
        seals.seal_batches(world.connection)
        world.connection.execute(
            "INSERT INTO ledger_seals (ledger_id, kind, batch_id, entries, digest, plan_hash)"
            " SELECT ledger_id, 'annulment', batch_id, entries, digest, 'invented' FROM ledger_seals"
            " ORDER BY number DESC LIMIT 1"
        )
        world.connection.execute("DELETE FROM ledger_entries WHERE reference_id = 'r2'")
        world.connection.execute("DELETE FROM backfill_batches WHERE source_id = 'other'")
        assert seals.touched(world.connection, seals.chosen_seals(world.connection)) == []
        assert [what for what, _ in odd(world)] == ["batch annulled"]

    def test_that_were_taken_back_by_hand_are_breaks(self, bank: World) -> None:
        bank.post(bank.register(source_id="other"), table([Entry("r2")]))
        batches = seals.batches_of(bank.connection, "other")
        seals.make_final(bank.connection, batches, actor="ann", subject="other", reason=None)
        bank.connection.execute("SET session_replication_role = replica")
        bank.connection.execute("UPDATE ledger_seals SET final_at = NULL WHERE batch_id = %s", batches)
        bank.connection.execute("SET session_replication_role = origin")
        assert odd(bank) == [("seal no longer final", f"batch {batches[0]}")]


def test_a_log_whose_end_was_cut_off_with_its_head_is_no_whole_log(bank: World) -> None:
    audit_log.write(bank.connection, actor="ann", action="try", subject="x")
    with bank.connection.transaction(force_rollback=True):
        bank.connection.execute("DELETE FROM audit_log_head")
        assert [one.number for one in audit_log.faults(bank.connection)] == [2]
    bank.connection.execute("SET session_replication_role = replica")
    bank.connection.execute("DELETE FROM audit_log")
    bank.connection.execute("DELETE FROM audit_log_head")
    bank.connection.execute("SET session_replication_role = origin")
    (fault,) = audit_log.faults(bank.connection)
    assert "audit_log_head" in fault.fault


def test_data_steps_that_are_not_finished_are_named(bank: World) -> None:
    bank.connection.execute(
        "INSERT INTO ledger_data_steps (version, name, table_name, first_key, last_key, done_upto)"
        " VALUES (99, 'note', 'ledger_entries', 1, 10, 4)"
    )
    check = audit.audit(bank.connection).check("unfinished_data_steps")
    assert (check.outcome, check.count, check.sample[0]["done_upto"]) == ("note", 1, 4)


class TestFourEyes:
    def test_another_spelling_is_no_other_person(self, bank: World) -> None:
        for other in ("ann", "Ann", " ANN ", "ann\t"):
            assert not periods.reopen(bank.connection, "MASTER", JANUARY, actor=other, reason=None)
        with pytest.raises(psycopg.errors.CheckViolation):
            bank.connection.execute("UPDATE ledger_approvals SET approved_by = 'Ann', approved_at = now()")

    def test_a_request_that_one_person_served_alone_does_not_count_later(self, bank: World) -> None:
        connection = bank.connection
        assert not periods.reopen(connection, "MASTER", JANUARY, actor="ann", reason=None)
        for actor in ("ann", "bob"):
            audit_log.set_four_eyes(connection, False, actor=actor, reason="x")
        assert periods.reopen(connection, "MASTER", JANUARY, actor="ann", reason=None)
        audit_log.set_four_eyes(connection, True, actor="ann", reason="x")
        periods.close(connection, "MASTER", JANUARY, actor="ann", reason=None)
        assert not periods.reopen(connection, "MASTER", JANUARY, actor="bob", reason=None)
