"""Hints: what a person does about a rejected row, one sentence for each code.

Belongs here: the sentences.
Does not: what a code means (`rejects.py`), how a repaired row is sent again (`stages/replay.py`).
"""

from typing import Final

from backfill_pipeline.schemas.rejects import RejectCode

_FILL: Final = "Fill in the column; a default for all rows belongs into the source definition."
_SHORTEN: Final = "Shorten the text to what the ledger holds."
_COLUMNS: Final = "Fill in the source's columns one by one from the raw text."

_HINTS: Final[dict[str, str]] = {
    RejectCode.WRONG_FIELD_COUNT: "Fill in the columns from the raw text, without the stray or lost delimiter.",
    RejectCode.RECORD_MALFORMED: _COLUMNS,
    RejectCode.QUOTE_UNTERMINATED: _COLUMNS,
    RejectCode.RECORD_TOO_LONG: "Fill in the columns from the export itself: the raw text is cut.",
    RejectCode.ENCODING_INVALID: "Fill in the columns from the raw text, with the right letters for the escapes.",
    RejectCode.NUL_BYTE: "Fill in the columns from the raw text, without the escape \\x00.",
    RejectCode.STATEMENT_UNBALANCED: "Ask for the whole statement again: a line is missing, doubled or unreadable.",
    RejectCode.STATEMENT_GAP: "Look for the statement in between; if there is none, state control: balance.",
    RejectCode.LEDGER_ID_MISSING: _FILL,
    RejectCode.DEBIT_ACCOUNT_ID_MISSING: _FILL,
    RejectCode.CREDIT_ACCOUNT_ID_MISSING: _FILL,
    RejectCode.ACCOUNT_ID_MISSING: _FILL,
    RejectCode.ACCOUNT_UNMAPPED: "Write an account that the account map knows; a new account belongs into the map.",
    RejectCode.AMOUNT_MISSING: "Fill in the amount from the booking's document.",
    RejectCode.AMOUNT_MALFORMED: "Write the amount as plain digits with the decimal mark of the source definition.",
    RejectCode.AMOUNT_OUT_OF_RANGE: "Correct the amount: 20 digits before and 18 after the decimal mark fit.",
    RejectCode.AMOUNT_INEXACT: "Write the fraction that was really booked; its denominator is a power of ten.",
    RejectCode.AMOUNT_SIGN_UNCLEAR: "Write the sign as the definition states it, once, or state its way of writing.",
    RejectCode.AMOUNT_IN_AND_OUT: "Leave one of the two columns empty; state a text for nothing, such as 0.00.",
    RejectCode.AMOUNT_MINOR_UNIT_UNKNOWN: "State the decimals of the unit in the source definition, as minor_units: 2.",
    RejectCode.CURRENCY_CODE_MISSING: _FILL,
    RejectCode.ASSET_TYPE_MISSING: _FILL,
    RejectCode.TRANSACTION_TYPE_MISSING: _FILL,
    RejectCode.REFERENCE_ID_MISSING: "Fill in the reference that the bank gave this booking, and no other row's.",
    RejectCode.TIME_MISSING: "Fill in when the booking happened, in the format of the other rows.",
    RejectCode.TIME_MALFORMED: "Write the time in the format of the other rows, as a day that the calendar has.",
    RejectCode.TIME_ZONE_MISSING: "Write the time with its offset, such as +01:00.",
    RejectCode.TIME_ZONE_UNKNOWN: "Write an IANA name such as Europe/Paris into the column for the zone.",
    RejectCode.TIME_NONEXISTENT: "Ask when it happened: clocks went forward over this time; 02:30 may mean 03:30.",
    RejectCode.TIME_AMBIGUOUS: "Ask which of the two times is meant, and write one that is not doubled, or an offset.",
    RejectCode.FX_RATE_MALFORMED: "Write the rate as plain digits with the decimal mark of the source definition.",
    RejectCode.FX_RATE_OUT_OF_RANGE: "Correct the rate: 20 digits before and 18 after the decimal mark fit.",
    RejectCode.FX_RATE_INEXACT: "Write the rate that was applied as a decimal or as a fraction that is one.",
    RejectCode.TRANSACTION_ID_MISSING: "Fill in the id that the other rows of its transaction have.",
    RejectCode.LEG_AMOUNT_ZERO: "Write the amount that was booked, or let zero_legs filter rows that move nothing.",
    RejectCode.TRANSACTION_UNBALANCED: "Look for a row of it that is missing, doubled or has a wrong sign.",
    RejectCode.TRANSACTION_REFERENCE_REPEATED: "State references: numbered below transactions.",
    RejectCode.TRANSACTION_INCOMPLETE: "Correct the row that the reason names; this one is fine.",
    RejectCode.LOOKUP_MISSING: "Write a text that the lookup knows; a new one belongs into the lookup.",
    RejectCode.VALUE_UNMATCHED: "Write the text as the rule's regex expects it.",
    RejectCode.VALUE_MALFORMED: "Write the column as a number, or leave it empty.",
    RejectCode.RULE_REJECTED: "Correct what the rule objects to; its reason says what.",
    RejectCode.LEDGER_ID_TOO_LONG: _SHORTEN,
    RejectCode.DEBIT_ACCOUNT_ID_TOO_LONG: _SHORTEN,
    RejectCode.CREDIT_ACCOUNT_ID_TOO_LONG: _SHORTEN,
    RejectCode.SAME_ACCOUNT: "Write the other account on the wrong side, or leave a row that moves nothing as it is.",
    RejectCode.AMOUNT_NOT_POSITIVE: "Swap the two accounts and write the amount without its sign; zero moves nothing.",
    RejectCode.AMOUNT_TOO_MANY_DECIMALS: "Write the amount that was really booked, in the currency's minor unit.",
    RejectCode.CURRENCY_UNKNOWN: "Write the currency's ISO 4217 code in capitals.",
    RejectCode.ASSET_TYPE_UNKNOWN: "Write fiat, cbdc, commodity or security.",
    RejectCode.TRANSACTION_TYPE_TOO_LONG: _SHORTEN,
    RejectCode.REFERENCE_ID_TOO_LONG: _SHORTEN,
    RejectCode.TIME_OUT_OF_RANGE: "Correct the time: a year before 1900 or after 2199 is a wrong unit or a slip.",
    RejectCode.FX_RATE_NOT_POSITIVE: "Write the rate as it was applied, above zero.",
    RejectCode.CONFLICT: "Find out which of the two is right; if both happened, this one needs a reference of its own.",
    RejectCode.DUPLICATE_REFERENCE: "Leave it: the ledger has this entry already.",
    RejectCode.UNKNOWN_ACCOUNT: "Correct the account, or open it in the ledger and replay the row as it is.",
    RejectCode.CURRENCY_MISMATCH: "Correct the currency or the accounts: one of them must be in the entry's currency.",
    RejectCode.FX_RATE_MISSING: "Fill in the rate between the two accounts' currencies.",
    RejectCode.PERIOD_CLOSED: "Correct its time if that is wrong; else reopen the period, and replay the row as it is.",
    RejectCode.BALANCE_CONSTRAINT: "Post first what the account lacks, then replay the row as it is.",
}


def hint(code: str) -> str:
    """What to do about a row with this code; what the code means, where that says it already."""
    if code in _HINTS:
        return _HINTS[code]
    return RejectCode(code).description if code in RejectCode.__members__.values() else ""
