"""A bank that answers whatever a test wants, over real HTTP."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STRANGE: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**30,
    float("nan"),
    "",
    "NaN",
    "1e3",
    "1,5",
    "\x00",
    "\ud800",
    "x" * 5000,
    "2024-13-45",
    [],
    [[]],
    {},
    {"a": 1},
)
"""What may stand anywhere in JSON."""


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Asked], tuple[int, dict[str, str], bytes]]


@dataclass
class HostileBank:
    """Where it is, what it was asked, and what it answers."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answer: Answer = lambda asked: (404, {}, b"")


def as_json(value: object, status: int = 200, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


def mutated(value: object, dice: random.Random) -> object:
    """The same JSON with one place of it changed: removed, doubled, or something strange."""
    places = list(_places(value, ()))
    place = dice.choice(places)
    return _changed(value, place, dice)


def _places(value: object, path: tuple[object, ...]) -> Iterator[tuple[object, ...]]:
    yield path
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _places(one, (*path, key))
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _places(one, (*path, index))


def _changed(value: object, path: tuple[object, ...], dice: random.Random) -> object:
    if not path:
        return dice.choice(STRANGE)
    key, rest = path[0], path[1:]
    what = dice.random()
    if isinstance(value, dict):
        if not rest and what < 0.25:
            return {name: one for name, one in value.items() if name != key}
        return {name: _changed(one, rest, dice) if name == key else one for name, one in value.items()}
    assert isinstance(value, list)
    if not rest and what < 0.25:
        return [one for index, one in enumerate(value) if index != key]
    if not rest and what < 0.5:
        return [*value, value[int(str(key))]]
    return [_changed(one, rest, dice) if index == key else one for index, one in enumerate(value)]


@contextmanager
def hostile_bank(answer: Answer | None = None) -> Iterator[HostileBank]:
    """Serves until the block ends."""
    bank = HostileBank() if answer is None else HostileBank(answer=answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            asked = Asked(self.command, self.path, self.rfile.read(length), dict(self.headers.items()))
            bank.asked.append(asked)
            status, headers, body = bank.answer(asked)
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = "Content-Length" in headers  # which is not that of the body

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    bank.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bank
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
