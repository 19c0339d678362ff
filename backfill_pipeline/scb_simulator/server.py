"""Running a simulated bank: in a thread of this process, at an address of its own.

Belongs here: listening, starting and stopping, and who gets which credentials.
Does not: the command (`cli/scb_simulator.py`), what is served (`web/`).
"""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn

from backfill_pipeline.errors import TerminalError, UsageError
from backfill_pipeline.scb_simulator.bank import Bank
from backfill_pipeline.scb_simulator.faults import AnyFault
from backfill_pipeline.scb_simulator.options import Options
from backfill_pipeline.scb_simulator.store import Store
from backfill_pipeline.scb_simulator.tokens import Credentials
from backfill_pipeline.scb_simulator.web.app import make_app
from backfill_pipeline.scb_simulator.web.spoilt import Connections, tracking

TOKEN_LIFETIME_S: Final = 3600.0

_START_TIMEOUT_S: Final = 30
_STOP_GRACE_S: Final = 2
_STOP_TIMEOUT_S: Final = 30
_KEEP_ALIVE_S: Final = 30
_BACKLOG: Final = 128


@dataclass(frozen=True, slots=True)
class Simulator:
    """A bank that is being served.

    Attributes:
        base_url: without a slash at its end.
        credentials: what opens it.
        bank: the bank behind it, for a look inside.
        serving: whether it still serves.
    """

    base_url: str
    credentials: Credentials
    bank: Bank
    serving: Callable[[], bool]


@contextmanager
def running(
    options: Options | None = None,
    *,
    state: Path | None = None,
    credentials: Credentials | None = None,
    faults: Sequence[AnyFault] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    token_lifetime_s: float = TOKEN_LIFETIME_S,
) -> Iterator[Simulator]:
    """Serves a bank until the block ends.

    Args:
        options: what the bank is made of; by default one small ledger.
        state: its state file; None keeps nothing.
        credentials: what opens it; None makes new ones.
        faults: those to begin with; None goes on with those of the state.
        host: the address to listen on.
        port: 0 takes a free one.
        token_lifetime_s: of issued tokens.

    Raises:
        UsageError: the address is taken or does not exist, or the state cannot be used.
    """
    options = Options() if options is None else options
    credentials = Credentials.random() if credentials is None else credentials
    with ExitStack() as stack:
        listening = stack.enter_context(closing(_listen(host, port)))
        if state is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scb-simulator-"))
            state = Path(folder) / "state.sqlite"
        store = stack.enter_context(Store(state, options))
        bank = Bank.open(options, store, credentials, token_lifetime_s)
        if faults is not None:
            bank.switches.replace(faults)
        serving = stack.enter_context(_served(bank, listening))
        yield Simulator(_url(listening), credentials, bank, serving)


@contextmanager
def _served(bank: Bank, listening: socket.socket) -> Iterator[Callable[[], bool]]:
    connections: Connections = {}
    config = uvicorn.Config(
        make_app(bank, connections),
        http=tracking(connections),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # requests are in the log of their own, and end as faults want them to
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_GRACE_S,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="scb-simulator", daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise TerminalError(f"the simulator did not start within {_START_TIMEOUT_S} s")
            time.sleep(0.005)
        yield thread.is_alive
    finally:
        server.should_exit = True
        thread.join(_STOP_TIMEOUT_S)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"{host} is no address to listen on ({error.strerror})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen on {host}, port {port} ({os.strerror(error.errno or 0)}):"
            " choose another --port, or 0 for a free one"
        ) from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
