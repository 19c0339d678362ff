"""What the ledger keeps about a whole source: itself, or a bank with all of its days.

Belongs here: read-only queries for the report, each made once in sets, however many partitions or days there are.
Does not: figures and volumes (`figures.py`), single partitions (`status.py`), how far a bank is (`banks/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from backfill_pipeline.ledger.connection import Connection, ledger_errors

# The source itself, or every day of a bank: A follows @ in ASCII, so these are all of its days and nothing else.
_OF_SOURCE: Final = "({0} = %(source)s OR ({0} > %(source)s || '@' AND {0} < %(source)s || 'A'))"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows of a source's current revision (of a bank: of all its days).

    Attributes:
        rows: of the source.
        read: of these, the rows of partitions that are posted; the sum of the next five.
        in_progress: entries that unfinished partitions have in the ledger already.
        partitions: status → how many.
    """

    rows: int
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    in_progress: int
    partitions: dict[str, int]

    @property
    def adds_up(self) -> bool:
        """Whether every row that was read is accounted for."""
        return self.read == self.posted + self.duplicates + self.conflicts + self.rejected + self.filtered

    @property
    def not_posted(self) -> int:
        """Rows of partitions that are not posted."""
        return self.rows - self.read


@dataclass(frozen=True, slots=True)
class CodeCount:
    """Rows that were rejected with one code: those that still are, and those that were repaired since."""

    code: str
    rejected: int
    repaired: int


@dataclass(frozen=True, slots=True)
class RejectSample:
    """One row that is rejected. `source_id` tells the day of a bank; texts are as they were read, and may be long."""

    source_id: str
    partition_key: str
    source_row: int
    source_line: int
    code: str
    field: str | None
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class Revision:
    """A state in which a source was registered."""

    revision: int
    file_name: str
    size_bytes: int
    rows: int
    sha256: str
    registered_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A rollback. `scope` says of what: a partition, a batch, or None for all of the source."""

    id: int
    source_id: str
    scope: str | None
    mode: Literal["delete", "reverse"]
    entries: int
    actor: str
    reason: str | None
    rolled_back_at: datetime


@dataclass(frozen=True, slots=True)
class CorrectionLine:
    """A correction in a line. `subject` is the reference or the account that it is about."""

    id: int
    source_id: str
    kind: str
    status: str
    subject: str
    reason: str
    proposed_by: str
    approved_by: str | None


@dataclass(frozen=True, slots=True)
class Sealed:
    """How many batches have entries; of these, how many are sealed, and how many finally so."""

    batches: int
    sealed: int
    final: int


def registration_ids(connection: Connection, source_id: str) -> list[int]:
    """The current registration of a source, or those of all days of a bank."""
    with ledger_errors("read registrations from"):
        rows = connection.execute(
            "SELECT DISTINCT ON (source_id) id FROM backfill_registrations WHERE "  # noqa: S608 - a constant
            + _OF_SOURCE.format("source_id")
            + " ORDER BY source_id, revision DESC",
            {"source": source_id},
        ).fetchall()
    return [one for (one,) in rows]


def counts(connection: Connection, registrations: Sequence[int]) -> Counts:
    """What became of the rows of some registrations."""
    with ledger_errors("read progress from"):
        row = connection.execute(
            """
            WITH outcome AS MATERIALIZED (
                SELECT * FROM backfill_partition_outcomes WHERE registration_id = ANY(%(registrations)s)
            )
            SELECT coalesce(sum(read), 0)::bigint,
                   coalesce(sum(read) FILTER (WHERE status = 'posted'), 0)::bigint,
                   coalesce(sum(posted) FILTER (WHERE status = 'posted'), 0)::bigint,
                   coalesce(sum(duplicates) FILTER (WHERE status = 'posted'), 0)::bigint,
                   coalesce(sum(conflicts) FILTER (WHERE status = 'posted'), 0)::bigint,
                   coalesce(sum(rejected) FILTER (WHERE status = 'posted'), 0)::bigint,
                   coalesce(sum(filtered) FILTER (WHERE status = 'posted'), 0)::bigint,
                   coalesce(sum(posted) FILTER (WHERE status <> 'posted'), 0)::bigint,
                   (SELECT coalesce(jsonb_object_agg(status, count), '{}')
                    FROM (SELECT status, count(*) FROM outcome GROUP BY status) AS by_status)
            FROM outcome
            """,
            {"registrations": list(registrations)},
        ).fetchone()
    assert row is not None
    return Counts(*row)


def reject_counts(connection: Connection, registrations: Sequence[int]) -> list[CodeCount]:
    """Rejected rows by code, the most frequent first."""
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            "SELECT x.code, count(*) FILTER (WHERE x.state = 'open'), count(*) FILTER (WHERE x.state <> 'open')"
            " FROM backfill_rejects_now x JOIN backfill_partitions p ON p.id = x.partition_id"
            " WHERE p.registration_id = ANY(%(registrations)s) GROUP BY x.code ORDER BY 2 DESC, 3 DESC, 1",
            {"registrations": list(registrations)},
        ).fetchall()
    return [CodeCount(*row) for row in rows]


def reject_samples(
    connection: Connection, registrations: Sequence[int], *, per_code: int, characters: int
) -> list[RejectSample]:
    """The first rows of each code that are rejected now, by code and in source order.

    Args:
        connection: to the ledger.
        registrations: of the source.
        per_code: so many rows at most.
        characters: of the raw record and the reason, one more than these is read at most.
    """
    with ledger_errors("read rejects from"):
        rows = connection.execute(
            """
            SELECT source_id, partition_key, source_row, source_line, code, field, reason, raw
            FROM (SELECT r.source_id, p.partition_key, x.source_row, x.source_line, x.code, x.field,
                         left(x.reason, %(characters)s) AS reason, left(x.raw, %(characters)s) AS raw,
                         row_number() OVER (PARTITION BY x.code ORDER BY r.source_id, x.source_row) AS place
                  FROM backfill_rejects_now x
                  JOIN backfill_partitions p ON p.id = x.partition_id
                  JOIN backfill_registrations r ON r.id = p.registration_id
                  WHERE p.registration_id = ANY(%(registrations)s) AND x.state = 'open') AS rejected
            WHERE place <= %(per_code)s ORDER BY code, place
            """,
            {"registrations": list(registrations), "per_code": per_code, "characters": characters + 1},
        ).fetchall()
    return [RejectSample(*row) for row in rows]


def revisions(connection: Connection, source_id: str) -> list[Revision]:
    """Every state in which a source was registered, the newest first; of a bank, none."""
    with ledger_errors("read registrations from"):
        rows = connection.execute(
            "SELECT revision, file_name, size_bytes, row_count, sha256, registered_at, completed_at"
            " FROM backfill_registrations WHERE source_id = %s ORDER BY revision DESC",
            [source_id],
        ).fetchall()
    return [Revision(*row) for row in rows]


def rollbacks(connection: Connection, source_id: str, *, limit: int) -> tuple[int, list[RolledBack]]:
    """How many rollbacks there were, and the latest of them, newest first."""
    with ledger_errors("read rollbacks from"):
        rows = connection.execute(
            "SELECT count(*) OVER (), id, source_id,"  # noqa: S608 - a constant
            " coalesce('batch ' || batch_id, 'partition ' || partition_key), mode,"
            " coalesce((proof ->> 'entries')::bigint, 0), actor, reason, rolled_back_at"
            " FROM backfill_rollbacks WHERE "
            + _OF_SOURCE.format("source_id")
            + " ORDER BY id DESC LIMIT %(limit)s",
            {"source": source_id, "limit": limit},
        ).fetchall()
    return (rows[0][0] if rows else 0), [RolledBack(*row[1:]) for row in rows]


def corrections(connection: Connection, source_id: str, *, limit: int) -> tuple[int, list[CorrectionLine]]:
    """How many corrections the source was compared for, and the latest of them, newest first."""
    with ledger_errors("read corrections from"):
        rows = connection.execute(
            "SELECT count(*) OVER (), id, source_id, kind, status,"  # noqa: S608 - a constant
            " coalesce(reference_id, account_id, ''), reason, proposed_by, approved_by FROM ledger_corrections WHERE "
            + _OF_SOURCE.format("source_id")
            + " ORDER BY id DESC LIMIT %(limit)s",
            {"source": source_id, "limit": limit},
        ).fetchall()
    return (rows[0][0] if rows else 0), [CorrectionLine(*row[1:]) for row in rows]


def sealed(connection: Connection, source_id: str) -> Sealed:
    """How many batches with entries there are, opening balances included, and how far they are sealed."""
    with ledger_errors("read seals from"):
        row = connection.execute(
            "SELECT count(*), count(s.batch_id), count(s.batch_id) FILTER (WHERE s.final)"  # noqa: S608 - a constant
            " FROM backfill_batches b"
            " LEFT JOIN (SELECT batch_id, bool_or(final_at IS NOT NULL) AS final FROM ledger_seals"
            "            WHERE kind = 'batch' GROUP BY batch_id) s ON s.batch_id = b.id"
            " WHERE b.posted > 0 AND " + _OF_SOURCE.format("b.source_id"),
            {"source": source_id},
        ).fetchone()
    assert row is not None
    return Sealed(*row)
