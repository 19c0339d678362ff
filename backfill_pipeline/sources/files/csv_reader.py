"""Delimited text files: the header line and the fields of records, parsed by Arrow.

Belongs here: what is special to delimited text.
Does not: where records begin and end (`csv_records.py`), chunks (`records_reader.py`), what columns mean (`mapping/`).
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from backfill_pipeline.definition.encodings import is_utf8
from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.files.chunks import Piece
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.files.content import Content
from backfill_pipeline.sources.files.csv_records import (
    UNTERMINATED,
    WELL_FORMED,
    Records,
    RecordScanner,
    escaping,
)
from backfill_pipeline.sources.files.records_reader import BLOCK_BYTES, UTF8_BOM, RecordsReader, joined
from backfill_pipeline.sources.headers import named_columns
from backfill_pipeline.sources.malformed import Problems, spread
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX

_IS_LETTER_OR_DIGIT: Final = np.array([chr(byte).isalnum() and byte < 128 for byte in range(256)])


class CsvReader(RecordsReader):
    """The `SourceReader` of delimited files."""

    def __init__(
        self,
        file: Path | Content,
        dialect: CsvDialect,
        *,
        block_bytes: int = BLOCK_BYTES,
        chunk_count_max: int = CHUNK_COUNT_MAX,
    ) -> None:
        """
        Args:
            file: absolute path, or its content.
            dialect: how it is written.
            block_bytes: as in `RecordsReader`.
            chunk_count_max: as in `RecordsReader`.
        """
        super().__init__(
            content_of(file, None) if isinstance(file, Path) else file,
            dialect.encoding,
            block_bytes=block_bytes,
            chunk_count_max=chunk_count_max,
            skip_lines=dialect.skip_lines,
            skip_footer_lines=dialect.skip_footer_lines,
        )
        self._dialect = dialect

    def _known_header(self) -> tuple[str, ...] | None:
        return self._dialect.columns

    def _scanner(self, offset: int, line: int) -> RecordScanner:
        dialect = self._dialect
        return RecordScanner(
            dialect.delimiter, dialect.quote, escape=dialect.escape, offset=offset, line=line
        )

    def _only_records(self, records: Records, data: bytes, offset: int) -> Records:
        """Leaves out records that begin with the comment character."""
        if self._dialect.comment is None or not len(records):
            return records
        first = np.frombuffer(data, dtype=np.uint8)[records.start - offset]
        kept = first != ord(self._dialect.comment)
        return records if kept.all() else records.where(kept)

    def _parse_header(self, text: bytes, problem: int) -> tuple[str, ...]:
        if problem != WELL_FORMED:
            what = "a quote that is never closed" if problem == UNTERMINATED else "no end"
            raise SourceFileError(f"{self._file}: the header line has {what}.")
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
            escapechar=dialect.escape,
            quoting=csv.QUOTE_NONE if dialect.quote is None else csv.QUOTE_MINIMAL,
        )
        try:
            names = next(fields)
        except csv.Error as error:
            raise SourceFileError(f"{self._file}: the header line cannot be read: {error}.") from None
        return named_columns(self._file, names)

    def _fields(self, piece: Piece, header: Sequence[str], problems: Problems) -> pa.Table:
        """See `RecordsReader`; also finds records with more or fewer fields than the header, and doubtful escapes."""
        self._mark_open_escapes(piece, problems)
        good = np.flatnonzero(problems.none())
        table, wrong = self._parse(joined(piece, good), header)
        for row, count in wrong:
            problems.add(
                int(good[row]),
                RejectCode.WRONG_FIELD_COUNT,
                f"the record has {count} fields, the header {len(header)}",
            )
        good = np.delete(good, [row for row, _ in wrong])
        if self._dialect.escape is not None:
            table, good = self._without_doubts(table, good, problems)
        return spread(table, good, len(piece.records))

    def _mark_open_escapes(self, piece: Piece, problems: Problems) -> None:
        """Finds the record that ends with an escape of nothing, which only the last one of a file can."""
        escape = self._dialect.escape
        if escape is None or not len(piece.records):
            return
        begin, end = (int(one[-1]) - piece.offset for one in (piece.records.start, piece.records.end))
        places = escaping(np.frombuffer(piece.data, dtype=np.uint8)[begin:end], ord(escape))
        if len(places) and places[-1] == end - begin - 1:
            what = f"the record ends with {escape}, which stands before nothing"
            problems.add(len(piece.records) - 1, RejectCode.RECORD_MALFORMED, what)

    def _without_doubts(
        self, table: pa.Table, good: npt.NDArray[np.int64], problems: Problems
    ) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        r"""The fields after what `_marked` did: `\N` alone is empty, any other such pair a problem of its record."""
        doubtful = np.zeros(len(good), dtype=bool)
        for place, name in enumerate(table.column_names):
            column = table[name]
            if not pc.any(pc.match_substring(column, "\0")).as_py():
                continue
            column = pc.if_else(pc.equal(column, "\0N"), "", column)
            found = pc.match_substring(column, "\0").to_numpy()
            for row in np.flatnonzero(found & ~doubtful).tolist():
                text = column[row].as_py()
                pair = self._dialect.escape + text[text.index("\0") + 1]
                what = f"{name} holds {pair}, whose meaning is not stated: only marks may be escaped"
                problems.add(int(good[row]), RejectCode.RECORD_MALFORMED, what)
            doubtful |= found
            table = table.set_column(place, name, column)
        if not doubtful.any():
            return table, good
        return table.filter(pa.array(~doubtful)), good[~doubtful]

    def _marked(self, data: bytes | memoryview) -> bytes | memoryview:
        r"""Escapes of letters and digits as NUL, which no good record holds.

        Programs escape marks, and mean the mark. What `\n` means differs between them, and as a rule `\N` is nothing.
        """
        escape = self._dialect.escape
        if escape is None or escape.encode() not in bytes(data):
            return data
        found = np.frombuffer(data, dtype=np.uint8)
        places = escaping(found, ord(escape))
        places = places[places + 1 < len(found)]
        places = places[_IS_LETTER_OR_DIGIT[found[places + 1]]]
        if not len(places):
            return data
        changed = found.copy()
        changed[places] = 0
        return changed.tobytes()

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
        if data[:3] == UTF8_BOM:  # Arrow drops one; this one is the record's own
            data = UTF8_BOM + bytes(data)
        data = self._marked(data)
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
                escape_char=self._dialect.escape or False,
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
