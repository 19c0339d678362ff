"""The way to the ledger's server, and how the embedded one stands.

Belongs here: finding out whether there is a server to look at, and starting the embedded one for the look alone.
Does not: what is looked at there (`server.py`, `leftovers.py`).

An embedded server that stands still is started for the look and stopped again. One that was killed is not: its start
would recover it, and a doctor changes nothing. One that runs is not joined, because who leaves it last stops it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Final

from backfill_pipeline.doctor.finding import Finding, looked_in_time, not_looked, ok, problem, warning
from backfill_pipeline.local.embedded import EmbeddedServer, embedded_server
from backfill_pipeline.local.endpoint import addresses
from backfill_pipeline.local.server_files import ServerFiles, ServerState
from backfill_pipeline.settings import Settings

START_TIMEOUT_S: Final = 15.0
"""A server that was stopped in good order is up within a tenth of a second."""

_NAME: Final = "embedded server"
_START: Final = "backfill status"
_BUSY_TRIES: Final = 10
_BUSY_REST_S: Final = 0.1


@dataclass(slots=True)
class Reached:
    """Where to look.

    Attributes:
        finding: how the embedded server stands.
        ledger_url: None where there is nothing to connect to; may hold a password, as the next one.
        dagster_url: of Dagster's records.
    """

    finding: Finding
    ledger_url: str | None = field(default=None, repr=False)
    dagster_url: str | None = field(default=None, repr=False)


@contextmanager
def reached(settings: Settings) -> Iterator[Reached]:
    """The databases of the environment, for the length of the block; makes none of them.

    Raises:
        SettingsError: a URL cannot be used.
    """
    if settings.ledger_database_url is not None:
        yield Reached(
            not_looked(_NAME, "LEDGER_DATABASE_URL names a server of your own"), *addresses(settings, None)
        )
        return
    files = ServerFiles(settings.postgres_dir)
    try:
        state, running = files.glance()
        for _ in range(_BUSY_TRIES):
            if state is not ServerState.CHANGING:
                break
            time.sleep(_BUSY_REST_S)
            state, running = files.glance()
    except OSError as error:
        yield Reached(
            problem(
                _NAME,
                f"{files.data} cannot be looked into ({error.strerror}): it belongs to another user",
                f"ls -ld {quote(str(files.root))} {quote(str(files.data))}; id  # then run backfill as its owner",
            )
        )
        return
    if running is not None:
        yield Reached(_running(settings, running.pid), *addresses(settings, running.socket_dir))
    elif state is ServerState.NEVER_MADE:
        sentence = f"there is no ledger below {settings.home} yet: the first command makes it"
        yield Reached(not_looked(_NAME, sentence, "backfill db migrate"))
    elif state is ServerState.KILLED:
        sentence = (
            f"the server below {settings.home} was killed; its next start recovers all that is committed"
        )
        yield Reached(warning(_NAME, sentence, _START))
    elif state is ServerState.CHANGING:
        sentence = f"the server below {settings.home} is starting or stopping: look again"
        yield Reached(not_looked(_NAME, sentence, "sleep 10; backfill doctor"))
    else:
        yield from _started(settings, files)


def _started(settings: Settings, files: ServerFiles) -> Iterator[Reached]:
    """Starts it for the look, and leaves it stopped, also when it was wanted to go on."""
    servers: list[EmbeddedServer] = []

    def start() -> Finding:
        servers.append(embedded_server(settings.home))
        return ok(
            _NAME,
            "it is not running, as nothing needs it; it was started for this look, and is stopped again",
        )

    (finding,) = looked_in_time(
        [(_NAME, start)],
        START_TIMEOUT_S,
        f"tail -n 20 {quote(str(files.log))}/*.log",
        late="it does not start",
    )
    try:
        urls = addresses(settings, servers[0].socket_dir) if servers else (None, None)
        yield Reached(finding, *urls)
    finally:
        for server in servers:
            server.release(stop_kept=True)


def _running(settings: Settings, pid: int) -> Finding:
    kept = (settings.home / "postgres.keep").exists()
    users = lock_holders(settings.home / "postgres.lock")
    if users == [] and not kept:
        return warning(
            _NAME,
            f"it runs (process {pid}) although nobody uses it: whoever did was killed; the next command stops it",
            _START,
        )
    why = ", and goes on until backfill db stop" if kept else ""
    return ok(_NAME, f"it runs (process {pid}){why}")


def lock_holders(path: Path) -> list[int] | None:
    """Processes that hold a lock on a file, found without trying it; None where the system does not say."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return [] if Path("/proc/locks").exists() else None
    except OSError:
        return None
    # ID: TYPE ADVISORY READ|WRITE PID MAJOR:MINOR:INODE START END, and -> behind the id of one who waits.
    holders = []
    for line in lines:
        words = line.split()
        if "->" not in words and len(words) >= 6 and words[5].rpartition(":")[2] == str(status.st_ino):
            holders.append(int(words[4]))
    return holders
