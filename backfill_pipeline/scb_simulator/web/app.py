"""The application: every operation behind its path, with guard, faults and log around it.

Belongs here: from HTTP to a `Call` and from a `Reply` to HTTP, the same for all operations.
Does not: any operation.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from backfill_pipeline.scb_simulator.bank import Bank
from backfill_pipeline.scb_simulator.contract import Health
from backfill_pipeline.scb_simulator.faults import AnyFault, Slow
from backfill_pipeline.scb_simulator.faults import Route as FaultRoute
from backfill_pipeline.scb_simulator.web import admin, guard, reading, telling
from backfill_pipeline.scb_simulator.web.calls import (
    BODY_MAX_BYTES,
    Call,
    Operation,
    ProblemError,
    Reply,
    json_bytes,
)
from backfill_pipeline.scb_simulator.web.openapi import docs_page, openapi
from backfill_pipeline.scb_simulator.web.spoilt import (
    OF_THE_WIRE,
    Connections,
    CutResponse,
    closes_connection,
    refusal,
)

_LOG: Final = logging.getLogger(__name__)
_FAULT_ROUTES: Final[dict[str, FaultRoute]] = {
    "ledgers": "ledgers",
    "entries": "entries",
    "totals": "totals",
    "accounts": "accounts",
    "acknowledge": "acknowledge",
    "acknowledgements": "acknowledgements",
    "push": "push",
    "received": "received",
    "token": "token",
    "health": "health",
    "openapi": "health",
    "docs": "health",
}


def _healthy(_: Call) -> Reply:
    return Reply(json_bytes({"status": "ok"}))


def _document(_: Call) -> Reply:
    return Reply(json_bytes(openapi(OPERATIONS)))


def _page(_: Call) -> Reply:
    return Reply(docs_page(OPERATIONS).encode(), media_type="text/html; charset=utf-8")


_ABOUT: Final = (
    Operation("health", "GET", "/health", "Tell that it serves", _healthy, {200: Health}, guard="none"),
    Operation("openapi", "GET", "/openapi.json", "Show this document", _document, {200: None}, guard="none"),
    Operation(
        "docs", "GET", "/docs", "Show this document as a page for people", _page, {200: None}, guard="none"
    ),
)
OPERATIONS: Final = (
    *reading.OPERATIONS,
    *telling.OPERATIONS,
    *guard.OPERATIONS,
    *admin.OPERATIONS,
    *_ABOUT,
)
"""The whole API."""


def make_app(bank: Bank, connections: Connections) -> Starlette:
    """The ASGI application of a bank.

    Args:
        bank: what it serves.
        connections: filled by `spoilt.tracking`.
    """
    site = _Site(bank, connections)
    routes = [Route(one.path, site.endpoint(one), methods=[one.method]) for one in OPERATIONS]
    # Starlette adds a route per method: a path that exists under another method says so with 405.
    return Starlette(routes=routes, exception_handlers={HTTPException: site.unrouted})


class _Site:
    def __init__(self, bank: Bank, connections: Connections) -> None:
        self._bank = bank
        self._connections = connections

    def endpoint(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of an operation."""

        async def answer(request: Request) -> Response:
            call = self._call(request)
            try:
                response = await self._answered(operation, call, request)
            except ClientDisconnect:
                response = CutResponse(self._connections)
            except Exception:
                # A bug, or a disk that is full: the client gets its sentence, the terminal the traceback.
                _LOG.exception("operation %s failed", operation.name)
                problem = ProblemError(500, "internal", "the simulator failed: its terminal says more")
                response = _response(problem.reply(), close=True)
            self._note(operation, request, response, call.struck)
            return response

        return answer

    async def unrouted(self, request: Request, error: Exception) -> Response:
        """The answer to a path or a method that there is not."""
        assert isinstance(error, HTTPException)
        problem = ProblemError(404, "unknown_path", "there is nothing here: /docs says what there is")
        if error.status_code == 405:
            problem = ProblemError(
                405, "wrong_method", "this path has other methods", dict(error.headers or {})
            )
        response = _response(problem.reply())
        self._note(None, request, response, [])
        return response

    async def _answered(self, operation: Operation, call: Call, request: Request) -> Response:
        struck: list[AnyFault] = []
        if route := _FAULT_ROUTES.get(operation.name):
            struck = await run_in_threadpool(self._bank.switches.strike, route, OF_THE_WIRE)
        call.struck += struck
        for fault in struck:
            if isinstance(fault, Slow):
                await asyncio.sleep(fault.delay_s)
            if closes_connection(fault):
                return CutResponse(self._connections)
        try:
            call.body = await _body(request)
        except ProblemError as problem:
            return _response(problem.reply(), close=True)
        response = _response(await run_in_threadpool(_run, operation, call, struck))
        kinds = {fault.kind for fault in struck}
        if "lost_answer" in kinds:
            return CutResponse(self._connections)
        return CutResponse(self._connections, response) if "truncated" in kinds else response

    def _call(self, request: Request) -> Call:
        headers = {name.lower(): value for name, value in request.headers.items()}
        return Call(
            self._bank,
            request.path_params,
            dict(request.query_params),
            headers,
            request.url.path,
            b"",
            repeated=len(request.query_params.multi_items()) != len(request.query_params),
        )

    def _note(
        self, operation: Operation | None, request: Request, response: Response, struck: list[AnyFault]
    ) -> None:
        cut = isinstance(response, CutResponse)
        self._bank.log.add(
            {
                "at": datetime.now(UTC).isoformat(),
                "method": request.method,
                "path": request.url.path,
                "query": _shown(operation, request),
                "operation": None if operation is None else operation.name,
                "status": None if cut else response.status_code,
                "body_bytes": 0 if cut else len(response.body),
                "faults": [fault.kind for fault in struck],
            }
        )


def _shown(operation: Operation | None, request: Request) -> str:
    """The query for the log. What the operation does not know is left out: somebody may have put a token there."""
    known = () if operation is None else [parameter.name for parameter in operation.parameters]
    return "&".join(
        f"{name}={value if name in known else '…'}" for name, value in request.query_params.multi_items()
    )


def _run(operation: Operation, call: Call, struck: list[AnyFault]) -> Reply:
    """Guard and operation, in a thread of their own: both may wait for the state."""
    try:
        for fault in struck:
            if problem := refusal(call, fault):
                raise problem
        admit(operation, call)
        return operation.run(call)
    except ProblemError as problem:
        return problem.reply()


def admit(operation: Operation, call: Call) -> None:
    """Lets a request pass that has the right token, and no parameters that the operation does not know."""
    guard.admit(call, operation.guard)
    known = {parameter.name for parameter in operation.parameters}
    if call.repeated:
        raise ProblemError(400, "bad_parameter", "a parameter is given twice")
    if unknown := sorted(set(call.query) - known):
        names = ", ".join(sorted(known)) or "none"
        raise ProblemError(
            400, "bad_parameter", f"there is no parameter of the name {unknown[0][:50]!r}; there are {names}"
        )


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_MAX_BYTES:
            raise ProblemError(
                413, "too_large", f"the body is larger than {BODY_MAX_BYTES} bytes: send less at once"
            )
    return bytes(body)


def _response(reply: Reply, *, close: bool = False) -> Response:
    headers = {**reply.headers, "Cache-Control": "no-store"}
    if close:
        headers["Connection"] = "close"
    return Response(reply.body, reply.status, headers, reply.media_type)
