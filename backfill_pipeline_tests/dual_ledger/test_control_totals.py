"""Control totals: exactly what a bank adds up, and words for what differs."""

from __future__ import annotations

import hashlib
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipeline.definition.scb import CONTROL_COLUMNS
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.control_totals import NO_ENTRIES, ControlTotals, totals_of
from backfill_pipeline.scb_simulator.totals import canonical_line
from backfill_pipeline.scb_simulator.totals import digest as digest_of_bank
from backfill_pipeline_tests.dual_ledger.world import Dual

Row = tuple[str, str, str, str, str, str]


def entries(*rows: Row) -> pa.Table:
    return pa.table(
        {name: pa.array([row[at] for row in rows], pa.string()) for at, name in enumerate(CONTROL_COLUMNS)}
    )


def row(
    reference: str, amount: str = "10.50", currency: str = "EUR", at: str = "2024-03-01T00:00:42+01:00"
) -> Row:
    return reference, at, "A", "B", amount, currency


def test_counts_sums_and_digest_are_those_of_the_bank(dual: Dual) -> None:
    days, section = dual.days(), dual.definition().scb
    assert section is not None
    dual.change(next(iter(dual.entries_there())))
    dual.add_late(days[1], 2)
    with BankClient(section) as bank:
        stated = bank.control_totals(days[0], days[-1])
    for day in days:
        found = totals_of([served(dual, day)], digest=True)
        assert found == stated[day]
        assert found.differences(stated[day]) == []


def served(dual: Dual, day: date) -> pa.Table:
    book = dual.book()
    calendar = book.ledger.calendar
    page, more = book.page(calendar.start_s(day), calendar.start_s(day) + 25 * 3600, None, 10_000)
    assert not more
    ours = [one for one in page if one.booked_at.startswith(day.isoformat())]
    return pa.table({name: [getattr(one, name) for one in ours] for name in CONTROL_COLUMNS})


def test_nothing_is_no_entries() -> None:
    assert totals_of([], digest=True) == NO_ENTRIES
    assert totals_of([], digest=False) == ControlTotals(0, {}, None)


def test_an_entry_that_is_there_twice_counts_once_and_one_with_two_contents_twice() -> None:
    once = totals_of([entries(row("1"), row("2"))], digest=True)
    assert totals_of([entries(row("1"), row("2")), entries(row("2"))], digest=True) == once
    assert totals_of([entries(row("1"), row("2")), entries(row("2", "11"))], digest=True).count == 3


@pytest.mark.parametrize(
    ("amounts", "total"),
    [
        (["0.1", "0.2"], "0.3"),
        (["0.0000000001", "100"], "100.0000000001"),
        (["0.000000000000000001"], "0.000000000000000001"),
        (["9" * 40, "1"], "1" + "0" * 40),
        (["1200", "-200"], "1000"),
        (["1e3", "NaN", "1,5", "", "5"], "5"),
        (["1." + "0" * 18 + "1", "7"], "7"),
    ],
)
def test_sums_are_exact_and_what_is_no_amount_is_in_none(amounts: list[str], total: str) -> None:
    rows = [row(str(number), amount) for number, amount in enumerate(amounts)]
    assert totals_of([entries(*rows)], digest=False).sums == {"EUR": Decimal(total)}


@pytest.mark.parametrize(
    ("written", "digested"),
    [
        ("2024-03-01T00:00:42+01:00", "2024-02-29T23:00:42Z"),
        ("2024-03-01T10:00:00Z", "2024-03-01T10:00:00Z"),
        ("2024-03-01T10:00:00.250-03:30", "2024-03-01T13:30:00.25Z"),
        ("2024-03-01T10:00:00.000001Z", "2024-03-01T10:00:00.000001Z"),
        # What cannot be read is digested as it is written, and spoils no other entry.
        ("2024-03-01T10:00:00", "2024-03-01T10:00:00"),
        ("2023-02-29T10:00:00Z", "2023-02-29T10:00:00Z"),
        ("2024-03-01T24:00:00Z", "2024-03-01T24:00:00Z"),
        ("2024-03-01T10:00:00.123456789Z", "2024-03-01T10:00:00.123456789Z"),
        ("", ""),
    ],
)
def test_times_are_digested_in_utc(written: str, digested: str) -> None:
    found = totals_of([entries(row("2", at=written), row("1"))], digest=True)
    lines = [
        canonical_line("1", "2024-02-29T23:00:42Z", "A", "B", "10.50", "EUR"),
        canonical_line("2", digested, "A", "B", "10.50", "EUR"),
    ]
    assert found.digest == digest_of_bank(lines)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\t\n\0")), unique=True, max_size=30))
def test_lines_are_sorted_by_the_bytes_of_the_reference(references: list[str]) -> None:
    found = totals_of([entries(*(row(one) for one in references))], digest=True)
    lines = "".join(
        canonical_line(one, "2024-02-29T23:00:42Z", "A", "B", "10.50", "EUR")
        for one in sorted(references, key=str.encode)
    )
    assert found.digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def test_pieces_do_not_matter() -> None:
    rows = [row(f"{number:06d}", str(number), at="2024-03-01T10:00:00Z") for number in range(70_000)]
    whole = entries(*rows)
    pieces = [whole.slice(start, 9_999) for start in range(0, len(rows), 9_999)]
    assert totals_of([whole], digest=True) == totals_of(reversed(pieces), digest=True)


def test_differences_name_what_differs() -> None:
    stated = ControlTotals(2_000, {"EUR": Decimal("1234.50"), "JPY": Decimal(7)}, "sha256:a")
    assert stated.differences(stated) == []
    found = ControlTotals(1_999, {"EUR": Decimal("1234.5"), "USD": Decimal(1)}, "sha256:b")
    assert found.differences(stated) == ["1,999 entries, not 2,000", "JPY 0, not 7", "USD 1, not 0"]
    other = ControlTotals(2_000, {"EUR": Decimal("1234.5"), "JPY": Decimal(7)}, "sha256:b")
    assert other.differences(stated) == ["the same count and sums, but other content by the digest"]
    assert ControlTotals(2_000, other.sums).differences(stated) == []  # nobody asked for a digest


def test_totals_survive_a_jsonb_column() -> None:
    totals = ControlTotals(3, {"KWD": Decimal("13.289"), "JPY": Decimal(10) ** 30}, "sha256:a")
    assert ControlTotals.from_json(totals.as_json()) == totals
    with pytest.raises(ValueError, match="no control totals"):
        ControlTotals.from_json({"count": "3"})
