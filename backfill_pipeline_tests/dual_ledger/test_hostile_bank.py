"""Whatever a bank answers: a result that is right, or one clear sentence; no traceback, no secret, no waiting for ever."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import pytest

from backfill_pipeline.definition.scb import ScbSection
from backfill_pipeline.dual_ledger.client import BankClient
from backfill_pipeline.dual_ledger.control_totals import NO_ENTRIES, ControlTotals
from backfill_pipeline.errors import BackfillError
from backfill_pipeline_tests.dual_ledger.hostile import (
    Asked,
    HostileBank,
    as_json,
    hostile_bank,
    mutated,
)

SECRET = "s3cr3t-t0ken-of-ours"
DAYS = (date(2024, 3, 30), date(2024, 3, 31))
DIGEST = f"sha256:{'ab' * 32}"
TOTALS = {
    "ledger": "SCB-01",
    "of": "entries",
    "from": "2024-03-30T00:00:00+01:00",
    "to": "2024-04-01T00:00:00+02:00",
    "count": 3,
    "sums": {"EUR": "12.50", "JPY": "100"},
    "days": [
        {
            "day": "2024-03-30",
            "from": "2024-03-30T00:00:00+01:00",
            "to": "2024-03-31T00:00:00+01:00",
            "count": 2,
            "sums": {"EUR": "2.50", "JPY": "100"},
            "digest": DIGEST,
        },
        {
            "day": "2024-03-31",
            "from": "2024-03-31T00:00:00+01:00",
            "to": "2024-04-01T00:00:00+02:00",
            "count": 1,
            "sums": {"EUR": "10.00"},
            "digest": DIGEST,
        },
    ],
}
REFERENCES = ("R1", "R2", "R3")
OUTCOMES = {
    "results": [
        {"index": 0, "reference": "R1", "result": "accepted", "status": 201, "code": None, "detail": None},
        {"index": 1, "reference": "R2", "result": "known", "status": 200, "code": None, "detail": None},
        {
            "index": 2,
            "reference": "R3",
            "result": "refused",
            "status": 404,
            "code": "unknown_reference",
            "detail": "no entry of this reference",
        },
    ],
    "accepted": 1,
    "updated": 0,
    "known": 1,
    "conflict": 0,
    "refused": 1,
}


@pytest.fixture
def bank(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileBank]:
    monkeypatch.setenv("BANK_TOKEN", SECRET)
    with hostile_bank() as bank:
        yield bank


def section(bank: HostileBank, **other: object) -> ScbSection:
    return ScbSection.model_validate(
        {
            "base_url": bank.url,
            "bank_id": "SCB-01",
            "auth": {"kind": "bearer", "token_env": "BANK_TOKEN"},
            "timezone": "Europe/Paris",
            "start": "2024-03-01",
            "backoff_s": 0,
            "max_attempts": 2,
            "retry_after_max_s": 1,
            "read_timeout_s": 5,
            "answer_timeout_s": 10,
            **other,
        }
    )


def one_sentence(error: BackfillError) -> None:
    text = str(error)
    assert text.count("\n") == 0, text
    assert text.isprintable(), text
    assert len(text) < 1500, text
    assert SECRET not in text


def test_right_answers_are_understood(bank: HostileBank) -> None:
    bank.answer = lambda asked: as_json(TOTALS if asked.method == "GET" else OUTCOMES)
    with BankClient(section(bank)) as client:
        assert client.control_totals(*DAYS) == {
            DAYS[0]: ControlTotals(2, {"EUR": Decimal("2.50"), "JPY": Decimal(100)}, DIGEST),
            DAYS[1]: ControlTotals(1, {"EUR": Decimal(10)}, DIGEST),
        }
        results = client.send("acknowledgement", b"{}", "key-1", references=REFERENCES)
    assert [one.taken for one in results] == [True, True, False]
    assert results[2].code == "unknown_reference"


def test_a_day_without_entries_may_be_left_out(bank: HostileBank) -> None:
    bank.answer = lambda asked: as_json({"count": 0, "sums": {}, "days": []})
    with BankClient(section(bank)) as client:
        assert client.control_totals(*DAYS) == dict.fromkeys(DAYS, NO_ENTRIES)


@pytest.mark.parametrize("seed", range(2))
def test_control_totals_that_are_spoilt_are_refused_or_right(bank: HostileBank, seed: int) -> None:
    dice = random.Random(seed)
    spoilt: list[object] = []

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return as_json(spoilt[-1])

    bank.answer = answer
    right: dict[date, ControlTotals] = {}
    refused = 0
    with BankClient(section(bank)) as client:
        spoilt.append(TOTALS)
        right = client.control_totals(*DAYS)
        for _ in range(40):
            value: object = TOTALS
            for _ in range(dice.choice((1, 1, 1, 2, 4))):
                value = mutated(value, dice)
            spoilt.append(value)
            try:
                found = client.control_totals(*DAYS)
            except BackfillError as error:
                one_sentence(error)
                refused += 1
            else:
                assert set(found) == set(DAYS)
                # What stands at several places cannot be wrong at one of them without being noticed.
                assert [one.count for one in found.values()] == [one.count for one in right.values()], value
    assert refused > 5


@pytest.mark.parametrize("seed", range(2))
def test_results_that_are_spoilt_take_nothing_for_granted(bank: HostileBank, seed: int) -> None:
    dice = random.Random(seed)
    spoilt: list[object] = []

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        return as_json(spoilt[-1], dice.choice((200, 207)))

    bank.answer = answer
    refused = 0
    with BankClient(section(bank)) as client:
        for number in range(40):
            value: object = OUTCOMES
            for _ in range(dice.choice((1, 1, 1, 2, 4))):
                value = mutated(value, dice)
            spoilt.append(value)
            try:
                found = client.send("entry", b"{}", f"key-{number}", references=REFERENCES)
            except BackfillError as error:
                one_sentence(error)
                refused += 1
                continue
            assert [one.reference for one in found] == list(REFERENCES)
            said = json.loads(json.dumps(value))["results"]
            for one, item in zip(found, said, strict=True):
                assert one.taken == (item["result"] in ("accepted", "updated", "known")), value
                for text in (one.code, one.detail):
                    assert text is None or (text.isprintable() and len(text) <= 400)
    assert refused > 5


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, b""),
        (200, {"Content-Type": "text/html"}, b"<html>log in</html>"),
        (200, {"Content-Type": "application/json"}, b"\xff\xfe"),
        (200, {"Content-Type": "application/json"}, b"[" * 200_000),
        (200, {"Content-Type": "application/json"}, b'{"count": ' + b"9" * 5000 + b"}"),
        (200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"no gzip"),
        (200, {"Content-Type": "application/json", "Content-Length": "50"}, b"{}"),
        (201, {}, b"{}"),
        (302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""),
        (302, {"Location": "?"}, b""),
        (400, {}, b'{"detail": "Bearer s3cr3t-t0ken-of-ours is no good"}'),
        (401, {}, b""),
        (403, {}, b"s3cr3t-t0ken-of-ours"),
        (404, {}, b""),
        (413, {}, b""),
        (422, {"Content-Type": "application/json"}, b'{"detail": "\\u0000\\ud800"}'),
        (429, {"Retry-After": "-1"}, b""),
        (429, {"Retry-After": "tomorrow"}, b""),
        (429, {"Retry-After": "99999999999999999999"}, b""),
        (500, {}, b"Traceback (most recent call last):\n  s3cr3t-t0ken-of-ours"),
        (599, {}, b""),
        (999, {}, b""),
    ],
)
def test_answers_that_are_none_are_one_sentence(
    bank: HostileBank, status: int, headers: dict[str, str], body: bytes
) -> None:
    bank.answer = lambda asked: (status, headers, body)
    with BankClient(section(bank)) as client:
        with pytest.raises(BackfillError) as totals:
            client.control_totals(*DAYS)
        with pytest.raises(BackfillError) as sent:
            client.send("entry", b"{}", "key-1", references=REFERENCES)
        with pytest.raises(BackfillError) as listed:
            list(client.received())
    for error in (totals, sent, listed):
        one_sentence(error.value)


def test_what_is_sent_goes_to_the_bank_alone_with_the_same_key_and_body(bank: HostileBank) -> None:
    """A redirect of what is sent would be a GET at best, and at worst tell somebody else."""
    with hostile_bank() as other:
        bank.answer = lambda asked: (307, {"Location": f"{other.url}/x"}, b"")
        with BankClient(section(bank)) as client:
            with pytest.raises(BackfillError):
                client.send("entry", b'{"entries": []}', "key-1", references=REFERENCES)
            with pytest.raises(BackfillError):
                client.control_totals(*DAYS)
        assert other.asked == []
    bank.asked.clear()
    answers = [(500, {}, b""), (200, {"Content-Type": "application/json"}, b"{"), as_json(OUTCOMES)]
    bank.answer = lambda asked: answers[len(bank.asked) - 1]
    with BankClient(section(bank, max_attempts=3)) as client:
        client.send("entry", b'{"entries": [1]}', "key-2", references=REFERENCES)
    sent = {
        (one.method, one.body, one.headers["Idempotency-Key"], one.headers["Content-Type"])
        for one in bank.asked
    }
    assert sent == {("POST", b'{"entries": [1]}', "key-2", "application/json")}
    assert len(bank.asked) == 3
