"""All metrics, and the table of them in the documentation.

Belongs here: the list, in the order in which they are written, and what is said about it.
Does not: what each shows (the modules that it is put together from).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from backfill_pipeline.reporting.metrics.family import Family
from backfill_pipeline.reporting.metrics.ledger_metrics import (
    ALWAYS,
    BANK_METRICS,
    LEDGER_METRICS,
    LOOK_METRICS,
)
from backfill_pipeline.reporting.metrics.source_metrics import SOURCE_METRICS

FROM_SNAPSHOT: Final[tuple[Family, ...]] = (*SOURCE_METRICS, *BANK_METRICS, *LEDGER_METRICS, *LOOK_METRICS)
ALL_METRICS: Final[tuple[Family, ...]] = (*ALWAYS, *FROM_SNAPSHOT)

_SECTIONS: Final = (
    ("Sources", SOURCE_METRICS),
    ("Banks", BANK_METRICS),
    ("The ledger", LEDGER_METRICS),
    ("Looking at it", (*ALWAYS, *LOOK_METRICS)),
)


def series_names() -> frozenset[str]:
    """Every name that a query can ask for."""
    return frozenset(name for one in ALL_METRICS for name in one.series_names)


def reference() -> str:
    """All metrics as Markdown tables, for docs/metrics.md."""
    return (
        "\n".join(line for title, families in _SECTIONS for line in _table(title, families)).rstrip() + "\n"
    )


def _table(title: str, families: Iterable[Family]) -> Iterable[str]:
    yield from (f"### {title}", "", "| metric | type | labels | |", "|---|---|---|---|")
    for one in families:
        mark = " \\*" if one.strategy else ""
        labels = ", ".join(f"`{name}`" for name in one.labels)
        yield f"| `{one.series_name}` | {one.kind} | {labels} | {one.help}{mark} |"
    yield ""
