"""Entries of ours name the bank's accounts, in the order in which accounts were moved, or are not sent at all."""

from __future__ import annotations

from decimal import Decimal

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.dual_ledger.account_names import AccountNames
from backfill_pipeline.dual_ledger.ordering import Queue
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger.banks.outbox_deliveries import Candidate
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.test_dispatch import BANK, LATER, tell
from backfill_pipeline_tests.dual_ledger.world import Dual

FIELDS = {
    "ledger_id": {"constant": "OURS-SCB-01"},
    "debit_account_id": {"column": "debit_account", "map": "accounts"},
    "credit_account_id": {"column": "credit_account", "map": "accounts"},
    "amount": "amount",
    "currency_code": "currency",
    "transaction_type": "type",
    "reference_id": "reference",
    "timestamp_utc": {"column": "booked_at"},
}


@pytest.fixture
def ours(make_dual: MakeDual) -> Dual:
    """A bank without entries of its own, and a ledger with accounts A and B."""
    dual = make_dual(entries_per_day=0)
    dual.write_scb()
    dual.query("SELECT mark_dual_ledger('OURS-SCB-01', %s)", BANK)
    dual.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('A', 'EUR'), ('B', 'EUR')")
    return dual


def shared(dual: Dual) -> list[str]:
    return [one.id for one in dual.book().ledger.accounts if one.shared and one.currency == "EUR"]


def mapped(dual: Dual, inline: dict[str, str], **fields: object) -> AccountNames:
    path = dual.write_scb(
        account_map={"inline": inline}, fields={**FIELDS, **fields}, accounts=None, scb={"batch_size": 10}
    )
    return AccountNames(load_definition(path))


def test_accounts_are_renamed_backwards_and_nothing_else_is_touched(ours: Dual) -> None:
    first, second, *_ = shared(ours)
    mapped(ours, {first: "A", second: "B"})
    ours.post_here("E", debit="A", credit="B", amount="0.10", metadata='{"rate": 1.10, "of": {"none": null}}')
    assert tell(ours).acknowledged == 1
    sent = ours.received()["E"]
    assert (sent.debit_account, sent.credit_account, sent.amount) == (first, second, "0.10")
    assert sent.metadata == {"rate": 1.1, "of": {"none": None}}
    payload = ours.query(
        "SELECT payload ->> 'debit_account', payload -> 'metadata' ->> 'rate' FROM dual_ledger_outbox"
    )
    assert payload == [("A", "1.10")], "the outbox holds our names"


def test_a_bank_that_books_the_other_way_round_gets_it_its_way(ours: Dual) -> None:
    first, second, *_ = shared(ours)
    mapped(
        ours,
        {first: "A", second: "B"},
        debit_account_id={"column": "credit_account", "map": "accounts"},
        credit_account_id={"column": "debit_account", "map": "accounts"},
    )
    ours.post_here("E", debit="A", credit="B")
    assert tell(ours).acknowledged == 1
    assert (ours.received()["E"].debit_account, ours.received()["E"].credit_account) == (second, first)


@pytest.mark.parametrize("case", ["two names", "no name"])
def test_an_account_without_one_name_is_not_guessed(ours: Dual, case: str) -> None:
    first, second, third, *_ = shared(ours)
    names = {first: "A", second: "B"} | ({third: "A"} if case == "two names" else {})
    debit = "A"
    if case == "no name":
        debit = (
            third  # the bank has an account of this name, but it is none of ours: its entries become another
        )
        ours.query("INSERT INTO bank_accounts (id, currency_code) VALUES (%s, 'EUR')", third)
    mapped(ours, names)
    ours.post_here("E", debit=debit, credit="B")
    ours.post_here("BEHIND", debit="B", credit=debit)
    lines: list[str] = []
    report = tell(ours, pauses=LATER, log=lines.append)
    assert (report.failed, report.acknowledged, report.left) == (1, 0, 2)
    row = ours.outbox()[0]
    assert row[2:4] == ("FAILED", 1)
    expected = (
        "stands for 2 accounts" if case == "two names" else "is not among those that account_map leads to"
    )
    assert f"not sent: account {debit} {expected}" in str(row[4])
    assert ours.received() == {}
    assert [one for one in ours.log() if one.operation == "push"] == []


def test_rules_that_cannot_be_read_backwards_are_one_sentence__and_stop_no_acknowledgement(
    ours: Dual,
) -> None:
    fields = {
        **FIELDS,
        "debit_account_id": {"template": "X-{debit_account}"},
        "credit_account_id": "credit_account",
    }
    path = ours.write_scb(fields=fields)
    with pytest.raises(SourceDefinitionError, match=r"fields\.debit_account_id is more than a column"):
        AccountNames(load_definition(path))
    assert tell(ours).errors == {}, "there is nothing to send"
    ours.post_here("E", debit="A", credit="B")
    report = tell(ours)
    assert report.left == 1
    assert "set scb.send_entries to false" in report.errors[BANK]
    assert ours.outbox_states() == {("entry", "PENDING"): 1}


def test_entries_across_currencies_are_told_with_their_rate(ours: Dual) -> None:
    euros = shared(ours)[0]
    yen = next(one.id for one in ours.book().ledger.accounts if one.shared and one.currency == "JPY")
    ours.query("INSERT INTO bank_accounts (id, currency_code) VALUES (%s, 'EUR'), (%s, 'JPY')", euros, yen)
    ours.query(
        "SELECT post_ledger_entry('OURS-SCB-01'::text, %s::text, %s::text, 10.00::numeric, 'EUR'::text, 'fiat'::text,"
        " 'TRANSFER'::text, 'FX'::text, 161.50::numeric, NULL::jsonb, now())",
        euros,
        yen,
    )
    assert tell(ours).acknowledged == 1
    assert Decimal(ours.received()["FX"].fx_rate or 0) == Decimal("161.5")


def test_what_moves_an_account_waits_behind_what_moved_it_before() -> None:
    queue = Queue({"A": 5})
    candidates = [
        Candidate(3, "A", "B", 0),  # before the one that waits
        Candidate(6, "A", "C", 0),  # behind it
        Candidate(7, "C", "D", 0),  # behind that
        Candidate(8, "B", "E", 0),
        Candidate(9, "D", "E", 0),
    ]
    assert [one.id for one in candidates if queue.admit(one)] == [3, 8]
