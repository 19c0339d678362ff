"""Dirt: every way in which a row of a made-up export can be spoilt, and the code that it must be rejected with.

Belongs here: turning the fields of a clean row into a spoilt line.
Does not: which rows are spoilt, and clean rows (`generate.py`).
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

COLUMNS: Final = (
    "booking_id", "booked_at", "debit_account", "credit_account", "amount",
    "currency", "kind", "fx_rate", "description", "branch",
)  # fmt: skip
_ID, _TIME, _DEBIT, _CREDIT, _AMOUNT, _CURRENCY, _KIND, _RATE, _DESCRIPTION, _ = range(len(COLUMNS))


class Spoiler:
    """Turns a clean row into a spoilt line."""

    def __init__(
        self, codes: Sequence[str], account_currency: Integers, homes: Sequence[str], first_row: list[str]
    ) -> None:
        """What it needs to know of the export.

        Args:
            codes: the currencies' codes.
            account_currency: account number - 1 → position in `codes`.
            homes: an account of each currency, in the order of `codes`.
            first_row: the file's first row, which is clean.
        """
        self.first_row = first_row
        self._codes = codes
        self._account_currency = account_currency
        self._homes = homes

    def spoil(self, kind: str, row: list[str], earlier: list[str]) -> bytes:
        """The line of a row spoilt in one way; `earlier` is a clean row that comes before it."""
        if kind == "duplicate":
            return ",".join(earlier).encode()
        if kind == "conflict":
            return ",".join(_set(earlier, _AMOUNT, f"1{earlier[_AMOUNT]}")).encode()
        if kind == "encoding_invalid":
            return ",".join(_set(row, _DESCRIPTION, "Caf\0")).encode().replace(b"\0", b"\xe9")
        return ",".join(DIRT[kind].spoil(self, row)).encode()

    def too_precise(self, row: list[str]) -> list[str]:
        """One decimal more than the currency has, and not a zero."""
        return _set(row, _AMOUNT, row[_AMOUNT] + ("5" if "." in row[_AMOUNT] else ".5"))

    def currency_mismatch(self, row: list[str]) -> list[str]:
        """Both accounts in one currency, the entry in another."""
        strange = next(code for code in self._codes if code not in self._currencies(row))
        row = _set(_set(row, _CURRENCY, strange), _RATE, "")
        return _set(row, _AMOUNT, "1000")  # a whole number is right in every currency

    def crossing(self, row: list[str], rate: str) -> list[str]:
        """The credit side in another currency, with this rate."""
        own = row[_CURRENCY]
        other = next(number for number, code in enumerate(self._codes) if code != own)
        return _set(_set(_set(row, _CREDIT, self._homes[other]), _KIND, "FX"), _RATE, rate)

    def _currencies(self, row: list[str]) -> set[str]:
        numbers = (int(row[column].rpartition("-")[2]) - 1 for column in (_DEBIT, _CREDIT))
        return {self._codes[int(self._account_currency[number])] for number in numbers}


def _set(row: list[str], column: int, text: str) -> list[str]:
    return [*row[:column], text, *row[column + 1 :]]


class Dirt(NamedTuple):
    """A way to spoil a row: the code that the product must reject it with ("" when it does not), and the edit."""

    code: str
    spoil: Callable[[Spoiler, list[str]], list[str]]


def _put(code: str, column: int, text: str) -> Dirt:
    return Dirt(code, lambda _, row: _set(row, column, text))


def _not_from_row(_: Spoiler, row: list[str]) -> list[str]:
    raise AssertionError(f"made from an earlier row or from bytes, not from {row[_ID]}")


DIRT: Final[dict[str, Dirt]] = {
    "amount_exponent": _put("amount_malformed", _AMOUNT, "1e3"),
    "duplicate": Dirt("", _not_from_row),
    "amount_nan": _put("amount_malformed", _AMOUNT, "NaN"),
    "amount_infinite": _put("amount_malformed", _AMOUNT, "Infinity"),
    "amount_grouped": _put("amount_malformed", _AMOUNT, '"1.234,56"'),
    "amount_text": _put("amount_malformed", _AMOUNT, "twelve"),
    "conflict": Dirt("", _not_from_row),
    "amount_missing": _put("amount_missing", _AMOUNT, ""),
    "amount_negative": Dirt("amount_not_positive", lambda _, row: _set(row, _AMOUNT, f"-{row[_AMOUNT]}")),
    "amount_zero": _put("amount_not_positive", _AMOUNT, "0"),
    "amount_too_precise": Dirt("amount_too_many_decimals", Spoiler.too_precise),
    "currency_unknown": _put("currency_unknown", _CURRENCY, "ZZZ"),
    "currency_missing": _put("currency_code_missing", _CURRENCY, ""),
    "currency_mismatch": Dirt("currency_mismatch", Spoiler.currency_mismatch),
    "rate_missing": Dirt("fx_rate_missing", lambda spoiler, row: spoiler.crossing(row, "")),
    "rate_malformed": Dirt("fx_rate_malformed", lambda spoiler, row: spoiler.crossing(row, '"1,0850"')),
    "rate_negative": Dirt("fx_rate_not_positive", lambda spoiler, row: spoiler.crossing(row, "-1.0850")),
    "time_missing": _put("time_missing", _TIME, ""),
    "time_malformed": _put("time_malformed", _TIME, "2024-13-45T99:00:00Z"),
    "time_without_zone": Dirt("time_zone_missing", lambda _, row: _set(row, _TIME, row[_TIME][:19])),
    "time_two_digit_year": _put("time_malformed", _TIME, "05/03/24 10:15"),
    "account_same": Dirt("same_account", lambda _, row: _set(_set(row, _CREDIT, row[_DEBIT]), _RATE, "")),
    "account_unknown": _put("unknown_account", _DEBIT, "NO-SUCH-ACCOUNT"),
    "account_missing": _put("credit_account_id_missing", _CREDIT, ""),
    "reference_missing": _put("reference_id_missing", _ID, ""),
    "fields_too_few": Dirt("wrong_field_count", lambda _, row: row[:-2]),
    "fields_too_many": Dirt("wrong_field_count", lambda _, row: [*row, "surplus"]),
    "encoding_invalid": Dirt("encoding_invalid", _not_from_row),
    "nul_byte": _put("nul_byte", _DESCRIPTION, "Caf\0"),
}
DIRTY_KINDS: Final = tuple(DIRT)
"""All ways in which a row can be spoilt, in the order in which they take turns."""
