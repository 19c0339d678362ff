"""Amounts out of several columns: each row gets the number that a person reads there, or a reject with its code."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.numbers import NumberRule
from backfill_pipeline.mapping.amounts import read_numbers
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.money import CURRENCY_DECIMALS
from backfill_pipeline_tests.mapping.conftest import extracted

Found = list[tuple[Decimal | None, int | None, str | None]]
QUICK = settings(max_examples=200, deadline=None)


def read(rows: Rows, currencies: list[str] | None = None, **rule: Any) -> Found:
    def currency() -> pa.Array:
        return pa.array(currencies, pa.string())

    numbers = read_numbers(rows, NumberRule.model_validate(rule), "amount", "amount_missing", currency)
    codes = rows.errors.columns(len(rows))[0].to_pylist()
    return list(zip(numbers.values.to_pylist(), numbers.scales.to_pylist(), codes, strict=True))


def rows_of(**columns: list[str | None]) -> Rows:
    return Rows(extracted(**columns))


PLAIN = st.integers(0, 10**12).flatmap(lambda n: st.sampled_from([str(n), f"{n}.5", f"{n}.00"]))
CELL = (
    st.just("") | PLAIN | PLAIN.map(lambda text: f"-{text}") | st.sampled_from(["+1", "x", "0", "-0.00", " "])
)


# --- in and out -------------------------------------------------------------------------------------------------


@QUICK
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=20), st.booleans())
def test_in_and_out(cells: list[tuple[str, str]], out_minus: bool) -> None:
    rows = rows_of(i=[one for one, _ in cells], o=[other for _, other in cells])
    rule: dict[str, Any] = {"in": "i", "out": "o", "out_minus": out_minus}
    for (received, paid), found in zip(cells, read(rows, **rule), strict=True):
        assert found == expected_in_and_out(received.strip(), paid.strip(), out_minus)


def expected_in_and_out(
    received: str, paid: str, out_minus: bool
) -> tuple[Decimal | None, int | None, str | None]:
    if received and paid:
        return None, None, "amount_in_and_out"
    text = received or paid
    if not text:
        return None, None, "amount_missing"
    if text == "x":
        return None, None, "amount_malformed"
    value, scale = Decimal(text), len(text.partition(".")[2])
    if out_minus:
        right = value <= 0 if paid else value >= 0
        return (value, scale, None) if right else (None, None, "amount_sign_unclear")
    if text[0] in "+-":
        return None, None, "amount_sign_unclear"
    return (-value if paid else value), scale, None


def test_a_text_for_nothing_counts_as_empty_only_where_it_is_stated() -> None:
    cells: dict[str, list[str | None]] = {"i": ["5", "0.00", "0.00"], "o": ["0.00", "7", "0.00"]}
    rule: dict[str, Any] = {"in": "i", "out": "o"}
    assert {code for _, _, code in read(rows_of(**cells), **rule)} == {"amount_in_and_out"}
    assert read(rows_of(**cells), **rule, empty=["0.00"]) == [
        (Decimal(5), 0, None), (Decimal(-7), 0, None), (None, None, "amount_missing"),
    ]  # fmt: skip


# --- signs ------------------------------------------------------------------------------------------------------


@QUICK
@given(
    st.lists(st.tuples(CELL, st.sampled_from(["D", "DR", "C", "CR", "", "d", "X"])), min_size=1, max_size=20)
)
def test_a_column_tells_the_sign(cells: list[tuple[str, str]]) -> None:
    rows = rows_of(a=[one for one, _ in cells], dc=[other for _, other in cells])
    sign = {"column": "dc", "negative": ["D", "DR"], "positive": ["C", "CR"]}
    for (text, told), (value, scale, code) in zip(cells, read(rows, column="a", sign=sign), strict=True):
        text = text.strip()
        known = told in ("D", "DR", "C", "CR")
        if text[:1].isdigit() and known:
            assert value == (-1 if told[0] == "D" else 1) * Decimal(text)
            assert (scale, code) == (len(text.partition(".")[2]), None)
        else:
            assert value is None
            assert scale is None
            expected = (
                "amount_missing" if not text else "amount_malformed" if text == "x" else "amount_sign_unclear"
            )
            assert code == expected


def test_a_sign_behind_the_number_may_be_no_text_where_it_is_stated() -> None:
    texts: list[str | None] = ["12.50 DR", "12.50", "12.50 CR", "-1 DR", "DR", None]
    assert read(rows_of(a=texts), column="a", sign={"negative": "DR", "positive": ["", "CR"]}) == [
        (Decimal("-12.5"), 2, None), (Decimal("12.5"), 2, None), (Decimal("12.5"), 2, None),
        (None, None, "amount_sign_unclear"), (None, None, "amount_malformed"), (None, None, None),
    ]  # fmt: skip
    strict = read(rows_of(a=texts), column="a", sign={"negative": "DR", "positive": "CR"})
    assert strict[1] == (None, None, "amount_sign_unclear")


def test_the_magnitude_is_taken_last() -> None:
    rows = rows_of(a=["(5.00)", "7", "x"])
    assert read(rows, column="a", minus=["leading", "parentheses"], absolute=True) == [
        (Decimal(5), 2, None), (Decimal(7), 0, None), (None, None, "amount_malformed"),
    ]  # fmt: skip


def test_zero_is_filtered_where_the_definition_says_so() -> None:
    cells: list[str | None] = ["0.00", "1", "-0", "x", "", None]
    rows = rows_of(a=cells)
    read(rows, column="a", zero="filter")
    assert rows.filter_reasons.to_pylist() == ["zero amount", None, "zero amount", None, None, None]
    rows = rows_of(a=cells)
    read(rows, column="a")
    assert rows.filter_reasons.null_count == 6


# --- minor units, fractions -------------------------------------------------------------------------------------


@QUICK
@given(
    st.lists(
        st.tuples(
            st.integers(-(10**19), 10**19).map(str) | CELL, st.sampled_from([*CURRENCY_DECIMALS, "BTC", ""])
        ),
        min_size=1,
    )
)
def test_minor_units_are_those_of_the_rows_currency(cells: list[tuple[str, str]]) -> None:
    currencies = [currency for _, currency in cells]
    found = read(rows_of(a=[text for text, _ in cells]), currencies, column="a", minor_units="true")
    for (text, currency), (value, scale, code) in zip(cells, found, strict=True):
        text = text.strip()
        decimals = CURRENCY_DECIMALS.get(currency)
        whole = text.lstrip("+-").isdigit()
        if whole and decimals is not None:
            assert (value, scale, code) == (Decimal(text).scaleb(-decimals), decimals, None)
        else:
            assert value is None
            assert scale is None
            if not whole:
                assert code == ("amount_malformed" if text else "amount_missing")
            else:  # an empty currency is an error of its own field
                assert code == ("amount_minor_unit_unknown" if currency else None)


def test_a_stated_number_of_decimals_needs_no_currency() -> None:
    assert read(rows_of(a=["12345", "-5"]), column="a", minor_units="4") == [
        (Decimal("1.2345"), 4, None), (Decimal("-0.0005"), 4, None),
    ]  # fmt: skip


def test_fractions() -> None:
    cells: dict[str, list[str | None]] = {
        "n": ["1050", "1", "", "-7", "5", None], "d": ["100", "3", "100", "2", "0", None],
    }  # fmt: skip
    assert read(rows_of(**cells), numerator="n", denominator="d") == [
        (Decimal("10.5"), 2, None), (None, None, "amount_inexact"), (None, None, "amount_missing"),
        (Decimal("-3.5"), 1, None), (None, None, "amount_malformed"), (None, None, None),
    ]  # fmt: skip


def test_half_a_rate_is_an_error_and_no_rate_is_none() -> None:
    rows = rows_of(n=["11", "", "11"], d=["10", "", ""])
    rule = NumberRule(numerator="n", denominator="d")
    assert read_numbers(rows, rule, "fx_rate", None).values.to_pylist() == [Decimal("1.1"), None, None]
    assert rows.errors.columns(3)[0].to_pylist() == [None, None, "fx_rate_malformed"]


@pytest.mark.parametrize(
    "rule",
    [
        {"column": "a"}, {"column": "a", "sign": {"column": "b", "negative": "D", "positive": "C"}, "empty": "x"},
        {"column": "a", "sign": {"negative": ["D", "x"], "positive": ""}, "symbols": ["€", "CAD"]},
        {"in": "a", "out": "b", "minus": ["trailing", "parentheses"], "out_minus": True},
        {"numerator": "a", "denominator": "b"}, {"column": "a", "minor_units": "2", "thousands_mark": "space"},
        {"column": "a", "thousands_mark": ",", "grouping": "indian", "whole_mark": ".-", "symbols": ["Rs."]},
    ],
)  # fmt: skip
@QUICK
@given(
    st.lists(
        st.tuples(st.text(max_size=12), st.text("0123456789-+DC .,€", max_size=8)), min_size=1, max_size=20
    )
)
def test_any_text_gives_a_number_or_an_error(rule: dict[str, Any], cells: list[tuple[str, str]]) -> None:
    rows = rows_of(
        a=[f"{one}{other}" for one, other in cells],
        b=[other for _, other in cells],
    )
    for value, scale, code in read(rows, ["EUR"] * len(cells), **rule):
        assert (value is None) == (code is not None) == (scale is None)
