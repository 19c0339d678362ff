"""Rounds: all contenders of a workload in turns, so that whatever disturbs the machine disturbs all of them alike.

Belongs here: the order of turns, and telling how far it is.
Does not: which contenders (`plan.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from backfill_pipeline.bench.plan import Plan, Section, Step
from backfill_pipeline.bench.results import SectionResult
from backfill_pipeline.bench.workloads import Bench, Role
from backfill_pipeline.local.embedded import EmbeddedServer

Log = Callable[[str], None]

_PREPARING_FIXED_S = 2.0
_PREPARING_PER_MILLION_S = 14.0


def measure(
    plan: Plan, server: EmbeddedServer, scratch: Path, log: Log
) -> tuple[list[SectionResult], dict[str, str]]:
    """Goes through a plan; returns what was measured, and which rivals failed → why.

    Raises:
        BrokenContenderError: a contender of ours does not reconcile.
    """
    clock = _Clock(plan, log)
    found: list[SectionResult] = []
    failed: dict[str, str] = {}
    for section in plan.sections:
        clock.begin(f"{section.workload.title}: making the data")
        started = time.monotonic()
        with Bench.prepare(server, scratch / section.workload.role, section.workload) as bench:
            clock.prepared(section, time.monotonic() - started)
            found.append(_measure_section(plan, section, bench, clock, failed))
    return found, failed


def _measure_section(
    plan: Plan, section: Section, bench: Bench, clock: _Clock, failed: dict[str, str]
) -> SectionResult:
    result = SectionResult(section.workload)
    for number in range(plan.rounds):
        # Every other round backwards: nobody always comes after the same one.
        for step in section.steps if number % 2 == 0 else section.steps[::-1]:
            clock.begin(
                f"round {number + 1} of {plan.rounds}, {section.workload.entries:,} entries: {step.name}"
            )
            os.sync()  # what others wrote is not this one's to wait for
            started = time.monotonic()
            try:
                measured = dict(step.measure(bench))
            except Exception as error:  # another product's failure, of whatever kind, is no failure of ours
                if step.name not in plan.rivals:
                    raise
                failed[step.name] = " ".join(str(error).split()) or type(error).__name__
                clock.log(f"    it failed: {failed[step.name]}")
                continue
            clock.done(section, step, time.monotonic() - started, measured.get(step.name, {}).get("seconds"))
            result.add(measured)
    for name in failed:
        result.rounds.pop(name, None)
    return result


@dataclass(slots=True)
class _Clock:
    """Says what is going on, and how long the rest may take: by what turns took so far, or else by expectation."""

    plan: Plan
    log: Log
    _took_s: dict[tuple[Role, str], float] = field(default_factory=dict)
    _turns_done: dict[tuple[Role, str], int] = field(default_factory=dict)
    _prepared: set[Role] = field(default_factory=set)
    _expected_s: float = 0.0
    _spent_s: float = 0.0

    def begin(self, what: str) -> None:
        self.log(f"{what}  (about {self._left_s() / 60:.0f} min left)")

    def prepared(self, section: Section, seconds: float) -> None:
        self._prepared.add(section.workload.role)
        self._learn(_preparing_s(section), seconds)

    def done(self, section: Section, step: Step, seconds: float, measured_s: float | None) -> None:
        key = (section.workload.role, step.name)
        self._took_s[key] = seconds
        self._turns_done[key] = self._turns_done.get(key, 0) + 1
        self._learn(step.expected_s(section.workload.entries), seconds)
        if measured_s is not None:
            self.log(f"    {measured_s:.2f} s")

    def _learn(self, expected_s: float, spent_s: float) -> None:
        self._expected_s += expected_s
        self._spent_s += spent_s

    def _left_s(self) -> float:
        # This machine may be faster or slower than the one that the expectations come from.
        pace = self._spent_s / self._expected_s if self._expected_s else 1.0
        left = 0.0
        for section in self.plan.sections:
            role = section.workload.role
            left += 0.0 if role in self._prepared else _preparing_s(section) * pace
            for step in section.steps:
                expected_s = step.expected_s(section.workload.entries) * pace
                turns = self.plan.rounds - self._turns_done.get((role, step.name), 0)
                left += turns * self._took_s.get((role, step.name), expected_s)
        return left


def _preparing_s(section: Section) -> float:
    return _PREPARING_FIXED_S + _PREPARING_PER_MILLION_S * section.workload.entries / 1_000_000
