"""Pairing: debits and credits that sum to the same become entries of one debit and one credit each.

Belongs here: the order in which legs meet, and which leg an entry exhausts. Plain arrays, nothing about rows.
Does not: which legs may meet, and what is wrong with those that do not sum to zero (`legs.py`).

The largest debit meets the largest credit, the smaller of the two is exhausted, and the rest of the larger one meets
the next. So lay the debits of a group end to end, the largest first, and its credits beside them: every end of a leg
ends an entry, and the entry's amount is the distance to the end before it. That needs two sorts and no rounds,
however many legs there are:

    debits   |------------ A 70 -----------|-- B 30 --|
    credits  |------- C 50 -------|------ D 50 -------|
    entries  |   A to C 50        | A/D 20 | B/D 30   |

An entry is carried by the leg whose end it ends at, so each leg carries at most one. Where a debit and a credit end
together, the debit carries, and the credit is left over; the last ends of a group always coincide. So N legs give at
most N - 1 entries, each above zero, and each account moves by exactly the sum of its legs.

A leg that is added to close a group (`Sums.open`) is laid down last on its side, so its end is the end of the group,
where a real leg ends too: it is the one left over, and never carries an entry.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.mapping.exact import Exact, Integers

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Legs:
    """Legs, in any order. Nothing in the outcome depends on the order but the numbers by which it names them.

    Attributes:
        group: legs that may meet have the same number.
        is_credit: the side.
        amounts: above zero.
        scales: decimals that each was written with.
        ties: columns whose order tells legs of equal amounts apart.
    """

    group: Integers
    is_credit: Mask
    amounts: Exact
    scales: Integers
    ties: pa.Table


@dataclass(frozen=True, slots=True)
class Sums:
    """Legs laid end to end, by group and side, the largest first.

    Attributes:
        order: the legs by number.
        group: per leg in that order, the place of its group in the columns below.
        ends: per leg in that order, where it ends.
        first: per group, the number of one of its legs.
        debits, credits: per group, the sums of the sides.
        balance: per group, debits less credits.
        scales: per group, the most decimals that a leg was written with.
    """

    order: Integers
    group: Integers
    ends: Exact
    first: Integers
    debits: Exact
    credits: Exact
    balance: Exact
    scales: Integers


@dataclass(frozen=True, slots=True)
class Pairs:
    """Entries, group by group in the order of their ends.

    Attributes:
        carrier: the leg that carries each.
        debit, credit: the legs that meet; number of legs + k for the k-th added one.
        amounts: above zero.
        scales: decimals of each.
        left_over: legs that carry none.
    """

    carrier: Integers
    debit: Integers
    credit: Integers
    amounts: Exact
    scales: Integers
    left_over: Integers


def lay_out(legs: Legs) -> Sums:
    """Lays legs end to end and sums them up."""
    side = legs.group * 2 + legs.is_credit
    order = _ties_told_apart(legs, _order([*legs.amounts.falling(), side]))
    side = side[order]
    group = side // 2
    new_group, new_side = _changes(group), _changes(side)
    ends = legs.amounts.take(order).running(new_side)
    place = np.cumsum(new_group) - 1
    count = int(place[-1]) + 1 if len(place) else 0
    last = np.flatnonzero(np.append(new_side[1:], True)) if len(order) else np.zeros(0, dtype=np.int64)
    is_credit = side[last] % 2 == 1
    debits, credits = (
        _spread(ends.take(chosen), place[chosen], count) for chosen in (last[~is_credit], last[is_credit])
    )
    starts = np.flatnonzero(new_group)
    scales = np.maximum.reduceat(legs.scales[order], starts) if count else np.zeros(0, dtype=np.int64)
    return Sums(order, place, ends, order[starts], debits, credits, debits.minus(credits), scales)


def pair(legs: Legs, sums: Sums, kept: Mask, open_groups: Integers) -> Pairs:
    """Pairs the legs of some groups.

    Args:
        legs: as they were laid out.
        sums: their sums.
        kept: per leg, whether it takes part; all legs of a group or none.
        open_groups: groups that do not sum to zero, and get one more leg each, which closes them.
    """
    real = len(legs.group)
    chosen = np.flatnonzero(kept[sums.order])
    debits_lack = sums.balance.take(open_groups).signs() < 0
    debits, credits = sums.debits.take(open_groups), sums.credits.take(open_groups)
    leg = np.concatenate([sums.order[chosen], np.arange(len(open_groups)) + real])
    group = np.concatenate([sums.group[chosen], open_groups])
    credit = np.concatenate([legs.is_credit[sums.order[chosen]], ~debits_lack])
    ends = sums.ends.take(chosen).followed_by(credits.where(debits_lack, debits))
    # Where ends coincide, real legs come before added ones, and debits before credits.
    order = _order([credit + 2 * (leg >= real), *ends.limbs, group])
    leg, group, credit, ends = leg[order], group[order], credit[order], ends.take(order)
    amounts = _distances(ends, _changes(group))
    carries = amounts.signs() > 0
    if (carries & (leg >= real)).any():
        raise AssertionError("an added leg carries an entry")
    # In a group that sums to zero, a leg that carries has one of the other side behind it.
    debit, opposite = leg[_following(~credit)], leg[_following(credit)]
    return Pairs(
        carrier=leg[carries],
        debit=np.where(credit, debit, leg)[carries],
        credit=np.where(credit, leg, opposite)[carries],
        amounts=amounts.take(carries),
        scales=sums.scales[group[carries]],
        left_over=leg[~carries & (leg < real)],
    )


def _order(keys: list[Integers]) -> Integers:
    """As `numpy.lexsort`: the last key counts most, and what is equal keeps its order.

    Keys that fit into one integer are sorted as one, which is several times faster, most of all where groups come in
    order already.
    """
    packed, room = np.zeros(len(keys[0]), dtype=np.int64), 1
    for key in keys if len(keys[0]) else ():
        low, high = int(key.min()), int(key.max())
        if room * (high - low + 1) >= 1 << 62:
            return np.lexsort(keys)
        packed += (key - low) * room
        room *= high - low + 1
    return np.argsort(packed, kind="stable")


def _ties_told_apart(legs: Legs, order: Integers) -> Integers:
    """The order with legs of equal group, side and amount by what else they hold."""
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for key in (legs.group, legs.is_credit, *legs.amounts.limbs):
        same &= key[order][1:] == key[order][:-1]
    if not same.any():
        return order
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    runs = np.cumsum(np.append(True, ~same))[tied]
    table = legs.ties.take(pa.array(order[tied])).append_column("run", pa.array(runs))
    by = [("run", "ascending"), *((name, "ascending") for name in legs.ties.column_names)]
    order = order.copy()
    order[tied] = order[tied][pc.sort_indices(table, sort_keys=by).to_numpy()]
    return order


def _changes(keys: npt.NDArray[np.generic]) -> Mask:
    """True for the first of all and for each that differs from the one before."""
    return np.append(True, keys[1:] != keys[:-1]) if len(keys) else np.zeros(0, dtype=bool)


def _spread(values: Exact, places: Integers, count: int) -> Exact:
    """Numbers at places among zeros."""
    limbs = [np.zeros(count, dtype=np.int64) for _ in values.limbs]
    for limb, given in zip(limbs, values.limbs, strict=True):
        limb[places] = given
    return Exact(tuple(limbs), values.decimals)


def _distances(ends: Exact, starts: Mask) -> Exact:
    """From each end to the one before it in its group."""
    before = tuple(np.where(starts, 0, np.append(0, limb[:-1])) if len(limb) else limb for limb in ends.limbs)
    return ends.minus(Exact(before, ends.decimals))


def _following(wanted: Mask) -> Integers:
    """Per place, the first place from there on where `wanted` is true; the last place where there is none."""
    count = len(wanted)
    places = np.where(wanted, np.arange(count), count - 1)
    return np.minimum.accumulate(places[::-1])[::-1]
