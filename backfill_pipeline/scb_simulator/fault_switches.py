"""The faults that are switched on, and how often each has struck.

Belongs here: replacing them, counting, and telling for a request which strike; all of it kept in the state.
Does not: what faults are (`faults.py`), doing what they say (`web/`).
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from backfill_pipeline.scb_simulator.faults import AnyFault, Down, Route, dumped, make_fault
from backfill_pipeline.scb_simulator.store import Store


@dataclass(slots=True)
class Switch:
    """One fault and its history: requests seen, how many of them it struck, and until when it goes on (`Down`)."""

    fault: AnyFault
    seen: int = 0
    fired: int = 0
    until_s: float = 0.0


class FaultSwitches:
    """All faults, in the order in which they were given. A restarted simulator goes on counting."""

    def __init__(self, store: Store, now_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now_s = now_s
        self._lock = threading.Lock()
        self._switches: list[Switch] = []
        self.reload()

    def reload(self) -> None:
        """Reads them from the state."""
        with self._lock, self._store.read() as connection:
            rows: list[tuple[str, int, int, float]] = connection.execute(
                "SELECT fault, seen, fired, until_s FROM faults ORDER BY position"
            ).fetchall()
            self._switches = [
                Switch(make_fault(json.loads(fault), "state"), seen, fired, until_s)
                for fault, seen, fired, until_s in rows
            ]

    def replace(self, faults: Sequence[AnyFault]) -> None:
        """These faults and no others, none of which has struck yet."""
        with self._lock:
            with self._store.write() as connection:
                connection.execute("DELETE FROM faults")
                connection.executemany(
                    "INSERT INTO faults (position, fault) VALUES (?, ?)",
                    [(position, json.dumps(dumped(fault))) for position, fault in enumerate(faults)],
                )
            self._switches = [Switch(fault) for fault in faults]

    def current(self) -> list[Switch]:
        """A copy of them all."""
        with self._lock:
            return [Switch(one.fault, one.seen, one.fired, one.until_s) for one in self._switches]

    def strike(self, route: Route, kinds: Collection[str]) -> list[AnyFault]:
        """Counts a request, and says which faults strike it.

        Args:
            route: of the request.
            kinds: those that can strike at this moment of the request; others do not see it.

        Returns:
            Faults in their order. One that is `alone` is the last: those behind it do not see the request.
        """
        if not self._switches:
            return []
        struck: list[AnyFault] = []
        counted: list[tuple[int, int, float, int]] = []
        with self._lock:
            now_s = self._now_s()
            for switch in self._switches:
                if now_s < switch.until_s and switch.fault.kind in kinds and route in switch.fault.targets:
                    return [switch.fault]  # still down: nothing else is counted
            for position, switch in enumerate(self._switches):
                fault = switch.fault
                if fault.kind not in kinds or route not in fault.targets:
                    continue
                strikes = fault.strikes(fault.kind, switch.seen, switch.fired)
                switch.seen += 1
                if strikes:
                    switch.fired += 1
                    switch.until_s = now_s + fault.for_s if isinstance(fault, Down) else 0.0
                    struck.append(fault)
                counted.append((switch.seen, switch.fired, switch.until_s, position))
                if strikes and fault.alone:
                    break
            if counted:
                with self._store.write() as connection:
                    connection.executemany(
                        "UPDATE faults SET seen = ?, fired = ?, until_s = ? WHERE position = ?", counted
                    )
        return struck
