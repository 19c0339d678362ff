"""An API as a stream of records: every question that its definition asks, every page of every answer.

Belongs here: the `RecordStream` of an API.
Does not: pages (`pages.py`), keeping what was read (`sources/capture/captured_reader.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa

from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.sources.files.json_records import JsonTree
from backfill_pipeline.sources.http.client import ApiClient
from backfill_pipeline.sources.http.json_page import JsonRecords
from backfill_pipeline.sources.http.pages import ApiPages, columns_of
from backfill_pipeline.sources.http.windows import questions
from backfill_pipeline.sources.malformed import Problems
from backfill_pipeline.sources.record_stream import StreamedRecords

PIECE_RECORDS: Final = 10_000
PIECE_BYTES: Final = 8 << 20


class ApiStream:
    """The `RecordStream` of an API."""

    def __init__(self, api: ApiSource, columns: Sequence[str], *, client: ApiClient | None = None) -> None:
        """
        Args:
            api: the section of the definition.
            columns: dotted paths; only these are read.
            client: asks this API, for one who reads much of it: it stays open. None: one of its own for each reading.

        Raises:
            SourceDefinitionError: a path leads through the value of another.
        """
        self._api = api
        self._client = client
        self._tree = JsonTree(columns, "record")
        self._report: dict[str, int] = {}

    @property
    def place(self) -> str:
        """The address, without parameters."""
        return self._api.address

    @property
    def name(self) -> str:
        """The address without its scheme."""
        return self._api.name

    def fingerprint(self) -> None:
        """None: only asking for everything could tell."""
        return None

    def report(self) -> dict[str, int]:
        """How the last reading went: pages, records, repeated and changed records, requests, retries and bytes."""
        return self._report

    def records(self) -> Iterator[StreamedRecords]:
        """See `RecordStream`. Its first piece is the first page, so that a look at few records asks for little."""
        held: list[JsonRecords] = []
        given = held_records = held_bytes = 0
        asking = ApiClient(self._api) if self._client is None else nullcontext(self._client)
        with asking as client:
            pages = ApiPages(client, self._api)
            seen: set[bytes] = set()
            for question in questions(self._api.windows, datetime.now(UTC)):
                for page in pages.fetch(question, seen=seen):
                    self._report = self._counts(pages, client)
                    if not len(page.records):
                        continue
                    held.append(page.records)
                    held_records += len(page.records)
                    held_bytes += len(page.records.data)
                    # As many as were given already, so that pieces grow while somebody wants more.
                    if held_records >= min(PIECE_RECORDS, max(given, 1)) or held_bytes >= PIECE_BYTES:
                        yield self._piece(held, given)
                        given += held_records
                        held, held_records, held_bytes = [], 0, 0
                self._report = self._counts(pages, client)
        if held or not given:
            yield self._piece(held, given)

    def _counts(self, pages: ApiPages, client: ApiClient) -> dict[str, int]:
        """A client that others use as well knows the traffic of all of them."""
        return pages.counts() if self._client is not None else {**pages.counts(), **client.traffic()}

    def _piece(self, pages: Sequence[JsonRecords], given: int) -> StreamedRecords:
        count = sum(len(one) for one in pages)
        problems = Problems(count)
        tables = [self._tree.schema.empty_table()]
        raw = [pa.array([], pa.string())]
        first = 0
        for one in pages:
            tables.append(columns_of(one, self._tree, problems, first))
            raw.append(one.texts())
            first += len(one)
        return StreamedRecords(
            fields=pa.concat_tables(tables).combine_chunks(),
            lines=pa.array(np.arange(given + 1, given + count + 1, dtype=np.int64)),
            raw=pa.concat_arrays(raw),
            problems=problems,
        )
