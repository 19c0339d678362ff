"""Telling the banks: what is in the outbox goes to them, until they have it.

Belongs here: several banks at once, and what came of it.
Does not: a single bank (`bank_dispatcher.py`), when to dispatch (`orchestration/`, `cli/`).

Any number of dispatchers may run at once, here and elsewhere, and each may be killed at any moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.dual_ledger.bank_dispatcher import BankDispatcher, BankReport, Log, Pauses
from backfill_pipeline.ledger.banks.outbox import KINDS
from backfill_pipeline.ledger.banks.outbox_deliveries import Kind

_BANKS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class DispatchReport:
    """What one dispatcher did."""

    banks: tuple[BankReport, ...]

    @property
    def acknowledged(self) -> int:
        """Rows that the banks have now."""
        return sum(sum(one.acknowledged.values()) for one in self.banks)

    @property
    def failed(self) -> int:
        """Refusals of rows that will be tried again."""
        return sum(sum(one.failed.values()) for one in self.banks)

    @property
    def dead(self) -> int:
        """Rows that were given up."""
        return sum(sum(one.dead.values()) for one in self.banks)

    @property
    def left(self) -> int:
        """Rows that the banks have yet to hear of."""
        return sum(one.left.rows for one in self.banks)

    @property
    def errors(self) -> dict[str, str]:
        """Bank → why it was not told everything."""
        return {one.bank_id: one.error for one in self.banks if one.error is not None}


def dispatch(
    ledger_url: str,
    definitions: Sequence[SourceDefinition],
    *,
    kinds: Collection[Kind] | None = None,
    log: Log,
    stop: threading.Event | None = None,
    wait_s: float = 0.0,
    pauses: Pauses | None = None,
) -> DispatchReport:
    """Sends what is due to the banks, several banks at once.

    A bank that does not answer, refuses, or cannot be asked for want of a secret is told of in the report.

    Args:
        ledger_url: of the ledger.
        definitions: of type scb, one for each bank.
        kinds: what to send; by default everything that the definitions allow.
        log: gets one line for everything that goes wrong, and one for each bank.
        stop: when set, nothing further is sent.
        wait_s: goes on for so long, until nothing is left that could become due in that time.
        pauses: between tries.

    Raises:
        TransientLedgerError: the ledger cannot be reached. What was sent is sent again with the same key.
        LedgerError: it refuses.
    """
    halted = threading.Event()
    stops = [halted] if stop is None else [stop, halted]
    deadline_s = time.monotonic() + wait_s
    dispatchers = [
        BankDispatcher(ledger_url, one, KINDS if kinds is None else kinds, log, stops, pauses or Pauses())
        for one in definitions
    ]
    if not dispatchers:
        return DispatchReport(())
    with ThreadPoolExecutor(min(_BANKS_AT_ONCE, len(dispatchers)), "dispatch") as pool:
        try:
            return DispatchReport(tuple(pool.map(lambda one: one.run(deadline_s), dispatchers)))
        except BaseException:
            halted.set()
            raise
