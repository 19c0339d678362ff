"""What became of a source since it was registered: nothing, growth, or a change.

Belongs here: telling these apart, wording them, and refusing those that nobody can have meant.
Does not: registering (`registrations.py`), reading the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.ledger import source_files
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.registered import (
    REFERENCES,
    RULE_PREFIX,
    Registration,
    RegistrationPlan,
    key_digits,
)
from backfill_pipeline.ledger.source_files import RegisteredFile
from backfill_pipeline.wording import are, counted


def refuse_copies(known: Sequence[RegisteredFile], plan: RegistrationPlan, *, accept_changed: bool) -> None:
    """Raises SourceFileError for a copy of a file: it would be posted once more under generated references.

    Every row would be a repeat. Under references of the source's own, its rows are duplicates.
    """
    if accept_changed or not _generates_references(plan):
        return
    names = {file.name for file in known}
    contents: dict[str, str] = {file.sha256: file.name for file in known}
    for file in plan.files:
        first = contents.setdefault(file.sha256, file.name)
        if file.row_count and file.name not in names and first != file.name:
            raise SourceFileError(
                f"{file.name} of source {plan.source_id} holds exactly what {first} holds, and under generated"
                " references all of it would be posted once more: take one of the two away, or register both with"
                " --accept-changed (manifest config: accept_changed)"
            )


def _generates_references(plan: RegistrationPlan) -> bool:
    return not plan.mapping_parts.get(REFERENCES, "").startswith(RULE_PREFIX)


def has_grown(connection: Connection, current: Registration, plan: RegistrationPlan) -> bool:
    """Whether a source only got more rows behind those that are registered, or more files.

    Then nothing that was planned changed: every partition has the rows, the bytes and the place that it had.
    """
    if not _continues(current, plan):
        return False
    # A repaired row got the occurrence after those of its content in the source. A new row of that content would get
    # the same one, and be taken for it.
    with ledger_errors("read replays from"):
        return not (_generates_references(plan) and source_files.has_replays(connection, current.id))


def _continues(current: Registration, plan: RegistrationPlan) -> bool:
    known, found = [partition.plan for partition in current.partitions], list(plan.partitions)
    longer = len(found) > len(known) or 0 < len(current.files) < len(plan.files)
    return (
        longer
        and found[: len(known)] == known
        and tuple(plan.files[: len(current.files)]) == current.files
        and (plan.header, plan.mapping_sha256) == (current.header, current.mapping_sha256)
        and plan.source_type == current.source_type
        and not describe_mapping_changes(current, plan.mapping_parts)
        and key_digits(len(found)) == key_digits(len(known))
    )


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
        and not (part == REFERENCES and _same_references(current, parts))
    ]


def _same_references(current: Registration, parts: Mapping[str, str]) -> bool:
    """Whether rows get the references that they had. Nothing is known of that from before it was recorded."""
    before, now = current.mapping_parts.get(REFERENCES, ""), parts.get(REFERENCES, "")
    return before == now or (not before and now.startswith(RULE_PREFIX))


def refuse_unless_safe(
    connection: Connection, current: Registration, plan: RegistrationPlan, changes: Sequence[str]
) -> None:
    """Raises SourceChangedError where a new revision would mix two truths, or post entries once more."""
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE p.registration_id = %s)"
        " FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id WHERE b.source_id = %s",
        [current.id, current.source_id],
    ).fetchone()
    assert row is not None
    batches, current_batches = row
    _refuse_gone(current, plan, posted=bool(current_batches))
    what = " and ".join(changes)
    open_partitions = sum(not partition.posted for partition in current.partitions)
    # As long as nothing of it is posted there is nothing to resume: a first mistake is corrected freely.
    if current_batches and open_partitions:
        raise SourceChangedError(
            f"source {plan.source_id} changed since it was registered: {what}; {open_partitions} of"
            f" {counted(len(current.partitions), 'partition')} {are(open_partitions)} not posted yet, so"
            " restore what changed and resume, or register it as a new revision with --accept-changed (manifest config:"
            " accept_changed)"
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


def _refuse_gone(current: Registration, plan: RegistrationPlan, *, posted: bool) -> None:
    there = {file.name for file in plan.files}
    gone = [file.name for file in current.files if file.name not in there]
    if gone and posted:
        raise SourceChangedError(gone_files(current.source_id, gone))


def gone_files(source_id: str, names: Sequence[str]) -> str:
    """Says that files which were registered are not there any more, and what to do."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"source {source_id} lacks what was registered of it: {', '.join(names[:3])}{more}; put it back (a source is"
        " reconciled, and run again, from all its files), or register what is there as a new revision with"
        " --accept-changed (manifest config: accept_changed)"
    )
