"""The audit's checks of the schema (§1.2): what has to be there, in force and healthy.

Belongs here: tables, functions, triggers, indexes and sequences, held against what the ledger relies on.
Does not: rows of accounts and batches (`audit_balances`, `audit_backfills`), applying anything (`migrate`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from psycopg import sql
from psycopg.rows import dict_row

from backfill_pipeline.ledger.auditing.findings import Check, Query, Severity, found
from backfill_pipeline.ledger.connection import Connection

# Without them the ledger is another one: entries could be posted twice, edited, or move no balance.
TABLES: Final = (
    "audit_log",
    "audit_log_head",
    "backfill_batches",
    "backfill_partitions",
    "backfill_registrations",
    "backfill_rejects",
    "backfill_replays",
    "backfill_rollbacks",
    "backfill_rolled_back_batches",
    "bank_accounts",
    "dual_ledger_outbox",
    "ledger_approvals",
    "ledger_backfill_checkpoints",
    "ledger_controls",
    "ledger_correction_entries",
    "ledger_corrections",
    "ledger_entries",
    "ledger_entry_conversions",
    "ledger_periods",
    "ledger_reversals",
    "ledger_seal_heads",
    "ledger_seals",
)
FUNCTIONS: Final = (
    "account_statement",
    "audit_log_faults",
    "balance_as_of",
    "ledger_balance_dips",
    "ledger_seal_chain_faults",
    "post_ledger_entry",
    "rollback_apply",
    "round_half_even",
    "seal_batches",
    "write_audit_log",
)
TRIGGERS: Final = {
    "ledger_entries": (
        "ledger_entries_admit_on_delete",
        "ledger_entries_admit_on_insert",
        "ledger_entries_append_only",
        "ledger_entries_apply_balances_on_delete",
        "ledger_entries_apply_balances_on_insert",
        "ledger_entries_keep_history",
        "ledger_entries_tell_banks",
    ),
    "ledger_entry_conversions": ("ledger_entry_conversions_append_only",),
    "bank_accounts": ("bank_accounts_keep_identity",),
    "audit_log": ("audit_log_append_only", "audit_log_chain"),
    "ledger_seals": ("ledger_seals_append_only", "ledger_seals_chain", "ledger_seals_only_become_final"),
    "ledger_corrections": (
        "ledger_corrections_begin",
        "ledger_corrections_guard",
        "ledger_corrections_keep",
    ),
    "ledger_correction_entries": (
        "ledger_correction_entries_guard",
        "ledger_correction_entries_keep",
    ),
}
# Share of a sequence's numbers after which somebody has to act.
_NEARLY_USED_UP: Final = 0.8

_MISSING: Final = Check(
    "schema_incomplete",
    Severity.BREAK,
    "parts of the schema that are missing or switched off",
    "post nothing before it is whole: enable what was disabled (ALTER TABLE … ENABLE TRIGGER …), and restore what was"
    " dropped from a backup or from the migrations of this release",
)
_DUPLICATES: Final = Query(
    Check(
        "duplicate_references",
        Severity.BREAK,
        "references that a ledger has more than once",
        "an entry was posted twice. Compare both with the source, and take one back by a correction; then rebuild the"
        " unique index (REINDEX)",
    ),
    "SELECT ledger_id, reference_id, count(*) AS entries FROM ledger_entries"
    " GROUP BY ledger_id, reference_id HAVING count(*) > 1",
    "ledger_id, reference_id",
    ("ledger_entries",),
)
_BAD_INDEXES: Final = Query(
    Check(
        "unhealthy_indexes",
        Severity.BREAK,
        "indexes that PostgreSQL does not keep or does not use",
        "an index was left half built, or the catalogue was changed: REINDEX INDEX, which fails where rows are doubled",
    ),
    "SELECT c.relname AS index, t.relname AS table, i.indisunique AS is_unique, i.indisvalid AS valid,"
    " i.indisready AS kept FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t"
    " ON t.oid = i.indrelid WHERE t.relnamespace = current_schema()::regnamespace"
    " AND NOT (i.indisvalid AND i.indisready AND i.indislive)",
    "index",
    (),
)
_LOST_KEYS: Final = Check(
    "unique_indexes_differ_from_tables",
    Severity.BREAK,
    "unique indexes that hold another number of rows than their table",
    "the index is damaged, and rows may be doubled: REINDEX INDEX, and find out what happened to the disk",
)
_SEQUENCES: Final = Check(
    "sequences_behind",
    Severity.BREAK,
    "sequences that will give a number that is taken",
    "rows were inserted with numbers of their own: SELECT setval(sequence, highest number)",
)
_USED_UP: Final = Check(
    "sequences_nearly_used_up",
    Severity.WARNING,
    f"sequences of whose numbers more than {_NEARLY_USED_UP:.0%} are used",
    "plan to change the column to bigint",
)

# From the catalogue: information_schema hides what belongs to others from whoever may only read.
_OBJECTS: Final = """
SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')
UNION ALL
SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
"""
_TRIGGERS: Final = """
SELECT c.relname, t.tgname, t.tgenabled IN ('O', 'A') AS enabled
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = current_schema()::regnamespace AND NOT t.tgisinternal
"""
_UNIQUE_REFERENCE: Final = """
SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass('ledger_entries') AND contype = 'u'
               AND conname LIKE '%reference%')
"""
# Whole unique indexes of the tables that a ledger stands on; their columns are what the rows are counted by.
_UNIQUE_INDEXES: Final = """
SELECT c.relname AS index, t.relname AS "table",
       ARRAY(SELECT a.attname FROM unnest(i.indkey) WITH ORDINALITY AS key (number, place)
             JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = key.number ORDER BY key.place) AS columns
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
WHERE t.relnamespace = current_schema()::regnamespace AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
  AND t.relname IN ('bank_accounts', 'ledger_entries', 'ledger_entry_conversions')
ORDER BY 2, 1
"""
# last_value is NULL where the reader may not look at the sequence, and where it was never asked.
_OWNED_SEQUENCES: Final = """
SELECT s.sequencename AS sequence, t.relname AS "table", a.attname AS "column", s.last_value,
       least(s.max_value, CASE a.atttypid WHEN 'integer'::regtype THEN 2147483647 ELSE 9223372036854775807 END)
           AS max_value
FROM pg_depend d
JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_class t ON t.oid = d.refobjid
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
JOIN pg_sequences s ON s.schemaname = current_schema() AND s.sequencename = c.relname
WHERE d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relnamespace = current_schema()::regnamespace
  AND has_sequence_privilege(c.oid, 'SELECT')
ORDER BY 1
"""
# What an index says must not be asked of that index.
_FROM_THE_TABLE: Final = """
SET LOCAL enable_seqscan = on;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_bitmapscan = off;
"""
_FROM_THE_INDEX: Final = """
SET LOCAL enable_seqscan = off;
SET LOCAL enable_indexscan = on;
SET LOCAL enable_indexonlyscan = on;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_sort = off;
SET LOCAL enable_incremental_sort = off;
"""
_AS_USUAL: Final = """
SET LOCAL enable_seqscan TO DEFAULT;
SET LOCAL enable_indexscan TO DEFAULT;
SET LOCAL enable_indexonlyscan TO DEFAULT;
SET LOCAL enable_bitmapscan TO DEFAULT;
SET LOCAL enable_sort TO DEFAULT;
SET LOCAL enable_incremental_sort TO DEFAULT;
"""


def present_objects(connection: Connection) -> frozenset[str]:
    """Names of the tables, views and functions of the ledger's schema."""
    return frozenset(name for (name,) in connection.execute(_OBJECTS, prepare=False))


def missing_parts(connection: Connection, present: frozenset[str]) -> tuple[str, ...]:
    """What the ledger relies on and what is not there or not in force, in words."""
    unique = connection.execute(_UNIQUE_REFERENCE, prepare=False).fetchone()
    missing = []
    if not (unique and unique[0]):
        missing.append("idempotency constraint on ledger_entries (ledger_id, reference_id)")
    missing += [f"table {name}" for name in TABLES if name not in present]
    missing += [f"function {name}" for name in FUNCTIONS if name not in present]
    return (*missing, *_missing_triggers(connection, present))


def _missing_triggers(connection: Connection, present: frozenset[str]) -> Iterator[str]:
    """Those that have to be there and are not, and those that are there and switched off, whichever they are."""
    enabled: defaultdict[str, set[str]] = defaultdict(set)
    disabled: defaultdict[str, set[str]] = defaultdict(set)
    for table, name, is_enabled in connection.execute(_TRIGGERS, prepare=False):
        (enabled if is_enabled else disabled)[table].add(name)
    for table in sorted(present & {*TRIGGERS, *disabled}):
        absent = ({*TRIGGERS.get(table, ())} | disabled[table]) - enabled[table]
        if absent:
            yield f"enabled triggers on {table}: {', '.join(sorted(absent))}"


def schema_checks(
    connection: Connection, present: frozenset[str], missing: tuple[str, ...]
) -> Iterator[Check]:
    """All checks of the schema, in the caller's snapshot.

    Args:
        connection: in a transaction with one snapshot.
        present: tables, views and functions that are there.
        missing: of `missing_parts`.
    """
    yield found(_MISSING, len(missing), [{"missing": part} for part in missing])
    connection.execute(_FROM_THE_TABLE)
    yield _DUPLICATES.run(connection, present)
    connection.execute(_AS_USUAL)
    yield _BAD_INDEXES.run(connection, present)
    yield _lost_keys(connection)
    yield from _sequences(connection)


def _lost_keys(connection: Connection) -> Check:
    """Counts each table once by reading it, and once by each of its unique indexes."""
    with connection.cursor(row_factory=dict_row) as cursor:
        indexes = cursor.execute(_UNIQUE_INDEXES, prepare=False).fetchall()
    rows: dict[str, int] = {}
    connection.execute(_FROM_THE_TABLE)
    for table in {index["table"] for index in indexes}:
        rows[table] = _count(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
    connection.execute(_FROM_THE_INDEX)
    differ = []
    for index in indexes:
        # In the order of the index and without a sort, which leaves nothing but that index.
        columns = sql.SQL(", ").join(sql.Identifier(name) for name in index["columns"])
        keys = _count(
            connection,
            sql.SQL("SELECT count(*) FROM (SELECT {0} FROM {1} ORDER BY {0} OFFSET 0) AS key").format(
                columns, sql.Identifier(index["table"])
            ),
        )
        if keys != rows[index["table"]]:
            differ.append({"index": index["index"], "keys": keys, "rows": rows[index["table"]]})
    connection.execute(_AS_USUAL)
    return found(_LOST_KEYS, len(differ), differ)


def _sequences(connection: Connection) -> Iterator[Check]:
    with connection.cursor(row_factory=dict_row) as cursor:
        sequences = cursor.execute(_OWNED_SEQUENCES, prepare=False).fetchall()
    behind, used_up = [], []
    for one in sequences:
        highest = _count(
            connection,
            sql.SQL("SELECT coalesce(max({}), 0) FROM {}").format(
                sql.Identifier(one["column"]), sql.Identifier(one["table"])
            ),
        )
        row = {**one, "highest": highest}
        if highest > (one["last_value"] or 0):
            behind.append(row)
        if (one["last_value"] or 0) > _NEARLY_USED_UP * one["max_value"]:
            used_up.append(row)
    yield found(_SEQUENCES, len(behind), behind)
    yield found(_USED_UP, len(used_up), used_up)


def _count(connection: Connection, query: sql.Composed) -> int:
    row = connection.execute(query, prepare=False).fetchone()
    assert row is not None
    return int(row[0])
