"""What the bank serves: ledgers, accounts, entries and totals, over HTTP."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from backfill_pipeline.scb_simulator.contract import (
    AccountList,
    EntryPage,
    LedgerList,
    Problem,
    Totals,
)
from backfill_pipeline_tests.scb_simulator.client import Client
from backfill_pipeline_tests.scb_simulator.conftest import Served

ENTRIES = 4 * 60


def sums(entries: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, Decimal] = {}
    for entry in entries:
        found[entry["currency"]] = found.get(entry["currency"], Decimal(0)) + Decimal(entry["amount"])
    return {code: str(amount) for code, amount in sorted(found.items())}


def digest(entries: list[dict[str, Any]]) -> str:
    """The digest as the documentation says that it is made."""
    state = hashlib.sha256()
    for entry in sorted(entries, key=lambda one: one["reference"].encode()):
        when = datetime.fromisoformat(entry["booked_at"]).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = ("reference", "", "debit_account", "credit_account", "amount", "currency")
        state.update(("\t".join(entry.get(name, when) for name in fields) + "\n").encode())
    return f"sha256:{state.hexdigest()}"


def problem(response: httpx.Response, status: int, code: str) -> str:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    found = Problem.model_validate(response.json())
    assert (found.status, found.code) == (status, code)
    return found.detail


class TestShapes:
    def test_every_answer_is_as_the_contract_says_and_is_never_cached(self, shared: Client) -> None:
        for path, model in (
            ("/ledgers", LedgerList),
            ("/ledgers/SCB-01/accounts", AccountList),
            ("/ledgers/SCB-01/entries", EntryPage),
            ("/ledgers/SCB-01/totals?digest=true", Totals),
            ("/ledgers/SCB-01/totals?of=received", Totals),
        ):
            response = shared.http.get(path)
            model.model_validate(response.json())
            assert response.headers["content-type"] == "application/json"
            assert response.headers["cache-control"] == "no-store"

    def test_ledgers_say_where_they_begin_and_end(self, shared: Client) -> None:
        (ledger,) = shared.http.get("/ledgers").json()["ledgers"]
        assert (ledger["from"], ledger["to"]) == ("2024-03-29T00:00:00+01:00", "2024-04-02T00:00:00+02:00")
        assert (ledger["first_day"], ledger["last_day"]) == ("2024-03-29", "2024-04-01")

    def test_accounts_open_with_exact_decimals_of_their_currency(self, shared: Client) -> None:
        accounts = shared.ok("accounts")["accounts"]
        assert len(accounts) == 40
        decimals = {one["currency"]: len(one["opening_balance"].partition(".")[2]) for one in accounts}
        assert decimals == {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3}
        assert {one["normal_side"] for one in accounts} == {"debit", "credit"}
        assert Counter(one["shared"] for one in accounts) == {True: 20, False: 20}


class TestPages:
    @pytest.mark.parametrize("limit", [1, 7, 60, 239, 240, 241, 5000])
    def test_pages_of_any_size_hold_every_entry_once_in_order(self, shared: Client, limit: int) -> None:
        pages = list(shared.pages(limit=limit))
        assert [entry for page in pages for entry in page] == shared.all()
        assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        assert len({entry["reference"] for page in pages for entry in page}) == ENTRIES

    def test_a_cursor_means_the_same_however_often_it_is_used(self, shared: Client) -> None:
        cursor = shared.ok("entries", limit=50)["next_cursor"]
        assert shared.ok("entries", limit=50, cursor=cursor) == shared.ok("entries", limit=50, cursor=cursor)

    def test_days_one_by_one_are_the_whole_without_gap_or_overlap_over_a_change_of_clocks(
        self, shared: Client
    ) -> None:
        starts = [f"2024-03-{day}T00:00:00+01:00" for day in (29, 30, 31)]
        starts += ["2024-04-01T00:00:00+02:00", "2024-04-02T00:00:00+02:00"]
        days = [shared.all(**{"from": start, "to": end}) for start, end in itertools.pairwise(starts)]
        assert [len(day) for day in days] == [60] * 4
        assert list(itertools.chain.from_iterable(days)) == shared.all()

    def test_the_offset_of_from_and_to_does_not_matter_only_the_moment_does(self, shared: Client) -> None:
        paris = shared.all(**{"from": "2024-03-31T00:00:00+01:00", "to": "2024-03-31T12:00:00+02:00"})
        kolkata = shared.all(**{"from": "2024-03-31T04:30:00+05:30", "to": "2024-03-31T10:00:00Z"})
        assert paris == kolkata != []

    def test_an_entry_booked_at_from_is_in_and_one_booked_at_to_is_not(self, shared: Client) -> None:
        third = shared.ok("entries", limit=3)["entries"][2]["booked_at"]
        until = shared.all(to=third)
        since = shared.all(**{"from": third})
        assert until + since == shared.all()
        assert since[0]["booked_at"] == third

    def test_an_interval_without_entries_is_an_empty_page(self, shared: Client) -> None:
        page = shared.ok("entries", **{"from": "2030-01-01T00:00:00Z", "to": "2031-01-01T00:00:00Z"})
        assert page == {"entries": [], "next_cursor": None}

    @pytest.mark.parametrize(
        ("params", "says"),
        [
            ({"from": "2024-03-30"}, "from has no offset"),
            ({"from": "2024-03-30T00:00:00"}, "from has no offset"),
            ({"from": "yesterday"}, "from is not a time in ISO 8601"),
            ({"from": "0001-01-01T00:00:00+14:00"}, "from is not a time"),
            ({"to": "9999-12-31T23:59:59Z"}, "to is not in the years"),
            ({"from": "2024-03-30T00:00:00.5Z"}, "from must be a whole second"),
            ({"from": "2024-03-30T00:00:00Z", "to": "2024-03-30T00:00:00Z"}, "from must be before to"),
            ({"limit": "0"}, "limit must be a number from 1 to 5000"),
            ({"limit": "5001"}, "limit must be a number from 1 to 5000"),
            ({"limit": "1e3"}, "limit must be a number from 1 to 5000"),
            ({"limit": "٣"}, "limit must be a number from 1 to 5000"),
            ({"form": "x"}, "no parameter of the name 'form'; there are cursor, from, limit, to"),
        ],
    )  # fmt: skip
    def test_a_wrong_parameter_is_said_in_a_sentence(
        self, shared: Client, params: dict[str, str], says: str
    ) -> None:
        assert says in problem(shared.get("entries", **params), 400, "bad_parameter")

    def test_a_plus_that_was_not_escaped_is_explained(self, shared: Client) -> None:
        response = shared.http.get("/ledgers/SCB-01/entries?from=2024-03-30T00:00:00+01:00")
        assert "+ is written %2B" in problem(response, 400, "bad_parameter")

    def test_a_parameter_that_is_given_twice_is_refused(self, shared: Client) -> None:
        response = shared.http.get("/ledgers/SCB-01/entries?limit=1&limit=2")
        assert "given twice" in problem(response, 400, "bad_parameter")

    def test_only_a_cursor_of_this_listing_is_taken(self, served: Served) -> None:
        client = served(ledgers=2)
        cursor = client.ok("entries", limit=5)["next_cursor"]
        other = client.http.get("/ledgers/SCB-02/entries", params={"cursor": cursor})
        problem(other, 400, "bad_cursor")
        for wrong in ("", "abc", "=", "é", cursor[:-1], cursor + "A", cursor[:20] + "x" + cursor[21:]):
            problem(client.get("entries", cursor=wrong), 400, "bad_cursor")
        problem(client.get("received", cursor=cursor), 400, "bad_cursor")
        problem(client.get("entries", cursor=cursor, to="2024-03-30T00:00:00Z"), 400, "bad_cursor")

    def test_an_unknown_ledger_path_or_method_is_a_problem_document(self, shared: Client) -> None:
        assert "SCB-01" in problem(shared.http.get("/ledgers/NOPE/entries"), 404, "unknown_ledger")
        problem(shared.http.get("/ledger"), 404, "unknown_path")
        problem(shared.http.delete("/ledgers"), 405, "wrong_method")


class TestTotals:
    def test_they_equal_the_entries_served_whole_and_by_day(self, shared: Client) -> None:
        totals = shared.ok("totals", digest="true")
        entries = shared.all()
        assert (totals["count"], totals["sums"]) == (len(entries), sums(entries))
        assert [day["day"] for day in totals["days"]] == [
            "2024-03-29",
            "2024-03-30",
            "2024-03-31",
            "2024-04-01",
        ]
        for day in totals["days"]:
            served = shared.all(**{"from": day["from"], "to": day["to"]})
            assert (day["count"], day["sums"], day["digest"]) == (60, sums(served), digest(served))

    def test_a_part_of_days_is_added_up_too(self, shared: Client) -> None:
        part = {"from": "2024-03-30T15:00:00Z", "to": "2024-03-31T03:00:00Z"}
        totals, entries = shared.ok("totals", digest="true", **part), shared.all(**part)
        assert (totals["count"], totals["sums"]) == (len(entries), sums(entries))
        assert [day["to"] for day in totals["days"]] == [
            "2024-03-31T00:00:00+01:00",
            "2024-03-31T05:00:00+02:00",
        ]
        assert sum(day["count"] for day in totals["days"]) == len(entries)

    def test_nothing_adds_up_to_nothing(self, shared: Client) -> None:
        totals = shared.ok("totals", **{"from": "2030-01-01T00:00:00Z", "to": "2031-01-01T00:00:00Z"})
        assert (totals["count"], totals["sums"], totals["days"]) == (0, {}, [])

    def test_they_follow_what_comes_late_and_what_is_changed(self, client: Client) -> None:
        first = client.ok("entries", limit=1)["entries"][0]
        late = {"ledger": "SCB-01", "day": "2024-03-29", "count": 5}
        added = client.admin.post("/admin/late-entries", json=late).json()["entries"]
        for reference in (first["reference"], added[2]["reference"]):
            changed = client.admin.post("/admin/change-entry", json={"reference": reference, "amount": "7"})
            assert Decimal(changed.json()["entries"][0]["amount"]) == 7
        entries, totals = client.all(limit=3), client.ok("totals", digest="true")
        assert (totals["count"], totals["sums"]) == (ENTRIES + 5, sums(entries))
        day = [one for one in entries if one["booked_at"] < "2024-03-30"]
        assert (totals["days"][0]["count"], totals["days"][0]["digest"]) == (65, digest(day))


class TestLateEntries:
    def test_they_are_served_in_the_order_of_booking_and_pages_hold_each_once(self, client: Client) -> None:
        before = client.all()
        for day in ("2024-03-29", "2024-03-31"):
            asked = {"ledger": "SCB-01", "day": day, "count": 40}
            assert client.admin.post("/admin/late-entries", json=asked).status_code == 201
        after = client.all()
        assert len(after) == ENTRIES + 80
        times = [datetime.fromisoformat(entry["booked_at"]) for entry in after]
        assert times == sorted(times)
        assert [entry for entry in after if "-L" not in entry["reference"]] == before
        for limit in (1, 3, 50):
            assert client.all(limit=limit) == after

    def test_those_of_one_second_with_others_are_served_once_too(self, served: Served) -> None:
        client = served(entries_per_day=1000, days=1, start="2011-12-31", timezone="Pacific/Apia")
        client.admin.post(
            "/admin/late-entries", json={"ledger": "SCB-01", "day": "2011-12-31", "count": 2000}
        )
        entries = client.all(limit=61)
        assert len({entry["reference"] for entry in entries}) == len(entries) == 3000
        assert client.all(limit=5000) == entries

    def test_they_can_appear_later(self, served: Served) -> None:
        client = served()
        now = datetime.now(UTC).timestamp()
        clock = {"now": now}
        client.simulator.bank.books["SCB-01"]._now_s = lambda: clock["now"]
        asked = {"ledger": "SCB-01", "day": "2024-03-30", "count": 2, "appear_after_s": 3600}
        late = client.admin.post("/admin/late-entries", json=asked).json()["entries"]
        acknowledgement = {"reference": late[0]["reference"], "status": "posted"}
        assert len(client.all()) == client.ok("totals")["count"] == ENTRIES
        assert client.send("acknowledgements", [acknowledgement]).json()["refused"] == 1
        clock["now"] += 3601
        assert len(client.all()) == client.ok("totals")["count"] == ENTRIES + 2
        assert client.send("acknowledgements", [acknowledgement]).json()["accepted"] == 1

    @pytest.mark.parametrize("day", ["2024-03-28", "2024-04-02", "2024-02-30", "x", ""])
    def test_a_day_that_the_ledger_does_not_have_is_refused(self, shared: Client, day: str) -> None:
        response = shared.admin.post("/admin/late-entries", json={"ledger": "SCB-01", "day": day})
        assert "day must be" in problem(response, 422, "invalid")

    def test_a_date_that_never_was_is_refused(self, served: Served) -> None:
        client = served(start="2011-12-29", timezone="Pacific/Apia")
        response = client.admin.post("/admin/late-entries", json={"ledger": "SCB-01", "day": "2011-12-30"})
        problem(response, 422, "invalid")


class TestChangedEntries:
    def test_an_account_can_change_and_the_entry_stays_in_its_place(self, client: Client) -> None:
        before = client.all()
        entry = before[100]
        others = [
            one["id"]
            for one in client.ok("accounts")["accounts"]
            if one["currency"] == entry["currency"]
            and one["id"] not in (entry["debit_account"], entry["credit_account"])
        ]
        asked = {"reference": entry["reference"], "debit_account": others[0]}
        assert client.admin.post("/admin/change-entry", json=asked).status_code == 200
        assert client.all() == [*before[:100], {**entry, "debit_account": others[0]}, *before[101:]]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"amount": "0"}, "amount must be"),
            ({"amount": "1.2345"}, "amount must be"),
            ({"amount": 5}, "amount must be a valid string"),
            ({"amount": "1e3"}, "amount"),
            ({"amount": "9" * 20}, "amount must be"),
            ({"debit_account": "NOPE"}, "accounts must be of ledger"),
            ({"currency": "EUR"}, "currency is no key"),
        ],
    )
    def test_a_change_that_cannot_be_is_refused(
        self, shared: Client, change: dict[str, object], says: str
    ) -> None:
        reference = shared.ok("entries", limit=1)["entries"][0]["reference"]
        response = shared.admin.post("/admin/change-entry", json={"reference": reference, **change})
        assert says in problem(response, 422, "invalid")

    def test_what_is_not_there_cannot_be_changed(self, shared: Client) -> None:
        response = shared.admin.post("/admin/change-entry", json={"reference": "SCB-01-20240329-L00000001"})
        problem(response, 404, "unknown_reference")


def test_one_second_of_a_busy_day_holds_several_entries_and_pages_cut_through_it(served: Served) -> None:
    client = served(entries_per_day=200_000, days=1)
    span = {"from": "2024-03-29T12:00:00+01:00", "to": "2024-03-29T12:01:00+01:00"}
    entries = client.all(limit=10, **span)
    assert max(Counter(entry["booked_at"] for entry in entries).values()) > 1
    assert entries == client.all(limit=5000, **span)
    assert client.ok("totals", **span)["count"] == len(entries)
    first = datetime.fromisoformat(entries[0]["booked_at"])
    assert first < datetime.fromisoformat(span["from"]) + timedelta(seconds=2)
