"""What every kind of source offers: a survey in one pass, and chunks that can be read again and again.

Belongs here: the shapes that pass between a reader and the stages.
Does not: how a CSV, an API or a database is read (one module each).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SourceChunk:
    """A run of consecutive records that is read, mapped and posted as one partition.

    Attributes:
        number: 1-based, in source order.
        first_row: 1-based number of its first data record in the whole source.
        row_count: records in it, malformed ones included.
        first_line: 1-based physical line of its first record, in its own file.
        byte_offset: where its first record starts; in the unpacked content of a compressed file. Readers of what is not
            bytes, or not one file, count in units of their own (`files/parquet_reader.py`, `several.py`).
        byte_length: up to and including the line terminator of its last record, in the same units.
        sha256: of exactly this part, hexadecimal.
    """

    number: int
    first_row: int
    row_count: int
    first_line: int
    byte_offset: int
    byte_length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source of several.

    Attributes:
        name: last part of its path; bytes of it that are no text come as backslash escapes.
        size_bytes: as it is (packed, when it is).
        sha256: of these bytes, hexadecimal.
        row_count: data records in it.
    """

    name: str
    size_bytes: int
    sha256: str
    row_count: int


@dataclass(frozen=True, slots=True)
class SourceManifest:
    """What one pass over a source found out.

    Attributes:
        file_name: last part of the path; of the first one, with how many more there are.
        size_bytes: of the whole file, or of all files together, as they are (packed, when they are).
        sha256: of the whole file; of several, over all names and contents. Hexadecimal.
        header: column names, in file order.
        row_count: data records, malformed ones included; the sum over `chunks`.
        chunks: at most `CHUNK_COUNT_MAX`, in source order; none when there is no data record.
        files: of a source of several, in the order in which they are read.
        details: how reading it went, as names and counts for people; empty where there is nothing to tell.
    """

    file_name: str
    size_bytes: int
    sha256: str
    header: tuple[str, ...]
    row_count: int
    chunks: tuple[SourceChunk, ...]
    files: tuple[SourceFile, ...] = ()
    details: Mapping[str, int] = field(default_factory=dict)


CHUNK_COUNT_MAX = 2000
"""Chunks become Dagster partitions, and lists of many thousands make its UI and its storage slow."""


class SourceReader(Protocol):
    """Reads one source. Holds no open file between calls, so it can be used from any process."""

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """Reads the source once, in bounded memory: fingerprints it, counts it, cuts it into chunks.

        Args:
            chunk_rows: records per chunk; raised when the source would give more than `CHUNK_COUNT_MAX` chunks.
            visit: is called with EXTRACTED tables in source order, one after the other all of the source; records are
                only parsed when given.

        Raises:
            SourceFileError: missing, unreadable, empty, or not shaped as its definition says.
        """
        ...

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """One chunk as an EXTRACTED table of `chunk.row_count` rows.

        Raises:
            SourceChangedError: the bytes are not those of the survey any more.
            SourceFileError: missing or unreadable.
        """
        ...

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """The text of records as the source holds it, for people who look at rejects.

        Bytes that the encoding does not know, and NUL, come as backslash escapes; very long records are cut.
        """
        ...

    def fingerprint(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of the source as it is now, for the check before a resume."""
        ...
