"""What `backfill status --watch` shows, made of looks at the ledger.

Belongs here: rates, the time that is left, one word for how a source stands, and what comes first.
Does not: the queries (`ledger/monitoring/live.py`), drawing (`watch_screen.py`), when to look (`watch.py`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backfill_pipeline.ledger.monitoring.banks import DAY_STATES, BankDaysState
from backfill_pipeline.ledger.monitoring.live import Failure, LiveLook, Running
from backfill_pipeline.ledger.monitoring.sources import (
    CHECKPOINT_STATUSES,
    VERDICTS,
    SourceProgress,
    SourceRows,
)

STALLED_AFTER_S: Final = 60.0
"""A run that has decided no row for so long is said to be stalled."""

_WINDOW_S: Final = 30.0

# How far up on the screen: what may be a loss, what is being done, what somebody has to do something about, the rest.
_ORDER: Final = ("lost", "running", "stalled", "FAILED", "break", "failed", "PAUSED", "IN_PROGRESS", "open")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a source moves.

    Attributes:
        rows_per_s: over the last half minute of looks; None until two of them were taken.
        run_rows_per_s: since its run began; None while nothing runs, or began at a time that is not known.
        eta_s: until all rows are decided; None when nothing runs or nothing moves, so that nobody can tell.
        still_s: for how long a run has decided nothing; None while nothing runs.
    """

    rows_per_s: float | None = None
    run_rows_per_s: float | None = None
    eta_s: float | None = None
    still_s: float | None = None


@dataclass(frozen=True, slots=True)
class SourceBoard:
    """A source as it is shown.

    Attributes:
        state: one word: running, stalled, or the status of its checkpoint.
        decided: rows that are posted, duplicates, conflicts, rejected or filtered.
        partitions: state → how many, those that are done first.
        rejects: code → rows that are rejected now, the most frequent first.
        verdict: of the reconciliation: match, break, not run.
        unaccounted: rows that are lost or doubled; nothing but 0 is right.
    """

    source: str
    state: str
    revision: int
    rows: int
    decided: int
    partitions: Mapping[str, int]
    pace: Pace
    rejects: Mapping[str, int]
    verdict: str
    unaccounted: int

    @property
    def is_running(self) -> bool:
        """Whether a run writes it at this moment."""
        return self.pace.still_s is not None

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to watch about it: it is done, and nothing is wrong."""
        return self.state == "COMPLETED" and not self.unaccounted and self.verdict != "break"


@dataclass(frozen=True, slots=True)
class BankBoard:
    """The days of a bank, and what it has yet to hear of, as they are shown.

    Attributes:
        state: running, stalled, or the worst state that a day is in: break, failed, open, complete.
        days: state → how many, complete ones first.
        working_on: the day that a run writes at this moment.
        waiting: status of the outbox → rows that the bank has not heard of; those without any are left out.
        oldest_s: how old the oldest of these is that was not given up; None where nothing waits.
        left_alone: why nobody asks the bank at this moment; None when it is asked.
        last_answer_at: when it last answered; None when it never did.
    """

    source: str
    bank: str
    state: str
    days: Mapping[str, int]
    complete_to: datetime
    working_on: str | None
    pace: Pace
    breaks: int
    unacknowledged: int
    waiting: Mapping[str, int]
    oldest_s: float | None
    left_alone: str | None
    last_answer_at: datetime | None
    rejects: Mapping[str, int]
    unaccounted: int


@dataclass(frozen=True, slots=True)
class Board:
    """Everything that is shown of one moment, the most important first."""

    taken_at: datetime
    constraints: str
    size_bytes: int
    failed: int
    sources: Sequence[SourceBoard]
    banks: Sequence[BankBoard]
    failures: Sequence[Failure]

    @property
    def running(self) -> int:
        """How many sources and banks are written at this moment."""
        paces = [*(one.pace for one in self.sources), *(one.pace for one in self.banks)]
        return sum(pace.still_s is not None for pace in paces)


class Paces:
    """Remembers how many rows were decided at the last looks."""

    def __init__(self) -> None:
        """Nothing is remembered yet."""
        self._samples: dict[str, deque[tuple[datetime, int]]] = {}

    def note(self, source: str, at: datetime, decided: int) -> float | None:
        """Remembers one look; rows per second since the oldest one of the last half minute, None at the first.

        A source with fewer rows than before was rolled back, or has a new revision: it begins anew.
        """
        samples = self._samples.setdefault(source, deque())
        if samples and (decided < samples[-1][1] or at <= samples[-1][0]):
            samples.clear()
        samples.append((at, decided))
        while len(samples) > 2 and at - samples[1][0] >= timedelta(seconds=_WINDOW_S):
            samples.popleft()
        began, before = samples[0]
        return (decided - before) / (at - began).total_seconds() if at > began else None


def board(look: LiveLook, paces: Paces) -> Board:
    """What is shown after a look, which `paces` will remember."""
    rows = _by_source(look.source_rows)
    running = {one.source: one for one in look.running}
    of_banks = {one.source: one for one in look.bank_days}
    rejects = _rejects(look)
    sources: list[SourceBoard] = []
    banks: list[BankBoard] = []
    for one in look.source_progress:
        parts = rows.pop(one.source, [])
        run = running.get(one.source)
        decided, total = sum(part.processed for part in parts), sum(part.rows for part in parts)
        rate = paces.note(one.source, look.taken_at, decided)
        pace = _pace(look.taken_at, one, run, rate, total - decided)
        unaccounted = sum(part.unaccounted for part in parts)
        refused = rejects.get(one.source, {})
        if (days := of_banks.pop(one.source, None)) is not None:
            banks.append(_bank(look, days, run, pace, refused, unaccounted))
            continue
        sources.append(
            SourceBoard(
                one.source,
                _word(pace) or _status(one),
                one.revision,
                total,
                decided,
                _states(parts),
                pace,
                refused,
                _verdict(one),
                unaccounted,
            )
        )
    # Days that failed before anything of them was registered.
    banks.extend(_bank(look, days, None, Pace(), {}, 0) for days in of_banks.values())
    return Board(
        look.taken_at,
        look.constraints,
        look.size_bytes,
        look.failed,
        sorted(sources, key=lambda one: (_place(one.state, one.verdict, one.unaccounted), one.source)),
        sorted(banks, key=lambda one: (_place(one.state, "", one.unaccounted), one.source)),
        look.failures,
    )


def _by_source(rows: Sequence[SourceRows]) -> dict[str, list[SourceRows]]:
    found: dict[str, list[SourceRows]] = {}
    for one in rows:
        found.setdefault(one.source, []).append(one)
    return found


def _rejects(look: LiveLook) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for one in look.open_rejects:
        found.setdefault(one.source, Counter())[one.code] += one.rows
    return {
        source: dict(sorted(codes.items(), key=lambda code: (-code[1], code[0])))
        for source, codes in found.items()
    }


_SHOWN_FIRST: Final = ("posted", "posting", "validated", "registered", "failed", "rolled back")


def _states(parts: Sequence[SourceRows]) -> dict[str, int]:
    return {
        one.state: one.partitions for one in sorted(parts, key=lambda part: _SHOWN_FIRST.index(part.state))
    }


def _status(source: SourceProgress) -> str:
    """Of one checkpoint, which is what a source has that is no bank's."""
    return next(name for name, count in zip(CHECKPOINT_STATUSES, source.statuses, strict=True) if count)


def _verdict(source: SourceProgress) -> str:
    verdicts = dict(zip(VERDICTS, source.verdicts, strict=True))
    return next(name for name in ("break", "not run", "match") if verdicts[name])


def _word(pace: Pace) -> str | None:
    if pace.still_s is None:
        return None
    return "stalled" if pace.still_s >= STALLED_AFTER_S else "running"


def _pace(now: datetime, source: SourceProgress, run: Running | None, rate: float | None, left: int) -> Pace:
    if run is None:
        return Pace()
    since = run.since or source.started_at
    run_s = (now - run.since).total_seconds() if run.since is not None else 0.0
    moves = rate is not None and rate > 0
    return Pace(
        rate,
        run.rows / run_s if run_s > 0 and run.rows else None,
        left / rate if rate is not None and moves else None,
        max(0.0, (now - max(since, source.last_checkpoint_at)).total_seconds()),
    )


def _bank(
    look: LiveLook,
    days: BankDaysState,
    run: Running | None,
    pace: Pace,
    rejects: Mapping[str, int],
    unaccounted: int,
) -> BankBoard:
    states = {name: count for name, count in zip(DAY_STATES, days.states, strict=True) if count}
    worst = next((name for name in ("break", "failed", "open") if name in states), "complete")
    waiting: Counter[str] = Counter()
    oldest: datetime | None = None
    for one in look.waiting:
        if one.bank == days.bank and one.rows:
            waiting[one.status] += one.rows
            if one.oldest_at is not None and one.status != "DEAD":
                oldest = one.oldest_at if oldest is None else min(oldest, one.oldest_at)
    connection = next((one for one in look.bank_connections if one.bank == days.bank), None)
    alone = connection is not None and connection.is_left_alone
    return BankBoard(
        source=days.source,
        bank=days.bank,
        state=_word(pace) or worst,
        days=states,
        complete_to=days.complete_to,
        working_on=None if run is None else run.part,
        pace=pace,
        breaks=days.breaks,
        unacknowledged=days.unacknowledged,
        waiting=dict(waiting),
        oldest_s=None if oldest is None else max(0.0, (look.taken_at - oldest).total_seconds()),
        left_alone=f"{connection.failures:,} failures in a row" if connection is not None and alone else None,
        last_answer_at=None if connection is None else connection.last_success_at,
        rejects=rejects,
        unaccounted=unaccounted,
    )


def _place(state: str, verdict: str, unaccounted: int) -> int:
    words = {state, verdict} | ({"lost"} if unaccounted else set())
    return next((place for place, word in enumerate(_ORDER) if word in words), len(_ORDER))
