"""Plans: which contenders meet at which sizes, how often, and how much time and disk that takes.

Belongs here: the full, the quick and the smallest benchmark.
Does not: contenders, or going through a plan (`rounds.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from backfill_pipeline.bench import commands, contenders
from backfill_pipeline.bench.figures import (
    COPY,
    COPY_FOREIGN_KEYS,
    HELP,
    LATENCY,
    MAPPING_RULES,
    POSTING,
    POSTING_CONSTRAINED,
    RESUMED,
    RUN,
    Figures,
)
from backfill_pipeline.bench.latency import live_latency
from backfill_pipeline.bench.mapping import mapping_with_rules
from backfill_pipeline.bench.rivals import RIVALS, unavailable
from backfill_pipeline.bench.workloads import Bench, Workload
from backfill_pipeline.errors import UsageError

# A run's files per entry: export, intermediates twice, entries, one ledger and a template, a home with another ledger.
_DISK_BYTES_PER_ENTRY = 2_000
# Two servers keep WAL up to max_wal_size each, and a small ledger is not all of a server.
_WAL_BYTES_PER_ENTRY = 1_500
_WAL_BYTES_MAX = 8 << 30
_DISK_BYTES_MIN = 1 << 29

_ACCOUNTS_SHARE = 100  # entries per account
_ACCOUNTS_MIN = 1_000


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of one contender.

    Attributes:
        name: of its only or first figures.
        measure: what it does; contender → figures.
        fixed_s, per_million_s: what it is expected to take, before anything is measured.
    """

    name: str
    measure: Callable[[Bench], Mapping[str, Figures]]
    fixed_s: float
    per_million_s: float

    def expected_s(self, entries: int) -> float:
        """Expected seconds of a turn."""
        return self.fixed_s + self.per_million_s * entries / 1_000_000


@dataclass(frozen=True, slots=True)
class Section:
    """All contenders that meet over one workload."""

    workload: Workload
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of the benchmark does.

    Attributes:
        rivals: names of contenders that are other products.
        skipped: what cannot be measured here → why.
    """

    sections: tuple[Section, ...]
    rounds: int
    rivals: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def disk_bytes(self) -> int:
        """What the largest workload takes, generously; workloads do not lie beside each other."""
        entries = max(section.workload.entries for section in self.sections)
        wal = min(entries * _WAL_BYTES_PER_ENTRY, _WAL_BYTES_MAX)
        return _DISK_BYTES_MIN + entries * _DISK_BYTES_PER_ENTRY + 2 * wal

    def only(self, names: Iterable[str]) -> Plan:
        """The plan with these steps alone.

        Raises:
            UsageError: it has no such step.
        """
        wanted = set(names)
        known = {step.name for section in self.sections for step in section.steps}
        if unknown := sorted(wanted - known):
            raise UsageError(f"there is no contender {unknown[0]!r}: take from {', '.join(sorted(known))}")
        kept = [
            replace(section, steps=tuple(step for step in section.steps if step.name in wanted))
            for section in self.sections
        ]
        return replace(self, sections=tuple(section for section in kept if section.steps))


def full_plan(*, entries: int, rounds: int, huge: bool) -> Plan:
    """Everything: all contenders at the main size, ours and the limit as work grows, and on unkind data."""
    rivals, skipped = _rivals()
    workloads = _workloads(entries, huge=huge)
    sections = [Section(workloads[0], (*_limits(), *_ours(), *rivals, _LATENCY))]
    for workload in workloads[1:]:
        if workload.unavailable:
            skipped[workload.title] = workload.unavailable
        elif workload.role in ("skewed", "uuid"):
            sections.append(Section(workload, (_COPY, _POSTING)))
        else:
            sections.append(Section(workload, (_COPY, _POSTING, _RUN)))
    return Plan(tuple(sections), rounds, tuple(step.name for step in rivals), skipped)


def quick_plan(*, entries: int, rounds: int) -> Plan:
    """Limits and ours at one small size: enough to see whether a change helped or hurt."""
    return Plan((Section(_workloads(entries, huge=False)[0], (*_limits(), *_ours())),), rounds)


def smoke_plan(*, entries: int) -> Plan:
    """One round of what most promises are about, for tests of the benchmark and of the product's speed."""
    workload = _workloads(entries, huge=False)[0]
    return Plan(
        (
            Section(
                workload,
                (_COPY, _COPY_FOREIGN_KEYS, _MAPPING, _POSTING, _POSTING_CONSTRAINED, _REPEAT, _HELP),
            ),
        ),
        1,
    )


def _workloads(entries: int, *, huge: bool) -> list[Workload]:
    def accounts(count: int) -> int:
        return max(count // _ACCOUNTS_SHARE, _ACCOUNTS_MIN)

    main = Workload("main", entries, accounts(entries))
    return [
        main,
        Workload("small", entries // 10, accounts(entries // 10)),
        replace(main, role="skewed", skew=0.5),
        replace(main, role="uuid", references="uuid"),
        # As many accounts as at the main size: the work grows, not the bank.
        replace(main, role="large", entries=entries * 5),
        *([replace(main, role="huge", entries=entries * 10)] if huge else []),
    ]


def _named(name: str, measure: Callable[[Bench], Figures], bench: Bench) -> dict[str, Figures]:
    return {name: measure(bench)}


def _step(name: str, measure: Callable[[Bench], Figures], fixed_s: float, per_million_s: float) -> Step:
    return Step(name, partial(_named, name, measure), fixed_s, per_million_s)


_COPY = _step(COPY, contenders.plain_copy, 0.5, 6)
_COPY_FOREIGN_KEYS = _step(COPY_FOREIGN_KEYS, contenders.plain_copy_foreign_keys, 0.5, 15)
# Expected times include the reconciliation that follows outside the measured time.
_POSTING = _step(POSTING, contenders.posting, 0.5, 15)
_POSTING_CONSTRAINED = _step(POSTING_CONSTRAINED, contenders.posting_constrained, 0.5, 26)
_MAPPING = Step(MAPPING_RULES, mapping_with_rules, 0.5, 5)
_RUN = Step(RUN, commands.run_and_reconcile, 12, 20)
_REPEAT = Step(RUN, commands.run_and_repeat, 25, 45)
_RESUMED = Step(RESUMED, commands.killed_and_resumed, 20, 22)
_LATENCY = _step(LATENCY, live_latency, 20, 25)
_HELP = Step(HELP, commands.help_text, 2, 0)


def _limits() -> tuple[Step, ...]:
    return (_COPY, _COPY_FOREIGN_KEYS)


def _ours() -> tuple[Step, ...]:
    return (_MAPPING, _POSTING, _POSTING_CONSTRAINED, _REPEAT, _RESUMED, _HELP)


def _rivals() -> tuple[list[Step], dict[str, str]]:
    """Other products that can be measured here, and why the others cannot."""
    skipped = unavailable()
    return [_step(name, rival, 5, 10) for name, rival in RIVALS.items() if name not in skipped], skipped
