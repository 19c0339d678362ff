"""Metrics over HTTP, for a monitoring system that comes and asks.

Belongs here: a server of one page, on loopback unless it is told otherwise.
Does not: what the page says (`exporter.py`).

It answers 200 also while the ledger is down, with `backfill_up 0`: of an answer that is an error, Prometheus keeps
nothing, and could not tell a ledger that is down from an exporter that is.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

from backfill_pipeline.errors import UsageError
from backfill_pipeline.reporting.metrics.exporter import CONTENT_TYPE, Exporter

PATH: Final = "/metrics"

_Request = socket.socket | tuple[bytes, socket.socket]
_PLAIN: Final = "text/plain; charset=utf-8"
# Who connects and says nothing is not waited for.
_SILENCE_S: Final = 10.0
_CONNECTIONS_MAX: Final = 64


@contextmanager
def serving(exporter: Exporter, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves metrics until the block ends; gives the address of the page.

    Args:
        exporter: of what is served.
        host: the address to listen on.
        port: 0 takes a free one.

    Raises:
        UsageError: the address is taken or does not exist.
    """
    with _Server(host, port, exporter.text) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            shown = f"[{server.server_name}]" if ":" in server.server_name else server.server_name
            yield f"http://{shown}:{server.server_port}{PATH}"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    block_on_close = False  # a scrape under way may wait for a ledger that does not answer

    def __init__(self, host: str, port: int, text: Callable[[], bytes]) -> None:
        self.text = text
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"cannot serve metrics on {host}, port {port} ({error.strerror}): choose another --serve PORT, 0 for a"
                " free one, or another --host"
            ) from error

    def server_bind(self) -> None:
        """As the address is written: the base class looks up a name for it, which can take long."""
        super(ThreadingHTTPServer, self).server_bind()
        host, port, *_ = self.socket.getsockname()
        self.server_name, self.server_port = str(host), int(port)

    def process_request(self, request: _Request, client_address: object) -> None:
        """Of more connections than monitoring needs the oldest is cut off: one that asks a letter at a time, say."""
        assert isinstance(request, socket.socket)
        with self._lock:
            self._open.append(request)
            for one in self._open[:-_CONNECTIONS_MAX]:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: _Request) -> None:
        """At the end of a connection."""
        with self._lock:
            self._open = [one for one in self._open if one is not request]
        super().shutdown_request(request)

    def handle_error(self, request: _Request, client_address: object) -> None:
        """Who left before the answer was there is nothing to write down; a defect is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "backfill"
    sys_version = ""
    timeout = _SILENCE_S

    def do_GET(self) -> None:
        """Metrics, or where they are."""
        path = urlsplit(self.path).path
        if path == PATH:
            assert isinstance(self.server, _Server)
            self._answer(HTTPStatus.OK, CONTENT_TYPE, self.server.text())
        elif path == "/":
            self._answer(HTTPStatus.OK, _PLAIN, f"metrics of a ledger: {PATH}\n".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, _PLAIN, f"nothing here; metrics are at {PATH}\n".encode())

    def do_HEAD(self) -> None:
        """As GET, without the text."""
        self.do_GET()

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is nothing to write down."""
