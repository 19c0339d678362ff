"""What a run would find: the source as it is registered, or as it would be registered now.

Belongs here: looking at the source and its registration, with everything that is written in a scratch folder.
Does not: its rows (`plan.py`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from backfill_pipeline.definition.load import mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.ledger import registrations
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.registrations import Partition, Registration, RegistrationPlan, partition_key
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.sources.files.content import scratch_parent
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.stages.intermediates import Intermediates
from backfill_pipeline.stages.manifest import is_unchanged, plan_registration
from backfill_pipeline.stages.work import Places, SourceWork, registered_files


@dataclass(frozen=True, slots=True)
class FoundSource:
    """The source that a run would take through its stages.

    Attributes:
        work: with folders of its own. Its registration has ids of 0 where it is not registered yet.
        is_registered: it is registered already, and at most grew since; new partitions have ids of 0.
        changes: what changed since the revision before, in words.
    """

    work: SourceWork
    is_registered: bool
    changes: tuple[str, ...]


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what a plan has to write, on a disk with room; it goes with the block.

    Raises:
        SourceFileError: it cannot be made.
    """
    parent = scratch_parent()
    try:
        folder = Path(tempfile.mkdtemp(prefix="backfill-plan-", dir=parent))
    except OSError as error:
        raise SourceFileError(
            f"{parent}: no folder can be made in it ({error.strerror}): set TMPDIR to a folder with room."
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_source(
    definition: SourceDefinition,
    connection: Connection,
    places: Places,
    scratch: Path,
    *,
    accept_changed: bool,
) -> FoundSource:
    """Looks at a source as registering it would, and registers nothing.

    Args:
        definition: the source.
        connection: to the ledger.
        places: of the home, which is only read.
        scratch: a folder for whatever has to be written.
        accept_changed: as of the run.

    Raises:
        SourceFileError: the file cannot be used.
        SourceChangedError: a run would refuse it, and why.
    """
    mapping = mapping_sha256(definition)
    current = registrations.load(connection, definition.id)
    own = replace(places, intermediates_dir=scratch / "intermediates", rejects_dir=scratch / "rejects")
    _lend(places.captures_dir(definition.id), own.captures_dir(definition.id), "*.arrow")
    if current and is_unchanged(definition, own, mapping, current, accept_changed=accept_changed):
        return FoundSource(_work(definition, places, own, current), True, ())
    planned = plan_registration(definition, own, mapping, current)
    current, revision, changes = registrations.what_registering_does(
        connection, planned, accept_changed=accept_changed
    )
    stays = current if current is not None and revision == current.revision else None
    known = () if stays is None else stays.partitions
    registration = _as_registered(planned, revision, known, 0 if stays is None else stays.id)
    return FoundSource(_work(definition, places, own, registration), stays is not None, tuple(changes))


def _work(
    definition: SourceDefinition, places: Places, own: Places, registration: Registration
) -> SourceWork:
    fingerprints = (definition.id, registration.sha256, registration.mapping_sha256)
    intermediates = Intermediates(own.intermediates_dir, *fingerprints)
    kept = Intermediates(places.intermediates_dir, *fingerprints)
    _lend(kept.folder, intermediates.folder, intermediates.occurrences.name)
    return SourceWork(
        definition=definition,
        places=own,
        registration=registration,
        reader=open_source(
            definition,
            own.captures_dir(definition.id),
            registered_sha256=registration.sha256,
            registered_files=registered_files(definition, registration),
            names=[file.name for file in registration.files] or None,
        ),
        mapping=compile_mapping(definition),
        intermediates=intermediates,
    )


def _lend(folder: Path, to: Path, pattern: str) -> None:
    """Shows files of the home in the scratch folder: they are read there, and stay as they are."""
    for file in folder.glob(pattern):
        to.mkdir(parents=True, exist_ok=True)
        if not (to / file.name).exists():
            (to / file.name).symlink_to(file)


def _as_registered(
    planned: RegistrationPlan, revision: int, known: Sequence[Partition], registration_id: int
) -> Registration:
    """The registration that a run would make. What of it is not in the ledger has ids of 0.

    Args:
        planned: what the source is now.
        revision: that it would be.
        known: partitions that stay as they are, when it only grew.
        registration_id: theirs.
    """
    count = len(planned.partitions)
    return Registration(
        id=registration_id,
        source_id=planned.source_id,
        source_type=planned.source_type,
        revision=revision,
        file_name=planned.file_name,
        size_bytes=planned.size_bytes,
        sha256=planned.sha256,
        mapping_sha256=planned.mapping_sha256,
        mapping_parts=planned.mapping_parts,
        header=planned.header,
        row_count=planned.row_count,
        registered_at=datetime.now(UTC),
        completed_at=None,
        partitions=(
            *known,
            *(
                Partition(0, partition_key(revision, one.number, count), one, None, posted=False, error=None)
                for one in planned.partitions[len(known) :]
            ),
        ),
        files=tuple(planned.files),
    )
