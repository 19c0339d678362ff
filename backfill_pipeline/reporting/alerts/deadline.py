"""An end to a conversation, however slowly the other side speaks.

Belongs here: cutting connections off when their time is over.
Does not: what is said on them (`http_post`, `mail`).

The time limits of clients are for each piece of an answer, and begin anew with every byte: a server that sends one now
and then would keep a channel, and every look after this one, waiting for ever.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType


class Deadline:
    """Cuts off the connections that it watches after some time; a block, at whose end it lets go of them.

    Attributes:
        is_over: whether it has cut them off.
    """

    def __init__(self, after_s: float) -> None:
        """Begins with the block.

        Args:
            after_s: how long the block may take.
        """
        self.is_over = False
        self._watched: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(after_s, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._timer.cancel()
        with self._lock:
            for one in self._watched:
                one.close()
            self._watched.clear()

    def watch(self, connection: socket.socket) -> None:
        """Takes a connection in, before anything is said on it.

        Args:
            connection: plain, as TLS takes the socket over from its object; a copy stays.
        """
        with self._lock:
            self._watched.append(connection.dup())
            if self.is_over:
                self._shut()

    def _cut(self) -> None:
        with self._lock:
            self.is_over = True
            self._shut()

    def _shut(self) -> None:
        for one in self._watched:
            with suppress(OSError):  # the other side was faster
                one.shutdown(socket.SHUT_RDWR)
