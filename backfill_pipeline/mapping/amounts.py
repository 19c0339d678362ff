"""Numbers: from text to exact decimals, never through a float.

Belongs here: what counts as a plain decimal number, and the marks that a definition may state.
Does not: what an amount must be (`schemas/ledger_entry.py`).
"""

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import NumberRule
from backfill_pipeline.money import AMOUNT_DIGITS, AMOUNT_SCALE, AMOUNT_TYPE
from backfill_pipeline.schemas.row_errors import RowErrors

_BEFORE: Final = AMOUNT_DIGITS - AMOUNT_SCALE
_FITS: Final = rf"^[+-]?[0-9]{{1,{_BEFORE}}}(\.[0-9]{{1,{AMOUNT_SCALE}}})?$"
_PLAIN: Final = r"^[+-]?[0-9]+(\.[0-9]+)?$"


@dataclass(frozen=True, slots=True)
class Numbers:
    """Parsed numbers, null where there is none.

    Attributes:
        values: decimal128(38, 18).
        scales: int8, decimals as written: "10.00" has 2.
    """

    values: pa.Array
    scales: pa.Array


def parse_numbers(text: pa.Array, rule: NumberRule, field: str, errors: RowErrors) -> Numbers:
    """Reads plain decimal numbers; everything else (1e3, NaN, Infinity, 1.234,56, .5) becomes an error.

    Args:
        text: trimmed, string, null or empty where nothing is written (the caller decides what that means).
        rule: says which marks the source uses.
        field: of the entry, for codes (`<field>_malformed`, `<field>_out_of_range`) and reasons.
        errors: takes what is wrong.
    """
    written = pc.fill_null(pc.not_equal(text, ""), False)
    plain = text if _has_plain_marks(rule) else _without_marks(text, rule)
    fits = pc.fill_null(pc.match_substring_regex(plain, _FITS), False)
    bad = pc.and_not(written, fits)
    if pc.any(bad).as_py():
        too_wide = pc.and_(bad, pc.fill_null(pc.match_substring_regex(plain, _PLAIN), False))
        limit = f"does not fit: at most {_BEFORE} digits before the point and {AMOUNT_SCALE} after it"
        errors.add_where(too_wide, f"{field}_out_of_range", field, field, text, limit)
        errors.add_where(
            pc.and_not(bad, too_wide),
            f"{field}_malformed",
            field,
            field,
            text,
            "is not a plain decimal number",
        )
    if not pc.all(fits).as_py():
        plain = pc.if_else(fits, plain, pa.scalar(None, pa.string()))
    point = pc.find_substring(plain, ".")
    decimals = pc.subtract(pc.subtract(pc.binary_length(plain), point), 1)
    scales = pc.if_else(pc.less(point, 0), 0, decimals).cast(pa.int8())
    return Numbers(plain.cast(AMOUNT_TYPE), scales)


def _has_plain_marks(rule: NumberRule) -> bool:
    return rule.decimal_mark == "." and rule.thousands_mark is None


def _without_marks(text: pa.Array, rule: NumberRule) -> pa.Array:
    """The number with a point and without grouping; null where the marks are not used as stated.

    Groups must be of three digits: with a comma for thousands, "1,23" is no number, and surely not 123.
    """
    decimals = rf"({re.escape(rule.decimal_mark)}[0-9]+)?"
    whole = "[0-9]+"
    if rule.thousands_mark is not None:
        whole = rf"([0-9]{{1,3}}({re.escape(rule.thousands_mark)}[0-9]{{3}})+|[0-9]+)"
    as_stated = pc.match_substring_regex(text, rf"^[+-]?{whole}{decimals}$")
    text = pc.if_else(pc.fill_null(as_stated, False), text, pa.scalar(None, pa.string()))
    if rule.thousands_mark is not None:
        text = pc.replace_substring(text, rule.thousands_mark, "")
    return text if rule.decimal_mark == "." else pc.replace_substring(text, rule.decimal_mark, ".")
