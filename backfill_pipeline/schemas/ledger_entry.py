"""The frames of ledger entries, and what an entry must be before it may be posted.

Belongs here: the ENTRY and VALIDATED schemas, the checks of single rows, and turning failed checks into failures.
Does not: conversions (`mapping/transform.py`), checks that need the ledger (unknown accounts, duplicates), columns as
people see them (`columns.py`).

The checks are one table; the pandera schema and the reasons are both made from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Final

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
from pandera.errors import SchemaErrors

from backfill_pipeline.money import currency_codes, currency_decimals, plain_text
from backfill_pipeline.schemas.extracted import to_arrow, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, FAILURES_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.rejects import RejectCode, Stage
from backfill_pipeline.schemas.row_errors import (
    SHOWN_CHARACTERS,
    Positions,
    RowErrors,
    combined,
    positions_of,
)

LENGTH_MAX: Final = {
    "ledger_id": 64,
    "debit_account_id": 255,
    "credit_account_id": 255,
    "transaction_type": 64,
    "reference_id": 255,
}
"""Characters that the ledger's columns hold."""

ASSET_TYPES: Final = ("fiat", "cbdc", "commodity", "security")
TIME_FIRST: Final = datetime(1900, 1, 1, tzinfo=UTC)
TIME_END: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Event times lie in [TIME_FIRST, TIME_END): outside, a unit or an epoch was mistaken."""

_SAME_ACCOUNT: Final = "__same_account"
_EXCESS_DECIMALS: Final = "__excess_decimals"


@dataclass(frozen=True, slots=True)
class Validation:
    """What validation made of a chunk: valid, failed and filtered rows add up to the rows that came in.

    Attributes:
        valid: VALIDATED_SCHEMA, Arrow-backed, in source order.
        failures: FAILURES_SCHEMA, Arrow-backed, one row per bad row, in source order.
        filtered: reason → rows that the definition leaves out for it.
    """

    valid: pd.DataFrame
    failures: pd.DataFrame
    filtered: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Check:
    """One rule of a column. `passes` sees the column; `reason` words the failing rows of the frame; `rule` is what must
    hold of `field`, in a few words, for people who look at the schema.
    """

    code: RejectCode
    field: str
    column: str
    rule: str
    passes: Callable[[pd.Series], pd.Series]
    reason: Callable[[pa.Table], pa.Array]


def validate(frame: pd.DataFrame) -> Validation:
    """Tells good entries from bad and from filtered ones. No row is lost and none is changed.

    Args:
        frame: ENTRY_SCHEMA, Arrow-backed, ordered by source_row.

    Returns:
        Good rows, and one failure for each bad one: the first failing field gives code and field, the reasons of all
        are joined by "; ". Filtered rows are only counted.

    Raises:
        pyarrow.ArrowInvalid: the frame does not have the columns of ENTRY_SCHEMA.
    """
    table, filtered = _without_filtered(to_arrow(frame, ENTRY_SCHEMA))
    converted = pc.is_null(table["error_code"])
    bad = pc.any(pc.invert(converted)).as_py()
    entries = (table.filter(converted) if bad else table).select(VALIDATED_SCHEMA.names)
    failed = _failed_checks(entries)
    failures = [_describe(entries, failed)] if failed else []
    if bad:
        failures.append(_conversion_failures(table.filter(pc.invert(converted))))
    if failed:
        passed = np.ones(entries.num_rows, dtype=bool)
        for positions in failed.values():
            passed[positions] = False
        entries = entries.filter(pa.array(passed))
    described = (
        pa.concat_tables(failures).sort_by("source_row") if failures else FAILURES_SCHEMA.empty_table()
    )
    return Validation(to_pandas(entries.cast(VALIDATED_SCHEMA)), to_pandas(described), filtered)


def failing(entries: pa.Table) -> Positions:
    """Which entries `validate` would turn down, by position, ascending.

    Args:
        entries: the columns of VALIDATED_SCHEMA, converted without an error.
    """
    if entries.num_rows == 0:
        return np.zeros(0, dtype=np.int64)
    frame = to_pandas(_with_facts(entries.select(VALIDATED_SCHEMA.names)))
    bad = np.zeros(entries.num_rows, dtype=bool)
    for check in _CHECKS:  # no report is wanted, so pandera has nothing to add
        bad |= pc.fill_null(pc.invert(pa.array(check.passes(frame[check.column]))), False).to_numpy(
            zero_copy_only=False
        )
    return np.flatnonzero(bad)


def _without_filtered(table: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """The rows that are not left out, and how many are, by reason."""
    reasons = table["filter_reason"]
    if reasons.null_count == table.num_rows:
        return table, {}
    counts = pc.value_counts(pc.drop_null(reasons)).to_pylist()
    filtered = {one["values"]: one["counts"] for one in counts}
    return table.filter(pc.is_null(reasons)), dict(sorted(filtered.items()))


def _failed_checks(entries: pa.Table) -> dict[int, Positions]:
    """Number of the check → positions of the rows that fail it, ascending."""
    if entries.num_rows == 0:
        return {}
    frame = to_pandas(_with_facts(entries))
    try:
        entry_checks().validate(frame, lazy=True)
    except SchemaErrors as errors:
        # Pandera says which checks fail, with one example each; asked for all rows, it writes every failing value into
        # one text, 9 s and megabytes at a million bad rows. The rows come from the checks' own functions, in 0.01 s.
        failing = set(errors.failure_cases["check"].astype(str))
    else:
        return {}
    if unexpected := failing - {check.code.value for check in _CHECKS}:
        raise AssertionError(f"the ENTRY frame breaks its own schema: {', '.join(sorted(unexpected))}")
    return {
        number: positions_of(pc.invert(pa.array(check.passes(frame[check.column]))))
        for number, check in enumerate(_CHECKS)
        if check.code.value in failing
    }


def _with_facts(entries: pa.Table) -> pa.Table:
    """The entries with what checks need from two columns at once."""
    same = pc.equal(entries["debit_account_id"], entries["credit_account_id"])
    table = entries.append_column(_SAME_ACCOUNT, same)
    return table.append_column(_EXCESS_DECIMALS, excess_decimals(entries))


def _decimals_allowed(entries: pa.Table) -> pa.ChunkedArray:
    """Minor units of each row's currency, int8; null where the currency is unknown or has none."""
    places = pc.index_in(entries["currency_code"], value_set=currency_codes())
    return pc.take(currency_decimals(), places)


def excess_decimals(entries: pa.Table) -> pa.ChunkedArray | pa.Array:
    """Whether the amount is finer than its currency's minor unit. Trailing zeros do not count: JPY 10.00 is fine.

    Args:
        entries: a table with currency_code, amount and amount_scale.

    Returns:
        bool per row, never null; false for currencies that are unknown or have no minor unit.
    """
    allowed = _decimals_allowed(entries)
    written = pc.fill_null(pc.greater(entries["amount_scale"], allowed), False)
    if not pc.any(written).as_py():  # the usual case, told by two comparisons of small integers
        return written
    # By their digits: Arrow (26.0) rounds some amounts above 2^62 wrongly, whole ones to others.
    text = plain_text(combined(entries["amount"].filter(written)))
    point = pc.find_substring(text, ".")
    decimals = pc.if_else(pc.less(point, 0), 0, pc.subtract(pc.binary_length(text), pc.add(point, 1)))
    excess = np.zeros(entries.num_rows, dtype=bool)
    excess[positions_of(written)] = pc.greater(decimals, pc.filter(allowed, written)).to_numpy(
        zero_copy_only=False
    )
    return pa.array(excess)


def _describe(entries: pa.Table, failed: dict[int, Positions]) -> pa.Table:
    """One failure per row out of all failed checks, which come in the order of the checks."""
    errors = RowErrors()
    for number, positions in failed.items():
        check = _CHECKS[number]
        errors.add(positions, check.code, check.field, check.reason(entries.take(pa.array(positions))))
    rows, code, field, reason = errors.merged()
    source_row = combined(entries["source_row"].take(pa.array(rows)))
    stage = pa.repeat(pa.scalar(Stage.VALIDATE.value), len(rows))
    return pa.table([source_row, stage, code, field, reason], schema=FAILURES_SCHEMA)


def _conversion_failures(table: pa.Table) -> pa.Table:
    """Failures of rows that the reader or the transform has given an error."""
    extract_codes = pa.array([code.value for code in RejectCode if code.stage is Stage.EXTRACT])
    from_reader = pc.is_in(table["error_code"], value_set=extract_codes)
    stage = pc.if_else(from_reader, Stage.EXTRACT.value, Stage.TRANSFORM.value)
    columns = [table["source_row"], stage, table["error_code"], table["error_field"], table["error_reason"]]
    return pa.table([combined(column) for column in columns], schema=FAILURES_SCHEMA)


# --- the checks -------------------------------------------------------------------------------------------------


def _quoted(table: pa.Table, column: str) -> pa.Array:
    """The column's text in double quotes, cut to what fits on a line."""
    text = pc.utf8_slice_codeunits(pc.cast(combined(table[column]), pa.string()), 0, SHOWN_CHARACTERS)
    return pc.binary_join_element_wise('"', text, '"', "")


def _says(*parts: str | Callable[[pa.Table], pa.Array]) -> Callable[[pa.Table], pa.Array]:
    """A reason made of fixed text and columns. Without columns, the text is repeated."""

    def word(table: pa.Table) -> pa.Array:
        pieces = [part if isinstance(part, str) else part(table) for part in parts]
        if all(isinstance(piece, str) for piece in pieces):
            return pa.repeat(pa.scalar("".join(map(str, pieces))), table.num_rows)
        return pc.binary_join_element_wise(*pieces, "")

    return word


def _too_long(field: str) -> _Check:
    limit = LENGTH_MAX[field]
    return _Check(
        RejectCode(f"{field}_too_long"),
        field,
        field,
        f"at most {limit} characters",
        lambda column: column.str.len() <= limit,
        _says(
            f"{field} has ",
            lambda table: pc.cast(pc.utf8_length(combined(table[field])), pa.string()),
            f" characters, at most {limit} fit",
        ),
    )


def _not_empty(field: str) -> _Check:
    return _Check(
        RejectCode(f"{field}_missing"),
        field,
        field,
        "not empty",
        lambda column: column != "",
        _says(f"{field} is empty"),
    )


def _positive(field: str) -> _Check:
    return _Check(
        RejectCode(f"{field}_not_positive"),
        field,
        field,
        "above 0",
        lambda column: column > Decimal(0),
        _says(f"{field} ", lambda table: plain_text(combined(table[field])), " is not above zero"),
    )


_CHECKS: Final[tuple[_Check, ...]] = (
    _not_empty("ledger_id"),
    _too_long("ledger_id"),
    _not_empty("debit_account_id"),
    _too_long("debit_account_id"),
    _not_empty("credit_account_id"),
    _too_long("credit_account_id"),
    _Check(
        RejectCode.SAME_ACCOUNT,
        "credit_account_id",
        _SAME_ACCOUNT,
        "not the debit account",
        lambda column: ~column,
        _says("debit and credit account are both ", lambda table: _quoted(table, "debit_account_id")),
    ),
    _positive("amount"),
    _Check(
        RejectCode.AMOUNT_TOO_MANY_DECIMALS,
        "amount",
        _EXCESS_DECIMALS,
        "no finer than the minor unit of its currency",
        lambda column: ~column,
        _says(
            "amount ",
            lambda table: plain_text(combined(table["amount"])),
            " is too fine: ",
            lambda table: combined(table["currency_code"]),
            " has ",
            lambda table: pc.cast(combined(_decimals_allowed(table)), pa.string()),
            " decimals",
        ),
    ),
    _Check(
        RejectCode.CURRENCY_UNKNOWN,
        "currency_code",
        "currency_code",
        "a code of ISO 4217",
        lambda column: column.isin(currency_codes().to_pylist()),
        _says("currency ", lambda table: _quoted(table, "currency_code"), " is not in ISO 4217"),
    ),
    _Check(
        RejectCode.ASSET_TYPE_UNKNOWN,
        "asset_type",
        "asset_type",
        f"one of {', '.join(ASSET_TYPES)}",
        lambda column: column.isin(ASSET_TYPES),
        _says(
            "asset type ",
            lambda table: _quoted(table, "asset_type"),
            f" is unknown: allowed are {', '.join(ASSET_TYPES)}",
        ),
    ),
    _not_empty("transaction_type"),
    _too_long("transaction_type"),
    _not_empty("reference_id"),
    _too_long("reference_id"),
    _Check(
        RejectCode.TIME_OUT_OF_RANGE,
        "timestamp_utc",
        "timestamp_utc",
        f"from {TIME_FIRST:%Y-%m-%d}, before {TIME_END:%Y-%m-%d}",
        lambda column: (column >= TIME_FIRST) & (column < TIME_END),
        _says(
            "time ",
            lambda table: pc.cast(pc.cast(combined(table["timestamp_utc"]), pa.timestamp("us")), pa.string()),
            f"Z is not between {TIME_FIRST.year} and {TIME_END.year - 1}",
        ),
    ),
    _positive("fx_rate"),
)
"""In the order of the fields: the first failing one gives a row its code."""

_NULLABLE: Final = ("fx_rate", "fx_rate_scale", "metadata")

_MEANINGS: Final = {
    "source_row": "number of the record in the source, from 1; the header is not counted",
    "ledger_id": "the ledger that the entry is in",
    "debit_account_id": "the account that is debited",
    "credit_account_id": "the account that is credited",
    "amount": "what is moved, exactly, in units of the currency",
    "amount_scale": "decimals of the amount as the source wrote it",
    "currency_code": "the currency of the amount",
    "asset_type": "what kind of thing is moved",
    "transaction_type": "what kind of posting it is",
    "reference_id": "what the entry is called; an entry is posted once under it",
    "timestamp_utc": "when it happened, in UTC",
    "fx_rate": "the rate of exchange, where there is one",
    "fx_rate_scale": "decimals of the rate as the source wrote it",
    "metadata": "further columns of the source, as a JSON object",
}
"""What each column of an entry is, for people."""


@cache
def entry_checks() -> pandera.DataFrameSchema:
    """The pandera schema of converted entries, made from the checks. Nothing is coerced."""
    types = {field.name: field.type for field in VALIDATED_SCHEMA}
    types |= {_SAME_ACCOUNT: pa.bool_(), _EXCESS_DECIMALS: pa.bool_()}
    columns = {
        name: pandera.Column(
            pd.ArrowDtype(kind),
            checks=[
                pandera.Check(
                    check.passes,
                    name=check.code.value,
                    error=check.code.value,
                    n_failure_cases=1,
                    description=check.rule,
                )
                for check in _CHECKS
                if check.column == name
            ],
            nullable=name in _NULLABLE,
            description=_MEANINGS.get(name),
        )
        for name, kind in types.items()
    }
    return pandera.DataFrameSchema(columns, strict=True, coerce=False, name="ledger entries")


def checked_fields() -> dict[str, str]:
    """Code of a check → the field that it is about; checks about two fields are made on a column of their own."""
    return {check.code.value: check.field for check in _CHECKS}
