"""Known entries: which staged rows the ledger has already.

Rows that the ledger has are met first and leave the staging table, so that a batch of nothing but duplicates costs a
join, and no row of it is looked at twice.

Belongs here: holding staged rows against the ledger by reference, and what tells two entries of one reference apart.
Does not: the staging tables and every other verdict (`staging`).
"""

from __future__ import annotations

from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.join_methods import JOIN_AS_USUAL, JOIN_BY_HASH, JOIN_BY_KEY
from backfill_pipeline.ledger.sampling import Sample

# When most of a sample is in the ledger, in a stretch of so many times the batch's own size, it is read as a whole.
_MOST = 0.75
_STRETCH_MAX = 3

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


def differences(row: str, other: str) -> str:
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


# A row that could not be an entry whatever the ledger holds: it takes no reference, and so it meets none.
AMOUNT_IMPOSSIBLE = "s.amount <= 0 OR s.amount >= 100000000000000000000 OR scale(s.amount) > 18"
FX_RATE_IMPOSSIBLE = "s.fx_rate <= 0 OR s.fx_rate >= 100000000000000000000 OR scale(s.fx_rate) > 18"
ACCOUNTS_IMPOSSIBLE = "s.debit_account_id = s.credit_account_id"
_IMPOSSIBLE = (
    f"(coalesce({AMOUNT_IMPOSSIBLE} OR {ACCOUNTS_IMPOSSIBLE}, false)"
    f" OR coalesce({FX_RATE_IMPOSSIBLE}, false))"
)
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
      FROM (SELECT s.source_row, {differences("s", "e")} AS differences
            FROM backfill_staging s JOIN ledger_entries e ON e.id = s.entry_id) AS compared) AS told
"""  # noqa: S608 - constants of this module only


def meet_ledger(
    connection: Connection, row_count: int, sample: Sample | None, *, drop_duplicates: bool
) -> int:
    """Holds the staged rows against the ledger: marks those whose reference it has with `entry_id`.

    Args:
        connection: inside the batch's transaction, its rows staged.
        row_count: of the batch.
        sample: of the batch; only makes it faster.
        drop_duplicates: rows that are identical to their entry leave the table.

    Returns:
        How many left.
    """
    dropped = 0
    if drop_duplicates and sample is not None and _lie_together(connection, sample):
        connection.execute(JOIN_BY_HASH)
        dropped = connection.execute(
            _TAKE_NEIGHBOURS,
            {"first": f"({sample.first_block},0)", "end": f"({sample.last_block + 1},0)"},
        ).rowcount
    if dropped < row_count:
        connection.execute(JOIN_BY_KEY)
        connection.execute(_MARK_AND_DROP if drop_duplicates else _MARK_ALL)
        left = connection.execute("SELECT count(*) FROM backfill_staging").fetchone()
        assert left is not None
        dropped = row_count - int(left[0])
    return dropped


def describe_met(connection: Connection) -> None:
    """Writes the verdicts on the rows that are marked: duplicates, and conflicts with what differs."""
    connection.execute(JOIN_BY_KEY)
    connection.execute(_DESCRIBE_MET)
    connection.execute(JOIN_AS_USUAL)


def _lie_together(connection: Connection, sample: Sample) -> bool:
    """Whether most of the batch is in the ledger, in a stretch that is not much longer than the batch."""
    if sample.found < _MOST * sample.looked_up:
        return False
    staged = connection.execute(
        "SELECT pg_relation_size('backfill_staging') / current_setting('block_size')::integer"
    ).fetchone()
    assert staged is not None
    return bool(sample.last_block - sample.first_block <= _STRETCH_MAX * staged[0])
