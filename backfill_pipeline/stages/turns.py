"""Turns: which partitions may be posted at the same time, so that timing decides nothing.

Belongs here: telling partitions apart that share references, and making the later one wait for the earlier one.
Does not: posting; who holds which connection.

Of two rows with the same reference the first one in the source is posted and the second is its duplicate or a conflict.
Partitions that share no reference cannot meet in this way, whatever the order in which they are posted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(slots=True)
class _Turn:
    references: pa.ChunkedArray
    after: tuple[threading.Event, ...]
    over: threading.Event = field(default_factory=threading.Event)


class Turns:
    """The partitions that are prepared and not posted yet. Entered by one thread, in source order."""

    def __init__(self) -> None:
        self._open: dict[str, _Turn] = {}
        self._lock = threading.Lock()

    def enter(self, key: str, references: pa.ChunkedArray) -> None:
        """Lines a partition up behind those before it that share one of its references.

        Args:
            key: the partition.
            references: string; what its entries are called. Two ledgers may use the same ones: that is taken for
                sharing too, which costs time and harms nobody.
        """
        with self._lock:
            earlier = tuple(self._open.values())
        after = tuple(turn.over for turn in earlier if _share(references, turn.references))
        with self._lock:
            self._open[key] = _Turn(references, after)

    def wait(self, key: str) -> None:
        """Returns once every earlier partition with a reference in common has left; at once if it never entered."""
        with self._lock:
            turn = self._open.get(key)
        for earlier_is_over in turn.after if turn is not None else ():
            earlier_is_over.wait()

    def leave(self, key: str) -> None:
        """The partition is posted, or has failed."""
        with self._lock:
            turn = self._open.pop(key, None)
        if turn is not None:
            turn.over.set()


def _share(references: pa.ChunkedArray, others: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_in(references, value_set=others), min_count=0).as_py())
