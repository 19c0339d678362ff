"""Numbers in text: from what a source writes to exact decimals, never through a float.

Belongs here: what counts as a number, and what of it is understood only when a definition states it: marks, grouping,
symbols, places of the minus, minor units.
Does not: which columns hold a number, or its sign (`amounts.py`); what an amount must be (`schemas/ledger_entry.py`).

Everything that a rule states is taken off the text step by step, and nothing else is; what is left must be a plain
decimal number. So a text that is written otherwise can only be refused, never be read as another number.
"""

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.numbers import APOSTROPHES, SPACES, NumberRule, SignRule
from backfill_pipeline.money import AMOUNT_DIGITS, AMOUNT_SCALE, AMOUNT_TYPE, rescaled
from backfill_pipeline.schemas.row_errors import RowErrors

_BEFORE: Final = AMOUNT_DIGITS - AMOUNT_SCALE
_FITS: Final = rf"^[+-]?[0-9]{{1,{_BEFORE}}}(\.[0-9]{{1,{AMOUNT_SCALE}}})?$"
_PLAIN: Final = r"^[+-]?[0-9]+(\.[0-9]+)?$"
_ZEROS_BEYOND: Final = rf"^([+-]?[0-9]+\.[0-9]{{{AMOUNT_SCALE}}})0+$"
_WHOLE_FITS: Final = rf"^[+-]?[0-9]{{1,{_BEFORE}}}$"
_WHOLE: Final = r"^[+-]?[0-9]+$"
_UNICODE_MINUS: Final = "\u2212"
_WHITE: Final = rf"[\s{SPACES}]*"
_MARK_WORDS: Final = {"space": SPACES, "apostrophe": APOSTROPHES}
_NO_TEXT: Final = pa.scalar(None, pa.string())


@dataclass(frozen=True, slots=True)
class Numbers:
    """Parsed numbers, null where there is none.

    Attributes:
        values: decimal128(38, 18).
        scales: int8, decimals as written: "10.00" has 2. Of minor units those of the currency, or as stated; of
            fractions the fewest that the denominator needs: 1050/100 has 2.
    """

    values: pa.Array
    scales: pa.Array


def parse_numbers(
    text: pa.Array,
    rule: NumberRule,
    field: str,
    errors: RowErrors,
    *,
    shown: pa.Array | None = None,
    unsigned: bool = False,
) -> Numbers:
    """Reads decimal numbers as the rule says they are written; everything else becomes an error.

    1e3, NaN, Infinity and .5 are no numbers in any rule; 1.234,56 is one where its marks are stated. With minor units
    the number must be whole, and comes out as it is: `in_minor_units` moves its point.

    Args:
        text: trimmed, string, null or empty where nothing is written (the caller decides what that means).
        rule: says how the source writes numbers.
        field: of the entry, for codes (`<field>_malformed`, `<field>_out_of_range`, `<field>_sign_unclear`) and
            reasons.
        errors: takes what is wrong.
        shown: what reasons repeat, where it is not `text`.
        unsigned: whether the sign is told elsewhere, so that one in the text is an error.
    """
    shown = text if shown is None else shown
    whole = rule.minor_units is not None
    written = pc.fill_null(pc.not_equal(shown, ""), False)
    plain = _as_plain(text, rule)
    fits = pc.fill_null(pc.match_substring_regex(plain, _WHOLE_FITS if whole else _FITS), False)
    bad = pc.and_not(written, fits)
    if not whole and pc.any(bad).as_py():
        # Databases divide to more places than an amount has: zeros there are taken off, and anything else is not.
        plain = pc.replace_substring_regex(plain, _ZEROS_BEYOND, r"\1")
        fits = pc.fill_null(pc.match_substring_regex(plain, _FITS), False)
        bad = pc.and_not(written, fits)
    if pc.any(bad).as_py():
        wide = pc.fill_null(pc.match_substring_regex(plain, _WHOLE if whole else _PLAIN), False)
        too_wide = pc.and_(bad, wide)
        limit = f"does not fit: at most {_BEFORE} digits before the point and {AMOUNT_SCALE} after it"
        errors.add_where(too_wide, f"{field}_out_of_range", field, field, shown, limit)
        words = "is not a whole number of minor units" if whole else f"is not {_named(rule)}"
        errors.add_where(pc.and_not(bad, too_wide), f"{field}_malformed", field, field, shown, words)
    if unsigned:
        signed = pc.and_(fits, pc.fill_null(pc.match_substring_regex(plain, "^[+-]"), False))
        words = "has a sign of its own, and the definition says that the sign is told elsewhere"
        errors.add_where(signed, f"{field}_sign_unclear", field, field, shown, words)
        fits = pc.and_not(fits, signed)
    if not pc.all(fits).as_py():
        plain = pc.if_else(fits, plain, _NO_TEXT)
    point = pc.find_substring(plain, ".")
    decimals = pc.subtract(pc.subtract(pc.binary_length(plain), point), 1)
    scales = pc.if_else(pc.less(point, 0), 0, decimals).cast(pa.int8())
    return Numbers(plain.cast(AMOUNT_TYPE), scales)


def _named(rule: NumberRule) -> str:
    defaults = NumberRule(column="x").model_dump(exclude={"column"})
    keys = ("decimal_mark", "thousands_mark", "grouping", "whole_mark", "symbols", "minus", "sign")
    stated = any(getattr(rule, key) != defaults[key] for key in keys)
    return "a decimal number as the definition says it is written" if stated else "a plain decimal number"


def _as_plain(text: pa.Array, rule: NumberRule) -> pa.Array:
    """The number with a leading sign, a point and without grouping; null where it is not written as stated."""
    if rule.symbols:
        text = _without_symbols(text, rule.symbols)
    if not pc.all(pc.string_is_ascii(text)).as_py():
        text = pc.replace_substring(text, _UNICODE_MINUS, "-")
    if rule.minus != ("leading",):
        text = _with_leading_sign(text, rule)
    plain_marks = rule.decimal_mark == "." and rule.thousands_mark is None and rule.whole_mark is None
    return text if plain_marks else _without_marks(text, rule)


def _alternatives(texts: tuple[str, ...]) -> str:
    """A pattern for any of the texts, the longest first."""
    return "|".join(re.escape(one) for one in sorted(texts, key=len, reverse=True))


def _without_symbols(text: pa.Array, symbols: tuple[str, ...]) -> pa.Array:
    """Takes off one symbol before and one behind the number; signs and brackets around them stay."""
    one = f"(?:{_alternatives(symbols)})"
    signs = f"[+{_UNICODE_MINUS}"
    text = pc.replace_substring_regex(text, rf"^({signs}(-]*){_WHITE}{one}{_WHITE}", r"\1")
    return pc.replace_substring_regex(text, rf"{_WHITE}{one}({signs})-]*)$", r"\1")


def _with_leading_sign(text: pa.Array, rule: NumberRule) -> pa.Array:
    """Moves the sign to the front from where the rule says that it stands."""
    if "leading" not in rule.minus:
        text = pc.if_else(pc.fill_null(pc.match_substring_regex(text, "^[+-]"), False), _NO_TEXT, text)
    if "parentheses" in rule.minus:
        text = pc.replace_substring_regex(text, r"^\(([0-9].*)\)$", r"-\1")
    if "trailing" in rule.minus:
        end = "[0-9]" if rule.whole_mark is None else rf"(?:[0-9]|{re.escape(rule.whole_mark)})"
        text = pc.replace_substring_regex(text, rf"^([0-9]|[0-9].*{end})([+-])$", r"\2\1")
    return text


def _without_marks(text: pa.Array, rule: NumberRule) -> pa.Array:
    """The number with a point and without grouping; null where the marks are not used as stated.

    Groups must be complete: with a comma for thousands, "1,23" is no number, and surely not 123.
    """
    decimals = f"{re.escape(rule.decimal_mark)}[0-9]+"
    if rule.whole_mark is not None:
        decimals = f"{decimals}|{re.escape(rule.whole_mark)}"
    whole, marks = "[0-9]+", ""
    if rule.thousands_mark is not None:
        marks = f"[{re.escape(_MARK_WORDS.get(rule.thousands_mark, rule.thousands_mark))}]"
        groups = rf"[0-9]{{1,3}}(?:{marks}[0-9]{{3}})+"
        if rule.grouping == "indian":
            groups = rf"[0-9]{{1,2}}(?:{marks}[0-9]{{2}})*{marks}[0-9]{{3}}"
        whole = f"(?:{groups}|[0-9]+)"
    as_stated = pc.match_substring_regex(text, rf"^[+-]?{whole}(?:{decimals})?$")
    text = pc.if_else(pc.fill_null(as_stated, False), text, _NO_TEXT)
    if rule.whole_mark is not None:  # first: it may look like a mark
        text = pc.replace_substring_regex(text, f"{re.escape(rule.whole_mark)}$", "")
    if marks:
        text = pc.replace_substring_regex(text, marks, "")
    return text if rule.decimal_mark == "." else pc.replace_substring(text, rule.decimal_mark, ".")


def sign_behind(text: pa.Array, sign: SignRule) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Takes the sign off the end of texts such as "12.50 DR".

    Returns:
        The texts without it, where it says negative, and where positive. Nothing behind the number says what the
        definition says about "", or neither.
    """
    # A letter before it would make it a part of another word: the D of "12 CAD" is no sign.
    start = r"(^|[^\pL])"
    masks = []
    for texts in (sign.negative, sign.positive):
        pattern = f"{start}(?:{_alternatives(tuple(filter(None, texts)))})$" if any(texts) else r"^\z."
        masks.append(pc.fill_null(pc.match_substring_regex(text, pattern), False))
    negative, positive = masks
    every = tuple(filter(None, (*sign.negative, *sign.positive)))
    nothing = pc.invert(pc.or_(negative, positive))
    if "" in sign.negative:
        negative = pc.or_(negative, nothing)
    if "" in sign.positive:
        positive = pc.or_(positive, nothing)
    if every:
        text = pc.replace_substring_regex(text, f"{start}(?:{_alternatives(every)})$", r"\1")
    return pc.utf8_trim_whitespace(text), negative, positive


# --- amounts counted in units -----------------------------------------------------------------------------------

_POWERS: Final = pa.array(
    [10**power for power in range(AMOUNT_SCALE + 1)], pa.decimal256(AMOUNT_SCALE + 1, 0)
)


def in_minor_units(numbers: Numbers, decimals: pa.Array) -> Numbers:
    """Whole numbers as counts of a unit that is `decimals` places below the point: 12345 with 2 is 123.45.

    Args:
        numbers: whole.
        decimals: int8, 0 to 18 for each row; null gives null.
    """
    whole = rescaled(numbers.values, 0).cast(pa.decimal256(AMOUNT_DIGITS, 0))
    missing_places = pc.subtract(pa.scalar(AMOUNT_SCALE, pa.int8()), decimals)
    values = from_smallest_units(pc.multiply(whole, _POWERS.take(missing_places)))
    return Numbers(values, pc.if_else(pc.is_valid(values), decimals, pa.scalar(None, pa.int8())))


def from_smallest_units(units: pa.Array) -> pa.Array:
    """Amounts from integers (decimal, scale 0) that count units of an amount's last decimal, 1e-18."""
    units = units.cast(pa.decimal128(AMOUNT_DIGITS, 0))
    # The same 128 bits with another scale: exact, and no division.
    return pa.Array.from_buffers(AMOUNT_TYPE, len(units), units.buffers(), units.null_count, units.offset)
