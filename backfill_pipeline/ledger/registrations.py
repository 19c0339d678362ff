"""Registrations: a source at one fingerprint and mapping, with its partitions.

Belongs here: registering (first time, again, grown, as a new revision, or refusing), loading, and the life of a
partition's row. The shapes and words of a registration are offered here as well.
Does not: telling growth from change (`source_changes.py`), reading the source, computing fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg.types.json import Jsonb

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger import checkpoints, source_data, source_files
from backfill_pipeline.ledger.connection import ADVISORY_LOCK_SPACE, Connection, ledger_errors
from backfill_pipeline.ledger.registered import (
    RULE_PREFIX,
    Partition,
    PartitionPlan,
    Registration,
    RegistrationPlan,
    partition_key,
)
from backfill_pipeline.ledger.source_changes import (
    describe_changes,
    describe_mapping_changes,
    gone_files,
    has_grown,
    refuse_copies,
    refuse_unless_safe,
)

__all__ = [
    "RULE_PREFIX",
    "Partition",
    "PartitionPlan",
    "Registration",
    "RegistrationPlan",
    "complete_partition",
    "describe_changes",
    "describe_mapping_changes",
    "gone_files",
    "load",
    "partition_key",
    "record_failure",
    "record_validated",
    "register",
    "source_ids",
    "what_registering_does",
]


def register(
    connection: Connection, plan: RegistrationPlan, *, accept_changed: bool = False
) -> tuple[Registration, bool]:
    """Registers a source; returns the registration and whether it is a new one.

    The same fingerprint and mapping again is the same registration. So is a source that only grew (`has_grown`): its
    partitions stay as they are, posted or not, and new ones are added. Any other change becomes a new revision when
    everything or nothing of the current one is posted, or when the caller accepts it; references keep entries from
    being posted twice.

    Raises:
        SourceChangedError: the source or its mapping changed while partitions of the current revision are still open,
            or a file that was registered is gone.
        SourceFileError: a file is a copy of another one, and would be posted once more.
    """
    with ledger_errors("register a source in"), connection.transaction():
        connection.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(%s))",
            [ADVISORY_LOCK_SPACE, f"register {plan.source_id}"],
        )
        current, revision, changes = what_registering_does(connection, plan, accept_changed=accept_changed)
        if current is None or revision != current.revision:
            _insert(connection, plan, revision)
        elif changes:
            _grow(connection, current, plan)
        else:
            return current, False
        registration = load(connection, plan.source_id)
        assert registration is not None
        _complete_registration(connection, registration)  # at once, when there are no rows
    return registration, True


def what_registering_does(
    connection: Connection, plan: RegistrationPlan, *, accept_changed: bool = False
) -> tuple[Registration | None, int, list[str]]:
    """What `register` would make of a survey, by looking alone.

    Returns:
        The current registration, the revision that the source would be (the current one's when nothing changed, and
        when it only grew), and what changed, in words.

    Raises:
        SourceChangedError: as `register`.
    """
    current = load(connection, plan.source_id)
    if current is None:
        refuse_copies((), plan, accept_changed=accept_changed)
        return None, 1, []
    changes = describe_changes(current, plan)
    if not changes:
        return current, current.revision, []
    refuse_copies(current.files, plan, accept_changed=accept_changed)
    if has_grown(connection, current, plan):
        return current, current.revision, changes
    if not accept_changed:
        refuse_unless_safe(connection, current, plan, changes)
    return current, current.revision + 1, changes


def _grow(connection: Connection, current: Registration, plan: RegistrationPlan) -> None:
    """Adds what is new; what is there keeps its partitions, batches, rejects and what it says should be there."""
    new = plan.partitions[len(current.partitions) :]
    source_files.record_growth(connection, current.id)
    connection.execute(
        "UPDATE backfill_registrations SET file_name = %s, size_bytes = %s, sha256 = %s, row_count = %s,"
        " completed_at = CASE WHEN %s THEN NULL ELSE completed_at END WHERE id = %s",
        [plan.file_name, plan.size_bytes, plan.sha256, plan.row_count, bool(new), current.id],
    )
    source_files.add(connection, current.id, plan.files, known=len(current.files))
    _insert_partitions(connection, current.id, current.revision, new, len(plan.partitions))
    if new:
        progress = {"sha256": plan.sha256, "rows": plan.row_count}
        checkpoints.grow(connection, plan.source_id, plan.source_type, progress)


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
    source_files.add(connection, row[0], plan.files)
    _insert_partitions(connection, row[0], revision, plan.partitions, len(plan.partitions))
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


def _insert_partitions(
    connection: Connection,
    registration_id: int,
    revision: int,
    partitions: Sequence[PartitionPlan],
    count: int,
) -> None:
    """Writes partitions of a registration that has, or will have, `count` of them."""
    with connection.cursor().copy(
        "COPY backfill_partitions (registration_id, partition_key, number, first_row, row_count, first_line,"
        " byte_offset, byte_length, sha256) FROM STDIN"
    ) as copy:
        for partition in partitions:
            copy.write_row(
                (
                    registration_id,
                    partition_key(revision, partition.number, count),
                    partition.number,
                    partition.first_row,
                    partition.row_count,
                    partition.first_line,
                    partition.byte_offset,
                    partition.byte_length,
                    partition.sha256,
                )
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
            " valid_rows, posted_at IS NOT NULL, error,"
            " posted_at IS NULL AND rolled_back_at IS NOT NULL AND NOT EXISTS"
            "  (SELECT FROM backfill_batches b WHERE b.partition_id = p.id AND b.posted_at >= p.rolled_back_at)"
            " FROM backfill_partitions p WHERE registration_id = %s ORDER BY number",
            [row[0]],
        ).fetchall()
        files = source_files.load(connection, row[0])
    loaded = tuple(Partition(p[0], p[1], PartitionPlan(*p[2:9]), *p[9:]) for p in partitions)
    fields = (*row[:9], tuple(row[9]), *row[10:], loaded, files)
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
