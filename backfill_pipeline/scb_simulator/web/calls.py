"""Requests and answers, as operations see them.

Belongs here: what an operation is, reading parameters and bodies strictly, problems, JSON.
Does not: any operation, HTTP itself (`app.py`).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from backfill_pipeline.scb_simulator.bank import Bank
from backfill_pipeline.scb_simulator.book import Book
from backfill_pipeline.scb_simulator.contract import moment
from backfill_pipeline.scb_simulator.faults import AnyFault
from backfill_pipeline.scb_simulator.options import first_problem

BODY_MAX_BYTES: Final = 16 * 2**20
LIMIT_DEFAULT: Final = 1000
LIMIT_MAX: Final = 5000

_M = TypeVar("_M", bound=BaseModel)

_TITLES: Final = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    422: "Cannot be processed",
    429: "Too many requests",
    500: "Internal error",
    502: "Bad gateway",
    503: "Service unavailable",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    body: bytes
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class ProblemError(Exception):
    """The request cannot be answered as it was meant; it becomes a problem document."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}

    def reply(self) -> Reply:
        """The problem document (RFC 9457)."""
        body = {
            "type": f"urn:scb-simulator:problem:{self.code}",
            "title": _TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        return Reply(json_bytes(body), self.status, "application/problem+json", self.headers)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter of an operation."""

    name: str
    summary: str
    schema: Mapping[str, object] = field(default_factory=lambda: {"type": "string"})


@dataclass(slots=True)
class Call:
    """A request to one operation.

    Attributes:
        place: values in the path.
        query: query parameters; the last value of each.
        repeated: whether one is given twice.
        headers: by names in small letters.
        struck: faults that struck it so far; operations add those that concern their content.
    """

    bank: Bank
    place: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    path: str
    body: bytes
    repeated: bool = False
    struck: list[AnyFault] = field(default_factory=list)

    def book(self) -> Book:
        """The book of the ledger in the path."""
        book = self.bank.books.get(self.place["ledger"])
        if book is None:
            known = ", ".join(self.bank.books)
            raise ProblemError(404, "unknown_ledger", f"there is no such ledger here; there are {known}")
        return book

    def limit(self) -> int:
        """How many items a page may hold."""
        text = self.query.get("limit", str(LIMIT_DEFAULT))
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= LIMIT_MAX:
            raise ProblemError(400, "bad_parameter", f"limit must be a number from 1 to {LIMIT_MAX}")
        return int(text)

    def moment_s(self, name: str) -> int | None:
        """A moment in seconds since 1970, or None where it is not given."""
        text = self.query.get(name)
        if text is None:
            return None
        try:
            found = moment(text)
        except ValueError as error:
            raise ProblemError(400, "bad_parameter", f"{name} {error}") from None
        if found.microsecond:
            raise ProblemError(400, "bad_parameter", f"{name} must be a whole second")
        return int(found.timestamp())

    def interval(self, book: Book) -> tuple[int, int]:
        """[from, to) in seconds since 1970; what is not given is the beginning or the end of the ledger."""
        from_s, to_s = self.moment_s("from"), self.moment_s("to")
        from_s = book.ledger.start_s if from_s is None else from_s
        to_s = book.ledger.end_s if to_s is None else to_s
        if from_s >= to_s:
            raise ProblemError(
                400, "bad_parameter", "from must be before to: what is booked at to is left out"
            )
        return from_s, to_s

    def choice(self, name: str, *allowed: str) -> str:
        """One of a few values; the first is the default."""
        value = self.query.get(name, allowed[0])
        if value not in allowed:
            raise ProblemError(400, "bad_parameter", f"{name} must be {' or '.join(allowed)}")
        return value

    def json(self) -> object:
        """The body, which must be JSON and nothing else."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ProblemError(400, "bad_body", "the body must be JSON: send Content-Type: application/json")
        try:
            found: object = json.loads(self.body, parse_constant=_no_constant)
            json_bytes(found)  # half of a surrogate pair is JSON, but no text
        except (ValueError, RecursionError):
            raise ProblemError(400, "bad_body", "the body is no JSON that can be read") from None
        return found


def asked(call: Call, model: type[_M]) -> _M:
    """The body as a model."""
    try:
        return model.model_validate(call.json())
    except ValidationError as error:
        raise ProblemError(422, "invalid", first_problem(error)) from None


Guard = Literal["none", "api", "admin"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API: how it is called, and what OpenAPI says about it.

    Attributes:
        name: its operationId, and what faults call it.
        answers: status → the model of its body; None is a body of another kind.
        takes: the model of its body.
        keyed: it needs an Idempotency-Key.
    """

    name: str
    method: Literal["GET", "POST", "PUT"]
    path: str
    summary: str
    run: Callable[[Call], Reply]
    answers: Mapping[int, type[BaseModel] | None]
    guard: Guard = "api"
    parameters: tuple[Parameter, ...] = ()
    takes: type[BaseModel] | None = None
    keyed: bool = False


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8, without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def model_reply(model: BaseModel, status: int = 200) -> Reply:
    """A model as an answer."""
    return Reply(json_bytes(model.model_dump(mode="json", by_alias=True)), status)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
