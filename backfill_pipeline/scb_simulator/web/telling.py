"""Operations that tell the bank something: acknowledgements of its entries, and entries of ours.

Belongs here: idempotency keys, batches, status codes.
Does not: judging items (`told.py`).
"""

import hashlib
import re
import sqlite3
from collections.abc import Callable
from typing import Final

from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.contract import (
    BATCH_MAX,
    AcknowledgementBatch,
    EntryBatch,
    Outcomes,
)
from backfill_pipeline.scb_simulator.told import KeyReusedError, acknowledge, answer_once, receive
from backfill_pipeline.scb_simulator.web.calls import Call, Operation, ProblemError, Reply, json_bytes

_KEY: Final = re.compile(r"[!-~]{1,200}")

_Judge = Callable[[sqlite3.Connection, Book, list[object]], Outcomes]


def send_acknowledgements(call: Call) -> Reply:
    """A batch of acknowledgements."""
    return _once(call, "acknowledgements", acknowledge)


def send_entries(call: Call) -> Reply:
    """A batch of entries."""
    return _once(call, "entries", receive)


def _once(call: Call, listed_under: str, judge: _Judge) -> Reply:
    book = call.book()
    key = call.headers.get("idempotency-key", "")
    if not _KEY.fullmatch(key):
        raise ProblemError(
            400,
            "no_idempotency_key",
            "send Idempotency-Key: 1 to 200 printable ASCII characters without spaces",
        )
    items = _items(call, listed_under)

    def act(connection: sqlite3.Connection) -> tuple[int, bytes]:
        outcomes = judge(connection, book, items)
        status = 207 if outcomes.conflict or outcomes.refused else 200
        return status, json_bytes(outcomes.model_dump(mode="json"))

    request = hashlib.sha256(call.path.encode() + b"\0" + call.body).hexdigest()
    try:
        answer = answer_once(call.bank.store, key, request, act)
    except KeyReusedError:
        raise ProblemError(
            422, "idempotency_key_reused", "this Idempotency-Key was used for another request: take a new one"
        ) from None
    return Reply(
        answer.body, answer.status, headers={"Idempotency-Replayed": "true"} if answer.replayed else {}
    )


def _items(call: Call, listed_under: str) -> list[object]:
    body = call.json()
    items = body.get(listed_under) if isinstance(body, dict) else None
    if not isinstance(items, list) or (isinstance(body, dict) and len(body) != 1):
        raise ProblemError(422, "invalid", f'the body must be {{"{listed_under}": [...]}} and nothing else')
    if not 1 <= len(items) <= BATCH_MAX:
        raise ProblemError(
            422, "invalid", f"{listed_under} must hold 1 to {BATCH_MAX} items, not {len(items)}"
        )
    return items


_JUDGED: Final = {200: Outcomes, 207: Outcomes}

OPERATIONS: Final = (
    Operation(
        "acknowledge",
        "POST",
        "/ledgers/{ledger}/acknowledgements",
        "Tell the bank what became of its entries; 207 when not all items were accepted",
        send_acknowledgements,
        _JUDGED,
        takes=AcknowledgementBatch,
        keyed=True,
    ),
    Operation(
        "push",
        "POST",
        "/ledgers/{ledger}/entries",
        "Send entries to the bank; 207 when not all items were accepted",
        send_entries,
        _JUDGED,
        takes=EntryBatch,
        keyed=True,
    ),
)
