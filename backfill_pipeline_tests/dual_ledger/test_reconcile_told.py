"""Both ledgers compared, as far as the bank has to be told: acknowledgements, entries of ours, and the outbox itself."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any

import pytest

from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.dispatch import dispatch
from backfill_pipeline.dual_ledger.dual_report import BREAK_KINDS
from backfill_pipeline.ledger import corrections
from backfill_pipeline.ledger.entries import CONTENT_COLUMNS
from backfill_pipeline_tests.dual_ledger.test_reconcile import ENTRIES, FIRST, compare, found
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual

ACKNOWLEDGED = {"kind": "acknowledgement", "status": "ACKNOWLEDGED", "entry": "here", "count": "40"}


def tell(dual: Dual) -> None:
    """Sends what is in the outbox, with the real dispatcher."""
    report = dispatch(dual.url, [dual.definition()], log=lambda line: None)
    assert not report.errors


@pytest.fixture
def told(dual: Dual) -> Dual:
    """A ledger with the first day of the bank, which is acknowledged, and an entry of ours, which was sent."""
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.post_here("OURS-1", at="2024-03-29T12:00:00Z")
    tell(dual)
    return dual


def breaks(
    dual: Dual, day: date = FIRST_DAY, **how: Any
) -> list[tuple[str, str | None, str | None, str | None, str | None]]:
    report = compare(dual, day, told=how.pop("told", True))
    assert report.break_count >= len(report.breaks)
    return found(report)


def received_listings(dual: Dual) -> int:
    return sum(1 for line in dual.log() if line.operation == "received")


def alter_received(dual: Dual, reference: str, **content: object) -> None:
    """What the bank says that it received, behind its back."""
    with dual.simulator.bank.store.write() as connection:
        (text,) = connection.execute(
            "SELECT content FROM received WHERE reference = ?", (reference,)
        ).fetchone()
        connection.execute(
            "UPDATE received SET content = ? WHERE reference = ?",
            (json.dumps({**json.loads(text), **content}), reference),
        )


def receive_from_elsewhere(dual: Dual, reference: str) -> None:
    """Somebody else sends the bank an entry for our ledger."""
    entry = next(iter(dual.entries_here().values()))
    body = {
        "reference": reference,
        "booked_at": "2024-03-29T10:00:00Z",
        "debit_account": entry.debit,
        "credit_account": entry.credit,
        "amount": "3",
        "currency": entry.currency,
        "type": "TRANSFER",
    }
    with BankClient(scb_of(dual.definition())) as client:
        sent = json.dumps({"entries": [body]}).encode()
        (result,) = client.send("entry", sent, f"key-{reference}", references=[reference])
    assert result.taken, result


def test_a_day_is_equal_when_the_bank_knows_of_everything_and_was_sent_what_is_ours(told: Dual) -> None:
    report = compare(told, told=True)
    assert (report.verdict, report.breaks) == ("match", [])
    assert (report.equal, report.sent, report.sent_equal, report.sent_listed) == (ENTRIES, 1, 1, False)
    assert received_listings(told) == 0
    rows = [{key: value for key, value in row.items() if key != "oldest"} for row in report.outbox_rows()]
    assert rows == [ACKNOWLEDGED, {**ACKNOWLEDGED, "kind": "entry", "count": "1"}]
    assert report.sentence.endswith("40 entries of SCB-01, 1 sent and received")


def test_what_was_not_told_yet_is_a_break_when_it_must_have_been(dual: Dual) -> None:
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.post_here("OURS-1")
    assert compare(dual, told=False).matches
    report = compare(dual, told=True)
    assert report.break_kinds == {"not told yet": ENTRIES + 1}
    assert ("not told yet", FIRST, "outbox", "PENDING", None) in found(report)
    tell(dual)
    dual.query("UPDATE dual_ledger_outbox SET status = 'SENT' WHERE reference_id = 'OURS-1'")
    assert breaks(dual, told=False) == []
    assert breaks(dual) == [("not told yet", "OURS-1", "outbox", "SENT", None)]


@pytest.mark.parametrize(("status", "kind"), [("DEAD", "dead"), ("FAILED", "failed")])
def test_what_the_bank_refused_is_a_break_with_its_reason(told: Dual, status: str, kind: str) -> None:
    told.query(
        "UPDATE dual_ledger_outbox SET status = %s, last_error = 'unknown_account: no such account'"
        " WHERE reference_id IN (%s, 'OURS-1')",
        status,
        FIRST,
    )
    report = compare(told, told=False)
    assert found(report) == [
        (kind, FIRST, "outbox", status, None),
        (kind, "OURS-1", "outbox", status, None),
    ]
    assert {one.reason for one in report.breaks} == {"unknown_account: no such account"}


def test_an_entry_that_the_bank_refuses_for_good_is_dead_in_its_words(dual: Dual) -> None:
    dual.open()
    dual.post_day(FIRST_DAY)
    entry = next(iter(dual.entries_here().values()))
    dual.query("INSERT INTO bank_accounts (id, currency_code) VALUES ('OURS-ALONE', %s)", entry.currency)
    dual.write_scb(scb={"send_attempts": "1"})
    dual.post_here("OURS-1", currency=entry.currency, debit="OURS-ALONE", amount="5")
    tell(dual)
    report = compare(dual, told=True)
    assert [(one.kind, one.reference) for one in report.breaks] == [("dead", "OURS-1")]
    assert "unknown_account" in str(report.breaks[0].reason)


@pytest.mark.parametrize("reference", [FIRST, "OURS-1"])
def test_an_outbox_row_that_was_deleted_is_named_by_its_entry(told: Dual, reference: str) -> None:
    told.tamper("DELETE FROM dual_ledger_outbox WHERE reference_id = %s", reference)
    assert ("no outbox row", reference, "outbox", None, None) in breaks(told)
    assert compare(told).break_kinds["no outbox row"] == 1


def test_an_entry_of_ours_that_was_deleted_here_is_left_in_the_outbox_and_at_the_bank(told: Dual) -> None:
    told.tamper("DELETE FROM ledger_entries WHERE reference_id = 'OURS-1'")
    assert breaks(told) == [
        ("outbox row alone", "OURS-1", "outbox", "ACKNOWLEDGED", None),
        ("sent missing here", "OURS-1", None, None, "12.50 EUR"),
    ]


def test_an_entry_of_ours_that_was_deleted_before_it_was_sent_is_found_by_its_outbox_row(dual: Dual) -> None:
    dual.open()
    dual.post_here("OURS-1")
    dual.tamper("DELETE FROM ledger_entries WHERE reference_id = 'OURS-1'")
    assert ("outbox row alone", "OURS-1", "outbox", "PENDING", None) in breaks(dual, told=False)


@pytest.mark.parametrize(
    ("change", "field", "here", "there"),
    [
        ("amount = amount + 1", "amount", "13.5", "12.50"),
        ("transaction_type = 'OTHER'", "type", "OTHER", "TRANSFER"),
        ("currency_code = 'USD'", "currency", "USD", "EUR"),
    ],
)
def test_an_entry_that_was_changed_here_after_it_was_sent_is_different(
    told: Dual, change: str, field: str, here: str, there: str
) -> None:
    told.tamper(f"UPDATE ledger_entries SET {change} WHERE reference_id = 'OURS-1'")
    # A type is in no digest: found where entries are compared.
    assert found(compare(told, anew=field == "type")) == [("sent different", "OURS-1", field, here, there)]


def correct(dual: Dual, right: dict[str, object]) -> None:
    """Proposes what brings OURS-1 back, and applies it."""
    finding = {"ledger_id": right["ledger_id"], "reference_id": "OURS-1", "target": right}
    with dual.places.connect("OURS-1") as connection:
        [one] = corrections.propose(connection, [finding], actor="ann", reason=None)
        assert one.correction_id is not None
        assert corrections.approve(connection, one.correction_id, actor="bob", reason=None).done
        assert corrections.apply(connection, one.correction_id, actor="bob", reason=None).done


@pytest.mark.parametrize(
    "change", ["amount = amount + 1", "timestamp_utc = timestamp_utc + interval '1 day'"]
)
def test_an_entry_that_was_changed_here_and_corrected_is_what_the_bank_has(told: Dual, change: str) -> None:
    """The bank knew it all along: it hears nothing, and both ledgers are equal again on every day."""
    [(right,)] = told.query("SELECT to_jsonb(e) FROM ledger_entries e WHERE reference_id = 'OURS-1'")
    told.tamper(f"UPDATE ledger_entries SET {change} WHERE reference_id = 'OURS-1'")
    assert compare(told, anew=True).verdict == "break"
    correct(told, {name: right[name] for name in CONTENT_COLUMNS})
    tell(told)
    assert list(told.received()) == ["OURS-1"]
    report = compare(told, anew=True)
    assert (report.verdict, report.breaks, report.sent_equal) == ("match", [], 1)
    tomorrow = compare(told, FIRST_DAY + timedelta(days=1), anew=True)  # of which nothing was fetched
    assert {one.kind for one in tomorrow.breaks} == {"missing here"}
    alter_received(told, "OURS-1", amount="99.00")
    assert [(one.kind, one.there) for one in compare(told).breaks if one.reference] == [
        ("sent different", "99.00")
    ]


def test_an_entry_that_was_moved_to_another_day_after_it_was_sent_is_different_on_both(told: Dual) -> None:
    told.tamper(
        "UPDATE ledger_entries SET timestamp_utc = timestamp_utc + interval '1 day' WHERE reference_id = 'OURS-1'"
    )
    for day in told.days()[:2]:
        report = compare(told, day)
        assert ("sent different", "OURS-1", "booked_at") in [
            (one.kind, one.reference, one.field) for one in report.breaks
        ]


@pytest.mark.parametrize("digest", ["true", "false"])
def test_an_entry_that_the_bank_received_otherwise_is_different(told: Dual, digest: str) -> None:
    told.write_scb(scb={"digest": digest})
    sent = told.entries_here()["OURS-1"]
    other = next(
        one.id
        for one in told.book().ledger.accounts
        if one.currency == "EUR" and one.id not in (sent.debit, sent.credit)
    )
    alter_received(told, "OURS-1", debit_account=other)  # count and sums stay as they are
    assert breaks(told) == [("sent different", "OURS-1", "debit_account", sent.debit, other)]
    assert received_listings(told) > 0


def test_an_entry_that_the_bank_lost_is_missing_there(told: Dual) -> None:
    with told.simulator.bank.store.write() as connection:
        connection.execute("DELETE FROM received")
    assert breaks(told) == [("sent missing there", "OURS-1", None, "12.5 EUR", None)]


def test_an_entry_that_the_bank_received_from_elsewhere_is_missing_here(told: Dual) -> None:
    receive_from_elsewhere(told, "ALIEN")
    (one,) = breaks(told)
    assert one[:2] == ("sent missing here", "ALIEN")


def test_wrong_totals_of_what_the_bank_received_are_a_break(told: Dual) -> None:
    with told.simulator.bank.store.write() as connection:
        connection.execute(
            "UPDATE received SET minor = '1251'"
        )  # sums are added up from it; the entry says 12.50
    assert breaks(told) == [("totals", None, "sum of received EUR", "12.5", "12.51")]


def test_without_a_digest_what_was_sent_is_compared_entry_by_entry(told: Dual) -> None:
    told.write_scb(scb={"digest": "false"})
    report = compare(told, told=True)
    assert (report.verdict, report.sent_equal, report.sent_listed) == ("match", 1, True)


def test_decimals_of_a_second_and_amounts_without_decimals_are_the_same_on_both_sides(dual: Dual) -> None:
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.post_here("FINE-1", at="2024-03-29T12:00:00.25Z", amount="7")
    dual.post_here("FINE-2", at="2024-03-29T22:59:59.999999Z", currency="JPY", amount="9")
    dual.post_here("NEXT-DAY", at="2024-03-29T23:00:00Z", currency="KWD", amount="0.001")
    tell(dual)
    report = compare(dual, told=True)
    assert (report.verdict, report.breaks, report.sent_listed, report.sent_equal) == ("match", [], False, 2)


def test_entries_that_are_not_sent_are_no_concern_of_the_bank(dual: Dual) -> None:
    dual.write_scb(scb={"send_entries": "false"})
    dual.open()
    dual.post_day(FIRST_DAY)
    dual.post_here("OURS-1")
    tell(dual)
    report = compare(dual, told=True)
    assert (report.verdict, report.sent, report.sent_stated) == ("match", 0, None)


def test_every_kind_of_break_says_what_it_means() -> None:
    assert all(text and not text.endswith(".") for text in BREAK_KINDS.values())
