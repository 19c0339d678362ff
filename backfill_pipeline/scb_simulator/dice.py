"""Chance that can be asked again: number N of a stream is known without the numbers before it.

Belongs here: streams of integers, told apart by names, with access to any place of them.
Does not: what is drawn (`ledger.py`, `faults.py`).

SplitMix64's finaliser applied to a counter: defined by its arithmetic on 64 bits alone, so the same on every machine
and with every version of the libraries.
"""

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint64]

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


class Dice:
    """One stream, told from others by its names."""

    def __init__(self, *names: object) -> None:
        digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
        self._key = np.uint64(int.from_bytes(digest[:8], "big"))

    def draw(self, numbers: Integers, bound: int | Integers) -> Integers:
        """An integer from 0 to `bound` - 1 for each place of the stream. The modulo's bias is below 1e-8 here."""
        return (self._raw(numbers) % np.asarray(bound, np.uint64)).astype(np.int64)

    def one(self, number: int, bound: int) -> int:
        """The same for a single place."""
        return int(self.draw(np.array([number], np.int64), bound)[0])

    def _raw(self, numbers: Integers) -> Numbers:
        # Arrays of unsigned integers wrap around without a word, which is what the arithmetic means.
        mixed: Numbers = (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN + self._key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
        return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)
