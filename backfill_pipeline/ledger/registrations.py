"""Registrations: a source at one fingerprint and mapping, with its partitions.

Belongs here: registering (first time, again, as a new revision, or refusing), loading, and the life of a partition's
row.
Does not: reading the source; computing fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from backfill_pipeline.errors import LedgerError, SourceChangedError
from backfill_pipeline.ledger import checkpoints, source_data
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors

RULE_PREFIX = "rule:"
"""Begins what `mapping_parts["reference_columns"]` holds for references that are not generated."""

_REFERENCES = "reference_columns"


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """Where a partition's rows lie in the source. Rows and lines count from 1."""

    number: int
    first_row: int
    row_count: int
    first_line: int
    byte_offset: int
    byte_length: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RegistrationPlan:
    """What a survey of the source found. `mapping_parts` names each section of the definition with its hash."""

    source_id: str
    source_type: str
    file_name: str
    size_bytes: int
    sha256: str
    mapping_sha256: str
    mapping_parts: Mapping[str, str]
    header: tuple[str, ...]
    row_count: int
    partitions: Sequence[PartitionPlan]


@dataclass(frozen=True, slots=True)
class Partition:
    """A registered partition."""

    id: int
    key: str
    plan: PartitionPlan
    valid_rows: int | None
    posted: bool
    error: str | None


@dataclass(frozen=True, slots=True)
class Registration:
    """A registered source with its partitions in source order."""

    id: int
    source_id: str
    source_type: str
    revision: int
    file_name: str
    size_bytes: int
    sha256: str
    mapping_sha256: str
    mapping_parts: Mapping[str, str]
    header: tuple[str, ...]
    row_count: int
    registered_at: datetime
    completed_at: datetime | None
    partitions: tuple[Partition, ...]

    def partition(self, key: str) -> Partition:
        """The partition with this key; KeyError when there is none."""
        for partition in self.partitions:
            if partition.key == key:
                return partition
        raise KeyError(key)


def partition_key(revision: int, number: int, count: int) -> str:
    """Zero-padded, so that keys sort in source order; later revisions carry their number."""
    digits = max(4, len(str(count)))
    return f"{number:0{digits}d}" if revision == 1 else f"r{revision}-{number:0{digits}d}"


def register(
    connection: Connection, plan: RegistrationPlan, *, accept_changed: bool = False
) -> tuple[Registration, bool]:
    """Registers a source; returns the registration and whether it is a new one.

    The same fingerprint and mapping again is the same registration. A changed one becomes a new revision when
    everything or nothing of the current one is posted, or when the caller accepts it; references keep entries from
    being posted twice.

    Raises:
        SourceChangedError: the source or its mapping changed while partitions of the current revision are still open.
    """
    with ledger_errors("register a source in"), connection.transaction():
        connection.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(%s))",
            [ADVISORY_LOCK_SPACE, f"register {plan.source_id}"],
        )
        current = load(connection, plan.source_id)
        if current is not None:
            changes = describe_changes(current, plan)
            if not changes:
                return current, False
            if not accept_changed:
                _refuse_unless_safe(connection, current, plan, changes)
        _insert(connection, plan, current.revision + 1 if current else 1)
        registration = load(connection, plan.source_id)
        assert registration is not None
        _complete_registration(connection, registration)  # at once, when there are no rows
    return registration, True


def describe_changes(current: Registration, plan: RegistrationPlan) -> list[str]:
    """What differs between a registration and the source as it is now, in words."""
    changes = []
    if current.sha256 != plan.sha256:
        size = (
            f"{current.size_bytes:,} → {plan.size_bytes:,} bytes, "
            if current.size_bytes != plan.size_bytes
            else ""
        )
        changes.append(
            f"the content of {plan.file_name} ({size}SHA-256 {current.sha256[:12]}… → {plan.sha256[:12]}…)"
        )
    return changes + describe_mapping_changes(current, plan.mapping_parts)


def describe_mapping_changes(current: Registration, parts: Mapping[str, str]) -> list[str]:
    """Which sections of the source definition differ from the registered ones, in words."""
    return [
        f"the mapping section '{part}'"
        for part in sorted({*current.mapping_parts, *parts})
        if current.mapping_parts.get(part) != parts.get(part)
        and not (part == _REFERENCES and _same_references(current, parts))
    ]


def _same_references(current: Registration, parts: Mapping[str, str]) -> bool:
    """Whether rows get the references that they had. Nothing is known of that from before it was recorded."""
    before, now = current.mapping_parts.get(_REFERENCES, ""), parts.get(_REFERENCES, "")
    return before == now or (not before and now.startswith(RULE_PREFIX))


def _refuse_unless_safe(
    connection: Connection, current: Registration, plan: RegistrationPlan, changes: Sequence[str]
) -> None:
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE p.registration_id = %s)"
        " FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id WHERE b.source_id = %s",
        [current.id, current.source_id],
    ).fetchone()
    assert row is not None
    batches, current_batches = row
    what = " and ".join(changes)
    open_partitions = sum(not partition.posted for partition in current.partitions)
    # As long as nothing of it is posted there is nothing to resume: a first mistake is corrected freely.
    if current_batches and open_partitions:
        raise SourceChangedError(
            f"source {plan.source_id} changed since it was registered: {what}; {open_partitions} of"
            f" {len(current.partitions)} partitions are not posted yet, so restore what changed and resume,"
            " or register it as a new revision with --accept-changed (manifest config: accept_changed)"
        )
    # Entries of every earlier revision count: they would be posted once more under other references.
    if not batches:
        return
    if not _same_references(current, plan.mapping_parts):
        raise SourceChangedError(
            f"source {plan.source_id} makes its references from other columns or by another rule than before: entries"
            " posted already would be posted once more under new references; keep fields.reference_id and"
            " fields.ledger_id and what they are made of,"
            " or register it as a new revision with --accept-changed (manifest config: accept_changed)"
        )


def _insert(connection: Connection, plan: RegistrationPlan, revision: int) -> None:
    row = connection.execute(
        "INSERT INTO backfill_registrations (source_id, source_type, revision, file_name, size_bytes, sha256,"
        " mapping_sha256, mapping_parts, header, row_count) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " RETURNING id",
        [
            plan.source_id,
            plan.source_type,
            revision,
            plan.file_name,
            plan.size_bytes,
            plan.sha256,
            plan.mapping_sha256,
            Jsonb(dict(plan.mapping_parts)),
            list(plan.header),
            plan.row_count,
        ],
    ).fetchone()
    assert row is not None
    # What an earlier revision said is no longer what the source says.
    source_data.forget(connection, plan.source_id)
    with connection.cursor().copy(
        "COPY backfill_partitions (registration_id, partition_key, number, first_row, row_count, first_line,"
        " byte_offset, byte_length, sha256) FROM STDIN"
    ) as copy:
        for partition in plan.partitions:
            copy.write_row(
                (
                    row[0],
                    partition_key(revision, partition.number, len(plan.partitions)),
                    partition.number,
                    partition.first_row,
                    partition.row_count,
                    partition.first_line,
                    partition.byte_offset,
                    partition.byte_length,
                    partition.sha256,
                )
            )
    checkpoints.start(
        connection,
        plan.source_id,
        plan.source_type,
        {
            "revision": revision,
            "sha256": plan.sha256,
            "mapping_sha256": plan.mapping_sha256,
            "rows": plan.row_count,
        },
    )


def load(connection: Connection, source_id: str) -> Registration | None:
    """The current (latest) registration of a source, or None."""
    with ledger_errors("read registrations from"):
        row = connection.execute(
            "SELECT id, source_id, source_type, revision, file_name, size_bytes, sha256, mapping_sha256, mapping_parts,"
            " header, row_count, registered_at, completed_at FROM backfill_registrations WHERE source_id = %s"
            " ORDER BY revision DESC LIMIT 1",
            [source_id],
        ).fetchone()
        if row is None:
            return None
        partitions = connection.execute(
            "SELECT id, partition_key, number, first_row, row_count, first_line, byte_offset, byte_length, sha256,"
            " valid_rows, posted_at IS NOT NULL, error FROM backfill_partitions WHERE registration_id = %s"
            " ORDER BY number",
            [row[0]],
        ).fetchall()
    loaded = tuple(Partition(p[0], p[1], PartitionPlan(*p[2:9]), *p[9:]) for p in partitions)
    fields = (*row[:9], tuple(row[9]), *row[10:], loaded)
    return Registration(*fields)


def source_ids(connection: Connection) -> list[str]:
    """All sources that were ever registered."""
    with ledger_errors("read registrations from"):
        rows = connection.execute(
            "SELECT DISTINCT source_id FROM backfill_registrations ORDER BY source_id"
        ).fetchall()
    return [source_id for (source_id,) in rows]


def record_validated(
    connection: Connection,
    partition_id: int,
    *,
    rejected: int,
    filtered: int,
    valid_rows: int,
    filtered_by_reason: Mapping[str, int] | None = None,
) -> None:
    """Notes what validation left, in the transaction that replaces the partition's early rejects.

    `filtered` of the rows are left out on purpose; `filtered_by_reason` says how many of them for which reason.
    """
    connection.execute(
        "UPDATE backfill_partitions SET rejected_early = %s, filtered = %s, filtered_by_reason = %s, valid_rows = %s,"
        " validated_at = now() WHERE id = %s",
        [rejected, filtered, Jsonb(dict(filtered_by_reason or {})), valid_rows, partition_id],
    )


def record_failure(connection: Connection, partition_id: int, error: str) -> None:
    """Notes why a partition's last try failed. A posted partition stays posted."""
    with ledger_errors("record progress in"):
        connection.execute("UPDATE backfill_partitions SET error = %s WHERE id = %s", [error, partition_id])


def complete_partition(connection: Connection, registration: Registration, partition_id: int) -> None:
    """Marks a partition as posted, if and only if every row it read is accounted for.

    The rows that never reached posting enter the checkpoint's counters here, once.

    Raises:
        LedgerError: read ≠ posted + duplicates + conflicts + rejected + filtered, or a reject was counted but not kept.
    """
    with ledger_errors("complete a partition in"), connection.transaction():
        # Whoever completes it at the same time waits here and then finds it posted: counters move once.
        connection.execute("SELECT 1 FROM backfill_partitions WHERE id = %s FOR UPDATE", [partition_id])
        row = connection.execute(
            "SELECT partition_key, read, posted, duplicates, conflicts, rejected, filtered, rejects_recorded, posted_at"
            " FROM backfill_partition_outcomes WHERE partition_id = %s",
            [partition_id],
        ).fetchone()
        assert row is not None
        key, read, posted, duplicates, conflicts, rejected, filtered, recorded, posted_at = row
        if read != posted + duplicates + conflicts + rejected + filtered or recorded != conflicts + rejected:
            raise LedgerError(
                f"partition {key} of {registration.source_id} does not add up: read {read}, posted {posted}, duplicates"
                f" {duplicates}, conflicts {conflicts}, rejected {rejected}, filtered {filtered}, {recorded} rejects"
                " kept; materialize it again from extracted on"
            )
        connection.execute(
            "UPDATE backfill_partitions SET posted_at = coalesce(posted_at, now()), error = NULL WHERE id = %s",
            [partition_id],
        )
        if posted_at is None:
            early = connection.execute(
                "SELECT coalesce(rejected_early, 0), coalesce(filtered, 0) FROM backfill_partitions WHERE id = %s",
                [partition_id],
            ).fetchone()
            assert early is not None
            checkpoints.advance(
                connection,
                registration.source_id,
                registration.source_type,
                processed=early[0] + early[1],
                successful=0,
                failed=early[0],
                metadata={"partition": key},
            )
        _complete_registration(connection, registration)


def _complete_registration(connection: Connection, registration: Registration) -> None:
    done = connection.execute(
        "UPDATE backfill_registrations r SET completed_at = now() WHERE id = %s AND completed_at IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM backfill_partitions p WHERE p.registration_id = r.id AND p.posted_at IS NULL)",
        [registration.id],
    )
    if done.rowcount:
        checkpoints.finish(connection, registration.source_id, registration.source_type, error=None)
