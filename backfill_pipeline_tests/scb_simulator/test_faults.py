"""Every fault: what a client meets, that it ends, and that the bank's own books stay right."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, get_args

import httpx
import pytest

from backfill_pipeline.errors import UsageError
from backfill_pipeline.scb_simulator.faults import KINDS, AnyFault, make_faults, written_faults
from backfill_pipeline_tests.scb_simulator.client import Client
from backfill_pipeline_tests.scb_simulator.conftest import Served
from backfill_pipeline_tests.scb_simulator.test_reading import problem, sums
from backfill_pipeline_tests.scb_simulator.test_telling import OURS, posted

ENTRIES = 240


@pytest.fixture
def right(client: Client) -> list[dict[str, Any]]:
    """All entries as they are without faults."""
    return client.all()


class TestWhatAClientMeets:
    def test_throttled_says_when_to_come_back_in_seconds(self, client: Client) -> None:
        client.fault({"kind": "throttled", "count": 2, "retry_after_s": 7})
        for _ in range(2):
            response = client.get("entries")
            problem(response, 429, "throttled")
            assert response.headers["retry-after"] == "7"
        assert client.get("entries").status_code == 200

    def test_throttled_says_when_to_come_back_as_a_date(self, client: Client) -> None:
        client.fault({"kind": "throttled", "count": 1, "retry_after_s": 60, "retry_after_as": "date"})
        when = parsedate_to_datetime(client.get("entries").headers["retry-after"])
        assert 50 < (when - datetime.now(UTC)).total_seconds() <= 61

    @pytest.mark.parametrize("status", [500, 502, 503])
    def test_server_error(self, client: Client, status: int) -> None:
        client.fault({"kind": "server_error", "status": status, "count": 1})
        problem(client.get("totals"), status, "server_error")
        assert client.get("totals").status_code == 200

    def test_slow(self, client: Client) -> None:
        client.fault({"kind": "slow", "delay_s": 0.5, "count": 1})
        started = time.monotonic()
        assert client.get("accounts").status_code == 200
        assert time.monotonic() - started >= 0.5

    def test_slow_for_one_does_not_hold_up_another(self, client: Client) -> None:
        client.fault({"kind": "slow", "delay_s": 20, "operations": ["totals"]})
        with ThreadPoolExecutor(1) as thread:
            held_up = thread.submit(
                client.http.get, f"{client.path}/totals", timeout=httpx.Timeout(60, read=1.5)
            )
            assert client.get("entries").status_code == 200
            with pytest.raises(httpx.ReadTimeout):
                held_up.result()

    def test_dropped_before_anything_is_answered_and_without_effect(self, client: Client) -> None:
        client.fault({"kind": "dropped", "count": 2})
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            client.get("entries")
        with pytest.raises(httpx.RemoteProtocolError):
            client.send("entries", [OURS])
        assert client.all("received") == []

    def test_truncated_states_the_length_of_the_whole(self, client: Client) -> None:
        whole = client.get("entries")
        client.fault({"kind": "truncated", "count": 1})
        with (
            pytest.raises(httpx.RemoteProtocolError, match="incomplete|complete message body"),
            client.http.stream("GET", f"{client.path}/entries") as response,
        ):
            assert response.status_code == 200
            assert response.headers["content-length"] == str(len(whole.content))
            received = b""
            for part in response.iter_raw():
                received += part
                assert whole.content.startswith(received)
        assert len(received) == len(whole.content) // 2
        assert client.get("entries").content == whole.content

    def test_lost_answer_takes_effect_and_the_repeated_request_is_answered_as_the_first(
        self, client: Client
    ) -> None:
        for below, items in (("entries", [OURS]), ("acknowledgements", [posted(1)])):
            client.fault({"kind": "lost_answer", "count": 1})
            with pytest.raises(httpx.RemoteProtocolError):
                client.send(below, items, key=below)
            again = client.send(below, items, key=below)
            assert (again.json()["accepted"], again.headers["idempotency-replayed"]) == (1, "true")
        assert (len(client.all("received")), len(client.all("acknowledgements"))) == (1, 1)

    def test_a_truncated_answer_to_what_was_sent_takes_effect_too(self, client: Client) -> None:
        client.fault({"kind": "truncated", "operations": ["push"], "count": 1})
        with pytest.raises(httpx.RemoteProtocolError):
            client.send("entries", [OURS], key="k")
        assert client.send("entries", [OURS], key="k").json()["accepted"] == 1
        assert len(client.all("received")) == 1

    @pytest.mark.parametrize("how", ["refuse", "close"])
    def test_down_for_a_while_and_then_up_again(
        self, client: Client, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = {"now": time.time()}
        monkeypatch.setattr(client.simulator.bank.switches, "_now_s", lambda: clock["now"])
        client.fault({"kind": "down", "for_s": 60, "how": how, "count": 1})
        for path in ("/ledgers", "/health", "/docs", "/ledgers/SCB-01/entries"):
            clock["now"] += 19
            if how == "refuse":
                problem(client.http.get(path), 503, "down")
            else:
                with pytest.raises(httpx.RemoteProtocolError):
                    client.http.get(path)
        clock["now"] += 4
        assert client.http.get("/health").status_code == 200
        assert client.fired() == [1]


class TestPagesThatAreWrong:
    def read(self, client: Client, limit: int, pages_max: int = 100) -> list[list[str]]:
        pages: list[list[str]] = []
        params: dict[str, Any] = {"limit": limit}
        while len(pages) < pages_max:
            page = client.ok("entries", **params)
            pages.append([entry["reference"] for entry in page["entries"]])
            if page["next_cursor"] is None:
                break
            params["cursor"] = page["next_cursor"]
        return pages

    def test_duplicate_page_comes_again_and_nothing_is_left_out(
        self, client: Client, right: list[dict[str, Any]]
    ) -> None:
        client.fault({"kind": "duplicate_page", "count": 2, "after": 1})
        pages = self.read(client, 50)
        assert client.fired() == [2]
        assert len(pages) == 7
        assert pages[2] == pages[1] == pages[3] != pages[4]
        assert list(dict.fromkeys(itertools.chain.from_iterable(pages))) == [
            entry["reference"] for entry in right
        ]

    def test_overlapping_pages_repeat_the_last_entries(
        self, client: Client, right: list[dict[str, Any]]
    ) -> None:
        client.fault({"kind": "overlapping_pages", "entries": 3})
        pages = self.read(client, 50)
        for before, page in itertools.pairwise(pages):
            assert page[:3] == before[-3:]
            assert len(page) <= 50
        assert list(dict.fromkeys(itertools.chain.from_iterable(pages))) == [
            entry["reference"] for entry in right
        ]

    def test_overlapping_pages_of_a_few_entries_end_too(
        self, client: Client, right: list[dict[str, Any]]
    ) -> None:
        client.fault({"kind": "overlapping_pages", "entries": 100})
        for limit in (1, 2):
            pages = self.read(client, limit, pages_max=1000)
            assert list(dict.fromkeys(itertools.chain.from_iterable(pages))) == [
                entry["reference"] for entry in right
            ]

    def test_looping_cursor_never_gets_on(self, client: Client) -> None:
        client.fault({"kind": "looping_cursor", "after": 1})
        pages = self.read(client, 50, pages_max=9)
        assert len(pages) == 9
        assert {tuple(page) for page in pages[1:]} == {tuple(pages[1])}

    def test_looping_cursor_of_the_first_and_of_the_last_page(self, client: Client) -> None:
        client.fault({"kind": "looping_cursor", "count": 2})
        pages = self.read(client, 5000, pages_max=9)
        assert pages == [pages[0]] * 3


class TestBooksThatChange:
    def test_late_entries_appear_once_the_listing_was_read(self, client: Client) -> None:
        client.fault({"kind": "late_entries", "entries": 3, "count": 1})
        before, after = client.all(limit=100), client.all(limit=100)
        assert (len(before), len(after)) == (ENTRIES, ENTRIES + 3)
        added = [entry for entry in after if entry not in before]
        assert {entry["booked_at"][:10] for entry in added} == {"2024-04-01"}
        totals = client.ok("totals")
        assert (totals["count"], totals["sums"]) == (ENTRIES + 3, sums(after))

    def test_late_entries_belong_to_the_last_day_that_was_asked_for(self, client: Client) -> None:
        day = {"from": "2024-03-30T00:00:00+01:00", "to": "2024-03-31T00:00:00+01:00"}
        client.fault({"kind": "late_entries", "count": 1})
        assert len(client.all(**day)) == 60
        assert len(client.all(**day)) == 61

    @pytest.mark.parametrize("what", ["amount", "account"])
    def test_changed_entry_is_another_after_it_was_served_and_totals_follow(
        self, client: Client, what: str
    ) -> None:
        client.fault({"kind": "changed_entry", "what": what, "count": 1})
        before, after = client.all(), client.all()
        ((old, new),) = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        changed = {key for key in old if old[key] != new[key]}
        assert changed == {"amount" if what == "amount" else "credit_account"}
        assert new["debit_account"] != new["credit_account"]
        assert client.ok("totals")["sums"] == sums(after)
        assert (sums(after) != sums(before)) == (what == "amount")

    @pytest.mark.parametrize("what", ["sum", "count"])
    def test_wrong_totals_are_off_by_one_once(self, client: Client, what: str) -> None:
        true = client.ok("totals")
        client.fault({"kind": "wrong_totals", "what": what, "count": 1})
        wrong = client.ok("totals")
        assert {key for key in true if true[key] != wrong[key]} == {"sums" if what == "sum" else "count"}
        assert client.ok("totals") == true


class TestTokensThatEnd:
    def test_an_issued_token_is_void_from_then_on(self, client: Client) -> None:
        own = client.simulator.credentials
        form = {
            "grant_type": "client_credentials",
            "client_id": own.client_id,
            "client_secret": own.client_secret,
        }
        token = httpx.post(f"{client.simulator.base_url}/oauth/token", data=form).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        client.fault({"kind": "expired_token", "after": 1, "count": 1})
        url = f"{client.simulator.base_url}{client.path}/entries"
        assert httpx.get(url, headers=headers).status_code == 200
        for _ in range(3):
            response = httpx.get(url, headers=headers)
            problem(response, 401, "invalid_token")
            assert 'error="invalid_token"' in response.headers["www-authenticate"]
        fresh = httpx.post(f"{client.simulator.base_url}/oauth/token", data=form).json()["access_token"]
        assert httpx.get(url, headers={"Authorization": f"Bearer {fresh}"}).status_code == 200

    def test_the_fixed_token_is_refused_once(self, client: Client) -> None:
        client.fault({"kind": "expired_token", "count": 1})
        problem(client.get("entries"), 401, "invalid_token")
        assert client.get("entries").status_code == 200


class TestWhichRequests:
    def statuses(self, client: Client, fault: dict[str, Any], count: int) -> list[int]:
        client.fault(fault)
        return [client.get("accounts").status_code for _ in range(count)]

    def test_the_same_seed_strikes_the_same_requests_and_another_one_others(self, client: Client) -> None:
        fault = {"kind": "server_error", "probability": 0.4, "seed": 7}
        first = self.statuses(client, fault, 40)
        assert first == self.statuses(client, fault, 40)
        assert first != self.statuses(client, {**fault, "seed": 8}, 40)
        assert 5 < first.count(503) < 30

    @pytest.mark.parametrize(("probability", "expected"), [(0, 0), (1, 10)])
    def test_never_and_always(self, client: Client, probability: float, expected: int) -> None:
        fault = {"kind": "server_error", "probability": probability}
        assert self.statuses(client, fault, 10).count(503) == expected

    def test_after_and_count(self, client: Client) -> None:
        fault = {"kind": "server_error", "after": 2, "count": 3}
        assert self.statuses(client, fault, 8) == [200, 200, 503, 503, 503, 200, 200, 200]

    def test_only_the_routes_that_are_named_are_struck(self, client: Client) -> None:
        client.fault({"kind": "server_error", "operations": ["totals", "push"]})
        assert client.get("entries").status_code == 200
        assert client.get("totals").status_code == 503
        assert client.send("entries", [OURS]).status_code == 503
        assert client.all("received") == []

    def test_several_take_turns_and_the_log_says_which_struck(self, client: Client) -> None:
        client.fault(
            {"kind": "throttled", "count": 1, "retry_after_s": 0},
            {"kind": "slow", "delay_s": 0, "count": 1},
            {"kind": "server_error", "count": 1},
        )
        assert [client.get("entries").status_code for _ in range(3)] == [429, 503, 200]
        assert [(line["status"], line["faults"]) for line in client.log()] == [
            (429, ["throttled"]),
            (503, ["slow", "server_error"]),
            (200, []),
        ]
        assert client.fired() == [1, 1, 1]

    def test_while_it_is_down_other_faults_do_not_count(self, client: Client) -> None:
        client.fault(
            {"kind": "server_error", "after": 1, "count": 1}, {"kind": "down", "for_s": 60, "count": 1}
        )
        for _ in range(3):
            problem(client.get("entries"), 503, "down")
        states = client.admin.get("/admin/faults").json()["faults"]
        assert [(one["seen"], one["fired"]) for one in states] == [(1, 0), (1, 1)]

    def test_every_entry_is_read_once_through_all_faults_by_one_who_tries_again(
        self, client: Client, right: list[dict[str, Any]]
    ) -> None:
        client.fault(
            *({"kind": kind, "probability": 0.2, "seed": seed} for seed, kind in enumerate(
                ("throttled", "server_error", "dropped", "truncated", "expired_token", "duplicate_page")
            )),
            {"kind": "overlapping_pages", "probability": 0.3, "entries": 5},
        )  # fmt: skip
        found: dict[str, dict[str, Any]] = {}
        cursor = None
        for _ in range(2000):
            try:
                response = client.get("entries", limit=20, **({"cursor": cursor} if cursor else {}))
            except httpx.TransportError:
                continue
            if response.status_code != 200:
                continue
            found.update({entry["reference"]: entry for entry in response.json()["entries"]})
            cursor = response.json()["next_cursor"]
            if cursor is None:
                break
        assert list(found.values()) == right
        client.fault()
        assert client.all() == right


class TestHowTheyAreWritten:
    def test_on_a_command_line(self) -> None:
        (one, two) = written_faults(
            ["throttled:probability=0.1,count=3,operations=entries+totals", "looping_cursor"]
        )
        assert (one.kind, one.probability, one.count, one.operations) == (
            "throttled",
            0.1,
            3,
            ("entries", "totals"),
        )
        assert two.kind == "looping_cursor"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("nope", "--fault nope: kind must be one of throttled, server_error"),
            ("", "--fault : write it as KIND"),
            ("slow:1", "1 is not key=value"),
            ("slow:delay=1", "delay is no key that there is"),
            ("slow:delay_s=-1", "delay_s must be from 0 to 3600"),
            ("slow:delay_s=abc", "delay_s must be a valid number"),
            ("slow:probability=2", "probability must be from 0 to 1, not 2"),
            ("slow:probability=nan", "probability must be"),
            ("slow:count=0", "count must be from 1 to"),
            ("server_error:status=418", "status must be 500, 502 or 503"),
            ("slow:operations=nope", "operations.0 must be 'ledgers', 'entries'"),
            (
                "wrong_totals:operations=entries",
                "operations holds entries, where wrong_totals cannot strike: allowed are totals",
            ),
        ],
    )
    def test_what_is_wrong_is_said_in_one_sentence(self, text: str, says: str) -> None:
        with pytest.raises(UsageError) as raised:
            written_faults([text])
        assert says in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_in_a_list(self) -> None:
        with pytest.raises(UsageError, match="fault 2: kind must be one of"):
            make_faults([{"kind": "slow"}, {"knd": "slow"}], "x")
        with pytest.raises(UsageError, match="faults must be a list"):
            make_faults({"kind": "slow"}, "x")

    def test_the_admin_api_refuses_what_is_wrong_and_keeps_what_there_was(self, client: Client) -> None:
        client.fault({"kind": "slow", "delay_s": 0})
        response = client.admin.put("/admin/faults", json={"faults": [{"kind": "nope"}]})
        assert "kind must be one of" in problem(response, 422, "invalid")
        assert client.fired() == [0]

    def test_every_kind_is_listed(self) -> None:
        (union, *_) = get_args(AnyFault)
        assert set(get_args(union)) == set(KINDS.values())
        assert {kind: make_faults([{"kind": kind}], "x")[0].kind for kind in KINDS} == {
            kind: kind for kind in KINDS
        }


def test_health_and_admin_are_left_alone_by_all_but_down(served: Served) -> None:
    client = served(faults=make_faults([{"kind": "server_error"}, {"kind": "dropped"}], "x"))
    assert client.http.get("/health").status_code == 200
    assert client.http.get("/openapi.json").status_code == 200
    assert client.admin.get("/admin/faults").status_code == 200
    assert client.get("entries").status_code == 503
