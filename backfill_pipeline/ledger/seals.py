"""Seals: hashes over what was posted, chained per ledger, so that an entry that is touched later shows.

A batch is sealed at the end of the run that posted it. Its seal is provisional: the batch may still be deleted, which
the chain notes. It becomes final when a period that holds one of its entries is closed, or by `make_final`.

Belongs here: sealing, finality, and recomputing what seals say.
Does not: how entries are hashed (SQL, migration 0018), naming the entry that was touched (`stages/verify.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, LiteralString

from backfill_pipeline.ledger.connection import Connection, ledger_errors

# Entries that are hashed at a time: a few seconds of work, and some 100 MB on the server.
_ENTRIES_AT_A_TIME: Final = 1_000_000

_NOT_SEALED: Final = (
    "FROM backfill_batches b WHERE b.posted > 0"
    " AND NOT EXISTS (SELECT 1 FROM ledger_seals s WHERE s.kind = 'batch' AND s.batch_id = b.id)"
)


@dataclass(frozen=True, slots=True)
class Seal:
    """What a seal says that the ledger holds.

    Attributes:
        number: in the chain of its ledger.
        batch_id: of a batch; None of a period.
        month: of a period, its first day; None of a batch.
        entries: how many were sealed.
        digest: over them.
        annulled: the batch was rolled back, and the ledger should hold nothing of it.
    """

    ledger_id: str
    number: int
    batch_id: int | None
    month: date | None
    entries: int
    digest: bytes
    annulled: bool


@dataclass(frozen=True, slots=True)
class Touched:
    """A batch or period of a ledger that is not as it was sealed.

    Attributes:
        number: of the seal; None where the batch has none in this ledger.
        batch_id: of a batch; None of a period.
        month: of a period, its first day.
        sealed: how many entries the ledger should hold of it.
        found: how many it does hold. Where both are equal, one at least was edited or exchanged.
    """

    ledger_id: str
    number: int | None
    batch_id: int | None
    month: date | None
    sealed: int
    found: int


@dataclass(frozen=True, slots=True)
class ChainFault:
    """A seal that is not as it was made, or a place where seals are missing."""

    ledger_id: str
    number: int
    fault: str


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What no seal speaks of yet.

    Attributes:
        batches: those that no run sealed yet.
        periods: months that are closed without a seal, as ledger and month.
        live_entries: entries of no batch, in months that are open.
    """

    batches: tuple[int, ...]
    periods: tuple[str, ...]
    live_entries: int


def seal_batches(connection: Connection) -> int:
    """Seals every batch that is not sealed yet, in their order; how many seals that took.

    Raises:
        TransientLedgerError: another session seals for too long.
    """
    with ledger_errors("seal batches of"):
        waiting = connection.execute(f"SELECT b.id, b.posted {_NOT_SEALED} ORDER BY b.id").fetchall()
        return sum(
            _number(connection, "SELECT seal_batches(%s)", [batch_ids]) for batch_ids in _in_groups(waiting)
        )


def batches_of(connection: Connection, source_id: str, batch_id: int | None = None) -> list[int]:
    """The batches that posted entries of a source, or the one named if it is among them.

    A bank's days are sources of their own, named after it: those of a bank are those of all its days.
    """
    with ledger_errors("read batches of"):
        rows = connection.execute(
            "SELECT id FROM backfill_batches b WHERE posted > 0"
            " AND (b.source_id = %(source)s OR starts_with(b.source_id, %(source)s || '@'))"
            " AND (id = %(batch)s OR %(batch)s::bigint IS NULL) ORDER BY id",
            {"source": source_id, "batch": batch_id},
        ).fetchall()
    return [one for (one,) in rows]


def make_final(
    connection: Connection, batch_ids: Sequence[int], *, actor: str, subject: str, reason: str | None
) -> int:
    """Seals batches for good: from then on they are reversed, never deleted. How many became final by this."""
    with ledger_errors("seal batches of"):
        return _number(
            connection, "SELECT finalize_seals(%s, %s, %s, %s)", [list(batch_ids), actor, subject, reason]
        )


def chain_faults(connection: Connection) -> list[ChainFault]:
    """Everything that is wrong with the chains themselves; empty as long as nobody touched them."""
    with ledger_errors("verify seals of"):
        rows = connection.execute(
            "SELECT ledger_id, number, fault FROM ledger_seal_chain_faults()"
        ).fetchall()
    return [ChainFault(*row) for row in rows]


def chosen_seals(
    connection: Connection, *, source_id: str | None = None, since: datetime | None = None
) -> list[Seal]:
    """Seals to verify, in the order of their chains: those that count, and those of batches that were rolled back.

    Args:
        connection: to the ledger.
        source_id: only those of batches of this source (of a bank: of all its days), and no periods.
        since: only what was sealed from then on.
    """
    with ledger_errors("read seals of"):
        rows = connection.execute(
            "SELECT s.ledger_id, s.number, s.batch_id, s.month, s.entries, s.digest, f.number IS NULL"
            " FROM ledger_seals s"
            " LEFT JOIN ledger_seals_in_force f ON f.ledger_id = s.ledger_id AND f.number = s.number"
            " LEFT JOIN backfill_batches_ever b ON b.id = s.batch_id"
            " WHERE (s.kind = 'batch' OR s.kind = 'period' AND f.number IS NOT NULL)"
            " AND (%(source)s::text IS NULL"
            "      OR b.source_id = %(source)s OR starts_with(b.source_id, %(source)s || '@'))"
            " AND (s.sealed_at >= %(since)s OR %(since)s::timestamptz IS NULL)"
            " ORDER BY s.ledger_id, s.number",
            {"source": source_id, "since": since},
        ).fetchall()
    return [Seal(*row) for row in rows]


def touched(connection: Connection, seals: Sequence[Seal]) -> list[Touched]:
    """Hashes the entries of all these batches and periods anew; which of them are not as they were sealed."""
    found = []
    of_batches = [(one.batch_id, one) for one in seals if one.batch_id is not None]
    sizes: dict[int, int] = {}
    for batch_id, one in of_batches:
        sizes[batch_id] = sizes.get(batch_id, 0) + one.entries
    with ledger_errors("verify seals of"):
        there: dict[tuple[str, int], tuple[int, bytes]] = {}
        for batch_ids in _in_groups(sorted(sizes.items())):
            rows = connection.execute(
                "SELECT ledger_id, batch_id, entries, digest FROM ledger_batch_digests(%s)", [batch_ids]
            ).fetchall()
            there |= {
                (ledger_id, batch_id): (entries, digest) for ledger_id, batch_id, entries, digest in rows
            }
        for batch_id, one in of_batches:
            entries, digest = there.pop((one.ledger_id, batch_id), (0, None))
            sealed = 0 if one.annulled else one.entries
            if digest != (None if one.annulled else one.digest):
                found.append(Touched(one.ledger_id, one.number, batch_id, None, sealed, entries))
        # Entries that name a batch which posted nothing to their ledger.
        found += [Touched(key[0], None, key[1], None, 0, entries) for key, (entries, _) in there.items()]
        for one in seals:
            if one.month is not None:
                row = connection.execute(
                    "SELECT entries, digest FROM ledger_period_digest(%s, %s)", [one.ledger_id, one.month]
                ).fetchone()
                assert row is not None
                if row[1] != one.digest:
                    found.append(Touched(one.ledger_id, one.number, None, one.month, one.entries, row[0]))
    return found


def corrections_restoring(connection: Connection, one: Touched) -> tuple[int, ...]:
    """The corrections with which a batch or period is what was sealed, to the byte; none when it is not."""
    if one.number is None:
        return ()
    with ledger_errors("verify seals of"):
        row = connection.execute(
            "SELECT a.corrections FROM ledger_seals s"
            " CROSS JOIN LATERAL ledger_seal_as_corrected(s.ledger_id, s.number) a"
            " WHERE s.ledger_id = %s AND s.number = %s AND (a.entries, a.digest) = (s.entries, s.digest)",
            [one.ledger_id, one.number],
        ).fetchone()
    return () if row is None else tuple(row[0])


def unsealed(connection: Connection) -> Unsealed:
    """What of the ledger nobody would find out from seals if it were touched."""
    with ledger_errors("read seals of"):
        batches = connection.execute(f"SELECT b.id {_NOT_SEALED} ORDER BY b.id").fetchall()
        periods = connection.execute(
            "SELECT p.ledger_id || ' ' || to_char(p.month, 'YYYY-MM') FROM ledger_periods p WHERE NOT EXISTS"
            " (SELECT 1 FROM ledger_seals_in_force s WHERE s.ledger_id = p.ledger_id AND s.month = p.month) ORDER BY 1"
        ).fetchall()
        live = _number(
            connection,
            "SELECT count(*) FROM ledger_entries e WHERE e.batch_id IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM ledger_periods p"
            "  WHERE p.ledger_id = e.ledger_id AND p.month = ledger_month(e.timestamp_utc))",
            [],
        )
    return Unsealed(tuple(one for (one,) in batches), tuple(one for (one,) in periods), live)


def _in_groups(sizes: Iterable[tuple[int, int]]) -> Iterator[list[int]]:
    """Batches, as id and entries, in groups that are hashed together."""
    group: list[int] = []
    total = 0
    for batch_id, entries in sizes:
        if group and total + entries > _ENTRIES_AT_A_TIME:
            yield group
            group, total = [], 0
        group.append(batch_id)
        total += entries
    if group:
        yield group


def _number(connection: Connection, statement: LiteralString, parameters: Sequence[object]) -> int:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return int(row[0])
