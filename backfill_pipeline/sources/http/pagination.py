"""How the pages of an answer follow each other, and when the last one is reached.

Belongs here: one pager per kind of pagination; each serves one sequence of pages.
Does not: asking (`pages.py`), what a definition may say (`definition/api.py`).

Where an API could end too early without anybody noticing, a pager refuses instead of believing it: a first page that is
full and does not say how to go on, a server that gives smaller pages than it was asked for, a flag that is not there.
"""

from dataclasses import dataclass
from typing import Final, Protocol

import httpx

from backfill_pipeline.definition.api import ApiSource, Cursors, Links, Offsets, PageNumbers, SinglePage
from backfill_pipeline.sources.http.addresses import next_link
from backfill_pipeline.sources.http.failures import AnswerError
from backfill_pipeline.sources.http.json_page import JsonPage, LinesPage
from backfill_pipeline.wording import counted

_SHOWN: Final = 60
_BEHIND_THE_END: Final = (
    "when the API answers so behind its last page, say how the end is told: pagination.has_more, or pagination.end:"
    " total or short_page"
)


@dataclass(frozen=True, slots=True)
class Step:
    """What to ask for next.

    Attributes:
        params: beside those that every page is asked for with; with `link`, all of them.
        link: the address as the server wrote it, instead of the definition's.
        shown: what it is, for messages.
        hint: what else may be the matter when the server knows no such page.
    """

    params: tuple[tuple[str, str], ...]
    link: str | None = None
    shown: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A page that was read.

    Attributes:
        number: from 1.
        page: its body.
        headers: of its answer.
        read: records on it and all before it.
        total: how many there are, as far as the API says so.
    """

    number: int
    page: JsonPage | LinesPage
    headers: httpx.Headers
    read: int
    total: int | None

    @property
    def count(self) -> int:
        """Records on this page."""
        return len(self.page.records)


class Pager(Protocol):
    """One way in which pages follow each other."""

    def first(self) -> Step:
        """How to ask for the first page."""
        ...

    def after(self, seen: Seen) -> Step | None:
        """How to ask for the page after this one; None when this is the last one.

        Raises:
            AnswerError: the page does not say what it must.
        """
        ...


def pager_of(api: ApiSource) -> Pager:
    """The pager of a definition."""
    match api.pagination:
        case PageNumbers() | Offsets() as pagination:
            return _CountingPager(pagination)
        case Cursors() as pagination:
            return _CursorPager(pagination)
        case Links() as pagination:
            return _LinkPager(pagination)
        case SinglePage():
            return _SinglePager()


def paths_read(api: ApiSource) -> list[str]:
    """The values beside the records that a pager, and the check of totals, look at."""
    keys = ("next", "has_more")
    found = [getattr(api.pagination, key, None) for key in keys]
    return [path for path in (*found, api.total) if path is not None]


class _CountingPager:
    """Page numbers and offsets."""

    def __init__(self, pagination: PageNumbers | Offsets) -> None:
        self._pagination = pagination

    def first(self) -> Step:
        return self._step(0, 0)

    def after(self, seen: Seen) -> Step | None:
        pagination = self._pagination
        if pagination.has_more is not None:
            ended = not _flag(seen.page, pagination.has_more)
            if not ended and seen.count == 0 and isinstance(pagination, Offsets):
                raise AnswerError(f"says at {pagination.has_more} that more follows, but gives an empty page")
        elif pagination.end == "total":
            ended = seen.count == 0 or (seen.total is not None and seen.read >= seen.total)
        elif pagination.end == "short_page":
            ended = self._short(seen)
        else:
            ended = seen.count == 0
        return None if ended else self._step(seen.number, seen.read)

    def _short(self, seen: Seen) -> bool:
        """Whether this is the last page. A short first page may also be all that the server ever gives at once."""
        size = self._pagination.size
        assert size is not None  # the definition insists on it
        if seen.number == 2 and seen.read - seen.count < size and seen.count:
            raise AnswerError(
                f"gives pages of {counted(seen.read - seen.count, 'record')} where {size} were asked for, so a"
                " short page is not the last one: set pagination.size to what it gives, or use end: empty_page"
            )
        return seen.count < size and (seen.number > 1 or seen.count == 0)

    def _step(self, pages: int, records: int) -> Step:
        pagination = self._pagination
        number = records if isinstance(pagination, Offsets) else pagination.first + pages
        text = f"{pagination.param}={number}"
        hint = "" if pages == 0 else _BEHIND_THE_END
        return Step(((pagination.param, str(number)), *_size(pagination)), shown=text, hint=hint)


class _CursorPager:
    """Cursors, from the answer or from its last record."""

    def __init__(self, pagination: Cursors) -> None:
        self._pagination = pagination

    def first(self) -> Step:
        return Step(_size(self._pagination))

    def after(self, seen: Seen) -> Step | None:
        pagination = self._pagination
        more = None if pagination.has_more is None else _flag(seen.page, pagination.has_more)
        if more is False:
            return None
        cursor = self._cursor(seen)
        if cursor is None:
            if more:
                raise AnswerError(
                    f"says at {pagination.has_more} that more follows, but gives no cursor for it"
                )
            if pagination.next is not None and not seen.page.has(pagination.next):
                _refuse_full_first_page(seen, pagination.size, f"there is no {pagination.next}")
            return None
        shown = cursor if len(cursor) <= _SHOWN else cursor[:_SHOWN] + "…"
        return Step(((pagination.param, cursor), *_size(pagination)), shown=f"{pagination.param}={shown!r}")

    def _cursor(self, seen: Seen) -> str | None:
        pagination = self._pagination
        if pagination.next is not None:
            value, path = seen.page.value(pagination.next), pagination.next
        elif not seen.count:
            return None
        else:
            assert pagination.last_record is not None  # one of the two
            path = pagination.last_record
            value = _value_in(seen.page.records.last(), path)
            if value is None or value == "":
                raise AnswerError(f"gives a last record without {path}, which is the cursor")
        if isinstance(value, bool):
            raise AnswerError(f"holds {str(value).lower()} at {path}, which is no cursor")
        return value or None


class _LinkPager:
    """Addresses of the next page, from the Link header or from the body."""

    def __init__(self, pagination: Links) -> None:
        self._pagination = pagination

    def first(self) -> Step:
        return Step(_size(self._pagination))

    def after(self, seen: Seen) -> Step | None:
        pagination = self._pagination
        more = None if pagination.has_more is None else _flag(seen.page, pagination.has_more)
        if more is False:
            return None
        link: str | bool | None
        if pagination.next is None:
            link, where, said = next_link(seen.headers), "there is no Link header for it", False
        else:
            link, where = seen.page.value(pagination.next), f"there is no {pagination.next}"
            said = seen.page.has(pagination.next)
        if isinstance(link, bool):
            raise AnswerError(f"holds {str(link).lower()} at {pagination.next}, which is no address")
        if not link:
            if more:
                raise AnswerError(f"says at {pagination.has_more} that more follows, but gives no link to it")
            if not said:
                _refuse_full_first_page(seen, pagination.size, where)
            return None
        return Step((), link, "the page that is linked to")


class _SinglePager:
    """Everything at once."""

    def first(self) -> Step:
        return Step(())

    def after(self, seen: Seen) -> Step | None:
        if next_link(seen.headers) is not None:
            raise AnswerError(
                "links to a next page in its Link header, but pagination is kind: none, so it would be lost: write"
                " pagination: {kind: link}"
            )
        return None


def _value_in(record: str, path: str) -> str | bool | None:
    """A single value of one record."""
    wrapped = f'{{"records":[],"last":{record}}}'.encode()
    return JsonPage(wrapped, "records", (f"last.{path}",)).value(f"last.{path}")


def _flag(page: JsonPage | LinesPage, path: str) -> bool:
    value = page.value(path)
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise AnswerError(f"has neither true nor false at {path}, where pagination.has_more looks")


def _refuse_full_first_page(seen: Seen, size: int | None, where: str) -> None:
    """A page that says nothing about a next one is the last one, unless it looks as if the wrong place was asked."""
    if seen.number == 1 and size is not None and seen.count >= size and seen.total is None:
        raise AnswerError(
            f"gives a first page that is full ({counted(seen.count, 'record')}) and does not say how to go on:"
            f" {where}; check api.pagination, state api.total, or ask for another size if these are all"
        )


def _size(pagination: PageNumbers | Offsets | Cursors | Links) -> tuple[tuple[str, str], ...]:
    if pagination.size_param is None:
        return ()
    return ((pagination.size_param, str(pagination.size)),)
