"""The inbox: what is to be done with the files of a source.

Belongs here: which files are new, done, copies or in the way, and the next steps that follow from that and the ledger.
Does not: finding files and reading them (`inbox_files.py`), launching anything (`orchestration/inbox.py`).

The ledger says what is registered and posted, so a step that was interrupted is found again. Its signature names what
it would do: as long as nothing changes it is the same one, and a step that failed is not tried for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from backfill_pipeline.definition.load import mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger import reconciliation, registrations
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.sources.several import file_label, pick, present_files
from backfill_pipeline.stages.inbox_files import FoundFile, patterns_of

PATIENCE: Final = timedelta(minutes=10)
"""How long a file at rest waits for others that are still growing, so that those that come together run together."""

FileState = Literal["waiting", "new", "changed", "done", "copy", "refused"]
StepKind = Literal["register", "post", "finish"]


@dataclass(frozen=True, slots=True)
class InboxFile:
    """A file and what it is to its source.

    Attributes:
        state: waiting (it may still grow), new, changed (registered with other content), done (registered as it is),
            copy (of another one, and left out), refused (it cannot be used, and is left out).
    """

    path: Path
    size_bytes: int
    state: FileState
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to launch.

    Attributes:
        kind: register the source, post its open partitions, or apply constraints and reconcile.
        signature: the same for the same step on the same content.
        names: files to register; all of the source when empty.
        first_key: of the partitions to post.
        last_key: likewise; those between them that are posted are passed over.
    """

    kind: StepKind
    signature: str
    names: tuple[str, ...] = ()
    first_key: str = ""
    last_key: str = ""


@dataclass(frozen=True, slots=True)
class SourceInbox:
    """A source of the inbox.

    Attributes:
        steps: what there is to do, the first one first.
        trouble: why nothing can be done, or what was not posted; None when all is well.
    """

    source_id: str
    files: tuple[InboxFile, ...]
    steps: tuple[Step, ...] = ()
    trouble: str | None = None


def examine(
    connection: Connection,
    definition: SourceDefinition,
    found: Mapping[Path, FoundFile],
    now: datetime,
    refused: Mapping[Path, str] | None = None,
) -> SourceInbox:
    """What is to be done for a source.

    Args:
        connection: to the ledger.
        definition: the source.
        found: all files of the inbox, as they are.
        now: when they were looked at.
        refused: new files that cannot be used, as they are, and why: the others are not held up by them.
    """
    registration = registrations.load(connection, definition.id)
    names = [] if registration is None else [file.name for file in registration.files]
    present = [path for path in present_files(patterns_of(definition)) if path in found]
    picked, others = pick(present, names)
    files = _told_apart(
        registration,
        [found[path] for path in (*picked, *others)],
        refused or {},
        is_single=definition.files is None,
    )
    registered = {file_label(path) for path in picked}
    if registration is not None and (gone := [name for name in names if name not in registered]):
        return SourceInbox(definition.id, files, trouble=registrations.gone_files(definition.id, gone))
    try:
        mapping = mapping_sha256(definition)
    except BackfillError as error:
        return SourceInbox(definition.id, files, trouble=str(error))
    steps: list[Step] = []
    if register := _registering(definition, mapping, files, registered, found, now):
        steps.append(register)
    trouble = None
    if registration is not None:
        unsure = any(
            file.state in ("waiting", "changed")
            for file in files
            if file_label(file.path) in registered or definition.files is None
        )
        if not unsure:
            steps += _posting(connection, registration)
        trouble = _trouble(connection, registration)
    return SourceInbox(definition.id, files, tuple(steps), trouble)


def _told_apart(
    registration: Registration | None,
    found: Sequence[FoundFile],
    refused: Mapping[Path, str],
    *,
    is_single: bool,
) -> tuple[InboxFile, ...]:
    files: list[InboxFile] = []
    known = {} if registration is None else {file.name: file for file in registration.files}
    contents = {file.sha256: file.name for file in known.values() if file.row_count}
    for one in found:
        name = file_label(one.path)
        was = known.get(name)
        state: FileState = "new"
        note = ""
        if not one.is_read:
            state, note = "waiting", _why_waiting(one)
        elif is_single:
            if registration is not None:
                state = "done" if _is_registered(registration, one) else "changed"
        elif was is not None:
            same = one.sha256 == was.sha256 if one.sha256 else one.size_bytes == was.size_bytes
            state = "done" if same else "changed"
        elif one.sha256 in contents:
            state, note = "copy", f"has the content of {contents[one.sha256]}: left out"
        elif one.path in refused:
            state, note = "refused", refused[one.path]
        if state == "new" and one.sha256:
            contents[one.sha256] = name
        files.append(InboxFile(one.path, one.size_bytes, state, note))
    return tuple(files)


def _why_waiting(file: FoundFile) -> str:
    if not file.is_readable:
        return "may not be read: give this process permission"
    return "may still grow" if file.size_bytes else "empty"


def _is_registered(registration: Registration, file: FoundFile) -> bool:
    if file.sha256 is not None:
        return file.sha256 == registration.sha256
    return (file.path.name, file.size_bytes) == (registration.file_name, registration.size_bytes)


def _registering(
    definition: SourceDefinition,
    mapping: str,
    files: Sequence[InboxFile],
    registered: set[str],
    found: Mapping[Path, FoundFile],
    now: datetime,
) -> Step | None:
    """Registers what is new, once everything is at rest, or the first has waited for long enough."""
    taken = [file for file in files if file.state in ("new", "changed", "done")]
    news = [file for file in taken if file.state != "done"]
    waiting = [file for file in files if file.state == "waiting"]
    if not news or any(file_label(file.path) in registered for file in waiting):
        return None
    rested = [one for file in news if (one := found[file.path].rested_since) is not None]
    if waiting and min(rested) + PATIENCE > now:
        return None
    # In no order: the same files are the same step, whichever of them were registered meanwhile.
    contents = sorted(
        [file_label(file.path), file.size_bytes, found[file.path].sha256 or ""] for file in taken
    )
    names = tuple(file_label(file.path) for file in taken) if definition.files is not None else ()
    return Step("register", _signature("register", mapping, contents), names=names)


def _posting(connection: Connection, registration: Registration) -> list[Step]:
    """Posts partitions that nobody tried, or that were interrupted.

    Those that failed are for people to look at, and those that somebody rolled back are for people to post again.
    """
    untried = [one for one in registration.partitions if not (one.posted or one.error or one.rolled_back)]
    posted = sum(one.posted for one in registration.partitions)
    identity = (registration.id, registration.sha256)
    if untried:
        # A run takes a range: it ends before one that was rolled back.
        back = [one for one in registration.partitions if one.rolled_back]
        end = min((one.plan.number for one in back if one.plan.number > untried[0].plan.number), default=None)
        first = untried[0].key
        last = [one.key for one in untried if end is None or one.plan.number < end][-1]
        signature = _signature("post", *identity, first, last, posted)
        return [Step("post", signature, first_key=first, last_key=last)]
    if registration.completed_at is None or not registration.partitions:
        return []
    verdict = reconciliation.latest(connection, registration.id)
    if verdict is not None and verdict.reconciled_at >= registration.completed_at:
        return []
    return [Step("finish", _signature("finish", *identity))]


def _trouble(connection: Connection, registration: Registration) -> str | None:
    """What people must look at, in a sentence."""
    failed = [one for one in registration.partitions if not one.posted and one.error]
    if failed:
        more = f" (and {len(failed) - 1} more partitions)" if len(failed) > 1 else ""
        return f"partition {failed[0].key} was not posted{more}: {failed[0].error}"
    back = [one.key for one in registration.partitions if one.rolled_back]
    if back:
        more = f" (and {len(back) - 1} more partitions)" if len(back) > 1 else ""
        return f"partition {back[0]} was rolled back{more}: backfill resume {registration.source_id} posts it again"
    verdict = reconciliation.latest(connection, registration.id)
    if verdict is not None and verdict.verdict == "break":
        return f"ledger and source differ: backfill reconcile {registration.source_id} tells where"
    return None


def _signature(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
