"""A connection to the ledger that outlives its losses, for work of many short steps.

Belongs here: opening it when it is needed, renewing it, keeping threads apart.
Does not: what is asked of the ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from backfill_pipeline.errors import TransientLedgerError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.stages.config import BackfillConfig
from backfill_pipeline.stages.retry import retrying
from backfill_pipeline.stages.work import Log, Places

T = TypeVar("T")


@dataclass(slots=True)
class LedgerSession:
    """A connection that is opened when it is needed and renewed when it is lost. For several threads, one at a time."""

    source_id: str
    places: Places
    config: BackfillConfig
    log: Log
    _connection: Connection | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, action: Callable[[Connection], T]) -> T:
        """Does something with the connection, as often as it takes.

        Raises:
            TransientLedgerError: the ledger is away for longer than the retries wait.
        """

        def attempt() -> T:
            if self._connection is None:
                self._connection = self.places.connect(self.source_id)
            try:
                return action(self._connection)
            except TransientLedgerError:
                self._close()
                raise

        with self._lock:
            return retrying(self.config, attempt, self.log)

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
