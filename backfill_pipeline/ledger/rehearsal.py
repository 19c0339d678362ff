"""Rehearsals: posting as a run would do it, into tables that only this session has.

A rehearsal stands between its session and the ledger. Temporary tables and a view have the names of the ledger's, so
that the statements that post (`staging`, `accounts`, the functions of the migrations) read what the ledger holds, see
what was rehearsed before, and write where nobody else looks. What happens to a row is therefore decided by the same
statements as in a run. Balances follow by the ledger's own trigger function, copied from its catalogue.

Every batch is a short transaction of its own that reads the ledger and locks nothing: live postings, runs and whoever
alters tables wait for nobody. All of it is gone with the session.

Belongs here: rehearsing accounts, openings and batches.
Does not: making the tables (`rehearsal_tables`), verdicts (`staging`), what it adds up to (`outlook`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from backfill_pipeline.errors import TransientLedgerError
from backfill_pipeline.ledger import accounts, staging
from backfill_pipeline.ledger.batches import BatchOutcome
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.entries import COPY_COLUMNS, copy_entries
from backfill_pipeline.ledger.parts import Parts, others_posted, paired_otherwise
from backfill_pipeline.ledger.posting import (
    ROW_PROBLEMS,
    PostingPolicy,
    RejectWriter,
    as_current,
    outcome_of,
)
from backfill_pipeline.ledger.rehearsal_tables import (
    ENTRIES,
    OPENING,
    RehearsalTables,
    rehearsal_tables,
)
from backfill_pipeline.ledger.reversed_references import current_references
from backfill_pipeline.ledger.staging import Destination, SortedOut

_UNKNOWN_ACCOUNT = "unknown_account"

_MEET_ACCOUNTS = """
INSERT INTO bank_accounts ({columns}, available_before)
SELECT {columns}, available_balance FROM {ledger}.bank_accounts
WHERE id IN (SELECT unnest(%s::text[]))
ON CONFLICT (id) DO NOTHING
"""
_COPY = f"COPY {ENTRIES} ({', '.join(COPY_COLUMNS)}) FROM STDIN (FORMAT binary)"
_LAST_ID = "SELECT coalesce(max(id), 0) FROM {entries}"
# By the ledger's key, entry for entry, whatever the planner thinks of rows that were just copied.
_MEETS_LEDGER = """
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SELECT EXISTS (SELECT 1 FROM {entries} new JOIN {ledger}.ledger_entries old USING (ledger_id, reference_id)
               WHERE new.id > {last_id})
"""
_JOIN_AS_USUAL = "SET LOCAL enable_hashjoin TO DEFAULT; SET LOCAL enable_mergejoin TO DEFAULT"
# Inside one transaction nothing that was deleted or updated is ever reused: after so many batches accounts are written
# anew, or each look at one would go through all its former balances.
_BATCHES_KEPT = 16
_EMPTY_STAGING = "TRUNCATE backfill_staging, backfill_verdicts"
_WRITE_ACCOUNTS_ANEW = """
CREATE TEMP TABLE backfill_kept AS SELECT * FROM bank_accounts;
TRUNCATE bank_accounts, ledger_entry_conversions;
INSERT INTO bank_accounts SELECT * FROM backfill_kept;
DROP TABLE backfill_kept;
ANALYZE bank_accounts;
"""


class _MeetsLedgerError(Exception):
    """Entries that were copied are in the ledger already."""


@contextmanager
def rehearsing(connection: Connection, *, empty_ledger: bool = False) -> Iterator[Rehearsal]:
    """Sets a rehearsal up in this session (`rehearsal_tables`, with the same arguments)."""
    with rehearsal_tables(connection, empty_ledger=empty_ledger) as tables:
        yield Rehearsal(connection, tables)


@dataclass(slots=True)
class Rehearsal:
    """What would be in the ledger. Made by `rehearsing`; used by one thread."""

    connection: Connection
    tables: RehearsalTables
    _batches: int = 0
    _accounts_met: int = 0
    _accounts_analyzed: int = 0

    @property
    def _destination(self) -> Destination:
        return Destination(
            sql.Identifier(ENTRIES),
            sql.Identifier("pg_temp", "backfill_settle_balances"),
            known=self._known,
            rehearsed_under=self.tables.under_constraints,
        )

    @property
    def _known(self) -> sql.Composed:
        """The ledger's own entries, without those that were rehearsed."""
        return sql.SQL("{}.ledger_entries").format(self.tables.ledger)

    def open_accounts(self, book: pa.Table) -> int:
        """Rehearses `accounts.open_accounts`; how many would be opened.

        Raises:
            LedgerError: as there.
        """
        self._meet(book.column("id").to_pylist())
        opened = accounts.open_accounts(self.connection, book)
        with ledger_errors("rehearse in"):
            self.connection.execute(
                "UPDATE bank_accounts SET opened_by = 'accounts file' WHERE available_before IS NULL"
            )
            self.connection.execute("ANALYZE bank_accounts")
        return opened

    def post_opening_entries(self, source_id: str, entries: pa.Table) -> int:
        """Rehearses `posting.post_opening_entries`; how many would be posted.

        Raises:
            LedgerError: as there.
        """
        if not entries.num_rows:
            return 0
        with _rehearsed():
            self._meet_named(entries)
            with self.connection.transaction():
                told = staging.sort_out(
                    self.connection,
                    current_references(self.connection, entries),
                    OPENING,
                    create_unknown_accounts=False,
                    destination=self._destination,
                )
                staging.refuse_unless_duplicates(told, f"opening balances of source {source_id}")
        return told.posted

    def unknown_accounts(self, named: list[str]) -> list[str]:
        """Rehearses `accounts.unknown_accounts`, and remembers who was found."""
        self._meet(named)
        found = accounts.unknown_accounts(self.connection, named)
        if found:
            with ledger_errors("rehearse in"):
                self.connection.execute(
                    "INSERT INTO backfill_unknown_accounts SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING",
                    [found],
                )
        return found

    def post_batch(
        self,
        number: int,
        entries: pa.Table,
        policy: PostingPolicy,
        describe_rejects: RejectWriter,
        *,
        expect_trouble: bool,
    ) -> tuple[BatchOutcome, pa.Table | None]:
        """Rehearses `posting.post_batch`.

        Args:
            number: of the partition, from 1.
            entries: VALIDATED_SCHEMA, in source order.
            policy: as there.
            describe_rejects: as there; when it raises, nothing of the batch is rehearsed.
            expect_trouble: as there.

        Returns:
            The outcome, and the rejects that would be written (None when there are none).
        """
        started = time.monotonic()
        rejects = None
        with _rehearsed():
            with self.connection.transaction():
                entries, policy = as_current(self.connection, entries, policy)
            named = self._meet_named(entries)
            path, told = "copy", SortedOut(entries.num_rows, 0, 0, 0, staging.REFUSED_SCHEMA.empty_table())
            if (
                expect_trouble
                or self._paired_otherwise(entries, policy.together)
                or not self._copy(entries, number)
            ):
                path = "staging"
                with self.connection.transaction():
                    told = staging.sort_out(
                        self.connection,
                        entries,
                        number,
                        create_unknown_accounts=policy.create_unknown_accounts,
                        tell_duplicates=not policy.skip_duplicates,
                        together=policy.together,
                        destination=self._destination,
                    )
                    if told.refused.num_rows:
                        if _UNKNOWN_ACCOUNT in told.refused.column("code").unique().to_pylist():
                            self.unknown_accounts(named)
                        rejects = describe_rejects(told.refused)
            self._tidy_up(staged=path == "staging")
        return outcome_of(entries.num_rows, told, policy, path, time.monotonic() - started), rejects

    def others_posted(self, registration_id: int) -> bool:
        """Rehearses `parts.others_posted`."""
        return others_posted(self.connection, registration_id, self._known)

    def _paired_otherwise(self, entries: pa.Table, parts: Parts | None) -> bool:
        with self.connection.transaction():
            return paired_otherwise(self.connection, entries, parts, self._known)

    def _tidy_up(self, *, staged: bool) -> None:
        """What the end of a transaction does otherwise."""
        if not self.tables.in_one_transaction:
            return
        self._batches += 1
        if staged:
            self.connection.execute(_EMPTY_STAGING)
        if self._batches % _BATCHES_KEPT == 0:
            self.connection.execute(_WRITE_ACCOUNTS_ANEW)

    def _copy(self, entries: pa.Table, number: int) -> bool:
        """The fast path, as in a run: False (and nothing rehearsed) when a row of the batch stands in the way."""
        if self.tables.under_constraints:  # whether balances allow it is told by settling alone
            return False
        ledger, table = self.tables.ledger, sql.Identifier(ENTRIES)
        try:
            with self.connection.transaction():
                row = self.connection.execute(sql.SQL(_LAST_ID).format(entries=table)).fetchone()
                assert row is not None
                copy_entries(self.connection, _COPY, entries, number)
                looked = self.connection.execute(
                    sql.SQL(_MEETS_LEDGER).format(entries=table, ledger=ledger, last_id=sql.Literal(row[0]))
                )
                while looked.nextset():
                    pass
                if looked.fetchall() != [(False,)]:
                    raise _MeetsLedgerError
                self.connection.execute(_JOIN_AS_USUAL)
        except (*ROW_PROBLEMS, _MeetsLedgerError):
            return False
        return True

    def _meet_named(self, entries: pa.Table) -> list[str]:
        """Has the accounts that entries move as the ledger has them, unless they were met before."""
        sides = [entries.column("debit_account_id"), entries.column("credit_account_id")]
        chunks = [chunk for side in sides for chunk in side.chunks]
        named: list[str] = pc.unique(pa.chunked_array(chunks, type=pa.string())).to_pylist()
        self._meet(named)
        return named

    def _meet(self, account_ids: list[str]) -> None:
        with ledger_errors("rehearse in"):
            met = self.connection.execute(
                sql.SQL(_MEET_ACCOUNTS).format(
                    columns=sql.SQL(", ").join(self.tables.account_columns), ledger=self.tables.ledger
                ),
                [account_ids],
            ).rowcount
            self._accounts_met += met
            # Statistics of so many more accounts only: with small batches, gathering them would take all the time.
            if self._accounts_met > 2 * self._accounts_analyzed:
                self.connection.execute("ANALYZE bank_accounts")
                self._accounts_analyzed = self._accounts_met


@contextmanager
def _rehearsed() -> Iterator[None]:
    with ledger_errors("rehearse in"):
        try:
            yield
        except (psycopg.errors.CardinalityViolation, psycopg.errors.UniqueViolation) as error:
            raise TransientLedgerError(
                "entries of this source were posted by somebody else while they were planned: plan it again"
            ) from error
