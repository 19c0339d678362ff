"""All pages of the answer to one question.

Belongs here: following pages to the last one, and refusing those that repeat or do not add up.
Does not: which questions are asked (`windows.py`), from records to columns (`stream.py`).

Usable by whoever needs everything that an API says about some parameters, in this order and no more than once: several
threads may fetch from one `ApiPages` at the same time, and each fetch keeps its own account.
"""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.sources.files.json_records import JsonTexts, JsonTree
from backfill_pipeline.sources.http.client import ApiClient
from backfill_pipeline.sources.http.failures import AnswerError
from backfill_pipeline.sources.http.json_page import JsonPage, JsonRecords, LinesPage
from backfill_pipeline.sources.http.pagination import Seen, Step, pager_of, paths_read
from backfill_pipeline.sources.http.repeats import Repeats
from backfill_pipeline.sources.http.transport import Answer
from backfill_pipeline.sources.malformed import Problems, spread
from backfill_pipeline.wording import counted

WINDOW_BYTES: Final = 2 << 20
"""Turned into columns at once; what is known of every byte takes some ten times as much."""

AnyPage = JsonPage | LinesPage


@dataclass(frozen=True, slots=True)
class Page:
    """One page of records, as they are written in the answer.

    Attributes:
        number: from 1, of this fetch.
        records: may be none.
    """

    number: int
    records: JsonRecords


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked for: the parameters, and how messages name them."""

    params: tuple[tuple[str, str], ...]
    shown: str

    def part(self, step: Step, number: int) -> str:
        return ", ".join(one for one in (f"page {number}", step.shown, self.shown) if one)


class ApiPages:
    """Fetches everything that an API answers to a question, page by page."""

    def __init__(self, client: ApiClient, api: ApiSource) -> None:
        """
        Args:
            client: asks the API.
            api: how its pages follow each other, and where the records are.
        """
        self._client = client
        self._api = api
        self._paths = paths_read(api)
        self._key = None if api.key is None else JsonTree([api.key], "record")
        self._lock = threading.Lock()
        self._counts = {"pages": 0, "records": 0, "repeated_records": 0, "changed_records": 0}

    def counts(self) -> dict[str, int]:
        """Pages and records so far, and of these the repeated ones (with a key that was seen before in the same fetch)
        and the changed ones (repeated with another content).
        """
        with self._lock:
            return dict(self._counts)

    def fetch(
        self, params: Mapping[str, str] | None = None, *, seen: set[bytes] | None = None
    ) -> Iterator[Page]:
        """All pages for these parameters, in the order in which they are served.

        Args:
            params: what is asked for, beside what the definition always asks for.
            seen: shared by fetches that must not give the same page, such as those of several windows; unless given,
                only pages of this fetch must differ.

        Raises:
            SourceFileError: the API refuses, repeats itself, or says another total than it gives.
            TransientSourceError: a page could not be read within the tries that the definition allows.
        """
        asked = tuple((params or {}).items())
        question = _Question(
            (*self._api.params.items(), *asked), ", ".join(f"{name}={value}" for name, value in asked)
        )
        pager = pager_of(self._api)
        account = _Account(self._api, self._key)
        known = set() if seen is None else seen
        step: Step | None = pager.first()
        seen_on: httpx.URL | None = None
        number = 0
        while step is not None:
            number += 1
            part = question.part(step, number)
            if number > self._api.max_pages:
                raise self._client.refuse(
                    f"gives more than {self._api.max_pages:,} pages: raise api.max_pages", part
                )
            try:
                account.refuse_known(step)
                page, answer = self._page(question, step, seen_on, part)
                self._refuse_repeated(page, known)
                total = account.add(page, answer.headers)
                self._count(page)
                yield Page(number, page.records)
                seen_on = answer.url
                step = pager.after(Seen(number, page, answer.headers, account.records, total))
            except AnswerError as error:
                raise self._client.refuse(str(error), part) from None
        repeats = account.repeats.count()
        with self._lock:
            self._counts["repeated_records"] += repeats.total
            self._counts["changed_records"] += repeats.differing
        if (problem := account.disagreement(repeats.total)) is not None:
            raise self._client.refuse(problem, question.shown)

    def _page(
        self, question: _Question, step: Step, seen_on: httpx.URL | None, part: str
    ) -> tuple[AnyPage, Answer]:
        def read(answer: Answer) -> tuple[AnyPage, Answer]:
            if answer.status == 204 or self._api.format == "jsonl":
                return LinesPage(answer.body), answer
            return JsonPage(answer.body, self._api.records, self._paths), answer

        if step.link is None:
            return self._client.get((*question.params, *step.params), read, part=part, hint=step.hint)
        assert seen_on is not None  # a link comes from a page
        return self._client.get((), read, url=self._client.link(step.link, seen_on), part=part)

    def _refuse_repeated(self, page: AnyPage, seen: set[bytes]) -> None:
        """A server that does not understand the parameter for the next page gives the same one for ever."""
        if not len(page.records):
            return
        digest = hashlib.sha256(page.records.data).digest()[:16]
        with self._lock:
            known = digest in seen
            seen.add(digest)
        if known:
            raise AnswerError(
                f"gives a page of {counted(len(page.records), 'record')} that it gave before, word for word: check"
                " the parameters of api.pagination and api.windows, which it seems to ignore"
            )

    def _count(self, page: AnyPage) -> None:
        with self._lock:
            self._counts["pages"] += 1
            self._counts["records"] += len(page.records)


class _Account:
    """What one fetch has seen."""

    def __init__(self, api: ApiSource, key: JsonTree | None) -> None:
        self._api = api
        self._key = key
        self._steps: set[bytes] = set()
        self.records = 0
        self.total: int | None = None
        self.repeats = Repeats()

    def refuse_known(self, step: Step) -> None:
        """The same request twice in one fetch is a loop."""
        identity = hashlib.sha256(repr((step.link, step.params)).encode()).digest()[:16]
        if identity in self._steps:
            raise AnswerError("is to be asked for once more, so its pages lead in a circle")
        self._steps.add(identity)

    def add(self, page: AnyPage, headers: httpx.Headers) -> int | None:
        """Counts a page; gives the total as it is stated now."""
        self.records += len(page.records)
        if self._key is not None and len(page.records):
            self.repeats.add(keys_of(page.records, self._key), page.records.texts())
        stated = self._stated(page, headers)
        if stated is not None:
            self.total = stated
        elif self.total is None and self._api.states_total and len(page.records):
            where = self._api.total or f"the header {self._api.total_header}"
            raise AnswerError(f"does not say how many records there are: there is no number at {where}")
        return self.total

    def disagreement(self, repeated_records: int) -> str | None:
        """What is wrong with the number of records, or None."""
        if self.total is None or self.records - repeated_records == self.total:
            return None
        repeated = f" ({repeated_records:,} of them once more)" if repeated_records else ""
        return (
            f"says that there are {self.total:,} records, but gave {self.records:,}{repeated}: it may have changed"
            " while it was read, so try again, or check api.pagination and api.total"
        )

    def _stated(self, page: AnyPage, headers: httpx.Headers) -> int | None:
        if self._api.total_header is not None:
            text: str | bool | None = headers.get(self._api.total_header)
        elif self._api.total is not None:
            text = page.value(self._api.total)
        else:
            return None
        if text is None:
            return None
        if isinstance(text, bool) or not text.strip().isdecimal() or len(text) > 18:
            raise AnswerError(f"says that there are {str(text)[:40]!r} records, which is no number")
        return int(text)


def keys_of(records: JsonRecords, tree: JsonTree) -> pa.Array:
    """The value of a tree's only path in each record; "" in those that cannot be read."""
    table = columns_of(records, tree, Problems(len(records)), 0)
    return table.column(0).combine_chunks()


def columns_of(records: JsonRecords, tree: JsonTree, problems: Problems, first: int) -> pa.Table:
    """Records as columns of text; "" in those that cannot be read.

    Args:
        records: as they are written.
        tree: the paths to read.
        problems: gets what is wrong with records.
        first: position of the first record among those that `problems` is about.
    """
    before = problems.none()[first : first + len(records)]
    tables = [tree.schema.empty_table()]
    for begin, stop in records.windows(WINDOW_BYTES):
        data, starts = records.part(begin, stop)
        positions = np.arange(first + begin, first + stop, dtype=np.int64)
        tables += JsonTexts(data, starts, tree).parse(problems, positions)
    parsed = pa.concat_tables(tables).combine_chunks()
    good = np.flatnonzero(problems.none()[first : first + len(records)] & before)
    table = spread(parsed, good, len(records))
    return pa.table([pc.fill_null(column, "") for column in table.columns], schema=tree.schema)
