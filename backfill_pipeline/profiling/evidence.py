"""The rows that decide: a value with its line.

Belongs here: finding them, and how many values must agree before a column counts as something.
Does not: what they decide.
"""

from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

MOST: Final = 0.98
"""Share of a column's values that must be of a kind: exports hold spoilt rows, and a run rejects them."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A value of the file that rules a reading out."""

    line: int
    value: str

    def __str__(self) -> str:
        return f'line {self.line}, "{self.value[:40]}"'


def matching(texts: pa.Array, pattern: str) -> int:
    """How many values match; 0 when that is not most of them."""
    count = pc.sum(pc.match_substring_regex(texts, pattern)).as_py() or 0
    written = len(texts) - texts.null_count
    return count if written and count >= MOST * written else 0


def first_not(texts: pa.Array, lines: pa.Array, chosen: str, rival: str) -> Evidence | None:
    """The first value that the chosen pattern matches and its rival does not."""
    decides = pc.and_not(pc.match_substring_regex(texts, chosen), pc.match_substring_regex(texts, rival))
    at = pc.index(decides, True).as_py()
    return None if at < 0 else Evidence(lines[at].as_py(), texts[at].as_py())
