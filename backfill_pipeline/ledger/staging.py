"""Staging: the path of a batch that cannot be copied as a whole.

The batch goes into a temporary table, where each row is told apart in sets: posted, duplicate (identical payload),
conflict (same reference, other payload), rejected with its reason. The outcome is that of posting the rows one by one
in source order through post_ledger_entry; a property test holds the two equal.

Belongs here: the verdicts and the set-wise insert of what remains.
Does not: transactions (the caller's), raw text of rejects, counting.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.constraints import balance_constraints_in_force
from backfill_pipeline.ledger.entries import COPY_COLUMNS, STAGING_COPY_SQL, copy_entries


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of the batch that was not posted. `verdict` is duplicate, conflict or rejected."""

    source_row: int
    verdict: str
    code: str
    field: str | None
    reason: str


_CREATE_TABLES = """
CREATE TEMP TABLE IF NOT EXISTS backfill_staging (
    ledger_id text COLLATE "C", debit_account_id text COLLATE "C", credit_account_id text COLLATE "C",
    amount numeric, currency_code text COLLATE "C", asset_type text, transaction_type text,
    reference_id text COLLATE "C",
    timestamp_utc timestamptz, fx_rate numeric, metadata jsonb, batch_id bigint, source_row bigint
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS backfill_verdicts (
    source_row bigint PRIMARY KEY, verdict text, code text, field text, reason text,
    compared_row bigint     -- the row of this batch that it repeats; NULL when it repeats an entry of the ledger
) ON COMMIT DELETE ROWS;
"""

# In source order of first appearance, so that an account that entries name with two currencies gets the first.
_CREATE_ACCOUNTS = """
INSERT INTO bank_accounts (id, currency_code, asset_type)
SELECT DISTINCT ON (account_id) account_id, currency_code, asset_type
FROM (SELECT debit_account_id AS account_id, currency_code, asset_type, source_row FROM backfill_staging
      UNION ALL SELECT credit_account_id, currency_code, asset_type, source_row FROM backfill_staging) AS leg
WHERE NOT EXISTS (SELECT 1 FROM bank_accounts WHERE id = account_id)
  AND EXISTS (SELECT 1 FROM currencies WHERE code = currency_code)
  AND account_id <> '' AND length(account_id) <= 255
ORDER BY account_id, source_row
ON CONFLICT (id) DO NOTHING
"""

_COMPARED = (
    "debit_account_id",
    "credit_account_id",
    "amount",
    "currency_code",
    "asset_type",
    "transaction_type",
    "timestamp_utc",
)


def _differences() -> str:
    """What differs between row r and the entry e or the row w whose reference it has, one expression a field."""
    return ",\n               ".join(
        f"CASE WHEN r.{field} <> coalesce(e.{field}, w.{field}) THEN"
        f" format('{field} (%s, not %s)', r.{field}, coalesce(e.{field}, w.{field})) END"
        for field in _COMPARED
    )


# One pass over the batch. A row that could not be an entry whatever else the ledger holds (its amount, its rate, one
# account on both sides) is rejected for that. Any other row repeats an entry when the ledger has its reference, or when
# an earlier row of the batch with that reference is acceptable by itself (the "winner"); an unacceptable row takes no
# reference. That is the order in which the database looks at a single row: checks, unique key, accounts.
_JUDGE = f"""
INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason, compared_row)
WITH judged AS (
    SELECT s.*,
           CASE WHEN s.amount <= 0 OR s.amount >= 100000000000000000000 OR scale(s.amount) > 18
                    THEN 'amount_out_of_range'
                WHEN s.fx_rate <= 0 OR s.fx_rate >= 100000000000000000000 OR scale(s.fx_rate) > 18
                    THEN 'fx_rate_out_of_range'
                WHEN s.debit_account_id = s.credit_account_id THEN 'same_account'
                WHEN debit.id IS NULL THEN 'unknown_account'
                WHEN credit.id IS NULL THEN 'unknown_account'
                WHEN s.currency_code NOT IN (debit.currency_code, credit.currency_code) THEN 'currency_mismatch'
                WHEN debit.currency_code <> credit.currency_code AND s.fx_rate IS NULL THEN 'fx_rate_missing'
           END AS code,
           debit.id IS NULL AS debit_unknown, debit.currency_code AS debit_currency,
           credit.currency_code AS credit_currency
    FROM backfill_staging s
    LEFT JOIN bank_accounts debit ON debit.id = s.debit_account_id
    LEFT JOIN bank_accounts credit ON credit.id = s.credit_account_id
), ranked AS (
    SELECT judged.*,
           coalesce(code IN ('amount_out_of_range', 'fx_rate_out_of_range', 'same_account'), false) AS impossible,
           min(source_row) FILTER (WHERE code IS NULL) OVER (PARTITION BY ledger_id, reference_id) AS winner_row
    FROM judged
), compared AS (
    SELECT r.source_row, r.code, r.debit_unknown, r.debit_currency, r.credit_currency, r.currency_code,
           r.debit_account_id, r.credit_account_id, r.amount, r.fx_rate, e.id AS entry_id, w.source_row AS compared_row,
           CASE WHEN e.id IS NOT NULL THEN 'the ledger' ELSE format('row %s', w.source_row) END AS other,
           concat_ws(', ',
               {_differences()},
               CASE WHEN r.fx_rate IS DISTINCT FROM (CASE WHEN e.id IS NOT NULL THEN e.fx_rate ELSE w.fx_rate END)
                   THEN 'fx_rate' END,
               CASE WHEN r.metadata IS DISTINCT FROM (CASE WHEN e.id IS NOT NULL THEN e.metadata ELSE w.metadata END)
                   THEN 'metadata' END) AS differences
    FROM ranked r
    LEFT JOIN ledger_entries e
        ON NOT r.impossible AND e.ledger_id = r.ledger_id AND e.reference_id = r.reference_id
    LEFT JOIN backfill_staging w
        ON NOT r.impossible AND e.id IS NULL AND r.source_row > r.winner_row AND w.source_row = r.winner_row
    WHERE e.id IS NOT NULL OR r.code IS NOT NULL OR r.source_row > r.winner_row
)
SELECT source_row,
       CASE WHEN entry_id IS NULL AND compared_row IS NULL THEN 'rejected'
            WHEN differences = '' THEN 'duplicate' ELSE 'conflict' END,
       CASE WHEN entry_id IS NULL AND compared_row IS NULL THEN code
            WHEN differences = '' THEN 'duplicate' ELSE 'conflict' END,
       CASE WHEN entry_id IS NOT NULL OR compared_row IS NOT NULL THEN 'reference_id'
            WHEN code = 'unknown_account' AND NOT debit_unknown THEN 'credit_account_id'
            WHEN code IN ('unknown_account', 'same_account') THEN 'debit_account_id'
            WHEN code = 'currency_mismatch' THEN 'currency_code'
            WHEN code = 'amount_out_of_range' THEN 'amount'
            ELSE 'fx_rate' END,
       CASE WHEN entry_id IS NOT NULL OR compared_row IS NOT NULL THEN
                CASE WHEN differences = '' THEN format('identical to %s', other)
                     ELSE format('same reference as %s with other %s', other, differences) END
            WHEN code = 'unknown_account' THEN
                format('account %s does not exist',
                       CASE WHEN debit_unknown THEN debit_account_id ELSE credit_account_id END)
            WHEN code = 'same_account' THEN format('debits and credits the same account %s', debit_account_id)
            WHEN code = 'currency_mismatch' THEN
                format('is in %s, but its accounts are in %s and %s', currency_code, debit_currency, credit_currency)
            WHEN code = 'amount_out_of_range' THEN format('amount %s is not allowed', amount)
            WHEN code = 'fx_rate_out_of_range' THEN format('fx_rate %s is not allowed', fx_rate)
            ELSE format('moves between %s and %s and has no fx_rate', debit_currency, credit_currency) END,
       compared_row
FROM compared
"""  # noqa: S608 - constants of this module only

_INSERT = f"""
INSERT INTO ledger_entries ({", ".join(COPY_COLUMNS)})
SELECT {", ".join(f"s.{column}" for column in COPY_COLUMNS)}
FROM backfill_staging s
WHERE NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row)
ORDER BY s.source_row
"""  # noqa: S608 - constants of this module only


def sort_out(
    connection: Connection, entries: pa.Table, batch_id: int, *, create_unknown_accounts: bool
) -> list[RefusedRow]:
    """Tells the rows of a batch apart and posts those that can be; returns the others, in source order.

    Args:
        connection: inside the batch's transaction.
        entries: VALIDATED_SCHEMA; `source_row` is unique.
        batch_id: stored with every entry.
        create_unknown_accounts: open the accounts that entries name and the ledger lacks, in the entry's currency.

    Raises:
        psycopg.errors.UniqueViolation: another session posted one of the references meanwhile.
    """
    # Tables are locked in the order in which every posting locks them, also when accounts are looked at first: whoever
    # alters both (the constraint step) then waits for us, or we for it, but not each for the other.
    connection.execute("LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE")
    connection.execute(_CREATE_TABLES)
    # Twice in one transaction is possible (opening balances in tests), so the tables are emptied, not assumed empty.
    connection.execute("TRUNCATE backfill_staging, backfill_verdicts")
    copy_entries(connection, STAGING_COPY_SQL, entries, batch_id)
    connection.execute("ANALYZE backfill_staging")
    if create_unknown_accounts:
        connection.execute(_CREATE_ACCOUNTS)
    connection.execute(_JUDGE)
    connection.execute("ANALYZE backfill_verdicts")
    if balance_constraints_in_force(connection):
        connection.execute("SELECT backfill_settle_balances()")
    connection.execute("DISCARD PLANS")  # as in copy_entries: this statement fires the triggers as well
    inserted = connection.execute(_INSERT).rowcount
    rows = connection.execute(
        "SELECT source_row, verdict, code, field, reason FROM backfill_verdicts ORDER BY source_row"
    ).fetchall()
    if inserted + len(rows) != entries.num_rows:
        raise LedgerError(
            f"staging lost rows: {entries.num_rows} came, {inserted} were posted and {len(rows)} refused"
        )
    return [RefusedRow(*row) for row in rows]


def refuse_unless_duplicates(refused: list[RefusedRow], what: str) -> None:
    """For rows of which none may be lost: raises LedgerError unless every refused row is an identical repeat."""
    bad = [row for row in refused if row.verdict != "duplicate"]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise LedgerError(
            f"{what} cannot be posted: row {bad[0].source_row} {bad[0].reason}{more};"
            " correct the accounts file, or remove the opening balances that the ledger has already"
        )
