"""Real servers on loopback that take alerts: HTTP for webhook and Slack, SMTP for mail; both fail on demand.

Belongs here: what arrives, and how they answer.
Does not: what is sent.
"""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from backfill_pipeline.settings import AlertSettings

ALERT_VARIABLES = tuple(str(one.validation_alias) for one in AlertSettings.model_fields.values())
"""What a test takes out of the environment, so that it sends nothing to whoever runs it."""


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class HttpReceiver:
    """Takes whatever is posted to it.

    Attributes:
        answers: of the next requests: a status, or a status with headers and a body; when there are none, 200.
        delay_s: before each answer.
    """

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answers: deque[int | tuple[int, dict[str, str], str]] = field(default_factory=deque)
    delay_s: float = 0.0
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hooks/T0K3N-zebra"

    def accepted(self) -> list[str]:
        return [str(one.headers.get("webhook-id")) for one in self.received]


@contextmanager
def http_receiver(pem: Path | None = None) -> Iterator[HttpReceiver]:
    """A server for HTTP, or, with a certificate, for HTTPS."""
    receiver = HttpReceiver(scheme="http" if pem is None else "https")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(
                Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            time.sleep(receiver.delay_s)
            try:
                self.answer()
            except ConnectionError:
                self.close_connection = True  # whoever asked was killed, or waits no longer

        def answer(self) -> None:
            answer = receiver.answers.popleft() if receiver.answers else 200
            status, headers, text = answer if isinstance(answer, tuple) else (answer, {}, "")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if pem is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        # The handshake belongs to the thread of the request: one that fails stops no other.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.port = server.server_address[1]
    with _serving(server):
        yield receiver


@dataclass
class SmtpReceiver:
    """Takes mail.

    Attributes:
        certificate: with it, TLS is offered (STARTTLS), or spoken from the start when `tls_first`.
        credentials: user and password that it wants.
        refused: recipients that it does not take.
        answer: to the end of a message: code and text; 250 takes it.
        leave: what it says to QUIT.
    """

    port: int = 0
    certificate: Path | None = None
    tls_first: bool = False
    credentials: tuple[str, str] | None = None
    refused: tuple[str, ...] = ()
    answer: str = "250 taken"
    leave: str = "221 bye"
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)


@contextmanager
def smtp_receiver(**settings: object) -> Iterator[SmtpReceiver]:
    receiver = SmtpReceiver(**settings)  # type: ignore[arg-type]  # a test names the fields that it wants

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _Session(self, receiver).serve()

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    with _serving(server):
        yield receiver


class _Session:
    """One connection to the mail server."""

    def __init__(self, handler: socketserver.StreamRequestHandler, receiver: SmtpReceiver) -> None:
        self.receiver, self.socket = receiver, handler.connection
        self.is_encrypted = False
        if receiver.tls_first:
            self._encrypt()
        self.file = self.socket.makefile("rwb")
        self.sender, self.recipients = "", list[str]()

    def _encrypt(self) -> None:
        assert self.receiver.certificate is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.receiver.certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.is_encrypted = True

    def serve(self) -> None:
        try:
            self._say("220 receiver")
            while line := self.file.readline():
                text = line.decode().rstrip("\r\n")
                self.receiver.said.append(text)
                if not self._take(text):
                    return
        except (ssl.SSLError, OSError):
            return  # the client left

    def _take(self, text: str) -> bool:
        verb = text.split(" ")[0].split(":")[0].upper()
        if verb == "EHLO":
            offered = ["receiver"]
            if self.receiver.certificate is not None and not self.is_encrypted:
                offered.append("STARTTLS")
            if self.receiver.credentials is not None:
                offered.append("AUTH PLAIN")
            for number, name in enumerate(offered):
                self._say(f"250{' ' if number == len(offered) - 1 else '-'}{name}")
        elif verb == "STARTTLS":
            self._say("220 go on")
            self._encrypt()
            self.file = self.socket.makefile("rwb")
        elif verb == "AUTH":
            _, user, password = base64.b64decode(text.split(" ")[2]).decode().split("\0")
            right = (user, password) == self.receiver.credentials
            self._say("235 welcome" if right else f"535 5.7.8 no {user} with {password}")
        elif verb == "MAIL":
            self.sender, self.recipients = text.split("<")[1].split(">")[0], []
            self._say("250 well")
        elif verb == "RCPT":
            address = text.split("<")[1].split(">")[0]
            if address in self.receiver.refused:
                self._say("550 nobody here")
            else:
                self.recipients.append(address)
                self._say("250 well")
        elif verb == "DATA":
            self._data()
        elif verb == "QUIT":
            self._say(self.receiver.leave)
            return False
        else:
            self._say("250 well")
        return True

    def _data(self) -> None:
        self._say("354 go on")
        lines = []
        while (line := self.file.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        if self.receiver.answer.startswith("250"):
            message = message_from_bytes(b"".join(lines), policy=policy.default)
            assert isinstance(message, EmailMessage)
            self.receiver.mails.append(message)
            self.receiver.envelopes.append((self.sender, tuple(self.recipients)))
            self.receiver.encrypted.append(self.is_encrypted)
        self._say(self.receiver.answer)

    def _say(self, text: str) -> None:
        self.file.write(f"{text}\r\n".encode())
        self.file.flush()


@contextmanager
def scripted_server(answer: Callable[[str], str]) -> Iterator[int]:
    """A server that says what it is told to, and hangs up when it has said something; gives its port.

    Args:
        answer: line that arrived → what is said to it.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                if said := answer(line.decode()):
                    self.wfile.write(said.encode())
                    return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with _serving(server):
        yield server.server_address[1]


@contextmanager
def dripping_server(begins: bytes) -> Iterator[int]:
    """A server that says a letter every now and then, and never ends; gives its port.

    Args:
        begins: what it says first.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            letters = iter(begins)
            with suppress(OSError):  # the client left
                while True:
                    self.request.sendall(bytes([next(letters, ord("a"))]))
                    time.sleep(0.05)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with _serving(server):
        yield server.server_address[1]


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "receiver.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
