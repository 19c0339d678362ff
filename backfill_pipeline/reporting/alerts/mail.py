"""An alert as a mail: text and HTML in one message.

Belongs here: the message, and handing it to a mail server.
Does not: the text by itself (`plain`), trying again (`postbox`).
"""

from __future__ import annotations

import hashlib
import smtplib
import socket
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from backfill_pipeline.errors import AlertError, TransientAlertError
from backfill_pipeline.reporting.alerts.deadline import Deadline
from backfill_pipeline.reporting.alerts.message import Alert, Severity, fit
from backfill_pipeline.reporting.alerts.plain import headline, plain_text

TIMEOUT_S: Final = 10.0
"""For each answer of a mail server."""
DEADLINE_S: Final = 20.0
"""For all of them together: a server that says a letter now and then keeps nobody waiting for ever."""

_PORTS: Final = {"smtp": 25, "smtps": 465}
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_EXCERPT: Final = 160
# Dark enough on white, and light enough on black, where a mail program turns colours round.
_COLOURS: Final = {Severity.ERROR: "#b3261e", Severity.WARNING: "#8a5300", Severity.INFO: "#1b6e3c"}


def mail(alert: Alert, sender: str, recipients: Sequence[str], ui_url: str | None) -> EmailMessage:
    """The message of an alert; its id is the same for every try.

    Args:
        alert: to be written.
        sender: an address.
        recipients: addresses.
        ui_url: where people open the UI.
    """
    message = EmailMessage(policy=SMTP)
    message["Subject"] = headline(alert)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Date"] = format_datetime(alert.at)
    domain = sender.rpartition("@")[2]
    message["Message-ID"] = f"<backfill.{hashlib.sha256(alert.key.encode()).hexdigest()[:32]}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # no answers of people who are away
    message["X-Backfill-Alert"] = alert.kind.value
    message.set_content(plain_text(alert, ui_url), cte="quoted-printable")
    message.add_alternative(_html(alert, ui_url), subtype="html", cte="quoted-printable")
    return message


def _html(alert: Alert, ui_url: str | None) -> str:
    colour = _COLOURS[alert.severity]
    rows = "".join(
        f'<tr><th scope="row" align="left" style="padding:2px 16px 2px 0;font-weight:600;vertical-align:top">'
        f'{escape(name)}</th><td style="padding:2px 0">{escape(value)}</td></tr>'
        for name, value in [*((fact.name, fact.value) for fact in alert.facts), ("at", alert.moment)]
    )
    remedy = f"<p><strong>What to do:</strong> {escape(alert.remedy)}</p>" if alert.remedy else ""
    link = alert.link(ui_url)
    shown = f'<p><a href="{escape(link)}">Open the UI</a></p>' if link else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(headline(alert))}</title></head>'
        '<body style="font-family:system-ui,sans-serif;font-size:15px;line-height:1.5">'
        f'<h1 style="font-size:18px;margin:0 0 12px;border-left:4px solid {colour};padding-left:10px">'
        f"{escape(alert.title)}</h1><p>{escape(alert.text)}</p>{remedy}"
        f'<table style="border-collapse:collapse">{rows}</table>{shown}'
        f'<p style="font-size:12px">{escape(alert.severity.value)}, {escape(alert.kind.value)}:'
        f" {escape(alert.key)}</p></body></html>\n"
    )


class _Watched(smtplib.SMTP):
    """A conversation that a deadline ends."""

    def __init__(self, deadline: Deadline, host: str, port: int) -> None:
        self._deadline = deadline
        super().__init__(host, port, timeout=TIMEOUT_S)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """As in the base class, which has no other place before the first answer, and before TLS."""
        made = socket.create_connection((host, port), timeout)
        self._deadline.watch(made)
        return made


class _WatchedTls(smtplib.SMTP_SSL, _Watched):
    """The same with TLS from the start."""

    def __init__(self, deadline: Deadline, host: str, port: int) -> None:
        self._deadline = deadline
        smtplib.SMTP_SSL.__init__(self, host, port, timeout=TIMEOUT_S, context=ssl.create_default_context())


@dataclass(frozen=True, slots=True)
class MailChannel:
    """Sends alerts to people by mail.

    Attributes:
        smtp_url: the server that takes it, with user and password where it wants them.
        sender: an address.
        recipients: addresses.
        ui_url: where people open the UI.
    """

    smtp_url: SecretStr
    sender: str
    recipients: tuple[str, ...]
    ui_url: str | None
    name: str = field(default="email")

    def send(self, alert: Alert) -> str:
        """Sends it once; as `Channel.send`. A password never goes over a connection that others can read."""
        parts = urlsplit(self.smtp_url.get_secret_value())
        host = parts.hostname or ""
        message = mail(alert, self.sender, self.recipients, self.ui_url)
        deadline = Deadline(DEADLINE_S)
        refused: Collection[str] | None = None
        try:
            with (
                deadline,
                self._connected(parts.scheme, host, parts.port or _PORTS[parts.scheme], deadline) as server,
            ):
                if parts.username is not None:
                    if not isinstance(server.sock, ssl.SSLSocket) and host not in _LOOPBACK:
                        raise AlertError(
                            f"the mail server {host} offers no TLS, so no password is sent to it"
                        )
                    server.login(unquote(parts.username), unquote(parts.password or ""))
                refused = server.send_message(message)
        except UnicodeEncodeError:
            raise AlertError(
                f"the mail server {host} cannot be given the user, password or addresses: they have letters beyond"
                " ASCII"
            ) from None
        except (smtplib.SMTPException, OSError) as error:
            # What is taken is taken, however the server takes its leave: it would be sent twice.
            if refused is None:
                raise self._failure(host, error, is_late=deadline.is_over) from None
        # Sending it again would reach those once more who have it.
        return f"the mail server {host} refuses {', '.join(sorted(refused))}" if refused else ""

    @staticmethod
    def _connected(scheme: str, host: str, port: int, deadline: Deadline) -> smtplib.SMTP:
        if scheme == "smtps":
            return _WatchedTls(deadline, host, port)
        server = _Watched(deadline, host, port)
        try:
            server.ehlo()
            if server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
                server.ehlo()
        except BaseException:
            server.close()
            raise
        return server

    def _failure(
        self, host: str, error: smtplib.SMTPException | OSError, *, is_late: bool
    ) -> AlertError | TransientAlertError:
        """What went wrong, as a sentence; whether it may pass is what the server's code says: 4xx may, 5xx does not."""
        told, code = f"the mail server {host}", 0
        if is_late:
            return TransientAlertError(f"{told} does not take it within {DEADLINE_S:.0f} s")
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            code, answer = next(iter(error.recipients.values()))
            text = f"{told} refuses {', '.join(sorted(error.recipients))}: {code} {self._clean(answer)}"
        elif isinstance(error, smtplib.SMTPResponseException):
            code = error.smtp_code
            text = f"{told} answers {code} {self._clean(error.smtp_error)}"
        elif isinstance(error, smtplib.SMTPNotSupportedError):
            return AlertError(
                f"{told} takes no user and password, or not this way: leave them out of the URL"
            )
        elif isinstance(error, ssl.SSLCertVerificationError):
            return AlertError(
                f"{told} shows a certificate that is not trusted: if it is that of your own organisation, name its"
                " certificate authority with SSL_CERT_FILE"
            )
        elif isinstance(error, TimeoutError):
            return TransientAlertError(f"{told} does not answer within {TIMEOUT_S:.0f} s")
        elif isinstance(error, smtplib.SMTPServerDisconnected):
            return TransientAlertError(f"{told} breaks the connection off")
        else:
            return TransientAlertError(f"{told} cannot be reached")
        return AlertError(text) if code >= 500 else TransientAlertError(text)

    def _clean(self, answer: bytes | str) -> str:
        """What a server says, without user and password, which it may repeat."""
        text = answer.decode("utf-8", errors="replace") if isinstance(answer, bytes) else answer
        parts = urlsplit(self.smtp_url.get_secret_value())
        for secret in (parts.password, parts.username):
            for written in {secret or "", unquote(secret or "")} - {""}:
                text = text.replace(written, "…")
        return fit(text, _EXCERPT)
