"""Rivals: what one would pick instead of this product, each at its best ordinary use.

Belongs here: their names, and which of them this machine has.
Does not: what they do (`by_hand.py`, `tools.py`).

None of them does what this product does; each docstring says what is missing. They start where they start best: from
the export itself, or from rows that are converted already when they cannot read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backfill_pipeline.bench.figures import Figures
from backfill_pipeline.bench.rivals.by_hand import staging_and_upsert, strategy_do_script, strategy_loop
from backfill_pipeline.bench.rivals.tools import dlt_arrow, dlt_missing, pgloader, pgloader_missing
from backfill_pipeline.bench.workloads import Bench

__all__ = ["RIVALS", "unavailable"]

_DLT: Final = "dlt, Arrow"
_PGLOADER: Final = "pgloader"

RIVALS: Final[dict[str, Callable[[Bench], Figures]]] = {
    "strategy document, row by row": strategy_loop,
    "strategy document, DO script": strategy_do_script,
    "staging table and upsert, by hand": staging_and_upsert,
    _DLT: dlt_arrow,
    _PGLOADER: pgloader,
}


def unavailable() -> dict[str, str]:
    """Rivals that this machine lacks → why, with the remedy; they are skipped."""
    reasons = {_DLT: dlt_missing(), _PGLOADER: pgloader_missing()}
    return {name: reason for name, reason in reasons.items() if reason}
