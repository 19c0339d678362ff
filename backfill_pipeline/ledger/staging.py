"""Staging: the path of a batch that cannot be copied as a whole.

The batch goes into a temporary table, where its rows are told apart in sets: posted, duplicate (identical payload),
conflict (same reference, other payload), rejected with its reason. The outcome is that of posting the rows one by one
in source order through post_ledger_entry; a property test holds the two equal. A row reaches the client only when
somebody has to be told about it.

Belongs here: the staging tables, the order of verdicts, and the set-wise insert of what remains.
Does not: meeting the ledger's entries (`known_entries`), what is posted together (`parts`), the batch's database
transaction (the caller's), raw text of rejects.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from psycopg import sql

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.constraints import balance_constraints_in_force
from backfill_pipeline.ledger.entries import COPY_COLUMNS, STAGING_COPY_SQL
from backfill_pipeline.ledger.join_methods import JOIN_AS_USUAL, JOIN_BY_HASH
from backfill_pipeline.ledger.known_entries import (
    ACCOUNTS_IMPOSSIBLE,
    AMOUNT_IMPOSSIBLE,
    FX_RATE_IMPOSSIBLE,
    describe_met,
    differences,
    meet_ledger,
)
from backfill_pipeline.ledger.parts import LEDGER_ENTRIES, Parts, refuse_parts
from backfill_pipeline.ledger.sampling import Sample
from backfill_pipeline.ledger.taken_rows import TakenRows, put_entries

REFUSED_SCHEMA = pa.schema(
    [
        pa.field("source_row", pa.int64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Rows that were not posted. `verdict` is duplicate, conflict or rejected."""


@dataclass(frozen=True, slots=True)
class SortedOut:
    """What became of the rows of a batch.

    Attributes:
        posted: rows that are in the ledger now and were not before.
        duplicates: identical to an entry of the ledger or to an earlier row of the batch.
        conflicts: the same reference with another content.
        rejected: all others.
        refused: REFUSED_SCHEMA in source order: conflicts, rejected rows, and duplicates when they were asked for.
    """

    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    refused: pa.Table


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the rows of a batch go that can be posted.

    Attributes:
        entries: the table that they are inserted into, and whose trigger moves the balances.
        settle: the function that decides, under balance constraints, which rows must go.
        known: the ledger's own entries.
        rehearsed_under: None for the ledger itself. For a rehearsal (`rehearsal.py`), whether constraints are in force;
            nothing of the ledger is locked then.
    """

    entries: sql.Identifier
    settle: sql.Identifier
    known: sql.Composable
    rehearsed_under: bool | None = None


LEDGER = Destination(LEDGER_ENTRIES, sql.Identifier("backfill_settle_balances"), LEDGER_ENTRIES)

_CREATE_TABLES = """
CREATE TEMP TABLE IF NOT EXISTS backfill_staging (
    ledger_id text COLLATE "C", debit_account_id text COLLATE "C", credit_account_id text COLLATE "C",
    amount numeric, currency_code text COLLATE "C", asset_type text, transaction_type text,
    reference_id text COLLATE "C",
    timestamp_utc timestamptz, fx_rate numeric, metadata jsonb, batch_id bigint, source_row bigint,
    entry_id bigint         -- the entry of the ledger that has its reference
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

# As the trigger on ledger_entries has it; rows are looked at one by one only where a period is closed at all.
_PERIOD_CLOSED = (
    "(SELECT EXISTS (SELECT 1 FROM ledger_periods)) AND EXISTS (SELECT 1 FROM ledger_periods p"
    " WHERE p.ledger_id = s.ledger_id AND p.month = ledger_month(s.timestamp_utc))"
)

# The rows whose reference the ledger does not have, in two steps. A row that could not be an entry whatever the ledger
# holds (its amount, its rate, one account on both sides) is rejected for that. Any other row repeats an entry when an
# earlier row of the batch with that reference is acceptable by itself (the "winner"); an unacceptable row takes no
# reference. That is the order in which the database looks at a single row: checks, unique key, period, accounts.
_REJECT_UNACCEPTABLE = f"""
INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
SELECT source_row, 'rejected', code,
       CASE WHEN code = 'unknown_account' AND debit_currency IS NOT NULL THEN 'credit_account_id'
            WHEN code IN ('unknown_account', 'same_account') THEN 'debit_account_id'
            WHEN code = 'currency_mismatch' THEN 'currency_code'
            WHEN code = 'amount_out_of_range' THEN 'amount'
            WHEN code = 'period_closed' THEN 'timestamp_utc'
            ELSE 'fx_rate' END,
       CASE code
            WHEN 'period_closed' THEN
                format('is dated %s, and period %s of ledger %s is closed', ledger_utc_text(timestamp_utc),
                       to_char(ledger_month(timestamp_utc), 'YYYY-MM'), ledger_id)
            WHEN 'unknown_account' THEN
                format('account %s does not exist',
                       CASE WHEN debit_currency IS NULL THEN debit_account_id ELSE credit_account_id END)
            WHEN 'same_account' THEN format('debits and credits the same account %s', debit_account_id)
            WHEN 'currency_mismatch' THEN
                format('is in %s, but its accounts are in %s and %s', currency_code, debit_currency, credit_currency)
            WHEN 'amount_out_of_range' THEN format('amount %s is not allowed', amount)
            WHEN 'fx_rate_out_of_range' THEN format('fx_rate %s is not allowed', fx_rate)
            ELSE format('moves between %s and %s and has no fx_rate', debit_currency, credit_currency) END
FROM (SELECT s.source_row, s.ledger_id, s.debit_account_id, s.credit_account_id, s.currency_code, s.amount,
             s.fx_rate, s.timestamp_utc,
             debit.currency_code AS debit_currency, credit.currency_code AS credit_currency,
             CASE WHEN {AMOUNT_IMPOSSIBLE} THEN 'amount_out_of_range'
                  WHEN {FX_RATE_IMPOSSIBLE} THEN 'fx_rate_out_of_range'
                  WHEN {ACCOUNTS_IMPOSSIBLE} THEN 'same_account'
                  WHEN {_PERIOD_CLOSED} THEN 'period_closed'
                  WHEN debit.id IS NULL OR credit.id IS NULL THEN 'unknown_account'
                  WHEN s.currency_code NOT IN (debit.currency_code, credit.currency_code) THEN 'currency_mismatch'
                  WHEN debit.currency_code <> credit.currency_code AND s.fx_rate IS NULL THEN 'fx_rate_missing'
             END AS code
      FROM backfill_staging s
      LEFT JOIN bank_accounts debit ON debit.id = s.debit_account_id
      LEFT JOIN bank_accounts credit ON credit.id = s.credit_account_id
      WHERE s.entry_id IS NULL) AS judged
WHERE code IS NOT NULL
"""  # noqa: S608 - constants of this module only

_COMPARE_REPEATS = f"""
INSERT INTO backfill_verdicts AS v (source_row, verdict, code, field, reason, compared_row)
WITH repeating AS MATERIALIZED (
    SELECT s.source_row, s.ledger_id, s.reference_id, v.code
    FROM backfill_staging s
    JOIN (SELECT ledger_id, reference_id FROM backfill_staging WHERE entry_id IS NULL
          GROUP BY ledger_id, reference_id HAVING count(*) > 1) AS shared USING (ledger_id, reference_id)
    LEFT JOIN backfill_verdicts v ON v.source_row = s.source_row
    WHERE s.entry_id IS NULL
), winner AS (
    SELECT ledger_id, reference_id, min(source_row) AS source_row
    FROM repeating WHERE code IS NULL GROUP BY ledger_id, reference_id
), beaten AS (
    SELECT s.source_row, w.source_row AS winner_row, {differences("s", "w")} AS differences
    FROM repeating
    JOIN winner ON winner.ledger_id = repeating.ledger_id AND winner.reference_id = repeating.reference_id
    JOIN backfill_staging s ON s.source_row = repeating.source_row
    JOIN backfill_staging w ON w.source_row = winner.source_row
    WHERE repeating.source_row > winner.source_row
      AND coalesce(repeating.code NOT IN ('amount_out_of_range', 'fx_rate_out_of_range', 'same_account'), true)
), told AS (
    SELECT *, CASE differences WHEN '' THEN 'duplicate' ELSE 'conflict' END AS kind FROM beaten
)
SELECT source_row, kind, kind, 'reference_id',
       CASE kind WHEN 'duplicate' THEN format('identical to row %s', winner_row)
                 ELSE format('same reference as row %s with other %s', winner_row, differences) END,
       winner_row
FROM told
ON CONFLICT (source_row) DO UPDATE      -- a row that is unacceptable, but comes after the winner
SET verdict = excluded.verdict, code = excluded.code, field = excluded.field, reason = excluded.reason,
    compared_row = excluded.compared_row
"""  # noqa: S608 - constants of this module only

_INSERT = f"""
INSERT INTO {{}} ({", ".join(COPY_COLUMNS)})
SELECT {", ".join(f"s.{column}" for column in COPY_COLUMNS)}
FROM backfill_staging s
WHERE NOT EXISTS (SELECT 1 FROM backfill_verdicts v WHERE v.source_row = s.source_row)
ORDER BY s.source_row
"""  # noqa: S608 - constants of this module only

_COUNT = """
SELECT count(*) FILTER (WHERE verdict = 'duplicate'), count(*) FILTER (WHERE verdict = 'conflict'),
       count(*) FILTER (WHERE verdict = 'rejected')
FROM backfill_verdicts
"""

_READ_REFUSED = """
COPY (SELECT source_row, verdict,
             CASE verdict WHEN 'duplicate' THEN 'duplicate_reference' ELSE code END, field,
             CASE verdict WHEN 'duplicate' THEN 'the ledger has this entry already' ELSE reason END
      FROM backfill_verdicts WHERE verdict <> 'duplicate' OR {} ORDER BY source_row)
TO STDOUT (FORMAT csv)
"""


def sort_out(
    connection: Connection,
    entries: pa.Table | TakenRows,
    batch_id: int,
    *,
    create_unknown_accounts: bool,
    tell_duplicates: bool = False,
    together: Parts | None = None,
    sample: Sample | None = None,
    destination: Destination = LEDGER,
) -> SortedOut:
    """Tells the rows of a batch apart and posts those that can be.

    Args:
        connection: inside the batch's transaction.
        entries: VALIDATED_SCHEMA, `source_row` is unique; or rows that this connection has taken.
        batch_id: stored with every entry.
        create_unknown_accounts: open the accounts that entries name and the ledger lacks, in the entry's currency.
        together: what the entries are parts of; see `PostingPolicy`.
        tell_duplicates: have duplicates among the refused rows too, as rejects; else they are only counted.
        sample: of this batch; only makes it faster.
        destination: the ledger, unless this is a rehearsal.

    Raises:
        psycopg.errors.UniqueViolation: another session posted one of the references meanwhile.
    """
    # Tables are locked in the order in which every posting locks them, also when accounts are looked at first: whoever
    # alters both (the constraint step) then waits for us, or we for it, but not each for the other.
    rehearsed_under = destination.rehearsed_under
    if rehearsed_under is None:
        connection.execute("LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE")
    connection.execute(_CREATE_TABLES)
    # Twice in one transaction is possible (opening balances in tests), so the tables are emptied, not assumed empty.
    # By DELETE: it costs nothing when they are, while TRUNCATE would make new files and catalogue rows for each batch.
    connection.execute("DELETE FROM backfill_staging; DELETE FROM backfill_verdicts")
    put_entries(connection, STAGING_COPY_SQL, entries, batch_id)
    dropped = meet_ledger(connection, entries.num_rows, sample, drop_duplicates=not tell_duplicates)
    if dropped == entries.num_rows:
        return SortedOut(0, dropped, 0, 0, REFUSED_SCHEMA.empty_table())
    in_force = balance_constraints_in_force(connection) if rehearsed_under is None else rehearsed_under
    # Gathering statistics of all columns takes as long as all the rest; only settling has plans that rest on them.
    connection.execute(
        "ANALYZE backfill_staging" if in_force else "ANALYZE backfill_staging (entry_id, source_row)"
    )
    connection.execute(JOIN_AS_USUAL)
    if create_unknown_accounts:
        connection.execute(_CREATE_ACCOUNTS)
    connection.execute(_REJECT_UNACCEPTABLE)
    connection.execute(JOIN_BY_HASH)
    connection.execute(_COMPARE_REPEATS)
    describe_met(connection)
    if together is not None:
        refuse_parts(connection, entries, together, destination.known)
    connection.execute("ANALYZE backfill_verdicts (source_row)")
    if in_force:
        connection.execute(sql.SQL("SELECT {}()").format(destination.settle))
    connection.execute("DISCARD PLANS")  # as in copy_entries: this statement fires the triggers as well
    inserted = connection.execute(sql.SQL(_INSERT).format(destination.entries)).rowcount
    counts = connection.execute(_COUNT).fetchone()
    assert counts is not None
    duplicates, conflicts, rejected = counts
    if inserted + dropped + duplicates + conflicts + rejected != entries.num_rows:
        raise LedgerError(
            f"staging lost rows: {entries.num_rows} came, {inserted} were posted, {dropped + duplicates} told"
            f" duplicates and {conflicts + rejected} refused"
        )
    told = conflicts + rejected + (duplicates if tell_duplicates else 0)
    refused = _read_refused(connection, tell_duplicates) if told else REFUSED_SCHEMA.empty_table()
    if refused.num_rows != told:
        raise LedgerError(f"staging lost rows: {told} were refused and {refused.num_rows} read back")
    return SortedOut(inserted, dropped + duplicates, conflicts, rejected, refused)


def refuse_unless_duplicates(outcome: SortedOut, what: str) -> None:
    """For rows of which none may be lost: raises LedgerError unless every refused row is an identical repeat."""
    bad = outcome.refused.filter(pc.not_equal(outcome.refused.column("verdict"), "duplicate"))
    if bad.num_rows:
        first = bad.slice(0, 1).to_pylist()[0]
        more = f" (and {bad.num_rows - 1} more)" if bad.num_rows > 1 else ""
        raise LedgerError(
            f"{what} cannot be posted: row {first['source_row']} {first['reason']}{more};"
            " correct the accounts file, or remove the opening balances that the ledger has already"
        )


def _read_refused(connection: Connection, tell_duplicates: bool) -> pa.Table:
    sink = pa.BufferOutputStream()
    statement = sql.SQL(_READ_REFUSED).format(sql.Literal(tell_duplicates))
    with connection.cursor().copy(statement) as copy:
        for block in copy:
            sink.write(block)
    return pacsv.read_csv(
        pa.BufferReader(sink.getvalue()),
        read_options=pacsv.ReadOptions(column_names=REFUSED_SCHEMA.names),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=REFUSED_SCHEMA,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    ).cast(REFUSED_SCHEMA)
