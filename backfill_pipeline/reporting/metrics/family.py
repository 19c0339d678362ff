"""A metric: its name and meaning, and how its samples come from a snapshot.

Belongs here: what is common to all metrics.
Does not: which there are (`source_metrics.py`, `ledger_metrics.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from backfill_pipeline.ledger.monitoring.snapshot import Snapshot

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Classes:
    """The value of a histogram.

    Attributes:
        bounds: upper bounds, rising.
        within: how many were no larger than each of them.
        count: of all.
        total: their sum.
    """

    bounds: Sequence[float]
    within: Sequence[int]
    count: int
    total: float


Sample = tuple[Sequence[str], float | Classes]
"""Values of the labels, and the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric.

    Attributes:
        name: with its unit, and without the ending _total of counters. One that ends in _info is always 1, and says
            all in its labels: a gauge, since older readers refuse the kind that OpenMetrics has for it.
        kind: gauge, counter or histogram.
        labels: their names.
        help: what it counts, in one sentence without a full stop.
        samples: from a snapshot.
        unit: in which it is measured, when that is a part of its name.
        strategy: whether the strategy document names it.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    samples: Callable[[Snapshot], Iterable[Sample]]
    unit: str = ""
    strategy: bool = False

    def __post_init__(self) -> None:
        assert not self.unit or self.name.endswith(f"_{self.unit}"), self.name

    @property
    def series_name(self) -> str:
        """As queries name it; of a histogram, what comes before _bucket, _sum and _count."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    @property
    def series_names(self) -> tuple[str, ...]:
        """All names under which it is stored."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.series_name,)

    def collected(self, snapshot: Snapshot) -> Metric:
        """With its samples."""
        return family(self, self.samples(snapshot))


def family(declared: Family, samples: Iterable[Sample]) -> Metric:
    """A declared metric with samples, as the library writes them."""
    if declared.kind == "histogram":
        histogram = HistogramMetricFamily(
            declared.name, declared.help, labels=declared.labels, unit=declared.unit
        )
        for labels, value in samples:
            assert isinstance(value, Classes)
            bounds = [str(bound) for bound in value.bounds]
            counts = [*zip(bounds, map(float, value.within), strict=True), ("+Inf", float(value.count))]
            histogram.add_metric(labels, counts, value.total)
        return histogram
    make = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
    plain = make(declared.name, declared.help, labels=declared.labels, unit=declared.unit)
    for labels, value in samples:
        assert not isinstance(value, Classes)
        plain.add_metric(labels, value)
    return plain
