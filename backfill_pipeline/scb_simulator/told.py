"""What the bank is told: acknowledgements of its entries, and entries of the other side.

Belongs here: judging items one by one, keeping each once, answering a repeated request as the first time, reading back.
Does not: HTTP (`web/`), the shapes of items (`contract.py`).
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from pydantic import ValidationError

from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.contract import (
    AcknowledgementKept,
    AcknowledgementSent,
    EntryReceived,
    EntrySent,
    Outcome,
    Outcomes,
    moment,
)
from backfill_pipeline.scb_simulator.ledger import amount_text
from backfill_pipeline.scb_simulator.options import first_problem
from backfill_pipeline.scb_simulator.store import Store
from backfill_pipeline.scb_simulator.totals import Totals

_RESULTS: Final = ("accepted", "updated", "known", "conflict", "refused")
_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request with an idempotency key. `replayed`: given before, and nothing was done now."""

    status: int
    body: bytes
    replayed: bool


class KeyReusedError(Exception):
    """The idempotency key belongs to another request."""


def answer_once(
    store: Store, key: str, request: str, act: Callable[[sqlite3.Connection], tuple[int, bytes]]
) -> Answer:
    """Does something once per key, in one transaction with remembering its answer.

    Args:
        store: where answers are remembered.
        key: the idempotency key.
        request: what tells the request from others, such as a hash of path and body.
        act: does it, and returns status and body. When it raises, nothing was done and the key is free.

    Raises:
        KeyReusedError: the key was used for another request.
    """
    with store.write() as connection:
        row: tuple[str, int, bytes] | None = connection.execute(
            "SELECT request, status, answer FROM idempotency WHERE key = ?", (key,)
        ).fetchone()
        if row is not None:
            if row[0] != request:
                raise KeyReusedError
            return Answer(row[1], row[2], replayed=True)
        status, body = act(connection)
        connection.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?)", (key, request, status, body))
        return Answer(status, body, replayed=False)


# --- judging ----------------------------------------------------------------------------------------------------


def acknowledge(connection: sqlite3.Connection, book: Book, items: list[object]) -> Outcomes:
    """Keeps acknowledgements.

    An entry that was rejected or filtered may be posted later; one that was posted stays so, unless it is taken back by
    `rejected` with a reason.
    """
    received_at = _now_text()

    def judge(index: int, item: object) -> Outcome:
        try:
            sent = AcknowledgementSent.model_validate(item)
        except ValidationError as error:
            return _invalid(index, item, error)
        if not book.has(connection, sent.reference):
            text = f"ledger {book.ledger.id} has no entry of this reference"
            return _outcome(index, sent.reference, "refused", 404, "unknown_reference", text)
        row: tuple[str, str | None, str | None] | None = connection.execute(
            "SELECT status, at, detail FROM acknowledgements WHERE ledger = ? AND reference = ?",
            (book.ledger.id, sent.reference),
        ).fetchone()
        if row is not None:
            if row == (sent.status, sent.at, sent.detail):
                return _outcome(index, sent.reference, "known", 200)
            # Posted stays posted, unless it is taken back with a reason.
            if row[0] in ("posted", "duplicate") and not (sent.status == "rejected" and sent.detail):
                text = f"this entry was acknowledged as {row[0]} already, with other content"
                return _outcome(index, sent.reference, "conflict", 409, "acknowledged_otherwise", text)
        connection.execute(
            "INSERT OR REPLACE INTO acknowledgements (ledger, reference, status, at, detail, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (book.ledger.id, sent.reference, sent.status, sent.at, sent.detail, received_at),
        )
        if row is None:
            return _outcome(index, sent.reference, "accepted", 201)
        return _outcome(index, sent.reference, "updated", 200)

    return _judged(items, judge)


def receive(connection: sqlite3.Connection, book: Book, items: list[object]) -> Outcomes:
    """Keeps entries that the other side sends: each reference once."""
    received_at = _now_text()

    def judge(index: int, item: object) -> Outcome:
        try:
            sent = EntrySent.model_validate(item)
        except ValidationError as error:
            return _invalid(index, item, error)
        if refusal := _refusal(book, sent):
            return _outcome(index, sent.reference, "refused", 422, *refusal)
        content = _content(sent)
        row: tuple[str] | None = connection.execute(
            "SELECT content FROM received WHERE ledger = ? AND reference = ?",
            (book.ledger.id, sent.reference),
        ).fetchone()
        if row is not None and row[0] == content:
            return _outcome(index, sent.reference, "known", 200)
        if row is not None:
            text = "another entry of this reference was received before"
            return _outcome(index, sent.reference, "conflict", 409, "received_otherwise", text)
        if book.has(connection, sent.reference):
            text = "the bank booked an entry of this reference itself"
            return _outcome(index, sent.reference, "conflict", 409, "own_reference", text)
        booked = moment(sent.booked_at)
        connection.execute(
            "INSERT INTO received (ledger, reference, booked_us, minor, currency, content, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                book.ledger.id,
                sent.reference,
                _microseconds(booked),
                str(sent.minor),
                sent.currency,
                content,
                received_at,
            ),
        )
        return _outcome(index, sent.reference, "accepted", 201)

    return _judged(items, judge)


def _judged(items: list[object], judge: Callable[[int, object], Outcome]) -> Outcomes:
    results = [judge(index, item) for index, item in enumerate(items)]
    counts = Counter(one.result for one in results)
    return Outcomes(
        results=results,
        accepted=counts["accepted"],
        updated=counts["updated"],
        known=counts["known"],
        conflict=counts["conflict"],
        refused=counts["refused"],
    )


def _outcome(index: int, reference: str | None, result: str, status: int, *why: str) -> Outcome:
    assert result in _RESULTS
    code, detail = why or (None, None)
    return Outcome.model_validate(
        {
            "index": index,
            "reference": reference,
            "result": result,
            "status": status,
            "code": code,
            "detail": detail,
        }
    )


def _invalid(index: int, item: object, error: ValidationError) -> Outcome:
    found = item.get("reference") if isinstance(item, dict) else None
    # A reference that is no text that can be sent back is left out.
    reference = found if isinstance(found, str) and found.isprintable() else None
    return _outcome(index, reference, "refused", 422, "invalid", first_problem(error) or "is not an object")


def _refusal(book: Book, sent: EntrySent) -> tuple[str, str] | None:
    if book.ledger.options.unknown_accounts == "accept":
        return None
    others: list[str] = []
    for side, account_id in (("debit_account", sent.debit_account), ("credit_account", sent.credit_account)):
        account = book.ledger.account_ids.get(account_id)
        if account is None:
            return "unknown_account", f"{side} is no account of ledger {book.ledger.id}"
        if account.currency != sent.currency:
            others.append(f"{side} is kept in {account.currency}, not in {sent.currency}")
    # With a rate, one of the two accounts may be kept in another currency.
    return ("wrong_currency", others[0]) if len(others) > (sent.fx_rate is not None) else None


def _content(sent: EntrySent) -> str:
    """The entry in one way of writing it: 10 and 10.00, and one moment in two zones, are the same."""
    data = sent.model_dump(mode="json", exclude=None if sent.fx_rate is not None else {"fx_rate"})
    data["amount"] = amount_text(sent.minor, sent.currency)
    data["booked_at"] = _utc_text(moment(sent.booked_at))
    return json.dumps(data, sort_keys=True, ensure_ascii=False)


# --- reading back -----------------------------------------------------------------------------------------------


def acknowledgements_after(
    connection: sqlite3.Connection, ledger: str, sequence: int, limit: int
) -> list[AcknowledgementKept]:
    """Up to `limit` acknowledgements behind a sequence number."""
    rows = connection.execute(
        "SELECT sequence, reference, status, at, detail, received_at FROM acknowledgements"
        " WHERE ledger = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (ledger, sequence, limit),
    ).fetchall()
    names = ("sequence", "reference", "status", "at", "detail", "received_at")
    return [AcknowledgementKept.model_validate(dict(zip(names, row, strict=True))) for row in rows]


def received_after(
    connection: sqlite3.Connection, ledger: str, sequence: int, limit: int
) -> list[EntryReceived]:
    """Up to `limit` received entries behind a sequence number."""
    rows: list[tuple[int, str, str]] = connection.execute(
        "SELECT sequence, content, received_at FROM received"
        " WHERE ledger = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (ledger, sequence, limit),
    ).fetchall()
    return [
        EntryReceived.model_validate({**json.loads(content), "sequence": number, "received_at": received_at})
        for number, content, received_at in rows
    ]


@dataclass(slots=True)
class ReceivedDay:
    """What was received for one of the bank's days."""

    day: date
    totals: Totals


def received_totals(connection: sqlite3.Connection, book: Book, from_s: int, to_s: int) -> list[ReceivedDay]:
    """Totals of received entries that are booked in [from, to), by the bank's days."""
    days: dict[date, ReceivedDay] = {}
    for booked_us, minor, currency in _booked(connection, book, from_s, to_s):
        day = book.ledger.calendar.day_of(booked_us // _US)
        days.setdefault(day, ReceivedDay(day, Totals())).totals.add(currency, minor)
    return [days[day] for day in sorted(days)]


def _booked(
    connection: sqlite3.Connection, book: Book, from_s: int, to_s: int
) -> Iterator[tuple[int, int, str]]:
    rows = connection.execute(
        "SELECT booked_us, minor, currency FROM received"
        " WHERE ledger = ? AND booked_us >= ? AND booked_us < ? ORDER BY booked_us",
        (book.ledger.id, from_s * _US, to_s * _US),
    )
    for booked_us, minor, currency in rows:
        yield booked_us, int(minor), currency


def received_lines(
    connection: sqlite3.Connection, book: Book, day_from_s: int, day_to_s: int
) -> Iterator[tuple[str, str, str, str, str, str]]:
    """What a digest of received entries is made from, sorted by reference."""
    rows = connection.execute(
        "SELECT content FROM received WHERE ledger = ? AND booked_us >= ? AND booked_us < ?"
        " ORDER BY reference",  # SQLite's BINARY collation: by bytes of UTF-8
        (book.ledger.id, day_from_s * _US, day_to_s * _US),
    )
    for (content,) in rows:
        sent = EntrySent.model_validate_json(content)
        yield (
            sent.reference,
            sent.booked_at,
            sent.debit_account,
            sent.credit_account,
            sent.amount,
            sent.currency,
        )


def _microseconds(when: datetime) -> int:
    delta = when - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * _US + delta.microseconds


def _utc_text(when: datetime) -> str:
    """ISO 8601 in UTC, with decimals of a second only where there are any: one moment has one text, as digests need."""
    text = when.isoformat().removesuffix("+00:00")
    return f"{text.rstrip('0') if when.microsecond else text}Z"


def _now_text() -> str:
    return _utc_text(datetime.now(UTC))
