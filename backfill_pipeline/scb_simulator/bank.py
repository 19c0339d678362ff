"""A running bank: its books, its state, its faults and its log, together.

Belongs here: making one from its options and a state file.
Does not: serving it (`web/`, `server.py`).
"""

import itertools
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.contract import LogLine
from backfill_pipeline.scb_simulator.fault_switches import FaultSwitches
from backfill_pipeline.scb_simulator.ledger import BankLedger
from backfill_pipeline.scb_simulator.options import Options
from backfill_pipeline.scb_simulator.store import Store
from backfill_pipeline.scb_simulator.tokens import Credentials, Tokens

_LOG_LINES: Final = 10_000


class RequestLog:
    """The latest requests, in memory: for tests and people, not for the record."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._lines: deque[LogLine] = deque(maxlen=_LOG_LINES)

    def add(self, line: dict[str, object]) -> None:
        """Appends a line, all but its number."""
        with self._lock:
            self._lines.append(LogLine.model_validate({**line, "number": next(self._numbers)}))

    def lines(self) -> list[LogLine]:
        """All that are kept, oldest first."""
        with self._lock:
            return list(self._lines)

    def clear(self) -> None:
        """Forgets them all; numbers go on."""
        with self._lock:
            self._lines.clear()


@dataclass(frozen=True, slots=True)
class Bank:
    """Everything that a request can touch."""

    options: Options
    store: Store
    books: dict[str, Book]
    switches: FaultSwitches
    tokens: Tokens
    log: RequestLog

    @classmethod
    def open(
        cls, options: Options, store: Store, credentials: Credentials, token_lifetime_s: float
    ) -> "Bank":
        """A bank on its state."""
        books = {one.id: Book(BankLedger(options, one), store) for one in options.ledgers}
        tokens = Tokens(store, credentials, token_lifetime_s)
        return cls(options, store, books, FaultSwitches(store), tokens, RequestLog())

    def reset(self) -> None:
        """As it was when its state was new, without faults; tokens that were issued end."""
        self.store.forget()
        self.switches.reload()
        self.log.clear()
