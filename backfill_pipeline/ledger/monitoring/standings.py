"""How every source and bank stands, for `backfill status`.

Belongs here: what is said of the current revision of each source, and of all days of each bank, by queries that are
made once for all of them: two thousand partitions and a hundred sources take as many as one.
Does not: what only sums interest in (`sources.py`), single partitions (`ledger/status.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from backfill_pipeline.ledger.banks.bank_days import BankDays
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.monitoring.partitions import CURRENT, OPEN_REJECTS, PARTS


@dataclass(frozen=True, slots=True)
class StateCounts:
    """Partitions of a source that are in one state, and what became of their rows; `read` are all that they have."""

    partitions: int
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int


@dataclass(frozen=True, slots=True)
class SourceStanding:
    """How the current revision of a source stands.

    Attributes:
        rows: of the source, as it was registered.
        status: of its checkpoint, like the next four; None without one.
        processed: rows that the checkpoint accounts for.
        verdict: of the latest reconciliation that may still be the truth; None without one.
        states: state of partitions → their counts, by the first partition that is in it.
        failures: key of each partition whose last try failed → why, in source order.
        rejects: code → rows that are rejected now, the most frequent first.
    """

    source_id: str
    revision: int
    file_name: str
    rows: int
    status: str | None
    processed: int
    last_checkpoint_at: datetime | None
    error: str | None
    verdict: str | None
    reconciled_at: datetime | None
    states: dict[str, StateCounts] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    rejects: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BankStanding:
    """How the days of a bank stand, taken together; `rejects` as of a source."""

    source_id: str
    days: BankDays
    rejects: dict[str, int] = field(default_factory=dict)


_SOURCES: Final = f"""
    SELECT c.source_id, c.revision, c.file_name, c.row_count, k.status, coalesce(k.total_processed, 0),
           k.last_checkpoint_at AT TIME ZONE 'UTC', k.error_message, v.verdict, v.reconciled_at
    FROM ({CURRENT}) AS c
    LEFT JOIN (SELECT DISTINCT ON (source_id) * FROM ledger_backfill_checkpoints
               ORDER BY source_id, last_checkpoint_at DESC, id DESC) AS k ON k.source_id = c.source_id
    LEFT JOIN (SELECT DISTINCT ON (registration_id) registration_id, verdict, reconciled_at
               FROM backfill_reconciliations WHERE rollback_id IS NULL ORDER BY registration_id, id DESC) AS v
        ON v.registration_id = c.id
    WHERE c.day IS NULL ORDER BY c.source_id
"""  # noqa: S608 - put together from constants, as the statements below

_STATES: Final = f"""
    WITH {PARTS}
    SELECT source_id, state, count(*), sum(row_count)::bigint, sum(posted)::bigint, sum(duplicates)::bigint,
           sum(conflicts)::bigint, sum(rejected)::bigint, sum(filtered)::bigint
    FROM part WHERE source_id = source GROUP BY source_id, state ORDER BY source_id, min(number)
"""  # noqa: S608

_FAILURES: Final = f"""
    SELECT c.source_id, p.partition_key, p.error
    FROM ({CURRENT}) AS c JOIN backfill_partitions p ON p.registration_id = c.id
    WHERE c.day IS NULL AND p.error IS NOT NULL AND p.posted_at IS NULL ORDER BY c.source_id, p.number
"""  # noqa: S608

_COUNTS: Final = ", ".join(
    f"coalesce(sum({name}) FILTER (WHERE state = 'posted'), 0)::bigint"
    for name in ("p.row_count", "posted", "duplicates", "conflicts", "rejected", "filtered")
)
_BANKS: Final = f"""
    WITH {PARTS}
    SELECT c.source, count(DISTINCT c.day), min(c.day)::date, max(c.day)::date,
           count(DISTINCT c.day) FILTER (WHERE p.state <> 'posted'), {_COUNTS}
    FROM ({CURRENT}) AS c LEFT JOIN part p ON p.registration_id = c.id
    WHERE c.day IS NOT NULL GROUP BY c.source ORDER BY c.source
"""  # noqa: S608

_REJECTS: Final = f"""
    WITH {OPEN_REJECTS}
    SELECT source, day IS NOT NULL, code, count(*) FROM rejected GROUP BY 1, 2, 3 ORDER BY 1, 2, 4 DESC, 3
"""  # noqa: S608


def standings(connection: Connection) -> tuple[list[SourceStanding], list[BankStanding]]:
    """Every source that was ever registered, by id, and every bank likewise.

    Args:
        connection: in a transaction whose queries see the same (`moment.one_moment`).
    """
    with ledger_errors("read progress from"):
        sources = {row[0]: SourceStanding(*row) for row in connection.execute(_SOURCES).fetchall()}
        for source_id, state, *counts in connection.execute(_STATES).fetchall():
            sources[source_id].states[state] = StateCounts(*counts)
        for source_id, key, error in connection.execute(_FAILURES).fetchall():
            sources[source_id].failures[key] = error
        banks = {
            row[0]: BankStanding(row[0], BankDays(*row[1:])) for row in connection.execute(_BANKS).fetchall()
        }
        for source, is_bank, code, rows in connection.execute(_REJECTS).fetchall():
            rejects = banks[source].rejects if is_bank else sources[source].rejects
            rejects[code] = rows
    return list(sources.values()), list(banks.values())
