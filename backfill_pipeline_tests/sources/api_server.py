"""A real HTTP server on loopback that serves records in every way that the product understands, and fails on demand."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs

import pyarrow as pa
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.sources.http.stream import ApiStream

SECRET = "s3cr3t/&+=token"
USER = "user one"
TRANSIENT = ("429", "429 date", "500", "502", "503", "408", "cut", "broken json", "broken gzip", "short gzip")
"""Faults that go away when the request is sent again."""


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]


@dataclass
class ApiServer:
    """What the server serves, and what it was asked.

    Attributes:
        records: as JSON texts, in their order; a `day` in them is what windows look at.
        style: page, offset, cursor, last, link, body_link, none, bare.
        faults: what goes wrong with the next requests for records, one each; "" is nothing.
        answer: replaces the whole answer.
        cap: records per page at most, whatever is asked for.
    """

    records: list[str] = field(default_factory=list)
    style: str = "page"
    faults: deque[str] = field(default_factory=deque)
    answer: Callable[[Request], Response] | None = None
    token_answer: Callable[[dict[str, list[str]], Request], Response] | None = None
    cap: int = 1000
    wants: Callable[[Request], bool] = lambda request: True
    retry_after: str = "0"
    before: Callable[[Request], None] = lambda request: None
    asked: list[Asked] = field(default_factory=list)
    tokens: int = 0
    url: str = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/entries", _Entries(self)), Route("/token", self._token, methods=["POST"])]
        )

    async def _token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        self.tokens += 1
        if self.token_answer is not None:
            return self.token_answer(form, request)
        return json_response({"access_token": f"T{self.tokens}", "token_type": "Bearer", "expires_in": 3600})

    def page(self, request: Request) -> tuple[str, dict[str, str]]:
        """The body and headers that belong to a request."""
        asked = request.query_params
        records = self._between(asked.get("from"), asked.get("to"))
        size = min(int(asked.get("size", "3")), self.cap)
        if self.style == "page":
            first = (int(asked.get("page", "1")) - 1) * size
        elif self.style == "last":
            after = asked.get("cursor")
            first = 0 if after is None else 1 + [json.loads(one)["id"] for one in records].index(after)
        else:
            first = int(asked.get("offset", asked.get("cursor", "0")))
        if self.style in ("none", "bare"):
            first, size = 0, len(records)
        shown, following = records[first : first + size], first + size
        more = following < len(records)
        headers = {"X-Total-Count": str(len(records))}
        link = request.url.include_query_params(cursor=following, size=size)
        if self.style == "link" and more:
            headers["Link"] = f'<{request.url}>; rel="self", <{link}>; rel="next"; title="a, b"'
        if self.style == "lines":
            return "".join(f"{one}\r\n\n" for one in shown), headers
        if self.style == "bare":
            return f"[{','.join(shown)}]", headers
        meta: dict[str, object] = {"total": len(records), "more": more}
        meta["next"] = str(following) if more else None
        meta["link"] = f"{request.url.path}?{link.query}" if more else None
        return f'{{"meta": {json.dumps(meta)}, "data": {{"entries": [{", ".join(shown)}]}}}}', headers

    def _between(self, begin: str | None, end: str | None) -> list[str]:
        if begin is None or end is None:
            return self.records
        return [one for one in self.records if begin <= json.loads(one)["day"] < end]


def json_response(value: object, status: int = 200, **headers: str) -> Response:
    return Response(json.dumps(value), status, headers, media_type="application/json")


class _Entries:
    """The endpoint, as plain ASGI: some faults are answers that no framework would send."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server, request = self._server, Request(scope, receive)
        server.asked.append(
            Asked(
                request.url.path,
                dict(request.query_params),
                {k.lower(): v for k, v in request.headers.items()},
            )
        )
        server.before(request)
        if not server.wants(request):
            await Response("who are you", 401)(scope, receive, send)
            return
        fault = server.faults.popleft() if server.faults else ""
        if server.answer is not None and not fault:
            await server.answer(request)(scope, receive, send)
            return
        if fault[:3].isdigit():
            after = formatdate(time.time() - 1, usegmt=True) if "date" in fault else server.retry_after
            await Response("busy", int(fault[:3]), {"Retry-After": after})(scope, receive, send)
            return
        body, headers = server.page(request)
        await _send(send, body.encode(), headers, fault)


async def _send(send: Send, body: bytes, headers: dict[str, str], fault: str) -> None:
    length = len(body)
    if fault == "broken json":
        body = body[: length // 2]
        length = len(body)
    elif fault.endswith("gzip"):
        body = gzip.compress(body)
        body = body[:-9] if fault == "short gzip" else body[:10] + bytes([body[10] ^ 0xFF]) * 20 + body[30:]
        headers, length = {**headers, "Content-Encoding": "gzip"}, len(body)
    elif fault == "cut":
        body = body[: length // 2]
    raw = {**headers, "Content-Type": "application/json; charset=utf-8", "Content-Length": str(length)}
    pairs = [(name.lower().encode(), value.encode()) for name, value in raw.items()]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": fault == "cut"})


@contextmanager
def served(server: ApiServer, tls: tuple[Path, Path] | None = None) -> Iterator[ApiServer]:
    """The server at work, in a thread, until the block ends; with a certificate and its key, encrypted."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.url = f"http{'' if tls is None else 's'}://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(server.app(), log_level="critical", access_log=False, lifespan="off")
        if tls is not None:
            config.ssl_certfile, config.ssl_keyfile = tls
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            running.should_exit = True
            thread.join(10)


@contextmanager
def raw_server(answers: Sequence[bytes | None]) -> Iterator[str]:
    """A server that sends these bytes, one answer per connection, whatever is asked; None hangs up at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    if answer is not None:
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def record(number: int, **other: object) -> str:
    """A record as a JSON text; its amount keeps its zeros."""
    fields = {"id": f"R{number:04d}", "day": f"2024-01-{number % 28 + 1:02d}", **other}
    return json.dumps(fields)[:-1] + f', "amount": {number % 90 + 1}.10}}'


# --- asking it ----------------------------------------------------------------------------------------------------


def section(url: str, **keys: object) -> ApiSource:
    """The section `api` of a definition, as YAML gives it; what is tried again is tried again at once."""
    known: dict[str, object] = {
        "base_url": url,
        "path": "entries",
        "records": "data.entries",
        "pagination": {"kind": "none"},
        "backoff_s": "0",
        "read_timeout_s": "5",
        **keys,
    }
    return ApiSource.model_validate({key: value for key, value in known.items() if value is not None})


def read(api: ApiSource, *columns: str) -> pa.Table:
    """All records of an API: the columns asked for, and what the product adds."""
    tables = []
    for piece in ApiStream(api, columns or ("id", "amount")).records():
        codes, reasons = piece.problems.columns()
        assert all(column.null_count == 0 for column in piece.fields.columns)
        added = {"line": piece.lines, "raw": piece.raw, "code": codes, "reason": reasons}
        tables.append(pa.table({**{name: piece.fields[name] for name in piece.fields.column_names}, **added}))
    return pa.concat_tables(tables)


PAGINATIONS: dict[str, tuple[str, dict[str, object]]] = {
    "page": ("page", {"kind": "page", "size_param": "size", "size": "3"}),
    "page, short": ("page", {"kind": "page", "size_param": "size", "size": "3", "end": "short_page"}),
    "page, total": ("page", {"kind": "page", "size_param": "size", "size": "3", "end": "total"}),
    "page, flag": ("page", {"kind": "page", "has_more": "meta.more"}),
    "offset": ("offset", {"kind": "offset", "size_param": "size", "size": "3"}),
    "offset, flag": ("offset", {"kind": "offset", "has_more": "meta.more"}),
    "cursor": ("cursor", {"kind": "cursor", "next": "meta.next", "size_param": "size", "size": "3"}),
    "cursor, flag": ("cursor", {"kind": "cursor", "next": "meta.next", "has_more": "meta.more"}),
    "cursor, last record": ("last", {"kind": "cursor", "last_record": "id", "has_more": "meta.more"}),
    "cursor, last record, empty page": ("last", {"kind": "cursor", "last_record": "id"}),
    "link header": ("link", {"kind": "link"}),
    "link in the body": ("body_link", {"kind": "link", "next": "meta.link"}),
    "none": ("none", {"kind": "none"}),
}
"""Every kind of pagination: the server's style, and what a definition says of it."""
