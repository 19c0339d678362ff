"""Cutting a stream of records into chunks.

Belongs here: how many records make a chunk, and the limit on the number of chunks.
Does not: finding records (`csv_records.py`) or parsing them (the readers).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from backfill_pipeline.sources.files.csv_records import Records, concat_records
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX

CHUNK_BYTES_MAX: Final = 128 << 20
"""A chunk is closed early when its bytes reach this, so that wide records do not make a partition too big to hold."""


def bytes_per_chunk(size: int, count_max: int = CHUNK_COUNT_MAX) -> int:
    """At which size a chunk is closed; more for files so big that this would give more than `count_max` chunks."""
    return max(CHUNK_BYTES_MAX, size // max(1, count_max // 4))


def rows_per_chunk(chunk_rows: int, records: Records, size: int, count_max: int = CHUNK_COUNT_MAX) -> int:
    """Raises `chunk_rows` when the file, by the size of its first records, would give too many chunks.

    Half of the limit is aimed at, because later records may be shorter; `ChunkCutter` sees to the rest.
    """
    bytes_per_record = (int(records.following[-1]) - int(records.start[0])) / len(records)
    return max(1, chunk_rows, int(size / bytes_per_record / max(1, count_max // 2)))


@dataclass(frozen=True, slots=True)
class Piece:
    """The records of one chunk and the bytes that they lie in.

    Attributes:
        offset: position in the file of the first byte of `data`.
    """

    number: int
    first_row: int
    records: Records
    data: bytes | memoryview
    offset: int


@dataclass(slots=True)
class ChunkCutter:
    """Collects records until a chunk is full.

    A chunk is full at `rows` records or `bytes_max` bytes. From half of `count_max` chunks on, `rows` doubles every
    hundred chunks, and the last allowed chunk takes all that is left, so that the limit holds for any file.
    """

    rows: int
    bytes_max: int
    count_max: int = CHUNK_COUNT_MAX
    number: int = 1
    next_row: int = 1
    _records: list[Records] = field(default_factory=list)
    _blocks: list[bytes] = field(default_factory=list)
    _begin: int = 0
    _held_rows: int = 0
    _held_bytes: int = 0

    def add(self, records: Records, data: bytes, offset: int) -> Iterator[Piece]:
        """Takes the records of a block and the bytes they lie in; gives the chunks that are full now."""
        held_until = offset
        while len(records):
            taken = min(self._rows_wanted() - self._held_rows, self._rows_within_bytes(records))
            part, records = records.part(0, taken), records.part(taken, len(records))
            begin = held_until if self._held_rows else int(part.start[0])
            held_until = int(part.following[-1])
            self._hold(part, begin, data[begin - offset : held_until - offset])
            if self._held_rows >= self._rows_wanted() or (
                self._held_bytes >= self.bytes_max and not self._is_last()
            ):
                yield self._cut()
        if self._held_rows:  # blank lines, which lie inside the chunk when more records follow
            self._hold(records, held_until, data[held_until - offset :])

    def rest(self) -> Piece | None:
        """The last chunk, when anything is left."""
        return self._cut() if self._held_rows else None

    def _is_last(self) -> bool:
        return self.number >= self.count_max

    def _rows_wanted(self) -> int:
        if self._is_last():
            return 1 << 62
        return self.rows << max(0, (self.number - self.count_max // 2) // 100)

    def _rows_within_bytes(self, records: Records) -> int:
        if self._is_last():
            return len(records)
        limit = int(records.start[0]) + self.bytes_max - self._held_bytes
        return max(1, int(np.searchsorted(records.following, limit, side="right")))

    def _hold(self, part: Records, begin: int, block: bytes) -> None:
        if not self._blocks:
            self._begin = begin
        self._records.append(part)
        self._blocks.append(block)
        self._held_rows += len(part)
        self._held_bytes += len(block)

    def _cut(self) -> Piece:
        records = concat_records(self._records)
        piece = Piece(self.number, self.next_row, records, b"".join(self._blocks), self._begin)
        self.number += 1
        self.next_row += len(records)
        self._records, self._blocks, self._held_rows, self._held_bytes = [], [], 0, 0
        return piece
