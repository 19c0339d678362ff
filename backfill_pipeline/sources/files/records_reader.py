"""Text files of records: a survey in one pass, and chunks as EXTRACTED tables.

Belongs here: what all text formats share, from the stream of blocks to chunks with their hashes.
Does not: where records begin and end (`csv_records.py`), fields (`csv_reader.py` and its neighbours).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backfill_pipeline.definition.encodings import is_utf8
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import extracted_schema
from backfill_pipeline.sources.files.chunks import ChunkCutter, Piece, bytes_per_chunk, rows_per_chunk
from backfill_pipeline.sources.files.content import Content, Fingerprint
from backfill_pipeline.sources.files.csv_records import (
    LINE_BYTES_MAX,
    RECORD_BYTES_MAX,
    LineTooLongError,
    Records,
    RecordScanner,
)
from backfill_pipeline.sources.malformed import Problems, mark_boundaries, mark_bytes
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceChunk, SourceManifest

BLOCK_BYTES: Final = 4 << 20
"""Read at once: large enough that numpy's fixed cost vanishes, small enough to stay in the processor's cache."""

RAW_BYTES_MAX: Final = RECORD_BYTES_MAX
"""What `raw_text` shows of one record."""

UTF8_BOM: Final = b"\xef\xbb\xbf"

Block = tuple[Records, bytes, int]
"""Complete records, the bytes that they lie in, and where these bytes begin in the content."""


class RecordsReader(ABC):
    """What `SourceReader` asks for, but for the fields of a record."""

    def __init__(
        self,
        content: Content,
        encoding: str,
        *,
        block_bytes: int = BLOCK_BYTES,
        chunk_count_max: int = CHUNK_COUNT_MAX,
        skip_lines: int = 0,
        skip_footer_lines: int = 0,
    ) -> None:
        """
        Args:
            content: what is read.
            encoding: ASCII-compatible.
            block_bytes: bytes read at once; only tests have a reason to change it.
            chunk_count_max: chunks that the survey may give at most.
            skip_lines: physical lines in front of everything else that are passed over.
            skip_footer_lines: records at the end that are passed over.
        """
        self._content = content
        self._file = content.file
        self._encoding = encoding
        self._block_bytes = block_bytes
        self._chunk_count_max = chunk_count_max
        self._skip_lines = skip_lines
        self._skip_footer_lines = skip_footer_lines

    # --- what a format says -------------------------------------------------------------------------------------

    @abstractmethod
    def _known_header(self) -> tuple[str, ...] | None:
        """The columns, when they do not come from the file's first record."""

    @abstractmethod
    def _parse_header(self, text: bytes, problem: int) -> tuple[str, ...]:
        """The columns from the first record."""

    @abstractmethod
    def _scanner(self, offset: int, line: int) -> RecordScanner:
        """What finds the records from a byte on."""

    @abstractmethod
    def _fields(self, piece: Piece, header: Sequence[str], problems: Problems) -> pa.Table:
        """The columns of `header` as text, one row per record of the piece; null where it has a problem."""

    def _only_records(self, records: Records, _data: bytes, _offset: int) -> Records:
        """The records without those that the format leaves out."""
        return records

    # --- the protocol -------------------------------------------------------------------------------------------

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`. A million records of 100 bytes take about 0.3 s without `visit`."""
        fingerprint = Fingerprint()
        chunks: list[SourceChunk] = []
        header = self._known_header()
        cutter: ChunkCutter | None = None
        size = self._content.size()
        for records, data, offset in self._without_footer(self._blocks(fingerprint)):
            if header is None and len(records):
                text = data[int(records.start[0]) - offset : int(records.end[0]) - offset]
                header = self._parse_header(text, int(records.problem[0]))
                records = records.part(1, len(records))
            if cutter is None and len(records):
                cutter = self._cutter(chunk_rows, records, size)
            if cutter is not None and header is not None:
                for piece in cutter.add(records, data, offset):
                    chunks.append(self._finish_chunk(piece, header, visit))
        if header is None:
            raise SourceFileError(
                f"{self._file}: is empty: expected a header line with the names of the columns."
            )
        if cutter is not None and (rest := cutter.rest()) is not None:
            chunks.append(self._finish_chunk(rest, header, visit))
        rows = sum(chunk.row_count for chunk in chunks)
        return SourceManifest(
            self._file.name, fingerprint.size_bytes, fingerprint.hexdigest(), header, rows, tuple(chunks)
        )

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """See `SourceReader.read_chunk`."""
        (data,) = self._content.read_parts([(chunk.byte_offset, chunk.byte_length)])
        if hashlib.sha256(data).hexdigest() != chunk.sha256:
            raise SourceChangedError(
                f"{self._file}: rows {chunk.first_row} to {chunk.first_row + chunk.row_count - 1} are not what they "
                "were when the source was registered: restore the file, or register it again."
            )
        scanner = self._scanner(chunk.byte_offset, chunk.first_line)
        records, _, _ = scanner.feed(data, last=True)
        records = self._only_records(records, data, chunk.byte_offset)
        if len(records) != chunk.row_count:
            raise SourceChangedError(
                f"{self._file}: rows {chunk.first_row} to {chunk.first_row + chunk.row_count - 1} now hold "
                f"{len(records)} records: how the definition says that the file is written has changed since it was "
                "registered."
            )
        return self._extract(Piece(chunk.number, chunk.first_row, records, data, chunk.byte_offset), header)

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`."""
        parts = [
            (offset, min(length, RAW_BYTES_MAX)) for offset, length in zip(offsets, lengths, strict=True)
        ]
        return [
            self._escaped(raw, length)
            for raw, length in zip(self._content.read_parts(parts), lengths, strict=True)
        ]

    def fingerprint(self) -> tuple[int, str]:
        """See `SourceReader.fingerprint`."""
        return self._content.fingerprint()

    # --- the file -----------------------------------------------------------------------------------------------

    def _blocks(self, fingerprint: Fingerprint) -> Iterator[Block]:
        """All records block by block; `fingerprint` knows the whole file at the end."""
        blocks = self._content.stream(fingerprint, self._block_bytes)
        start = b""
        while len(start) < len(UTF8_BOM) and (block := next(blocks, b"")):
            start += block
        is_bom = start.startswith(UTF8_BOM) and is_utf8(self._encoding)
        start, offset = _after_lines(start, blocks, len(UTF8_BOM) if is_bom else 0, self._skip_lines)
        scanner = self._scanner(offset, 1 + self._skip_lines)
        last = False
        block = start
        while not last:
            if not block:
                block = next(blocks, b"")
                last = not block
            try:
                records, data, begin = scanner.feed(block, last=last)
            except LineTooLongError as error:
                raise SourceFileError(
                    f"{self._file}: line {error.line} is longer than {LINE_BYTES_MAX >> 20} MiB: "
                    "this is not a text file of records."
                ) from None
            yield self._only_records(records, data, begin), data, begin
            block = b""

    def _without_footer(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The same without the last records; holds back as many blocks as they may lie in."""
        if not self._skip_footer_lines:
            yield from blocks
            return
        held: list[Block] = []
        for block in blocks:
            held.append(block)
            while sum(len(records) for records, _, _ in held[1:]) >= self._skip_footer_lines:
                yield held.pop(0)
        left_out = self._skip_footer_lines
        for place in reversed(range(len(held))):
            records, data, offset = held[place]
            kept = max(0, len(records) - left_out)
            left_out -= len(records) - kept
            held[place] = (records.part(0, kept), data, offset)
        yield from held

    def _cutter(self, chunk_rows: int, records: Records, size: int) -> ChunkCutter:
        most = self._chunk_count_max
        return ChunkCutter(
            rows_per_chunk(chunk_rows, records, size, most), bytes_per_chunk(size, most), count_max=most
        )

    # --- chunks -------------------------------------------------------------------------------------------------

    def _finish_chunk(
        self, piece: Piece, header: Sequence[str], visit: Callable[[pa.Table], None] | None
    ) -> SourceChunk:
        begin, stop = int(piece.records.start[0]), int(piece.records.following[-1])
        content = memoryview(piece.data)[begin - piece.offset : stop - piece.offset]
        if visit is not None:
            visit(self._extract(piece, header))
        return SourceChunk(
            number=piece.number,
            first_row=piece.first_row,
            row_count=len(piece.records),
            first_line=int(piece.records.line[0]),
            byte_offset=begin,
            byte_length=stop - begin,
            sha256=hashlib.sha256(content).hexdigest(),
        )

    def _extract(self, piece: Piece, header: Sequence[str]) -> pa.Table:
        """The EXTRACTED table of a piece: exactly one row per record."""
        records = piece.records
        problems = Problems(len(records))
        mark_boundaries(problems, records)
        mark_bytes(problems, piece, self._encoding)
        fields = self._fields(piece, header, problems)
        rows = np.arange(piece.first_row, piece.first_row + len(records), dtype=np.int64)
        lengths = records.end - records.start
        reserved = [pa.array(one) for one in (rows, records.line, records.start, lengths)]
        table = pa.table([*reserved, *problems.columns(), *fields.columns], schema=extracted_schema(header))
        assert table.num_rows == len(records), "a record was lost between its boundaries and its fields"
        return table

    def _escaped(self, raw: bytes, length: int) -> str:
        text = raw.decode(self._encoding, errors="backslashreplace").replace("\0", "\\x00")
        return text if length == len(raw) else f"{text}… ({length} bytes)"


def joined(piece: Piece, good: npt.NDArray[np.int64]) -> bytes | memoryview:
    """The bytes of the good records; without a copy when all are good and nothing lies between them."""
    records, offset = piece.records, piece.offset
    if len(good) == 0:
        return b""
    data = memoryview(piece.data)
    breaks = np.flatnonzero((np.diff(good) != 1) | (records.start[good[1:]] != records.following[good[:-1]]))
    firsts, lasts = good[np.r_[0, breaks + 1]], good[np.r_[breaks, len(good) - 1]]
    runs = [
        data[begin:stop]
        for begin, stop in zip(
            (records.start[firsts] - offset).tolist(),
            (records.following[lasts] - offset).tolist(),
            strict=True,
        )
    ]
    return runs[0] if len(runs) == 1 else b"".join(runs)


def _after_lines(start: bytes, blocks: Iterator[bytes], position: int, lines: int) -> tuple[bytes, int]:
    """Passes over lines; gives what is read already behind them, and where that begins in the content."""
    offset = position
    start = start[position:]
    for _ in range(lines):
        while True:
            ends = [at for at in (start.find(b"\n"), start.find(b"\r")) if at >= 0]
            end = min(ends, default=-1)
            # A carriage return at the very end may be half of \r\n.
            if 0 <= end < len(start) - 1 or not (block := next(blocks, b"")):
                break
            if end < 0:
                offset, start = offset + len(start), block
            else:
                start += block
        if end < 0:
            return b"", offset + len(start)
        width = 2 if start[end : end + 2] == b"\r\n" else 1
        offset, start = offset + end + width, start[end + width :]
    return start, offset
