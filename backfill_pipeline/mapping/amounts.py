"""Numbers of a row: which columns hold them, and where their sign is told.

Belongs here: a number's columns put together (in and out, numerator and denominator), signs told by texts, minor units
by currency, magnitudes, and amounts of zero.
Does not: how a number is written (`number_text.py`, `fractions.py`), what an amount must be
(`schemas/ledger_entry.py`).
"""

from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.numbers import NumberRule, SignRule
from backfill_pipeline.mapping.fractions import parse_fractions
from backfill_pipeline.mapping.number_text import Numbers, in_minor_units, parse_numbers, sign_behind
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.money import AMOUNT_TYPE, currency_codes, currency_decimals
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import RowErrors, positions_of

__all__ = ["Numbers", "parse_numbers", "read_numbers", "settled_numbers"]

ZERO_REASON: Final = "zero amount"
"""Why rows are filtered with `zero: filter`."""

Currencies = Callable[[], pa.Array]


def read_numbers(
    rows: Rows, rule: NumberRule, field: str, missing: str | None, currency: Currencies | None = None
) -> Numbers:
    """A rule for a number applied to a chunk.

    Args:
        rows: the chunk; takes what is wrong with its rows, and which are filtered.
        rule: which columns hold the number, and how.
        field: of the entry, for codes (`<field>_malformed`, …) and reasons.
        missing: the code of rows without a number; None when that is no error.
        currency: the currency of each row, for a rule with `minor_units: true`; its own errors are not kept.
    """
    return settled_numbers(rows, rule, _read(rows, rule, field, missing, currency))


def settled_numbers(rows: Rows, rule: NumberRule, numbers: Numbers) -> Numbers:
    """Numbers with their signs as the rule wants them in the entry: zero filtered, magnitudes taken."""
    if rule.zero == "filter":
        rows.filter_where(pc.equal(numbers.values, pa.scalar(0, AMOUNT_TYPE)), ZERO_REASON)
    return Numbers(pc.abs(numbers.values), numbers.scales) if rule.absolute else numbers


def _silently(rows: Rows, action: Callable[[], pa.Array]) -> pa.Array:
    """What the action returns, without the errors that it finds in rows."""
    kept, rows.errors = rows.errors, RowErrors()
    try:
        return action()
    finally:
        rows.errors = kept


def _read(
    rows: Rows, rule: NumberRule, field: str, missing: str | None, currency: Currencies | None
) -> Numbers:
    if rule.in_ is not None and rule.out is not None:
        numbers = _read_in_and_out(rows, rule, field, missing)
    elif rule.numerator is not None and rule.denominator is not None:
        numbers = _read_fractions(rows, rule, field, missing)
    else:
        numbers = _read_column(rows, rule, field, missing)
    if rule.minor_units is None:
        return numbers
    return in_minor_units(numbers, _decimals(rows, rule, field, numbers, currency))


def _text(rows: Rows, rule: NumberRule, column: str | None) -> pa.Array:
    """A column of the rule, empty where it holds a text that means nothing is written."""
    assert column is not None
    text = rows.trimmed(column)
    return pc.if_else(pc.is_in(text, value_set=pa.array(rule.empty)), "", text) if rule.empty else text


def _is_written(text: pa.Array) -> pa.Array:
    return pc.fill_null(pc.not_equal(text, ""), False)


# --- where the number is ----------------------------------------------------------------------------------------


def _read_column(rows: Rows, rule: NumberRule, field: str, missing: str | None) -> Numbers:
    text = _text(rows, rule, rule.column)
    _add_missing(rows, pc.equal(text, ""), field, missing, f"column {rule.column} is empty")
    if rule.sign is None:
        return parse_numbers(text, rule, field, rows.errors)
    if rule.sign.column is None:
        digits, negative, positive = sign_behind(text, rule.sign)
    else:
        digits = text
        negative, positive = _signs_of_column(rows, rule.sign, rule.sign.column)
    numbers = parse_numbers(digits, rule, field, rows.errors, shown=text, unsigned=True)
    return _signed(rows, rule, field, numbers, text, negative, positive)


def _read_fractions(rows: Rows, rule: NumberRule, field: str, missing: str | None) -> Numbers:
    above, below = _text(rows, rule, rule.numerator), _text(rows, rule, rule.denominator)
    for text, column in ((above, rule.numerator), (below, rule.denominator)):
        _add_missing(rows, pc.equal(text, ""), field, missing, f"column {column} is empty")
    if missing is None:  # empty is fine, half a fraction is not
        half = pc.xor(_is_written(above), _is_written(below))
        words = f"is half a fraction: columns {rule.numerator} and {rule.denominator} are filled together"
        shown = pc.if_else(_is_written(above), above, below)
        rows.errors.add_where(half, f"{field}_malformed", field, field, shown, words)
    numbers = parse_fractions(above, below, field, rows.errors)
    if rule.sign is None or rule.sign.column is None:
        return numbers
    negative, positive = _signs_of_column(rows, rule.sign, rule.sign.column)
    own = pc.fill_null(pc.match_substring_regex(above, "^[+-]"), False)
    words = "has a sign of its own, and the definition says that the sign is told elsewhere"
    rows.errors.add_where(own, f"{field}_sign_unclear", field, field, above, words)
    return _signed(rows, rule, field, numbers, above, pc.and_not(negative, own), pc.and_not(positive, own))


def _read_in_and_out(rows: Rows, rule: NumberRule, field: str, missing: str | None) -> Numbers:
    received, paid = _text(rows, rule, rule.in_), _text(rows, rule, rule.out)
    has_in, has_out = _is_written(received), _is_written(paid)
    both = positions_of(pc.and_(has_in, has_out))
    reason = f"{field} is in both of the columns {rule.in_} and {rule.out}: only one may be filled"
    rows.errors.add(both, f"{field}_in_and_out", field, reason)
    neither = pc.and_(pc.equal(received, ""), pc.equal(paid, ""))
    _add_missing(rows, neither, field, missing, f"columns {rule.in_} and {rule.out} are empty")
    text = pc.if_else(has_out, pc.if_else(has_in, "", paid), received)
    numbers = parse_numbers(text, rule, field, rows.errors, unsigned=not rule.out_minus)
    if not rule.out_minus:
        return Numbers(pc.if_else(has_out, pc.negate(numbers.values), numbers.values), numbers.scales)
    above, below = pc.greater(numbers.values, 0), pc.less(numbers.values, 0)
    wrong = pc.fill_null(pc.if_else(has_out, above, below), False)
    words = f"has the wrong sign: {rule.in_} is written without and {rule.out} with a minus"
    rows.errors.add_where(wrong, f"{field}_sign_unclear", field, field, text, words)
    return _without(numbers, wrong)


def _add_missing(rows: Rows, empty: pa.Array, field: str, missing: str | None, why: str) -> None:
    if missing is not None:
        rows.errors.add(positions_of(empty), missing, field, f"{field} is missing: {why}")


# --- where the sign is ------------------------------------------------------------------------------------------


def _signs_of_column(rows: Rows, sign: SignRule, column: str) -> tuple[pa.Array, pa.Array]:
    """Where a column of its own says negative, and where positive; both false for anything else."""
    told = rows.trimmed(column)
    negative, positive = (
        pc.is_in(told, value_set=pa.array(texts, pa.string())) for texts in (sign.negative, sign.positive)
    )
    return negative, positive


def _signed(
    rows: Rows,
    rule: NumberRule,
    field: str,
    numbers: Numbers,
    text: pa.Array,
    negative: pa.Array,
    positive: pa.Array,
) -> Numbers:
    """The numbers with the signs that are told beside them; an error where exactly one is not."""
    assert rule.sign is not None
    unclear = pc.and_not(pc.is_valid(numbers.values), pc.xor(negative, positive))
    stated = ", ".join(f'"{one}"' for one in (*rule.sign.negative, *rule.sign.positive))
    before, shown, words = field, text, f"has behind it none of the signs {stated}, or several"
    if rule.sign.column is not None:
        before, shown = f"{field} has no sign: column {rule.sign.column}", rows.trimmed(rule.sign.column)
        words = f"is none of the stated {stated}"
    rows.errors.add_where(unclear, f"{field}_sign_unclear", field, before, shown, words)
    values = pc.if_else(negative, pc.negate(numbers.values), numbers.values)
    return _without(Numbers(values, numbers.scales), unclear)


def _without(numbers: Numbers, bad: pa.Array) -> Numbers:
    """The numbers, null where `bad`."""
    return Numbers(
        pc.if_else(bad, pa.scalar(None, AMOUNT_TYPE), numbers.values),
        pc.if_else(bad, pa.scalar(None, pa.int8()), numbers.scales),
    )


# --- minor units ------------------------------------------------------------------------------------------------


def _decimals(
    rows: Rows, rule: NumberRule, field: str, numbers: Numbers, currency: Currencies | None
) -> pa.Array:
    """How many decimals a row's minor unit has, int8; null and an error where nobody knows."""
    if isinstance(rule.minor_units, int):
        return pa.repeat(pa.scalar(rule.minor_units, pa.int8()), len(rows))
    assert currency is not None, "only amounts have a currency that says what their minor unit is"
    codes = _silently(rows, currency)  # its errors are found where it is a field itself
    decimals = currency_decimals().take(pc.index_in(codes, value_set=currency_codes()))
    unknown = pc.and_(pc.is_valid(numbers.values), pc.is_null(decimals))
    unknown = pc.and_(unknown, pc.fill_null(pc.not_equal(codes, ""), False))
    rows.errors.add_where(
        unknown,
        RejectCode.AMOUNT_MINOR_UNIT_UNKNOWN if field == "amount" else f"{field}_minor_unit_unknown",
        field,
        f"{field} is in minor units, but currency",
        codes,
        "has none in ISO 4217",
    )
    return decimals
