"""Sending a body to a web address: one request, and what its answer means.

Belongs here: time limits, and telling refusals from what may pass.
Does not: bodies (`slack`, `webhook`), trying again (`postbox`).

An address is a secret: whoever has it can write to the channel. Errors name its host alone, and httpx, which would log
the whole of it, is kept quiet.
"""

from __future__ import annotations

import email.utils
import functools
import logging
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

import httpcore
import httpx
from pydantic import SecretStr

from backfill_pipeline.errors import AlertError, TransientAlertError
from backfill_pipeline.reporting.alerts.deadline import Deadline
from backfill_pipeline.reporting.alerts.message import fit

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
ANSWER_DEADLINE_S: Final = 15.0
"""For the whole of it: a server that sends a byte now and then keeps nobody waiting for ever."""

_ANSWER_BYTES: Final = 2_048
_EXCERPT: Final = 160
_SECRET_LETTERS_MIN: Final = 6
_PAUSE_DIGITS_MAX: Final = 9
_TRY_AGAIN: Final = frozenset((408, 425, 429))

for _logger in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_logger).addFilter(lambda record: record.levelno >= logging.WARNING)


class RetryLaterError(TransientAlertError):
    """The channel says when to try again.

    Attributes:
        after_s: seconds from now.
    """

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


def post(url: SecretStr, body: bytes, headers: Mapping[str, str]) -> None:
    """Sends JSON and insists on an answer that accepts it. Redirects are not followed: they could take secrets along.

    Args:
        url: where to.
        body: JSON.
        headers: beside its type.

    Raises:
        TransientAlertError: no answer, a fault of the server, or too many requests.
        AlertError: it was refused.
    """
    address = httpx.URL(url.get_secret_value())
    deadline = Deadline(ANSWER_DEADLINE_S)
    try:
        with (
            deadline,
            httpx.Client(
                timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                follow_redirects=False,
                verify=_trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            ) as client,
            client.stream(
                "POST",
                address,
                content=body,
                headers={"Content-Type": "application/json", **headers},
                extensions={"trace": functools.partial(_watched, deadline)},
            ) as answer,
        ):
            # What is taken is taken, whatever else the answer says or leaves unsaid.
            excerpt = "" if answer.is_success else _excerpt(answer, url)
    except httpx.TransportError as error:
        if deadline.is_over:
            raise TransientAlertError(
                f"{address.host} does not answer within {ANSWER_DEADLINE_S:.0f} s"
            ) from None
        raise _no_answer(address.host, error) from None
    except httpx.InvalidURL:
        raise AlertError(f"{address.host} cannot be asked: its address is not one that HTTP allows") from None
    _judge(address.host, answer, excerpt)


def _watched(deadline: Deadline, event: str, info: Mapping[str, object]) -> None:
    """Told by httpx what it does: the connection is watched from its beginning, TLS included."""
    stream = info.get("return_value")
    if event == "connection.connect_tcp.complete" and isinstance(stream, httpcore.NetworkStream):
        connection = stream.get_extra_info("socket")
        if isinstance(connection, socket.socket):
            deadline.watch(connection)


@functools.cache
def _trusted(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """The certificates that are trusted; reading them takes longer than sending an alert.

    Args:
        _file: what SSL_CERT_FILE says, which httpx reads itself.
        _folder: what SSL_CERT_DIR says, likewise.
    """
    return httpx.create_ssl_context()


def _judge(host: str, answer: httpx.Response, excerpt: str) -> None:
    status = answer.status_code
    if answer.is_success:
        return
    told = f"{host} answers {status}" + (f" ({excerpt})" if excerpt else "")
    if status in _TRY_AGAIN or answer.is_server_error:
        pause_s = _retry_after_s(answer.headers)
        raise TransientAlertError(told) if pause_s is None else RetryLaterError(told, pause_s)
    if answer.is_redirect:
        raise AlertError(f"{host} redirects ({status}): name the address that it redirects to")
    raise AlertError(f"{told}: check its address")


def _excerpt(answer: httpx.Response, url: SecretStr) -> str:
    """The beginning of an answer, as far as it can be read, without the address that it may repeat."""
    content = b""
    with suppress(httpx.HTTPError):  # its status says enough
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) >= _ANSWER_BYTES:
                break
    text = content[:_ANSWER_BYTES].decode("utf-8", errors="replace")
    for secret in _secrets(url):
        text = text.replace(secret, "…")
    return fit(text, _EXCERPT)


def _secrets(url: SecretStr) -> list[str]:
    """What an answer may repeat of an address, however it writes that: the longest first."""
    whole = url.get_secret_value()
    address = httpx.URL(whole)
    path = address.raw_path.decode("ascii")
    pieces = [address.username, address.password, *re.split(r"[/?&=]", path)]
    long_enough = {one for one in pieces if len(one) >= _SECRET_LETTERS_MIN}
    found = {whole, path, *long_enough, *map(unquote, long_enough)} - {"", "/"}
    return sorted(found, key=len, reverse=True)


def _no_answer(host: str, error: httpx.TransportError) -> AlertError | TransientAlertError:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return AlertError(
            f"{host} shows a certificate that is not trusted: if it is that of your own organisation, name its"
            " certificate authority with SSL_CERT_FILE"
        )
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return AlertError(f"{host} cannot be asked: its address is not one that HTTP allows")
    if isinstance(error, httpx.ConnectTimeout):
        return TransientAlertError(f"{host} cannot be reached within {CONNECT_TIMEOUT_S:.0f} s")
    if isinstance(error, httpx.TimeoutException):
        return TransientAlertError(f"{host} does not answer within {READ_TIMEOUT_S:.0f} s")
    if isinstance(error, httpx.ConnectError):
        return TransientAlertError(f"{host} cannot be reached")
    return TransientAlertError(f"{host} breaks the connection off")


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """What the header Retry-After says: seconds, or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) <= _PAUSE_DIGITS_MAX else 10.0**_PAUSE_DIGITS_MAX
    try:
        until = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
