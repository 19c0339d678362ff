"""Runs of rows with one id, over a whole source: which of them belong to an id that was seen before.

Belongs here: finding runs that are scattered, in bounded memory.
Does not: moving them (`grouped_reader.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from backfill_pipeline.sources.grouping.transaction_ids import belongs_with_the_one_before
from backfill_pipeline.sources.spills import Spill, split

RANGE_ROWS: Final = 1 << 22
"""Rows whose moves are in memory at once."""

_BUCKET_BITS: Final = 6
_HELD_RUNS: Final = 1 << 20
_HASH_KEY: Final = "backfill-grouped"

_RUN: Final = np.dtype([("hash", np.uint64), ("row", np.int64), ("rows", np.int64)])
MOVE: Final = np.dtype([("row", np.int64), ("rows", np.int64), ("to", np.int64)])
"""A run that belongs to an id seen before: its first row, its rows, and the first row of that id. Rows from 0."""


class RunIndex:
    """Takes all rows of a source in their order; then says which runs are to be moved. Keeps hashes on disk."""

    def __init__(self, folder: Path, *, held_runs: int = _HELD_RUNS) -> None:
        """
        Args:
            folder: for its files.
            held_runs: runs that are in memory before they are written out.
        """
        self._runs = Spill(folder / "runs", _RUN)
        self._moves = Spill(folder / "moves", MOVE)
        self._held_max = held_runs
        self._held: list[np.ndarray] = []
        self._held_runs = 0
        self._rows = 0
        self._open: np.ndarray = np.empty(0, dtype=_RUN)
        self._last: str | None = None
        self.longest = (0, 0)
        """Rows of the id with the most rows, and its first row, from 0. Known after `settle`."""

    def add(self, ids: pa.Array) -> npt.NDArray[np.bool_]:
        """Takes the next rows.

        Args:
            ids: string; null or "" for a row that belongs with no other.

        Returns:
            Per row, whether it belongs with the one before it.
        """
        count = len(ids)
        if not count:
            return np.zeros(0, dtype=bool)
        together = belongs_with_the_one_before(ids, self._last)
        starts = np.flatnonzero(~together)
        runs = np.empty(len(starts), dtype=_RUN)
        at_start = ids.take(pa.array(starts))
        texts = pc.fill_null(at_start, "").cast(pa.binary()).to_numpy(zero_copy_only=False)
        runs["hash"] = hash_array(texts, hash_key=_HASH_KEY, categorize=False)
        runs["row"] = starts + self._rows
        runs["rows"] = np.diff(np.append(starts, count))
        if len(self._open):
            self._open["rows"] += int(starts[0]) if len(starts) else count
        if len(starts):
            # A row that belongs with no other is no run: it stays where it is.
            alone = pc.fill_null(pc.equal(at_start, ""), True).to_numpy(zero_copy_only=False)
            self._hold(self._open)
            self._open = runs[-1:][~alone[-1:]].copy()
            self._hold(runs[:-1][~alone[:-1]])
        self._rows += count
        self._last = ids[count - 1].as_py()
        return together

    def settle(self) -> bool:
        """Finds the runs to move, when all rows were taken; whether there are any."""
        self._hold(self._open)
        self._open = np.empty(0, dtype=_RUN)
        if self._runs.is_empty():
            self._settle(self._take_held())
        else:
            self._write_out()
            for bucket in self._runs.buckets():
                self._settle(self._runs.read(bucket))
        self._runs.remove()
        return not self._moves.is_empty()

    def moves(self) -> Iterator[np.ndarray]:
        """All moves, by their first rows, in parts of RANGE_ROWS rows; each part is ordered."""
        for number in self._moves.buckets():
            yield self.moves_of(number)

    def moves_of(self, number: int) -> np.ndarray:
        """The moves of runs that begin in rows [number * RANGE_ROWS, …)."""
        if number not in self._moves.buckets():
            return np.empty(0, dtype=MOVE)
        return np.sort(self._moves.read(number), order="row")

    def _hold(self, runs: np.ndarray) -> None:
        if len(runs):
            self._held.append(runs)
            self._held_runs += len(runs)
            if self._held_runs >= self._held_max:
                self._write_out()

    def _take_held(self) -> np.ndarray:
        held = np.concatenate([np.empty(0, dtype=_RUN), *self._held])
        self._held, self._held_runs = [], 0
        return held

    def _write_out(self) -> None:
        held = self._take_held()
        self._runs.append(*split(held, (held["hash"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)))

    def _settle(self, runs: np.ndarray) -> None:
        """Finds moves among runs that include all of each id they hold."""
        if not len(runs):
            return
        runs = runs[np.lexsort((runs["row"], runs["hash"]))]
        fresh = np.append(True, runs["hash"][1:] != runs["hash"][:-1])
        starts = np.flatnonzero(fresh)
        sizes = np.add.reduceat(runs["rows"], starts)
        largest = int(sizes.argmax())
        self.longest = max(self.longest, (int(sizes[largest]), int(runs["row"][starts[largest]])))
        moves = np.empty(int((~fresh).sum()), dtype=MOVE)
        moves["row"], moves["rows"] = runs["row"][~fresh], runs["rows"][~fresh]
        moves["to"] = runs["row"][np.maximum.accumulate(np.where(fresh, np.arange(len(runs)), 0))][~fresh]
        if len(moves):
            self._moves.append(*split(moves, moves["row"] // RANGE_ROWS))
