"""Targets: what the product promises about its speed, and whether this run kept it.

Belongs here: each promise as a bound on a ratio of two things that were measured in the same run.
Does not: wording tables (`report.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from backfill_pipeline.bench.figures import (
    COPY,
    COPY_FOREIGN_KEYS,
    HELP,
    LATENCY,
    MAPPING,
    MAPPING_RULES,
    POSTING,
    POSTING_CONSTRAINED,
    RECONCILE,
    RUN,
    RUN_AGAIN,
    RUN_TWIN,
)
from backfill_pipeline.bench.results import Results, SectionResult
from backfill_pipeline.bench.workloads import Role

PEAK = "process_peak_mib"


@dataclass(frozen=True, slots=True)
class Target:
    """A promise.

    Attributes:
        what: a ratio or a figure, in words.
        sense: whether the bound is the least or the most.
        bound: what has to hold.
        aim: what it is meant to be.
        unit: of all three numbers; "" for ratios.
        measured: None when this run did not measure it.
    """

    what: str
    sense: Literal["at least", "at most"]
    bound: float
    aim: float
    measured: float | None
    unit: str = ""

    @property
    def holds(self) -> bool | None:
        """None when it was not measured."""
        return self.holds_within(1.0)

    def holds_within(self, factor: float) -> bool | None:
        """Whether it holds when the bound is so many times weaker; for machines and sizes that it was not made for."""
        if self.measured is None:
            return None
        if self.sense == "at least":
            return self.measured >= self.bound / factor
        return self.measured <= self.bound * factor


def targets(results: Results) -> list[Target]:
    """All promises, whether or not this run measured them."""
    main, large = results.section("main"), results.section("large")
    return [
        Target("rate of posting ÷ plain COPY", "at least", 0.75, 0.9, _rates(main, POSTING, COPY)),
        Target(
            "rate of posting under all constraints ÷ plain COPY with foreign keys",
            "at least", 0.8, 1.0, _rates(main, POSTING_CONSTRAINED, COPY_FOREIGN_KEYS),
        ),
        *_run_targets(results),
        Target(
            "rate of backfill run, 5,000,000 entries ÷ 1,000,000",
            "at least", 0.9, 1.0, _ratio(_rate(_of_size(large, 5_000_000), RUN), _rate(_of_size(main, 1_000_000), RUN)),
        ),
        Target("rate of backfill reconcile ÷ backfill run", "at least", 2.0, 3.0, _rates(main, RECONCILE, RUN)),
        Target("time of backfill run, a second time ÷ the first", "at most", 0.8, 0.5, _times(main, RUN_AGAIN, RUN)),
        Target(
            "time of backfill run with every row there under another source ÷ the first",
            "at most", 0.8, 0.5, _times(main, RUN_TWIN, RUN),
        ),
        Target("time of mapping with 20 rules ÷ without", "at most", 1.5, 1.3, _times(main, MAPPING_RULES, MAPPING)),
        Target("peak memory of backfill run", "at most", 1024, 600, _peak(large or main), "MiB"),
        Target(
            "peak memory of backfill run, 5,000,000 entries ÷ 1,000,000",
            "at most", 1.1, 1.0, _ratio(_peak(_of_size(large, 5_000_000)), _peak(_of_size(main, 1_000_000))),
        ),
        Target(
            "slowest of a hundred live postings (p99) beside an online load ÷ on an idle ledger",
            "at most", 10.0, 3.0,
            _ratio(main.median(LATENCY, "online_p99_ms"), main.median(LATENCY, "idle_p99_ms")) if main else None,
        ),
        Target("time of backfill --help", "at most", 0.5, 0.3, main.median(HELP, "seconds") if main else None, "s"),
    ]  # fmt: skip


def _run_targets(results: Results) -> Iterator[Target]:
    bounds: dict[Role, tuple[int, float, float]] = {
        "main": (1_000_000, 4.0, 3.0),
        "large": (5_000_000, 3.0, 2.2),
    }
    for role, (entries, bound, aim) in bounds.items():
        measured = _times(_of_size(results.section(role), entries), RUN, COPY)
        what = f"time of backfill run ÷ plain COPY, {entries:,} entries"
        yield Target(what, "at most", bound, aim, measured)


def _of_size(section: SectionResult | None, entries: int) -> SectionResult | None:
    """The section if it has the size that a promise is made for: what it costs to start does not grow with the work."""
    return section if section is not None and section.workload.entries == entries else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _rate(section: SectionResult | None, name: str) -> float | None:
    return section.rate(name) if section else None


def _rates(section: SectionResult | None, above: str, below: str) -> float | None:
    return _ratio(section.rate(above), section.rate(below)) if section else None


def _times(section: SectionResult | None, above: str, below: str) -> float | None:
    return _ratio(section.median(above, "seconds"), section.median(below, "seconds")) if section else None


def _peak(section: SectionResult | None) -> float | None:
    return section.median(RUN, PEAK) if section else None
