from decimal import Context, Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipeline.money import (
    AMOUNT_TYPE,
    currency_codes,
    currency_decimals,
    minor_units,
    plain_text,
    rescaled,
    round_half_even,
)

EXACT = Context(prec=60)


@pytest.mark.parametrize(
    ("code", "decimals"),
    [("USD", 2), ("EUR", 2), ("JPY", 0), ("KRW", 0), ("KWD", 3), ("CLF", 4), ("XAU", None)],
)
def test_minor_units_are_those_of_iso_4217(code: str, decimals: int | None) -> None:
    assert minor_units(code) == decimals
    assert currency_decimals()[currency_codes().to_pylist().index(code)].as_py() == decimals


def test_a_code_outside_iso_4217_is_not_guessed() -> None:
    with pytest.raises(KeyError):
        minor_units("BTC")


@pytest.mark.parametrize(
    ("amount", "decimals", "rounded"),
    [
        ("2.5", 0, "2"),
        ("3.5", 0, "4"),
        ("-2.5", 0, "-2"),
        ("0.125", 2, "0.12"),
        ("0.135", 2, "0.14"),
        ("0.1250000000000000000000000000001", 2, "0.13"),
        ("99999999999999999999.999999999999999999", 2, "100000000000000000000.00"),
        ("7", 3, "7.000"),
    ],
)
def test_halves_go_to_the_even_neighbour_and_nothing_else_is_lost(
    amount: str, decimals: int, rounded: str
) -> None:
    assert str(round_half_even(Decimal(amount), decimals)) == rounded


@given(
    st.lists(st.decimals(-(10**19), 10**19, places=18) | st.none() | st.just(Decimal(0))), st.integers(0, 3)
)
def test_amounts_are_written_as_people_write_them(amounts: list[Decimal | None], skipped: int) -> None:
    texts = plain_text(pa.array(amounts, AMOUNT_TYPE).slice(skipped)).to_pylist()
    for amount, text in zip(amounts[skipped:], texts, strict=True):
        assert (None if text is None else Decimal(text)) == amount
        assert text is None or (
            "E" not in text and not (text.endswith(".") or ("." in text and text.endswith("0")))
        )


# Near what a division by words of 32 bits gets wrong: one of all ones in the middle.
HARD = st.builds(
    lambda high, low: high * 2**64 + (2**32 - 1) * 2**32 + low, st.integers(0, 5), st.integers(0, 2**32 - 1)
)


@given(st.lists(HARD | st.integers(-(10**20) + 1, 10**20 - 1) | st.none(), min_size=1), st.integers(0, 18))
def test_rescaling_keeps_every_amount(counts: list[int | None], decimals: int) -> None:
    amounts = [
        None if one is None or one >= 10**20 else Decimal(one).scaleb(-decimals, EXACT) for one in counts
    ]
    found = rescaled(pa.array(amounts, AMOUNT_TYPE), decimals)
    assert found.type == pa.decimal128(38, decimals)
    assert found.to_pylist() == amounts


def test_rescaling_never_drops_a_decimal() -> None:
    with pytest.raises(pa.ArrowInvalid):
        rescaled(pa.array([Decimal("0.05")], AMOUNT_TYPE), 1)
