"""Live postings beside a load: a process of its own that posts at a steady pace and keeps how long each one took.

Belongs here: the pace, the calls, and their latencies.
Does not: what goes on beside it, and what the latencies tell (`latency.py`).

It runs in a process of its own: in the one that loads, its calls would wait for Python's lock, and that wait would
count as the database's. It talks to its parent in lines: "phase NAME" begins a phase, "stop" ends the last one, and
then it prints one JSON object, the latencies in seconds by phase.

Calls are due at fixed moments, and a latency counts from the moment when its call was due. So a call that could not
even be sent, because the one before still waited, counts with its whole delay, as it does for a customer.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from decimal import Decimal

from backfill_pipeline.ledger.connection import Connection, connect

CLIENTS = 2
CALLS_PER_SECOND = 75.0
"""Of each client."""

_CURRENCY = "USD"
_POST = "SELECT post_ledger_entry(%s, %s, %s, %s, %s, %s, %s, %s)"


@dataclass(slots=True)
class _Clients:
    """What the threads share. `phase` is None before the first phase and after the last."""

    url: str
    accounts: list[str]
    phase: str | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    latencies_s: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def post(self, number: int) -> None:
        """One client: a call whenever one is due, until it is told to stop."""
        try:
            with connect(self.url, application_name=f"live {number}") as connection:
                self._post_at_pace(connection, random.Random(number))  # noqa: S311 - a spread of accounts, no secret
        except Exception as error:  # the parent must hear of it, whatever it was
            self.failures.append(f"{type(error).__name__}: {error}")

    def _post_at_pace(self, connection: Connection, chance: random.Random) -> None:
        interval_s = 1 / CALLS_PER_SECOND
        due = time.perf_counter() + chance.random() * interval_s
        while not self.stopped.wait(max(0.0, due - time.perf_counter())):
            phase = self.phase
            debit, credit = chance.sample(self.accounts, 2)
            connection.execute(
                _POST,
                ["LIVE", debit, credit, Decimal("0.01"), _CURRENCY, "fiat", "LIVE", f"LIVE-{uuid.uuid4()}"],
            )
            # What began in one phase and ended in another belongs to neither.
            if phase is not None and phase == self.phase:
                self.latencies_s.setdefault(phase, []).append(time.perf_counter() - due)
            due += interval_s


def main(url: str) -> None:
    """Posts until standard input says stop, then prints the latencies."""
    with connect(url) as connection:
        accounts = [
            row[0]
            for row in connection.execute(
                "SELECT id FROM bank_accounts WHERE currency_code = %s ORDER BY id", [_CURRENCY]
            )
        ]
    clients = _Clients(url, accounts)
    threads = [threading.Thread(target=clients.post, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        word, _, name = line.strip().partition(" ")
        clients.phase = name if word == "phase" and name else None
        if word == "stop":
            break
    clients.stopped.set()
    for thread in threads:
        thread.join()
    json.dump({"latencies_s": clients.latencies_s, "failures": clients.failures}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
