"""Balance constraints and foreign keys: applied after a backfill, verified, suspended for a large one.

The four CHECKs and the checks before and after them are the strategy's step 5. Whether constraints are in force is
always read from the catalogue; `ledger_constraint_events` only keeps the history of decisions.

Belongs here: everything about these six constraints.
Does not: deciding when a run applies them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import LOCK_TIMEOUT_S, Connection, ledger_errors

# Name → expression: the strategy's §5.1, negated.
BALANCE_CHECKS = {
    "bank_accounts_available_balance_nonnegative": "available_balance >= 0",
    "bank_accounts_reserved_balance_nonnegative": "reserved_balance >= 0",
    "bank_accounts_available_balance_within_balance": "available_balance <= balance",
    "bank_accounts_available_and_reserved_balance_within_balance": "available_balance + reserved_balance <= balance",
}
FOREIGN_KEYS = {
    "ledger_entries_debit_account_id_fkey": "debit_account_id",
    "ledger_entries_credit_account_id_fkey": "credit_account_id",
}
_OFFENDS = " OR ".join(f"NOT ({check})" for check in BALANCE_CHECKS.values())
SAMPLE_SIZE = 20
# Shorter than PostgreSQL's deadlock_timeout (1 s), so that we give way before anybody is found to be deadlocked.
_SECOND_LOCK_WAIT_MS = 300


@dataclass(frozen=True, slots=True)
class Offender:
    """An account whose balances break a constraint."""

    account_id: str
    currency_code: str
    balance: Decimal
    available_balance: Decimal
    reserved_balance: Decimal


@dataclass(frozen=True, slots=True)
class ConstraintReport:
    """Outcome of applying or verifying. `state` is applied, refused, suspended or not applied."""

    state: str
    offending: int = 0
    worst: Offender | None = None
    sample: tuple[Offender, ...] = ()
    newly_applied: bool = False
    missing: tuple[str, ...] = ()


def constraints_in_force(connection: Connection) -> frozenset[str]:
    """Names of our constraints that exist and hold for every row (a NOT VALID one does not)."""
    return frozenset(name for name, holds in _existing(connection).items() if holds)


def balance_constraints_in_force(connection: Connection) -> bool:
    """Whether an entry could be refused for the balance that it leaves; NOT VALID constraints hold for new ones too."""
    return "bank_accounts_available_balance_nonnegative" in _existing(connection)


def _existing(connection: Connection) -> dict[str, bool]:
    """Our constraints that exist → whether they hold for every row."""
    with ledger_errors("inspect"):
        rows = connection.execute(
            "SELECT conname, convalidated FROM pg_constraint"
            " WHERE conrelid IN ('bank_accounts'::regclass, 'ledger_entries'::regclass) AND conname = ANY(%s)",
            [[*BALANCE_CHECKS, *FOREIGN_KEYS]],
        ).fetchall()
    return dict(rows)


def state(connection: Connection) -> str:
    """applied, suspended (lifted on purpose), refused (the last try found offenders) or not applied."""
    if constraints_in_force(connection) == {*BALANCE_CHECKS, *FOREIGN_KEYS}:
        return "applied"
    with ledger_errors("inspect"):
        row = connection.execute(
            "SELECT event FROM ledger_constraint_events ORDER BY id DESC LIMIT 1"
        ).fetchone()
    last = row[0] if row else None
    return last if last in ("suspended", "refused") else "not applied"


def apply(connection: Connection) -> ConstraintReport:
    """Applies the four CHECKs and the foreign keys in one transaction, unless accounts offend; then verifies them.

    Postings that are under way are waited for, and new ones wait; none of them fails.

    Raises:
        LedgerError: an entry names an account that does not exist, or a constraint is in place and not enforced.
        TransientLedgerError: the tables stay locked by others.
    """
    newly_applied = False
    with ledger_errors("apply constraints to"):
        if {*BALANCE_CHECKS, *FOREIGN_KEYS} - constraints_in_force(connection):
            with _tables_locked(connection, entries="SHARE ROW EXCLUSIVE"):
                # Looked at again: another session may have applied them while this one waited. And nobody changes
                # balances between this look and the constraint.
                existing = _existing(connection)
                missing = {name for name in (*BALANCE_CHECKS, *FOREIGN_KEYS) if not existing.get(name)}
                report = offenders(connection)
                if missing and report.offending:
                    _record(connection, "refused", report)
                    return report
                for statement in _statements(missing, existing):
                    connection.execute(statement)
                if missing:
                    _record(connection, "applied", ConstraintReport("applied"))
                    newly_applied = True
        report = verify(connection)
    if report.state != "applied":
        raise LedgerError(
            f"constraints were applied but {', '.join(report.missing)} is not enforced: inspect the table"
        )
    return ConstraintReport("applied", newly_applied=newly_applied)


def suspend(connection: Connection) -> bool:
    """Lifts all six for a later large backfill; True when there was something to lift."""
    if not _existing(connection):
        return False
    with ledger_errors("suspend constraints of"), _tables_locked(connection, entries="ACCESS EXCLUSIVE"):
        present = sorted(_existing(connection))
        for name in present:
            connection.execute(_drop(name))
        if present:
            _record(connection, "suspended", ConstraintReport("suspended"))
    return bool(present)


@contextmanager
def _tables_locked(connection: Connection, *, entries: str) -> Iterator[None]:
    """A transaction in which nobody else touches accounts or posts entries; `entries` is the mode of their lock.

    Whoever posts locks entries first and accounts second, and so do we. A session may however have read accounts and
    post only then; holding the entries and waiting for its accounts would be a deadlock, and it may be the posting that
    PostgreSQL ends. So the second lock is waited for only briefly, and not at the price of the first.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    locked = False
    while True:
        try:
            with connection.transaction():
                connection.execute(sql.SQL("LOCK TABLE ledger_entries IN {} MODE").format(sql.SQL(entries)))
                connection.execute(f"SET LOCAL lock_timeout = '{_SECOND_LOCK_WAIT_MS}ms'")
                connection.execute("LOCK TABLE bank_accounts IN ACCESS EXCLUSIVE MODE")
                connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
                locked = True
                yield
            return
        except psycopg.errors.LockNotAvailable:
            if locked or time.monotonic() > deadline:
                raise
            time.sleep(_SECOND_LOCK_WAIT_MS / 1000)


def verify(connection: Connection) -> ConstraintReport:
    """The strategy's §5.3: the constraints exist, and a probe that would break each one is refused.

    The probe works on an account of its own inside a transaction that is always rolled back, so a missing constraint
    cannot leave -1 on a real account.
    """
    with ledger_errors("verify constraints of"):
        in_force = constraints_in_force(connection)
        not_enforced = [name for name in (*BALANCE_CHECKS, *FOREIGN_KEYS) if name not in in_force]
        not_enforced += [name for name in BALANCE_CHECKS if name in in_force and not _probe(connection, name)]
    if not not_enforced:
        return ConstraintReport("applied")
    current = state(connection)
    return ConstraintReport("not applied" if current == "applied" else current, missing=tuple(not_enforced))


def offenders(connection: Connection, accounts: str = "bank_accounts") -> ConstraintReport:
    """§5.1: accounts whose balances would break a constraint; state "refused" when there are any.

    `accounts` is another table of accounts for a rehearsal (`rehearsal.py`).
    """
    with ledger_errors("check balances in"):
        rows = connection.execute(
            sql.SQL(
                "SELECT count(*) OVER (), id, currency_code, balance, available_balance, reserved_balance"  # noqa: S608 - constants of this module only
                f" FROM {{}} WHERE {_OFFENDS} ORDER BY available_balance, id LIMIT %s"
            ).format(sql.Identifier(accounts)),
            [SAMPLE_SIZE],
        ).fetchall()
    sample = tuple(Offender(*row[1:]) for row in rows)
    if not rows:
        return ConstraintReport("applied")
    return ConstraintReport("refused", offending=rows[0][0], worst=sample[0], sample=sample)


# balance, available, reserved: what would break the constraint. PostgreSQL checks constraints in the order of their
# names and reports the first that is broken; the third row also breaks "reserved >= 0", whose name comes later.
_PROBES = {
    "bank_accounts_available_balance_nonnegative": (0, -1, 0),
    "bank_accounts_reserved_balance_nonnegative": (0, 0, -1),
    "bank_accounts_available_balance_within_balance": (0, 1, -1),
    "bank_accounts_available_and_reserved_balance_within_balance": (1, 1, 1),
}
_PROBE_ACCOUNT = "backfill constraint probe"


def _probe(connection: Connection, name: str) -> bool:
    balance, available, reserved = _PROBES[name]
    refused_by: str | None = None
    with connection.transaction(force_rollback=True):
        connection.execute(
            "INSERT INTO bank_accounts (id, currency_code) VALUES (%s, 'XXX') ON CONFLICT DO NOTHING",
            [_PROBE_ACCOUNT],
        )
        try:
            with connection.transaction():
                connection.execute(
                    "UPDATE bank_accounts SET balance = %s, available_balance = %s, reserved_balance = %s"
                    " WHERE id = %s",
                    [balance, available, reserved, _PROBE_ACCOUNT],
                )
        except psycopg.errors.CheckViolation as error:
            refused_by = error.diag.constraint_name
    return refused_by == name


def _statements(missing: Collection[str], existing: Collection[str]) -> list[sql.Composed]:
    """What makes the missing constraints hold. One that exists and does not hold (NOT VALID) is made anew."""
    statements = [_drop(name) for name in sorted(missing) if name in existing]
    statements += [
        sql.SQL("ALTER TABLE bank_accounts ADD CONSTRAINT {} CHECK ({})").format(
            sql.Identifier(name), sql.SQL(check)
        )
        for name, check in BALANCE_CHECKS.items()
        if name in missing
    ]
    statements += [
        sql.SQL(
            "ALTER TABLE ledger_entries ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES bank_accounts (id)"
        ).format(sql.Identifier(name), sql.Identifier(column))
        for name, column in FOREIGN_KEYS.items()
        if name in missing
    ]
    return statements


def _drop(name: str) -> sql.Composed:
    table = "bank_accounts" if name in BALANCE_CHECKS else "ledger_entries"
    return sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(sql.Identifier(table), sql.Identifier(name))


def _record(connection: Connection, event: str, report: ConstraintReport) -> None:
    connection.execute(
        "INSERT INTO ledger_constraint_events (event, offending, details) VALUES (%s, %s, %s)",
        [event, report.offending, Jsonb({"sample": [offender.account_id for offender in report.sample]})],
    )
