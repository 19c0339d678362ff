"""Numbers in text equal those of a slow reference that goes character by character, or both refuse them."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.numbers import NumberRule
from backfill_pipeline.mapping.fractions import parse_fractions
from backfill_pipeline.mapping.number_text import Numbers, in_minor_units, parse_numbers, sign_behind
from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.schemas.row_errors import RowErrors

THOROUGH = settings(max_examples=400, deadline=None)
DIGITS = set("0123456789")
SPACES = " \u00a0\u202f\u2009\u2007"
WHITE = SPACES + "\t\n\f\r"


def parse(texts: list[str], rule: NumberRule) -> tuple[Numbers, list[str | None]]:
    errors = RowErrors()
    numbers = parse_numbers(pa.array(texts, pa.string()), rule, "amount", errors)
    return numbers, errors.columns(len(texts))[0].to_pylist()


# --- the reference ----------------------------------------------------------------------------------------------


def reference(text: str, rule: NumberRule) -> str | None:
    """The number as plain text, or None: by hand, one decision after the other."""
    text = without_symbol(text, rule.symbols, in_front=True)
    text = without_symbol(text, rule.symbols, in_front=False).replace("\u2212", "-")
    sign, body = "", text
    if "leading" in rule.minus and text[:1] in ("+", "-"):
        sign, body = text[0], text[1:]
    elif "parentheses" in rule.minus and text[:1] == "(" and text[-1:] == ")":
        sign, body = "-", text[1:-1]
    elif "trailing" in rule.minus and text[-1:] in ("+", "-") and not ends_in_whole_mark(text, rule):
        sign, body = text[-1], text[:-1]
    if rule.whole_mark and body.endswith(rule.whole_mark):
        whole, decimals = body.removesuffix(rule.whole_mark), None
    elif rule.decimal_mark in body:
        whole, _, decimals = body.partition(rule.decimal_mark)
    else:
        whole, decimals = body, None
    if decimals is not None and not (decimals and set(decimals) <= DIGITS):
        return None
    digits = ungrouped(whole, rule)
    if digits is None:
        return None
    return f"{sign}{digits}" + ("" if decimals is None else f".{decimals}")


def ends_in_whole_mark(text: str, rule: NumberRule) -> bool:
    """Whether the dash at the end belongs to the mark of a number without decimals."""
    mark = rule.whole_mark
    return mark is not None and text.endswith(mark) and not text[:-1].endswith(mark)


def without_symbol(text: str, symbols: tuple[str, ...], *, in_front: bool) -> str:
    if not in_front:  # the same from the other side
        return (
            without_symbol(text[::-1], tuple(one[::-1] for one in symbols), in_front=True)[::-1]
            if symbols
            else text
        )
    signs = 0
    while signs < len(text) and text[signs] in "+-\u2212()":
        signs += 1
    rest = text[signs:].lstrip(WHITE)
    for symbol in sorted(symbols, key=len, reverse=True):
        if rest.startswith(symbol):
            return text[:signs] + rest.removeprefix(symbol).lstrip(WHITE)
    return text


def ungrouped(whole: str, rule: NumberRule) -> str | None:
    marks = {None: "", "space": SPACES, "apostrophe": "'\u2019"}.get(
        rule.thousands_mark, rule.thousands_mark
    ) or ""
    groups = [""]
    for one in whole:
        if one in marks:
            groups.append("")
        else:
            groups[-1] += one
    if not all(group and set(group) <= DIGITS for group in groups):
        return None
    sizes = [len(group) for group in groups]
    if len(sizes) > 1:
        *middle, last = sizes[1:]
        size = 2 if rule.grouping == "indian" else 3
        if last != 3 or sizes[0] > size or any(one != size for one in middle):
            return None
    return "".join(groups)


def fits(plain: str) -> bool:
    whole, _, decimals = plain.lstrip("+-").partition(".")
    return len(whole) <= 20 and not decimals[18:].strip("0")


# --- conventions ------------------------------------------------------------------------------------------------


@st.composite
def rules(draw: st.DrawFn) -> NumberRule:
    decimal = draw(st.sampled_from([".", ","]))
    marks = [None, ".", ",", " ", "'", "_", "\u00a0", "\u202f", "\u2009", "\u2019", "space", "apostrophe"]
    thousands = draw(st.sampled_from([one for one in marks if one != decimal]))
    rule: dict[str, Any] = {"column": "x", "decimal_mark": decimal, "thousands_mark": thousands}
    if thousands:
        rule["grouping"] = draw(st.sampled_from(["thousands", "indian"]))
    rule["whole_mark"] = draw(st.sampled_from([None, None, ".-", ",-", ".--", ",\u2013"]))
    if symbols := draw(
        st.lists(st.sampled_from(["€", "EUR", "Rs.", "kr", "kr.", "US $"]), unique=True, max_size=3)
    ):
        rule["symbols"] = symbols
    styles = st.sampled_from(["leading", "trailing", "parentheses"])
    rule["minus"] = draw(st.lists(styles, unique=True, min_size=1))
    return NumberRule.model_validate(rule)


PIECES = [
    "0", "1", "12", "123", "1234", "1234567890", ".", ",", "'", "\u2019", "_", " ", "\u00a0", "\u202f", "\u2009", "\u2007",
    "-", "--", "+", "\u2212", "(", ")", "€", "EUR", "Rs.", "kr", "kr.", "US $", ".-", ",-", ",\u2013", "e3", "NaN", "٣", "x", "\n",
]  # fmt: skip
JUNK = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


@st.composite
def written(draw: st.DrawFn, rule: NumberRule) -> str:
    """Something near a number in the rule's convention."""
    digits = draw(st.text("0123456789", min_size=1, max_size=22))
    marks = {None: "", "space": SPACES, "apostrophe": "'\u2019"}.get(rule.thousands_mark, rule.thousands_mark)
    if marks and draw(st.booleans()):
        step = 2 if rule.grouping == "indian" else 3
        groups, rest = [digits[-3:]], digits[:-3]
        while rest:
            groups.insert(0, rest[-step:])
            rest = rest[:-step]
        digits = draw(st.sampled_from(marks)).join(groups)
    decimals = draw(st.text("0123456789", max_size=19)) + draw(st.sampled_from(["", "", "0", "0" * 20]))
    body = digits + (f"{rule.decimal_mark}{decimals}" if decimals else "")
    if rule.whole_mark and not decimals:
        body += draw(st.sampled_from(["", rule.whole_mark]))
    before = draw(st.sampled_from(["", "", *rule.symbols]))
    behind = draw(st.sampled_from(["", "", *rule.symbols]))
    space = draw(st.sampled_from(["", " ", "\u00a0"]))
    minus = draw(st.sampled_from(["-", "\u2212", "+"]))
    shape = draw(st.sampled_from(["{0}", "-{0}", "{0}-", "({0})", "{1}-{2}", "{2}-{3}", "{1}({2})"]))
    number = (before and f"{before}{space}") + body + (behind and f"{space}{behind}")
    front, back = before and f"{before}{space}", behind and f"{space}{behind}"
    return shape.replace("-", minus).format(number, front, body + (back if "{1}" in shape else ""), back)


@THOROUGH
@given(st.data())
def test_every_convention_equals_the_reference(data: st.DataObject) -> None:
    rule = data.draw(rules())
    texts = [text.strip() for text in data.draw(st.lists(written(rule) | JUNK, min_size=1, max_size=12))]
    numbers, codes = parse(texts, rule)
    for text, value, scale, code in zip(
        texts, numbers.values.to_pylist(), numbers.scales.to_pylist(), codes, strict=True
    ):
        plain = reference(text, rule)
        if plain is not None and fits(plain):
            decimals = plain.partition(".")[2]
            assert (value, scale, code) == (Decimal(plain), min(len(decimals), 18), None)
        else:
            assert value is None
            assert scale is None
            assert code == (
                None if not text else "amount_malformed" if plain is None else "amount_out_of_range"
            )


@pytest.mark.parametrize(
    ("text", "value", "code"),
    [
        ("0.25000000000000000000", "0.25", None),
        ("-0.1000000000000000010000", "-0.100000000000000001", None),
        ("0.3333333333333333333", None, "amount_out_of_range"),
        ("0.25000000000000000000x", None, "amount_malformed"),
        ("123456789012345678901.00000000000000000000", None, "amount_out_of_range"),
    ],
)
def test_zeros_beyond_the_last_decimal_of_an_amount_are_nothing(
    text: str, value: str | None, code: str | None
) -> None:
    numbers, codes = parse([text, "1.5"], NumberRule(column="amount"))
    assert (numbers.values[0].as_py(), codes) == (None if value is None else Decimal(value), [code, None])
    assert numbers.scales.to_pylist() == [None if value is None else 18, 1]


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        ("€ 1.234,56", {"decimal_mark": ",", "thousands_mark": ".", "symbols": ["€"]}, "1234.56"),
        ("1.234,56 €", {"decimal_mark": ",", "thousands_mark": ".", "symbols": ["€"]}, "1234.56"),
        ("$12.50 USD", {"symbols": ["$", "USD"]}, "12.50"),
        ("USDollar 12", {"symbols": ["USD"]}, None),
        ("€ 12", {}, None),
        ("Rs.500", {"symbols": ["Rs."]}, "500"),
        ("12.- CHF", {"symbols": ["CHF"], "whole_mark": ".-"}, "12"),
        ("12.5.-", {"whole_mark": ".-"}, None),
        ("-12.50", {"minus": "trailing"}, None),
        ("12.50-", {"minus": "trailing"}, "-12.50"),
        ("12.50-", {}, None),
        ("12.50- EUR", {"minus": "trailing", "symbols": "EUR"}, "-12.50"),
        ("-12.50-", {"minus": ["leading", "trailing"]}, None),
        ("(12.50)", {"minus": "parentheses"}, "-12.50"),
        ("(12.50)", {}, None),
        ("(-12.50)", {"minus": ["leading", "parentheses"]}, None),
        ("(12.50", {"minus": "parentheses"}, None),
        ("€(12.50)", {"minus": "parentheses", "symbols": "€"}, "-12.50"),
        ("-€12.50", {"symbols": "€"}, "-12.50"),
        ("\u221212.50", {}, "-12.50"),
        ("1,23,456.78", {"thousands_mark": ",", "grouping": "indian"}, "123456.78"),
        ("1,234,567", {"thousands_mark": ",", "grouping": "indian"}, None),
        ("1\u2009234", {"thousands_mark": "space"}, "1234"),
        ("1\u2009234", {"thousands_mark": " "}, None),
        ("1\u2019234.50", {"thousands_mark": "apostrophe"}, "1234.50"),
    ],
)
def test_conventions_by_example(text: str, rule: dict[str, Any], value: str | None) -> None:
    numbers, codes = parse([text], NumberRule.model_validate({"column": "x", **rule}))
    assert numbers.values.to_pylist() == [None if value is None else Decimal(value)]
    assert codes == [None if value else "amount_malformed"]


# --- signs behind the number ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "digits", "negative", "positive"),
    [
        ("12.50 DR", "12.50", True, False),
        ("12.50CR", "12.50", False, True),
        ("12.50", "12.50", False, True),
        ("12 CAD", "12 CAD", False, True),
        ("12 EUR D", "12 EUR", True, False),
        ("12 dr", "12 dr", False, True),
    ],
)
def test_a_sign_behind_the_number_is_a_word_of_its_own(
    text: str, digits: str, negative: bool, positive: bool
) -> None:
    rule = NumberRule.model_validate(
        {"column": "x", "sign": {"negative": ["DR", "D"], "positive": ["CR", ""]}}
    )
    assert rule.sign is not None
    found = sign_behind(pa.array([text]), rule.sign)
    assert [one.to_pylist() for one in found] == [[digits], [negative], [positive]]


# --- units and fractions ----------------------------------------------------------------------------------------


@THOROUGH
@given(
    st.lists(st.tuples(st.integers(-(10**20) + 1, 10**20 - 1), st.integers(0, 18) | st.none()), min_size=1)
)
def test_minor_units_move_the_point_and_nothing_else(pairs: list[tuple[int, int | None]]) -> None:
    counts = pa.array([Decimal(count) for count, _ in pairs], AMOUNT_TYPE)
    decimals = pa.array([places for _, places in pairs], pa.int8())
    numbers = in_minor_units(Numbers(counts, pa.array([0] * len(pairs), pa.int8())), decimals)
    for (count, places), value, scale in zip(
        pairs, numbers.values.to_pylist(), numbers.scales.to_pylist(), strict=True
    ):
        assert (None if value is None else Fraction(value)) == (
            None if places is None else Fraction(count, 10**places)
        )
        assert scale == places


NUMERATORS = st.integers(-(10**19), 10**19).map(str) | st.text("0123456789+-. x", max_size=6)
DENOMINATORS = (
    st.integers(0, 10**19).map(str)
    | st.tuples(st.integers(0, 18), st.integers(0, 12), st.sampled_from([1, 3, 7])).map(
        lambda powers: str(2 ** powers[0] * 5 ** powers[1] * powers[2])
    )
    | st.integers(0, 19).map(lambda power: str(10**power))
    | st.text("0123456789+-. x", max_size=4)
)


@THOROUGH
@given(st.lists(st.tuples(NUMERATORS, DENOMINATORS), min_size=1, max_size=20))
def test_fractions_are_exact_or_errors(pairs: list[tuple[str, str]]) -> None:
    errors = RowErrors()
    above, below = (pa.array([pair[side] for pair in pairs], pa.string()) for side in (0, 1))
    numbers = parse_fractions(above, below, "amount", errors)
    codes = errors.columns(len(pairs))[0].to_pylist()
    for (top, bottom), value, scale, code in zip(
        pairs, numbers.values.to_pylist(), numbers.scales.to_pylist(), codes, strict=True
    ):
        expected, expected_code = expected_fraction(top, bottom)
        assert (None if value is None else Fraction(value)) == expected
        assert code == expected_code
        assert (scale is None) == (value is None)
        if value is not None:
            assert scale == fewest_decimals(int(top), int(bottom))


def fewest_decimals(top: int, bottom: int) -> int:
    """With which the denominator as it is written is a decimal, or else the reduced one."""
    for denominator in (bottom, Fraction(top, bottom).denominator):
        for decimals in range(19):
            if 10**decimals % denominator == 0:
                return decimals
    raise AssertionError("no decimal")


def expected_fraction(top: str, bottom: str) -> tuple[Fraction | None, str | None]:
    if not top or not bottom:
        return None, None
    unsigned = top[1:] if top[0] in "+-" else top
    if not (unsigned and set(unsigned) <= DIGITS and set(bottom) <= DIGITS and int(bottom) > 0):
        return None, "amount_malformed"
    if int(unsigned) >= 10**18 or int(bottom) > 10**18:
        return None, "amount_out_of_range"
    exact = Fraction(int(top), int(bottom))
    return (exact, None) if exact * 10**18 % 1 == 0 else (None, "amount_inexact")


def test_a_fraction_has_the_decimals_of_its_denominator() -> None:
    numbers = parse_fractions(
        pa.array(["1050", "3", "7"]), pa.array(["100", "6", "1"]), "amount", RowErrors()
    )
    assert numbers.values.to_pylist() == [Decimal("10.5"), Decimal("0.5"), Decimal(7)]
    assert numbers.scales.to_pylist() == [2, 1, 0]
