"""A ledger with late and changed entries, whatever they are: pages, totals and digests agree with the entries."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.calendar import utc_text
from backfill_pipeline.scb_simulator.changes import Change
from backfill_pipeline.scb_simulator.ledger import BankLedger, Entry, Place
from backfill_pipeline.scb_simulator.options import make_options
from backfill_pipeline.scb_simulator.store import Store
from backfill_pipeline.scb_simulator.totals import canonical_line, digest

START = date(2024, 3, 30)
OPTIONS = make_options({"start": str(START), "days": 3, "entries_per_day": 40}, "test")
DAYS = [START + timedelta(days=number) for number in range(3)]


def pages(book: Book, from_s: int, to_s: int, limit: int) -> list[Entry]:
    found: list[Entry] = []
    after: Place | None = None
    while True:
        page, more = book.page(from_s, to_s, after, limit)
        assert len(page) <= limit
        found += page
        if not more:
            return found
        assert len(page) == limit
        after = page[-1].place


def content(entries: list[Entry]) -> str:
    rows = sorted(entries, key=lambda one: one.reference.encode())
    return digest(
        canonical_line(
            one.reference,
            utc_text(one.place.booked_s),
            one.debit_account,
            one.credit_account,
            one.amount,
            one.currency,
        )
        for one in rows
    )


@settings(max_examples=60, deadline=None)
@given(
    late=st.lists(st.tuples(st.sampled_from(DAYS), st.integers(1, 60)), max_size=4),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 10**9), st.booleans()), max_size=8),
    bounds=st.tuples(st.integers(-5000, 90_000 * 3), st.integers(-5000, 90_000 * 3)),
    limit=st.integers(1, 50),
)
def test_pages_and_totals_agree_with_the_entries_one_by_one(
    late: list[tuple[date, int]], changes: list[tuple[int, int, bool]], bounds: tuple[int, int], limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "state", OPTIONS) as store:
        ledger = BankLedger(OPTIONS, OPTIONS.ledgers[0])
        book = Book(ledger, store)
        model = {one.reference: one for day in DAYS for one in ledger.entries(day, 0, ledger.count(day))}
        for day, count in late:
            model |= {one.reference: one for one in book.add_late(day, count, 0)}
        for number, minor, turned in changes:
            entry = model[sorted(model)[number % len(model)]]
            sides = (entry.debit_account, entry.credit_account)
            debit, credit = sides[::-1] if turned else sides
            model[entry.reference] = book.change(entry, Change(debit, credit, minor))
        from_s, to_s = sorted(ledger.start_s + bound for bound in bounds)
        expected = sorted(
            (one for one in model.values() if from_s <= one.place.booked_s < to_s), key=lambda one: one.place
        )
        assert pages(book, from_s, to_s, limit) == expected
        by_day = {one.day: one for one in book.totals(from_s, to_s, with_digest=True)}
        assert list(by_day) == sorted({one.day for one in expected})
        for day, total in by_day.items():
            of_day = [one for one in expected if one.day == day]
            sums = Counter[str]()
            for one in of_day:
                sums[one.currency] += one.minor
            assert (total.totals.count, total.totals.sums()) == (len(of_day), dict(sorted(sums.items())))
            assert total.digest == content(of_day)
        for reference in list(model)[:3] + list(model)[-3:]:
            assert book.find(reference) == model[reference]
