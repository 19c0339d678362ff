"""The body of an answer, in bounded memory and bounded time.

Belongs here: reading and unpacking it, and refusing what is too large, too slow, or packed in another way.
Does not: what is in it.
"""

import time
import zlib
from typing import Final

import httpx

from backfill_pipeline.sources.http.failures import AnswerError, BrokenAnswerError

ACCEPTED_ENCODING: Final = "gzip"

_GZIP: Final = 16 + zlib.MAX_WBITS


def read_body(response: httpx.Response, *, limit_bytes: int, deadline_s: float) -> tuple[bytes, int]:
    """The unpacked body, and how many bytes came over the wire.

    Args:
        response: not read yet.
        limit_bytes: neither the body nor what it unpacks to may be larger.
        deadline_s: `time.monotonic()` by which it must be complete.

    Raises:
        AnswerError: it is too large, or packed in a way that was not asked for.
        BrokenAnswerError: it took too long, or is not whole.
        httpx.TransportError: the connection was lost.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise AnswerError(f"answers in the encoding {encoding[:40]!r}, which was not asked for")
    unpacker = _Gunzip(limit_bytes) if "gzip" in encoding else None
    parts: list[bytes] = []
    received = 0
    for block in response.iter_raw():
        received += len(block)
        if received > limit_bytes:
            raise AnswerError(too_large(limit_bytes))
        parts.append(block if unpacker is None else unpacker.feed(block))
        if time.monotonic() > deadline_s:
            raise BrokenAnswerError("takes too long to send its answer")
    if unpacker is not None:
        unpacker.finish()
    return b"".join(parts), received


def too_large(limit_bytes: int) -> str:
    """What is said of an answer that is larger than allowed."""
    return (
        f"answers with more than {limit_bytes:,} bytes: ask for smaller pages (pagination.size), or raise"
        " api.max_page_bytes"
    )


class _Gunzip:
    """Unpacks gzip block by block, and stops before a small body becomes a huge one."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._unpacked = 0
        self._member = zlib.decompressobj(_GZIP)
        self._begun = False

    def feed(self, block: bytes) -> bytes:
        """The unpacked bytes of the next block."""
        parts = []
        while block:
            if self._member.eof:  # gzip files may follow each other
                self._member = zlib.decompressobj(_GZIP)
            self._begun = True
            try:
                part = self._member.decompress(block, self._limit_bytes + 1 - self._unpacked)
            except zlib.error:
                raise BrokenAnswerError("answers with gzip that is damaged") from None
            self._unpacked += len(part)
            if self._unpacked > self._limit_bytes:
                raise AnswerError(too_large(self._limit_bytes))
            parts.append(part)
            block = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return b"".join(parts)

    def finish(self) -> None:
        """Makes sure that nothing is missing."""
        if self._begun and not self._member.eof:
            raise BrokenAnswerError("answers with gzip that ends too early")
