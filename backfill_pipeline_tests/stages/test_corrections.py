"""Corrections of a source: what differs becomes proposed entries, and once they are posted both sides are equal again."""

from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from backfill_pipeline.cli.seals import exit_code as seals_exit_code
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger import constraints, corrections, rollback
from backfill_pipeline.ledger.auditing import audit
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.rollback import RollbackScope
from backfill_pipeline.stages.corrections import propose_for_ledger, verify
from backfill_pipeline.stages.verify import verify as verify_seals
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.stages.correcting import (
    apply_all,
    assert_restored,
    balances,
    propose,
    replace_entry,
    write_wrong,
)
from backfill_pipeline_tests.stages.world import World, entries, entry


@pytest.fixture
def bank(world: World) -> Path:
    """Twenty entries between A, B and C, posted and equal to their source."""
    path = world.write("bank", entries(20), accounts={"A": "1000.00", "B": "1000.00", "C": "1000.00"})
    world.post(path)
    assert world.reconcile(path).matches
    return path


def test_a_ledger_that_is_equal_to_its_source_has_nothing_to_correct(
    world: World, bank: Path, connection: Connection
) -> None:
    assert propose(world, bank).clean
    assert propose_for_ledger(connection, actor="ann").clean


@pytest.mark.parametrize(
    ("kind", "count", "changes"),
    [
        ("amount", 1, {"amount": "7.50"}),
        ("amount", 1, {"amount": "0.50"}),
        ("accounts", 2, {"credit_account_id": "C"}),
        ("accounts", 2, {"debit_account_id": "C"}),
        ("amount", 2, {"amount": "7.50", "debit_account_id": "B", "credit_account_id": "A"}),
        ("content", 2, {"transaction_type": "FEE"}),
        ("content", 2, {"timestamp_utc": "2024-02-02T00:00:00Z"}),
        ("content", 2, {"metadata": '{"note": "another"}'}),
    ],
)
def test_what_differs_is_corrected_by_entries(
    world: World, bank: Path, connection: Connection, kind: str, count: int, changes: dict[str, object]
) -> None:
    right = balances(world)
    replace_entry(world, "R000003", **changes)
    assert not world.reconcile(bank).matches

    report = propose(world, bank)
    assert [one.outcome for one in report.proposed] == ["proposed"]
    detail = corrections.load(connection, report.proposed[0].correction_id or 0)
    assert detail is not None
    assert (detail.correction.kind, len(detail.entries)) == (kind, count)
    assert detail.evidence["file"] == "bank.csv"
    assert detail.evidence["line"] == 4
    assert not world.reconcile(bank).matches  # a proposal changes nothing

    assert_restored(world, bank, connection, right, corrected=1)
    assert propose(world, bank).clean
    assert propose_for_ledger(connection, actor="ann").clean
    assert world.value("SELECT count(*) FROM ledger_entries WHERE reference_id LIKE 'CORR-%%'") == count


def test_an_entry_that_is_missing_is_posted_as_the_source_has_it(
    world: World, bank: Path, connection: Connection
) -> None:
    right = world.snapshot()
    write_wrong(world, "DELETE FROM ledger_entries WHERE reference_id IN ('R000003', 'R000017')")
    report = propose(world, bank)
    assert report.findings == len(report.proposed) == 2
    assert apply_all(connection) == ["applied", "applied"]
    after = world.reconcile(bank)
    assert (after.matches, after.corrected) == (True, 2), after.breaks
    # Under its own reference, so that whoever posts it again finds it there. Nothing but where it came from is another.
    assert [row[:10] for row in world.snapshot().entries] == [row[:10] for row in right.entries]
    assert world.run(bank, register=False)[0].error is None
    assert world.snapshot().accounts == right.accounts


def test_an_opening_entry_that_is_missing_is_posted_again(
    world: World, bank: Path, connection: Connection
) -> None:
    right = balances(world)
    write_wrong(
        world,
        "DELETE FROM ledger_entries WHERE transaction_type = 'OPENING_BALANCE' AND 'B' IN (debit_account_id, credit_account_id)",
    )
    assert not world.reconcile(bank).matches
    assert len(propose(world, bank).proposed) == 1
    assert_restored(world, bank, connection, right)


def test_an_entry_that_the_source_does_not_have_is_reversed(
    world: World, bank: Path, connection: Connection
) -> None:
    right = balances(world)
    write_wrong(
        world,
        "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
        " transaction_type, reference_id, timestamp_utc, batch_id, source_row)"
        " SELECT ledger_id, 'C', 'A', 99, 'USD', 'TRANSFER', 'GHOST', timestamp_utc, batch_id, 4711"
        " FROM ledger_entries WHERE reference_id = 'R000005'",
    )
    report = propose(world, bank)
    assert [one.detail for one in report.proposed] == ["the ledger has it, the source does not"]
    assert_restored(world, bank, connection, right, corrected=1)


def test_an_entry_under_another_reference_is_reversed_and_posted_under_its_own(
    world: World, bank: Path, connection: Connection
) -> None:
    right = balances(world)
    replace_entry(world, "R000003", reference_id="WRONG")
    assert len(propose(world, bank).proposed) == 2
    assert_restored(world, bank, connection, right, applied=2)


def test_what_was_corrected_wrongly_is_corrected_again(
    world: World, bank: Path, connection: Connection
) -> None:
    """A second correction begins where the first one ended."""
    right = balances(world)
    replace_entry(world, "R000003", amount="1.50")
    propose(world, bank)
    assert apply_all(connection) == ["applied"]
    world.tamper("UPDATE ledger_corrections SET target = target || '{\"amount\": 1.25}'")
    world.tamper(
        "UPDATE ledger_correction_entries SET amount = 0.25, debit_account_id = 'B', credit_account_id = 'A'"
    )
    replace_entry(
        world,
        str(world.value("SELECT reference_id FROM ledger_correction_entries")),
        amount="0.25",
        debit_account_id="B",
        credit_account_id="A",
    )
    world.tamper("UPDATE ledger_correction_entries SET entry_id = (SELECT max(id) FROM ledger_entries)")
    assert world.value("SELECT holds FROM ledger_corrected_references") is True
    assert not world.reconcile(bank).matches
    propose(world, bank)
    assert_restored(world, bank, connection, right)


def test_a_correction_of_what_was_taken_back_is_left_over_and_taken_back_too(
    world: World, bank: Path, connection: Connection
) -> None:
    right = balances(world)
    replace_entry(world, "R000003", amount="1.50")
    propose(world, bank)
    assert apply_all(connection) == ["applied"]
    replace_entry(world, "R000003", amount="4.00")  # as the source has it
    assert balances(world) != right
    report = world.reconcile(bank)
    assert dict(report.break_kinds) == {"left over": 1}
    [one] = propose(world, bank).proposed
    assert "taken back" in str(one.detail)
    assert_restored(world, bank, connection, right)
    assert world.query("SELECT status, kind FROM ledger_corrections ORDER BY id") == [
        ("undone", "amount"),
        ("applied", "left_over"),
    ]
    assert propose(world, bank).clean


def test_a_payment_that_two_sources_state_is_reversed_once(
    world: World, bank: Path, connection: Connection
) -> None:
    right = balances(world)
    rows = [entry(7, ref="X1"), entry(8, ref="X2", amount="77.00")]
    other = world.write("other", rows, accounts=("A", "B", "C"))
    world.post(other)
    report = propose_for_ledger(connection, actor="ann")
    assert [one.finding["reference_id"] for one in report.proposed] == ["X1"]
    assert apply_all(connection) == ["applied"]
    assert world.reconcile(bank).matches
    assert world.reconcile(other).matches  # it states a payment that is in the ledger, once
    assert propose_for_ledger(connection, actor="ann").clean
    assert balances(world)["A"] == Decimal(str(right["A"])) + 77


def test_repeats_that_a_source_states_are_real(world: World, connection: Connection) -> None:
    rows = [entry(1, ref="X1"), entry(1, ref="X2"), entry(1, ref="X3")]
    path = world.write("twins", rows)
    world.post(path)
    assert propose_for_ledger(connection, actor="ann").clean
    for number in (1, 2):  # of which two were posted by hand as well
        world.query(
            "SELECT post_ledger_entry(ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,"
            " transaction_type, %s, NULL, NULL, timestamp_utc) FROM ledger_entries WHERE reference_id = 'X1'",
            f"HAND-{number}",
        )
    found = propose_for_ledger(connection, actor="ann").proposed
    assert [one.finding["reference_id"] for one in found] == ["HAND-1", "HAND-2"]
    assert [one.finding["kept_reference_id"] for one in found] == ["X1", "X2"]


def test_a_negative_account_is_never_filled_up_without_an_account_that_pays(
    world: World, connection: Connection
) -> None:
    path = world.write("poor", [entry(1, amount="10.00")], accounts={"A": "5.00", "B": "4.00", "LOSS": "0"})
    world.post(path)  # B is at -6.00
    assert propose_for_ledger(connection, actor="ann").clean  # in many books this is right
    assert constraints.apply(connection).state == "refused"
    report = propose_for_ledger(connection, actor="ann")
    assert not report.proposed
    assert "--suspense" in report.not_by_entries[0]
    report = propose_for_ledger(connection, actor="ann", suspense=["LOSS"])
    [opening_side] = [one for one in report.proposed if one.finding["account_id"] == "B"]
    assert "below zero" in str(opening_side.detail)
    apply_all(connection)
    assert balances(world)["B"] == 0


def test_a_balance_that_left_its_entries_is_computed_anew_from_them(
    world: World, bank: Path, connection: Connection
) -> None:
    right = balances(world)
    world.tamper("UPDATE bank_accounts SET balance = balance + 1 WHERE id = 'C'")
    world.tamper("UPDATE bank_accounts SET available_balance = available_balance - 2 WHERE id = 'B'")
    report = propose(world, bank)
    assert [(one.finding["account_id"], one.outcome) for one in report.proposed] == [
        ("B", "proposed"),
        ("C", "proposed"),
    ]
    assert "its balance is 1001.00, its entries say 1000.00" in str(report.proposed[1].detail)
    entry_count = world.value("SELECT count(*) FROM ledger_entries")
    assert_restored(world, bank, connection, right, applied=2)
    assert world.value("SELECT count(*) FROM ledger_entries") == entry_count
    assert propose_for_ledger(connection, actor="ann").clean


def test_entries_that_somebody_changed_behind_the_triggers_are_corrected_whole(
    world: World, bank: Path, connection: Connection
) -> None:
    """What was tampered with moved no balance: the correction moves both, and the balance is computed anew."""
    right = balances(world)
    world.tamper("UPDATE ledger_entries SET amount = amount + 3 WHERE reference_id = 'R000003'")
    world.tamper("DELETE FROM ledger_entries WHERE reference_id = 'R000004'")
    assert not world.reconcile(bank).matches
    report = propose(world, bank)
    assert [one.finding.get("reference_id") or one.finding["account_id"] for one in report.proposed] == [
        "R000003",
        "R000004",
        "A",
        "B",
    ]
    assert_restored(world, bank, connection, right, applied=4)


def test_a_conversion_that_somebody_changed_is_said(world: World, bank: Path, connection: Connection) -> None:
    world.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('YEN', 'JPY')")
    world.query(
        "SELECT post_ledger_entry('MASTER', 'A', 'YEN', 1.00, 'USD', 'fiat', 'FX', 'FX-1', 150, NULL, now())"
    )
    world.tamper("UPDATE ledger_entry_conversions SET amount = 151")
    world.tamper("UPDATE bank_accounts SET balance = -151, available_balance = -151 WHERE id = 'YEN'")
    report = propose(world, bank)
    assert not report.proposed
    assert (
        "the conversion of FX-1 is 151, amount and rate say 150: no entry can correct that"
        in report.not_by_entries[0]
    )


def test_findings_beyond_the_limit_are_counted_and_come_next(
    world: World, bank: Path, connection: Connection
) -> None:
    write_wrong(world, "DELETE FROM ledger_entries WHERE reference_id IN ('R000001', 'R000002', 'R000003')")
    report = propose(world, bank, limit=2)
    assert (report.findings, len(report.proposed), report.not_looked_at) == (3, 2, 1)
    apply_all(connection)
    report = propose(world, bank, limit=2)
    assert (report.findings, len(report.proposed), report.not_looked_at) == (1, 1, 0)
    apply_all(connection)
    assert world.reconcile(bank).matches


def test_verification_compares_the_sources_concerned(
    world: World, bank: Path, connection: Connection
) -> None:
    write_wrong(world, "DELETE FROM ledger_entries WHERE reference_id IN ('R000001', 'R000002')")
    propose(world, bank, limit=1)
    apply_all(connection)

    def open_source(source_id: str):
        assert source_id == "bank"
        return open_work(load_definition(bank), world.places)

    found = verify(connection, ["bank"], open_source, with_ledger=True)
    assert not found.matches  # one of two is still missing
    propose(world, bank)
    apply_all(connection)
    found = verify(connection, ["bank"], open_source, with_ledger=True)
    assert found.matches
    assert found.posted_twice == 0


@pytest.mark.parametrize("mode", ["delete", "reverse"])
class TestAfterRollback:
    """A correction outlives the entry that it corrected, unless it is taken back as well: that shows, and is proposed."""

    def roll_back(self, connection: Connection, mode: Literal["delete", "reverse"]) -> dict[str, object]:
        [(first_key,)] = connection.execute(
            "SELECT partition_key FROM backfill_partitions WHERE number = 1"
        ).fetchall()
        scope = RollbackScope("bank", str(first_key))
        plan = rollback.plan(connection, scope, mode=mode)
        rollback.apply(connection, scope, mode=mode, plan_hash=str(plan["plan_hash"]), actor="ann")
        return plan

    def test_what_corrected_it_is_left_over(
        self, world: World, bank: Path, connection: Connection, mode: Literal["delete", "reverse"]
    ) -> None:
        right = balances(world)
        replace_entry(world, "R000003", amount="1.50")
        propose(world, bank)
        assert apply_all(connection) == ["applied"]
        plan = self.roll_back(connection, mode)
        assert "1 corrections of these entries stay in the ledger" in str(plan)
        assert dict(world.reconcile(bank).break_kinds) == {"left over": 1}
        world.post(bank, register=False)
        assert dict(world.reconcile(bank).break_kinds) == {"left over": 1}
        assert len(propose(world, bank).proposed) == 1
        assert_restored(world, bank, connection, right)

    def test_what_was_restored_is_not_posted_again(
        self, world: World, bank: Path, connection: Connection, mode: Literal["delete", "reverse"]
    ) -> None:
        right = balances(world)
        write_wrong(world, "DELETE FROM ledger_entries WHERE reference_id = 'R000003'")
        propose(world, bank)
        assert apply_all(connection) == ["applied"]
        self.roll_back(connection, mode)
        world.post(bank, register=False)
        after = world.reconcile(bank)
        assert (after.matches, after.duplicates) == (True, 1), after.breaks
        assert balances(world) == right
        assert propose(world, bank).clean


@pytest.mark.parametrize("closed", [False, True])
def test_what_corrections_brought_back_is_what_was_sealed(
    world: World, bank: Path, connection: Connection, closed: bool
) -> None:
    """Proven by the seal itself: with what the corrections say in its place, a touched batch has its old hash again."""
    month = world.value(
        "SELECT min(ledger_month(timestamp_utc)) FROM ledger_entries WHERE reference_id = 'R000003'"
    )
    if closed:
        connection.execute("SELECT close_period('MASTER', %s, 'ann')", [month])
    world.tamper("DELETE FROM ledger_entries WHERE reference_id = 'R000003'")
    world.tamper(
        "UPDATE ledger_entries SET amount = 7, debit_account_id = 'C' WHERE reference_id = 'R000014'"
    )
    touched = verify_seals(connection, world.places, lambda _: load_definition(bank))
    assert (touched.verdict, seals_exit_code(touched)) == ("touched", 4)
    assert {one.corrected_by for one in touched.touched} == {()}
    audited = audit.audit(connection)
    assert audited.check("batches_differ_from_entries").count == 1

    assert propose_for_ledger(connection, actor="ann").clean is False  # balances that nobody moved
    propose(world, bank)
    assert set(apply_all(connection)) == {"applied"}
    if propose_for_ledger(connection, actor="ann").proposed:
        assert set(apply_all(connection)) == {"applied"}
    assert world.reconcile(bank).matches
    report = verify_seals(connection, world.places, lambda _: load_definition(bank))
    assert (report.verdict, report.intact, seals_exit_code(report)) == ("corrected", False, 3)
    assert len(report.touched) == (3 if closed else 2)
    assert all(one.corrected_by for one in report.touched)
    audited = audit.audit(connection)
    assert audited.breaks == ()
    assert audited.check("batches_as_corrected").count == 1

    # What is touched anew is said, whatever was corrected before.
    world.tamper("UPDATE ledger_entries SET metadata = '{}' WHERE reference_id = 'R000004'")
    again = verify_seals(connection, world.places, lambda _: load_definition(bank))
    assert (again.verdict, seals_exit_code(again)) == ("touched", 4)
