"""Typed Arrow columns as the exact text of their values.

Belongs here: one way to write each type, without a digit more or less than the value has.
Does not: reading files (`files/parquet_reader.py`), what columns mean (`mapping/`).
"""

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

_FLOAT_EXACT_MAX = 1e15
"""Beyond it, a double holds no decimals to speak of."""


def can_be_text(kind: pa.DataType) -> bool:
    """Whether a type has single values that can be written as text."""
    if pa.types.is_dictionary(kind):
        return can_be_text(kind.value_type)
    return bool(
        is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_duration(kind) and not pa.types.is_interval(kind))
        or pa.types.is_null(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text already."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_text(column: pa.Array, float_decimals: int | None) -> pa.Array:
    """The values as text; null becomes "".

    Args:
        column: of a type that `can_be_text`.
        float_decimals: how many decimals a float stands for; None for as few as tell it from its neighbours.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_floating(kind):
        text = _of_floats(column, float_decimals)
    elif pa.types.is_decimal(kind):
        text = _without_exponent(pc.cast(column, pa.string()))
    elif pa.types.is_timestamp(kind):
        text = _of_timestamps(column)
    elif pa.types.is_date64(kind):
        text = pc.cast(pc.cast(column, pa.date32()), pa.string())
    else:
        text = pc.cast(column, pa.string())
    return pc.fill_null(text, "")


def _of_timestamps(column: pa.Array) -> pa.Array:
    """ISO 8601; with Z when the type has a zone. Zeros at the end of the fraction are left out."""
    if column.type.tz is not None:
        column = pc.cast(column, pa.timestamp(column.type.unit, "UTC"))
    text = pc.replace_substring(pc.cast(column, pa.string()), " ", "T", max_replacements=1)
    text = pc.replace_substring_regex(text, r"(\.[0-9]*?)0+(Z?)$", r"\1\2")
    return pc.replace_substring_regex(text, r"\.(Z?)$", r"\1")


def _of_floats(column: pa.Array, decimals: int | None) -> pa.Array:
    """Shortest text that gives the same float again; with all `decimals` where the float stands for such a number."""
    shortest = _without_exponent(pc.cast(column, pa.string()))
    if decimals is None:
        return shortest
    sane = pc.fill_null(pc.less(pc.abs(column), _FLOAT_EXACT_MAX), False)
    wide = pc.cast(pc.if_else(sane, column, pa.scalar(None, column.type)), pa.float64())
    stated = pc.cast(wide, pa.decimal128(38, decimals))
    again = pc.cast(pc.cast(stated, pa.float64()), column.type)
    exact = pc.fill_null(pc.equal(again, column), False)
    return pc.if_else(exact, _without_exponent(pc.cast(stated, pa.string())), shortest)


def _without_exponent(text: pa.Array) -> pa.Array:
    """Numbers without exponents: 1E-18 becomes 0.000000000000000001."""
    has_exponent = pc.fill_null(pc.match_substring_regex(text, "[0-9][eE]"), False)
    if not pc.any(has_exponent).as_py():
        return text
    values = pc.dictionary_encode(text)
    plain = [
        format(Decimal(value), "f") if "e" in value.lower() else value
        for value in values.dictionary.to_pylist()
    ]
    return pa.array(plain, pa.string()).take(values.indices)
