"""Rejects: the code of every way a row can fail, and the rows that tell a person about it.

Belongs here: codes, their stage and explanation, the REJECTS frame.
Does not: finding out that a row is bad (the stages do), storing rejects (`ledger/`).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.schemas.extracted import BYTE_LENGTH, BYTE_OFFSET, SOURCE_LINE, SOURCE_ROW, to_pandas
from backfill_pipeline.schemas.frames import REJECTS_SCHEMA


class Stage(StrEnum):
    """Where a row was found to be bad."""

    EXTRACT = "extract"
    TRANSFORM = "transform"
    VALIDATE = "validate"
    POST = "post"


class _Explanation(NamedTuple):
    stage: Stage
    description: str


class RejectCode(StrEnum):
    """Why a row was rejected. Codes are part of the product's interface: they are not renamed."""

    WRONG_FIELD_COUNT = "wrong_field_count"
    RECORD_MALFORMED = "record_malformed"
    QUOTE_UNTERMINATED = "quote_unterminated"
    RECORD_TOO_LONG = "record_too_long"
    ENCODING_INVALID = "encoding_invalid"
    NUL_BYTE = "nul_byte"
    STATEMENT_UNBALANCED = "statement_unbalanced"
    STATEMENT_GAP = "statement_gap"

    LEDGER_ID_MISSING = "ledger_id_missing"
    DEBIT_ACCOUNT_ID_MISSING = "debit_account_id_missing"
    CREDIT_ACCOUNT_ID_MISSING = "credit_account_id_missing"
    ACCOUNT_ID_MISSING = "account_id_missing"
    ACCOUNT_UNMAPPED = "account_unmapped"
    LOOKUP_MISSING = "lookup_missing"
    VALUE_UNMATCHED = "value_unmatched"
    VALUE_MALFORMED = "value_malformed"
    RULE_REJECTED = "rule_rejected"
    AMOUNT_MISSING = "amount_missing"
    AMOUNT_MALFORMED = "amount_malformed"
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"
    AMOUNT_INEXACT = "amount_inexact"
    AMOUNT_SIGN_UNCLEAR = "amount_sign_unclear"
    AMOUNT_IN_AND_OUT = "amount_in_and_out"
    AMOUNT_MINOR_UNIT_UNKNOWN = "amount_minor_unit_unknown"
    CURRENCY_CODE_MISSING = "currency_code_missing"
    ASSET_TYPE_MISSING = "asset_type_missing"
    TRANSACTION_TYPE_MISSING = "transaction_type_missing"
    REFERENCE_ID_MISSING = "reference_id_missing"
    TIME_MISSING = "time_missing"
    TIME_MALFORMED = "time_malformed"
    TIME_ZONE_MISSING = "time_zone_missing"
    TIME_ZONE_UNKNOWN = "time_zone_unknown"
    TIME_NONEXISTENT = "time_nonexistent"
    TIME_AMBIGUOUS = "time_ambiguous"
    FX_RATE_MALFORMED = "fx_rate_malformed"
    FX_RATE_OUT_OF_RANGE = "fx_rate_out_of_range"
    FX_RATE_INEXACT = "fx_rate_inexact"
    TRANSACTION_ID_MISSING = "transaction_id_missing"
    LEG_AMOUNT_ZERO = "leg_amount_zero"
    TRANSACTION_UNBALANCED = "transaction_unbalanced"
    TRANSACTION_REFERENCE_REPEATED = "transaction_reference_repeated"
    TRANSACTION_INCOMPLETE = "transaction_incomplete"

    LEDGER_ID_TOO_LONG = "ledger_id_too_long"
    DEBIT_ACCOUNT_ID_TOO_LONG = "debit_account_id_too_long"
    CREDIT_ACCOUNT_ID_TOO_LONG = "credit_account_id_too_long"
    SAME_ACCOUNT = "same_account"
    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    AMOUNT_TOO_MANY_DECIMALS = "amount_too_many_decimals"
    CURRENCY_UNKNOWN = "currency_unknown"
    ASSET_TYPE_UNKNOWN = "asset_type_unknown"
    TRANSACTION_TYPE_TOO_LONG = "transaction_type_too_long"
    REFERENCE_ID_TOO_LONG = "reference_id_too_long"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    FX_RATE_NOT_POSITIVE = "fx_rate_not_positive"

    CONFLICT = "conflict"
    DUPLICATE_REFERENCE = "duplicate_reference"
    UNKNOWN_ACCOUNT = "unknown_account"
    CURRENCY_MISMATCH = "currency_mismatch"
    FX_RATE_MISSING = "fx_rate_missing"
    PERIOD_CLOSED = "period_closed"
    BALANCE_CONSTRAINT = "balance_constraint"

    @property
    def stage(self) -> Stage:
        """The stage that gives this code."""
        return _EXPLANATIONS[self].stage

    @property
    def description(self) -> str:
        """One line for people: what it means and what to do."""
        return _EXPLANATIONS[self].description


def _explain(stage: Stage, texts: dict[RejectCode, str]) -> dict[RejectCode, _Explanation]:
    return {code: _Explanation(stage, text) for code, text in texts.items()}


_MISSING: Final = "the field is empty and the definition gives no default for it"
_TOO_LONG: Final = "the text is longer than the ledger's column"

_EXPLANATIONS: Final[dict[RejectCode, _Explanation]] = {
    **_explain(
        Stage.EXTRACT,
        {
            RejectCode.WRONG_FIELD_COUNT: "more or fewer fields than the header has; look for stray delimiters",
            RejectCode.RECORD_MALFORMED: "the record is not what its kind of file asks for; the reason says how",
            RejectCode.QUOTE_UNTERMINATED: "a quote is opened here and never closed; reading resumed at the next line",
            RejectCode.RECORD_TOO_LONG: "the line is longer than 1 MiB",
            RejectCode.ENCODING_INVALID: "bytes that the source's encoding does not know; check csv.encoding",
            RejectCode.NUL_BYTE: "the record holds a NUL byte, which no text in the ledger can hold",
            RejectCode.STATEMENT_UNBALANCED: "its statement does not lead from the opening to the closing balance",
            RejectCode.STATEMENT_GAP: "its statement does not begin with the closing balance of the one before",
        },
    ),
    **_explain(
        Stage.TRANSFORM,
        {
            RejectCode.LEDGER_ID_MISSING: _MISSING,
            RejectCode.DEBIT_ACCOUNT_ID_MISSING: _MISSING,
            RejectCode.CREDIT_ACCOUNT_ID_MISSING: _MISSING,
            RejectCode.ACCOUNT_ID_MISSING: _MISSING,
            RejectCode.ACCOUNT_UNMAPPED: "not in the account map; add it, or set account_map.missing to keep",
            RejectCode.LOOKUP_MISSING: "not in the lookup; add it, or give the lookup missing: keep or a default",
            RejectCode.VALUE_UNMATCHED: "the text does not match the regex of its rule, which says unmatched: reject",
            RejectCode.VALUE_MALFORMED: "a rule compares this column with a number, and it holds none",
            RejectCode.RULE_REJECTED: "a rule of the definition rejects such rows; the reason is the rule's own",
            RejectCode.AMOUNT_MISSING: "the amount is empty",
            RejectCode.AMOUNT_MALFORMED: "no plain decimal number; marks other than the point must be stated",
            RejectCode.AMOUNT_OUT_OF_RANGE: "the amount has more than 20 digits before or 18 after the point",
            RejectCode.AMOUNT_INEXACT: "the fraction is no decimal with at most 18 places; amounts are never rounded",
            RejectCode.AMOUNT_SIGN_UNCLEAR: "the sign is none that the definition states, or is told twice",
            RejectCode.AMOUNT_IN_AND_OUT: "both columns, that for money in and that for money out, are filled",
            RejectCode.AMOUNT_MINOR_UNIT_UNKNOWN: "ISO 4217 knows no minor unit of the currency; state a number",
            RejectCode.CURRENCY_CODE_MISSING: _MISSING,
            RejectCode.ASSET_TYPE_MISSING: _MISSING,
            RejectCode.TRANSACTION_TYPE_MISSING: _MISSING,
            RejectCode.REFERENCE_ID_MISSING: "empty; without a reference an entry cannot be posted exactly once",
            RejectCode.TIME_MISSING: "the time is empty; it is never taken as now",
            RejectCode.TIME_MALFORMED: "not written in the stated format, or no date of the calendar",
            RejectCode.TIME_ZONE_MISSING: "the time has no offset and the definition names no timezone",
            RejectCode.TIME_ZONE_UNKNOWN: "the column for the time zone holds no IANA name",
            RejectCode.TIME_NONEXISTENT: "the local time was skipped when clocks went forward",
            RejectCode.TIME_AMBIGUOUS: "the local time happened twice when clocks went back; an offset is needed",
            RejectCode.FX_RATE_MALFORMED: "no plain decimal number; marks other than the point must be stated",
            RejectCode.FX_RATE_OUT_OF_RANGE: "the rate has more than 20 digits before or 18 after the point",
            RejectCode.FX_RATE_INEXACT: "the fraction is no decimal with at most 18 places; rates are never rounded",
            RejectCode.TRANSACTION_ID_MISSING: "a column of the transaction's id is empty; a leg belongs to one",
            RejectCode.LEG_AMOUNT_ZERO: "the leg moves nothing, and transactions.zero_legs is reject",
            RejectCode.TRANSACTION_UNBALANCED: "the legs of its transaction do not sum to zero; all are rejected",
            RejectCode.TRANSACTION_REFERENCE_REPEATED: "two entries of its transaction would get one reference",
            RejectCode.TRANSACTION_INCOMPLETE: "another row of its transaction is rejected; so all of it is",
        },
    ),
    **_explain(
        Stage.VALIDATE,
        {
            RejectCode.LEDGER_ID_TOO_LONG: _TOO_LONG,
            RejectCode.DEBIT_ACCOUNT_ID_TOO_LONG: _TOO_LONG,
            RejectCode.CREDIT_ACCOUNT_ID_TOO_LONG: _TOO_LONG,
            RejectCode.SAME_ACCOUNT: "the same account is debited and credited, which moves nothing",
            RejectCode.AMOUNT_NOT_POSITIVE: "zero or negative; the direction is told by the two accounts",
            RejectCode.AMOUNT_TOO_MANY_DECIMALS: "finer than the currency's minor unit; amounts are never rounded",
            RejectCode.CURRENCY_UNKNOWN: "the currency is not a code of ISO 4217",
            RejectCode.ASSET_TYPE_UNKNOWN: "the asset type is none of fiat, cbdc, commodity, security",
            RejectCode.TRANSACTION_TYPE_TOO_LONG: _TOO_LONG,
            RejectCode.REFERENCE_ID_TOO_LONG: _TOO_LONG,
            RejectCode.TIME_OUT_OF_RANGE: "the time lies before 1900 or after 2199; look for a wrong unit or epoch",
            RejectCode.FX_RATE_NOT_POSITIVE: "the rate is zero or negative",
        },
    ),
    **_explain(
        Stage.POST,
        {
            RejectCode.CONFLICT: "the ledger holds this reference with another payload, or its transaction in another"
            " form; nothing is changed",
            RejectCode.DUPLICATE_REFERENCE: "the ledger holds this very entry already, and skip_duplicates is off",
            RejectCode.UNKNOWN_ACCOUNT: "an account is not in the ledger; add it, or set unknown_accounts: create",
            RejectCode.CURRENCY_MISMATCH: "neither account is in the currency of the entry",
            RejectCode.FX_RATE_MISSING: "an account is in another currency than the entry, which has no fx_rate",
            RejectCode.PERIOD_CLOSED: "its time lies in a month of its ledger that is closed",
            RejectCode.BALANCE_CONSTRAINT: "posting it would break a balance constraint that is applied",
        },
    ),
}


class RawTextReader(Protocol):
    """What can give the text of records again; every `SourceReader` can."""

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """The text of the records at these byte offsets."""
        ...


def build_rejects(
    failures: pd.DataFrame, extracted: pd.DataFrame | pa.Table, reader: RawTextReader
) -> pd.DataFrame:
    """Failures as rows for people, with line, offset and raw text.

    Args:
        failures: FAILURES_SCHEMA; every source_row is in `extracted`.
        extracted: the reserved columns of EXTRACTED of the same chunk, ordered by source row.
        reader: of the same source; only the records concerned are read again.

    Returns:
        REJECTS_SCHEMA, Arrow-backed, in the order of `failures`.

    Raises:
        SourceFileError: the source is not readable any more.
    """
    places = {
        name: np.asarray(extracted[name], dtype=np.int64)
        for name in (SOURCE_ROW, SOURCE_LINE, BYTE_OFFSET, BYTE_LENGTH)
    }
    rows = failures["source_row"].to_numpy()
    at = np.searchsorted(places[SOURCE_ROW], rows)
    if len(rows) and not (
        at.max() < len(places[SOURCE_ROW]) and np.array_equal(places[SOURCE_ROW][at], rows)
    ):
        raise ValueError("failures and extracted are not of the same chunk")
    offsets, lengths = places[BYTE_OFFSET][at], places[BYTE_LENGTH][at]
    columns = {
        "source_row": pa.array(rows, pa.int64()),
        "source_line": pa.array(places[SOURCE_LINE][at], pa.int64()),
        "byte_offset": pa.array(offsets, pa.int64()),
        **{
            name: pc.cast(pa.array(failures[name]), pa.string())
            for name in ("stage", "code", "field", "reason")
        },
        "raw": pa.array(reader.raw_text(offsets.tolist(), lengths.tolist()), pa.string()),
    }
    return to_pandas(pa.table([columns[name] for name in REJECTS_SCHEMA.names], schema=REJECTS_SCHEMA))
