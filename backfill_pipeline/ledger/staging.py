"""Staging: the path of a batch that cannot be copied as a whole.

The batch goes into a temporary table, where its rows are told apart in sets: posted, duplicate (identical payload),
conflict (same reference, other payload), rejected with its reason. The outcome is that of posting the rows one by one
in source order through post_ledger_entry; a property test holds the two equal.

Rows that the ledger has already are met first and leave the table, so that a batch of nothing but duplicates costs a
join, and no row of it is looked at twice. A row reaches the client only when somebody has to be told about it.

Belongs here: the verdicts and the set-wise insert of what remains.
Does not: transactions (the caller's), raw text of rejects.
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
from backfill_pipeline.ledger.entries import COPY_COLUMNS, STAGING_COPY_SQL, copy_entries
from backfill_pipeline.ledger.sampling import Sample

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


# When most of a sample is in the ledger, in a stretch of so many times the batch's own size, it is read as a whole.
_MOST = 0.75
_STRETCH_MAX = 3


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
        rehearsed_under: None for the ledger itself. For a rehearsal (`rehearsal.py`), whether constraints are in force;
            nothing of the ledger is locked then.
    """

    entries: sql.Identifier
    settle: sql.Identifier
    rehearsed_under: bool | None = None


LEDGER = Destination(sql.Identifier("ledger_entries"), sql.Identifier("backfill_settle_balances"))


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

# The planner knows nothing about rows that were just copied, and a wrong guess reads the whole ledger for a batch, or
# a batch once per row. So each statement is told how to join, and is linear in the batch whatever the planner thinks.
_JOIN_BY_KEY = """
SET LOCAL enable_nestloop = on;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_memoize = off;
"""
_JOIN_BY_HASH = """
SET LOCAL enable_nestloop = off;
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_memoize = off;
"""
_JOIN_AS_USUAL = """
SET LOCAL enable_nestloop TO DEFAULT;
SET LOCAL enable_hashjoin TO DEFAULT;
SET LOCAL enable_mergejoin TO DEFAULT;
SET LOCAL enable_memoize TO DEFAULT;
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
_COMPARED_WITH_NULLS = ("fx_rate", "metadata")


def _identical(row: str, other: str) -> str:
    """Whether two rows of one reference are the same entry. Nothing here is hashed: the reference tells rows apart."""
    fields = (*_COMPARED, *_COMPARED_WITH_NULLS)
    return " AND ".join(f"{row}.{field} IS NOT DISTINCT FROM {other}.{field}" for field in fields)


def _differences(row: str, other: str) -> str:
    """What differs between two rows of one reference, in words; empty exactly when they are identical."""
    told = [
        f"CASE WHEN {row}.{field} <> {other}.{field} THEN"
        f" format('{field} (%s, not %s)', {row}.{field}, {other}.{field}) END"
        for field in _COMPARED
    ]
    named = [
        f"CASE WHEN {row}.{field} IS DISTINCT FROM {other}.{field} THEN '{field}' END"
        for field in _COMPARED_WITH_NULLS
    ]
    return f"concat_ws(', ', {', '.join(told + named)})"


_AMOUNT_IMPOSSIBLE = "s.amount <= 0 OR s.amount >= 100000000000000000000 OR scale(s.amount) > 18"
_FX_RATE_IMPOSSIBLE = "s.fx_rate <= 0 OR s.fx_rate >= 100000000000000000000 OR scale(s.fx_rate) > 18"
_ACCOUNTS_IMPOSSIBLE = "s.debit_account_id = s.credit_account_id"
# No entry, whatever else the ledger holds.
_NOT_AN_AMOUNT_OR_PAIR = f"coalesce({_AMOUNT_IMPOSSIBLE} OR {_ACCOUNTS_IMPOSSIBLE}, false)"
_IMPOSSIBLE = f"({_NOT_AN_AMOUNT_OR_PAIR} OR coalesce({_FX_RATE_IMPOSSIBLE}, false))"
_SAME_REFERENCE = "e.ledger_id = s.ledger_id AND e.reference_id = s.reference_id"

# Twins that lie together in the ledger, as they were once posted together: joining with that stretch of the table costs
# half of what looking up each of them does. Who is not found there is looked for by the next statement.
_TAKE_NEIGHBOURS = f"""
DELETE FROM backfill_staging s
USING (SELECT * FROM ledger_entries WHERE ctid >= %(first)s::tid AND ctid < %(end)s::tid) AS e
WHERE {_SAME_REFERENCE} AND {_identical("s", "e")}
  AND scale(s.amount) <= 18 AND coalesce(scale(s.fx_rate) <= 18, true)
"""  # noqa: S608 - constants of this module only

# Rows that the ledger has already: identical ones leave (or are kept to be told about), the others are marked.
_MERGE = f"MERGE INTO backfill_staging s USING ledger_entries e ON {_SAME_REFERENCE} AND NOT {_IMPOSSIBLE}"
_MARK = "WHEN MATCHED THEN UPDATE SET entry_id = e.id"
_MARK_AND_DROP = f"{_MERGE} WHEN MATCHED AND {_identical('s', 'e')} THEN DELETE {_MARK}"
_MARK_ALL = f"{_MERGE} {_MARK}"

_DESCRIBE_MET = f"""
INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
SELECT source_row, kind, kind, 'reference_id',
       CASE kind WHEN 'duplicate' THEN 'identical to the ledger'
                 ELSE format('same reference as the ledger with other %s', differences) END
FROM (SELECT source_row, differences, CASE differences WHEN '' THEN 'duplicate' ELSE 'conflict' END AS kind
      FROM (SELECT s.source_row, {_differences("s", "e")} AS differences
            FROM backfill_staging s JOIN ledger_entries e ON e.id = s.entry_id) AS compared) AS told
"""  # noqa: S608 - constants of this module only

# The rows whose reference the ledger does not have, in two steps. A row that could not be an entry whatever the ledger
# holds (its amount, its rate, one account on both sides) is rejected for that. Any other row repeats an entry when an
# earlier row of the batch with that reference is acceptable by itself (the "winner"); an unacceptable row takes no
# reference. That is the order in which the database looks at a single row: checks, unique key, accounts.
_REJECT_UNACCEPTABLE = f"""
INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
SELECT source_row, 'rejected', code,
       CASE WHEN code = 'unknown_account' AND debit_currency IS NOT NULL THEN 'credit_account_id'
            WHEN code IN ('unknown_account', 'same_account') THEN 'debit_account_id'
            WHEN code = 'currency_mismatch' THEN 'currency_code'
            WHEN code = 'amount_out_of_range' THEN 'amount'
            ELSE 'fx_rate' END,
       CASE code
            WHEN 'unknown_account' THEN
                format('account %s does not exist',
                       CASE WHEN debit_currency IS NULL THEN debit_account_id ELSE credit_account_id END)
            WHEN 'same_account' THEN format('debits and credits the same account %s', debit_account_id)
            WHEN 'currency_mismatch' THEN
                format('is in %s, but its accounts are in %s and %s', currency_code, debit_currency, credit_currency)
            WHEN 'amount_out_of_range' THEN format('amount %s is not allowed', amount)
            WHEN 'fx_rate_out_of_range' THEN format('fx_rate %s is not allowed', fx_rate)
            ELSE format('moves between %s and %s and has no fx_rate', debit_currency, credit_currency) END
FROM (SELECT s.source_row, s.debit_account_id, s.credit_account_id, s.currency_code, s.amount, s.fx_rate,
             debit.currency_code AS debit_currency, credit.currency_code AS credit_currency,
             CASE WHEN {_AMOUNT_IMPOSSIBLE} THEN 'amount_out_of_range'
                  WHEN {_FX_RATE_IMPOSSIBLE} THEN 'fx_rate_out_of_range'
                  WHEN {_ACCOUNTS_IMPOSSIBLE} THEN 'same_account'
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
    SELECT s.source_row, w.source_row AS winner_row, {_differences("s", "w")} AS differences
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

_CONFLICTS = "SELECT source_row FROM backfill_verdicts WHERE verdict = 'conflict' ORDER BY source_row"

# Rows that are a part of what a conflict is a part of. One that the ledger has already stays a duplicate.
_REJECT_PARTS = """
INSERT INTO backfill_verdicts (source_row, verdict, code, field, reason)
SELECT part.source_row, 'rejected', 'transaction_incomplete', 'transaction_id',
       format('row %%s of its transaction is a conflict', part.conflict)
FROM unnest(%s::bigint[], %s::bigint[]) AS part (source_row, conflict)
JOIN backfill_staging s ON s.source_row = part.source_row
WHERE s.entry_id IS NULL
ON CONFLICT (source_row) DO NOTHING
"""

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
    entries: pa.Table,
    batch_id: int,
    *,
    create_unknown_accounts: bool,
    tell_duplicates: bool = False,
    together: pa.Array | None = None,
    sample: Sample | None = None,
    destination: Destination = LEDGER,
) -> SortedOut:
    """Tells the rows of a batch apart and posts those that can be.

    Args:
        connection: inside the batch's transaction.
        entries: VALIDATED_SCHEMA; `source_row` is unique.
        batch_id: stored with every entry.
        create_unknown_accounts: open the accounts that entries name and the ledger lacks, in the entry's currency.
        together: per entry, what it is a part of; see `PostingPolicy`.
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
    copy_entries(connection, STAGING_COPY_SQL, entries, batch_id)
    dropped = _meet_ledger(connection, entries.num_rows, sample, drop_duplicates=not tell_duplicates)
    if dropped == entries.num_rows:
        return SortedOut(0, dropped, 0, 0, REFUSED_SCHEMA.empty_table())
    in_force = balance_constraints_in_force(connection) if rehearsed_under is None else rehearsed_under
    # Gathering statistics of all columns takes as long as all the rest; only settling has plans that rest on them.
    connection.execute(
        "ANALYZE backfill_staging" if in_force else "ANALYZE backfill_staging (entry_id, source_row)"
    )
    connection.execute(_JOIN_AS_USUAL)
    if create_unknown_accounts:
        connection.execute(_CREATE_ACCOUNTS)
    connection.execute(_REJECT_UNACCEPTABLE)
    connection.execute(_JOIN_BY_HASH)
    connection.execute(_COMPARE_REPEATS)
    connection.execute(_JOIN_BY_KEY)
    connection.execute(_DESCRIBE_MET)
    connection.execute(_JOIN_AS_USUAL)
    if together is not None:
        _reject_parts_of_conflicts(connection, entries.column("source_row").combine_chunks(), together)
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


def _reject_parts_of_conflicts(connection: Connection, rows: pa.Array, together: pa.Array) -> None:
    """Rejects what cannot be posted in part, because another part is a conflict."""
    conflicts = [row for (row,) in connection.execute(_CONFLICTS)]
    if not conflicts:
        return
    at = pc.index_in(pa.array(conflicts, pa.int64()), rows)
    first = pc.index_in(together, together.take(at))  # the first conflict counts
    parts = pc.is_valid(first)
    named = pa.array(conflicts, pa.int64()).take(first.filter(parts))
    connection.execute(_REJECT_PARTS, [rows.filter(parts).to_pylist(), named.to_pylist()])


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


def _meet_ledger(
    connection: Connection, row_count: int, sample: Sample | None, *, drop_duplicates: bool
) -> int:
    """Holds the staged rows against the ledger; returns how many identical ones left the table."""
    dropped = 0
    if drop_duplicates and sample is not None and _lie_together(connection, sample):
        connection.execute(_JOIN_BY_HASH)
        dropped = connection.execute(
            _TAKE_NEIGHBOURS,
            {"first": f"({sample.first_block},0)", "end": f"({sample.last_block + 1},0)"},
        ).rowcount
    if dropped < row_count:
        connection.execute(_JOIN_BY_KEY)
        connection.execute(_MARK_AND_DROP if drop_duplicates else _MARK_ALL)
        left = connection.execute("SELECT count(*) FROM backfill_staging").fetchone()
        assert left is not None
        dropped = row_count - int(left[0])
    return dropped


def _lie_together(connection: Connection, sample: Sample) -> bool:
    """Whether most of the batch is in the ledger, in a stretch that is not much longer than the batch."""
    if sample.found < _MOST * sample.looked_up:
        return False
    staged = connection.execute(
        "SELECT pg_relation_size('backfill_staging') / current_setting('block_size')::integer"
    ).fetchone()
    assert staged is not None
    return bool(sample.last_block - sample.first_block <= _STRETCH_MAX * staged[0])


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
