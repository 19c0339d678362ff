"""What the database makes sure of about corrections, on every PostgreSQL: who decides, what is posted, and when not."""

import json
import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from backfill_pipeline.ledger import constraints, correction_findings, corrections
from backfill_pipeline.ledger.banks import outbox
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline_tests.ledger.world import Entry, World

JANUARY = datetime(2024, 1, 15, tzinfo=UTC)


@pytest.fixture(autouse=True)
def accounts(world: World) -> None:
    world.open("A", "B", "C")
    world.open("CUST", normal_side="credit")
    world.open("YEN", currency="JPY")


def target(entry: Entry) -> dict[str, object]:
    """The entry as a finding says that it should be."""
    return {
        "ledger_id": entry.ledger,
        "debit_account_id": entry.debit,
        "credit_account_id": entry.credit,
        "amount": entry.amount,
        "currency_code": entry.currency,
        "asset_type": entry.asset_type,
        "transaction_type": entry.kind,
        "reference_id": entry.reference,
        "timestamp_utc": entry.at.isoformat(),
        "fx_rate": entry.fx_rate,
        "metadata": entry.metadata,
    }


def finding(entry: Entry) -> dict[str, object]:
    return {"ledger_id": entry.ledger, "reference_id": entry.reference, "target": target(entry)}


def propose(world: World, *findings: dict[str, object], actor: str = "ann") -> list[int]:
    found = corrections.propose(world.connection, findings, actor=actor, reason="a test")
    return [one.correction_id for one in found if one.correction_id is not None]


def approve(world: World, correction_id: int, actor: str = "bob") -> str:
    return corrections.approve(world.connection, correction_id, actor=actor, reason=None).outcome


def apply(world: World, correction_id: int, connection: Connection | None = None) -> corrections.Decision:
    return corrections.apply(connection or world.connection, correction_id, actor="bob", reason=None)


def correct(world: World, *findings: dict[str, object]) -> list[corrections.Decision]:
    """Proposed, approved and applied."""
    decisions = []
    for number in propose(world, *findings):
        assert approve(world, number) == "approved"
        decisions.append(apply(world, number))
    return decisions


def status(world: World, correction_id: int) -> str:
    return str(world.value("SELECT status FROM ledger_corrections WHERE id = %s", correction_id))


def audited(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT actor, action, subject FROM audit_log ORDER BY number")


def test_every_step_is_in_the_audit_log_which_stays_whole(world: World) -> None:
    world.post_one(Entry("R", amount="9.00"))
    [number] = propose(world, finding(Entry("R")))
    assert approve(world, number) == "approved"
    assert apply(world, number).done
    assert audited(world) == [
        ("ann", "corrections_proposed", "ledger"),
        ("bob", "correction_approved", f"correction {number}"),
        ("bob", "correction_applied", f"correction {number}"),
    ]
    assert world.rows("SELECT * FROM audit_log_faults()") == []
    state_hash = world.value("SELECT state_hash FROM ledger_corrections")
    assert world.value("SELECT plan_hash FROM audit_log ORDER BY number DESC LIMIT 1") == state_hash


class TestFourEyes:
    def test_who_proposed_does_not_approve(self, world: World) -> None:
        [number] = propose(world, finding(Entry("R")))
        assert approve(world, number, "ann") == "same person"
        assert status(world, number) == "proposed"
        assert apply(world, number).outcome == "not approved"
        assert world.count() == 0
        assert approve(world, number, "bob") == "approved"

    def test_not_by_writing_to_the_table_either(self, world: World) -> None:
        [number] = propose(world, finding(Entry("R")))
        for statement in (
            "UPDATE ledger_corrections SET status = 'approved', approved_by = 'ann', approved_at = now()",
            "UPDATE ledger_corrections SET status = 'approved', approved_by = 'ann', approved_at = now(), four_eyes = false",
            "UPDATE ledger_corrections SET status = 'applied'",
            "UPDATE ledger_corrections SET proposed_by = 'somebody'",
            "UPDATE ledger_correction_entries SET amount = amount * 2",
            "UPDATE ledger_correction_entries SET entry_id = 1",
            "DELETE FROM ledger_correction_entries",
            "DELETE FROM ledger_corrections",
            "TRUNCATE ledger_corrections CASCADE",
            "INSERT INTO ledger_corrections (kind, ledger_id, reference_id, finding, reason, state, state_hash, status,"
            " proposed_by, four_eyes, approved_by, approved_at)"
            " VALUES ('missing', 'MASTER', 'X', '{}', '', '{}', '', 'approved', 'ann', true, 'bob', now())",
        ):
            with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.RestrictViolation)):
                world.connection.execute(statement)
        assert status(world, number) == "proposed"

    def test_off_one_person_does_it_all(self, world: World) -> None:
        for actor in ("ann", "bob"):
            world.connection.execute("SELECT set_four_eyes(false, %s, NULL)", [actor])
        [number] = propose(world, finding(Entry("R")))
        assert approve(world, number, "ann") == "approved"
        assert apply(world, number).done


class TestStale:
    @pytest.mark.parametrize("when", ["proposed", "approved"])
    def test_it_is_refused_and_proposed_anew(self, world: World, when: str) -> None:
        world.post_one(Entry("R", amount="9.00"))
        [number] = propose(world, finding(Entry("R")))
        if when == "approved":
            approve(world, number)
        world.connection.execute("DELETE FROM ledger_entries")
        world.post_one(Entry("R", amount="8.00"))
        decide = corrections.approve if when == "proposed" else corrections.apply
        decision = decide(world.connection, number, actor="bob", reason=None)
        assert (decision.outcome, decision.detail) == ("stale", "entry")
        assert status(world, number) == "stale"
        assert world.balance("A") == 8
        anew = decision.proposed_anew
        assert anew is not None
        detail = corrections.load(world.connection, anew)
        assert detail is not None
        assert detail.correction.proposed_by == "ann"
        assert [entry.amount for entry in detail.entries] == [Decimal("2.00")]
        assert approve(world, anew) == "approved"
        assert apply(world, anew).done
        assert world.balance("A") == 10

    def test_with_nothing_left_to_correct_it_is_only_refused(self, world: World) -> None:
        [number] = propose(world, finding(Entry("R")))
        approve(world, number)
        world.post_one(Entry("R"))
        decision = apply(world, number)
        assert (decision.outcome, decision.proposed_anew) == ("stale", None)
        assert world.count() == 1

    def test_what_has_nothing_to_do_with_it_does_not_matter(self, world: World) -> None:
        [number] = propose(world, finding(Entry("R")))
        approve(world, number)
        world.post_one(Entry("another"))
        assert apply(world, number).done

    def test_proposing_again_changes_nothing_until_the_ledger_does(self, world: World) -> None:
        world.post_one(Entry("R", amount="9.00"))
        wrong = finding(Entry("R"))
        [number] = propose(world, wrong)
        [one] = corrections.propose(world.connection, [wrong], actor="cleo", reason=None)
        assert (one.outcome, one.correction_id) == ("open already", number)
        world.connection.execute("DELETE FROM ledger_entries")
        [anew] = propose(world, wrong)
        assert anew != number
        assert status(world, number) == "stale"


def test_what_is_closed_stays_closed(world: World) -> None:
    [rejected, applied] = propose(world, finding(Entry("R")), finding(Entry("S")))
    assert (
        corrections.reject(world.connection, rejected, actor="ann", reason="not ours").outcome == "rejected"
    )
    for decide in (corrections.approve, corrections.apply):
        decision = decide(world.connection, rejected, actor="bob", reason=None)
        assert (decision.outcome, decision.detail, decision.done) == ("closed", "rejected", False)
    again = corrections.reject(world.connection, rejected, actor="ann", reason=None)
    assert (again.outcome, again.done) == ("rejected already", True)
    approve(world, applied)
    apply(world, applied)
    for decide in (corrections.approve, corrections.reject):
        decision = decide(world.connection, applied, actor="cleo", reason=None)
        assert (decision.outcome, decision.detail, decision.done) == ("closed", "applied", False)
    assert world.references() == {"S"}
    [anew] = propose(world, finding(Entry("R")))  # what was rejected may be proposed again
    assert anew != rejected


class TestApplied:
    def test_twice_is_once(self, world: World) -> None:
        [done] = correct(world, finding(Entry("R")))
        assert done.entries == ("R",)
        again = apply(world, done.correction_id)
        assert (again.outcome, again.done) == ("applied already", True)
        assert world.count() == 1

    def test_by_two_at_the_same_moment_is_once(self, world: World) -> None:
        [number] = propose(world, finding(Entry("R")))
        approve(world, number)
        outcomes: list[str] = []
        first = world.connect()
        with first.transaction():
            outcomes.append(apply(world, number, first).outcome)
            other = world.connect()
            thread = threading.Thread(target=lambda: outcomes.append(apply(world, number, other).outcome))
            thread.start()
        thread.join()
        assert outcomes == ["applied", "applied already"]
        assert world.count() == 1

    def test_a_client_that_dies_before_the_commit_leaves_nothing(self, world: World) -> None:
        [number] = propose(world, finding(Entry("R")))
        approve(world, number)
        dying = world.connect()
        with pytest.raises(psycopg.OperationalError), dying.transaction():
            assert apply(world, number, dying).done
            world.connection.execute("SELECT pg_terminate_backend(%s)", [dying.info.backend_pid])
            dying.execute("SELECT 1")
        assert (world.count(), status(world, number)) == (0, "approved")
        assert [action for _, action, _ in audited(world)][-1] == "correction_approved"
        assert apply(world, number).done

    def test_an_entry_of_a_closed_period_is_dated_in_the_open_one_and_says_when_it_happened(
        self, world: World
    ) -> None:
        world.post_one(Entry("R", amount="9.00", at=JANUARY))
        world.connection.execute("SELECT close_period('MASTER', '2024-01-01', 'ann', NULL)")
        [done] = correct(world, finding(Entry("R", at=JANUARY)))
        at, metadata = world.rows(
            "SELECT timestamp_utc, metadata FROM ledger_entries WHERE reference_id = %s", done.entries[0]
        )[0]
        assert at == datetime(2024, 2, 1, tzinfo=UTC)
        assert metadata == {"corrects": "R", "happened_at": "2024-01-15T00:00:00Z"}
        assert world.value("SELECT holds FROM ledger_corrected_references") is True

    def test_a_missing_entry_of_a_closed_period_too(self, world: World) -> None:
        world.post_one(Entry("another", at=JANUARY))
        world.connection.execute("SELECT close_period('MASTER', '2024-01-01', 'ann', NULL)")
        correct(world, finding(Entry("R", at=JANUARY, metadata='{"note": "x"}')))
        assert world.rows("SELECT timestamp_utc, metadata FROM ledger_entries WHERE reference_id = 'R'") == [
            (datetime(2024, 2, 1, tzinfo=UTC), {"note": "x", "happened_at": "2024-01-15T00:00:00Z"})
        ]
        [corrected] = corrections.corrected_references(world.connection).to_pylist()
        assert corrected["holds"]
        assert corrected["timestamp_utc"] == JANUARY.replace(tzinfo=None)
        assert json.loads(corrected["metadata"]) == {"note": "x"}

    @pytest.mark.parametrize("credit", ["C", "CUST"])
    def test_balances_below_zero_in_between_do_not_stand_in_the_way(self, world: World, credit: str) -> None:
        """A is empty again: the wrong entry cannot be reversed before the right one is posted."""
        world.post_one(Entry("fund", debit="C", credit="CUST", amount="100.00"))
        world.post_one(Entry("R", debit="A", credit="C", amount="100.00"))
        world.post_one(Entry("spent", debit="C", credit="A", amount="100.00"))
        assert constraints.apply(world.connection).state == "applied"
        right = Entry("R", debit="A", credit=credit, amount="100.00", kind="FEE")
        [done] = correct(world, finding(right))
        assert done.outcome == "applied"
        world.assert_balances_follow_entries()

    def test_a_correction_that_breaks_a_constraint_is_refused_in_words(self, world: World) -> None:
        world.post_one(Entry("R", debit="A", credit="CUST", amount="100.00"))
        world.post_one(Entry("spent", debit="CUST", credit="A", amount="95.00"))
        assert constraints.apply(world.connection).state == "applied"
        [refused] = correct(world, finding(Entry("R", debit="A", credit="CUST", amount="90.00")))
        assert refused.outcome == "refused"
        assert "bank_accounts" in str(refused.detail)
        assert status(world, refused.correction_id) == "approved"
        assert world.count() == 2
        world.post_one(Entry("more", debit="A", credit="CUST", amount="5.00"))
        assert apply(world, refused.correction_id).done

    def test_converted_amounts_come_back_exactly(self, world: World) -> None:
        world.post_one(Entry("R", debit="A", credit="YEN", amount="1.00", fx_rate="162.5"))
        right = Entry("R", debit="A", credit="YEN", amount="3.00", fx_rate="162.5")
        correct(world, finding(right))
        assert world.balance("YEN") == -488  # 487.5, halves to the even neighbour; not 162 + 325
        assert world.value("SELECT holds FROM ledger_corrected_references") is True
        world.assert_balances_follow_entries()

    def test_an_unknown_account_is_said_when_it_is_proposed(self, world: World) -> None:
        [one] = corrections.propose(
            world.connection, [finding(Entry("R", debit="NOBODY"))], actor="ann", reason=None
        )
        assert (one.outcome, one.correction_id) == ("skipped", None)
        assert one.detail == "the ledger does not have the account NOBODY: open it first"

    def test_an_account_that_moves_meanwhile_waits(self, world: World) -> None:
        """What the proposal was made from cannot change between looking at it and posting."""
        world.post_one(Entry("R", amount="9.00"))
        [number] = propose(world, finding(Entry("R")))
        approve(world, number)
        first, other = world.connect(), world.connect()
        deleted: list[int] = []
        with first.transaction():
            assert apply(world, number, first).done
            thread = threading.Thread(
                target=lambda: deleted.append(
                    other.execute("DELETE FROM ledger_entries WHERE reference_id = 'R'").rowcount
                )
            )
            thread.start()
            thread.join(0.3)
            assert not deleted
        thread.join()
        assert deleted == [1]
        assert world.value("SELECT holds FROM ledger_corrected_references") is False  # and that shows


class TestBanks:
    @pytest.fixture(autouse=True)
    def dual(self, world: World) -> None:
        world.connection.execute("SELECT mark_dual_ledger('MASTER', 'BANK')")

    def told(self, world: World) -> list[tuple[Any, ...]]:
        return world.rows(
            "SELECT reference_id, kind, payload ->> 'amount' FROM dual_ledger_outbox ORDER BY id"
        )

    def test_what_a_bank_was_told_wrongly_is_corrected_there_too(self, world: World) -> None:
        world.post_one(Entry("R", amount="9.00"))
        [done] = correct(world, finding(Entry("R")))
        assert self.told(world) == [("R", "entry", "9.00"), (done.entries[0], "entry", "1.00")]

    def test_what_a_bank_was_told_rightly_is_not_told_again(self, world: World) -> None:
        world.post_one(Entry("R"))
        world.connection.execute("DELETE FROM ledger_entries")
        correct(world, finding(Entry("R")))
        assert self.told(world) == [("R", "entry", "10.00")]

    def tamper(self, world: World, statement: str) -> None:
        with world.connection.transaction():
            world.connection.execute("SET LOCAL session_replication_role = replica")
            world.connection.execute(statement)

    @pytest.mark.parametrize(
        ("wrong", "entries"),
        [
            ("amount = 9", 1),
            ("credit_account_id = 'C'", 2),
            ("timestamp_utc = timestamp_utc + interval '1 day'", 2),
        ],
    )
    def test_what_only_this_ledger_had_wrong_is_noted_as_not_to_be_told(
        self, world: World, wrong: str, entries: int
    ) -> None:
        world.post_one(Entry("R"))
        self.tamper(world, f"UPDATE ledger_entries SET {wrong}")
        [done] = correct(world, finding(Entry("R")))
        assert len(done.entries) == entries
        assert world.rows("SELECT reference_id, status FROM dual_ledger_outbox ORDER BY id") == [
            ("R", "PENDING"),
            *((one, "CANCELLED") for one in done.entries),
        ]
        assert outbox.entries_without_row(world.connection, "MASTER") == []
        # Marked anew, the bank is told what was posted meanwhile, and not these.
        for sends in (False, True):
            world.connection.execute("SELECT mark_dual_ledger('MASTER', 'BANK', %s)", [sends])
        assert len(self.told(world)) == 1 + entries

    def test_what_was_corrected_before_counts_as_told(self, world: World) -> None:
        """The source says 9.00, then 10.00, and then 9.00 again: the bank hears of both changes."""
        world.post_one(Entry("R", amount="9.00"))
        [up] = correct(world, finding(Entry("R")))
        [down] = correct(world, finding(Entry("R", amount="9.00")))
        assert self.told(world) == [
            ("R", "entry", "9.00"),
            (up.entries[0], "entry", "1.00"),
            (down.entries[0], "entry", "1.00"),
        ]
        assert world.rows("SELECT DISTINCT status FROM dual_ledger_outbox") == [("PENDING",)]

    def test_content_that_it_was_told_wrongly_is_corrected_there_too(self, world: World) -> None:
        world.post_one(Entry("R"))
        [done] = correct(world, finding(Entry("R", kind="FEE")))
        assert [row[0] for row in self.told(world)] == ["R", *done.entries]
        assert world.rows("SELECT DISTINCT status FROM dual_ledger_outbox") == [("PENDING",)]

    def test_opening_balances_are_no_news_however_they_are_corrected(self, world: World) -> None:
        opening = {"kind": "OPENING_BALANCE"}
        with world.connection.transaction():
            world.connection.execute("SET LOCAL backfill.origin = 'OPENING'")
            world.post_one(Entry("R", amount="9.00", **opening))
        correct(world, finding(Entry("R", **opening)), finding(Entry("MISSING", **opening)))
        assert world.rows("SELECT DISTINCT status FROM dual_ledger_outbox") == [("CANCELLED",)]

    def test_entries_of_the_bank_are_for_the_bank(self, world: World) -> None:
        world.connection.execute(
            "INSERT INTO backfill_batches (source_id, kind, first_row, last_row, read, posted, duplicates, conflicts,"
            " rejected, run_id, path, started_at, seconds, origin)"
            " VALUES ('day', 'opening', 1, 1, 1, 1, 0, 0, 0, 'r', 'copy', now(), 0, 'BANK')"
        )
        world.post_one(Entry("R"))
        with world.connection.transaction():
            world.connection.execute("SET LOCAL session_replication_role = replica")
            world.connection.execute(
                "UPDATE ledger_entries SET batch_id = (SELECT max(id) FROM backfill_batches)"
            )
        [one] = corrections.propose(
            world.connection, [finding(Entry("R", amount="9.00"))], actor="ann", reason=None
        )
        assert one.outcome == "skipped"
        assert "fetch its day again" in str(one.detail)


def test_a_repeat_is_found_only_where_it_came_another_way(world: World) -> None:
    registration = world.register()
    world.post(registration, [Entry("S1"), Entry("S2"), Entry("other", amount="3.00")])
    assert correction_findings.posted_twice(world.connection, limit=10) == (0, [])
    for name, changes in {"L1": {}, "near": {"amount": "10.01"}, "later": {"at": JANUARY}}.items():
        world.post_one(Entry(name, **changes))
    count, found = correction_findings.posted_twice(world.connection, limit=10)
    assert (count, [(one.reference_id, one.kept_reference_id) for one in found]) == (1, [("L1", "S1")])


def test_entries_that_are_not_corrected_move_no_slower_for_it(world: World) -> None:
    """Posting knows nothing of corrections: no trigger of theirs is on the ledger's tables."""
    functions = world.rows(
        "SELECT p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgrelid IN ('ledger_entries'::regclass, 'bank_accounts'::regclass)"
    )
    assert not [name for (name,) in functions if "correction" in name]


def test_nobody_slips_an_entry_into_a_proposal_that_another_person_looks_at(world: World) -> None:
    world.post_one(Entry("R", amount="9.00"))
    [number] = propose(world, finding(Entry("R")))
    with pytest.raises(psycopg.errors.RestrictViolation, match="what was proposed stays as it was written"):
        world.connection.execute(
            "INSERT INTO ledger_correction_entries (correction_id, number, ledger_id, debit_account_id,"
            " credit_account_id, amount, currency_code, asset_type, transaction_type, reference_id, timestamp_utc)"
            " VALUES (%s, 9, 'MASTER', 'A', 'C', 1000000, 'USD', 'fiat', 'T', 'MINE', now())",
            [number],
        )
    assert approve(world, number, " Ann") == "same person"
    assert approve(world, number) == "approved"
    assert apply(world, number).done


def test_a_drift_that_source_and_audit_both_find_is_proposed_once(world: World) -> None:
    world.connection.execute("UPDATE bank_accounts SET balance = 5 WHERE id = 'A'")
    drift: dict[str, object] = {"kind": "balance", "account_id": "A"}
    [number] = propose(world, {**drift, "source_id": "bank"})
    assert propose(world, drift) == [number]
    assert status(world, number) == "proposed"
