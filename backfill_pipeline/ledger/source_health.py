"""How one source is: rows that do not add up, partitions that failed, when it was proven, and what its bank has
yet to hear of.

Belongs here: read-only checks of a source, or of all days of a bank, as quick with two thousand partitions as with two.
Does not: the whole ledger (`auditing/`), all sources at once (`monitoring/`), what people are told
(`orchestration/checks/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg import sql

from backfill_pipeline.ledger.auditing.findings import Check, Query, Severity
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.monitoring.banks import Waiting, waiting

LATE_AFTER: Final = timedelta(hours=1)
"""So long a bank may take to hear of something: as the alert rule of the outbox in `deploy/monitoring` has it."""

# A source, and where it is a bank, its days: scb_01@2024-03-01. The latest revision of each.
_CURRENT: Final = """
    SELECT DISTINCT ON (source_id) id, source_id FROM backfill_registrations
    WHERE source_id = {source} OR starts_with(source_id, {source} || '@') ORDER BY source_id, revision DESC
"""

_FAILED: Final = f"""
    SELECT c.source_id, p.partition_key, p.error
    FROM ({_CURRENT}) AS c JOIN backfill_partitions p ON p.registration_id = c.id
    WHERE p.error IS NOT NULL AND p.posted_at IS NULL
    UNION ALL
    SELECT d.source_id || '@' || d.day, NULL, d.error
    FROM sync_status d WHERE d.source_id = {{source}} AND NOT d.complete AND d.error IS NOT NULL
      AND NOT EXISTS (SELECT FROM ({_CURRENT}) AS c JOIN backfill_partitions p ON p.registration_id = c.id
                      WHERE c.source_id = d.source_id || '@' || d.day AND p.error IS NOT NULL
                        AND p.posted_at IS NULL)
"""  # noqa: S608 - put together from constants of this module, as the statement below

_ROWS: Final = f"""
    SELECT count(*), coalesce(sum(read), 0)::bigint, coalesce(sum(posted), 0)::bigint,
           coalesce(sum(duplicates), 0)::bigint, coalesce(sum(conflicts), 0)::bigint,
           coalesce(sum(rejected), 0)::bigint, coalesce(sum(filtered), 0)::bigint,
           count(*) FILTER (WHERE read <> posted + duplicates + conflicts + rejected + filtered
                               OR rejects_recorded <> conflicts + rejected)
    FROM backfill_partition_outcomes
    WHERE status = 'posted' AND registration_id = ANY (SELECT id FROM ({_CURRENT}) AS c)
"""  # noqa: S608


# A part of a source may be equal as well: only what was compared after everything had been posted counts.
_PROOF: Final = """
    SELECT max(c.reconciled_at), now() - max(c.reconciled_at)
    FROM backfill_registrations r JOIN backfill_reconciliations c ON c.registration_id = r.id
    WHERE r.source_id = %s AND c.verdict = 'match' AND c.rollback_id IS NULL AND c.reconciled_at >= r.completed_at
"""


@dataclass(frozen=True, slots=True)
class PostedRows:
    """Rows of the posted partitions of a source's current revision, or of all days of a bank.

    Attributes:
        partitions: that are posted.
        read: the sum of the next five, if nothing was lost.
        unbalanced: partitions of which it is not, or whose rejects are not those that are kept.
    """

    partitions: int
    read: int
    posted: int
    duplicates: int
    conflicts: int
    rejected: int
    filtered: int
    unbalanced: int


@dataclass(frozen=True, slots=True)
class Proof:
    """When a source was last proven equal to the ledger.

    Attributes:
        at: of the latest reconciliation without a break of a revision that was posted in full.
        age: since then, by the server's clock.
    """

    at: datetime
    age: timedelta


@dataclass(frozen=True, slots=True)
class OutboxLag:
    """What a bank has not heard of.

    Attributes:
        rows: by kind and status; empty where the ledger knows no such bank.
        late: the ones among them that wait for longer than they may, and were not given up.
        dead: rows that were given up.
    """

    rows: tuple[Waiting, ...]
    late: tuple[Waiting, ...]
    dead: int


def is_registered(connection: Connection, source_id: str) -> bool:
    """Whether the ledger knows a source, or a day of a bank."""
    statement = sql.SQL("SELECT EXISTS ({})").format(_of(_CURRENT, source_id))
    with ledger_errors("read progress from"):
        row = connection.execute(statement).fetchone()
    return bool(row and row[0])


def posted_rows(connection: Connection, source_id: str) -> PostedRows:
    """The count equation of what is posted."""
    with ledger_errors("read progress from"):
        row = connection.execute(_of(_ROWS, source_id)).fetchone()
    assert row is not None, "a sum is one row"
    return PostedRows(*row)


def failed_partitions(connection: Connection, source_id: str, *, is_bank: bool = False) -> Check:
    """Partitions, and days of a bank, whose latest try failed."""
    again = (
        f"the next night takes the days up, at once backfill sync run {source_id}"
        if is_bank
        else f"backfill resume {source_id}, or launch failed and missing partitions from the UI"
    )
    query = Query(
        Check(
            "failed_partitions",
            Severity.BREAK,
            "partitions that are not posted because their latest try failed",
            f"mend what the error says; then {again}: it carries on at the first batch that is not posted",
        ),
        _of(_FAILED, source_id).as_string(connection),
        "source_id, partition_key",
        ("backfill_partitions", "sync_status"),
    )
    with ledger_errors("read progress from"):
        return query.run(connection, frozenset(query.needs))


def last_proof(connection: Connection, source_id: str) -> Proof | None:
    """When a source was last proven equal to the ledger; None if it never was, or if that was taken back."""
    with ledger_errors("read reconciliations from"):
        row = connection.execute(_PROOF, [source_id]).fetchone()
    assert row is not None, "the latest of none is a row too"
    return None if row[0] is None else Proof(*row)


def outbox_lag(connection: Connection, bank_id: str, *, late_after: timedelta = LATE_AFTER) -> OutboxLag:
    """What a bank has not heard of, by the server's clock.

    Args:
        connection: to the ledger.
        bank_id: of the bank.
        late_after: how long it may wait.
    """
    with ledger_errors("read the outbox of"):
        rows = tuple(one for one in waiting(connection) if one.bank == bank_id)
        row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    now: datetime = row[0]
    late = tuple(
        one
        for one in rows
        if one.status != "DEAD" and one.oldest_at is not None and now - one.oldest_at > late_after
    )
    return OutboxLag(rows, late, sum(one.rows for one in rows if one.status == "DEAD"))


def _of(statement: str, source_id: str) -> sql.Composed:
    """A statement of this module, about one source."""
    return sql.SQL(statement).format(source=sql.Literal(source_id))
