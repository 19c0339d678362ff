"""Balances against entries: per account and per currency, exact.

Belongs here: the set-wise sums over the whole ledger.
Does not: entries against their source (`reconciliation`), constraints on balances (`constraints`).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal

from backfill_pipeline.ledger.connection import Connection, ledger_errors

BREAK_SAMPLE = 100

# Sums of a ledger have more digits than Python's decimals keep by default (28): nothing is rounded here.
_EXACT = Context(prec=1000)


@dataclass(frozen=True, slots=True)
class AccountBreak:
    """An account whose balance is not what its legs say.

    Attributes:
        what: balance, available_balance, or "conversion of <reference>" for a leg that moved it by something else than
            amount times fx_rate, rounded half-even.
    """

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
        return _EXACT.subtract(_EXACT.subtract(self.debits, self.credits), self.converted)

    @property
    def drift(self) -> Decimal:
        """Zero unless balances left their entries."""
        return _EXACT.subtract(self.balances, _EXACT.subtract(self.debits, self.credits))


@dataclass(frozen=True, slots=True)
class Balances:
    """The balances of the whole ledger held against its entries. `breaks` is a sample, `break_count` is complete."""

    break_count: int
    breaks: list[AccountBreak]
    currencies: list[CurrencyTotals]


# Legs in another currency than their entry, each with what the entry says. Met once and kept, since three sums ask for
# them: every meeting reads all entries.
_CONVERTED_LEGS = """
CREATE TEMP TABLE backfill_converted_legs ON COMMIT DROP AS
SELECT c.account_id, c.side, c.currency_code, c.amount, e.reference_id, e.currency_code AS entry_currency,
       e.amount AS entry_amount, e.fx_rate,
       CASE c.side WHEN 'debit' THEN e.debit_account_id ELSE e.credit_account_id END AS entry_account_id
FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id
"""

# One row per account: what its debit and credit legs sum up to, in the account's currency. A leg in another currency
# than its entry moves the account by the converted amount: summed as a correction, so that the big sums need no join.
_SUM_ACCOUNTS = """
CREATE TEMP TABLE backfill_account_sums ON COMMIT DROP AS
SELECT account_id, sum(debits) AS debits, sum(credits) AS credits
FROM (SELECT debit_account_id AS account_id, sum(amount) AS debits, 0::numeric AS credits
      FROM ledger_entries GROUP BY 1
      UNION ALL
      SELECT credit_account_id, 0, sum(amount) FROM ledger_entries GROUP BY 1
      UNION ALL
      SELECT account_id, sum(CASE side WHEN 'debit' THEN amount - entry_amount ELSE 0 END),
             sum(CASE side WHEN 'credit' THEN amount - entry_amount ELSE 0 END)
      FROM backfill_converted_legs GROUP BY 1) AS side
GROUP BY account_id
"""

_BREAKS = """
WITH expected AS (
    SELECT coalesce(a.id, s.account_id) AS id, coalesce(a.currency_code, '') AS currency_code,
           CASE coalesce(a.normal_side, 'debit') WHEN 'debit' THEN 1 ELSE -1 END
             * coalesce(s.debits - s.credits, 0) AS balance,
           coalesce(a.balance, 0) AS actual, coalesce(a.available_balance, 0) AS available,
           coalesce(a.reserved_balance, 0) AS reserved
    FROM bank_accounts a FULL JOIN backfill_account_sums s ON s.account_id = a.id
), broken AS (
    SELECT id, currency_code, 'balance' AS what, balance AS expected, actual FROM expected WHERE balance <> actual
    UNION ALL
    SELECT id, currency_code, 'available_balance', balance - reserved, available FROM expected
    WHERE balance - reserved <> available
)
SELECT count(*) OVER (), id, currency_code, what, expected, actual FROM broken ORDER BY id, what LIMIT %s
"""

_WRONG_CONVERSIONS = """
SELECT count(*) OVER (), leg.account_id, leg.currency_code, 'conversion of ' || leg.reference_id, rule.amount,
       leg.amount
FROM backfill_converted_legs leg
JOIN currencies ON currencies.code = leg.currency_code
CROSS JOIN LATERAL (
    SELECT round_half_even(leg.entry_amount * leg.fx_rate, coalesce(minor_units, 18)) AS amount
) AS rule
WHERE rule.amount IS DISTINCT FROM leg.amount OR leg.account_id <> leg.entry_account_id
ORDER BY leg.account_id, leg.reference_id LIMIT %s
"""

# What conversions explain is summed from the other end, the stored conversions: an entry leaves its own currency with
# its amount and arrives in the account's with the converted one.
_CURRENCIES = """
SELECT a.currency_code, coalesce(sum(s.debits), 0), coalesce(sum(s.credits), 0),
       coalesce(max(x.net), 0),
       sum(CASE a.normal_side WHEN 'debit' THEN a.balance ELSE -a.balance END)
FROM bank_accounts a
LEFT JOIN backfill_account_sums s ON s.account_id = a.id
LEFT JOIN (
    SELECT currency_code, sum(net) AS net
    FROM (SELECT c.currency_code, CASE c.side WHEN 'debit' THEN c.amount ELSE -c.amount END AS net
          FROM ledger_entry_conversions c
          UNION ALL
          SELECT entry_currency, CASE side WHEN 'debit' THEN -entry_amount ELSE entry_amount END
          FROM backfill_converted_legs) AS part
    GROUP BY currency_code
) AS x ON x.currency_code = a.currency_code
GROUP BY a.currency_code
ORDER BY a.currency_code
"""


def examine(connection: Connection) -> Balances:
    """Holds every balance against opening + legs (all are entries), and every currency against double entry.

    Tolerance zero. The available balance is held against balance less reserved_balance, since postings move both
    alike. All of it is one snapshot, so postings that go on meanwhile do not show.
    """
    with ledger_errors("sum balances in"), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return examine_snapshot(connection)


def examine_snapshot(connection: Connection) -> Balances:
    """As `examine`, of the snapshot of the caller's transaction, in which nothing was examined before.

    The sums stay until its end: backfill_account_sums (account_id, debits, credits), of every account with a leg.
    """
    connection.execute(_CONVERTED_LEGS)
    connection.execute(_SUM_ACCOUNTS)
    found = [connection.execute(query, [BREAK_SAMPLE]).fetchall() for query in (_BREAKS, _WRONG_CONVERSIONS)]
    currencies = connection.execute(_CURRENCIES).fetchall()
    return Balances(
        break_count=sum(rows[0][0] for rows in found if rows),
        breaks=[AccountBreak(*row[1:]) for rows in found for row in rows][:BREAK_SAMPLE],
        currencies=[CurrencyTotals(*row) for row in currencies],
    )


def trial_balance(connection: Connection) -> dict[str, Decimal]:
    """Per currency, what the balances alone leave unexplained: debit-normal less credit-normal less conversions.

    Cheap (accounts and conversions, no entries), so it can be looked at after every few batches: posting must not
    change it, whoever posts.
    """
    with ledger_errors("check balances in"):
        rows = connection.execute(
            """
            SELECT currency_code, sum(net)
            FROM (SELECT currency_code, CASE normal_side WHEN 'debit' THEN balance ELSE -balance END AS net
                  FROM bank_accounts
                  UNION ALL
                  SELECT c.currency_code, CASE c.side WHEN 'debit' THEN -c.amount ELSE c.amount END
                  FROM ledger_entry_conversions c
                  UNION ALL
                  SELECT e.currency_code, CASE c.side WHEN 'debit' THEN e.amount ELSE -e.amount END
                  FROM ledger_entry_conversions c JOIN ledger_entries e ON e.id = c.entry_id) AS part
            GROUP BY currency_code ORDER BY currency_code
            """
        ).fetchall()
    return {currency: Decimal(net) for currency, net in rows}
