"""The frames between the stages, as Arrow schemas: names, types, nullability.

Belongs here: the schemas of entries, failures and rejects, and nothing that needs more than Arrow.
Does not: the EXTRACTED frame (`extracted.py`), checks (`ledger_entry.py`), codes (`rejects.py`).
"""

import pyarrow as pa

from backfill_pipeline.money import AMOUNT_TYPE

TIMESTAMP_TYPE = pa.timestamp("us", tz="UTC")

VALIDATED_SCHEMA = pa.schema(
    [
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("ledger_id", pa.string()),
        pa.field("debit_account_id", pa.string()),
        pa.field("credit_account_id", pa.string()),
        pa.field("amount", AMOUNT_TYPE),
        pa.field("amount_scale", pa.int8()),
        pa.field("currency_code", pa.string()),
        pa.field("asset_type", pa.string()),
        pa.field("transaction_type", pa.string()),
        pa.field("reference_id", pa.string()),
        pa.field("timestamp_utc", TIMESTAMP_TYPE),
        pa.field("fx_rate", AMOUNT_TYPE),
        pa.field("fx_rate_scale", pa.int8()),
        pa.field("metadata", pa.string()),
    ]
)
"""Entries. Only fx_rate, fx_rate_scale and metadata are ever null in a validated frame.

`amount_scale` is the number of decimals that the source wrote ("10.00" → 2), so that amounts come back as they went in.
"""

ERROR_FIELDS: tuple[pa.Field, ...] = (
    pa.field("error_code", pa.string()),
    pa.field("error_field", pa.string()),
    pa.field("error_reason", pa.string()),
)

ENTRY_SCHEMA = pa.schema([*VALIDATED_SCHEMA, *ERROR_FIELDS, pa.field("filter_reason", pa.string())])
"""Transformed rows: good, bad and filtered.

Where error_code is set, the row could not be converted and may hold nulls. Where filter_reason is set, a rule of the
definition leaves the row out on purpose, or another row carries what it is part of; it has no error then, and only
ledger_id and reference_id mean something: what its entry would be called.
"""

FAILURES_SCHEMA = pa.schema(
    [
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""One row per bad row: what was wrong with it, by source row."""

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("source_line", pa.int64(), nullable=False),
        pa.field("byte_offset", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw", pa.string(), nullable=False),
    ]
)
"""The rejects table and CSV: a failure with where it is in the source and the record's own text."""

STATED_SCHEMA = pa.schema(
    [
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("source_line", pa.int64(), nullable=False),
        pa.field("account_id", pa.string()),
        pa.field("balance", AMOUNT_TYPE),
        pa.field("balance_scale", pa.int8()),
        pa.field("side", pa.string()),
        pa.field("problem", pa.string()),
    ]
)
"""Balances that rows of a source state. Where `problem` is set, the balance or its account cannot be read.

`side` is debit or credit: on which a balance above zero stands; null for the account's normal side.
"""
