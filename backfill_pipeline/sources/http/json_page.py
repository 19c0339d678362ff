"""One answer in JSON: the records that it holds, as the text they are written in, and single values beside them.

Belongs here: finding the list of records and single values by dotted paths, cutting the list, or lines, into records.
Does not: from records to columns (`sources/files/json_records.py`), what the single values mean (`pagination.py`).

The answer is read once, from beginning to end, and all of it must be JSON: a body that was cut short is not taken for
a short page. Numbers stay text.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.sources.files.json_records import no_constant
from backfill_pipeline.sources.files.json_tokens import Positions, element_starts
from backfill_pipeline.sources.http.failures import AnswerError, BrokenAnswerError

_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=no_constant)
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NAMES_SHOWN: Final = 12
_LF: Final = 0x0A

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JsonRecords:
    """Records as they are written, in their order.

    Attributes:
        data: UTF-8; the records one after the other, with space between them.
        starts: where each begins.
    """

    data: bytes
    starts: Positions

    def __len__(self) -> int:
        return len(self.starts)

    def texts(self) -> pa.Array:
        """The text of each record."""
        offsets = pa.array(np.r_[self.starts, len(self.data)], pa.int32())
        whole = pa.Array.from_buffers(
            pa.string(), len(self), [None, offsets.buffers()[1], pa.py_buffer(self.data)]
        )
        return pc.utf8_trim(whole, " \t\r\n")

    def windows(self, size_bytes: int) -> list[tuple[int, int]]:
        """Positions [first, stop) of runs of records that have about so many bytes."""
        if not len(self):
            return []
        cuts = np.flatnonzero(np.diff(self.starts // size_bytes)) + 1
        return list(pairwise([0, *cuts.tolist(), len(self)]))

    def part(self, first: int, stop: int) -> tuple[bytes, Positions]:
        """The bytes of some records, and where each begins in them."""
        begin = int(self.starts[first])
        end = int(self.starts[stop]) if stop < len(self) else len(self.data)
        return self.data[begin:end], self.starts[first:stop] - begin

    def last(self) -> str:
        """The text of the last record."""
        return self.data[int(self.starts[-1]) :].decode().strip()


NO_RECORDS: Final = JsonRecords(b"", np.zeros(0, dtype=np.int64))


class JsonPage:
    """The body of an answer."""

    def __init__(self, body: bytes, records: str, others: Sequence[str] = ()) -> None:
        """
        Args:
            body: all bytes of it.
            records: dotted path of the list of records; "": the body itself is the list.
            others: dotted paths of single values that will be asked for.

        Raises:
            BrokenAnswerError: it is no JSON, as when it was cut short.
            AnswerError: it is JSON, but without such a list.
        """
        self._text = _decoded(body)
        self._names: list[str] = []
        self._spans: dict[Path, tuple[int, int]] = {}
        self._wanted = {_path(one) for one in (records, *others)}
        try:
            at = self._value((), self._skip(0))
            if self._skip(at) != len(self._text):
                raise ValueError("something follows the end of it")
        except RecursionError:
            raise AnswerError("answers with JSON that is nested too deeply to be read") from None
        except (ValueError, IndexError) as error:
            raise BrokenAnswerError(f"answers with broken JSON: {_reason(error)}") from None
        self.records = self._records(records)

    def value(self, path: str) -> str | bool | None:
        """A single value: a text (numbers as they are written), true or false; None where it is null or missing.

        Raises:
            AnswerError: there is a list or an object.
        """
        span = self._spans.get(_path(path))
        if span is None:
            return None
        found: object = json.loads(
            self._text[slice(*span)], parse_int=str, parse_float=str, parse_constant=no_constant
        )
        if found is None or isinstance(found, str | bool):
            return found
        raise AnswerError(
            f"holds {'a list' if isinstance(found, list) else 'an object'} at {path}, not a value"
        )

    def has(self, path: str) -> bool:
        """Whether there is anything at a path, be it null."""
        return _path(path) in self._spans

    # --- finding ------------------------------------------------------------------------------------------------

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        assert found is not None
        return found.end()

    def _value(self, place: Path, at: int) -> int:
        """Reads a value, and notes where it is when it was asked for; gives where it ends."""
        inside = any(len(one) > len(place) and one[: len(place)] == place for one in self._wanted)
        if self._text[at] == "{" and (inside or not place):
            end = self._members(place, at + 1)
        else:
            _, end = _DECODER.raw_decode(self._text, at)
        if place in self._wanted:
            if place in self._spans:
                raise AnswerError(f"gives {'.'.join(place)} twice")
            self._spans[place] = (at, end)
        return end

    def _members(self, place: Path, at: int) -> int:
        at = self._skip(at)
        if self._text[at] == "}":
            return at + 1
        while True:
            if self._text[at] != '"':
                raise ValueError(f"character {at} is not the name of a member")
            name, at = _DECODER.raw_decode(self._text, at)
            at = self._skip(at)
            if self._text[at] != ":":
                raise ValueError(f"character {at} is not a colon")
            if not place and len(self._names) < _NAMES_SHOWN:
                self._names.append(name)
            at = self._skip(self._value((*place, name), self._skip(at + 1)))
            if self._text[at] == "}":
                return at + 1
            if self._text[at] != ",":
                raise ValueError(f"character {at} is neither a comma nor the end of an object")
            at = self._skip(at + 1)

    # --- cutting ------------------------------------------------------------------------------------------------

    def _records(self, path: str) -> JsonRecords:
        span = self._spans.get(_path(path))
        where = path or "the body"
        if span is None:
            raise AnswerError(f"has no {where}: {self._shape()}; write under records where the list is")
        text = self._text[slice(*span)]
        if text == "null" and path:
            return NO_RECORDS
        if not text.startswith("["):
            kind = "an object" if text.startswith("{") else "a single value"
            raise AnswerError(f"holds {kind} where the list of records should be, {where}: {self._shape()}")
        inner = text[1:-1].encode()
        if not inner.strip():
            return NO_RECORDS
        starts = element_starts(inner)
        cut = np.frombuffer(inner, dtype=np.uint8).copy()
        cut[starts[1:] - 1] = _LF
        return JsonRecords(cut.tobytes(), starts)

    def _shape(self) -> str:
        if self._names:
            return f"its names are {', '.join(one[:40] for one in self._names)}"
        return "it is a list" if self._text.lstrip().startswith("[") else "it has no names"


class LinesPage:
    """The body of an answer in JSON lines: every line that is not empty is a record, and there is nothing else."""

    def __init__(self, body: bytes) -> None:
        """
        Args:
            body: all bytes of it.

        Raises:
            BrokenAnswerError: it ends within a line.
            AnswerError: it is no text.
        """
        data = _decoded(body).encode()
        if b"\0" in data:
            raise AnswerError("answers with a NUL byte in its lines")
        lines = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == _LF) + 1
        begins = np.r_[0, lines[lines < len(data)]].astype(np.int64)
        every = JsonRecords(data, begins)
        there = pc.not_equal(every.texts(), "").to_numpy(zero_copy_only=False)
        self.records = JsonRecords(data, begins[there])
        if len(self.records) and not data.endswith(b"\n"):
            self._refuse_half_a_line(self.records.last())

    def value(self, path: str) -> None:
        """None: there are no values beside the records."""
        return None

    def has(self, path: str) -> bool:
        """False: there are no values beside the records."""
        return False

    @staticmethod
    def _refuse_half_a_line(line: str) -> None:
        try:
            _DECODER.decode(line)
        except RecursionError:
            return  # a record that cannot be read, but whole as far as anybody can tell
        except ValueError as error:
            raise BrokenAnswerError(
                f"answers with lines of which the last is broken: {_reason(error)}"
            ) from None


def _path(path: str) -> Path:
    return tuple(path.split(".")) if path else ()


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.end == len(body) and error.reason == "unexpected end of data":
            raise BrokenAnswerError("answers with a body that ends within a character") from None
        raise AnswerError(
            f"answers with bytes that are not UTF-8, the first at byte {error.start} of the body"
        ) from None


def _reason(error: Exception) -> str:
    return "it ends too early" if isinstance(error, IndexError) else str(error)[:120]
