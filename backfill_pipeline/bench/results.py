"""Results: every figure of every round, what it was measured on, and medians.

Belongs here: keeping them, and writing and reading them as JSON.
Does not: measuring, or wording (`report.py`).
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from backfill_pipeline.bench.figures import LIMITS, Figures
from backfill_pipeline.bench.workloads import Role, Workload
from backfill_pipeline.errors import UsageError

Kind = Literal["limit", "ours", "rival"]


@dataclass(frozen=True, slots=True)
class SectionResult:
    """What all contenders did with one workload: contender → the figures of each round."""

    workload: Workload
    rounds: dict[str, list[Figures]] = field(default_factory=dict)

    def add(self, measured: dict[str, Figures]) -> None:
        """Adds one round's figures."""
        for name, figures in measured.items():
            self.rounds.setdefault(name, []).append(figures)

    def values(self, contender: str, figure: str) -> list[float]:
        """One figure of each round; empty when it was not measured."""
        return [figures[figure] for figures in self.rounds.get(contender, []) if figure in figures]

    def median(self, contender: str, figure: str) -> float | None:
        """The median over the rounds; None when it was not measured."""
        values = self.values(contender, figure)
        return statistics.median(values) if values else None

    def rate(self, contender: str) -> float | None:
        """Entries per second, by the median of the seconds."""
        seconds, entries = self.median(contender, "seconds"), self.median(contender, "entries")
        return None if not seconds or entries is None else entries / seconds


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run of the benchmark.

    Attributes:
        taken_on: the day, ISO.
        machine: what it ran on, for people.
        settings: of the server, by name.
        rivals: contenders that are other products.
        skipped: what was not measured → why.
    """

    taken_on: str
    machine: dict[str, str]
    settings: dict[str, str]
    rivals: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    sections: list[SectionResult] = field(default_factory=list)

    def section(self, role: Role) -> SectionResult | None:
        """The section of this role; None when it was not part of the run."""
        return next((one for one in self.sections if one.workload.role == role), None)

    def kind(self, contender: str) -> Kind:
        """Whether a contender is a limit, ours, or a rival."""
        if contender in LIMITS:
            return "limit"
        return "rival" if contender in self.rivals else "ours"

    def write(self, path: Path) -> None:
        """Writes everything as JSON, with the medians for whoever reads it without us."""
        medians = {
            section.workload.role: {
                name: {figure: section.median(name, figure) for figure in rounds[0]}
                for name, rounds in section.rounds.items()
            }
            for section in self.sections
        }
        document = {**asdict(self), "medians": medians}
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """Reads what `Results.write` wrote.

    Raises:
        UsageError: the file is missing or something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        del document["medians"]
        sections = [
            SectionResult(Workload(**section["workload"]), section["rounds"])
            for section in document.pop("sections")
        ]
        return Results(**document, sections=sections)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read as results of `make bench` ({error}): run it anew") from None
