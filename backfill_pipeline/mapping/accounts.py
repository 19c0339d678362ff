"""Accounts and opening balances of a source: what must be in the ledger before its first entry.

Belongs here: reading the accounts file, and turning opening balances into ordinary entries against equity.
Does not: writing accounts (`ledger/`).

A mistake in the accounts file stops the source: history posted on wrong opening balances would be wrong throughout.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.accounts import CURRENCY_PLACEHOLDER, Accounts, Opening
from backfill_pipeline.definition.fields import rule_columns
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.mapping.amounts import Numbers, read_numbers
from backfill_pipeline.mapping.lookups import read_lookups, read_small_file
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.mapping.text import compile_text
from backfill_pipeline.money import AMOUNT_TYPE, currency_codes, plain_text
from backfill_pipeline.schemas.extracted import SOURCE_LINE, SOURCE_ROW
from backfill_pipeline.schemas.frames import TIMESTAMP_TYPE, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import ASSET_TYPES, LENGTH_MAX, excess_decimals
from backfill_pipeline.schemas.row_errors import Positions, positions_of

ACCOUNT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("currency_code", pa.string(), nullable=False),
        pa.field("asset_type", pa.string(), nullable=False),
        pa.field("normal_side", pa.string(), nullable=False),
        pa.field("opening_balance", AMOUNT_TYPE),
        pa.field("opening_scale", pa.int8()),
    ]
)
"""Accounts; normal_side is "debit" or "credit", opening_balance null where the source states none."""

SIDES: Final = ("debit", "credit")
OPENING_PREFIX: Final = "OPENING-"
EQUITY_ASSET_TYPE: Final = "fiat"
PROBLEMS_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class AccountBook:
    """The accounts of a source.

    Attributes:
        accounts: ACCOUNT_SCHEMA, in the order of the file.
        equity_accounts: ACCOUNT_SCHEMA, credit-normal, one per currency that has an opening entry; not in `accounts`.
        opening_entries: VALIDATED_SCHEMA; source_row is the row of the account in its own file.
    """

    accounts: pa.Table
    equity_accounts: pa.Table
    opening_entries: pa.Table


def read_accounts(definition: SourceDefinition) -> AccountBook | None:
    """Reads the accounts of a source; None when its definition has no accounts section.

    Raises:
        SourceFileError: the file is missing, or rows are wrong: names file, lines, values (three, and how many more).
    """
    section = definition.accounts
    if section is None:
        return None
    needed = {
        column: f"accounts.fields.{name}"
        for name, rule in section.fields.rules().items()
        for column in rule_columns(rule)
    }
    rows = Rows(read_small_file(section.file, section.csv, needed))
    accounts = _read_columns(rows, section, definition)
    _check(rows, accounts)
    opening = section.opening
    opened = positions_of(pc.not_equal(accounts["opening_balance"], 0))
    equity = accounts.slice(0, 0)
    entries = VALIDATED_SCHEMA.empty_table()
    if opening is not None and len(opened):
        entries = _opening_entries(rows, accounts.take(pa.array(opened)), opened, opening)
        equity = _equity_accounts(accounts.take(pa.array(opened)), opening)
        clash = positions_of(pc.is_in(accounts["id"], value_set=equity["id"].combine_chunks()))
        rows.errors.add_where(
            _mask(len(rows), clash),
            "equity",
            "id",
            "account",
            accounts["id"].combine_chunks(),
            "is an equity account",
        )
    _raise_problems(rows, section)
    return AccountBook(accounts, equity, entries)


def _read_columns(rows: Rows, section: Accounts, definition: SourceDefinition) -> pa.Table:
    lookups = read_lookups(definition)
    fields = section.fields
    texts = {
        name: compile_text(getattr(fields, name), name, lookups, f"{name}_missing")(rows)
        for name in ("id", "currency_code", "asset_type", "normal_side")
    }
    texts["normal_side"] = pc.utf8_lower(texts["normal_side"])
    if fields.opening_balance is None:
        balances = Numbers(pa.nulls(len(rows), AMOUNT_TYPE), pa.nulls(len(rows), pa.int8()))
    else:
        balances = read_numbers(
            rows, fields.opening_balance, "opening_balance", None, lambda: texts["currency_code"]
        )
    schema = pa.schema([field.with_nullable(True) for field in ACCOUNT_SCHEMA])
    return pa.table([*texts.values(), balances.values, balances.scales], schema=schema)


def _check(rows: Rows, accounts: pa.Table) -> None:
    """Adds what is wrong with accounts to the rows' errors."""
    columns = {name: accounts[name].combine_chunks() for name in accounts.column_names}
    ids, currencies = columns["id"], columns["currency_code"]
    longest = LENGTH_MAX["debit_account_id"]
    balances = pa.table(
        [currencies, columns["opening_balance"], columns["opening_scale"]],
        names=["currency_code", "amount", "amount_scale"],
    )
    text_of_balance = plain_text(columns["opening_balance"])
    has_opening = pc.fill_null(pc.not_equal(columns["opening_balance"], 0), False)
    reference_room = LENGTH_MAX["reference_id"] - len(OPENING_PREFIX)
    for bad, field, values, words in (
        (_repeated(ids), "id", ids, "is given more than once"),
        (pc.greater(pc.utf8_length(ids), longest), "id", ids, f"is longer than {longest} characters"),
        (
            pc.and_(has_opening, pc.greater(pc.utf8_length(ids), reference_room)),
            "id",
            ids,
            f"is longer than {reference_room} characters, too long for the reference of its opening entry",
        ),
        (_unknown(currencies, currency_codes()), "currency_code", currencies, "is not in ISO 4217"),
        (
            _unknown(columns["asset_type"], pa.array(ASSET_TYPES)),
            "asset_type",
            columns["asset_type"],
            "is unknown",
        ),
        (
            _unknown(columns["normal_side"], pa.array(SIDES)),
            "normal_side",
            columns["normal_side"],
            "is neither debit nor credit",
        ),
        (
            excess_decimals(balances),
            "opening_balance",
            text_of_balance,
            "has more decimals than its currency",
        ),
    ):
        rows.errors.add_where(bad, "account", field, field, values, words)


def _unknown(values: pa.Array, known: pa.Array) -> pa.Array:
    """Where a value is written but not among the known ones."""
    written = pc.fill_null(pc.not_equal(values, ""), False)
    return pc.and_not(written, pc.is_in(values, value_set=known))


def _repeated(ids: pa.Array) -> pa.Array:
    """Every occurrence of an identifier after its first; empty ones are another error."""
    encoded = ids.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    first = np.zeros(len(ids), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return pc.and_(pa.array(~first), pc.fill_null(pc.not_equal(ids, ""), False))


def _opening_entries(rows: Rows, accounts: pa.Table, positions: Positions, opening: Opening) -> pa.Table:
    """One entry per opening balance that is not zero, so that it raises or lowers the account by exactly that."""
    count = accounts.num_rows
    balance = accounts["opening_balance"].combine_chunks()
    equity = _equity_ids(accounts["currency_code"].combine_chunks(), opening)
    ids = accounts["id"].combine_chunks()
    raises = pc.greater(balance, 0)
    debits_raise = pc.equal(accounts["normal_side"].combine_chunks(), "debit")
    debit_account = pc.equal(raises, debits_raise)
    columns = {
        "source_row": rows.table[SOURCE_ROW].take(pa.array(positions)).combine_chunks(),
        "ledger_id": pa.repeat(pa.scalar(opening.ledger_id), count),
        "debit_account_id": pc.if_else(debit_account, ids, equity),
        "credit_account_id": pc.if_else(debit_account, equity, ids),
        "amount": pc.abs(balance),
        "amount_scale": accounts["opening_scale"].combine_chunks(),
        "currency_code": accounts["currency_code"].combine_chunks(),
        "asset_type": accounts["asset_type"].combine_chunks(),
        "transaction_type": pa.repeat(pa.scalar(opening.transaction_type), count),
        "reference_id": pc.binary_join_element_wise(OPENING_PREFIX, ids, ""),
        "timestamp_utc": pa.repeat(pa.scalar(opening.as_of, TIMESTAMP_TYPE), count),
        "fx_rate": pa.nulls(count, AMOUNT_TYPE),
        "fx_rate_scale": pa.nulls(count, pa.int8()),
        "metadata": pa.nulls(count, pa.string()),
    }
    return pa.table([columns[name] for name in VALIDATED_SCHEMA.names], schema=VALIDATED_SCHEMA)


def _equity_ids(currencies: pa.Array, opening: Opening) -> pa.Array:
    before, after = opening.equity_account_id.split(CURRENCY_PLACEHOLDER, maxsplit=1)
    ids = pc.binary_join_element_wise(before, currencies, after, "")
    return ids if CURRENCY_PLACEHOLDER not in after else pc.replace_substring(ids, CURRENCY_PLACEHOLDER, "")


def _equity_accounts(accounts: pa.Table, opening: Opening) -> pa.Table:
    currencies = pc.unique(accounts["currency_code"].combine_chunks())
    currencies = currencies.take(pc.sort_indices(currencies))
    count = len(currencies)
    return pa.table(
        [
            _equity_ids(currencies, opening),
            currencies,
            pa.repeat(pa.scalar(EQUITY_ASSET_TYPE), count),
            pa.repeat(pa.scalar("credit"), count),
            pa.nulls(count, AMOUNT_TYPE),
            pa.nulls(count, pa.int8()),
        ],
        schema=accounts.schema,
    )


def _mask(count: int, positions: Positions) -> pa.Array:
    mask = np.zeros(count, dtype=bool)
    mask[positions] = True
    return pa.array(mask)


def _raise_problems(rows: Rows, section: Accounts) -> None:
    if not rows.errors:
        return
    positions, _, _, reasons = rows.errors.merged()
    lines = rows.table[SOURCE_LINE].to_numpy()[positions[:PROBLEMS_SHOWN]]
    shown = "; ".join(
        f"line {line}: {reason}"
        for line, reason in zip(lines, reasons[:PROBLEMS_SHOWN].to_pylist(), strict=True)
    )
    more = len(positions) - PROBLEMS_SHOWN
    raise SourceFileError(
        f"{section.file}: {shown}{f'; and {more} more lines' if more > 0 else ''}: correct the file."
    )
