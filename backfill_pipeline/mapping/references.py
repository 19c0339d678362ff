"""Generated references: the same row gets the same reference in every export, and real repeats stay apart.

Belongs here: hashing the content of rows, counting repeats over a whole source, the text of a reference.
Does not: references that the source has.

A reference is `BACKFILL-<source id>-<content hash>-<occurrence>`. The hash covers the raw text of the columns in order
of their names, so that neither the order of rows nor that of columns matters; the occurrence counts rows with equal
content from 0 in source order, so that two equal payments stay two. Any export of the same rows, in any order, gives
the same set of references.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pandas.util import hash_array

from backfill_pipeline.schemas.extracted import ERROR_CODE, RESERVED_NAMES, SOURCE_ROW
from backfill_pipeline.schemas.row_errors import bytes_held, combined
from backfill_pipeline.sources.spills import Spill, split

Hashes = npt.NDArray[np.uint64]

# Fixed for ever: other keys would give every row of every source another reference, and post it again.
_KEYS: Final = ("backfill-ref-v1a", "backfill-ref-v1b")

_SEPARATOR: Final = "\x1f"
_ESCAPE: Final = "\x1e"

_BUCKET_BITS: Final = 6
_SPILL_ROWS: Final = 1_000_000
_ROWS_PER_RANGE: Final = 4_000_000
_ROWS_PER_GROUP: Final = 65_536

_HASHED: Final = np.dtype([("high", np.uint64), ("low", np.uint64), ("row", np.int64)])
_REPEAT: Final = np.dtype([("row", np.int64), ("occurrence", np.int64)])

OCCURRENCE_SCHEMA = pa.schema(
    [pa.field("source_row", pa.int64(), nullable=False), pa.field("occurrence", pa.int64(), nullable=False)]
)
"""Rows whose content occurred before in the source: how many times. All other rows have occurrence 0."""


def content_hashes(extracted: pa.Table, columns: Sequence[str] | None = None) -> tuple[Hashes, Hashes]:
    """128 bits over the raw text of each row, as two halves.

    Args:
        extracted: EXTRACTED.
        columns: which columns identify a row; None takes all that the source has.

    Returns:
        Two uint64 arrays. Malformed records (nulls) get a value without meaning.
    """
    names = sorted(columns or (name for name in extracted.column_names if name not in RESERVED_NAMES))
    texts = [_unambiguous(pc.fill_null(combined(extracted[name]), "")) for name in names]
    joined = pc.binary_join_element_wise(*texts, _SEPARATOR)
    # As bytes, because pandas hashes Python bytes in C without encoding them once more for each key.
    values = joined.cast(pa.binary()).to_numpy(zero_copy_only=False)
    high, low = (hash_array(values, hash_key=key, categorize=False) for key in _KEYS)
    return high, low


def _unambiguous(text: pa.Array) -> pa.Array:
    """Makes ("a", "bc") and ("ab", "c") differ whatever the text holds: separators inside values are escaped."""
    if not bytes_held(text, f"{_ESCAPE}{_SEPARATOR}".encode()):
        return text
    return pc.replace_substring(pc.replace_substring(text, _ESCAPE, f"{_ESCAPE}0"), _SEPARATOR, f"{_ESCAPE}1")


def render_references(
    source_id: str, hashes: tuple[Hashes, Hashes], occurrences: npt.NDArray[np.int64]
) -> pa.Array:
    """The references as strings: `BACKFILL-<source id>-<32 hexadecimal digits>-<occurrence>`."""
    count = len(occurrences)
    digits = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint16)
    octets = np.column_stack(hashes).astype(">u8").view(np.uint8).reshape(count, 16)
    text = np.ascontiguousarray(digits[octets])
    starts = np.arange(0, 32 * count + 1, 32, dtype=np.int32)
    hexadecimal = pa.StringArray.from_buffers(count, pa.py_buffer(starts), pa.py_buffer(text))
    numbers = pa.array(occurrences, pa.int64()).cast(pa.string())
    return pc.binary_join_element_wise(f"BACKFILL-{source_id}", hexadecimal, numbers, "-")


def spread_occurrences(
    occurrences: pa.Table | None, source_rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The occurrence of each row.

    Args:
        occurrences: OCCURRENCE_SCHEMA; rows that are not in `source_rows` are ignored. None: no repeats.
        source_rows: ascending.
    """
    spread = np.zeros(len(source_rows), dtype=np.int64)
    if occurrences is None or occurrences.num_rows == 0 or len(source_rows) == 0:
        return spread
    rows = occurrences["source_row"].to_numpy()
    at = np.minimum(np.searchsorted(source_rows, rows), len(source_rows) - 1)
    here = source_rows[at] == rows
    spread[at[here]] = occurrences["occurrence"].to_numpy()[here]
    return spread


def read_occurrences(path: Path, first_row: int, row_count: int) -> pa.Table:
    """The part of an occurrence file for rows [first_row, first_row + row_count), by source_row.

    Only the row groups concerned are read.
    """
    filters = [("source_row", ">=", first_row), ("source_row", "<", first_row + row_count)]
    return pq.read_table(path, schema=OCCURRENCE_SCHEMA, filters=filters)


class OccurrenceIndex:
    """Finds repeats over a whole source in bounded memory, while the source is surveyed.

    Hashes go to bucket files by their first bits; at the end each bucket is settled by itself. Small sources never
    touch the disk. Use as a context manager: the bucket files are removed at the end.
    """

    def __init__(
        self, work_dir: Path, columns: Sequence[str] | None = None, *, spill_rows: int = _SPILL_ROWS
    ) -> None:
        """
        Args:
            work_dir: bucket files are made in a directory of their own inside it.
            columns: as in the definition's `reference_id.columns`; None takes all.
            spill_rows: rows held in memory before they are written out.
        """
        self._columns = None if columns is None else tuple(columns)
        self._spill_rows = spill_rows
        self._hashed = Spill(work_dir / "occurrences-hashed", _HASHED)
        self._repeats = Spill(work_dir / "occurrences-repeats", _REPEAT)
        self._held: list[np.ndarray] = []
        self._held_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, extracted: pa.Table) -> None:
        """Takes the next chunk of the source; malformed records have no content and are left out."""
        if extracted[ERROR_CODE].null_count < extracted.num_rows:
            extracted = extracted.filter(pc.is_null(extracted[ERROR_CODE]))
        records = np.empty(extracted.num_rows, dtype=_HASHED)
        records["high"], records["low"] = content_hashes(extracted, self._columns)
        records["row"] = extracted[SOURCE_ROW].to_numpy()
        self._held.append(records)
        self._held_rows += len(records)
        if self._held_rows >= self._spill_rows:
            self._hashed.append(*_by_bucket(self._take_held()))

    def finish(self, path: Path) -> int:
        """Writes OCCURRENCE_SCHEMA for all repeats, ordered by source_row.

        Returns:
            How many repeats there are.
        """
        if self._hashed.is_empty():
            repeats = _settle(self._take_held())
            _write(path, [np.sort(repeats, order="row")])
            return len(repeats)
        self._hashed.append(*_by_bucket(self._take_held()))
        count = 0
        for bucket in self._hashed.buckets():
            repeats = _settle(self._hashed.read(bucket))
            count += len(repeats)
            self._repeats.append(*split(repeats, repeats["row"] // _ROWS_PER_RANGE))
        _write(path, (np.sort(self._repeats.read(part), order="row") for part in self._repeats.buckets()))
        self.close()
        return count

    def close(self) -> None:
        """Removes the bucket files. Can be called again."""
        self._hashed.remove()
        self._repeats.remove()

    def _take_held(self) -> np.ndarray:
        held = np.concatenate([np.empty(0, dtype=_HASHED), *self._held])
        self._held, self._held_rows = [], 0
        return held


def _settle(records: np.ndarray) -> np.ndarray:
    """All repeats among records that include every row of each content they hold."""
    order = np.lexsort((records["row"], records["low"], records["high"]))
    high, low, row = (records[name][order] for name in ("high", "low", "row"))
    fresh = np.ones(len(records), dtype=bool)
    fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    place = np.arange(len(records))
    occurrence = place - np.maximum.accumulate(np.where(fresh, place, 0))
    repeats = np.empty(int((~fresh).sum()), dtype=_REPEAT)
    repeats["row"], repeats["occurrence"] = row[~fresh], occurrence[~fresh]
    return repeats


def _by_bucket(records: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    return split(records, (records["high"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64))


def _write(path: Path, parts: Iterable[np.ndarray]) -> None:
    with pq.ParquetWriter(path, OCCURRENCE_SCHEMA) as writer:
        for part in parts:
            table = pa.table([part["row"], part["occurrence"]], schema=OCCURRENCE_SCHEMA)
            writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
