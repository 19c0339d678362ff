"""Values of a database as exact text, whole columns at a time.

Belongs here: what arrives from a driver, as Arrow strings, and which rows hold values that cannot be text.
Does not: how columns are asked for (`columns.py`), which rows are read (`stream.py`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.column_text import as_text
from backfill_pipeline.sources.database.columns import Kind
from backfill_pipeline.sources.malformed import NOT_AS_STATED, Problems

_Mark = tuple[RejectCode, str]

_NOT_UTF8: Final[_Mark] = (RejectCode.ENCODING_INVALID, "{} is not UTF-8")
_NUL: Final[_Mark] = (RejectCode.NUL_BYTE, "{} holds a NUL character")
_BYTES: Final[_Mark] = (NOT_AS_STATED, "{} holds bytes, not text: select hex({}) in a query")


class FloatFoundError(Exception):
    """A column that the definition reads holds a float, and nothing says how many decimals it stands for."""

    def __init__(self, position: int) -> None:
        self.position = position


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a column's values are to become.

    Attributes:
        name: of the column.
        kind: what arrives.
        is_read: whether the definition reads it as more than metadata.
        decimals: how many decimals a float of it stands for.
    """

    name: str
    kind: Kind
    is_read: bool
    decimals: int | None


def text_of_column(values: Sequence[Any], wanted: Wanted, problems: Problems) -> pa.Array:
    """One column of a page as strings without nulls; problems are noted by position.

    Raises:
        FloatFoundError: see there.
    """
    if wanted.kind == "dynamic":
        text = _of_any_type(values, wanted, problems)
    elif wanted.kind in ("float", "float32"):
        text = _of_floats(values, wanted)
    else:
        text = _strings(values, wanted, problems)
        if wanted.kind != "text":
            text = _iso(text, in_utc=wanted.kind == "time_utc")
    has_nul = pc.match_substring(text, "\0")
    if pc.any(has_nul).as_py():
        _note(problems, has_nul.to_numpy(zero_copy_only=False), _NUL, wanted.name)
    return text


def raw_of_row(names: Sequence[str], row: Sequence[object]) -> str:
    """A row that is malformed as one JSON object, in ASCII: what is no text is escaped."""
    shown = (
        value if isinstance(value, str) else value.hex() if isinstance(value, bytes) else str(value)
        for value in ("" if value is None else value for value in row)
    )
    return json.dumps(dict(zip(names, shown, strict=True)))


def _strings(values: Sequence[Any], wanted: Wanted, problems: Problems) -> pa.Array:
    """Texts, as they are."""
    try:
        return pc.fill_null(pa.array(values, pa.string()), "")
    except UnicodeEncodeError:
        bad = np.fromiter((isinstance(one, str) and not _is_sound(one) for one in values), bool, len(values))
        _note(problems, bad, _NOT_UTF8, wanted.name)
        return pc.fill_null(pa.array(values, pa.string(), mask=bad), "")


def _of_floats(values: Sequence[Any], wanted: Wanted) -> pa.Array:
    column = (
        pa.array(values, pa.float64()) if not _any(values, str) else pc.cast(pa.array(values), pa.float64())
    )
    if wanted.is_read and wanted.decimals is None and column.null_count < len(column):
        raise FloatFoundError(int(np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))[0]))
    if wanted.kind == "float32":
        column = pc.cast(column, pa.float32(), safe=False)
    return as_text(column, wanted.decimals)


def _of_any_type(values: Sequence[Any], wanted: Wanted, problems: Problems) -> pa.Array:
    """SQLite's values: texts, integers, floats and bytes may stand in one column. Each kind is taken as a whole."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {str}:
        return _strings(values, wanted, problems)
    text = pa.array([""], pa.string()).take(pa.array(np.zeros(len(values), dtype=np.int64)))
    for kind in kinds:
        of_kind = _are(values, kind)
        column = _of_kind(kind, values, of_kind, wanted, problems)
        text = pc.if_else(pa.array(of_kind), column, text)
    return text


def _of_kind(
    kind: type, values: Sequence[Any], of_kind: npt.NDArray[np.bool_], wanted: Wanted, problems: Problems
) -> pa.Array:
    """The values of one type as text, at their places."""
    if kind is int:
        return pc.fill_null(pc.cast(pa.array(values, pa.int64(), mask=~of_kind), pa.string()), "")
    if kind is float:
        if wanted.is_read and wanted.decimals is None:
            raise FloatFoundError(int(np.flatnonzero(of_kind)[0]))
        return as_text(pa.array(values, pa.float64(), mask=~of_kind), wanted.decimals)
    if kind is str:
        return _strings(_only(values, of_kind), wanted, problems)
    if wanted.is_read:
        _note(problems, of_kind, _BYTES, wanted.name)
    shown = np.full(len(values), "", dtype=object)
    shown[of_kind] = list(map(bytes.hex, compress(values, of_kind)))
    return pa.array(shown, pa.string())


def _only(values: Sequence[Any], wanted: npt.NDArray[np.bool_]) -> list[Any]:
    """The values at these places; None elsewhere."""
    chosen = np.array(values, dtype=object)
    chosen[~wanted] = None
    found: list[Any] = chosen.tolist()
    return found


def _are(values: Sequence[Any], kind: type) -> npt.NDArray[np.bool_]:
    return np.fromiter(map(isinstance, values, repeat(kind)), bool, len(values))


def _any(values: Sequence[Any], kind: type) -> bool:
    return any(map(isinstance, values, repeat(kind)))


def _iso(text: pa.Array, *, in_utc: bool) -> pa.Array:
    """ISO 8601; zeros at the end of the fraction are left out. What is no such time stays as it is."""
    steps: list[Callable[[pa.Array], pa.Array]] = [
        lambda one: pc.replace_substring_regex(one, r"^([0-9-]+) ([0-9])", r"\1T\2"),
        lambda one: pc.replace_substring_regex(one, r"(\.[0-9]*?)0+(\+00)?$", r"\1\2"),
        lambda one: pc.replace_substring_regex(one, r"\.(\+00)?$", r"\1"),
    ]
    if in_utc:
        steps.append(lambda one: pc.replace_substring_regex(one, r"(:[0-9.]+)(\+00)?$", r"\1Z"))
    for step in steps:
        text = step(text)
    return text


def _is_sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _note(problems: Problems, bad: npt.NDArray[np.bool_], mark: _Mark, name: str) -> None:
    code, reason = mark
    for position in np.flatnonzero(bad).tolist():
        problems.add(position, code, reason.format(name, name))
