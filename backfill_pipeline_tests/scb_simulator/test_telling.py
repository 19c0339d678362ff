"""What the bank is told: acknowledgements and our entries, each once, whatever happens to requests."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from typing import Any

import httpx
import pytest

from backfill_pipeline.scb_simulator.contract import AcknowledgementPage, Outcomes, ReceivedPage, Totals
from backfill_pipeline_tests.scb_simulator.client import Client
from backfill_pipeline_tests.scb_simulator.conftest import Served
from backfill_pipeline_tests.scb_simulator.test_reading import digest, problem, sums

REFERENCE = "SCB-01-20240329-000000001"
OURS = {
    "reference": "OURS-1",
    "booked_at": "2024-03-30T10:00:00+01:00",
    "debit_account": "SCB-01-EUR-00001",
    "credit_account": "SCB-01-EUR-00002",
    "amount": "12.5",
    "currency": "EUR",
    "type": "TRANSFER",
    "narrative": "Zoë, 東京",
    "metadata": {"branch": "PAR", "tags": ["a", 1]},
}


def posted(number: int, **other: Any) -> dict[str, Any]:
    return {"reference": f"SCB-01-20240329-{number:09d}", "status": "posted", **other}


def ours(number: int, **other: Any) -> dict[str, Any]:
    return {**OURS, "reference": f"OURS-{number}", **other}


def results(response: httpx.Response) -> list[tuple[str, int]]:
    outcomes = Outcomes.model_validate(response.json())
    assert [one.index for one in outcomes.results] == list(range(len(outcomes.results)))
    return [(one.result, one.status) for one in outcomes.results]


class TestAcknowledgements:
    def test_a_batch_is_kept_and_read_back_in_pages(self, client: Client) -> None:
        sent = [posted(number, at="2024-04-02T01:00:00Z") for number in range(1, 61)]
        response = client.send("acknowledgements", sent)
        assert response.status_code == 200
        assert results(response) == [("accepted", 201)] * 60
        for limit in (1, 7, 60, 1000):
            kept = client.all("acknowledgements", limit=limit)
            assert [(one["reference"], one["status"], one["at"]) for one in kept] == [
                (one["reference"], one["status"], one["at"]) for one in sent
            ]
        AcknowledgementPage.model_validate(client.ok("acknowledgements", limit=2))

    def test_the_same_again_is_known_another_status_updates_what_was_not_posted(self, client: Client) -> None:
        assert results(client.send("acknowledgements", [posted(1), posted(1)])) == [
            ("accepted", 201),
            ("known", 200),
        ]
        rejected = {"reference": posted(2)["reference"], "status": "rejected", "detail": "account unknown"}
        assert results(client.send("acknowledgements", [rejected])) == [("accepted", 201)]
        assert results(client.send("acknowledgements", [posted(2)])) == [("updated", 200)]
        for status in ("rejected", "filtered", "duplicate"):
            told = {**posted(2), "status": status, "at": None}
            assert results(client.send("acknowledgements", [told])) == [("conflict", 409)]
        kept = client.all("acknowledgements")
        assert [(one["reference"][-1], one["status"]) for one in kept] == [("1", "posted"), ("2", "posted")]

    def test_what_was_posted_is_taken_back_only_with_a_reason_and_may_be_posted_again(
        self, client: Client
    ) -> None:
        assert results(client.send("acknowledgements", [posted(1)])) == [("accepted", 201)]
        withdrawn = {"reference": posted(1)["reference"], "status": "rejected", "detail": "rolled back"}
        assert results(client.send("acknowledgements", [withdrawn])) == [("updated", 200)]
        assert results(client.send("acknowledgements", [withdrawn])) == [("known", 200)]
        assert results(client.send("acknowledgements", [posted(1)])) == [("updated", 200)]
        assert [one["status"] for one in client.all("acknowledgements")] == ["posted"]

    def test_a_reader_of_pages_meets_what_is_updated_behind_it(self, client: Client) -> None:
        client.send("acknowledgements", [{**posted(1), "status": "rejected"}, posted(2), posted(3)])
        page = client.ok("acknowledgements", limit=2)
        client.send("acknowledgements", [posted(1)])
        rest = client.ok("acknowledgements", cursor=page["next_cursor"])["acknowledgements"]
        assert [(one["reference"][-1], one["status"]) for one in rest] == [("3", "posted"), ("1", "posted")]

    @pytest.mark.parametrize(
        ("item", "code"),
        [
            ({"reference": "SCB-01-20240329-000000061", "status": "posted"}, "unknown_reference"),
            ({"reference": "SCB-01-20240329-L00000001", "status": "posted"}, "unknown_reference"),
            ({"reference": "SCB-02-20240329-000000001", "status": "posted"}, "unknown_reference"),
            ({"reference": REFERENCE, "status": "done"}, "invalid"),
            ({"reference": REFERENCE}, "invalid"),
            ({"reference": 5, "status": "posted"}, "invalid"),
            ({"reference": REFERENCE, "status": "posted", "at": "2024-03-30T00:00:00"}, "invalid"),
            ({"reference": REFERENCE, "status": "posted", "more": 1}, "invalid"),
            ({"reference": "a\nb", "status": "posted"}, "invalid"),
            (None, "invalid"),
            ([], "invalid"),
            ("x", "invalid"),
        ],
    )
    def test_a_bad_item_is_refused_alone(self, client: Client, item: object, code: str) -> None:
        response = client.send("acknowledgements", [posted(1), item, posted(2)])
        assert response.status_code == 207
        assert [result for result, _ in results(response)] == ["accepted", "refused", "accepted"]
        assert response.json()["results"][1]["code"] == code
        assert response.json()["results"][1]["detail"]
        assert len(client.all("acknowledgements")) == 2


class TestEntriesSent:
    def test_they_are_kept_once_and_read_back_as_one_writes_them_here(self, client: Client) -> None:
        response = client.send("entries", [OURS])
        assert (response.status_code, results(response)) == (200, [("accepted", 201)])
        (kept,) = client.all("received")
        expected = {**OURS, "amount": "12.50", "booked_at": "2024-03-30T09:00:00Z", "sequence": 1}
        assert {key: kept[key] for key in expected} == expected
        ReceivedPage.model_validate(client.ok("received"))

    def test_they_do_not_come_back_among_the_banks_own_entries(self, client: Client) -> None:
        before = client.ok("totals")
        client.send("entries", [OURS])
        assert client.ok("totals") == before
        assert OURS["reference"] not in {entry["reference"] for entry in client.all()}

    @pytest.mark.parametrize(
        "same", [{"amount": "12.50"}, {"amount": "0012.500"}, {"booked_at": "2024-03-30T09:00:00Z"}, {}]
    )
    def test_the_same_reference_with_the_same_content_is_known(
        self, client: Client, same: dict[str, str]
    ) -> None:
        client.send("entries", [OURS])
        assert results(client.send("entries", [{**OURS, **same}])) == [("known", 200)]
        assert len(client.all("received")) == 1

    @pytest.mark.parametrize(
        "other",
        [
            {"amount": "12.51"},
            {"booked_at": "2024-03-30T10:00:01+01:00"},
            {"booked_at": "2024-03-30T10:00:00.000001+01:00"},
            {"credit_account": "SCB-01-EUR-00003"},
            {"type": "FEE"},
            {"narrative": ""},
            {"metadata": {}},
        ],
    )
    def test_the_same_reference_with_other_content_is_a_conflict_of_that_item_alone(
        self, client: Client, other: dict[str, object]
    ) -> None:
        client.send("entries", [OURS])
        response = client.send("entries", [ours(2), {**OURS, **other}, ours(3)])
        assert response.status_code == 207
        assert results(response) == [("accepted", 201), ("conflict", 409), ("accepted", 201)]
        assert client.all("received")[0]["amount"] == "12.50"
        assert len(client.all("received")) == 3

    def test_a_reference_twice_in_one_batch_is_kept_once(self, client: Client) -> None:
        response = client.send("entries", [OURS, OURS, {**OURS, "amount": "1"}])
        assert results(response) == [("accepted", 201), ("known", 200), ("conflict", 409)]

    def test_an_entry_of_the_bank_itself_that_is_sent_back_is_a_conflict(self, client: Client) -> None:
        response = client.send("entries", [ours(1, reference=REFERENCE)])
        assert response.json()["results"][0]["code"] == "own_reference"
        assert client.all("received") == []

    @pytest.mark.parametrize(
        ("other", "says"),
        [
            ({"amount": 12.5}, "amount must be a valid string"),
            ({"amount": "-1"}, "amount"),
            ({"amount": "1e3"}, "amount"),
            ({"amount": "NaN"}, "amount"),
            ({"amount": "1,5"}, "amount"),
            ({"amount": "٣"}, "amount"),
            ({"amount": "5\n"}, "amount"),
            ({"amount": "0.00"}, "amount must be more than 0"),
            ({"amount": "1.005"}, "amount must have at most 2 decimals in EUR"),
            ({"currency": "XXX"}, "currency must be the ISO 4217 code"),
            ({"currency": "eur"}, "currency must be the ISO 4217 code"),
            ({"currency": "USD"}, "debit_account is kept in EUR, not in USD"),
            ({"debit_account": "NOPE"}, "debit_account is no account of ledger SCB-01"),
            ({"credit_account": "SCB-01-EUR-00001"}, "credit_account must differ from debit_account"),
            ({"booked_at": "2024-03-30T10:00:00"}, "booked_at has no offset"),
            ({"booked_at": 1711789200}, "booked_at must be a valid string"),
            ({"booked_at": "0001-01-01T00:00:00Z"}, "booked_at is not in the years"),
            ({"reference": ""}, "reference"),
            ({"reference": " x"}, "reference must be printable"),
            ({"reference": "x" * 201}, "reference"),
            ({"type": None}, "type must be a valid string"),
            ({"metadata": []}, "metadata"),
            ({"id": 1}, "id is no key that there is"),
        ],
    )
    def test_what_cannot_be_an_entry_is_refused_with_the_reason(
        self, client: Client, other: dict[str, object], says: str
    ) -> None:
        response = client.send("entries", [{**OURS, **other}])
        assert (response.status_code, results(response)) == (207, [("refused", 422)])
        assert says in response.json()["results"][0]["detail"]
        assert client.all("received") == []

    def test_accounts_that_the_bank_does_not_have_are_taken_where_it_is_told_to(self, served: Served) -> None:
        client = served(unknown_accounts="accept")
        sent = ours(
            1, debit_account="A", credit_account="B", currency="BHD", amount="99999999999999999999.123"
        )
        assert results(client.send("entries", [sent])) == [("accepted", 201)]
        assert client.all("received")[0]["amount"] == "99999999999999999999.123"
        assert client.ok("totals", of="received")["sums"] == {"BHD": "99999999999999999999.123"}

    def test_totals_of_what_was_received_equal_what_was_received(self, served: Served) -> None:
        client = served(unknown_accounts="accept")
        sent = [
            ours(number, amount=f"{number}.{number % 10}", currency=code, booked_at=f"2024-03-{day}T{number % 24:02d}:30:00.25Z")
            for number, (code, day) in enumerate([("EUR", 29), ("USD", 30), ("KWD", 31)] * 20, start=1)
        ]  # fmt: skip
        assert client.send("entries", sent).status_code == 200
        totals = client.ok("totals", of="received")
        Totals.model_validate(totals)
        kept = client.all("received", limit=7)
        assert (totals["count"], totals["sums"]) == (60, sums(kept))
        for day in totals["days"]:
            whole = client.ok("totals", of="received", **{"from": day["from"], "to": day["to"]})
            assert (whole["count"], whole["sums"]) == (day["count"], day["sums"])
        assert sum(day["count"] for day in totals["days"]) == 60

    def test_the_digest_of_what_was_received_is_made_as_that_of_entries(self, client: Client) -> None:
        client.send("entries", [ours(number) for number in (3, 20, 1)])
        (day,) = client.ok("totals", of="received", digest="true")["days"]
        assert day["digest"] == digest(client.all("received"))


class TestIdempotency:
    @pytest.mark.parametrize(("below", "item"), [("acknowledgements", posted(1)), ("entries", OURS)])
    def test_the_same_key_and_body_get_the_same_answer_and_no_effect(
        self, client: Client, below: str, item: dict[str, object]
    ) -> None:
        first = client.send(below, [item, {}], key="k")
        again = client.send(below, [item, {}], key="k")
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert first.json()["accepted"] == 1
        assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (
            False,
            "true",
        )

    def test_the_same_key_with_another_body_or_path_is_refused_without_effect(self, served: Served) -> None:
        client = served(ledgers=2)
        client.send("acknowledgements", [posted(1)], key="k")
        problem(client.send("acknowledgements", [posted(2)], key="k"), 422, "idempotency_key_reused")
        problem(client.send("entries", [OURS], key="k"), 422, "idempotency_key_reused")
        body = {"acknowledgements": [posted(1)]}
        response = client.http.post(
            "/ledgers/SCB-02/acknowledgements", json=body, headers={"Idempotency-Key": "k"}
        )
        problem(response, 422, "idempotency_key_reused")
        assert len(client.all("acknowledgements")) == 1
        assert client.all("received") == []

    def test_a_key_of_a_request_that_was_refused_as_a_whole_is_free(self, client: Client) -> None:
        problem(client.send("acknowledgements", [], key="k"), 422, "invalid")
        assert results(client.send("acknowledgements", [posted(1)], key="k")) == [("accepted", 201)]

    @pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 201])
    def test_without_a_key_nothing_is_done(self, client: Client, key: str) -> None:
        headers = {"Idempotency-Key": key.encode("latin-1")} if key else {}
        response = client.http.post(f"{client.path}/entries", json={"entries": [OURS]}, headers=headers)
        problem(response, 400, "no_idempotency_key")
        assert client.all("received") == []

    def test_the_same_key_from_eight_threads_has_one_effect_and_one_answer(self, client: Client) -> None:
        barrier = threading.Barrier(8)
        answers: list[httpx.Response] = []
        body = {"entries": [ours(number) for number in range(50)]}

        def send() -> None:
            token = client.http.headers["Authorization"]
            with httpx.Client(
                base_url=client.simulator.base_url, headers={"Authorization": token}, timeout=60
            ) as http:
                barrier.wait()
                answers.append(
                    http.post(f"{client.path}/entries", json=body, headers={"Idempotency-Key": "k"})
                )

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {answer.content for answer in answers} == {answers[0].content}
        assert answers[0].json()["accepted"] == 50
        assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
        assert len(client.all("received")) == 50

    def test_the_same_entries_under_eight_keys_at_once_are_accepted_once(self, client: Client) -> None:
        answers: list[dict[str, Any]] = []

        def send(key: str) -> None:
            token = client.http.headers["Authorization"]
            with httpx.Client(
                base_url=client.simulator.base_url, headers={"Authorization": token}, timeout=60
            ) as http:
                body = {"entries": [ours(number) for number in range(50)]}
                answers.append(
                    http.post(f"{client.path}/entries", json=body, headers={"Idempotency-Key": key}).json()
                )

        threads = [threading.Thread(target=send, args=(f"k{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted((answer["accepted"], answer["known"]) for answer in answers) == [(0, 50)] * 7 + [
            (50, 0)
        ]
        assert len(client.all("received")) == 50


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"", 400, "bad_body"),
            (b"{", 400, "bad_body"),
            (b"\xff\xfe", 400, "bad_body"),
            (b'{"entries":[NaN]}', 400, "bad_body"),
            (b'{"entries":[{"reference":"\\ud800"}]}', 400, "bad_body"),
            (b"[" * 100_000, 400, "bad_body"),
            (b"[]", 422, "invalid"),
            (b'{"entries":{}}', 422, "invalid"),
            (b'{"entries":[]}', 422, "invalid"),
            (b'{"entries":[{}],"more":1}', 422, "invalid"),
            (json.dumps({"entries": [{}] * 10_001}).encode(), 422, "invalid"),
            (b" " * (16 * 2**20 + 1), 413, "too_large"),
        ],
        ids=range(12),
    )
    def test_a_body_that_is_none_is_refused_as_a_whole(
        self, client: Client, body: bytes, status: int, code: str
    ) -> None:
        headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        problem(client.http.post(f"{client.path}/entries", content=body, headers=headers), status, code)
        assert client.ok("received")["entries"] == []

    def test_a_body_of_another_kind_is_refused(self, client: Client) -> None:
        headers = {"Idempotency-Key": "k", "Content-Type": "text/plain"}
        response = client.http.post(f"{client.path}/entries", content=b"{}", headers=headers)
        problem(response, 400, "bad_body")

    def test_the_largest_batch_is_taken(self, client: Client) -> None:
        response = client.send("entries", [ours(number) for number in range(10_000)])
        assert response.json()["accepted"] == 10_000
        assert client.ok("totals", of="received")["sums"] == {"EUR": str(Decimal("125000.00"))}
