"""Sending requests: one request and its whole answer, tried again where that may help.

Belongs here: time limits, pauses between requests, retries, TLS, what was sent and received.
Does not: credentials and redirects (`client.py`), pages.
"""

import email.utils
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeVar

import httpx
import stamina

from backfill_pipeline.definition.api import ApiSource
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.http.bodies import ACCEPTED_ENCODING, read_body
from backfill_pipeline.sources.http.failures import AnswerError, BrokenAnswerError, RefusedError

T = TypeVar("T")

_TRY_AGAIN: Final = frozenset((408, 425, 429))
_SUCCESS: Final = frozenset((200, 203, 204))
_JUDGED: Final = frozenset((200, 207))
"""What was sent was looked at, and the answer says what became of each item (207: not all of them were taken)."""

_EXCERPT_BYTES: Final = 2048
_EXCERPT_CHARACTERS: Final = 160
_BACKOFF_MAX_S: Final = 60.0

# httpx logs every address with its parameters, of which one may be a key, and httpcore the headers of answers; stamina
# its retries to standard output, into the middle of `run --json`.
for _logger in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks"):
    logging.getLogger(_logger).addFilter(lambda record: record.levelno >= logging.WARNING)
stamina.instrumentation.set_on_retry_hooks(())


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request, with everything secret that belongs to it.

    Attributes:
        url: with its parameters.
        headers: beside those that every request has.
        form: sent as the body of a POST.
        content: JSON, sent as the body of a POST, every time the same bytes. Without form and content it is a GET.
    """

    url: httpx.URL = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is a success, with its whole body."""

    url: httpx.URL = field(repr=False)
    status: int
    headers: httpx.Headers
    body: bytes


class Traffic:
    """What was sent and received so far. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"requests": 0, "retries": 0, "bytes": 0}

    def add(self, what: str, count: int = 1) -> None:
        """Counts requests, retries or bytes."""
        with self._lock:
            self._counts[what] += count

    def counts(self) -> dict[str, int]:
        """Requests, how many of them were retries, and bytes received."""
        with self._lock:
            return dict(self._counts)


class Transport:
    """Sends requests. Safe for several threads; close it at the end."""

    def __init__(self, api: ApiSource) -> None:
        self._api = api
        self.traffic = Traffic()
        self._pace = _Pace(api.requests_per_second)
        self._client = httpx.Client(
            verify=_tls(api),
            timeout=httpx.Timeout(api.read_timeout_s, connect=api.connect_timeout_s),
            follow_redirects=False,
            headers={
                "User-Agent": "ledger-backfill",
                "Accept": "application/json",
                "Accept-Encoding": ACCEPTED_ENCODING,
            },
        )

    def close(self) -> None:
        """Closes all connections."""
        self._client.close()

    def send(self, outgoing: Outgoing, read: Callable[[Answer], T], *, limit_bytes: int) -> T:
        """Sends a request until `read` can make something of its answer.

        Args:
            outgoing: what to send.
            read: makes something of a successful answer; raises BrokenAnswerError when it was cut short.
            limit_bytes: of the answer's body.

        Raises:
            AnswerError: the answer cannot be used.
            BrokenAnswerError: every try was in vain; the reason of the last one.
            RefusedError: the server refuses, and would again.
        """
        tries = stamina.retry_context(
            on=self._wait_s,
            attempts=self._api.max_attempts,
            timeout=None,
            wait_initial=self._api.backoff_s,
            wait_max=_BACKOFF_MAX_S,
            wait_jitter=self._api.backoff_s,
        )
        for attempt in tries:
            with attempt:
                self.traffic.add("requests")
                if attempt.num > 1:
                    self.traffic.add("retries")
                return read(self._once(outgoing, limit_bytes))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _wait_s(self, error: Exception) -> bool | float:
        """Whether to try again, and after how many seconds when the server says so."""
        if not isinstance(error, BrokenAnswerError):
            return False
        if error.wait_s is None:
            return True
        return min(max(error.wait_s, 0.0), self._api.retry_after_max_s)

    def _once(self, outgoing: Outgoing, limit_bytes: int) -> Answer:
        self._pace.wait()
        deadline_s = time.monotonic() + self._api.answer_timeout_s
        headers = dict(outgoing.headers)
        if outgoing.content is not None:
            headers["Content-Type"] = "application/json"
        request = self._client.build_request(
            "GET" if outgoing.form is None and outgoing.content is None else "POST",
            outgoing.url,
            headers=headers,
            data=None if outgoing.form is None else dict(outgoing.form),
            content=outgoing.content,
        )
        try:
            response = self._client.send(request, stream=True)
            try:
                return self._answer(outgoing, response, limit_bytes, deadline_s)
            finally:
                response.close()
        except httpx.TransportError as error:
            raise _failure(error) from None

    def _answer(
        self, outgoing: Outgoing, response: httpx.Response, limit_bytes: int, deadline_s: float
    ) -> Answer:
        status = response.status_code
        if status in _TRY_AGAIN or status >= 500:
            raise BrokenAnswerError(f"answers {status}", _retry_after_s(response.headers))
        if status not in (_SUCCESS if outgoing.content is None else _JUDGED):
            raise RefusedError(status, response.headers.get("location"), _excerpt_of(response, deadline_s))
        body, received = read_body(response, limit_bytes=limit_bytes, deadline_s=deadline_s)
        self.traffic.add("bytes", received)
        return Answer(outgoing.url, status, response.headers, body)


class _Pace:
    """Keeps requests apart, whichever thread sends them."""

    def __init__(self, requests_per_second: float | None) -> None:
        self._interval_s = 0.0 if requests_per_second is None else 1 / requests_per_second
        self._next_s = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the next request may be sent."""
        if not self._interval_s:
            return
        with self._lock:
            now_s = time.monotonic()
            turn_s = max(now_s, self._next_s)
            self._next_s = turn_s + self._interval_s
        time.sleep(turn_s - now_s)


def excerpt(body: bytes) -> str:
    """The first characters of a body, as a sentence can hold them."""
    text = " ".join(body[:_EXCERPT_BYTES].decode("utf-8", errors="replace").split())
    shown = "".join(one if one.isprintable() else "?" for one in text[:_EXCERPT_CHARACTERS])
    return shown + ("…" if len(text) > _EXCERPT_CHARACTERS else "")


def _excerpt_of(response: httpx.Response, deadline_s: float) -> str:
    """What a refusal says, as far as it can be read; nothing is worth failing for."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return ""
    found = b""
    try:
        for block in response.iter_raw():
            found += block
            if len(found) >= _EXCERPT_BYTES or time.monotonic() > deadline_s:
                break
    except httpx.TransportError:
        pass
    return excerpt(found)


def _tls(api: ApiSource) -> ssl.SSLContext | bool:
    if api.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(api.ca_file))
    except (OSError, ssl.SSLError):
        raise SourceFileError(
            f"api.ca_file is {api.ca_file}, which cannot be read as certificates (PEM)."
        ) from None


def _failure(error: httpx.TransportError) -> AnswerError | BrokenAnswerError:
    """What went wrong on the way, as a sentence without anything secret that the message may hold."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed:")[2].split("(")[0].strip()
        return AnswerError(
            f"shows a certificate that is not trusted ({reason or 'unknown issuer'}): if it is that of your own"
            " organisation, name its certificate authority with api.ca_file"
        )
    if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
        return AnswerError("cannot be asked: a header or the address holds what HTTP does not allow")
    if "location header" in text:
        return AnswerError("redirects to what is no address")
    if isinstance(error, httpx.ConnectTimeout):
        return BrokenAnswerError("cannot be reached within api.connect_timeout_s")
    if isinstance(error, httpx.TimeoutException):
        return BrokenAnswerError("does not answer within api.read_timeout_s")
    if isinstance(error, httpx.ConnectError):
        return BrokenAnswerError(f"cannot be reached: {text[:120] or 'no connection'}")
    if isinstance(error, httpx.ProxyError):
        return BrokenAnswerError("cannot be reached through the proxy of the environment")
    if "complete message body" in text or "incomplete chunked" in text:
        return BrokenAnswerError("answers with a body that is cut short")
    return BrokenAnswerError("breaks the connection off")


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """How long the server asks to wait: seconds, or until a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
