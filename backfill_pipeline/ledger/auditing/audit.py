"""The audit: everything about a ledger that can be held against itself, in one snapshot.

It has the strategy's audit before a backfill (§1.1), its check of the schema (§1.2) and of stalled checkpoints
(§Monitoring), and what an auditor asks beyond.

Belongs here: putting the checks together.
Does not: the checks (`audit_schema`, `audit_balances`, `audit_backfills`, `audit_controls`), sums (`audit_totals`),
fixing anything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.auditing.backfill_checks import STALLED_AFTER, backfill_checks
from backfill_pipeline.ledger.auditing.balance_checks import balance_checks
from backfill_pipeline.ledger.auditing.controls import control_checks
from backfill_pipeline.ledger.auditing.findings import Check, Severity
from backfill_pipeline.ledger.auditing.schema import missing_parts, present_objects, schema_checks
from backfill_pipeline.ledger.auditing.totals import Totals, totals
from backfill_pipeline.ledger.balances import CurrencyTotals
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.constraints import Offender


@dataclass(frozen=True, slots=True)
class Audit:
    """What the audit found.

    Attributes:
        checks: all of them, with how each ended.
        totals: per ledger, currency and day.
        currencies: the trial balance: legs, conversions and balances per currency of the accounts.
        missing: objects of the schema that are not there, by name.
        constraints: the state of the balance constraints.
        seconds: that it took.
    """

    checks: tuple[Check, ...]
    totals: Totals
    currencies: tuple[CurrencyTotals, ...]
    accounts: int
    inconsistent_balances: int
    inconsistent_sample: tuple[Offender, ...]
    missing: tuple[str, ...]
    constraints: str
    seconds: float

    @property
    def entries(self) -> int:
        """Of all ledgers."""
        return self.totals.entries

    @property
    def earliest(self) -> datetime | None:
        """The first event time."""
        return self.totals.earliest

    @property
    def latest(self) -> datetime | None:
        """The last event time."""
        return self.totals.latest

    @property
    def duplicate_references(self) -> int:
        """References that a ledger has more than once."""
        return self.check("duplicate_references").count

    @property
    def clean(self) -> bool:
        """Whether nothing is broken. Inconsistent balances are not: the constraint step reports them."""
        return not self.breaks and not self.skipped

    @property
    def breaks(self) -> tuple[Check, ...]:
        """Checks that found the ledger broken."""
        return self.findings(Severity.BREAK)

    @property
    def skipped(self) -> tuple[Check, ...]:
        """Checks that could not be made."""
        return tuple(check for check in self.checks if check.skipped is not None)

    def findings(self, severity: Severity) -> tuple[Check, ...]:
        """Checks that found something of this severity."""
        return tuple(check for check in self.checks if check.count and check.severity is severity)

    def check(self, name: str) -> Check:
        """The check of this name."""
        return next(check for check in self.checks if check.name == name)


def audit(connection: Connection, *, stalled_after: timedelta = STALLED_AFTER) -> Audit:
    """Makes all checks; reads everything and changes nothing.

    Every check is one statement over whole tables, or a few. Postings go on meanwhile, and do not show.

    Args:
        connection: to the ledger, not in a transaction. Reading its tables is enough.
        stalled_after: how old the latest checkpoint of a source in progress may be.
    """
    began = time.monotonic()
    with ledger_errors("audit"), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        present = present_objects(connection)
        missing = missing_parts(connection, present)
        summed = totals(connection)
        checks = list(schema_checks(connection, present, missing))
        examined, offending, found = balance_checks(connection, present)
        checks += found
        checks += backfill_checks(connection, present, stalled_after=stalled_after)
        checks += control_checks(connection, present)
        accounts = connection.execute("SELECT count(*) FROM bank_accounts").fetchone()
        state = constraints.state(connection)
    assert accounts is not None
    return Audit(
        checks=tuple(checks),
        totals=summed,
        currencies=tuple(examined.currencies),
        accounts=accounts[0],
        inconsistent_balances=offending.offending,
        inconsistent_sample=offending.sample,
        missing=missing,
        constraints=state,
        seconds=time.monotonic() - began,
    )
