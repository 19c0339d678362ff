"""Fetching days: nothing is registered that the bank's control totals do not prove, and a bank is asked with measure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import pytest

from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.fetch import (
    FETCHES_MAX,
    TOTALS_DAYS,
    DayFetcher,
    StatedTotals,
    UnprovenDayError,
)
from backfill_pipeline.errors import BackfillError, SourceFileError
from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.ledger import Entry
from backfill_pipeline.stages.post import RunStoppedError
from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual


@contextmanager
def fetching(dual: Dual, *, stop: threading.Event | None = None) -> Iterator[tuple[DayFetcher, list[str]]]:
    definition, told = dual.definition(), list[str]()
    assert definition.scb is not None
    with BankClient(definition.scb) as bank:
        stated = StatedTotals(bank, dual.days())
        yield DayFetcher(definition, dual.places, bank, stated, told.append, stop or threading.Event()), told


def asked(dual: Dual, operation: str) -> int:
    return sum(line.operation == operation for line in dual.log())


def lose_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the bank's lists leave out the second entry of each page; its totals know of it."""
    whole = Book.page

    def page(self: Book, *arguments: Any) -> tuple[list[Entry], bool]:
        entries, more = whole(self, *arguments)
        return entries[:1] + entries[2:], more

    monkeypatch.setattr(Book, "page", page)


def test_a_day_is_captured_proven_and_registered(dual: Dual) -> None:
    with fetching(dual) as (fetcher, told):
        found = fetcher.fetch(FIRST_DAY)
    assert (found.fetches, found.totals.count, found.manifest.registration.row_count) == (1, 40, 40)
    assert found.manifest.registration.source_id == "scb_01@2024-03-29"
    assert told == []


def test_totals_of_many_days_are_asked_for_at_once(make_dual: MakeDual) -> None:
    dual = make_dual(days=TOTALS_DAYS + 4, entries_per_day=1)
    with fetching(dual) as (fetcher, _):
        for day in dual.days():
            assert fetcher.stated.of(day).count == 1
    assert asked(dual, "totals") == 2


def test_days_with_gaps_between_them_are_asked_for_one_by_one(dual: Dual) -> None:
    first, _, last = dual.days()
    section = dual.definition().scb
    assert section is not None
    with BankClient(section) as bank:
        stated = StatedTotals(bank, [first, last])
        assert [stated.of(day).count for day in (first, last)] == [40, 40]
    assert asked(dual, "totals") == 2


def test_a_day_that_never_agrees_is_fetched_so_often_and_registers_nothing(
    dual: Dual, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_an_entry(monkeypatch)
    with fetching(dual) as (fetcher, told), pytest.raises(UnprovenDayError, match="39 entries, not 40"):
        fetcher.fetch(FIRST_DAY)
    assert asked(dual, "entries") == FETCHES_MAX
    assert len(told) == FETCHES_MAX - 1
    assert dual.query("SELECT count(*) FROM backfill_registrations") == [(0,)]
    assert list(dual.places.captures_dir("scb_01@2024-03-29").iterdir()) == []


def test_what_moves_while_it_is_read_is_read_again(dual: Dual) -> None:
    dual.write_scb(scb={"page_size": 10})
    dual.faults({"kind": "changed_entry", "count": 1})
    with fetching(dual) as (fetcher, _):
        found = fetcher.fetch(FIRST_DAY)
    assert found.fetches == 2
    assert found.totals.count == 40


def test_totals_that_are_wrong_once_cost_no_other_fetch(dual: Dual) -> None:
    dual.faults({"kind": "wrong_totals", "count": 1})
    with fetching(dual) as (fetcher, _):
        assert fetcher.fetch(FIRST_DAY).fetches == 1
    assert (asked(dual, "entries"), asked(dual, "totals")) == (1, 2)


def test_totals_that_were_asked_for_earlier_are_asked_for_again_when_they_do_not_agree(dual: Dual) -> None:
    with fetching(dual) as (fetcher, _):
        fetcher.stated.of(FIRST_DAY)  # before they come
        dual.add_late(FIRST_DAY, 2)
        assert fetcher.fetch(FIRST_DAY).totals.count == 42


def test_a_ledger_that_the_bank_does_not_know_is_not_asked_for_again(dual: Dual) -> None:
    dual.write_scb(scb={"ledger": "NOBODY"})
    with fetching(dual) as (fetcher, told), pytest.raises(SourceFileError):
        fetcher.fetch(FIRST_DAY)
    assert told == []


def test_stopping_ends_the_pauses(dual: Dual, monkeypatch: pytest.MonkeyPatch) -> None:
    dual.write_scb(scb={"backoff_s": 60})
    lose_an_entry(monkeypatch)
    stop = threading.Event()
    stop.set()
    with fetching(dual, stop=stop) as (fetcher, _), pytest.raises(RunStoppedError):
        fetcher.fetch(FIRST_DAY)


def test_days_are_fetched_by_several_threads_over_one_pace(make_dual: MakeDual) -> None:
    dual = make_dual(days=6)
    with fetching(dual) as (fetcher, _):
        failures: list[BackfillError] = []

        def fetch(day: date) -> None:
            try:
                fetcher.fetch(day)
            except BackfillError as error:
                failures.append(error)

        threads = [threading.Thread(target=fetch, args=(day,)) for day in dual.days()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert asked(dual, "totals") == 1
    days = {f"scb_01@{FIRST_DAY + timedelta(days=number)}" for number in range(6)}
    assert {row[0] for row in dual.query("SELECT source_id FROM backfill_registrations")} == days
