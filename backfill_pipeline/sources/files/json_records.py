"""JSON objects as columns of their own text, by dotted paths.

Belongs here: from many objects to columns; what is wrong with a single one.
Does not: numbers becoming text (`json_tokens.py`), where the objects come from (lines of a file, answers of an API).

Two parsers give the same rows. Arrow's reads many objects at once; Python's reads the single ones that Arrow's cannot,
and says what is wrong with them.
"""

import io
import itertools
import json
import re
from collections.abc import Sequence
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json

from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.files.json_tokens import Positions, quote_values
from backfill_pipeline.sources.malformed import NOT_AS_STATED, Problems

FEW_LINES: Final = 8
"""So few are read one by one: looking at every byte costs as much, and says less about what is wrong."""

_ROW_OF_ERROR: Final = re.compile(r"in row (\d+)")


class JsonTree:
    """The paths that are read, as the tree that a record is."""

    def __init__(self, columns: Sequence[str], noun: str = "line") -> None:
        """
        Args:
            columns: dotted paths; only these are read.
            noun: what a record is called in reasons.

        Raises:
            SourceDefinitionError: a path leads through the value of another.
        """
        self._noun = noun
        self.columns = tuple(columns)
        self.schema = pa.schema([pa.field(name, pa.string()) for name in columns])
        self._paths = [tuple(name.split(".")) for name in columns]
        for path, name in zip(self._paths, columns, strict=True):
            for length in range(1, len(path)):
                if path[:length] in self._paths:
                    outer = ".".join(path[:length])
                    raise SourceDefinitionError(
                        f"columns {outer!r} and {name!r} are both read, but {outer!r} cannot be a value and hold one."
                    )
        self._nested = pa.schema(self._fields_below(()))

    def _fields_below(self, above: tuple[str, ...]) -> list[pa.Field]:
        """The Arrow fields below a path."""
        depth = len(above)
        names = dict.fromkeys(path[depth] for path in self._paths if path[:depth] == above)
        return [
            pa.field(
                name,
                pa.string()
                if (*above, name) in self._paths
                else pa.struct(self._fields_below((*above, name))),
            )
            for name in names
        ]

    def parse_many(self, data: bytes) -> pa.Table:
        """Lines of strings as columns.

        Raises:
            pyarrow.ArrowInvalid: a line is not as it should be; as a rule the message says which.
        """
        table = arrow_json.read_json(
            io.BytesIO(data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            arrow_json.ParseOptions(explicit_schema=self._nested, unexpected_field_behavior="ignore"),
        )
        columns = []
        for path in self._paths:
            column = table[path[0]]
            for name in path[1:]:
                column = pc.struct_field(column, name)
            columns.append(pc.fill_null(column, ""))
        return pa.table(columns, schema=self.schema)

    def parse_one(self, line: bytes) -> list[str] | tuple[RejectCode, str]:
        """The values of one line, or what is wrong with it."""
        try:
            found = json.loads(
                line.decode().strip(" \t\r\n"),
                parse_int=str,
                parse_float=str,
                parse_constant=no_constant,
                object_pairs_hook=_Members,
            )
        except RecursionError:
            return NOT_AS_STATED, f"the {self._noun} is nested too deeply"
        except ValueError as error:
            return NOT_AS_STATED, f"the {self._noun} is no JSON: {str(error)[:200]}"
        if not isinstance(found, _Members):
            return NOT_AS_STATED, f"the {self._noun} is {_kind(found)}, not an object"
        values = []
        for path in self._paths:
            value = _value_at(found, path)
            if not isinstance(value, str):
                return value
            values.append(value)
        return values


class JsonTexts:
    """JSON texts, one after the other, on their way to columns."""

    def __init__(self, data: bytes, starts: Positions, tree: JsonTree) -> None:
        """
        Args:
            data: UTF-8 without NUL.
            starts: where each text begins, ascending from 0; what lies between two is space.
            tree: what is read of each.
        """
        self._data = data
        self._starts = np.r_[starts, len(data)]
        self._tree = tree

    def parse(self, problems: Problems, window: npt.NDArray[np.int64]) -> list[pa.Table]:
        """The columns of all lines that can be read, in order; the others become problems.

        Args:
            problems: of the whole piece.
            window: which record of the piece each line is.
        """
        tables: list[pa.Table] = []
        waiting = [(0, len(self._starts) - 1)]
        while waiting:
            begin, stop = waiting.pop()
            if stop - begin <= FEW_LINES:
                tables.append(self._parse_each(begin, stop, problems, window))
                continue
            found = self._parse_many(begin, stop)
            if isinstance(found, pa.Table):
                tables.append(found)
            else:  # the first part is done first, and a doubtful line by itself
                cuts = sorted({begin, *(begin + found).tolist(), *(begin + found + 1).tolist(), stop})
                waiting += list(itertools.pairwise(cuts))[::-1]
        return tables

    def _parse_each(
        self, begin: int, stop: int, problems: Problems, window: npt.NDArray[np.int64]
    ) -> pa.Table:
        rows = []
        for place in range(begin, stop):
            one = self._tree.parse_one(self._lines(place, place + 1))
            if isinstance(one, list):
                rows.append(one)
            else:
                problems.add(int(window[place]), *one)
        columns = [[row[place] for row in rows] for place in range(len(self._tree.columns))]
        return pa.table([pa.array(column, pa.string()) for column in columns], schema=self._tree.schema)

    def _parse_many(self, begin: int, stop: int) -> pa.Table | npt.NDArray[np.int64]:
        """The columns of lines, or the positions among them of lines to look at one by one."""
        quoted = quote_values(self._lines(begin, stop), self._starts[begin:stop] - self._starts[begin])
        if quoted.doubtful.any():
            return np.flatnonzero(quoted.doubtful)
        try:
            table = self._tree.parse_many(quoted.data)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            row = _ROW_OF_ERROR.search(str(error))
            at = int(row[1]) if row else (stop - begin) // 2
            return np.array([min(at, stop - begin - 1)])
        if table.num_rows != stop - begin:
            raise AssertionError(f"{stop - begin} lines parsed to {table.num_rows} rows")
        return table

    def _lines(self, begin: int, stop: int) -> bytes:
        return self._data[int(self._starts[begin]) : int(self._starts[stop])]


class _Members:
    """An object as its pairs, so that a name that is given twice is seen."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        self.pairs = pairs


def _value_at(found: _Members, path: tuple[str, ...]) -> str | tuple[RejectCode, str]:
    """The text at a path, "" where there is none, or what is wrong with it."""
    value: object = found
    for depth, name in enumerate(path):
        if value is None:
            break
        if not isinstance(value, _Members):
            return NOT_AS_STATED, f"{'.'.join(path[:depth])} is {_kind(value)}, not an object"
        members = [member for key, member in value.pairs if key == name]
        if len(members) > 1:
            return NOT_AS_STATED, f"{'.'.join(path[: depth + 1])} is given {len(members)} times"
        value = members[0] if members else None
    if isinstance(value, _Members | list):
        return NOT_AS_STATED, f"{'.'.join(path)} is {_kind(value)}, not a single value"
    return _text(value, ".".join(path))


def _text(value: object, name: str) -> str | tuple[RejectCode, str]:
    if not isinstance(value, str):  # numbers are text already
        return "" if value is None else str(value).lower()
    if "\0" in value:
        return RejectCode.NUL_BYTE, f"{name} holds a NUL character"
    if not value.isascii() and value.encode(errors="ignore").decode() != value:
        return RejectCode.ENCODING_INVALID, f"{name} holds half of a surrogate pair"
    return value


def no_constant(name: str) -> NoReturn:
    """Refuses NaN and Infinity, which Python takes for numbers of JSON."""
    raise ValueError(f"{name} is no number of JSON")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {_Members: "an object", list: "a list", bool: "true or false"}
    return names.get(type(value), "a single value")
