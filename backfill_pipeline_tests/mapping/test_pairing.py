"""Debits and credits that sum to the same become entries: exactly, few, and whatever order they come in."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal, localcontext

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipeline.mapping import exact
from backfill_pipeline.mapping.exact import Exact, exact_amounts, wide_amounts
from backfill_pipeline.mapping.pairing import Legs, Pairs, Sums, lay_out, pair
from backfill_pipeline.money import AMOUNT_TYPE

Leg = tuple[int, str, Decimal]
"""Group, account, signed amount."""


@pytest.fixture(scope="module", autouse=True)
def decimals_of_any_width() -> Iterator[None]:
    """The context's 28 digits would round what these tests compare."""
    with localcontext() as context:
        context.prec = 200
        yield


small = st.integers(1, 300).map(lambda units: Decimal(units) / 100)
large = st.integers(1, 10**38 - 1).map(lambda units: Decimal(units).scaleb(-18))


@st.composite
def groups(draw: st.DrawFn, amounts: st.SearchStrategy[Decimal]) -> list[Leg]:
    """Legs of some groups; each is closed by one or two more legs, so that it sums to zero."""
    legs: list[Leg] = []
    for group in range(draw(st.integers(1, 4))):
        own = draw(
            st.lists(st.tuples(st.sampled_from("ABCDE"), amounts, st.booleans()), min_size=1, max_size=7)
        )
        signed = [(group, account, amount if debit else -amount) for account, amount, debit in own]
        rest = -sum((amount for _, _, amount in signed), Decimal())
        if abs(rest) >= 10**20:
            continue
        legs += signed + ([(group, "Z", rest)] if rest else [])
    return draw(st.permutations(legs))


def laid_out(legs: Sequence[Leg], *, wide: bool) -> tuple[Legs, Sums]:
    amounts = pa.array([abs(amount) for *_, amount in legs], AMOUNT_TYPE)
    scales = np.array([-min(0, int(amount.as_tuple().exponent)) for *_, amount in legs], dtype=np.int64)
    found = Legs(
        group=np.array([group for group, *_ in legs], dtype=np.int64),
        is_credit=np.array([amount < 0 for *_, amount in legs], dtype=bool),
        amounts=wide_amounts(amounts) if wide else exact_amounts(amounts, scales, max(1, len(legs))),
        scales=scales,
        ties=pa.table({"account_id": pa.array([account for _, account, _ in legs], pa.string())}),
    )
    return found, lay_out(found)


def entries(legs: Sequence[Leg], pairs: Pairs) -> list[tuple[int, str, str, Decimal]]:
    return [
        (legs[carrier][0], legs[debit][1], legs[credit][1], amount)
        for carrier, debit, credit, amount in zip(
            pairs.carrier, pairs.debit, pairs.credit, pairs.amounts.amounts().to_pylist(), strict=True
        )
    ]


def every_group(legs: Sequence[Leg], *, wide: bool = False) -> Pairs:
    found, sums = laid_out(legs, wide=wide)
    assert not sums.balance.signs().any()
    return pair(found, sums, np.ones(len(legs), dtype=bool), np.zeros(0, dtype=np.int64))


def one_after_the_other(legs: Sequence[Leg]) -> list[tuple[int, str, str, Decimal]]:
    """The same, as one would do it by hand."""
    found = []
    for group in sorted({group for group, *_ in legs}):
        own = sorted((-abs(amount), account, amount) for other, account, amount in legs if other == group)
        debits, credits = (
            [(account, abs(amount)) for _, account, amount in own if (amount < 0) == side]
            for side in (False, True)
        )
        while debits and credits:
            (debit, left), (credit, right) = debits.pop(0), credits.pop(0)
            amount = min(left, right)
            found.append((group, debit, credit, amount))
            debits = [(debit, left - amount)] * (left > amount) + debits
            credits = [(credit, right - amount)] * (right > amount) + credits
    return found


@given(st.one_of(groups(small), groups(large)), st.booleans())
def test_every_account_moves_by_the_sum_of_its_legs(legs: list[Leg], wide: bool) -> None:
    pairs = every_group(legs, wide=wide)
    wanted: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
    for group, account, amount in legs:
        wanted[group, account] += amount
    moved: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
    for group, debit, credit, amount in entries(legs, pairs):
        assert amount > 0
        moved[group, debit] += amount
        moved[group, credit] -= amount
    assert dict(moved) == dict(wanted)


@given(groups(small))
def test_each_leg_carries_at_most_one_entry_and_one_leg_of_each_group_none(legs: list[Leg]) -> None:
    pairs = every_group(legs)
    assert sorted([*pairs.carrier, *pairs.left_over]) == list(range(len(legs)))
    for group in {group for group, *_ in legs}:
        assert any(legs[leg][0] == group for leg in pairs.left_over)
    for carrier, debit, credit in zip(pairs.carrier, pairs.debit, pairs.credit, strict=True):
        assert carrier in (debit, credit)
        assert legs[debit][2] > 0 > legs[credit][2]


@given(st.one_of(groups(small), groups(large)))
def test_the_outcome_is_that_of_pairing_one_after_the_other(legs: list[Leg]) -> None:
    assert entries(legs, every_group(legs)) == one_after_the_other(legs)


@given(st.one_of(groups(small), groups(large)))
def test_both_widths_of_numbers_give_the_same(legs: list[Leg]) -> None:
    narrow, wide = every_group(legs), every_group(legs, wide=True)
    for name in ("carrier", "debit", "credit", "scales", "left_over"):
        assert getattr(narrow, name).tolist() == getattr(wide, name).tolist()
    assert narrow.amounts.amounts().equals(wide.amounts.amounts())


@given(groups(small), st.randoms())
def test_the_order_of_the_rows_does_not_matter(legs: list[Leg], random: object) -> None:
    shuffled = list(legs)
    random.shuffle(shuffled)
    assert entries(legs, every_group(legs)) == entries(shuffled, every_group(shuffled))


@given(
    st.lists(st.tuples(st.sampled_from("AB"), small, st.booleans()), min_size=1, max_size=6), st.booleans()
)
def test_a_leg_that_is_added_closes_a_group_and_carries_nothing(
    own: list[tuple[str, Decimal, bool]], wide: bool
) -> None:
    legs: list[Leg] = [(0, account, amount if debit else -amount) for account, amount, debit in own]
    rest = sum((amount for *_, amount in legs), Decimal())
    found, sums = laid_out(legs, wide=wide)
    opened = np.flatnonzero(sums.balance.signs())
    assert len(opened) == (rest != 0)
    pairs = pair(found, sums, np.ones(len(legs), dtype=bool), opened)
    assert (pairs.carrier < len(legs)).all()
    closed = [*legs, (0, "+", -rest)] if rest else legs
    moved: dict[str, Decimal] = defaultdict(Decimal)
    for _, debit, credit, amount in entries(closed, pairs):
        moved[debit] += amount
        moved[credit] -= amount
    assert moved["+"] == -rest


def test_a_transaction_with_very_many_legs_is_paired_at_once() -> None:
    count = 200_000
    rng = np.random.default_rng(7)
    units = rng.integers(1, 10**9, count)
    legs = Legs(
        group=np.zeros(count + 1, dtype=np.int64),
        is_credit=np.append(np.zeros(count, dtype=bool), True),
        amounts=Exact((np.append(units, units.sum()),), 2),
        scales=np.full(count + 1, 2),
        ties=pa.table({"reference_id": pa.array([f"{place:06d}" for place in range(count + 1)])}),
    )
    pairs = pair(legs, lay_out(legs), np.ones(count + 1, dtype=bool), np.zeros(0, dtype=np.int64))
    assert len(pairs.carrier) == count
    assert pc.sum(pairs.amounts.amounts()).as_py() == Decimal(int(units.sum())).scaleb(-2)


@given(st.lists(st.integers(0, 10**38 - 1), min_size=1, max_size=30), st.data())
def test_wide_numbers_are_exact(units: list[int], data: st.DataObject) -> None:
    amounts = pa.array([Decimal(one).scaleb(-18) for one in units], AMOUNT_TYPE)
    numbers = wide_amounts(amounts)
    assert numbers.amounts().equals(amounts)
    starts = np.array([True, *(data.draw(st.booleans()) for _ in units[1:])])
    running = numbers.running(starts)
    total = 0
    for place, (one, start) in enumerate(zip(units, starts, strict=True)):
        total = one if start else total + one
        assert sum(int(limb[place]) << (43 * at) for at, limb in enumerate(running.limbs)) == total
    difference = numbers.minus(numbers.take(np.arange(len(units))[::-1].copy()))
    wanted = [one - other for one, other in zip(units, reversed(units), strict=True)]
    assert difference.signs().tolist() == [(one > 0) - (one < 0) for one in wanted]
    assert difference.magnitudes().amounts().to_pylist() == [abs(Decimal(one).scaleb(-18)) for one in wanted]


def test_numbers_as_texts() -> None:
    amounts = pa.array([Decimal(10**20) - 1, Decimal(10**20) - 1, Decimal("0.5")], AMOUNT_TYPE)
    running = wide_amounts(amounts).running(np.array([True, False, True]))
    assert running.texts().to_pylist() == ["99999999999999999999", "100000000000000000000 or more", "0.5"]
    negative = Exact((np.array([-150, 0], dtype=np.int64),), 2)
    assert negative.texts().to_pylist() == ["-1.5", "0"]


@pytest.mark.parametrize(("amount", "limbs"), [(Decimal("92233720368547758.07"), 3), (Decimal("1.23"), 1)])
def test_numbers_are_no_wider_than_sums_need(amount: Decimal, limbs: int) -> None:
    assert len(exact_amounts(pa.array([amount], AMOUNT_TYPE), np.array([2]), 10).limbs) == limbs


def test_an_amount_that_is_finer_than_it_says_keeps_all_its_decimals() -> None:
    numbers = exact_amounts(pa.array([Decimal("1.234")], AMOUNT_TYPE), np.array([2]), 10)
    assert numbers.amounts().to_pylist() == [Decimal("1.234")]
    assert exact.SUMMED_MAX * 2**43 <= 2**63
