"""Collecting what is wrong with rows, field by field, and merging it into one finding per row.

Belongs here: the merge rule (first failing field gives the code, all reasons are kept).
Does not: deciding that something is wrong.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SHOWN_CHARACTERS: Final = 60
"""How much of a value a reason repeats; the raw record is kept beside it."""

Positions = npt.NDArray[np.int64]


class RowErrors:
    """Errors of rows, added in the order of the fields. Costs nothing for rows without one."""

    def __init__(self) -> None:
        self._added: list[tuple[Positions, str, str, pa.Array]] = []

    def add(self, positions: Positions, code: str, field: str, reasons: pa.Array | str) -> None:
        """
        Args:
            positions: rows concerned, 0-based, ascending, unique.
            code: a `RejectCode`.
            field: of the ledger entry.
            reasons: one string per position, or one for all.
        """
        if len(positions):
            texts = (
                pa.repeat(pa.scalar(reasons), len(positions))
                if isinstance(reasons, str)
                else combined(reasons)
            )
            self._added.append((positions, code, field, texts))

    def add_where(
        self, bad: pa.Array, code: str, field: str, before: str, values: pa.Array, after: str
    ) -> None:
        """Adds rows where `bad` is true, with the reason `<before> "<value>" <after>`."""
        positions = positions_of(bad)
        if len(positions):
            self.add(positions, code, field, quoting(before, values.take(pa.array(positions)), after))

    def add_from(self, other: "RowErrors", positions: Positions) -> None:
        """Adds the errors of a part of the rows; `positions` are those of the part's rows among these."""
        self._added.extend((positions[at], *rest) for at, *rest in other._added)

    def __bool__(self) -> bool:
        return bool(self._added)

    def merged(self) -> tuple[Positions, pa.Array, pa.Array, pa.Array]:
        """Positions of the bad rows, ascending, and for each: code and field of the first error, reasons of all."""
        bad = np.zeros(max((int(one[0][-1]) + 1 for one in self._added), default=0), dtype=bool)
        for positions, *_ in self._added:
            bad[positions] = True
        rows = np.flatnonzero(bad)
        first = np.full(len(rows), len(self._added), dtype=np.int64)
        reasons = []
        for number, (positions, _, _, texts) in enumerate(self._added):
            at = np.searchsorted(rows, positions)
            first[at] = np.minimum(first[at], number)
            if len(positions) == len(rows):
                reasons.append(texts)
                continue
            places = np.full(len(rows), -1, dtype=np.int64)
            places[at] = np.arange(len(positions))
            reasons.append(texts.take(pa.array(places, mask=places < 0)))
        taken = pa.array(first)
        return (
            rows,
            pa.array([str(code) for _, code, _, _ in self._added], pa.string()).take(taken),
            pa.array([field for _, _, field, _ in self._added], pa.string()).take(taken),
            pc.binary_join_element_wise(*reasons, "; ", null_handling="skip")
            if reasons
            else pa.nulls(0, pa.string()),
        )

    def columns(self, row_count: int) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Code, field and reason for each of `row_count` rows, null where nothing is wrong."""
        if not self._added:
            nothing = pa.nulls(row_count, pa.string())
            return nothing, nothing, nothing
        rows, *found = self.merged()
        places = np.full(row_count, -1, dtype=np.int64)
        places[rows] = np.arange(len(rows))
        taken = pa.array(places, mask=places < 0)
        code, field, reason = (column.take(taken) for column in found)
        return code, field, reason


def positions_of(mask: pa.Array | pa.ChunkedArray) -> Positions:
    """Where a boolean array is true; null counts as false."""
    return np.flatnonzero(pc.fill_null(combined(mask), False).to_numpy(zero_copy_only=False))


def combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One contiguous array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def quoting(before: str, values: pa.Array, after: str) -> pa.Array:
    """`<before> "<value>" <after>` for each value, long values cut."""
    shown = pc.utf8_slice_codeunits(values, 0, SHOWN_CHARACTERS)
    return pc.binary_join_element_wise(f'{before} "', shown, f'" {after}', "")


def bytes_held(text: pa.Array, wanted: bytes) -> bytes:
    """Which of these bytes may occur in a string array: a cheap look at its buffer, before a dear search.

    Also those that are in a part of the buffer that a slice does not show.
    """
    buffer = text.buffers()[2]
    if buffer is None:
        return b""
    content = buffer.to_pybytes()
    return bytes(byte for byte in wanted if byte in content)
