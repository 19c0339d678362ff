"""The ledger's balances after each row of a source, held against those that the rows state.

Belongs here: which entries count at a row, the running sums, and which rows between two others were not posted.
Does not: reading what a source states (`mapping/stated.py`), the report for people (`stages/stated.py`).

The balance after a row is what the entries of the source moved on the account up to this row, in the order of the
statement, and what all other entries (opening balances, other sources, live postings) moved on it until then, by their
event time. Everything is done by the server, in temporary tables, over sets: here no memory grows with the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

import pgpq
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.history import running_balance_statements as sql
from backfill_pipeline.schemas.frames import STATED_SCHEMA

# Larger than any row number of a source: file times this minus row sorts by file first, and by row from its end.
_FILE_ROWS: Final = 10**12
_ROWS_PER_BUFFER: Final = 10_000

_STATED_TYPES: Final = pa.schema(
    [
        ("source_row", pa.int64()),
        ("source_line", pa.int64()),
        ("position", pa.int64()),
        *(STATED_SCHEMA.field(name) for name in ("account_id", "balance")),
        ("balance_scale", pa.int16()),
        STATED_SCHEMA.field("side"),
    ]
)
_LEFT_OUT_TYPES: Final = pa.schema(
    [
        ("source_row", pa.int64()),
        ("source_line", pa.int64()),
        ("position", pa.int64()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Unposted:
    """A row without an entry: rejected (detail: its code), filtered (its reason), or a duplicate of another row."""

    what: str
    detail: str | None
    source_row: int
    source_line: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """A row at which stated balance minus ledger's balance is another number than at the row before.

    Balances are as the source states them: on its side, not on the account's.

    Attributes:
        is_first: whether no row before states a balance of the account.
        unposted: the row itself, or one since the row before, that was not posted; None when all of them were.
        others: how many more such rows there are.
    """

    source_row: int
    source_line: int
    account_id: str
    stated: Decimal
    ledger: Decimal
    difference: Decimal
    is_first: bool
    unposted: Unposted | None
    others: int


@dataclass(frozen=True, slots=True)
class Ending:
    """An account whose last stated balance is not the ledger's; both on the account's normal side.

    Attributes:
        as_of: the latest event time of the source's own entries on the account; None without any.
    """

    account_id: str
    source_row: int
    source_line: int
    stated: Decimal
    ledger: Decimal
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Stated balances against the ledger's. `steps` are the first of `step_count`.

    Attributes:
        compared: rows whose balance was compared.
        differing: those of them that differ from the ledger.
        accounts, accounts_differing: accounts with a stated balance, and those that differ at their last row.
        smallest, largest: of the differences that are not zero, on the accounts' normal sides; None without any.
        last: the difference at the last row of all; None when nothing was compared.
        unknown: rows that state a balance of an account that the ledger does not have.
        endings: the first of the accounts that differ at their last row.
    """

    compared: int
    differing: int
    accounts: int
    accounts_differing: int
    step_count: int
    smallest: Decimal | None
    largest: Decimal | None
    last: Decimal | None
    unknown: int
    steps: list[Step]
    endings: list[Ending]


class RunningBalances:
    """One comparison. Add what all partitions state, then compare."""

    def __init__(self, connection: Connection, *, descending: bool, file_stride: int) -> None:
        self._connection = connection
        self._sign = -1 if descending else 1
        self._file_rows = _FILE_ROWS if descending else 0
        self._stride = file_stride
        connection.execute(sql.TABLES)

    def add(self, stated: pa.Table, left_out: pa.Table, *, byte_offset: int) -> None:
        """Adds what the rows of a partition state.

        Args:
            stated: STATED_SCHEMA, without those that cannot be read.
            left_out: source_row, source_line and detail (why) of the rows that the definition filtered.
            byte_offset: of the partition in its source.
        """
        file_position = byte_offset // self._stride * self._file_rows
        for name, rows, types in (
            ("backfill_stated", stated, _STATED_TYPES),
            ("backfill_unposted", left_out, _LEFT_OUT_TYPES),
        ):
            position = pc.add(pc.multiply(rows.column("source_row"), self._sign), file_position)
            _copy(
                self._connection,
                name,
                rows.append_column("position", position).select(types.names).cast(types),
            )

    def compare(self, registration_id: int, *, step_limit: int, ending_limit: int = 0) -> Comparison:
        """Compares everything that was added.

        Args:
            registration_id: of the source; all its partitions are posted.
            step_limit: how many steps are told one by one.
            ending_limit: how many accounts that differ at their last row.
        """
        connection = self._connection
        given = {
            "registration": registration_id,
            "stride": self._stride,
            "file_rows": self._file_rows,
            "sign": self._sign,
        }
        connection.execute(sql.ACCOUNTS)
        self._run(sql.UNPOSTED, given)
        self._run(sql.OWN_BATCHES, given)
        if self._is_there(sql.ANY_DUPLICATES, given):
            self._run(sql.FOUND, given)
        self._run(sql.MOVEMENTS, given)
        mixed = self._is_there("SELECT EXISTS (SELECT FROM backfill_others WHERE mixed)", given)
        for statements in (sql.EVENTS, sql.BALANCES_BY_TIME if mixed else sql.BALANCES, sql.COMPARED):
            self._run(statements, given)
        totals = connection.execute(sql.TOTALS).fetchone()
        assert totals is not None
        compared, differing, accounts, accounts_differing, step_count, smallest, largest, last, stated = (
            totals
        )
        rows = connection.execute(sql.STEPS, {"limit": step_limit, "lowest": -(2**63)}).fetchall()
        endings = connection.execute(sql.ENDINGS, {"limit": ending_limit}).fetchall()
        return Comparison(
            compared,
            differing,
            accounts,
            accounts_differing,
            step_count,
            smallest,
            largest,
            last,
            stated - compared,
            [_step(*row) for row in rows],
            [Ending(*row) for row in endings],
        )

    def _run(self, statements: str, given: Mapping[str, object]) -> None:
        """One after the other: a statement with parameters is sent alone."""
        for statement in statements.split(";\n"):
            # Named parameters that a statement does not hold are passed over.
            self._connection.execute(statement.encode(), given)

    def _is_there(self, question: str, given: Mapping[str, object]) -> bool:
        row = self._connection.execute(question.encode(), given).fetchone()
        return bool(row and row[0])


@contextmanager
def running_balances(
    connection: Connection, *, descending: bool, file_stride: int
) -> Iterator[RunningBalances]:
    """A comparison, in a transaction that leaves nothing behind.

    Args:
        connection: to the ledger, autocommit.
        descending: whether each file of the source begins with its latest row.
        file_stride: byte offsets in a source of several files are the file's number times this, and the rest.

    Raises:
        TransientLedgerError: the ledger cannot be read right now.
    """
    with ledger_errors("compare stated balances with"), connection.transaction():
        yield RunningBalances(connection, descending=descending, file_stride=file_stride)


def _step(
    row: int,
    line: int,
    account_id: str,
    stated: Decimal,
    ledger: Decimal,
    difference: Decimal,
    is_first: bool,
    what: str | None,
    detail: str | None,
    at_row: int,
    at_line: int | None,
    others: int,
) -> Step:
    """A step from a row of the result."""
    unposted = None if what is None else Unposted(what, detail, at_row, at_line)
    return Step(row, line, account_id, stated, ledger, difference, is_first, unposted, others)


def _copy(connection: Connection, name: str, rows: pa.Table) -> None:
    if not rows.num_rows:
        return
    encoder = pgpq.ArrowToPostgresBinaryEncoder(rows.schema)
    with connection.cursor().copy(
        f"COPY {name} ({', '.join(rows.column_names)}) FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.write(encoder.write_header())
        for batch in rows.to_batches(max_chunksize=_ROWS_PER_BUFFER):
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())
