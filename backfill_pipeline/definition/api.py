"""An HTTP API as a source: the section `api` of a definition.

Belongs here: where the API is, how it is asked, how its answers go on and end, and what must hold between these keys.
Does not: who asks, as in credentials (`api_auth.py`), asking (`sources/http/`), what columns mean (`fields.py`).
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PrivateAttr, Tag, model_validator

from backfill_pipeline.definition.api_auth import (
    ApiKeyAuth,
    kinds,
    looks_secret,
    tag_of,
)
from backfill_pipeline.definition.base import Model, Name, ZoneName, between, problem
from backfill_pipeline.definition.http_access import HttpAccess

TODAY: Final = "today"
DATE_FORMATS: Final = ("date", "iso8601", "iso8601_utc", "epoch_seconds", "epoch_milliseconds")


def _dotted(path: str) -> str:
    if not all(part.strip() for part in path.split(".")):
        raise problem("is no dotted path of names, such as meta.next_cursor", value=path)
    return path


def _page_size(size: int) -> int:
    if not 1 <= size <= 1_000_000:
        raise problem("is outside the allowed range of 1 to 1000000", value=str(size))
    return size


DottedPath = Annotated[str, AfterValidator(_dotted)]
_Size = Annotated[int, AfterValidator(_page_size)]


# --- pagination -------------------------------------------------------------------------------------------------


class _Sized(Model):
    """How many records are asked for at once."""

    size_param: Name | None = None
    size: _Size | None = None

    @model_validator(mode="after")
    def _both_sizes(self) -> Self:
        if self.size_param is not None and self.size is None:
            raise problem("is needed with size_param: how many records to ask for", "size")
        return self

    def params(self) -> tuple[str, ...]:
        """The parameters that it sets."""
        return () if self.size_param is None else (self.size_param,)


class _Counted(_Sized):
    """Pages that are asked for by a number, so that something must tell which is the last one."""

    end: Literal["empty_page", "short_page", "total"] = "empty_page"
    has_more: DottedPath | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.has_more is not None and "end" in self.model_fields_set:
            raise problem("is given beside has_more, which tells the end: remove one of them", "end")
        if self.end == "short_page" and self.size is None:
            raise problem("is needed with end: short_page, to know which page is short", "size")
        return self


class PageNumbers(_Counted):
    """`page=1`, `page=2`, …"""

    kind: Literal["page"]
    param: Name = "page"
    first: Annotated[int, between(0, 1)] = 1

    def params(self) -> tuple[str, ...]:
        """The parameters that it sets."""
        return (self.param, *super().params())


class Offsets(_Counted):
    """`offset=0`, `offset=100`, …: as many records are passed over as were read."""

    kind: Literal["offset"]
    param: Name = "offset"

    def params(self) -> tuple[str, ...]:
        """The parameters that it sets."""
        return (self.param, *super().params())


class Cursors(_Sized):
    """Each answer says what to send to get the next one, or the last record does."""

    kind: Literal["cursor"]
    param: Name = "cursor"
    next: DottedPath | None = None
    last_record: DottedPath | None = None
    has_more: DottedPath | None = None

    @model_validator(mode="after")
    def _one_cursor(self) -> Self:
        if (self.next is None) == (self.last_record is None):
            raise problem(
                "needs either next (where the answer holds the cursor) or last_record (which value of the last"
                " record is the cursor)"
            )
        return self

    def params(self) -> tuple[str, ...]:
        """The parameters that it sets."""
        return (self.param, *super().params())


class Links(_Sized):
    """Each answer holds the address of the next one: in its Link header (RFC 8288), or in its body."""

    kind: Literal["link"]
    next: DottedPath | None = None
    has_more: DottedPath | None = None


class SinglePage(Model):
    """One answer holds everything."""

    kind: Literal["none"]

    def params(self) -> tuple[str, ...]:
        """None."""
        return ()


Pagination = PageNumbers | Offsets | Cursors | Links | SinglePage
_PaginationField = Annotated[
    Annotated[PageNumbers, Tag("<page>")]
    | Annotated[Offsets, Tag("<offset>")]
    | Annotated[Cursors, Tag("<cursor>")]
    | Annotated[Links, Tag("<link>")]
    | Annotated[SinglePage, Tag("<none>")],
    Discriminator(tag_of),
    BeforeValidator(kinds("page", "offset", "cursor", "link", "none")),
]


# --- windows ----------------------------------------------------------------------------------------------------


def day_text(value: object, also: str = "") -> object:
    """A day from its text; anything but a text is left to the type."""
    if not isinstance(value, str):
        return value
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise problem(f"is no day: allowed is such as 2024-01-31{also}", value=value)


def _day_or_today(value: object) -> object:
    return value if value == TODAY else day_text(value, " or today")


class Windows(Model):
    """Everything is asked for in spans of days, one after the other, without gap or overlap.

    A span begins with the first moment of its first day in the time zone, and ends before that of the next span.
    """

    from_: Name = Field(default="from", alias="from")
    to: Name = "to"
    start: Annotated[date, BeforeValidator(day_text)]
    end: Annotated[date | Literal["today"], BeforeValidator(_day_or_today)]
    days: Annotated[int, between(1, 3660)]
    format: str = "date"
    timezone: ZoneName = "UTC"
    to_inclusive: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.from_ == self.to:
            raise problem("must differ from from", "to", self.to)
        if isinstance(self.end, date) and self.end <= self.start:
            raise problem("must be after start; the day itself is not read", "end", str(self.end))
        if self.format not in DATE_FORMATS:
            days = {self._written(date(2024, 1, 31) + timedelta(days=day)) for day in (0, 1, 366)}
            if "%" not in self.format or len(days) < 3:
                raise problem(
                    f"does not tell one day from another: allowed are {', '.join(DATE_FORMATS)}, or such as %d.%m.%Y",
                    "format",
                    self.format,
                )
        if self.to_inclusive and not self._is_day():
            raise problem(
                "is only for formats that hold days without times: with times, no moment is the last one",
                "to_inclusive",
            )
        return self

    def _written(self, day: date) -> str:
        return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(self.timezone)).strftime(self.format)

    def _is_day(self) -> bool:
        if self.format in DATE_FORMATS:
            return self.format == "date"
        morning = datetime(2024, 1, 31, 1, 1, 1, 1, tzinfo=ZoneInfo("UTC"))
        evening = datetime(2024, 1, 31, 23, 59, 59, 2, tzinfo=ZoneInfo("Europe/Berlin"))
        return morning.strftime(self.format) == evening.strftime(self.format)


def first_moment(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a day, in UTC: not always midnight, where clocks change at midnight."""
    # fold=0 is the first of two midnights, and for one that is skipped, the moment of the change itself.
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


# --- what every request has -------------------------------------------------------------------------------------


def _fixed_params(params: dict[str, str]) -> dict[str, str]:
    for name in params:
        if looks_secret(name):
            raise problem(
                "looks like a secret, and none may stand in a file: put it into an environment variable and"
                f" write auth: {{kind: api_key, param: {name}, value_env: MY_VARIABLE}}",
                name,
            )
    return params


# --- the section ------------------------------------------------------------------------------------------------


class ApiSource(HttpAccess):
    """An HTTP API that is asked with GET and answers in JSON, or in JSON lines."""

    path: str = ""
    params: Annotated[dict[Name, str], AfterValidator(_fixed_params)] = Field(default_factory=dict)
    format: Literal["json", "jsonl"] = "json"
    records: str = ""
    pagination: _PaginationField
    windows: Windows | None = None
    total: DottedPath | None = None
    total_header: Name | None = None
    key: DottedPath | None = None
    max_pages: Annotated[int, between(1, 10_000_000)] = 100_000

    _key: str = PrivateAttr(default="api")

    @model_validator(mode="after")
    def _address(self) -> Self:
        parts = urlsplit(self.path)
        if parts.scheme or parts.netloc or parts.query or parts.fragment or self.path.startswith("//"):
            raise problem(
                "must be a path below base_url, such as v1/entries; parameters go under params",
                "path",
                self.path,
            )
        if re.search(r"[\s\\]", self.path) or not self.path.isprintable():
            raise problem("must not hold spaces or backslashes", "path", self.path)
        if ".." in self.path.split("/"):
            raise problem("must not leave base_url with ..", "path", self.path)
        if self.records:
            _dotted_at("records", self.records)
        if self.total is not None and self.total_header is not None:
            raise problem("is given beside total: remove one of them", "total_header")
        if getattr(self.pagination, "end", None) == "total" and not self.states_total:
            raise problem(
                "is total, but nothing says where the total is: add total or total_header", "pagination.end"
            )
        return self

    @model_validator(mode="after")
    def _nothing_beside_lines(self) -> Self:
        """Of JSON lines, every line is a record: nothing can be told beside them but in headers."""
        if self.format == "jsonl":
            beside = {"records": self.records, "total": self.total}
            beside |= {
                f"pagination.{key}": getattr(self.pagination, key, None) for key in ("next", "has_more")
            }
            for key, path in beside.items():
                if path:
                    raise problem(
                        "is given, but in JSON lines there is nothing beside the records: remove it", key
                    )
        return self

    @model_validator(mode="after")
    def _one_meaning_per_parameter(self) -> Self:
        taken = dict.fromkeys(self.params, "params")
        own = [("pagination", one) for one in self.pagination.params()]
        if self.windows is not None:
            own += [("windows", self.windows.from_), ("windows", self.windows.to)]
        if isinstance(self.auth, ApiKeyAuth) and self.auth.param is not None:
            own.append(("auth", self.auth.param))
        for section, name in own:
            if name in taken:
                raise problem(f"sets the parameter {name}, which {taken[name]} sets too", section)
            taken[name] = section
        return self

    @property
    def section(self) -> str:
        """The key of the definition under which it is written, for messages."""
        return self._key

    def written_under(self, key: str) -> Self:
        """The same, made from another section of the definition."""
        other = self.model_copy()
        other._key = key
        return other

    @property
    def states_total(self) -> bool:
        """Whether the API says how many records there are."""
        return self.total is not None or self.total_header is not None

    @property
    def address(self) -> str:
        """The address that is asked, without parameters."""
        if not self.path:
            return self.base_url
        return f"{self.base_url.rstrip('/')}/{self.path.lstrip('/')}"

    def deciding(self) -> dict[str, object]:
        """What of it decides which records there are; the rest says how to get at them, and may change meanwhile."""
        asked = ("path", "params", "headers", "format", "records", "pagination", "windows")
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=set(asked))

    @property
    def name(self) -> str:
        """The address without its scheme, for lists of sources."""
        parts: SplitResult = urlsplit(self.address)
        return f"{parts.netloc}{parts.path}".rstrip("/")


def _dotted_at(key: str, path: str) -> None:
    if not all(part.strip() for part in path.split(".")):
        raise problem("is no dotted path of names, such as data.entries", key, path)
