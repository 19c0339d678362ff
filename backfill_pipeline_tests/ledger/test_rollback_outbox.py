"""What banks hear of a rollback: nothing of what they had not heard of, and that the rest is taken back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backfill_pipeline.errors import LedgerError, TransientLedgerError
from backfill_pipeline.ledger import posting, rollback
from backfill_pipeline.ledger.banks import breakers, outbox, outbox_deliveries
from backfill_pipeline.ledger.banks.outbox_deliveries import Kind, Verdict
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.rollback import RollbackScope
from backfill_pipeline_tests.ledger.test_corrections import correct, finding
from backfill_pipeline_tests.ledger.test_outbox_rows import BANK, mark
from backfill_pipeline_tests.ledger.test_rollback import apply
from backfill_pipeline_tests.ledger.world import Entry, World, as_rejects, table

ROWS = "SELECT reference_id, kind, status, withdraws FROM dual_ledger_outbox ORDER BY id"
NAMES = {"A": "A", "B": "B"}
COLUMNS = ("debit_account", "credit_account")


@pytest.fixture
def dual(world: World) -> World:
    """MASTER is kept with a bank."""
    world.open("A", "B")
    mark(world)
    breakers.breaker(world.connection, BANK)
    return world


def post(world: World, *references: str, origin: str = "LOCAL") -> None:
    """A batch of source bank."""
    registration = world.register(source_id="bank")
    rows = table([Entry(reference) for reference in references])
    plan = replace(world.plan(registration, rows), origin=origin)
    posting.post_batch(world.connection, plan, rows, PostingPolicy(), as_rejects)


def claim(world: World, kind: Kind = "acknowledgement") -> int:
    """Puts everything that is due into a delivery."""
    if kind == "acknowledgement":
        return outbox_deliveries.claim_acknowledgements(world.connection, BANK, 100)
    with world.connection.transaction():
        due = [one.id for one in outbox_deliveries.due_entries(world.connection, BANK, 0, 100)]
        if due:
            outbox_deliveries.deliver_entries(world.connection, BANK, due, COLUMNS, NAMES)
    return len(due)


def answered(world: World, status: str, kind: Kind = "acknowledgement") -> str:
    """The first delivery is sent, and every item judged so; its body."""
    with world.connection.transaction():
        delivery = outbox_deliveries.lock_delivery(world.connection, BANK, kind)
        assert delivery is not None
        verdicts = [Verdict(item.id, status, None, 3600) for item in delivery.items]
        outbox_deliveries.settle(world.connection, delivery, verdicts)
    return delivery.body


def told(world: World, kind: Kind = "acknowledgement", status: str = "ACKNOWLEDGED") -> str:
    """Everything that is due is sent."""
    assert claim(world, kind)
    return answered(world, status, kind)


def test_what_was_not_sent_is_cancelled_and_told_when_it_is_posted_again(dual: World) -> None:
    post(dual, "X")
    found = rollback.plan(dual.connection, RollbackScope("bank"))
    assert found["outbox"] == [
        {"bank": BANK, "kind": "entry", "status": "PENDING", "rows": 1, "becomes": "CANCELLED"}
    ]
    apply(dual)
    assert dual.rows(ROWS) == [("X", "entry", "CANCELLED", False)]
    assert claim(dual, "entry") == 0
    assert outbox.due_banks(dual.connection) == []
    assert outbox.rows_without_entry(dual.connection, "MASTER") == []
    post(dual, "X")
    assert dual.rows(ROWS) == [("X", "entry", "CANCELLED", False), ("X", "entry", "PENDING", False)]
    assert outbox.entries_without_row(dual.connection, "MASTER") == []


def test_an_acknowledgement_is_withdrawn_and_given_again_in_this_order(dual: World) -> None:
    post(dual, "X", origin=BANK)
    told(dual)
    apply(dual)
    assert dual.rows(ROWS) == [
        ("X", "acknowledgement", "COMPENSATED", False),
        ("X", "acknowledgement", "PENDING", True),
    ]
    post(dual, "X", origin=BANK)
    assert claim(dual) == 1, "first that it was taken back, then that it is posted again"
    assert claim(dual) == 0
    assert '{"detail": "rolled back: wrong month", "status": "rejected", "reference": "X"}' in answered(
        dual, "ACKNOWLEDGED"
    )
    assert '{"status": "posted", "reference": "X"}' in told(dual)
    assert [status for _, _, status, _ in dual.rows(ROWS)] == ["COMPENSATED", "ACKNOWLEDGED", "ACKNOWLEDGED"]
    assert outbox.rows_without_entry(dual.connection, "MASTER") == []
    assert outbox.entries_without_row(dual.connection, "MASTER") == []


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        ("ACKNOWLEDGED", ["COMPENSATED", "PENDING"]),
        ("FAILED", ["CANCELLED", "CANCELLED"]),
        ("DEAD", ["CANCELLED", "CANCELLED"]),
    ],
)
def test_a_request_without_an_answer_is_waited_for(dual: World, answer: str, ends: list[str]) -> None:
    post(dual, "X", origin=BANK)
    claim(dual)
    apply(dual)
    assert [status for _, _, status, _ in dual.rows(ROWS)] == ["SENT", "PENDING"]
    assert claim(dual) == 0
    answered(dual, answer)
    assert [status for _, _, status, _ in dual.rows(ROWS)] == ends
    assert claim(dual) == ends.count("PENDING")


@pytest.mark.parametrize(
    ("answer", "hears"), [("ACKNOWLEDGED", ["rejected", "posted"]), ("FAILED", ["posted"])]
)
def test_posted_again_before_the_answer_it_is_told_in_order_once_that_is_there(
    dual: World, answer: str, hears: list[str]
) -> None:
    """The bank may not answer for days: its entries are posted again meanwhile, however often they are taken back."""
    post(dual, "X", origin=BANK)
    claim(dual)
    for _ in range(2):
        apply(dual)
        assert outbox.rows_without_entry(dual.connection, "MASTER") == []
        post(dual, "X", origin=BANK)
    assert claim(dual) == 0
    answered(dual, answer)
    bodies = [told(dual) for _ in hears]
    assert [json.loads(body)["acknowledgements"][0]["status"] for body in bodies] == hears
    assert claim(dual) == 0
    assert [status for _, _, status, _ in dual.rows(ROWS)][-1] == "ACKNOWLEDGED"
    assert outbox.entries_without_row(dual.connection, "MASTER") == []


@pytest.mark.parametrize("answered_before", [True, False])
def test_a_correction_of_what_was_taken_back_is_told(dual: World, answered_before: bool) -> None:
    """The bank has the entry and its reversal, or will have: what brings it back it has to hear of."""
    post(dual, "X")
    assert claim(dual, "entry")
    if answered_before:
        answered(dual, "ACKNOWLEDGED", "entry")
    apply(dual, mode="reverse")
    [done] = correct(dual, finding(Entry("X")))
    *_, (reversal, _, _, _), (corrected, kind, status, _) = dual.rows(ROWS)
    assert (corrected, kind, status) == (done.entries[0], "entry", "PENDING")
    assert reversal not in ("X", corrected)
    assert outbox.entries_without_row(dual.connection, "MASTER") == []


def test_an_entry_of_the_bank_that_was_withdrawn_is_acknowledged_when_a_correction_posts_it(
    dual: World,
) -> None:
    post(dual, "X", origin=BANK)
    told(dual)
    apply(dual, mode="delete")
    key = dual.value("SELECT partition_key FROM backfill_partitions")
    [done] = correct(dual, {**finding(Entry("X")), "source_id": "bank", "partition_key": key})
    assert done.entries == ("X",)
    assert dual.rows(ROWS) == [
        ("X", "acknowledgement", "COMPENSATED", False),
        ("X", "acknowledgement", "PENDING", True),
        ("X", "acknowledgement", "PENDING", False),
    ]


def test_a_plan_knows_rows_for_banks_one_by_one(dual: World) -> None:
    """Two rows that change places leave the numbers as they were."""
    post(dual, "X", "Y", origin=BANK)
    claim(dual)
    dual.connection.execute("UPDATE dual_ledger_outbox SET status = 'ACKNOWLEDGED' WHERE reference_id = 'X'")
    found = rollback.plan(dual.connection, RollbackScope("bank"))
    dual.connection.execute(
        "UPDATE dual_ledger_outbox SET status = CASE reference_id WHEN 'X' THEN 'SENT' ELSE 'ACKNOWLEDGED' END"
    )
    again = rollback.plan(dual.connection, RollbackScope("bank"))
    assert again["outbox"] == found["outbox"]
    assert again["plan_hash"] != found["plan_hash"]


def test_an_answer_that_comes_while_it_is_rolled_back_counts(dual: World) -> None:
    """The sender has its items in hand, and writes the verdicts behind the rollback."""
    post(dual, "X", origin=BANK)
    claim(dual)
    sender = dual.connect()
    with sender.transaction():
        delivery = outbox_deliveries.lock_delivery(sender, BANK, "acknowledgement")
        assert delivery is not None
        apply(dual)
        outbox_deliveries.settle(
            sender, delivery, [Verdict(one.id, "ACKNOWLEDGED") for one in delivery.items]
        )
    assert [status for _, _, status, _ in dual.rows(ROWS)] == ["COMPENSATED", "PENDING"]


def test_entries_that_are_taken_back_while_they_are_claimed_are_not_sent(dual: World) -> None:
    post(dual, "X")
    claiming = dual.connect()
    with pytest.raises(TransientLedgerError, match="taken back by a rollback"), claiming.transaction():
        due = [one.id for one in outbox_deliveries.due_entries(claiming, BANK, 0, 100)]
        assert due
        apply(dual)
        outbox_deliveries.deliver_entries(claiming, BANK, due, COLUMNS, NAMES)
    assert dual.count("dual_ledger_deliveries") == 0


def test_what_a_bank_has_is_reversed_here_and_there(dual: World) -> None:
    post(dual, "X")
    told(dual, "entry")
    found = rollback.plan(dual.connection, RollbackScope("bank"))
    assert (found["mode"], found["mode_because"]) == (
        "reverse",
        "1 of the entries were sent to a bank, which keeps them",
    )
    with pytest.raises(LedgerError, match="were sent to a bank, which keeps them: these entries can only be"):
        apply(dual, mode="delete")
    apply(dual)
    assert dual.rows(ROWS) == [
        ("X", "entry", "COMPENSATED", False),
        ("X~reversed", "entry", "PENDING", False),
    ]
    body = told(dual, "entry")
    assert '"debit_account": "B"' in body
    assert '"credit_account": "A"' in body
    assert outbox.entries_without_row(dual.connection, "MASTER") == []


def test_of_what_a_bank_never_heard_it_does_not_hear_the_reversal_either(dual: World) -> None:
    post(dual, "X")
    apply(dual, mode="reverse")
    assert dual.rows(ROWS) == [
        ("X", "entry", "CANCELLED", False),
        ("X~reversed", "entry", "CANCELLED", False),
    ]
    assert outbox.due_banks(dual.connection) == []
    assert outbox.entries_without_row(dual.connection, "MASTER") == []


def test_a_reversal_waits_for_the_answer_to_what_it_reverses(dual: World) -> None:
    post(dual, "X")
    claim(dual, "entry")
    apply(dual, mode="reverse")
    assert claim(dual, "entry") == 0
    answered(dual, "ACKNOWLEDGED", "entry")
    assert claim(dual, "entry") == 1


def test_a_reversed_entry_of_a_bank_is_posted_again_under_the_banks_reference(dual: World) -> None:
    post(dual, "X", origin=BANK)
    told(dual)
    apply(dual, mode="reverse")
    assert dual.value("SELECT origin FROM backfill_batches WHERE kind = 'reversal'") == "ROLLBACK"
    post(dual, "X~2", origin=BANK)
    assert '"status": "rejected"' in told(dual)
    assert '{"status": "posted", "reference": "X"}' in told(dual)
    assert outbox.entries_without_row(dual.connection, "MASTER") == []


def test_a_ledger_that_is_marked_later_tells_of_what_counts(world: World) -> None:
    """Both sides of a reversed entry of ours, and nothing of a bank's."""
    world.open("A", "B")
    post(world, "X")
    apply(world, mode="reverse")
    post(world, "X~2")
    assert mark(world) == 3
    assert [reference for reference, *_ in world.rows(ROWS)] == ["X", "X~reversed", "X~2"]


def test_a_bank_that_lost_what_it_had_gets_the_entry_and_then_its_reversal(dual: World) -> None:
    post(dual, "X")
    told(dual, "entry")
    apply(dual)
    told(dual, "entry")
    assert outbox.retry(dual.connection, bank_id=BANK, statuses=["ACKNOWLEDGED"]) == 2
    assert '"reference": "X",' in told(dual, "entry")
    assert '"reference": "X~reversed",' in told(dual, "entry")
    assert [status for _, _, status, _ in dual.rows(ROWS)] == ["COMPENSATED", "ACKNOWLEDGED"]


def test_rows_are_found_by_an_index_whatever_their_state(dual: World) -> None:
    """The two partial indexes serve what is asked: else the outbox would be read as a whole for every entry."""
    post(dual, *(f"X{number}" for number in range(50)), origin=BANK)
    dual.connection.execute("SET enable_seqscan = off")
    for condition, index in (
        (
            "status = 'ACKNOWLEDGED' AND NOT withdraws AND compensated_by IS NULL",
            "dual_ledger_outbox_active_key",
        ),
        (
            "NOT withdraws AND compensated_by IS NULL AND status NOT IN ('CANCELLED', 'COMPENSATED')",
            "dual_ledger_outbox_active_key",
        ),
        ("status = 'CANCELLED'", "dual_ledger_outbox_taken_back_idx"),
        ("status = 'COMPENSATED'", "dual_ledger_outbox_taken_back_idx"),
        (
            "(status = 'COMPENSATED' OR status = 'SENT' AND compensated_by IS NOT NULL)",
            "dual_ledger_outbox_taken_back_idx",
        ),
    ):
        plan = dual.rows(
            "EXPLAIN SELECT 1 FROM dual_ledger_outbox WHERE ledger_id = 'MASTER' AND reference_id = 'X1'"
            f" AND destination = '{BANK}' AND {condition}"
        )
        assert any(index in line for (line,) in plan), (condition, plan)
