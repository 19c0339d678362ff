"""Delimited text files: a survey in one pass, and chunks as EXTRACTED tables.

Belongs here: opening the file, cutting it into chunks, parsing fields with Arrow, telling malformed records apart.
Does not: where records begin and end (`csv_records.py`), what columns mean (`mapping/`).
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as arrow_csv

from backfill_pipeline.definition.encodings import is_utf8
from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import RESERVED_NAMES, extracted_schema
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.chunks import ChunkCutter, Piece, bytes_per_chunk, rows_per_chunk
from backfill_pipeline.sources.csv_records import (
    LINE_BYTES_MAX,
    RECORD_BYTES_MAX,
    UNTERMINATED,
    LineTooLongError,
    Records,
    RecordScanner,
)
from backfill_pipeline.sources.protocol import SourceChunk, SourceManifest

BLOCK_BYTES: Final = 4 << 20
"""Read at once: large enough that numpy's fixed cost vanishes, small enough to stay in the processor's cache."""

RAW_BYTES_MAX: Final = RECORD_BYTES_MAX
"""What `raw_text` shows of one record."""

_UTF8_BOM: Final = b"\xef\xbb\xbf"


class CsvReader:
    """The `SourceReader` of delimited files."""

    def __init__(self, file: Path, dialect: CsvDialect, *, block_bytes: int = BLOCK_BYTES) -> None:
        """
        Args:
            file: absolute path.
            dialect: how it is written.
            block_bytes: bytes read at once; only tests have a reason to change it.
        """
        self._file = file
        self._dialect = dialect
        self._block_bytes = block_bytes

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`. A million records of 100 bytes take about 0.3 s without `visit`."""
        whole = hashlib.sha256()
        chunks: list[SourceChunk] = []
        header: tuple[str, ...] | None = self._dialect.columns
        cutter: ChunkCutter | None = None
        size = self._size()
        for records, data, offset in self._records(whole):
            if header is None and len(records):
                header = self._parse_header(records, data, offset)
                records = records.part(1, len(records))
            if cutter is None and len(records):
                cutter = ChunkCutter(rows_per_chunk(chunk_rows, records, size), bytes_per_chunk(size))
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
            self._file.name, self._read_bytes, whole.hexdigest(), header, rows, tuple(chunks)
        )

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """See `SourceReader.read_chunk`."""
        data = self._read_at(chunk.byte_offset, chunk.byte_length)
        if hashlib.sha256(data).hexdigest() != chunk.sha256:
            raise SourceChangedError(
                f"{self._file}: rows {chunk.first_row} to {chunk.first_row + chunk.row_count - 1} are not what they "
                "were when the source was registered: restore the file, or register it again."
            )
        scanner = self._scanner(chunk.byte_offset, chunk.first_line)
        records, _, _ = scanner.feed(data, last=True)
        if len(records) != chunk.row_count:
            raise SourceChangedError(
                f"{self._file}: rows {chunk.first_row} to {chunk.first_row + chunk.row_count - 1} now hold "
                f"{len(records)} records: the source's csv settings have changed since it was registered."
            )
        return self._extract(Piece(chunk.number, chunk.first_row, records, data, chunk.byte_offset), header)

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`."""
        texts = []
        with self._open() as opened:
            for offset, length in zip(offsets, lengths, strict=True):
                opened.seek(offset)
                texts.append(self._escaped(opened.read(min(length, RAW_BYTES_MAX)), length))
        return texts

    def fingerprint(self) -> tuple[int, str]:
        """See `SourceReader.fingerprint`."""
        with self._open() as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return opened.tell(), digest

    @staticmethod
    def empty_table(header: Sequence[str]) -> pa.Table:
        """EXTRACTED without rows."""
        return extracted_schema(header).empty_table()

    # --- the file -----------------------------------------------------------------------------------------------

    def _open(self) -> io.BufferedReader:
        try:
            if self._file.is_dir():
                raise SourceFileError(
                    f"{self._file}: is a directory: the source definition must name a file."
                )
            return self._file.open("rb")
        except FileNotFoundError:
            raise SourceFileError(
                f"{self._file}: there is no such file: check the source definition."
            ) from None
        except OSError as error:
            raise SourceFileError(
                f"{self._file}: cannot be read: {(error.strerror or str(error)).lower()}."
            ) from None

    def _size(self) -> int:
        with self._open() as opened:
            return opened.seek(0, io.SEEK_END)

    def _read_at(self, offset: int, length: int) -> bytes:
        with self._open() as opened:
            opened.seek(offset)
            return opened.read(length)

    def _scanner(self, offset: int, line: int) -> RecordScanner:
        return RecordScanner(self._dialect.delimiter, self._dialect.quote, offset=offset, line=line)

    def _records(self, whole: "hashlib._Hash") -> Iterator[tuple[Records, bytes, int]]:
        """All records block by block, with the bytes that they lie in; updates the hash of the whole file."""
        self._read_bytes = 0
        with self._open() as opened:
            start = opened.read(len(_UTF8_BOM))
            whole.update(start)
            self._read_bytes = len(start)
            is_bom = start == _UTF8_BOM and is_utf8(self._dialect.encoding)
            scanner = self._scanner(len(start) if is_bom else 0, 1)
            block = b"" if is_bom else start
            last = False
            while not last:
                read = opened.read(self._block_bytes)
                whole.update(read)
                self._read_bytes += len(read)
                last = not read
                try:
                    yield scanner.feed(block + read if block else read, last=last)
                except LineTooLongError as error:
                    raise SourceFileError(
                        f"{self._file}: line {error.line} is longer than {LINE_BYTES_MAX >> 20} MiB: "
                        "this is not a delimited text file."
                    ) from None
                block = b""

    def _parse_header(self, records: Records, data: bytes, offset: int) -> tuple[str, ...]:
        text = data[int(records.start[0]) - offset : int(records.end[0]) - offset]
        if records.problem[0]:
            raise SourceFileError(
                f"{self._file}: the header line has a quote that is never closed, or no end."
            )
        if b"\0" in text:
            raise SourceFileError(
                f"{self._file}: the header line holds NUL bytes: is it UTF-16? Convert it to UTF-8."
            )
        try:
            decoded = text.decode(self._dialect.encoding)
        except UnicodeDecodeError:
            raise SourceFileError(
                f"{self._file}: the header line is not {self._dialect.encoding}: set csv.encoding to what it is."
            ) from None
        dialect = self._dialect
        fields = csv.reader(
            io.StringIO(decoded, newline=""),
            delimiter=dialect.delimiter,
            quotechar=dialect.quote,
            quoting=csv.QUOTE_NONE if dialect.quote is None else csv.QUOTE_MINIMAL,
        )
        try:
            names = next(fields)
        except csv.Error as error:
            raise SourceFileError(f"{self._file}: the header line cannot be read: {error}.") from None
        header = tuple(name.strip() for name in names)
        for number, name in enumerate(header, start=1):
            if not name:
                raise SourceFileError(
                    f"{self._file}: column {number} has no name: the header line must name them all."
                )
            if name in RESERVED_NAMES:
                raise SourceFileError(
                    f"{self._file}: column {number} is named {name}, which is reserved: rename it."
                )
            if name in header[: number - 1]:
                raise SourceFileError(
                    f"{self._file}: columns {header.index(name) + 1} and {number} are both named {name!r}: rename one."
                )
        return header

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
        problems = _Problems(len(records))
        _mark_malformed(problems, records)
        _mark_bytes(problems, piece, self._dialect.encoding)
        fields = self._parse_fields(piece, header, problems)
        rows = np.arange(piece.first_row, piece.first_row + len(records), dtype=np.int64)
        lengths = records.end - records.start
        reserved = [pa.array(one) for one in (rows, records.line, records.start, lengths)]
        table = pa.table([*reserved, *problems.columns(), *fields.columns], schema=extracted_schema(header))
        assert table.num_rows == len(records), "a record was lost between its boundaries and its fields"
        return table

    def _parse_fields(self, piece: Piece, header: Sequence[str], problems: "_Problems") -> pa.Table:
        """The source's columns for every record; null where a record is malformed, which `problems` learns."""
        good = np.flatnonzero(problems.none())
        table, wrong = self._parse(_joined(piece, good), header)
        for row, count in wrong:
            problems.add(
                int(good[row]),
                RejectCode.WRONG_FIELD_COUNT,
                f"the record has {count} fields, the header {len(header)}",
            )
        good = np.delete(good, [row for row, _ in wrong])
        if table.num_rows != len(good):
            raise AssertionError(f"{self._file}: {len(good)} records parsed to {table.num_rows} rows")
        if len(good) == len(piece.records):
            return table
        places = np.full(len(piece.records), -1, dtype=np.int64)
        places[good] = np.arange(len(good))
        return table.take(pa.array(places, mask=places < 0))

    def _parse(
        self, data: bytes | memoryview, header: Sequence[str]
    ) -> tuple[pa.Table, list[tuple[int, int]]]:
        """Fields by Arrow's parser: all text, nothing guessed.

        Returns:
            The table of records with the right number of fields, and (0-based record, number of fields) of the others.
        """
        names = [f"c{number}" for number in range(len(header))]
        if not len(data):
            return pa.table([pa.array([], pa.string())] * len(names), names=list(header)), []
        if not is_utf8(self._dialect.encoding):
            data = bytes(data).decode(self._dialect.encoding).encode()
        if data[:3] == _UTF8_BOM:  # Arrow drops one; this one is the record's own
            data = _UTF8_BOM + bytes(data)
        wrong: list[tuple[int, int]] = []

        def note(row: arrow_csv.InvalidRow) -> str:
            wrong.append((row.number - 1, row.actual_columns))
            return "skip"

        table = arrow_csv.read_csv(
            pa.py_buffer(data),
            # One thread: only then are row numbers known, and the other core belongs to the database.
            arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            arrow_csv.ParseOptions(
                delimiter=self._dialect.delimiter,
                quote_char=self._dialect.quote or False,
                newlines_in_values=True,
                invalid_row_handler=note,
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[],
                strings_can_be_null=False,
                check_utf8=False,  # looked at before, so that one bad byte costs one row
            ),
        )
        return table.rename_columns(list(header)), wrong

    def _escaped(self, raw: bytes, length: int) -> str:
        text = raw.decode(self._dialect.encoding, errors="backslashreplace").replace("\0", "\\x00")
        return text if length == len(raw) else f"{text}… ({length} bytes)"


def check_header(definition: SourceDefinition, header: Sequence[str]) -> None:
    """Checks that the source has every column that its definition reads.

    Raises:
        SourceFileError: names column, key, file and the columns that there are.
    """
    for column, key in definition.columns_read().items():
        if column not in header:
            raise SourceFileError(
                f"{definition.file}: has no column {column!r}, which {key} in {definition.path} reads: "
                f"the columns are {', '.join(header)}."
            )


class _Problems:
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


def _mark_malformed(problems: _Problems, records: Records) -> None:
    for position in np.flatnonzero(records.problem).tolist():
        if records.problem[position] == UNTERMINATED:
            reason = f"a quote is opened on line {records.line[position]} and not closed within 1 MiB"
            problems.add(position, RejectCode.QUOTE_UNTERMINATED, reason)
        else:
            length = int(records.end[position] - records.start[position])
            problems.add(
                position, RejectCode.RECORD_TOO_LONG, f"the line has {length} bytes, at most 1 MiB is read"
            )


def _mark_bytes(problems: _Problems, piece: Piece, encoding: str) -> None:
    """Finds records with NUL and with bytes that the encoding does not know."""
    data = bytes(piece.data)
    if b"\0" in data:
        nul = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == 0) + piece.offset
        for position in np.unique(np.searchsorted(piece.records.start, nul, side="right") - 1).tolist():
            problems.add(position, RejectCode.NUL_BYTE, "the record holds a NUL byte")
    if data.isascii():
        return
    begin = 0
    stops = piece.records.following - piece.offset
    while begin < len(data):
        # In windows of whole records: decoding fails at the first bad byte, and must not start anew for all the rest.
        last = min(int(np.searchsorted(stops, begin + 65536)), len(stops) - 1)
        stop = int(stops[last])
        try:
            data[begin:stop].decode(encoding)
            begin = stop
        except UnicodeDecodeError as error:
            bad = begin + error.start + piece.offset
            position = int(np.searchsorted(piece.records.start, bad, side="right")) - 1
            problems.add(position, RejectCode.ENCODING_INVALID, f"byte {bad} of the file is not {encoding}")
            begin = int(stops[position])


def _joined(piece: Piece, good: npt.NDArray[np.int64]) -> bytes | memoryview:
    """The bytes of the good records; without a copy when all are good."""
    records, offset = piece.records, piece.offset
    if len(good) == 0:
        return b""
    data = memoryview(piece.data)
    breaks = np.flatnonzero(np.diff(good) != 1)
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
