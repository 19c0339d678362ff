"""`backfill status --watch`: the ledger looked at every few seconds, on a screen or as a line of JSON for each look.

Belongs here: when to look, the terminal, JSON, and an end without a trace.
Does not: the queries (`ledger/monitoring/live.py`), what is made of them (`watch_board.py`), drawing
(`watch_screen.py`).

A thread looks and the main one draws: a server that hangs holds up neither the clock, nor a resize, nor Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import print_json
from backfill_pipeline.cli.preload import work_from_now_on
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.cli.signals import stopped_by_signals
from backfill_pipeline.cli.watch_board import Board, Paces, board
from backfill_pipeline.cli.watch_screen import NoAnswer, View, screen
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.monitoring.live import Looker
from backfill_pipeline.ledger.monitoring.snapshot import Unavailable
from backfill_pipeline.local.endpoint import describe_url, normalise_url
from backfill_pipeline.settings import load_settings

INTERVAL_S: Final = 2.0

_TICK_S: Final = 0.2
# A look that takes longer than this is said to have no answer, until it has one.
_ANSWERS_WITHIN_S: Final = 3.0
# A look under way at the end is waited for no longer.
_ENDS_WITHIN_S: Final = 0.5
# Looking takes a tenth of the time at most, however large the ledger is.
_REST_FACTOR: Final = 9


def watch_status(interval_s: float | None, *, as_json: bool) -> ExitCode:
    """Shows how everything stands until Ctrl-C or SIGTERM. It migrates no ledger on a server of yours.

    Args:
        interval_s: between two looks; None for INTERVAL_S.
        as_json: one object on a line of standard output for each look; needs no terminal.

    Raises:
        UsageError: a screen was asked for, and standard output is no terminal.
    """
    interval = INTERVAL_S if interval_s is None else interval_s
    if not as_json and (not sys.stdout.isatty() or os.environ.get("TERM") in ("dumb", "unknown")):
        raise UsageError(
            "status --watch needs a terminal to draw on: use backfill status, or backfill status --watch --json"
            " for a line of JSON at each look"
        )
    with stopped_by_signals() as stop, _ledger_url() as url:
        work_from_now_on()
        with _Watcher(Looker(url), interval, stop) as watcher:
            if as_json:
                with _reader_may_leave():
                    _print_lines(watcher, stop, interval)
            else:
                _draw(watcher, stop, describe_url(url), interval)
    return ExitCode.CLEAN


@contextmanager
def _ledger_url() -> Iterator[str]:
    """The ledger's address; an embedded server is started, and kept for the length of the block.

    A server of one's own is asked for nothing here: it may be down, and the user one that may only read.
    """
    given = load_settings().ledger_database_url
    if given is not None:
        yield normalise_url(given.get_secret_value(), "LEDGER_DATABASE_URL")
        return
    with open_session() as session:
        yield session.endpoint.ledger_url


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known now. `looks` counts the answers, refusals included."""

    looks: int = 0
    board: Board | None = None
    no_answer: NoAnswer | None = None


class _Watcher:
    """Looks again and again in a thread of its own, until it is stopped."""

    def __init__(self, looker: Looker, interval_s: float, stop: threading.Event) -> None:
        self._looker = looker
        self._interval_s = interval_s
        self._stop = stop
        self._lock = threading.Lock()
        self._seen = _Seen()
        self._asked_at: datetime | None = None
        self._failure: BaseException | None = None
        # A look at a server that hangs may never end: the end of the process does not wait for it.
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_ENDS_WITHIN_S)
        if not self._thread.is_alive():
            self._looker.close()

    @property
    def seen(self) -> _Seen:
        """What is known now; a look that is overdue counts as no answer."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            seen, asked_at = self._seen, self._asked_at
        if asked_at is None or seen.no_answer is not None:
            return seen
        if (datetime.now(UTC) - asked_at).total_seconds() < _ANSWERS_WITHIN_S:
            return seen
        return replace(seen, no_answer=NoAnswer(asked_at, "the server was asked and has not answered yet"))

    def _run(self) -> None:
        paces = Paces()
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                self._look(paces)
                took_s = time.monotonic() - began
                self._stop.wait(max(self._interval_s - took_s, _REST_FACTOR * took_s))
        except Exception as error:  # whatever it is, the main thread raises it
            with self._lock:
                self._failure = error

    def _look(self, paces: Paces) -> None:
        asked_at = datetime.now(UTC)
        with self._lock:
            self._asked_at = asked_at
        found = self._looker.look()
        with self._lock:
            before = self._seen
            self._asked_at = None
            if isinstance(found, Unavailable):
                since = asked_at if before.no_answer is None else before.no_answer.since
                self._seen = replace(
                    before, looks=before.looks + 1, no_answer=NoAnswer(since, found.sentence)
                )
            else:
                self._seen = _Seen(before.looks + 1, board(found, paces))


def _draw(watcher: _Watcher, stop: threading.Event, ledger: str, interval_s: float) -> None:
    console = Console(highlight=False, emoji=False, markup=False)
    ascii_only = console.options.ascii_only
    if ascii_only:
        _never_fail_to_write()
    drawn: object = None
    with Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
        while not stop.is_set():
            seen, now = watcher.seen, datetime.now(UTC)
            size = console.size
            # Anew at each answer and resize, and once a second for the clock.
            this = (seen, size, now.replace(microsecond=0))
            if this != drawn:
                view = View(ledger, interval_s, now, seen.board, seen.no_answer, ascii_only)
                live.update(Group(*screen(view, size.width, size.height)), refresh=True)
                drawn = this
            stop.wait(_TICK_S)


def _never_fail_to_write() -> None:
    """A character that the terminal's encoding lacks becomes a question mark."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Whoever reads the lines has seen enough: that is an end like Ctrl-C."""
    try:
        yield
    except BrokenPipeError:
        # What is left in the buffer goes nowhere when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_lines(watcher: _Watcher, stop: threading.Event, interval_s: float) -> None:
    printed, silent_since = 0, time.monotonic()
    while not stop.is_set():
        seen = watcher.seen
        is_new = seen.looks != printed
        is_overdue = seen.no_answer is not None and time.monotonic() - silent_since >= interval_s
        if is_new or is_overdue:
            print_json(_as_json(seen))
            sys.stdout.flush()
            printed, silent_since = seen.looks, time.monotonic()
        stop.wait(_TICK_S)


def _as_json(seen: _Seen) -> dict[str, object]:
    """One look. Without an answer it holds no figures: those of before are on the lines before."""
    if seen.no_answer is not None or seen.board is None:
        missing = seen.no_answer
        assert missing is not None
        return {"answers": False, "at": datetime.now(UTC), "since": missing.since, "why": missing.why}
    shown = asdict(seen.board)
    return {"answers": True, "at": shown.pop("taken_at"), **shown}
