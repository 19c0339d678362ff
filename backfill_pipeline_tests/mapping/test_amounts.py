"""Numbers are exact, or errors."""

import re
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.numbers import NumberRule
from backfill_pipeline.mapping.amounts import Numbers, parse_numbers
from backfill_pipeline.schemas.row_errors import RowErrors


def parse(texts: list[str | None], **rule: str | None) -> tuple[Numbers, list[str | None]]:
    errors = RowErrors()
    numbers = parse_numbers(
        pa.array(texts, pa.string()), NumberRule.model_validate({"column": "x", **rule}), "amount", errors
    )
    return numbers, errors.columns(len(texts))[0].to_pylist()


# Zeros behind the eighteenth decimal are no loss.
PLAIN = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,18}0*)?")


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.from_regex(r"[+-]?[0-9]{1,22}(\.[0-9]{1,20})?", fullmatch=True)
        | st.from_regex(r"[+-]?[0-9]{1,20}\.[0-9]{1,18}", fullmatch=True)
        | st.text("0123456789.,eE+-NaInf ٣", max_size=8)
        | st.none(),
        min_size=1,
        max_size=20,
    )
)
@example(["0." + "0" * 19, "12." + "0" * 25, "0." + "0" * 18 + "1"])
def test_amounts_equal_those_of_decimal_and_everything_else_is_an_error(texts: list[str | None]) -> None:
    numbers, codes = parse(texts)
    for text, value, scale, code in zip(
        texts, numbers.values.to_pylist(), numbers.scales.to_pylist(), codes, strict=True
    ):
        if text and PLAIN.fullmatch(text):
            assert code is None
            assert value == Decimal(text)
            assert scale == min(18, -int(Decimal(text).as_tuple().exponent))
        else:
            assert value is None
            assert scale is None
            assert (code is None) == (not text)


@pytest.mark.parametrize(
    "text", ["1e3", "NaN", "Infinity", "-inf", "1.234,56", "1,000", ".5", "5.", "0x10", "١٢", "--1", "1 0"]
)
def test_what_is_no_plain_number_is_malformed(text: str) -> None:
    assert parse([text])[1] == ["amount_malformed"]


@pytest.mark.parametrize("text", ["1" * 21, "0." + "1" * 19, "9" * 30 + ".5"])
def test_what_the_ledger_cannot_hold_is_out_of_range(text: str) -> None:
    assert parse([text])[1] == ["amount_out_of_range"]


@pytest.mark.parametrize(
    ("text", "decimal_mark", "thousands_mark", "value"),
    [
        ("1.234.567,89", ",", ".", "1234567.89"),
        ("1234567,89", ",", ".", "1234567.89"),
        ("1,234,567.80", ".", ",", "1234567.80"),
        ("-1 234", ".", " ", "-1234"),
        ("1'000.5", ".", "'", "1000.5"),
        ("1,5", ",", None, "1.5"),
        ("1,23", ".", ",", None),
        ("1.5", ",", None, None),
        ("1.5", ",", ".", None),
        ("1.23.456", ",", ".", None),
        ("1,2,3", ",", None, None),
        (",5", ",", None, None),
    ],
)
def test_marks_are_understood_only_as_stated(
    text: str, decimal_mark: str, thousands_mark: str | None, value: str | None
) -> None:
    numbers, codes = parse([text], decimal_mark=decimal_mark, thousands_mark=thousands_mark)
    assert numbers.values.to_pylist() == [None if value is None else Decimal(value)]
    assert codes == [None if value else "amount_malformed"]
    if value:
        assert numbers.scales.to_pylist() == [len(value.partition(".")[2])]
