"""Stated balances, compiled: what the rows of a chunk say that accounts hold after them.

Belongs here: reading them, and what is wrong with those that cannot be read.
Does not: what the ledger says (`ledger/history/running_balances.py`), comparing (`stages/stated.py`).

A stated balance is no part of an entry. One that cannot be read rejects nothing: it is reported.
"""

from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.stated_balances import StatedBalance
from backfill_pipeline.mapping.amounts import read_numbers
from backfill_pipeline.mapping.lookups import Lookups
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.mapping.text import TextCompiled, compile_text
from backfill_pipeline.schemas.extracted import SOURCE_LINE, SOURCE_ROW
from backfill_pipeline.schemas.frames import STATED_SCHEMA
from backfill_pipeline.schemas.row_errors import RowErrors

_BALANCE: Final = "stated balance"
_ACCOUNT: Final = "account of the stated balance"


class CompiledStatedBalances:
    """The stated balances of a definition. Use `read` once per chunk, after derived columns and rules."""

    def __init__(self, stated: tuple[StatedBalance, ...], lookups: Lookups) -> None:
        self._stated: list[tuple[StatedBalance, TextCompiled]] = [
            (one, compile_text(one.account, _ACCOUNT, lookups, "missing")) for one in stated
        ]

    def read(self, rows: Rows, currency: Callable[[], pa.Array]) -> pa.Table:
        """What the rows state.

        Args:
            rows: the chunk, with its derived columns; its errors are left as they are.
            currency: of each row, for balances in minor units.

        Returns:
            STATED_SCHEMA, by source row; rows that state nothing are not in it.
        """
        kept = rows.errors
        try:
            parts = [_read(rows, stated, account, currency) for stated, account in self._stated]
        finally:
            rows.errors = kept
        return pa.concat_tables([STATED_SCHEMA.empty_table(), *parts])


def _read(
    rows: Rows, stated: StatedBalance, account: TextCompiled, currency: Callable[[], pa.Array]
) -> pa.Table:
    rows.errors = RowErrors()
    numbers = read_numbers(rows, stated.balance, _BALANCE, None, currency)
    _, _, malformed = rows.errors.columns(len(rows))
    rows.errors = RowErrors()
    accounts = account(rows)
    _, _, unknown = rows.errors.columns(len(rows))
    columns = {
        "source_row": rows.raw(SOURCE_ROW),
        "source_line": rows.raw(SOURCE_LINE),
        "account_id": accounts,
        "balance": numbers.values,
        "balance_scale": numbers.scales,
        "side": pa.repeat(pa.scalar(stated.side, pa.string()), len(rows)),
        "problem": pc.coalesce(malformed, unknown),
    }
    table = pa.table([columns[name] for name in STATED_SCHEMA.names], schema=STATED_SCHEMA)
    return table.filter(pc.or_(pc.is_valid(numbers.values), pc.is_valid(malformed)))
