"""Records that an API gives more than once, which happens when something is inserted while pages are read.

Belongs here: telling them by their key, and counting them.
Does not: leaving them out. They stay records of the source: the ledger tells duplicates from conflicts by their
references, and counts both.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

_KEYS: Final = ("ledger-backfill:", "backfill-ledger:")
_Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class RepeatCount:
    """Records whose key an earlier record has.

    Attributes:
        identical: those that say the same as the first one with their key.
        differing: those that say something else.
    """

    identical: int
    differing: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.identical + self.differing


class Repeats:
    """Counts records whose key was seen before. Holds 16 bytes per record, and some 40 while it counts."""

    def __init__(self) -> None:
        self._keys: list[_Hashes] = []
        self._contents: list[_Hashes] = []

    def add(self, keys: pa.Array, texts: pa.Array) -> None:
        """Takes the next records.

        Args:
            keys: of each; "" is no key, and repeats nothing.
            texts: all of each record.
        """
        there = pc.not_equal(keys, "")
        self._keys.append(_hashes(keys.filter(there), _KEYS[0]))
        self._contents.append(_hashes(texts.filter(there), _KEYS[1]))

    def count(self) -> RepeatCount:
        """What was found among all records so far."""
        if not self._keys:
            return RepeatCount(0, 0)
        keys, contents = np.concatenate(self._keys), np.concatenate(self._contents)
        order = np.argsort(keys, kind="stable")
        keys, contents = keys[order], contents[order]
        first = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
        same = contents == contents[np.flatnonzero(first)[np.cumsum(first) - 1]]
        return RepeatCount(int((~first & same).sum()), int((~first & ~same).sum()))


def _hashes(texts: pa.Array, key: str) -> _Hashes:
    """64 bits per text. As bytes, because pandas hashes those in C without encoding them once more."""
    values = texts.cast(pa.binary()).to_numpy(zero_copy_only=False)
    hashes: _Hashes = hash_array(values, hash_key=key, categorize=False)
    return hashes
