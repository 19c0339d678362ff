"""Balances against entries: per account and per currency, exact.

Belongs here: the set-wise sums over the whole ledger.
Does not: entries against their source (`reconciliation`), constraints on balances (`constraints`).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from backfill_pipeline.ledger.connection import Connection, ledger_errors

BREAK_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class AccountBreak:
    """An account whose balance is not what its legs say. `what` is balance or available_balance."""

    account_id: str
    currency_code: str
    what: str
    expected: Decimal
    actual: Decimal


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """One currency of the whole ledger, in units of that currency.

    Double entry holds when debits and credits differ by exactly what conversions brought in or took out, and when the
    accounts' balances say the same.

    Attributes:
        debits: sum of all debit legs of accounts in this currency.
        credits: sum of all credit legs.
        converted: net debit that came from other currencies (converted legs less the entries' own amounts).
        balances: sum of debit-normal balances less sum of credit-normal ones.
    """

    currency_code: str
    debits: Decimal
    credits: Decimal
    converted: Decimal
    balances: Decimal

    @property
    def difference(self) -> Decimal:
        """Zero unless an entry lacks one of its sides."""
        return self.debits - self.credits - self.converted

    @property
    def drift(self) -> Decimal:
        """Zero unless balances left their entries."""
        return self.balances - (self.debits - self.credits)


# A leg in another currency moves its account by the converted amount instead of the entry's: summed as a correction, so
# that the big sums run over one table without a join.
_NET_PER_ACCOUNT = """
    SELECT account_id, sum(net) AS net
    FROM (SELECT debit_account_id AS account_id, sum(amount) AS net FROM ledger_entries GROUP BY 1
          UNION ALL
          SELECT credit_account_id, -sum(amount) FROM ledger_entries GROUP BY 1
          UNION ALL
          SELECT c.account_id, sum(CASE c.side WHEN 'debit' THEN c.amount - e.amount ELSE e.amount - c.amount END)
          FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id GROUP BY 1) AS side
    GROUP BY account_id
"""


def account_breaks(connection: Connection) -> tuple[int, list[AccountBreak]]:
    """Accounts whose balance differs from opening + legs (all are entries), tolerance zero.

    The available balance is held against balance − reserved_balance: postings move both alike.

    Returns:
        The number of breaks, and the first BREAK_SAMPLE of them by account.
    """
    with ledger_errors("sum balances in"):
        rows = connection.execute(
            f"""
            WITH legs AS MATERIALIZED ({_NET_PER_ACCOUNT}),
            expected AS (
                SELECT coalesce(a.id, l.account_id) AS id, coalesce(a.currency_code, '') AS currency_code,
                       CASE coalesce(a.normal_side, 'debit') WHEN 'debit' THEN 1 ELSE -1 END * coalesce(l.net, 0) AS balance,
                       coalesce(a.balance, 0) AS actual, coalesce(a.available_balance, 0) AS available,
                       coalesce(a.reserved_balance, 0) AS reserved
                FROM bank_accounts a FULL JOIN legs l ON l.account_id = a.id
            ), broken AS (
                SELECT id, currency_code, 'balance' AS what, balance AS expected, actual FROM expected WHERE balance <> actual
                UNION ALL
                SELECT id, currency_code, 'available_balance', balance - reserved, available FROM expected
                WHERE balance - reserved <> available
            )
            SELECT count(*) OVER (), id, currency_code, what, expected, actual FROM broken ORDER BY id, what LIMIT %s
            """,
            [BREAK_SAMPLE],
        ).fetchall()
    return (rows[0][0] if rows else 0), [AccountBreak(*row[1:]) for row in rows]


def currency_totals(connection: Connection) -> list[CurrencyTotals]:
    """Σ debits, Σ credits and what conversions explain, per currency of the accounts, for the whole ledger."""
    with ledger_errors("sum currencies in"):
        rows = connection.execute(
            """
            WITH leg AS MATERIALIZED (
                SELECT currency_code, sum(debit) AS debits, sum(credit) AS credits
                FROM (SELECT currency_code, sum(amount) AS debit, 0::numeric AS credit
                      FROM (SELECT currency_code, debit_account_id, sum(amount) AS amount FROM ledger_entries GROUP BY 1, 2) d
                      GROUP BY 1
                      UNION ALL
                      SELECT currency_code, 0, sum(amount)
                      FROM (SELECT currency_code, credit_account_id, sum(amount) AS amount FROM ledger_entries GROUP BY 1, 2) c
                      GROUP BY 1
                      UNION ALL   -- a converted leg leaves the entry's currency …
                      SELECT e.currency_code, sum(CASE c.side WHEN 'debit' THEN -e.amount ELSE 0 END),
                             sum(CASE c.side WHEN 'credit' THEN -e.amount ELSE 0 END)
                      FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id GROUP BY 1
                      UNION ALL   -- … and stands in the account's
                      SELECT c.currency_code, sum(CASE c.side WHEN 'debit' THEN c.amount ELSE 0 END),
                             sum(CASE c.side WHEN 'credit' THEN c.amount ELSE 0 END)
                      FROM ledger_entry_conversions c GROUP BY 1) AS part
                GROUP BY currency_code
            ), converted AS MATERIALIZED (
                SELECT currency_code, sum(net) AS net
                FROM (SELECT c.currency_code, CASE c.side WHEN 'debit' THEN c.amount ELSE -c.amount END AS net
                      FROM ledger_entry_conversions c
                      UNION ALL
                      SELECT e.currency_code, CASE c.side WHEN 'debit' THEN -e.amount ELSE e.amount END
                      FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id) AS part
                GROUP BY currency_code
            ), held AS MATERIALIZED (
                SELECT currency_code, sum(CASE normal_side WHEN 'debit' THEN balance ELSE -balance END) AS balances
                FROM bank_accounts GROUP BY currency_code
            )
            SELECT currency_code, coalesce(debits, 0), coalesce(credits, 0), coalesce(net, 0), coalesce(balances, 0)
            FROM leg FULL JOIN converted USING (currency_code) FULL JOIN held USING (currency_code)
            ORDER BY currency_code
            """
        ).fetchall()
    return [CurrencyTotals(*row) for row in rows]


def trial_balance(connection: Connection) -> dict[str, Decimal]:
    """Per currency, what the balances alone leave unexplained: debit-normal less credit-normal less conversions.

    Cheap (accounts and conversions, no entries), so it can be looked at after every few batches: posting must not change
    it, whoever posts.
    """
    with ledger_errors("check balances in"):
        rows = connection.execute(
            """
            SELECT currency_code, sum(net)
            FROM (SELECT currency_code, CASE normal_side WHEN 'debit' THEN balance ELSE -balance END AS net FROM bank_accounts
                  UNION ALL
                  SELECT c.currency_code, CASE c.side WHEN 'debit' THEN -c.amount ELSE c.amount END FROM ledger_entry_conversions c
                  UNION ALL
                  SELECT e.currency_code, CASE c.side WHEN 'debit' THEN e.amount ELSE -e.amount END
                  FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id) AS part
            GROUP BY currency_code ORDER BY currency_code
            """
        ).fetchall()
    return {currency: Decimal(net) for currency, net in rows}
