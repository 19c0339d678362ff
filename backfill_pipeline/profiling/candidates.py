"""Which columns may feed which field of an entry, how surely, and why.

Belongs here: names in several languages, and what the values say.
Does not: the draft of a definition (`draft.py`).
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.profiling.columns import TIME_NAME, ColumnProfile
from backfill_pipeline.profiling.evidence import MOST
from backfill_pipeline.profiling.numbers import NumberGuess
from backfill_pipeline.schemas.row_errors import combined
from backfill_pipeline.wording import counted

Confidence = Literal["high", "medium", "low"]
_ORDER: Final = {"high": 0, "medium": 1, "low": 2}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A column that may feed a field."""

    field: str
    column: str
    confidence: Confidence
    why: str


def _names(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_AMOUNT: Final = _names(r"amount|amt|betrag|umsatz|^value$|importe|montant|bedrag|summe|^sum$")
_BALANCE: Final = _names(r"balance|saldo|kontostand|solde")
_RATE: Final = _names(r"rate|^fx|kurs|cours")
_REFERENCE: Final = _names(r"^id$|_id$|\bid\b|ref|booking|txn|uuid|beleg|document|transaction.?(id|no|num)")
_ACCOUNT: Final = _names(r"acc(oun)?t|iban|konto|compte|cuenta|node")
_DEBIT: Final = _names(r"debit|receiv|payee|benefic|target|dest|empf|^to$|^to_|_to$")
_CREDIT: Final = _names(r"(?<!un)credit|send|payer|source|src|orig|auftragg|^from$|^from_|_from$")
_TYPE: Final = _names(r"type|kind|categor|^code$|^art$|buchungstext|buchungsart")
_LEDGER: Final = _names(r"^ledger")
_SHARED_MIN: Final = 0.2
_UNIQUE_ROWS_MIN: Final = 50
"""In fewer rows, names and texts differ by chance."""


def find_candidates(columns: list[ColumnProfile], table: pa.Table) -> dict[str, tuple[Candidate, ...]]:
    """Field → candidates, the surest first; fields without one are missing.

    Args:
        columns: profiles of all columns.
        table: EXTRACTED of the sample, for values that two columns share.
    """
    partners = _partners(columns, table)
    found: list[Candidate] = []
    for column in columns:
        found += _of_values(column)
        found += _of_text(column, partners.get(column.name))
    by_field: dict[str, list[Candidate]] = {}
    for candidate in found:
        by_field.setdefault(candidate.field, []).append(candidate)
    return {
        field: tuple(sorted(ones, key=lambda one: _ORDER[one.confidence])) for field, ones in by_field.items()
    }


def _of_values(column: ColumnProfile) -> list[Candidate]:
    """By what the values are."""
    name = column.name
    if column.time is not None:
        sure: Confidence = "high" if TIME_NAME.search(name) else "medium"
        if column.empty > (1 - MOST) * column.rows:
            sure = "low"
        kind = "times" if column.time.has_clock else "dates"
        return [Candidate("timestamp_utc", name, sure, f"its values are {kind}")]
    if column.kind == "currency":
        return [Candidate("currency_code", name, "high", "its values are codes of ISO 4217")]
    return [] if column.number is None else _of_numbers(column, column.number)


def _of_numbers(column: ColumnProfile, number: NumberGuess) -> list[Candidate]:
    name = column.name
    if column.balance_of is not None:
        why = f"its differences are the values of {column.balance_of}"
        return [Candidate("balance", name, "high", why)]
    if column.epoch is not None and not _AMOUNT.search(name):
        return [Candidate("timestamp_utc", name, "low", f"integers that may be {column.epoch}")]
    named: tuple[tuple[re.Pattern[str], str, Confidence], ...] = (
        (_BALANCE, "balance", "medium"),
        (_RATE, "fx_rate", "medium"),
        (_AMOUNT, "amount", "high"),
    )
    for pattern, field, sure in named:
        if pattern.search(name):
            return [Candidate(field, name, sure, "numbers, and its name says so")]
    return [Candidate("amount", name, "medium", "numbers with decimals")] if number.decimals else []


def _of_text(column: ColumnProfile, partner: str | None) -> list[Candidate]:
    """By name, uniqueness, and the values that two columns share."""
    name, found = column.name, []
    if column.kind in ("time", "currency", "empty") or (column.number and column.number.decimals):
        return []
    if column.unique and not (column.number and _AMOUNT.search(name)):
        named = _REFERENCE.search(name)
        telling = column.kind == "text" and column.rows >= _UNIQUE_ROWS_MIN
        sure: Confidence = "high" if named else "medium" if telling else "low"
        but = f", but for {counted(column.not_unique, 'row')}" if column.not_unique else ""
        why = f"every row has a value of its own{but}" + (", and its name says so" if named else "")
        found.append(Candidate("reference_id", name, sure, why))
    is_account = partner is not None or _ACCOUNT.search(name) is not None
    if is_account and not column.unique:
        shared = f"shares its values with {partner}" if partner else "its name speaks of an account"
        side = _side(name)
        if side is None:
            found.append(Candidate("account", name, "medium", shared))
        else:
            sure = "high" if partner and re.search("debit|credit", name, re.I) else "medium"
            found.append(Candidate(side, name, sure, f"{shared}; its name gives the side"))
    if column.kind == "sign":
        found.append(Candidate("sign", name, "high", f"holds only {', '.join(column.samples)}"))
    elif column.kind == "code" and _TYPE.search(name):
        found.append(
            Candidate("transaction_type", name, "high", f"{column.distinct} different values, and its name")
        )
    elif _LEDGER.search(name):
        found.append(Candidate("ledger_id", name, "medium", "its name says so"))
    return found


def _side(name: str) -> str | None:
    debit, credit = _DEBIT.search(name), _CREDIT.search(name)
    if (debit is None) == (credit is None):
        return None
    return "debit_account_id" if debit else "credit_account_id"


def _partners(columns: list[ColumnProfile], table: pa.Table) -> dict[str, str]:
    """Columns that hold each other's values, as the two accounts of transfers do."""
    able = [
        one.name
        for one in columns
        if one.kind in ("text", "code", "number")
        and not one.unique
        and one.distinct > 1
        and not (one.number and one.number.decimals)
        and not (one.number and (_AMOUNT.search(one.name) or one.epoch))
    ]
    values = {name: pc.unique(combined(table[name])) for name in able}
    found: dict[str, tuple[float, str]] = {}
    for name in able:
        for other in able:
            if other == name:
                continue
            shared = pc.sum(pc.is_in(values[name], value_set=values[other])).as_py() or 0
            share = shared / len(values[name])
            if share >= _SHARED_MIN and shared > 1 and share > found.get(name, (0.0, ""))[0]:
                found[name] = (share, other)
    return {name: other for name, (_, other) in found.items() if other in found}
