"""What one writes instead of this product: the strategy document's two scripts, and set-wise SQL.

Belongs here: these three, at their best ordinary use, with the SQL that they consist of: theirs, not the ledger's.
Does not: products (`tools.py`).
"""

from __future__ import annotations

import time
from typing import Final

from backfill_pipeline.bench.figures import Figures
from backfill_pipeline.bench.rivals.common import (
    ENTRIES_TABLE,
    create_entries_table,
    export_file,
    insist_on_rows,
    ledger_with_accounts,
)
from backfill_pipeline.bench.workloads import Bench
from backfill_pipeline.local.dirt import COLUMNS

LOOP_ROWS: Final = 3_000
"""So many rows are posted one by one: a rate does not change with more of them, the wait does."""
DO_ROWS: Final = 20_000

_COPY_BYTES: Final = 1 << 20


_CREATE_LEGACY: Final = """
CREATE TABLE ledger_entries_legacy (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ledger_id text, debit_account_id text, credit_account_id text,
    amount numeric, currency_code text, asset_type text, transaction_type text, reference_id text, fx_rate numeric,
    metadata jsonb
)
"""
_LEGACY_COLUMNS: Final = (
    "ledger_id", "debit_account_id", "credit_account_id", "amount", "currency_code", "asset_type",
    "transaction_type", "reference_id", "fx_rate", "metadata",
)  # fmt: skip

# The document's script (`backfill-ledger.sql`), as it stands there.
_DO_SCRIPT: Final = """
DO $$
DECLARE
    batch_size INTEGER := 1000;
    processed INTEGER := 0;
    successful INTEGER := 0;
    failed INTEGER := 0;
    entry RECORD;
BEGIN
    CREATE TEMP TABLE backfill_batch AS
    SELECT * FROM ledger_entries_legacy
    ORDER BY id
    LIMIT 0;
    FOR entry IN
        SELECT * FROM ledger_entries_legacy
        ORDER BY id
    LOOP
        BEGIN
            PERFORM post_ledger_entry(
                entry.ledger_id::TEXT,
                entry.debit_account_id::TEXT,
                entry.credit_account_id::TEXT,
                entry.amount::NUMERIC,
                entry.currency_code::TEXT,
                entry.asset_type::TEXT,
                entry.transaction_type::TEXT,
                entry.reference_id::TEXT,
                entry.fx_rate::NUMERIC,
                entry.metadata::JSONB
            );
            successful := successful + 1;
        EXCEPTION
            WHEN unique_violation THEN
                failed := failed + 1;
                RAISE NOTICE 'Skipping duplicate reference ID: %', entry.reference_id;
            WHEN OTHERS THEN
                failed := failed + 1;
                RAISE NOTICE 'Error processing entry %: %', entry.reference_id, SQLERRM;
        END;
        processed := processed + 1;
        IF processed % batch_size = 0 THEN
            RAISE NOTICE 'Processed % entries (% successful, % failed)', processed, successful, failed;
        END IF;
    END LOOP;
    RAISE NOTICE 'Backfill completed: % total, % successful, % failed', processed, successful, failed;
END $$
"""

_CREATE_STAGED: Final = (
    f"CREATE TEMP TABLE staged ({', '.join(f'{column} text' for column in COLUMNS)}) ON COMMIT DROP"
)

# One statement: what is inserted is what moves balances, so a row that was there already moves nothing.
_POST_STAGED: Final = f"""
WITH posted AS (
    INSERT INTO {ENTRIES_TABLE} (ledger_id, debit_account_id, credit_account_id, amount, currency_code, asset_type,
                                 transaction_type, reference_id, timestamp_utc, fx_rate, metadata)
    SELECT 'MASTER', debit_account, credit_account, amount::numeric, currency, 'fiat', kind, booking_id,
           booked_at::timestamptz, fx_rate::numeric,
           jsonb_strip_nulls(jsonb_build_object('description', description, 'branch', branch))
    FROM staged
    ON CONFLICT (ledger_id, reference_id) DO NOTHING
    RETURNING debit_account_id, credit_account_id, amount, currency_code, fx_rate
), leg AS (
    SELECT debit_account_id AS account_id, amount, currency_code, fx_rate FROM posted
    UNION ALL
    SELECT credit_account_id, -amount, currency_code, fx_rate FROM posted
), moved AS (
    SELECT a.id, sum(CASE WHEN a.currency_code = leg.currency_code THEN leg.amount
                          ELSE round(leg.amount * leg.fx_rate, c.minor_units) END) AS net
    FROM leg
    JOIN bank_accounts a ON a.id = leg.account_id
    JOIN currencies c ON c.code = a.currency_code
    GROUP BY a.id
)
UPDATE bank_accounts AS account
SET balance = balance + signed.delta, available_balance = available_balance + signed.delta
FROM (SELECT moved.id, CASE a.normal_side WHEN 'debit' THEN net ELSE -net END AS delta
      FROM moved JOIN bank_accounts a ON a.id = moved.id) AS signed
WHERE account.id = signed.id
"""  # noqa: S608 - constants of this module only


def strategy_loop(bench: Bench) -> Figures:
    """The strategy document's script: one call of `post_ledger_entry` per row, one commit each (its §4.1 and script).

    Its balances are right, and a repeated reference is skipped, also when its content differs. It knows no batches,
    rejects or events, states no event time (its function has no argument for one), and starts again from the first row
    when it is killed. Here it is given rows that are converted already, and sends prepared statements.
    """
    rows = _rows(bench, LOOP_ROWS)
    with ledger_with_accounts(bench) as connection:
        started = time.monotonic()
        for row in rows:
            connection.execute(
                "SELECT post_ledger_entry(%s::text, %s::text, %s::text, %s::numeric, %s::text, %s::text, %s::text,"
                " %s::text, %s::numeric, %s::jsonb)",
                row,
                prepare=True,
            )
        seconds = time.monotonic() - started
        insist_on_rows(connection, "ledger_entries", len(rows), "one by one")
    return {"seconds": seconds, "entries": float(len(rows))}


def strategy_do_script(bench: Bench) -> Figures:
    """The strategy document's SQL script: a PL/pgSQL loop over a table of legacy rows, in one transaction.

    Its balances are right, and a row that fails is skipped with a notice, whatever the reason. One transaction for all:
    killed at any moment it has posted nothing, and every account that it touched stays locked until its end. How the
    rows came into `ledger_entries_legacy` is not measured.
    """
    rows = _rows(bench, DO_ROWS)
    with ledger_with_accounts(bench) as connection:
        connection.execute(_CREATE_LEGACY)
        columns = ", ".join(_LEGACY_COLUMNS)
        with connection.cursor().copy(f"COPY ledger_entries_legacy ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.execute("ANALYZE ledger_entries_legacy")
        started = time.monotonic()
        connection.execute(_DO_SCRIPT)
        seconds = time.monotonic() - started
        insist_on_rows(connection, "ledger_entries", len(rows), "DO script")
    return {"seconds": seconds, "entries": float(len(rows))}


def staging_and_upsert(bench: Bench) -> Figures:
    """Set-wise SQL, as a good engineer writes it in a day: staging table, INSERT … ON CONFLICT DO NOTHING, UPDATE.

    One transaction for the whole file, into a table with the keys and checks of the ledger and none of its triggers.
    Conversions are worked out and balances moved. A reference that is there already is passed over, with the same
    content or with another. One bad amount ends it all; it has no rejects, batches or resuming, and proves nothing.
    """
    with ledger_with_accounts(bench) as connection:
        create_entries_table(connection)
        with connection.transaction():
            started = time.monotonic()
            connection.execute(_CREATE_STAGED)
            with (
                export_file(bench).open("rb") as file,
                connection.cursor().copy("COPY staged FROM STDIN (FORMAT csv, HEADER)") as copy,
            ):
                while data := file.read(_COPY_BYTES):
                    copy.write(data)
            connection.execute("ANALYZE staged")
            connection.execute(_POST_STAGED)
        seconds = time.monotonic() - started
        insist_on_rows(connection, ENTRIES_TABLE, bench.entries.num_rows, "staging and upsert")
    return {"seconds": seconds, "entries": float(bench.entries.num_rows)}


def _rows(bench: Bench, count: int) -> list[tuple[object, ...]]:
    """The first entries, converted already, in the order of the posting function's arguments."""
    taken = bench.entries.slice(0, count).select(_LEGACY_COLUMNS).to_pylist()
    return [tuple(row[column] for column in _LEGACY_COLUMNS) for row in taken]
