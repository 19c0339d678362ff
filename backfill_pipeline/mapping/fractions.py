"""Numbers given as numerator and denominator, exactly.

Belongs here: which fractions are decimals, and their value.
Does not: numbers written as one text (`number_text.py`).
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.mapping.number_text import Numbers, from_smallest_units
from backfill_pipeline.money import AMOUNT_SCALE
from backfill_pipeline.schemas.row_errors import RowErrors

_NUMERATOR: Final = r"^[+-]?[0-9]+$"
_DENOMINATOR: Final = r"^0*[1-9][0-9]*$"
_NUMERATOR_FITS: Final = r"^[+-]?0*[0-9]{1,18}$"
_DENOMINATOR_FITS: Final = r"^0*(?:[0-9]{1,18}|10{18})$"
_ONE: Final = 10**AMOUNT_SCALE

Integers = npt.NDArray[np.int64]


def parse_fractions(numerator: pa.Array, denominator: pa.Array, field: str, errors: RowErrors) -> Numbers:
    """Divides integers where the result is a decimal with at most 18 places; everything else becomes an error.

    Args:
        numerator: trimmed, string, null or empty where nothing is written (the caller decides what that means).
        denominator: the same; above zero.
        field: of the entry, for codes (`<field>_malformed`, `<field>_out_of_range`, `<field>_inexact`) and reasons.
        errors: takes what is wrong.
    """
    shown = pc.binary_join_element_wise(numerator, denominator, "/")
    written = pc.and_(_is_written(numerator), _is_written(denominator))
    integers = pc.and_(_matches(numerator, _NUMERATOR), _matches(denominator, _DENOMINATOR))
    malformed = pc.and_not(written, integers)
    errors.add_where(
        malformed, f"{field}_malformed", field, field, shown, "is not an integer above a positive integer"
    )
    narrow = pc.and_(_matches(numerator, _NUMERATOR_FITS), _matches(denominator, _DENOMINATOR_FITS))
    ok = pc.and_(pc.and_(written, integers), narrow)
    too_wide = pc.and_not(pc.and_(written, integers), narrow)
    errors.add_where(
        too_wide, f"{field}_out_of_range", field, field, shown, "does not fit: at most 18 digits each"
    )
    above = _integers(pc.if_else(ok, numerator, "0"))
    below = _integers(pc.if_else(ok, denominator, "1"))
    shared = np.gcd(above, below)
    reduced = below // shared
    inexact = ok.to_numpy(zero_copy_only=False) & (_ONE % reduced != 0)
    words = f"is no decimal with at most {AMOUNT_SCALE} places"
    errors.add_where(pa.array(inexact), f"{field}_inexact", field, field, shown, words)
    reduced = np.where(inexact, 1, reduced)
    kind = pa.decimal256(AMOUNT_SCALE + 1, 0)
    units = pc.multiply(pa.array(above // shared).cast(kind), pa.array(_ONE // reduced).cast(kind))
    good = pc.and_not(ok, pa.array(inexact))
    as_written = _ONE % below == 0
    scales = pa.array(_places(np.where(as_written, below, reduced)))
    return Numbers(
        pc.if_else(good, from_smallest_units(units), None),
        pc.if_else(good, scales, pa.scalar(None, pa.int8())),
    )


def _places(denominators: Integers) -> npt.NDArray[np.int8]:
    """The fewest decimals with which 1/denominator can be written; each divides 10^18."""
    places = np.full(len(denominators), AMOUNT_SCALE, dtype=np.int8)
    for decimals in range(AMOUNT_SCALE - 1, -1, -1):
        places[10**decimals % denominators == 0] = decimals
    return places


def _is_written(text: pa.Array) -> pa.Array:
    return pc.fill_null(pc.not_equal(text, ""), False)


def _matches(text: pa.Array, pattern: str) -> pa.Array:
    return pc.fill_null(pc.match_substring_regex(text, pattern), False)


def _integers(text: pa.Array) -> Integers:
    # Arrow reads a minus, but no plus.
    plain = pc.replace_substring_regex(text, r"^\+", "")
    integers: Integers = plain.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return integers
