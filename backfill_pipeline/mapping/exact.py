"""Exact whole numbers in columns, as wide as sums of amounts get.

Belongs here: amounts as whole numbers of their smallest decimal, running sums, differences, and the way back.
Does not: what is summed (`legs.py`).

A number is one int64 where all sums of a chunk fit, and otherwise three of 43 bits each, the least significant first:
room for a million amounts of 38 digits. Both go through the same operations and give the same result. numpy's integers
wrap around without a sound, and that is used: a running sum over a whole chunk may wrap, the part of one group is right
all the same.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.money import AMOUNT_DIGITS, AMOUNT_SCALE, AMOUNT_TYPE, plain_text, rescaled

Integers = npt.NDArray[np.int64]

SUMMED_MAX: Final = 1_000_000
"""Numbers of one sum: 43 + 20 bits just fit."""

_BITS: Final = 43
_MASK: Final = np.int64((1 << _BITS) - 1)
_LIMBS: Final = 3
_ONE_LIMB_MAX: Final = 1 << 62
_AMOUNT_MAX: Final = 10**AMOUNT_DIGITS


@dataclass(frozen=True, slots=True)
class Exact:
    """Whole numbers in units of 10^-`decimals`; `limbs` make one number together."""

    limbs: tuple[Integers, ...]
    decimals: int

    def __len__(self) -> int:
        return len(self.limbs[0])

    def take(self, positions: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Self:
        """Some of the numbers, by position or mask."""
        return type(self)(tuple(limb[positions] for limb in self.limbs), self.decimals)

    def followed_by(self, other: Self) -> Self:
        """These numbers and others behind them."""
        limbs = tuple(np.concatenate(pair) for pair in zip(self.limbs, other.limbs, strict=True))
        return type(self)(limbs, self.decimals)

    def where(self, mask: npt.NDArray[np.bool_], other: Self) -> Self:
        """These where the mask holds, the others elsewhere."""
        pairs = zip(self.limbs, other.limbs, strict=True)
        return type(self)(tuple(np.where(mask, one, two) for one, two in pairs), self.decimals)

    def minus(self, other: Self) -> Self:
        """The differences."""
        pairs = zip(self.limbs, other.limbs, strict=True)
        return type(self)(_carried([one - two for one, two in pairs]), self.decimals)

    def signs(self) -> Integers:
        """-1, 0 or 1 per number: the last limb has the sign."""
        zero = np.logical_and.reduce([limb == 0 for limb in self.limbs])
        return np.where(zero, 0, np.where(self.limbs[-1] < 0, -1, 1))

    def magnitudes(self) -> Self:
        """The numbers without their signs."""
        nothing = type(self)(tuple(np.zeros_like(limb) for limb in self.limbs), self.decimals)
        return nothing.minus(self).where(self.limbs[-1] < 0, self)

    def falling(self) -> list[Integers]:
        """Keys for `numpy.lexsort`, which order the largest first."""
        return [-limb for limb in self.limbs]

    def running(self, starts: npt.NDArray[np.bool_]) -> Self:
        """Running sums, which begin anew where `starts` is true.

        Args:
            starts: per number; true for the first. At most SUMMED_MAX numbers lie between two.
        """
        first = np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
        sums = []
        for limb in self.limbs:
            total = np.cumsum(limb)
            sums.append(total - (total - limb)[first])
        return type(self)(_carried(sums), self.decimals)

    def amounts(self) -> pa.Array:
        """The numbers, none of which is below zero or wider than an amount, as AMOUNT_TYPE."""
        units = self._decimal128(self.decimals)
        return units if self.decimals == AMOUNT_SCALE else pc.cast(units, AMOUNT_TYPE)

    def texts(self) -> pa.Array:
        """The numbers as plain decimal text, for messages; those that are wider than any amount as such."""
        signs, size = self.signs(), self.magnitudes()
        wide = np.zeros(len(self), dtype=bool)
        if len(self.limbs) > 1:
            top = [_AMOUNT_MAX >> (_BITS * number) & int(_MASK) for number in range(_LIMBS)]
            limit = Exact(tuple(np.full(len(self), one, dtype=np.int64) for one in top), self.decimals)
            wide = Exact(size.limbs, size.decimals).minus(limit).signs() >= 0
            size = size.where(
                ~wide, type(self)(tuple(np.zeros_like(one) for one in size.limbs), self.decimals)
            )
        texts = pc.if_else(pa.array(wide), "100000000000000000000 or more", plain_text(size.amounts()))
        return pc.binary_join_element_wise(pc.if_else(pa.array(signs < 0), "-", ""), texts, "")

    def _decimal128(self, decimals: int) -> pa.Array:
        words = np.zeros((len(self), 2), dtype=np.uint64)
        low, *more = (limb.astype(np.uint64) for limb in self.limbs)
        words[:, 0] = low
        if more:
            words[:, 0] |= more[0] << np.uint64(_BITS)
            words[:, 1] = (more[0] >> np.uint64(64 - _BITS)) | (more[1] << np.uint64(2 * _BITS - 64))
        kind = pa.decimal128(AMOUNT_DIGITS, decimals)
        return pa.Array.from_buffers(kind, len(self), [None, pa.py_buffer(words.tobytes())])


def exact_amounts(amounts: pa.Array, scales: Integers, summed_max: int) -> Exact:
    """Amounts as whole numbers, in as few limbs as their sums need.

    Args:
        amounts: AMOUNT_TYPE, none below zero, none null.
        scales: how many decimals each was written with.
        summed_max: of how many at most sums will be taken.
    """
    decimals = int(scales.max(initial=0))
    try:
        low, high = _words(rescaled(amounts, decimals))
    except (
        pa.ArrowInvalid
    ):  # finer than it was written, which no reader gives: then with all decimals there are
        decimals = AMOUNT_SCALE
        low, high = _words(amounts)
    if not high.any() and int(low.max(initial=0)) * max(1, summed_max) < _ONE_LIMB_MAX:
        return Exact((low.astype(np.int64),), decimals)
    return wide_amounts(amounts)


def wide_amounts(amounts: pa.Array) -> Exact:
    """Amounts in three limbs, whatever their size."""
    low, high = _words(amounts)
    mask, bits = np.uint64(_MASK), np.uint64(_BITS)
    middle = ((low >> bits) | (high << np.uint64(64 - _BITS))) & mask
    limbs = (low & mask, middle, high >> np.uint64(2 * _BITS - 64))
    return Exact(tuple(limb.astype(np.int64) for limb in limbs), AMOUNT_SCALE)


def _words(amounts: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The lower and the upper 64 bits of decimals that are not below zero."""
    words = np.frombuffer(amounts.buffers()[1], dtype=np.uint64).reshape(-1, 2)
    words = words[amounts.offset : amounts.offset + len(amounts)]
    return words[:, 0], words[:, 1]


def _carried(limbs: list[Integers]) -> tuple[Integers, ...]:
    """Limbs of which all but the last lie in [0, 2^43) again."""
    for number in range(len(limbs) - 1):
        limbs[number + 1] = limbs[number + 1] + (limbs[number] >> _BITS)
        limbs[number] = limbs[number] & _MASK
    return tuple(limbs)
