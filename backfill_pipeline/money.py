"""Money: how wide an amount is, and how many decimals each currency has.

Belongs here: the decimal type of every amount and rate, ISO 4217 minor units, and the one rounding rule.
Does not: parsing what a source writes (`mapping/amounts.py`) or judging it (`schemas/ledger_entry.py`).
"""

from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import cache
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc
from iso4217 import Currency

AMOUNT_DIGITS = 38
"""Digits of an amount, before and after the point together: the widest decimal that Arrow's decimal128 holds."""

AMOUNT_SCALE = 18
"""Decimals of an amount: what the smallest unit of any asset in use needs (1 wei = 1e-18 ether)."""

SUM_DIGITS = 60
"""Digits of a sum of amounts. Python would round it to 28: sums are made in `localcontext(prec=SUM_DIGITS)`."""

AMOUNT_TYPE = pa.decimal128(AMOUNT_DIGITS, AMOUNT_SCALE)
"""The Arrow type of amounts and rates, from the source to the database."""

CURRENCY_DECIMALS: MappingProxyType[str, int | None] = MappingProxyType(
    {currency.code: currency.exponent for currency in sorted(Currency, key=lambda one: one.code)}
)
"""ISO 4217 code → decimals of its minor unit; None where the standard gives none ("N.A."), as for gold (XAU)."""


def minor_units(code: str) -> int | None:
    """Decimals of a currency's minor unit, by ISO 4217: USD 2, JPY 0, KWD 3.

    Args:
        code: alphabetic code in capitals.

    Returns:
        The number of decimals, or None for a code without a minor unit (XAU, XDR, XXX).

    Raises:
        KeyError: the code is not in ISO 4217.
    """
    return CURRENCY_DECIMALS[code]


@cache
def currency_codes() -> pa.Array:
    """All known codes as an Arrow string array, sorted: the value set for `pyarrow.compute.index_in`."""
    return pa.array(list(CURRENCY_DECIMALS), pa.string())


@cache
def currency_decimals() -> pa.Array:
    """Decimals in the order of `currency_codes()`, int8, null where a currency has no minor unit."""
    return pa.array(list(CURRENCY_DECIMALS.values()), pa.int8())


def plain_text(amounts: pa.Array) -> pa.Array:
    """Amounts as plain decimal text without trailing zeros, as people write them: "-1.5", "100", "0.0000001".

    Arrow's own conversion gives "0E-18" and "1.00000000000E-7".

    Args:
        amounts: AMOUNT_TYPE, contiguous.
    """
    # The same 128 bits with scale 0: the amount counted in units of its last decimal.
    units = pa.Array.from_buffers(
        pa.decimal128(AMOUNT_DIGITS, 0), len(amounts), amounts.buffers(), amounts.null_count, amounts.offset
    )
    digits = pc.utf8_lpad(pc.cast(pc.abs(units), pa.string()), AMOUNT_SCALE + 1, "0")
    whole = pc.utf8_slice_codeunits(digits, 0, -AMOUNT_SCALE)
    fraction = pc.utf8_rtrim(pc.utf8_slice_codeunits(digits, -AMOUNT_SCALE), "0")
    sign = pc.if_else(pc.less(units, 0), "-", "")
    point = pc.if_else(pc.equal(fraction, ""), "", ".")
    return pc.binary_join_element_wise(sign, whole, point, fraction, "")


def rescaled(amounts: pa.Array, decimals: int) -> pa.Array:
    """Amounts with fewer decimals: decimal128(38, decimals).

    Arrow (26.0) divides some integers above 2^62 wrongly, notices it, and calls that a loss of data:
    18446744072079056827 has no decimals, and still cannot be cast to scale 0. Such columns go through their text.

    Args:
        amounts: AMOUNT_TYPE, contiguous; none has more decimals than asked for.
        decimals: 0 to 18.

    Raises:
        pyarrow.ArrowInvalid: an amount has more decimals.
    """
    kind = pa.decimal128(AMOUNT_DIGITS, decimals)
    try:
        return pc.cast(amounts, kind)
    except pa.ArrowInvalid:
        return pc.cast(plain_text(amounts), kind)


def round_half_even(amount: Decimal, decimals: int) -> Decimal:
    """Rounds to a number of decimals, halves to the even neighbour, exactly for every amount the ledger can hold.

    The result has exactly that many decimals: `round_half_even(Decimal("2.5"), 0) == Decimal("2")`.
    """
    with localcontext() as context:
        context.prec = 2 * AMOUNT_DIGITS  # a product of two amounts still fits: no hidden second rounding
        return amount.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
