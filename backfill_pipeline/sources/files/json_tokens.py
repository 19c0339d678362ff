"""JSON lines whose numbers are turned into strings, byte by byte the same, before a parser sees them.

Belongs here: telling strings, braces and bare values apart in the bytes of many lines at once.
Does not: parsing (`json_records.py`).

A parser that turns 1.10 into a number has lost the zero already. Here every bare value but null gets quotes around it,
so that Arrow's parser, which is told to expect strings only, hands out the text of the file. Lines in which this could
go wrong are named, not repaired: the slow parser decides about them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

DEPTH_MAX: Final = 64
"""Deepest nesting that is left to Arrow, whose parser recurses."""

_BARE, _SPACE, _OPEN, _CLOSE, _OTHER = range(5)
_KIND: Final = np.zeros(256, dtype=np.uint8)
for _characters, _kind in ((b" \t\r\n", _SPACE), (b"{[", _OPEN), (b"}]", _CLOSE), (b',:"', _OTHER)):
    _KIND[list(_characters)] = _kind
_QUOTE, _BACKSLASH, _COLON, _COMMA = 0x22, 0x5C, 0x3A, 0x2C
_VALUE: Final = r"^(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)$"

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class QuotedLines:
    """Lines that hold strings only.

    Attributes:
        data: the lines that may be given to Arrow, one object each; empty when some are doubtful.
        doubtful: per line, whether it must be looked at by itself. The others are to be tried again without them.
    """

    data: bytes
    doubtful: Mask


def quote_values(data: bytes, starts: Positions) -> QuotedLines:
    """Puts quotes around the bare values of JSON lines.

    Args:
        data: UTF-8 without NUL; whole lines.
        starts: where each line begins, ascending from 0.
    """
    scan = _Lines(data, starts)
    for find in (scan.open_strings, scan.unlike_objects, scan.odd_values):
        doubtful = find()
        if doubtful.any():
            return QuotedLines(b"", doubtful)
    return QuotedLines(scan.quoted(), np.zeros(len(starts), dtype=bool))


def element_starts(data: bytes) -> Positions:
    """Where each element of a list begins, ascending from 0; each but the last ends with its comma.

    Args:
        data: what is between the brackets of a list of valid JSON, in UTF-8; not only space.
    """
    starts: Positions = np.r_[0, _Lines(data, np.zeros(1, dtype=np.int64)).outer_commas() + 1]
    return starts


class _Lines:
    """The bytes of some lines, and what each byte is."""

    def __init__(self, data: bytes, starts: Positions) -> None:
        self._data = data
        self._bytes = np.frombuffer(data, dtype=np.uint8)
        self._starts = starts
        self._quotes = self._real_quotes()

    def _line_of(self, positions: Positions) -> Positions:
        return np.searchsorted(self._starts, positions, side="right") - 1

    def _lines_with(self, positions: Positions) -> Mask:
        return np.bincount(self._line_of(positions), minlength=len(self._starts)) > 0

    def _real_quotes(self) -> Positions:
        """Quotes that no backslash escapes."""
        quotes = np.flatnonzero(self._bytes == _QUOTE)
        if b"\\" not in self._data:
            return quotes
        slashes = np.flatnonzero(self._bytes == _BACKSLASH)
        first = np.r_[True, np.diff(slashes) != 1]
        run_begin = slashes[first]
        run_end = np.r_[slashes[np.flatnonzero(first)[1:] - 1], slashes[-1]] + 1
        odd_ends = run_end[(run_end - run_begin) % 2 == 1]
        return quotes[~np.isin(quotes, odd_ends, assume_unique=True)]

    def open_strings(self) -> Mask:
        """Lines with a string that does not end, and with what no text in the ledger can hold."""
        counts = np.bincount(self._line_of(self._quotes), minlength=len(self._starts))
        doubtful: Mask = counts % 2 == 1
        position = self._data.find(b"\\u0000")
        found = []
        while position >= 0:
            found.append(position)
            position = self._data.find(b"\\u0000", position + 6)
        if found:
            doubtful |= self._lines_with(np.array(found, dtype=np.int64))
        return doubtful

    def _in_strings(self) -> npt.NDArray[np.uint8]:
        """1 for bytes of strings, with their quotes. All strings end."""
        marks = np.zeros(len(self._bytes), dtype=np.uint8)
        marks[self._quotes] = 1
        inside: npt.NDArray[np.uint8] = np.bitwise_xor.accumulate(marks) | marks
        return inside

    def outer_commas(self) -> Positions:
        """Commas that are in no string, object or list. All of them end."""
        outside = self._in_strings() == 0
        commas = np.flatnonzero((self._bytes == _COMMA) & outside)
        kind = _KIND[self._bytes]
        braces = np.flatnonzero(((kind == _OPEN) | (kind == _CLOSE)) & outside)
        depth = np.r_[0, np.cumsum(np.where(kind[braces] == _OPEN, 1, -1))]
        outer: Positions = commas[depth[np.searchsorted(braces, commas)] == 0]
        return outer

    def unlike_objects(self) -> Mask:
        """Lines that are not one pair of braces with what is between them. All strings end."""
        self._kind = _KIND[self._bytes]
        self._kind[self._in_strings() == 1] = _OTHER
        braces = np.flatnonzero((self._kind == _OPEN) | (self._kind == _CLOSE))
        step = np.where(self._kind[braces] == _OPEN, 1, -1)
        line = self._line_of(braces)
        count = len(self._starts)
        opened = np.bincount(line[step > 0], minlength=count)
        closed = np.bincount(line[step < 0], minlength=count)
        if (opened != closed).any():
            unequal: Mask = opened != closed
            return unequal
        depth = np.cumsum(step)
        doubtful: Mask = np.bincount(line[(depth == 0) & (step < 0)], minlength=count) != 1
        doubtful[line[(depth < 0) | (depth > DEPTH_MAX)]] = True
        return doubtful

    def odd_values(self) -> Mask:
        """Lines with a bare value that JSON does not know, or that stands for a name."""
        bare = np.r_[False, self._kind == _BARE, False]
        edges = np.flatnonzero(bare[1:] != bare[:-1])
        self._begins, self._ends = edges[::2], edges[1::2]
        none = np.zeros(len(self._starts), dtype=bool)
        if not len(edges):
            return none
        values = _slices(self._data, edges)
        known = pc.match_substring_regex(values, _VALUE).to_numpy(zero_copy_only=False)
        solid = np.flatnonzero(self._kind != _SPACE)
        after = np.searchsorted(solid, self._ends)
        odd = ~known | (after >= len(solid))
        after = np.minimum(after, len(solid) - 1)
        odd |= self._bytes[solid[after]] == _COLON
        if odd.any():
            return self._lines_with(self._begins[odd])
        self._is_null = pc.equal(values, "null").to_numpy(zero_copy_only=False)
        return none

    def quoted(self) -> bytes:
        """The lines with quotes around their bare values."""
        if not len(self._begins):
            return self._data
        kept = ~self._is_null
        places = np.stack([self._begins[kept], self._ends[kept]], axis=1).ravel()
        return np.insert(self._bytes, places, _QUOTE).tobytes()


def _slices(data: bytes, edges: Positions) -> pa.Array:
    """The texts from each even edge to the odd one after it."""
    offsets = pa.array(edges, pa.int32())
    between = pa.Array.from_buffers(
        pa.string(), len(edges) - 1, [None, offsets.buffers()[1], pa.py_buffer(data)]
    )
    return between.take(pa.array(np.arange(0, len(edges) - 1, 2)))
