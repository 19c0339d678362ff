"""Cursors: where a listing goes on, as text that only the simulator understands.

Belongs here: writing and reading them.
Does not: what pages hold (`reading.py`).

A cursor holds everything: it never ends, survives restarts, and means the same however often it is used. A seal tells
those that were cut or made up from real ones; it is no secret.
"""

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final

from backfill_pipeline.scb_simulator.ledger import Place
from backfill_pipeline.scb_simulator.web.calls import ProblemError

_KEY: Final = b"scb-simulator cursor 1"
_SEAL_BYTES: Final = 9


@dataclass(frozen=True, slots=True)
class EntryCursor:
    """Where a listing of entries goes on.

    Attributes:
        after: the last entry that was served; None for the first page.
        before: the one that the page before came after.
    """

    ledger: str
    from_s: int
    to_s: int
    after: Place | None = None
    before: Place | None = None

    def text(self) -> str:
        """As it is sent."""
        return _sealed(["entries", self.ledger, self.from_s, self.to_s, self.after, self.before])


def entry_cursor(text: str, ledger: str) -> EntryCursor:
    """The cursor of a listing of entries.

    Raises:
        ProblemError: it is none, or one of another ledger.
    """
    match _opened(text):
        case ["entries", str(found), int(from_s), int(to_s), after, before] if found == ledger:
            return EntryCursor(ledger, from_s, to_s, _place(after), _place(before))
    raise _unknown()


def sequence_text(listing: str, ledger: str, sequence: int) -> str:
    """A cursor of a listing that goes by sequence numbers."""
    return _sealed([listing, ledger, sequence])


def sequence_of(text: str, listing: str, ledger: str) -> int:
    """The sequence number that a listing goes on behind.

    Raises:
        ProblemError: the cursor is none, or one of another listing.
    """
    match _opened(text):
        case [str(found), str(found_ledger), int(sequence)] if (found, found_ledger) == (listing, ledger):
            return sequence
    raise _unknown()


def _place(value: object) -> Place | None:
    match value:
        case [int(booked_s), int(late), int(number)]:
            return Place(booked_s, late, number)
    return None


def _sealed(parts: list[object]) -> str:
    data = json.dumps(parts, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_seal(data) + data).decode().rstrip("=")


def _opened(text: str) -> object:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _unknown() from None
    seal, data = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
    if not hmac.compare_digest(seal, _seal(data)):
        raise _unknown()
    found: object = json.loads(data)
    return found


def _seal(data: bytes) -> bytes:
    return hmac.digest(_KEY, data, hashlib.sha256)[:_SEAL_BYTES]


def _unknown() -> ProblemError:
    return ProblemError(400, "bad_cursor", "cursor must be the next_cursor of a page of this same listing")
