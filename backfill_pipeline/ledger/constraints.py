"""Balance constraints and foreign keys: applied after a backfill, verified, suspended for a large one.

The four CHECKs and the checks before and after them are the strategy's step 5. Whether constraints are in force is always
read from the catalogue; `ledger_constraint_events` only keeps the history of decisions.

Belongs here: everything about these six constraints.
Does not: deciding when a run applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection, ledger_errors

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
    """Names of our constraints that exist and are validated."""
    with ledger_errors("inspect"):
        rows = connection.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid IN ('bank_accounts'::regclass, 'ledger_entries'::regclass)"
            " AND convalidated AND conname = ANY(%s)",
            [[*BALANCE_CHECKS, *FOREIGN_KEYS]],
        ).fetchall()
    return frozenset(name for (name,) in rows)


def balance_constraints_in_force(connection: Connection) -> bool:
    """Whether an entry could be refused for the balance that it leaves."""
    return "bank_accounts_available_balance_nonnegative" in constraints_in_force(connection)


def state(connection: Connection) -> str:
    """applied, suspended (lifted on purpose), refused (the last try found offenders) or not applied."""
    if constraints_in_force(connection) == {*BALANCE_CHECKS, *FOREIGN_KEYS}:
        return "applied"
    row = connection.execute("SELECT event FROM ledger_constraint_events ORDER BY id DESC LIMIT 1").fetchone()
    last = row[0] if row else None
    return last if last in ("suspended", "refused") else "not applied"


def apply(connection: Connection) -> ConstraintReport:
    """Applies the four CHECKs and the foreign keys in one transaction, unless accounts offend; then verifies them.

    Raises:
        LedgerError: an entry names an account that does not exist, or a constraint is in place and not enforced.
        TransientLedgerError: the tables stay locked by others.
    """
    with ledger_errors("apply constraints to"):
        missing = {*BALANCE_CHECKS, *FOREIGN_KEYS} - constraints_in_force(connection)
        if missing:
            with connection.transaction():
                # Nobody changes balances between the look and the constraint.
                connection.execute("LOCK TABLE bank_accounts, ledger_entries IN SHARE ROW EXCLUSIVE MODE")
                report = offenders(connection)
                if report.offending:
                    _record(connection, "refused", report)
                    return report
                for statement in _statements(missing):
                    connection.execute(statement)
                _record(connection, "applied", ConstraintReport("applied"))
        report = verify(connection)
    if report.state != "applied":
        raise LedgerError(
            f"constraints were applied but {', '.join(report.missing)} is not enforced: inspect the table"
        )
    return ConstraintReport("applied", newly_applied=bool(missing))


def suspend(connection: Connection) -> bool:
    """Lifts all six for a later large backfill; True when there was something to lift."""
    present = constraints_in_force(connection)
    if not present:
        return False
    with ledger_errors("suspend constraints of"), connection.transaction():
        for name in sorted(present):
            table = "bank_accounts" if name in BALANCE_CHECKS else "ledger_entries"
            connection.execute(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(
                    sql.Identifier(table), sql.Identifier(name)
                )
            )
        _record(connection, "suspended", ConstraintReport("suspended"))
    return True


def verify(connection: Connection) -> ConstraintReport:
    """The strategy's §5.3: the constraints exist, and a probe that would break each one is refused.

    The probe works on an account of its own inside a transaction that is always rolled back, so a missing constraint
    cannot leave −1 on a real account.
    """
    in_force = constraints_in_force(connection)
    not_enforced = [name for name in (*BALANCE_CHECKS, *FOREIGN_KEYS) if name not in in_force]
    not_enforced += [name for name in BALANCE_CHECKS if name in in_force and not _probe(connection, name)]
    if not not_enforced:
        return ConstraintReport("applied")
    current = state(connection)
    return ConstraintReport("not applied" if current == "applied" else current, missing=tuple(not_enforced))


def offenders(connection: Connection) -> ConstraintReport:
    """§5.1: accounts whose balances would break a constraint; state "refused" when there are any."""
    with ledger_errors("check balances in"):
        rows = connection.execute(
            f"SELECT count(*) OVER (), id, currency_code, balance, available_balance, reserved_balance"
            f" FROM bank_accounts WHERE {_OFFENDS} ORDER BY available_balance, id LIMIT %s",
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
                    "UPDATE bank_accounts SET balance = %s, available_balance = %s, reserved_balance = %s WHERE id = %s",
                    [balance, available, reserved, _PROBE_ACCOUNT],
                )
        except psycopg.errors.CheckViolation as error:
            refused_by = error.diag.constraint_name
    return refused_by == name


def _statements(missing: set[str]) -> list[sql.Composed]:
    statements = [
        sql.SQL("ALTER TABLE bank_accounts ADD CONSTRAINT {} CHECK (" + check + ")").format(
            sql.Identifier(name)
        )  # noqa: S608
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


def _record(connection: Connection, event: str, report: ConstraintReport) -> None:
    connection.execute(
        "INSERT INTO ledger_constraint_events (event, offending, details) VALUES (%s, %s, %s)",
        [event, report.offending, Jsonb({"sample": [offender.account_id for offender in report.sample]})],
    )
