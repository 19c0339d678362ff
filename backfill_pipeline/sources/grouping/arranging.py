"""Putting a capture in order: rows that belong together side by side, by their first ones, in bounded memory.

Belongs here: distributing rows over parts, and ordering each part.
Does not: which rows belong together (`runs.py`), when this is needed (`grouped_reader.py`).

Every run goes to the place of the first run of its id, which is a row number; a run that is the first stays at its own.
Rows are written to parts by that number, and each part is sorted by itself. The parts are cut so that each holds about
SORTED_ROWS rows, wherever they come from.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.capture.captures import BATCH_ROWS, RAW, Capture, CaptureSummary
from backfill_pipeline.sources.files.content import os_reason
from backfill_pipeline.sources.grouping.runs import RANGE_ROWS, RunIndex

SORTED_ROWS: Final = 1 << 18
"""Rows that are put in order at once."""

_BIN_ROWS: Final = 1 << 10
"""How finely parts are cut."""

_Places = npt.NDArray[np.int64]


def arranged(
    capture: Capture, summary: CaptureSummary, index: RunIndex, place: str, folder: Path
) -> Iterator[tuple[pa.Table, npt.NDArray[np.bool_]]]:
    """The rows of a capture in order.

    Args:
        capture: the rows as they were read.
        summary: of the capture.
        index: its runs, settled.
        place: what is read, for messages.
        folder: for the parts; removed in the end.

    Yields:
        EXTRACTED rows, and per row whether it belongs with the one before it.

    Raises:
        SourceFileError: there is no room for the parts, or the capture was removed.
    """
    cuts = _cuts(summary.row_count, index)
    try:
        files = _distributed(capture, summary, index, cuts, folder)
        for file in files:
            with pa.memory_map(str(file)) as opened:
                table = ipc.open_stream(opened).read_all()
            order = np.argsort(table["__place"].to_numpy(), kind="stable")
            table = table.take(pa.array(order))
            places = table["__place"].to_numpy()
            yield (
                table.drop_columns(["__place", RAW]).combine_chunks(),
                np.append(False, places[1:] == places[:-1]),
            )
            file.unlink()
    except OSError as error:
        raise SourceFileError(f"{place}: cannot be put in order in {folder}: {os_reason(error)}.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cuts(row_count: int, index: RunIndex) -> _Places:
    """Where parts begin, ascending, without the first."""
    bins = np.full(-(-row_count // _BIN_ROWS), _BIN_ROWS, dtype=np.int64)
    for moves in index.moves():
        np.subtract.at(bins, moves["row"] // _BIN_ROWS, moves["rows"])
        np.add.at(bins, moves["to"] // _BIN_ROWS, moves["rows"])
    filled = np.cumsum(bins) // SORTED_ROWS
    return (np.flatnonzero(filled[1:] != filled[:-1]) + 1) * _BIN_ROWS


def _distributed(
    capture: Capture, summary: CaptureSummary, index: RunIndex, cuts: _Places, folder: Path
) -> list[Path]:
    """Files with the rows of each part, in the order of the parts."""
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[int, ipc.RecordBatchStreamWriter] = {}
    files: dict[int, Path] = {}
    try:
        for table, places in _with_places(capture, summary, index):
            parts = np.searchsorted(cuts, places, side="right")
            order = np.argsort(parts, kind="stable")
            found, starts = np.unique(parts[order], return_index=True)
            whole = table.append_column("__place", pa.array(places)).take(pa.array(order))
            for part, first, stop in zip(found.tolist(), starts, [*starts[1:], len(order)], strict=True):
                if part not in writers:
                    files[part] = folder / f"{part:06d}.arrows"
                    writers[part] = ipc.new_stream(str(files[part]), whole.schema)
                writers[part].write_table(whole.slice(first, stop - first))
    finally:
        for writer in writers.values():
            writer.close()
    return [files[part] for part in sorted(files)]


def _with_places(
    capture: Capture, summary: CaptureSummary, index: RunIndex
) -> Iterator[tuple[pa.Table, _Places]]:
    """The rows of a capture, piece by piece, each row with the place that it goes to."""
    step = SORTED_ROWS // BATCH_ROWS * BATCH_ROWS
    moves, number, current = index.moves_of(0), 0, 0
    for first in range(0, summary.row_count, step):
        if first // RANGE_ROWS != number:
            number = first // RANGE_ROWS
            moves = index.moves_of(number)
        count = min(step, summary.row_count - first)
        table = capture.rows(first, count)
        if table is None:
            raise SourceFileError(f"{capture.path}: was removed or damaged while it was read: try again.")
        starts = ~summary.joined[first : first + count]
        heads = np.flatnonzero(starts) + first
        to = heads.copy()
        here = moves[(moves["row"] >= first) & (moves["row"] < first + count)]
        to[np.searchsorted(heads, here["row"])] = here["to"]
        places = np.append(current, to)[np.cumsum(starts)]
        current = int(places[-1])
        yield table, places
