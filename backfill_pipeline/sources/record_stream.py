"""Sources that can only be read from beginning to end: workbooks, statements, queries, APIs.

Belongs here: what such a source gives, piece by piece.
Does not: reading one again in parts, which needs a capture (`capture/captured_reader.py`); how any of them is read (one
package each).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pyarrow as pa

from backfill_pipeline.sources.malformed import Problems


@dataclass(frozen=True, slots=True)
class StreamedRecords:
    """The next records of a stream. All columns have the same length.

    Attributes:
        fields: one string column per column of the source, the same in every piece. Where the source has no value it is
            "", never null. Those of malformed records do not matter.
        lines: int64, where people find each record in the source: line, sheet row, number in the answer; from 1.
        raw: string, each record as the source holds it; null for those that are shown as an object of their fields.
        problems: which records are malformed, and why. Their raw text must be given.
        joined: boolean, true where a record must lie in the same chunk as the one before it; None: nowhere.
    """

    fields: pa.Table
    lines: pa.Array
    raw: pa.Array
    problems: Problems
    joined: pa.Array | None = None


@runtime_checkable
class Reporting(Protocol):
    """A stream that can tell how reading it went."""

    def report(self) -> Mapping[str, int]:
        """Names and counts for people, of the last call of `records`; empty before it."""
        ...


class RecordStream(Protocol):
    """A source that is read from beginning to end, in bounded memory. Holds nothing open between calls."""

    @property
    def place(self) -> str:
        """What it reads, for messages: a file, or a database or address without credentials."""
        ...

    @property
    def name(self) -> str:
        """Short name for lists of sources: the last part of a path, a table, an address."""
        ...

    def records(self) -> Iterator[StreamedRecords]:
        """All records in their order, in pieces of some ten thousand; at least one piece, which tells the columns.

        Raises:
            SourceFileError: it cannot be read, or is not shaped as its definition says.
            TransientSourceError: it may be readable when tried again.
        """
        ...

    def fingerprint(self) -> tuple[int, str] | None:
        """Size in bytes and SHA-256 of the file that is read; None when only reading everything could tell."""
        ...
