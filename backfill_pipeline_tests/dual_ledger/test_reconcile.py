"""Both ledgers compared, entry by entry: every way in which they can differ is made to happen, and named."""

from __future__ import annotations

import json
import os
import shutil
from datetime import date
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from backfill_pipeline.definition.scb_days import day_source_id, scb_of
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.dual_report import SAMPLE, SHOWN_CHARACTERS, DualReport
from backfill_pipeline.dual_ledger.reconcile import reconcile_day
from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.web import reading
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual, our_ledger

ENTRIES = 40
FIRST = "SCB-01-20240329-000000001"
SECOND = "SCB-01-20240329-000000002"
OURS = our_ledger("SCB-01")


@pytest.fixture
def posted(dual: Dual) -> Dual:
    """A ledger that has the first day of the bank."""
    dual.open()
    dual.post_day(FIRST_DAY)
    return dual


def compare(dual: Dual, day: date = FIRST_DAY, *, told: bool = False, anew: bool = False) -> DualReport:
    definition = dual.definition()
    with BankClient(scb_of(definition)) as client:
        return reconcile_day(definition, dual.places, day, client, told=told, anew=anew)


def found(report: DualReport) -> list[tuple[str, str | None, str | None, str | None, str | None]]:
    return [(one.kind, one.reference, one.field, one.here, one.there) for one in report.breaks]


def amount_of(dual: Dual, reference: str) -> tuple[str, str]:
    """Amount without trailing zeros and currency, at the bank."""
    entry = dual.entries_there()[reference]
    return f"{entry.amount.normalize():f}", entry.currency


def listings(dual: Dual) -> int:
    """How often the bank was asked for a page of entries."""
    return sum(1 for line in dual.log() if line.operation == "entries")


def swap_amounts(dual: Dual) -> tuple[str, str]:
    """Two entries of one currency at the bank get each other's amount: count and sums stay."""
    there = [one for one in dual.entries_there("SCB-01", FIRST_DAY).values() if one.currency == "EUR"]
    first, second = there[0], next(one for one in there if one.amount != there[0].amount)
    dual.change(first.reference, str(second.amount))
    dual.change(second.reference, str(first.amount))
    return first.reference, second.reference


def test_equal_ledgers_are_proven_by_totals_and_entries_without_asking_for_entries_again(
    posted: Dual,
) -> None:
    asked = listings(posted)
    report = compare(posted)
    assert (report.verdict, report.breaks, report.break_count) == ("match", [], 0)
    assert (report.served, report.equal, report.here, report.compared) == (
        ENTRIES,
        ENTRIES,
        ENTRIES,
        "capture",
    )
    assert listings(posted) == asked
    assert report.sentence == f"scb_01 2024-03-29: both ledgers are equal: {ENTRIES} entries of SCB-01"
    there = posted.entries_there("SCB-01", FIRST_DAY).values()
    for one in report.currencies():
        total = sum((entry.amount for entry in there if entry.currency == one.currency), Decimal(0))
        assert (one.stated, one.served, one.here, one.difference) == (total, total, total, Decimal(0))
    assert [row["currency"] for row in report.currency_rows()] == ["EUR", "JPY", "KWD", "USD"]


def test_all_days_are_compared_each_by_itself_also_those_of_23_hours(dual: Dual) -> None:
    dual.open()
    for day in dual.days():
        dual.post_day(day)
    assert [compare(dual, day).verdict for day in dual.days()] == ["match"] * 3
    dual.tamper("DELETE FROM ledger_entries WHERE reference_id = %s", FIRST)
    assert [compare(dual, day).verdict for day in dual.days()] == ["break", "match", "match"]


def test_an_entry_that_was_deleted_here_is_missing_here(posted: Dual) -> None:
    assert posted.tamper("DELETE FROM ledger_entries WHERE reference_id = %s", FIRST) == 1
    report = compare(posted)
    amount, currency = amount_of(posted, FIRST)
    assert ("missing here", FIRST, None, None, f"{amount} {currency}") in found(report)
    assert report.break_kinds == {"missing here": 1, "outbox row alone": 1}
    assert report.equal == ENTRIES - 1
    assert next(one.difference for one in report.currencies() if one.currency == currency) == -Decimal(amount)
    assert FIRST in report.sentence


CHANGES = {
    "amount": ("amount = amount + 0.000001", None),
    "debit_account_id": ("debit_account_id = 'SOMEWHERE'", "SOMEWHERE"),
    "credit_account_id": ("credit_account_id = 'SOMEWHERE'", "SOMEWHERE"),
    "currency_code": ("currency_code = 'CHF'", "CHF"),
    "transaction_type": ("transaction_type = 'OTHER'", "OTHER"),
    "asset_type": ("asset_type = 'cbdc'", "cbdc"),
    "timestamp_utc": ("timestamp_utc = '2024-03-29T12:00:00.5Z'", "2024-03-29T12:00:00.500000Z"),
    "fx_rate": ("fx_rate = 1.5", "1.5"),
    "metadata": ("metadata = NULL", None),
}
"""Field → how an entry is changed behind the ledger's back, and what it says then."""


def test_every_field_that_was_changed_here_is_named_with_both_values(posted: Dual) -> None:
    references = sorted(posted.entries_there("SCB-01", FIRST_DAY))
    for reference, (change, _) in zip(references, CHANGES.values(), strict=False):
        assert posted.tamper(f"UPDATE ledger_entries SET {change} WHERE reference_id = %s", reference) == 1
    report = compare(posted)
    assert report.break_kinds == {"different": len(CHANGES)}
    assert report.equal == ENTRIES - len(CHANGES)
    by_field = {one.field: one for one in report.breaks}
    assert {field: one.reference for field, one in by_field.items()} == dict(
        zip(CHANGES, references, strict=False)
    )
    for field, (_, here) in CHANGES.items():
        assert by_field[field].here != by_field[field].there
        assert here in (None, by_field[field].here)
    amount = by_field["amount"]
    assert amount.there == amount_of(posted, references[0])[0]
    assert Decimal(str(amount.here)) - Decimal(str(amount.there)) == Decimal("0.000001")
    assert (by_field["metadata"].here, by_field["fx_rate"].there) == (None, None)


def test_an_entry_that_was_moved_to_another_day_here_is_a_break_of_its_own_day_alone(dual: Dual) -> None:
    dual.open()
    for day in dual.days()[:2]:
        dual.post_day(day)
    moved = (
        "UPDATE ledger_entries SET timestamp_utc = timestamp_utc + interval '1 day' WHERE reference_id = %s"
    )
    dual.tamper(moved, FIRST)
    reports = [compare(dual, day) for day in dual.days()[:2]]
    assert [(one.kind, one.field) for one in reports[0].breaks] == [("different", "timestamp_utc")]
    assert reports[1].matches


def test_a_late_entry_of_the_bank_is_missing_here(posted: Dual) -> None:
    (late,) = posted.add_late(FIRST_DAY)
    report = compare(posted)
    amount, currency = amount_of(posted, late)
    assert found(report) == [("missing here", late, None, None, f"{amount} {currency}")]
    assert report.breaks[0].reason == "not posted"
    assert (report.compared, report.served, report.stated.count) == ("fetched", ENTRIES + 1, ENTRIES + 1)
    assert not list(posted.places.intermediates_dir.rglob("compare-*")), "what was fetched is not kept"
    posted.post_day(FIRST_DAY)
    assert compare(posted).matches


def test_an_entry_that_changed_at_the_bank_is_different_before_and_after_it_is_fetched_again(
    posted: Dual,
) -> None:
    before = amount_of(posted, FIRST)[0]
    posted.change(FIRST, "77")
    expected = [("different", FIRST, "amount", before, "77")]
    assert found(compare(posted)) == expected
    posted.post_day(FIRST_DAY)  # a conflict: never overwritten
    report = compare(posted)
    assert (found(report), report.compared) == (expected, "capture")
    assert str(report.breaks[0].reason).startswith("conflict: ")


def test_an_entry_that_the_bank_withdrew_is_missing_there(posted: Dual) -> None:
    (late,) = posted.add_late(FIRST_DAY)
    posted.post_day(FIRST_DAY)
    assert compare(posted).matches
    with posted.simulator.bank.store.write() as connection:
        connection.execute("DELETE FROM late")
    report = compare(posted)
    assert found(report) == [("missing there", late, None, None, None)]
    assert (report.served, report.here) == (ENTRIES, ENTRIES + 1)
    posted.post_day(FIRST_DAY)  # nothing is ever unposted
    assert found(compare(posted)) == [("missing there", late, None, None, None)]


def test_an_entry_that_was_put_among_the_banks_is_missing_there(posted: Dual) -> None:
    like_it = (
        "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,"
        " transaction_type, reference_id, timestamp_utc, batch_id) SELECT ledger_id, debit_account_id, credit_account_id,"
        " amount, currency_code, asset_type, transaction_type, 'FORGED', timestamp_utc, batch_id FROM ledger_entries"
        " WHERE reference_id = %s"
    )
    posted.tamper(like_it, FIRST)
    report = compare(posted)
    assert ("missing there", "FORGED", None, None, None) in found(report)
    assert report.break_kinds == {"missing there": 1, "no outbox row": 1}


def test_an_entry_that_somebody_posted_in_the_banks_name_is_missing_there(posted: Dual) -> None:
    with psycopg.connect(posted.url) as connection:
        connection.execute("SET backfill.origin = 'SCB-01'")
        connection.execute(
            "INSERT INTO ledger_entries (ledger_id, debit_account_id, credit_account_id, amount, currency_code,"
            " transaction_type, reference_id, timestamp_utc) SELECT ledger_id, debit_account_id, credit_account_id, 5,"
            " currency_code, transaction_type, 'IN-ITS-NAME', timestamp_utc FROM ledger_entries WHERE reference_id = %s",
            [FIRST],
        )
    assert found(compare(posted)) == [("missing there", "IN-ITS-NAME", None, None, None)]


def test_rejects_of_the_day_are_missing_here_with_their_codes(make_dual: MakeDual) -> None:
    dual = make_dual()
    accounts = [one.id for one in dual.book().ledger.accounts]
    unknown = dual.entries_there()[FIRST].debit
    dual.write_scb(accounts=[one for one in accounts if one != unknown], max_error_rate="1")
    dual.open()
    dual.post_day(FIRST_DAY)
    refused = sum(
        unknown in (one.debit, one.credit) for one in dual.entries_there("SCB-01", FIRST_DAY).values()
    )
    report = compare(dual)
    assert report.break_kinds == {"missing here": refused}
    first = next(one for one in report.breaks if one.reference == FIRST)
    assert str(first.reason).startswith("unknown_account: ")
    assert unknown in str(first.reason)
    assert report.equal == ENTRIES - refused


def test_what_the_definition_rejects_is_missing_here_and_what_it_leaves_out_is_not(dual: Dual) -> None:
    there = dual.entries_there("SCB-01", FIRST_DAY)
    types = [one.type for one in there.values()]
    rejected, left_out = sorted(set(types))[:2]
    rules: list[dict[str, Any]] = [
        {"when": {"type": rejected}, "reject": "not our business"},
        {"when": {"type": left_out}, "filter": "kept elsewhere"},
    ]
    dual.write_scb(rules=rules, max_error_rate="1")
    dual.open()
    dual.post_day(FIRST_DAY)
    report = compare(dual)
    assert report.break_kinds == {"missing here": types.count(rejected)}
    assert (report.rejected, report.filtered) == (types.count(rejected), types.count(left_out))
    assert {one.reason for one in report.breaks} == {"rule_rejected: not our business (rule 1)"}
    assert {one.reference for one in report.breaks} <= {
        one.reference for one in there.values() if one.type == rejected
    }


def test_an_entry_that_is_left_out_since_is_said_to_be_here_all_the_same(posted: Dual) -> None:
    kind = posted.entries_there()[FIRST].type
    posted.write_scb(rules=[{"when": {"type": kind}, "filter": "kept elsewhere"}])
    report = compare(posted)
    assert report.break_kinds == {"missing there": report.filtered}
    assert "the definition leaves it out: kept elsewhere" in str(report.breaks[0].reason)


def test_wrong_totals_of_the_bank_are_a_break_although_the_entries_are_equal(
    posted: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Book.totals

    def wrong(self: Book, from_s: int, to_s: int, *, with_digest: bool = False) -> Any:
        for one in right(self, from_s, to_s, with_digest=with_digest):
            one.totals.add("EUR", 1)
            yield one

    monkeypatch.setattr(Book, "totals", wrong)
    monkeypatch.setattr("backfill_pipeline.dual_ledger.served_day._PAUSE_S", 0.0)
    report = compare(posted)
    assert [(one.kind, one.field) for one in report.breaks] == [("totals", "count"), ("totals", "sum of EUR")]
    assert (report.breaks[0].here, report.breaks[0].there) == ("40", "41")
    assert (report.equal, report.compared) == (ENTRIES, "fetched")


def test_a_digest_that_is_not_of_what_is_served_is_a_break(
    posted: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backfill_pipeline.scb_simulator.book.digest", lambda lines: f"sha256:{'0' * 64}")
    monkeypatch.setattr("backfill_pipeline.dual_ledger.served_day._PAUSE_S", 0.0)
    report = compare(posted)
    assert [(one.kind, one.field, one.there) for one in report.breaks] == [
        ("totals", "digest", f"sha256:{'0' * 64}")
    ]


@pytest.mark.parametrize("digest", ["true", "false"])
def test_entries_that_differ_are_found_although_count_and_sums_agree(posted: Dual, digest: str) -> None:
    posted.write_scb(scb={"digest": digest})
    references = swap_amounts(posted)
    report = compare(posted)
    assert {(one.kind, one.reference, one.field) for one in report.breaks} == {
        ("different", one, "amount") for one in references
    }
    assert report.compared == "fetched"
    assert all(one.difference == 0 for one in report.currencies())


def test_without_a_digest_the_bank_is_asked_for_its_entries_again(posted: Dual) -> None:
    posted.write_scb(scb={"digest": "false"})
    report = compare(posted)
    assert (report.verdict, report.compared, report.equal) == ("match", "fetched", ENTRIES)


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_a_capture_that_cannot_be_read_is_fetched_anew(posted: Dual, harm: str) -> None:
    captures = posted.places.captures_dir(day_source_id("scb_01", FIRST_DAY))
    if harm == "gone":
        shutil.rmtree(captures)
    else:
        (capture,) = captures.glob("*.arrow")
        content = bytearray(capture.read_bytes())
        content[len(content) // 3] ^= 0xFF
        capture.write_bytes(content)
    report = compare(posted)
    assert (report.verdict, report.compared) == ("match", "fetched")


def test_what_no_digest_covers_is_found_by_asking_for_the_entries_anew(
    posted: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = reading.entry_object
    monkeypatch.setattr(
        reading,
        "entry_object",
        lambda entry: serve(entry) | ({"type": "OTHER"} if entry.reference == FIRST else {}),
    )
    assert compare(posted).compared == "capture"
    report = compare(posted, anew=True)
    kind = posted.entries_there()[FIRST].type
    assert (found(report), report.compared) == (
        [("different", FIRST, "transaction_type", kind, "OTHER")],
        "fetched",
    )


def test_a_day_that_was_never_fetched_is_missing_as_a_whole_and_told_by_a_sample(make_dual: MakeDual) -> None:
    dual = make_dual(entries_per_day=SAMPLE + 30)
    dual.open()
    report = compare(dual)
    assert report.break_kinds == {"missing here": SAMPLE + 30}
    assert len(report.breaks) == SAMPLE
    assert (report.equal, report.here) == (0, 0)


def test_a_day_without_entries_is_equal(make_dual: MakeDual) -> None:
    dual = make_dual(entries_per_day=0)
    dual.open()
    report = compare(dual)
    assert (report.verdict, report.served, report.currencies()) == ("match", 0, [])


def test_a_date_that_the_time_zone_never_had_is_a_day_without_entries(make_dual: MakeDual) -> None:
    dual = make_dual(start="2011-12-29", days=3, timezone="Pacific/Apia")
    dual.open()
    for day in (date(2011, 12, 29), date(2011, 12, 31)):
        dual.post_day(day)
    reports = [compare(dual, day) for day in dual.days()]
    assert [(one.verdict, one.equal) for one in reports] == [
        ("match", ENTRIES),
        ("match", 0),
        ("match", ENTRIES),
    ]


def test_pages_that_overlap_count_every_entry_once(posted: Dual) -> None:
    posted.write_scb(scb={"digest": "false", "page_size": 7})
    posted.faults({"kind": "overlapping_pages", "entries": 3})
    report = compare(posted)
    assert posted.fired()["overlapping_pages"] > 4
    assert (report.verdict, report.served, report.equal) == ("match", ENTRIES, ENTRIES)
    assert all(one.stated == one.here for one in report.currencies())


def test_a_ledger_in_pieces_is_compared_whole(make_dual: MakeDual) -> None:
    dual = make_dual()
    dual.write_scb(partition_rows="7")
    dual.open()
    dual.post_day(FIRST_DAY)
    assert compare(dual).equal == ENTRIES
    dual.tamper("DELETE FROM ledger_entries WHERE reference_id IN (%s, %s)", FIRST, SECOND)
    report = compare(dual)
    assert report.break_kinds == {"missing here": 2, "outbox row alone": 2}


def test_entries_that_come_between_totals_and_entries_are_no_contradiction(
    posted: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backfill_pipeline.dual_ledger.served_day._PAUSE_S", 0.0)
    posted.write_scb(scb={"digest": "false"})
    late: list[str] = []
    ask = BankClient.control_totals

    def then_something_comes(self: BankClient, *days: date, **of: Any) -> Any:
        stated = ask(self, *days, **of)
        if not late:
            late.extend(posted.add_late(FIRST_DAY))
        return stated

    monkeypatch.setattr(BankClient, "control_totals", then_something_comes)
    report = compare(posted)
    assert [(one.kind, one.reference) for one in report.breaks] == [("missing here", late[0])]
    assert report.stated.count == report.served == ENTRIES + 1


HOSTILE: dict[str, object] = {
    "amount": "1e3",
    "booked_at": "yesterday",
    "currency": "\u20ac",
    "debit_account": None,
    "reference": "NUL \0",
    "type": "\x1b[31m" + "x" * 1000,
    "credit_account": {"nested": "object"},
}


def test_hostile_records_are_breaks_with_their_codes_and_nothing_falls_over(
    posted: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = reading.entry_object
    spoilt = dict(zip(sorted(posted.entries_there("SCB-01", FIRST_DAY)), HOSTILE.items(), strict=False))

    def hostile(entry: Any) -> dict[str, object]:
        key, value = spoilt.get(entry.reference, ("", None))
        return {**serve(entry), **({key: value} if key else {})}

    monkeypatch.setattr(reading, "entry_object", hostile)
    monkeypatch.setattr("backfill_pipeline.dual_ledger.served_day._PAUSE_S", 0.0)
    posted.change(
        sorted(posted.entries_there("SCB-01", FIRST_DAY))[-1]
    )  # so that the bank is asked for its entries
    report = compare(posted)
    assert report.break_kinds["totals"] >= 1
    assert report.equal == ENTRIES - len(HOSTILE) - 1
    reasons = " ".join(str(one.reason) for one in report.breaks)
    for code in ("amount_malformed", "time_malformed", "currency_unknown", "debit_account_id_missing"):
        assert code in reasons
    texts = [text for row in report.break_rows() for text in row.values()]
    assert all(text.isprintable() and len(text) <= SHOWN_CHARACTERS for text in texts)
    assert report.sentence.isprintable()
    with psycopg.connect(posted.url) as connection:  # a jsonb column takes it
        connection.execute("SELECT %s::jsonb", [json.dumps(report.details())])


def test_what_killed_comparisons_left_behind_is_removed_a_day_later(posted: Dual) -> None:
    posted.write_scb(scb={"digest": "false"})
    folder = posted.places.intermediates_dir / day_source_id("scb_01", FIRST_DAY)
    old, new = folder / "compare-old", folder / "compare-new"
    for one in (old, new):
        one.mkdir()
    os.utime(old, (0, 0))
    assert compare(posted).matches
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.slow
def test_a_hundred_thousand_entries_a_day_are_compared_piece_by_piece(make_dual: MakeDual) -> None:
    count = 100_000
    dual = make_dual(days=1, entries_per_day=count)
    dual.write_scb(scb={"page_size": "5000"}, partition_rows="20000")
    dual.open()
    dual.post_day(FIRST_DAY)
    assert compare(dual).equal == count
    dual.tamper("DELETE FROM ledger_entries WHERE reference_id = %s", FIRST)
    dual.tamper(
        "UPDATE ledger_entries SET amount = amount + 1 WHERE reference_id LIKE 'SCB-01-20240329-0000999%%'"
    )
    report = compare(dual)
    assert report.break_kinds == {"missing here": 1, "outbox row alone": 1, "different": 100}
    assert (report.equal, report.compared) == (count - 101, "capture")
