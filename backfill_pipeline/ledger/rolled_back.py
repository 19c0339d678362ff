"""What was rolled back and is not posted again: for `status`, and for Dagster's picture of it.

Belongs here: read-only queries.
Does not: rolling back (`rollback.py`), posting again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg.rows import class_row

from backfill_pipeline.ledger.connection import Connection, ledger_errors

# Partitions of the current revision of a source, or of every day of a bank: A follows @ in ASCII, so these are all of
# its days and nothing else. Without a source, of all. What is rolled back is told as backfill_partition_outcomes does,
# without summing up what became of partitions that were not.
_OPEN = """
WITH wanted AS (
    SELECT max(g.id) AS id, g.source_id FROM backfill_registrations g
    WHERE %(source)s::text IS NULL OR g.source_id = %(source)s
          OR (g.source_id > %(source)s || '@' AND g.source_id < %(source)s || 'A')
    GROUP BY g.source_id
), taken AS (
    SELECT rollback_id, partition_id, sum(posted) AS entries FROM backfill_rolled_back_batches GROUP BY 1, 2
)
SELECT w.source_id, p.partition_key, b.id AS rollback_id, b.mode, b.actor, b.reason, b.rolled_back_at,
       coalesce(t.entries, 0)::bigint AS entries
FROM wanted w
JOIN backfill_partitions p ON p.registration_id = w.id AND p.posted_at IS NULL AND p.error IS NULL
JOIN backfill_rollbacks b ON b.id = p.rollback_id
LEFT JOIN taken t ON t.rollback_id = b.id AND t.partition_id = p.id
WHERE p.rolled_back_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM backfill_batches x WHERE x.partition_id = p.id AND x.posted_at >= p.rolled_back_at)
ORDER BY w.source_id, p.number
"""


@dataclass(frozen=True, slots=True)
class RolledBackPartition:
    """A partition of which nothing was posted anew since it, or a part of it, was rolled back.

    Attributes:
        source_id: of a bank, that of the day.
        entries: that the rollback took back of this partition.
    """

    source_id: str
    partition_key: str
    rollback_id: int
    mode: str
    actor: str
    reason: str | None
    rolled_back_at: datetime
    entries: int

    @property
    def shown_key(self) -> str:
        """Of a bank, the day."""
        _, _, day = self.source_id.partition("@")
        return day or self.partition_key

    @property
    def sentence(self) -> str:
        """Who took back what, when and why."""
        what = "reversed" if self.mode == "reverse" else "deleted"
        why = f": {self.reason}" if self.reason else ""
        return (
            f"rolled back by {self.actor} on {self.rolled_back_at:%Y-%m-%d %H:%M} UTC, {self.entries:,} entries"
            f" {what}{why}"
        )


@dataclass(frozen=True, slots=True)
class OpenRollback:
    """A rollback, and what of it is not posted again; of a bank, its partitions are days.

    Attributes:
        partitions: how many; `first` and `last` are in source order.
        entries: that it took back of these.
    """

    rollback_id: int
    partitions: int
    first: str
    last: str
    entries: int
    mode: str
    actor: str
    reason: str | None
    rolled_back_at: datetime
    sentence: str


def all_open_rollbacks(connection: Connection) -> dict[str, list[OpenRollback]]:
    """Source or bank → its rollbacks of which something is not posted again, the oldest first."""
    of_source: dict[str, list[RolledBackPartition]] = {}
    for one in rolled_back_partitions(connection):
        of_source.setdefault(one.source_id.partition("@")[0], []).append(one)
    return {source: _rollbacks_of(parts) for source, parts in of_source.items()}


def _rollbacks_of(partitions: Sequence[RolledBackPartition]) -> list[OpenRollback]:
    groups: dict[int, list[RolledBackPartition]] = {}
    for one in partitions:
        groups.setdefault(one.rollback_id, []).append(one)
    found = []
    for rollback_id, parts in sorted(groups.items()):
        whole = replace(parts[0], entries=sum(one.entries for one in parts))
        found.append(
            OpenRollback(
                rollback_id,
                len(parts),
                parts[0].shown_key,
                parts[-1].shown_key,
                whole.entries,
                whole.mode,
                whole.actor,
                whole.reason,
                whole.rolled_back_at,
                whole.sentence,
            )
        )
    return found


def rolled_back_partitions(connection: Connection, source_id: str | None = None) -> list[RolledBackPartition]:
    """Partitions of current revisions that are rolled back now.

    Args:
        connection: to the ledger.
        source_id: of a source; of a bank, for all of its days; None for all that there are.
    """
    with (
        ledger_errors("read rollbacks from"),
        connection.cursor(row_factory=class_row(RolledBackPartition)) as cursor,
    ):
        return cursor.execute(_OPEN, {"source": source_id}).fetchall()
