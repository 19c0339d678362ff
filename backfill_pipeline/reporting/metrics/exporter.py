"""The text of a scrape: one look at the ledger, kept for a moment, and never half of one.

Belongs here: when the ledger is looked at, for how long an answer is waited for, and what is said when there is none.
Does not: serving it (`server.py`), asking the ledger (`ledger/monitoring/`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from backfill_pipeline.ledger.monitoring.snapshot import REASONS, Reason, Snapshot, Unavailable
from backfill_pipeline.reporting.metrics.catalogue import FROM_SNAPSHOT
from backfill_pipeline.reporting.metrics.family import family
from backfill_pipeline.reporting.metrics.ledger_metrics import BUILD, FAILURES, UP

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

KEPT_S: Final = 5.0
"""For so long a look is answered with, however many ask."""

ANSWER_TIMEOUT_S: Final = 9.0
"""A scrape ends within this, whatever the ledger does: a second before Prometheus gives up by default."""

LOST_AFTER_S: Final = 60.0
"""A look that takes longer than any can, since its connection is lost and nobody says so: another one is begun."""

Look = Callable[[], Snapshot | Unavailable]


def exposition(found: Snapshot | Unavailable, failures: Counter[Reason]) -> bytes:
    """A look as OpenMetrics text: everything, or that there is nothing."""
    text: bytes = generate_latest(_Collected(found, failures))
    return text


def _release() -> str:
    try:
        return version("backfill-pipeline")
    except PackageNotFoundError:  # a checkout on the path that was never installed
        return "unknown"


@dataclass(frozen=True, slots=True)
class _Collected(Collector):
    """A look, as the library collects it."""

    found: Snapshot | Unavailable
    failures: Counter[Reason]

    def collect(self) -> Iterator[Metric]:
        """Every metric with its samples."""
        yield family(UP, (((), int(isinstance(self.found, Snapshot))),))
        yield family(BUILD, (((_release(),), 1),))
        yield family(FAILURES, (((reason,), self.failures[reason]) for reason in REASONS))
        if isinstance(self.found, Snapshot):
            yield from (one.collected(self.found) for one in FROM_SNAPSHOT)


@dataclass(slots=True)
class _Looking:
    """A look that is under way, or its outcome."""

    done: threading.Event = field(default_factory=threading.Event)
    begun_at: float = field(default_factory=time.monotonic)
    text: bytes = b""
    done_at: float = 0.0


class Exporter:
    """Answers scrapes, from several threads. One look at a time is under way, and its outcome is kept for a moment."""

    def __init__(
        self,
        look: Look,
        *,
        say: Callable[[str], None] = lambda sentence: None,
        kept_s: float = KEPT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            look: at the ledger.
            say: told why the ledger cannot be looked at, and that it can again; once each.
            kept_s: for how long an outcome is kept.
            answer_timeout_s: how long one scrape waits.
            lost_after_s: after how long a look is not waited for any more.
        """
        self._look = look
        self._say = say
        self._kept_s = kept_s
        self._answer_timeout_s = answer_timeout_s
        self._lost_after_s = lost_after_s
        self._lock = threading.Lock()
        self._looking: _Looking | None = None
        self._failures: Counter[Reason] = Counter()
        self._said: str | None = None

    def text(self) -> bytes:
        """The answer to a scrape; at the latest when the time that one may take is over."""
        looking = self._current()
        if looking.done.wait(self._answer_timeout_s):
            return looking.text
        late = Unavailable(
            "timeout", f"the ledger could not be looked at within {self._answer_timeout_s:g} s"
        )
        with self._lock:
            return self._failed(late)

    def _current(self) -> _Looking:
        """The look to answer with: one that is under way, or was made just now, or a new one."""
        with self._lock:
            looking, now = self._looking, time.monotonic()
            if looking is not None and (
                now - looking.done_at < self._kept_s
                if looking.done.is_set()
                else now - looking.begun_at < self._lost_after_s
            ):
                return looking
            looking = self._looking = _Looking()
        # Nobody waits for it at the end of the process: a server that does not answer holds a connection for long.
        threading.Thread(target=self._make, args=(looking,), name="look", daemon=True).start()
        return looking

    def _make(self, looking: _Looking) -> None:
        try:
            found = self._look()
        except Exception as error:  # a defect: scrapes go on, and the log has it
            found = Unavailable("failed", f"unexpected {type(error).__name__}: {error}")
        with self._lock:
            looking.text = self._succeeded(found) if isinstance(found, Snapshot) else self._failed(found)
            looking.done_at = time.monotonic()
        looking.done.set()

    def _succeeded(self, found: Snapshot) -> bytes:
        if self._said is not None:
            self._say("the ledger can be looked at again")
            self._said = None
        return exposition(found, self._failures)

    def _failed(self, found: Unavailable) -> bytes:
        self._failures[found.reason] += 1
        if self._said != found.sentence:
            self._say(found.sentence)
            self._said = found.sentence
        return exposition(found, self._failures)
