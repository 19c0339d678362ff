"""Answers that a fault takes the place of, or the connection from.

Belongs here: what goes over the wire when a fault strikes, down to connections that end too early.
Does not: which faults strike (`fault_switches.py`), faults of content (`reading.py`).
"""

import asyncio
from email.utils import formatdate
from time import time
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from backfill_pipeline.scb_simulator.faults import (
    AnyFault,
    Down,
    Dropped,
    ExpiredToken,
    ServerError,
    Throttled,
)
from backfill_pipeline.scb_simulator.web.calls import Call, ProblemError
from backfill_pipeline.scb_simulator.web.guard import bearer, invalid_token

OF_THE_WIRE: Final = (
    "down",
    "throttled",
    "server_error",
    "slow",
    "dropped",
    "expired_token",
    "truncated",
    "lost_answer",
)
"""Faults that do not need to know what the answer is."""

Connections = dict[tuple[str, int], asyncio.BaseTransport]
"""Open connections by the client's address, as ASGI tells it."""


def tracking(connections: Connections) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP/1.1, keeping a list of open connections: ASGI itself has no way to end one without an answer."""

    class Tracked(H11Protocol):
        # Uvicorn declares the narrower asyncio.Transport too, against asyncio's own BaseTransport.
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if self.client is not None:
                connections[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                connections.pop(self.client, None)
            super().connection_lost(exc)

    return Tracked


class CutResponse(Response):
    """An answer of which only the first part comes, or nothing at all, before the connection is closed."""

    def __init__(self, connections: Connections, whole: Response | None = None) -> None:
        """
        Args:
            connections: the open ones.
            whole: half of its body is sent, with the Content-Length of all of it; None sends nothing.
        """
        super().__init__()
        self._connections = connections
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends what is to be sent and closes the connection."""
        whole = self._whole
        if whole is not None:
            await send(
                {"type": "http.response.start", "status": whole.status_code, "headers": whole.raw_headers}
            )
            half = bytes(whole.body)[: len(whole.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
        transport = self._connections.get(tuple(scope["client"]))
        if transport is not None:
            transport.close()  # what was written goes out first
        # Until the server knows that the client is gone: it would answer in our place otherwise.
        while (await receive())["type"] != "http.disconnect":
            pass


def closes_connection(fault: AnyFault) -> bool:
    """Whether a fault leaves the client without any answer."""
    return isinstance(fault, Dropped) or (isinstance(fault, Down) and fault.how == "close")


def refusal(call: Call, fault: AnyFault) -> ProblemError | None:
    """The problem that a fault answers with; None when it does not answer."""
    if isinstance(fault, Throttled):
        after_s = fault.retry_after_s
        text = (
            str(after_s) if fault.retry_after_as == "seconds" else formatdate(time() + after_s, usegmt=True)
        )
        return ProblemError(429, "throttled", "too many requests: try again later", {"Retry-After": text})
    if isinstance(fault, ServerError):
        return ProblemError(fault.status, "server_error", "something is wrong here: try again later")
    if isinstance(fault, Down):
        return ProblemError(503, "down", "the bank is closed for a while: try again later")
    if isinstance(fault, ExpiredToken):
        if token := bearer(call):
            call.bank.tokens.end(token)
        return invalid_token()
    return None
