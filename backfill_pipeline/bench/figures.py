"""What a contender hands back: figures, or the admission that it is broken.

Belongs here: the names of our own measures, so that contenders, targets and report mean the same ones.
Does not: measuring, or keeping what was measured (`results.py`).
"""

from __future__ import annotations

from typing import Final

Figures = dict[str, float]
"""`seconds` and `entries` of one measured piece of work, and what else it tells, with the unit in its name."""

COPY: Final = "plain COPY"
COPY_FOREIGN_KEYS: Final = "plain COPY, foreign keys"
MAPPING: Final = "mapping"
MAPPING_RULES: Final = "mapping, 20 rules"
POSTING: Final = "posting"
POSTING_CONSTRAINED: Final = "posting, all constraints"
RUN: Final = "backfill run"
RECONCILE: Final = "backfill reconcile"
RUN_AGAIN: Final = "backfill run, a second time"
RUN_TWIN: Final = "backfill run, same export as another source"
RESUMED: Final = "backfill run, killed half way, and resume"
HELP: Final = "backfill --help"
LATENCY: Final = "live postings beside a load"

MAPPINGS: Final = (MAPPING, MAPPING_RULES)
"""They do not post, so their rates stand beside no others."""
LIMITS: Final = (COPY, COPY_FOREIGN_KEYS)


class BrokenContenderError(Exception):
    """A contender of ours lost, doubled or changed something: there is no speed to report, and the benchmark fails."""


def insist(condition: bool, contender: str, complaint: str) -> None:
    """Raises unless what must hold for a contender does.

    Raises:
        BrokenContenderError: it does not; the message names the contender.
    """
    if not condition:
        raise BrokenContenderError(f"{contender}: {complaint}")
