"""Malformed records: which ones of a chunk there are, and why.

Belongs here: collecting problems, and those that bytes alone show (boundaries, encoding, NUL).
Does not: what only the parser of a format can see (the readers).
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.files.chunks import Piece
from backfill_pipeline.sources.files.csv_records import UNTERMINATED, Records

NOT_AS_STATED: Final = RejectCode.RECORD_MALFORMED
"""The code of a record that does not have the fields that its format states; its reason says what it has."""


class Problems:
    """Which records of a chunk are malformed, and why. Only bad records cost anything."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._found: dict[int, tuple[RejectCode, str]] = {}

    def add(self, position: int, code: RejectCode, reason: str) -> None:
        """The first problem of a record counts."""
        self._found.setdefault(position, (code, reason))

    def none(self) -> npt.NDArray[np.bool_]:
        """True where a record has no problem."""
        good = np.ones(self._count, dtype=bool)
        good[list(self._found)] = False
        return good

    def columns(self) -> tuple[pa.Array, pa.Array]:
        """The error columns of EXTRACTED."""
        if not self._found:
            return pa.nulls(self._count, pa.string()), pa.nulls(self._count, pa.string())
        places = np.full(self._count, -1, dtype=np.int64)
        places[list(self._found)] = np.arange(len(self._found))
        taken = pa.array(places, mask=places < 0)
        codes = pa.array([code.value for code, _ in self._found.values()], pa.string())
        reasons = pa.array([reason for _, reason in self._found.values()], pa.string())
        return codes.take(taken), reasons.take(taken)


def spread(table: pa.Table, good: npt.NDArray[np.int64], count: int) -> pa.Table:
    """The fields of the good records at their places among `count` records; null elsewhere."""
    assert table.num_rows == len(good), "a record was lost between its boundaries and its fields"
    if len(good) == count:
        return table
    places = np.full(count, -1, dtype=np.int64)
    places[good] = np.arange(len(good))
    return table.take(pa.array(places, mask=places < 0))


def mark_boundaries(problems: Problems, records: Records) -> None:
    """Takes over what the scanner found wrong."""
    for position in np.flatnonzero(records.problem).tolist():
        if records.problem[position] == UNTERMINATED:
            reason = f"a quote is opened on line {records.line[position]} and not closed within 1 MiB"
            problems.add(position, RejectCode.QUOTE_UNTERMINATED, reason)
        else:
            length = int(records.end[position] - records.start[position])
            problems.add(
                position, RejectCode.RECORD_TOO_LONG, f"the line has {length} bytes, at most 1 MiB is read"
            )


def mark_bytes(problems: Problems, piece: Piece, encoding: str) -> None:
    """Finds records with NUL and with bytes that the encoding does not know."""
    data = bytes(piece.data)
    if b"\0" in data:
        nul = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == 0) + piece.offset
        for position in _records_at(piece.records, nul):
            problems.add(position, RejectCode.NUL_BYTE, "the record holds a NUL byte")
    if data.isascii():
        return
    begin = 0
    stops = piece.records.following - piece.offset
    while begin < len(data):
        # In windows of whole records: decoding fails at the first bad byte, and must not start anew for all the rest.
        last = min(int(np.searchsorted(stops, begin + 65536)), len(stops) - 1)
        stop = max(int(stops[last]), begin)
        if stop == begin:
            return  # what follows the last record: left-out lines
        try:
            data[begin:stop].decode(encoding)
            begin = stop
        except UnicodeDecodeError as error:
            bad = begin + error.start + piece.offset
            position = int(np.searchsorted(piece.records.start, bad, side="right")) - 1
            if position >= 0 and bad < piece.records.following[position]:
                problems.add(
                    position, RejectCode.ENCODING_INVALID, f"byte {bad} of the file is not {encoding}"
                )
                begin = int(stops[position])
            else:  # in a line that is left out: goes on at the next record
                begin = int(piece.records.start[position + 1]) - piece.offset


def _records_at(records: Records, places: npt.NDArray[np.int64]) -> list[int]:
    """The records in which these bytes lie; a byte in a line that is left out lies in none."""
    position = np.searchsorted(records.start, places, side="right") - 1
    inside = (position >= 0) & (places < records.following[position])
    return [int(one) for one in np.unique(position[inside])]
