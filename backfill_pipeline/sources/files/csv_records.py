r"""Where the records of a delimited file begin and end, in bytes.

Belongs here: record boundaries, physical lines, quotes that never close, lines that never end.
Does not: fields, decoding, or what a record means (`csv_reader.py`).

The rules are those of Arrow's CSV parser, which reads the fields afterwards, so that both see the same records:
a quote opens a quoted field only as its first character, and is literal text anywhere else; inside quotes a doubled
quote is a quote; after the closing quote the rest of the field is literal. `\n`, `\r\n` and `\r` outside quotes end
a record; a line without any character is no record. With an escape character, the character behind it is literal
text, inside quotes and outside, whatever it is.

Beyond Arrow, a record may not be longer than RECORD_BYTES_MAX. When one is (as a rule, because a quote was never
closed), its first line becomes one malformed record and reading resumes at the next line: one bad line costs one line.
"""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

RECORD_BYTES_MAX: Final = 1 << 20
"""Longest well-formed record, without its terminator. Bounds how far an open quote is followed."""

LINE_BYTES_MAX: Final = 64 << 20
"""Longest line of any kind; a file beyond it has no lines in any useful sense."""

_LF, _CR = 0x0A, 0x0D

WELL_FORMED: Final = 0
UNTERMINATED: Final = 1
TOO_LONG: Final = 2


class LineTooLongError(Exception):
    """A line is longer than LINE_BYTES_MAX; the reader words it with the file's name.

    Attributes:
        line: 1-based physical line.
    """

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records, as parallel arrays of equal length.

    Attributes:
        start: int64, byte offset of the first byte.
        end: int64, byte offset after the last byte, without the line terminator.
        following: int64, byte offset after the line terminator.
        line: int64, 1-based physical line on which it starts.
        problem: int8, WELL_FORMED, UNTERMINATED or TOO_LONG.
    """

    start: Positions
    end: Positions
    following: Positions
    line: Positions
    problem: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.start)

    def part(self, first: int, stop: int) -> "Records":
        """The records at positions [first, stop)."""
        cut = slice(first, stop)
        return Records(self.start[cut], self.end[cut], self.following[cut], self.line[cut], self.problem[cut])

    def where(self, kept: npt.NDArray[np.bool_]) -> "Records":
        """The records for which `kept` is true."""
        return Records(
            self.start[kept], self.end[kept], self.following[kept], self.line[kept], self.problem[kept]
        )

    def shifted(self, bytes_by: int) -> "Records":
        """The same records with every byte offset moved."""
        return Records(
            self.start + bytes_by, self.end + bytes_by, self.following + bytes_by, self.line, self.problem
        )


def concat_records(parts: list[Records]) -> Records:
    """Parts in order as one; an empty list gives no records."""
    if len(parts) == 1:
        return parts[0]
    none = np.empty(0, dtype=np.int64)
    return Records(
        start=np.concatenate([none, *(part.start for part in parts)]),
        end=np.concatenate([none, *(part.end for part in parts)]),
        following=np.concatenate([none, *(part.following for part in parts)]),
        line=np.concatenate([none, *(part.line for part in parts)]),
        problem=np.concatenate([np.empty(0, dtype=np.int8), *(part.problem for part in parts)]),
    )


class RecordScanner:
    """Finds the records of a stream that is fed in blocks; what a block leaves open is carried to the next.

    Memory is one block, plus at most LINE_BYTES_MAX for a line that does not end.
    """

    def __init__(
        self, delimiter: str, quote: str | None, *, escape: str | None = None, offset: int = 0, line: int = 1
    ) -> None:
        """
        Args:
            delimiter: one ASCII character.
            quote: one ASCII character, or None when nothing is quoted.
            escape: one ASCII character, or None when nothing is escaped.
            offset: byte offset in the file of the first byte that is fed.
            line: 1-based physical line of that byte.
        """
        self._delimiter = ord(delimiter)
        self._quote = None if quote is None else ord(quote)
        self._escape = None if escape is None else ord(escape)
        self._quoted_field = None if quote is None else _quoted_field_pattern(quote, escape)
        self._carried = b""
        self._offset = offset
        self._line = line

    def feed(self, block: bytes, *, last: bool = False) -> tuple[Records, bytes, int]:
        """Takes the next block.

        Args:
            block: may be empty.
            last: nothing follows; what is open is closed.

        Returns:
            The records that are complete now (offsets are positions in the file), the bytes that they lie in, and the
            position of the first of these bytes in the file. The bytes hold blank lines too, and bytes carried over.

        Raises:
            LineTooLongError: a line is longer than LINE_BYTES_MAX.
        """
        data = self._carried + block if self._carried else block
        # A carriage return at the very end may be half of \r\n: it is looked at with the next block.
        held_back = 1 if data.endswith(b"\r") and not last else 0
        scan = _Scan(data, len(data) - held_back, last, self)
        records, done, lines = scan.run()
        offset = self._offset
        self._carried = data[done:]
        self._offset += done
        self._line += lines
        if len(self._carried) > LINE_BYTES_MAX:
            raise LineTooLongError(self._line)
        return records.shifted(offset), data[:done] if done < len(data) else data, offset


def _quoted_field_pattern(quote: str, escape: str | None) -> re.Pattern[bytes]:
    """A quoted field from its opening to its closing quote, or to the end of the data. Linear: it never backs up."""
    mark = re.escape(quote)
    if escape is None:
        return re.compile(rf"{mark}(?:[^{mark}]++|{mark}{mark})*+{mark}?".encode())
    before = re.escape(escape)
    inside = rf"(?:[^{mark}{before}]++|{mark}{mark}|{before}.?)"
    return re.compile(rf"{mark}{inside}*+{mark}?".encode(), re.DOTALL)


def escaping(data: npt.NDArray[np.uint8], escape: int) -> Positions:
    """Where an escape character makes the next one literal: not where it is literal itself, behind another.

    Args:
        data: begins with a record.
        escape: the character.
    """
    places = np.flatnonzero(data == escape)
    if not len(places):
        return places
    is_first = np.r_[True, np.diff(places) != 1]
    run_begins = places[is_first][np.cumsum(is_first) - 1]
    found: Positions = places[(places - run_begins) % 2 == 0]
    return found


class _Scan:
    """One pass over the bytes at hand. Positions are relative to them."""

    def __init__(self, data: bytes, size: int, last: bool, scanner: RecordScanner) -> None:
        self._data = data
        self._size = size
        self._last = last
        self._scanner = scanner
        self._bytes = np.frombuffer(data, dtype=np.uint8, count=size)
        self._before_field = [scanner._delimiter, _LF, _CR]
        self._line_end, self._line_following = self._line_ends()
        self._escaped = self._escaped_places()

    def run(self) -> tuple[Records, int, int]:
        """The records found, how many bytes are done with, and how many lines these bytes hold."""
        parts: list[Records] = []
        position = 0
        while True:
            complete, resume, problem = self._records_from(position)
            parts.append(complete)
            if problem == WELL_FORMED:
                position = resume
                break
            position = self._skip_line(parts, resume, problem)
        lines = int(np.searchsorted(self._line_following, position, side="right"))
        return concat_records(parts), position, lines

    def _line_ends(self) -> tuple[Positions, Positions]:
        """Every line terminator, quoted or not: where it begins and where the next line begins."""
        feeds = np.flatnonzero(self._bytes == _LF)
        if b"\r" not in self._data:
            return feeds, feeds + 1
        returns = np.flatnonzero(self._bytes == _CR)
        followed = np.zeros(len(returns), dtype=bool)
        inner = returns + 1 < self._size
        followed[inner] = self._bytes[returns[inner] + 1] == _LF
        preceded = (feeds > 0) & (self._bytes[feeds - 1] == _CR)
        ends = np.concatenate([feeds - preceded, returns[~followed]])
        following = np.concatenate([feeds, returns[~followed]]) + 1
        order = np.argsort(ends, kind="stable")
        return ends[order], following[order]

    def _escaped_places(self) -> Positions | None:
        """The characters that are literal because of an escape before them; None when there is none."""
        escape = self._scanner._escape
        if escape is None or escape not in self._data:
            return None
        return escaping(self._bytes, escape) + 1

    def _is_escaped(self, places: Positions) -> npt.NDArray[np.bool_]:
        if self._escaped is None or not len(self._escaped):
            return np.zeros(len(places), dtype=bool)
        at = np.minimum(np.searchsorted(self._escaped, places), len(self._escaped) - 1)
        found: npt.NDArray[np.bool_] = self._escaped[at] == places
        return found

    def _unescaped_line_ends(self, first: int) -> tuple[Positions, Positions]:
        """The line ends from one on that may end a record. Of an escaped carriage return, the line feed is left."""
        ends, following = self._line_end[first:], self._line_following[first:]
        if self._escaped is None:
            return ends, following
        escaped = self._is_escaped(ends)
        is_pair = following - ends == 2
        ends = np.where(escaped & is_pair, ends + 1, ends)
        kept = ~escaped | is_pair
        return ends[kept], following[kept]

    def _records_from(self, position: int) -> tuple[Records, int, int]:
        """Well-formed records from a record start on, where the next record starts, and what is wrong with that one.

        WELL_FORMED as the last means that nothing is wrong yet: it only needs more bytes, or there is none.
        """
        first = int(np.searchsorted(self._line_end, position))
        ends, following = self._unescaped_line_ends(first)
        outside, open_at_end = self._outside_quotes(position, ends)
        if outside is not None:
            ends, following = ends[outside], following[outside]
        starts = np.concatenate([np.array([position], dtype=np.int64), following[:-1]])[: len(ends)]
        long = np.flatnonzero(ends - starts > RECORD_BYTES_MAX)
        if len(long):
            cut = int(long[0])
            return self._build(starts[:cut], ends[:cut], following[:cut]), int(starts[cut]), TOO_LONG
        rest = int(following[-1]) if len(following) else position
        complete = self._build(starts, ends, following)
        if self._last:
            return self._close(complete, rest, open_at_end)
        if self._size - rest > RECORD_BYTES_MAX and self._holds_line_end(rest):
            return complete, rest, TOO_LONG
        return complete, rest, WELL_FORMED

    def _close(self, complete: Records, rest: int, open_at_end: bool) -> tuple[Records, int, int]:
        """The bytes after the last terminator, when nothing follows: the last record, or one with an open quote."""
        if rest == self._size:
            return complete, rest, WELL_FORMED
        if open_at_end:
            return complete, rest, UNTERMINATED
        if self._size - rest > RECORD_BYTES_MAX:
            return complete, rest, TOO_LONG
        only = np.array([rest], dtype=np.int64)
        size = np.array([self._size], dtype=np.int64)
        return concat_records([complete, self._build(only, size, size)]), self._size, WELL_FORMED

    def _holds_line_end(self, position: int) -> bool:
        return bool(len(self._line_end)) and int(self._line_end[-1]) >= position

    def _skip_line(self, parts: list[Records], position: int, problem: int) -> int:
        """Makes the line at a record start one malformed record; returns where the next line starts."""
        at = int(np.searchsorted(self._line_end, position))
        if at < len(self._line_end):
            end, following = int(self._line_end[at]), int(self._line_following[at])
        else:
            end = following = self._size
        problem = TOO_LONG if end - position > RECORD_BYTES_MAX else UNTERMINATED
        start, stop, resume = np.array([[position], [end], [following]], dtype=np.int64)
        parts.append(self._build(start, stop, resume, problem))
        return following

    def _build(
        self, start: Positions, end: Positions, following: Positions, problem: int = WELL_FORMED
    ) -> Records:
        """Records without the blank lines, with line numbers."""
        filled = end > start
        if not filled.all():
            start, end, following = start[filled], end[filled], following[filled]
        line = np.searchsorted(self._line_following, start, side="right") + self._scanner._line
        return Records(start, end, following, line, np.full(len(start), problem, dtype=np.int8))

    def _outside_quotes(self, position: int, ends: Positions) -> tuple[npt.NDArray[np.bool_] | None, bool]:
        """Which line ends lie outside quotes (None: all), and whether a quote is open at the end of the data."""
        quote = self._scanner._quote
        if quote is None or self._data.find(quote, position, self._size) < 0:
            return None, False
        quotes = np.flatnonzero(self._bytes[position:] == quote) + position
        if self._escaped is not None:
            quotes = quotes[~self._is_escaped(quotes)]
        if self._quotes_are_regular(quote, position, quotes):
            return np.searchsorted(quotes, ends) % 2 == 0, len(quotes) % 2 == 1
        return self._outside_quoted_fields(position, quotes, ends)

    def _quotes_are_regular(self, quote: int, position: int, quotes: Positions) -> bool:
        """Whether every second quote opens a field, or is the second half of a doubled quote.

        Then, and only then, a byte is inside quotes exactly when an odd number of quotes comes before it.
        """
        opening = quotes[::2]
        regular = np.isin(self._bytes[opening - 1], [*self._before_field, quote])
        if self._escaped is not None:
            regular &= ~self._is_escaped(opening - 1)
        return bool((regular | (opening == position)).all())

    def _outside_quoted_fields(
        self, position: int, quotes: Positions, ends: Positions
    ) -> tuple[npt.NDArray[np.bool_], bool]:
        """The same by looking at each quoted field in turn: for blocks with quotes in the middle of text."""
        pattern = self._scanner._quoted_field
        assert pattern is not None
        may_open = np.isin(self._bytes[quotes - 1], self._before_field) & ~self._is_escaped(quotes - 1)
        may_open |= quotes == position
        spans: list[tuple[int, int]] = []
        inside_until = position
        for opening in quotes[may_open].tolist():
            if opening >= inside_until and (match := pattern.match(self._data, opening, self._size)):
                inside_until = match.end()
                spans.append(match.span())
        if not spans:
            return np.ones(len(ends), dtype=bool), False
        begins, stops = np.array(spans, dtype=np.int64).T
        field = np.searchsorted(begins, ends, side="right") - 1
        inside = (field >= 0) & (ends < stops[field])
        in_last = (quotes >= spans[-1][0]) & (quotes < spans[-1][1])
        return ~inside, int(in_last.sum()) % 2 == 1
