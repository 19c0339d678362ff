"""The audit's checks of balances: against legs, against double entry, against zero, today and in history.

Belongs here: what is wrong or remarkable about accounts.
Does not: summing legs (`balances`), the constraints themselves (`constraints`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from backfill_pipeline.ledger import balances, constraints
from backfill_pipeline.ledger.auditing.findings import Check, Query, Severity, found
from backfill_pipeline.ledger.balances import Balances
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.constraints import ConstraintReport

_DIFFER: Final = Check(
    "balances_differ_from_legs",
    Severity.BREAK,
    "balances and conversions that are not what the legs say",
    "bank_accounts or ledger_entry_conversions was changed directly: find out who did it, then let backfill corrections"
    " propose --audit propose that balances be what their legs say; no entry could do that, since it moves both",
)
_CURRENCIES: Final = Check(
    "currencies_out_of_balance",
    Severity.BREAK,
    "currencies in which debits and credits, or balances and legs, disagree",
    "an entry lacks a side, or balances were changed directly: the accounts are in the other checks",
)
_INCONSISTENT: Final = Check(
    "inconsistent_balances",
    Severity.WARNING,
    "accounts whose balances break a balance constraint",
    "mostly an opening balance that is missing, or an account that should be credit-normal. Post what is missing, then"
    " backfill constraints apply",
)
_UNKNOWN_ACCOUNTS: Final = Query(
    Check(
        "entries_of_unknown_accounts",
        Severity.BREAK,
        "accounts that entries name and that do not exist",
        "the triggers were off, or the account was deleted: open it again with the currency and the normal side it had,"
        " and its balance is what the check of legs expects",
    ),
    "SELECT s.account_id, s.debits, s.credits FROM backfill_account_sums s"
    " WHERE NOT EXISTS (SELECT FROM bank_accounts a WHERE a.id = s.account_id)",
    "account_id",
    ("bank_accounts", "ledger_entries"),
)
_LOST_CONVERSIONS: Final = Query(
    Check(
        "conversions_without_entry",
        Severity.BREAK,
        "stored conversions whose entry is not there",
        "the entry was deleted while its triggers were off: restore it, or delete the conversion with whoever owns the"
        " ledger",
    ),
    "SELECT c.entry_id, c.side, c.account_id, c.amount, c.currency_code FROM ledger_entry_conversions c"
    " WHERE NOT EXISTS (SELECT FROM ledger_entries e WHERE e.id = c.entry_id)",
    "entry_id, side",
    ("ledger_entry_conversions", "ledger_entries"),
)
_DIPS: Final = Query(
    Check(
        "historical_dips",
        Severity.NOTE,
        "accounts that were below zero at some moment of their history",
        "nothing, where an account may be overdrawn or was opened without its opening balance. Else look at it:"
        " backfill statement ACCOUNT --from DAY --to DAY",
    ),
    "SELECT account_id, currency_code, dips, first_dip_at, lowest_balance, lowest_at, ended_at"
    " FROM ledger_balance_dips()",
    "lowest_balance, account_id",
    ("ledger_balance_dips", "bank_accounts", "ledger_entries", "ledger_entry_conversions"),
)
_NEVER_USED: Final = Query(
    Check(
        "accounts_never_used",
        Severity.NOTE,
        "accounts that no entry names",
        "nothing, if they are expected to wait. Else see whether a mapping writes their names in another way",
    ),
    "SELECT a.id AS account_id, a.currency_code, a.normal_side FROM bank_accounts a"
    " WHERE NOT EXISTS (SELECT FROM backfill_account_sums s WHERE s.account_id = a.id)",
    "account_id",
    ("bank_accounts", "ledger_entries"),
)


def balance_checks(
    connection: Connection, present: frozenset[str]
) -> tuple[Balances, ConstraintReport, list[Check]]:
    """All checks of balances, in the caller's snapshot, and what the sums are.

    Args:
        connection: in a transaction with one snapshot.
        present: tables, views and functions that are there.
    """
    examined = balances.examine_snapshot(connection)
    offending = constraints.offenders(connection)
    return examined, offending, list(_checks(connection, present, examined, offending))


def _checks(
    connection: Connection, present: frozenset[str], examined: Balances, offending: ConstraintReport
) -> Iterator[Check]:
    yield found(_DIFFER, examined.break_count, [asdict(one) for one in examined.breaks])
    unequal = [totals for totals in examined.currencies if totals.difference or totals.drift]
    yield found(
        _CURRENCIES,
        len(unequal),
        [{**asdict(one), "difference": one.difference, "drift": one.drift} for one in unequal],
    )
    yield _UNKNOWN_ACCOUNTS.run(connection, present)
    yield _LOST_CONVERSIONS.run(connection, present)
    yield found(_INCONSISTENT, offending.offending, [asdict(one) for one in offending.sample])
    yield _DIPS.run(connection, present)
    yield _NEVER_USED.run(connection, present)
