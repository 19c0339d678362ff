"""Gaps: rows of a partition that no recorded batch covers.

A run that was stopped leaves one gap, behind its last batch. A batch that was rolled back leaves one where it was.

Belongs here: which rows are left to post, and where a batch must end so that it covers none that is posted.
Does not: reading what is recorded (`ledger/batches.py`), posting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backfill_pipeline.ledger.parts import Parts
from backfill_pipeline.schemas.row_errors import combined

RowRange = tuple[int, int]
"""First and last source row of a batch, both included."""


def uncovered(entries: pa.Table, posted: Sequence[RowRange]) -> pa.Table:
    """The entries that no range covers, in the same order.

    Args:
        entries: have `source_row`, rising.
        posted: of recorded batches, rising; none overlaps another.
    """
    if not posted:
        return entries
    rows = combined(entries.column("source_row")).to_numpy()
    firsts, lasts = _bounds(posted)
    before = np.searchsorted(firsts, rows, side="right")  # ranges that begin at the row or before it
    covered = (before > 0) & (rows <= lasts[before - 1])
    return entries.filter(pa.array(~covered))


def batches(
    entries: pa.Table, posted: Sequence[RowRange], batch_size: int, together: Parts | None
) -> Iterator[tuple[int, int]]:
    """Where batches of uncovered entries begin and stop.

    What belongs together is in one. No batch spans a range that is posted: its own range would cover that once more.

    Args:
        entries: what `uncovered` left.
        posted: what was given to it.
        batch_size: entries of a batch, at most, unless more belong together.
        together: what the entries are parts of; None: each is by itself.
    """
    count = entries.num_rows
    # Where an entry must not follow the one before it, and where it may begin a batch.
    stops = np.array([count])
    if posted and count:
        before = np.searchsorted(_bounds(posted)[0], combined(entries.column("source_row")).to_numpy())
        stops = np.append(np.flatnonzero(before[1:] != before[:-1]) + 1, count)
    begins = None
    if together is not None:
        numbers = together.numbers.to_numpy()
        begins = np.append(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1, count)
    start = 0
    for end in stops.tolist():
        while start < end:
            stop = min(start + batch_size, end)
            if begins is not None:
                stop = min(int(begins[np.searchsorted(begins, stop)]), end)
            yield start, stop
            start = stop


def _bounds(posted: Sequence[RowRange]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    bounds = np.array(posted, dtype=np.int64).reshape(-1, 2)
    return bounds[:, 0], bounds[:, 1]
