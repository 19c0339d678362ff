"""Words for tests of the ledger: accounts, entries, batches, and what must always hold.

Belongs here: building rows, posting them in the product's ways, and reading the ledger back.
Does not: servers (`postgresql.py`), expectations of a single test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.ledger import balances, posting, registrations
from backfill_pipeline.ledger.batches import BatchOutcome, BatchPlan
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.posting import PostingPolicy
from backfill_pipeline.ledger.registrations import PartitionPlan, Registration, RegistrationPlan
from backfill_pipeline.schemas.frames import REJECTS_SCHEMA, VALIDATED_SCHEMA

NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)

POST = (
    "SELECT post_ledger_entry(%s::text, %s::text, %s::text, %s::numeric, %s::text, %s::text, %s::text, %s::text,"
    " %s::numeric, %s::jsonb, %s::timestamptz)"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One validated row. `amount` and `fx_rate` are text, as a source writes them."""

    reference: str
    debit: str = "A"
    credit: str = "B"
    amount: str = "10.00"
    currency: str = "USD"
    at: datetime = NOON
    fx_rate: str | None = None
    metadata: str | None = None
    ledger: str = "MASTER"
    asset_type: str = "fiat"
    kind: str = "TRANSFER"
    row: int = 0

    def arguments(self) -> list[object]:
        """For post_ledger_entry."""
        return [
            self.ledger, self.debit, self.credit, self.amount, self.currency, self.asset_type, self.kind,
            self.reference, self.fx_rate, self.metadata, self.at,
        ]  # fmt: skip

    def payload(self) -> tuple[object, ...]:
        """What makes two entries of one reference the same."""
        return (
            self.debit, self.credit, Decimal(self.amount), self.currency, self.asset_type, self.kind, self.at,
            None if self.fx_rate is None else Decimal(self.fx_rate),
            None if self.metadata is None else json.loads(self.metadata),
        )  # fmt: skip


def numbered(entries: Sequence[Entry], first_row: int = 1) -> list[Entry]:
    """The entries with consecutive source rows."""
    return [replace(entry, row=row) for row, entry in enumerate(entries, first_row)]


def table(entries: Sequence[Entry]) -> pa.Table:
    """VALIDATED_SCHEMA; entries without a row number get consecutive ones."""
    if entries and not entries[0].row:
        entries = numbered(entries)
    return pa.table(
        {
            "source_row": [entry.row for entry in entries],
            "ledger_id": [entry.ledger for entry in entries],
            "debit_account_id": [entry.debit for entry in entries],
            "credit_account_id": [entry.credit for entry in entries],
            "amount": [Decimal(entry.amount) for entry in entries],
            "amount_scale": [scale(entry.amount) for entry in entries],
            "currency_code": [entry.currency for entry in entries],
            "asset_type": [entry.asset_type for entry in entries],
            "transaction_type": [entry.kind for entry in entries],
            "reference_id": [entry.reference for entry in entries],
            "timestamp_utc": [entry.at for entry in entries],
            "fx_rate": [None if entry.fx_rate is None else Decimal(entry.fx_rate) for entry in entries],
            "fx_rate_scale": [None if entry.fx_rate is None else scale(entry.fx_rate) for entry in entries],
            "metadata": [entry.metadata for entry in entries],
        },
        schema=VALIDATED_SCHEMA,
    )


def scale(amount: str) -> int:
    """Decimals as written."""
    return len(amount.partition(".")[2])


def many(
    count: int, accounts: int, *, prefix: str = "M", first_row: int = 1, amount: str = "1.00"
) -> pa.Table:
    """A large table, built without a loop per row: row i debits account i and credits account i + 1, in a ring."""
    numbers = range(first_row, first_row + count)
    start = int(NOON.timestamp()) + first_row
    return pa.table(
        {
            "source_row": pa.array(numbers, pa.int64()),
            "ledger_id": pa.repeat("MASTER", count),
            "debit_account_id": [f"a{n % accounts:06d}" for n in numbers],
            "credit_account_id": [f"a{(n + 1) % accounts:06d}" for n in numbers],
            "amount": pa.repeat(Decimal(amount), count),
            "amount_scale": pa.repeat(pa.scalar(scale(amount), pa.int8()), count),
            "currency_code": pa.repeat("USD", count),
            "asset_type": pa.repeat("fiat", count),
            "transaction_type": pa.repeat("TRANSFER", count),
            "reference_id": [f"{prefix}{n}" for n in numbers],
            "timestamp_utc": pa.array(range(start, start + count), pa.int64()).cast(pa.timestamp("s", "UTC")),
            "fx_rate": pa.nulls(count, pa.decimal128(38, 18)),
            "fx_rate_scale": pa.nulls(count, pa.int8()),
            "metadata": pa.nulls(count, pa.string()),
        }
    ).cast(VALIDATED_SCHEMA)


def as_rejects(refused: pa.Table) -> pa.Table:
    """Reject rows of made-up positions: what the stages add from the source."""
    rows = refused.column("source_row")
    return pa.table(
        {
            "source_row": rows,
            "source_line": pc.add(rows, 1),
            "byte_offset": pc.multiply(rows, 100),
            "stage": pa.repeat("post", refused.num_rows),
            **{name: refused.column(name) for name in ("code", "field", "reason")},
            "raw": pc.binary_join_element_wise("raw", pc.cast(rows, pa.string()), " "),
        },
        schema=REJECTS_SCHEMA,
    )


def registration_plan(source_id: str = "bank", *row_counts: int, **changes: Any) -> RegistrationPlan:
    """A source with partitions of these sizes."""
    partitions, first_row = [], 1
    for number, count in enumerate(row_counts, 1):
        partitions.append(
            PartitionPlan(number, first_row, count, first_row + 1, first_row * 100, count * 100, "p" * 64)
        )
        first_row += count
    plan = RegistrationPlan(
        source_id=source_id,
        source_type="CSV",
        file_name="export.csv",
        size_bytes=first_row * 100,
        sha256="f" * 64,
        mapping_sha256="m" * 64,
        mapping_parts={"fields": "1", "reference_columns": "id"},
        header=("id", "amount"),
        row_count=first_row - 1,
        partitions=partitions,
    )
    return replace(plan, **changes)


@dataclass(slots=True)
class World:
    """A ledger, a connection to it, and shorthand."""

    url: str
    connection: Connection
    others: list[Connection] = field(default_factory=list)

    def close(self) -> None:
        for connection in self.others:
            connection.close()

    def connect(self) -> Connection:
        """Another session, closed with the world."""
        self.others.append(connect(self.url))
        return self.others[-1]

    def open(self, *account_ids: str, currency: str = "USD", normal_side: str = "debit") -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO bank_accounts (id, currency_code, normal_side) VALUES (%s, %s, %s)",
                [(account_id, currency, normal_side) for account_id in account_ids],
            )

    def open_ring(self, count: int) -> None:
        """The accounts of `many`."""
        self.connection.execute(
            "INSERT INTO bank_accounts (id, currency_code)"
            " SELECT 'a' || lpad(n::text, 6, '0'), 'USD' FROM generate_series(0, %s) AS n",
            [count - 1],
        )

    def post_one(self, entry: Entry, connection: Connection | None = None) -> int:
        """Through post_ledger_entry, as a live posting."""
        row = (connection or self.connection).execute(POST, entry.arguments()).fetchone()
        assert row is not None
        return int(row[0])

    def register(self, *row_counts: int, source_id: str = "bank") -> Registration:
        registration, _ = registrations.register(
            self.connection, registration_plan(source_id, *(row_counts or (1_000_000,)))
        )
        return registration

    def plan(self, registration: Registration, entries: pa.Table, *, partition: int = 0) -> BatchPlan:
        """The identity of the batch that holds these rows."""
        rows = entries.column("source_row")
        return BatchPlan(
            source_id=registration.source_id,
            source_type=registration.source_type,
            partition_id=registration.partitions[partition].id,
            partition_key=registration.partitions[partition].key,
            first_row=rows[0].as_py(),
            last_row=rows[-1].as_py(),
            run_id="run-1",
        )

    def post(
        self,
        registration: Registration,
        entries: Sequence[Entry] | pa.Table,
        *,
        connection: Connection | None = None,
        partition: int = 0,
        staging: bool = False,
        policy: PostingPolicy | None = None,
    ) -> BatchOutcome:
        """As one batch of the registration's first (or another) partition."""
        rows = entries if isinstance(entries, pa.Table) else table(entries)
        return posting.post_batch(
            connection or self.connection,
            self.plan(registration, rows, partition=partition),
            rows,
            policy or PostingPolicy(),
            as_rejects,
            expect_trouble=staging,
        )

    def count(self, relation: str = "ledger_entries") -> int:
        return int(self.value(f"SELECT count(*) FROM {relation}"))

    def value(self, query: str, *parameters: object) -> Any:
        row = self.connection.execute(query, parameters or None).fetchone()
        assert row is not None
        return row[0]

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, parameters or None).fetchall()

    def balances(self) -> dict[str, Decimal]:
        return dict(self.rows("SELECT id, balance FROM bank_accounts"))

    def balance(self, account_id: str) -> Decimal:
        return Decimal(self.value("SELECT balance FROM bank_accounts WHERE id = %s", account_id))

    def references(self) -> set[str]:
        return {reference for (reference,) in self.rows("SELECT reference_id FROM ledger_entries")}

    def rejects(self) -> dict[int, str]:
        """source_row → code."""
        return dict(self.rows("SELECT source_row, code FROM backfill_rejects"))

    def assert_balances_follow_entries(self) -> None:
        """Per account and per currency, exactly; and available balances move with balances."""
        found = balances.examine(self.connection)
        assert (found.break_count, found.breaks) == (0, [])
        for totals in found.currencies:
            assert totals.difference == 0, totals
            assert totals.drift == 0, totals
        assert set(balances.trial_balance(self.connection).values()) <= {Decimal(0)}
        self.assert_balances_equal_legs()

    def assert_balances_equal_legs(self) -> None:
        """The same by a query of our own, possible inside a transaction."""
        unexplained = self.rows(
            "SELECT a.id, a.balance, coalesce(l.net, 0) FROM bank_accounts a LEFT JOIN"
            " (SELECT account_id, sum(CASE side WHEN 'debit' THEN amount ELSE -amount END) AS net"
            "  FROM ledger_entry_legs GROUP BY account_id) l ON l.account_id = a.id"
            " WHERE a.balance <> CASE a.normal_side WHEN 'debit' THEN 1 ELSE -1 END * coalesce(l.net, 0)"
        )
        assert unexplained == []


def post_one_by_one(connection: Connection, entries: Sequence[Entry]) -> dict[int, str]:
    """The reference for bulk posting: each row through post_ledger_entry, in source order.

    Returns:
        Row number → posted, duplicate (its reference is in the ledger with the same payload), conflict (with another)
        or rejected.
    """
    verdicts = {}
    for entry in entries:
        try:
            with connection.transaction():
                connection.execute(POST, entry.arguments())
            verdicts[entry.row] = "posted"
        except psycopg.errors.UniqueViolation:
            existing = connection.execute(
                "SELECT debit_account_id, credit_account_id, amount, currency_code, asset_type, transaction_type,"
                " timestamp_utc, fx_rate, metadata FROM ledger_entries WHERE ledger_id = %s AND reference_id = %s",
                [entry.ledger, entry.reference],
            ).fetchone()
            verdicts[entry.row] = "duplicate" if existing == entry.payload() else "conflict"
        except (psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation):
            verdicts[entry.row] = "rejected"
    return verdicts
