"""Asking and telling a bank: what it says is taken only when it holds together, and what it is told arrives once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.errors import BackfillError, SourceFileError, TransientSourceError
from backfill_pipeline.sources.http.client import RequestRefusedError
from backfill_pipeline_tests.dual_ledger.hostile import as_json, hostile_bank
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual

SECOND_DAY = FIRST_DAY + timedelta(days=1)
SHORT_DAY = FIRST_DAY + timedelta(days=2)


@pytest.fixture
def client(dual: Dual) -> Iterator[BankClient]:
    with BankClient(scb_of(dual.definition())) as client:
        yield client


def body(kind: str, items: list[dict[str, object]]) -> bytes:
    return json.dumps({kind: items}).encode()


def acknowledgement(reference: str) -> dict[str, object]:
    return {"reference": reference, "status": "posted"}


def entry(dual: Dual, reference: str, amount: str = "10.00") -> dict[str, object]:
    debit, credit = [one.id for one in dual.book().ledger.accounts if one.shared and one.currency == "EUR"][
        :2
    ]
    return {
        "reference": reference,
        "booked_at": "2024-03-29T12:00:00Z",
        "debit_account": debit,
        "credit_account": credit,
        "amount": amount,
        "currency": "EUR",
        "type": "TRANSFER",
    }


class TestControlTotals:
    def test_every_day_is_there__those_without_entries_too(self, dual: Dual, client: BankClient) -> None:
        found = client.control_totals(FIRST_DAY - timedelta(days=2), SHORT_DAY + timedelta(days=1))
        assert [one.count for one in found.values()] == [0, 0, 40, 40, 40, 0]
        assert list(found) == sorted(found)
        entries = dual.entries_there(day=SHORT_DAY).values()
        for currency, amount in found[SHORT_DAY].sums.items():
            assert amount == sum((one.amount for one in entries if one.currency == currency), Decimal(0))
        assert found[SHORT_DAY].digest != found[FIRST_DAY].digest
        assert len(dual.log()) == 1, "one request, whatever the number of days"

    def test_of_what_the_bank_received(self, dual: Dual, client: BankClient) -> None:
        client.send("entry", body("entries", [entry(dual, "OURS")]), "key", references=["OURS"])
        found = client.control_totals(FIRST_DAY, SHORT_DAY, of="received")
        assert [one.count for one in found.values()] == [1, 0, 0]
        assert found[FIRST_DAY].sums == {"EUR": Decimal("10.00")}

    @pytest.mark.parametrize("what", ["sum", "count"])
    def test_totals_that_contradict_their_days_are_asked_for_again__and_never_believed(
        self, dual: Dual, client: BankClient, what: str
    ) -> None:
        right = client.control_totals(FIRST_DAY, SHORT_DAY)
        dual.faults({"kind": "wrong_totals", "what": what, "count": 2})
        assert client.control_totals(FIRST_DAY, SHORT_DAY) == right
        dual.faults({"kind": "wrong_totals", "what": what})
        with pytest.raises(TransientSourceError, match="contradict those of their days"):
            client.control_totals(FIRST_DAY, SHORT_DAY)

    def test_another_time_zone_than_the_banks_is_noticed(self, dual: Dual) -> None:
        dual.write_scb(scb={"timezone": "UTC"})
        with (
            BankClient(scb_of(dual.definition())) as client,
            pytest.raises(SourceFileError, match=r"check scb\.timezone"),
        ):
            client.control_totals(FIRST_DAY, SECOND_DAY)

    def test_without_digests_where_the_definition_wants_none(self, dual: Dual) -> None:
        dual.write_scb(scb={"digest": False})
        with BankClient(scb_of(dual.definition())) as client:
            assert {one.digest for one in client.control_totals(FIRST_DAY, SHORT_DAY).values()} == {None}
        assert "digest=false" in dual.log()[0].query


class TestSending:
    def test_each_item_has_its_result(self, dual: Dual, client: BankClient) -> None:
        known = next(iter(dual.entries_there()))
        sent = body("acknowledgements", [acknowledgement(known), acknowledgement("NOBODY")])
        first = client.send("acknowledgement", sent, "key-1", references=[known, "NOBODY"])
        assert [(one.reference, one.result, one.code, one.taken) for one in first] == [
            (known, "accepted", None, True),
            ("NOBODY", "refused", "unknown_reference", False),
        ]
        again = client.send("acknowledgement", sent, "key-2", references=[known, "NOBODY"])
        assert [one.result for one in again] == ["known", "refused"]

    def test_an_answer_that_is_lost_is_asked_for_again__the_bank_does_it_once(
        self, dual: Dual, client: BankClient
    ) -> None:
        dual.faults({"kind": "lost_answer", "count": 1}, {"kind": "truncated", "after": 1, "count": 1})
        found = client.send("entry", body("entries", [entry(dual, "OURS")]), "key", references=["OURS"])
        assert [one.result for one in found] == ["accepted"], "the answer of the first time, not `known`"
        assert client.traffic()["retries"] == 2
        assert list(dual.received()) == ["OURS"]

    def test_a_batch_that_is_refused_as_a_whole(self, dual: Dual, client: BankClient) -> None:
        with pytest.raises(RequestRefusedError, match="answers 422") as caught:
            client.send("entry", b'{"entries": []}', "key", references=[])
        assert caught.value.status == 422

    def test_a_token_that_ends_is_renewed_once_for_all_threads(self, dual: Dual) -> None:
        dual.write_scb(auth="oauth2")
        known = list(dual.entries_there())[:8]
        dual.faults({"kind": "expired_token", "count": 1, "operations": ["acknowledge"]})
        with BankClient(scb_of(dual.definition())) as client, ThreadPoolExecutor(4) as pool:
            found = list(
                pool.map(
                    lambda one: client.send(
                        "acknowledgement",
                        body("acknowledgements", [acknowledgement(one)]),
                        f"key-{one}",
                        references=[one],
                    ),
                    known,
                )
            )
        assert [results[0].result for results in found] == ["accepted"] * 8
        assert set(dual.acknowledged()) == set(known)
        assert sum(one.operation == "token" for one in dual.log()) == 2

    def test_what_is_sent_is_never_sent_elsewhere(self, dual: Dual) -> None:
        with hostile_bank() as elsewhere, hostile_bank() as bank:
            bank.answer = lambda asked: (307, {"Location": f"{elsewhere.url}/x"}, b"")
            dual.write_scb(scb={"base_url": bank.url, "max_attempts": 1})
            with BankClient(scb_of(dual.definition())) as client, pytest.raises(SourceFileError, match="307"):
                client.send("entry", b"{}", "key", references=["OURS"])
            assert elsewhere.asked == []

    def test_a_bank_that_echoes_our_secret_is_not_quoted(self, dual: Dual) -> None:
        token = dual.environment["SCB_SIMULATOR_TOKEN"]
        with hostile_bank() as bank:
            result = {"index": 0, "reference": "OURS", "result": "refused", "code": token}
            bank.answer = lambda asked: as_json(
                {"results": [{**result, "detail": f"x\n{token}\x1b[2J" + "y" * 999}]}
            )
            dual.write_scb(scb={"base_url": bank.url})
            with BankClient(scb_of(dual.definition())) as client:
                (found,) = client.send("entry", b"{}", "key", references=["OURS"])
        assert token not in str(found)
        assert found.detail is not None
        assert found.detail.isprintable()
        assert len(found.detail) <= 300


def test_what_the_bank_was_told_is_listed_page_by_page(dual: Dual) -> None:
    dual.write_scb(scb={"page_size": 7})
    known = list(dual.entries_there())[:20]
    ours = [f"OURS-{number:02d}" for number in range(20)]
    with BankClient(scb_of(dual.definition())) as client:
        assert list(client.acknowledgements()) == []
        client.send(
            "acknowledgement",
            body("acknowledgements", [acknowledgement(one) for one in known]),
            "key-1",
            references=known,
        )
        client.send("entry", body("entries", [entry(dual, one) for one in ours]), "key-2", references=ours)
        told = pa.concat_tables(client.acknowledgements())
        received = pa.concat_tables(client.received())
    assert told.to_pydict() == {"reference": known, "status": ["posted"] * 20}
    assert received["reference"].to_pylist() == ours
    assert set(received["amount"].to_pylist()) == {"10.00"}
    assert {field.type for field in received.schema} == {pa.string()}


def test_days_are_the_banks(dual: Dual, client: BankClient) -> None:
    """The day of 23 hours is asked for from its first to its last moment."""
    client.control_totals(SHORT_DAY, SHORT_DAY)
    (asked,) = dual.log()
    assert "from=2024-03-31T00:00:00+01:00&to=2024-04-01T00:00:00+02:00" in asked.query
    assert date(2024, 3, 31) == SHORT_DAY


@pytest.mark.parametrize("status", [404, 403, 503])
def test_what_is_wrong_is_told_with_the_keys_of_the_section_scb(dual: Dual, status: int) -> None:
    with hostile_bank() as bank:
        bank.answer = lambda asked: (status, {}, b"")
        dual.write_scb(scb={"base_url": bank.url, "max_attempts": 1})
        with BankClient(scb_of(dual.definition())) as client, pytest.raises(BackfillError) as caught:
            client.send("entry", b"{}", "key", references=["OURS"])
    assert f"answers {status}" in str(caught.value)
    assert "api." not in str(caught.value)
    assert "scb." in str(caught.value) or status == 403
