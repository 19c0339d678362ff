"""The manifest: reads a source once, fingerprints it, counts it, plans its partitions and registers it.

Belongs here: registering, and the occurrence numbers that generated references need.
Does not: posting anything.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from backfill_pipeline.definition.fields import GeneratedReferenceRule
from backfill_pipeline.definition.load import mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.ledger import registrations
from backfill_pipeline.ledger.connection import connect, source_lock
from backfill_pipeline.ledger.registrations import (
    PartitionPlan,
    Registration,
    RegistrationPlan,
    describe_mapping_changes,
)
from backfill_pipeline.ledger.source_files import RegisteredFile
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.mapping.references import OccurrenceIndex
from backfill_pipeline.sources.capture.captured_reader import CapturedReader, prune_captures
from backfill_pipeline.sources.capture.captures import Capture
from backfill_pipeline.sources.headers import check_header
from backfill_pipeline.sources.http.client import ApiClient
from backfill_pipeline.sources.open import check_environment, open_source
from backfill_pipeline.sources.protocol import SourceManifest
from backfill_pipeline.stages.config import DEFAULT_PARTITION_ROWS, effective_config
from backfill_pipeline.stages.intermediates import Intermediates
from backfill_pipeline.stages.retry import retrying
from backfill_pipeline.stages.taken_source import check_in_database, is_in_database
from backfill_pipeline.stages.work import Places, all_mapping_parts, registered_files


@dataclass(frozen=True, slots=True)
class ManifestReport:
    """What registering did.

    Attributes:
        is_new: False when the same source at the same fingerprint was registered already.
        repeated_rows: rows that repeat an earlier one; None when it was not counted.
        carried: partitions that were there before the source grew; 0 when it is new, or was not registered now.
        details: how reading the source went, as far as there is something to tell.
    """

    registration: Registration
    is_new: bool
    repeated_rows: int | None
    carried: int = 0
    details: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveSurvey:
    """How a live source is surveyed by one who knows more of it than its definition says.

    Attributes:
        client: asks its API; it stays open.
        prove: looks at what was captured before it is registered; raises when it is not what it should be.
    """

    client: ApiClient
    prove: Callable[[Capture], None]


def register_source(
    definition: SourceDefinition,
    places: Places,
    *,
    accept_changed: bool = False,
    names: Sequence[str] | None = None,
    live: LiveSurvey | None = None,
) -> ManifestReport:
    """Surveys a source and registers it with its partitions.

    Args:
        definition: the source.
        places: the ledger and the folder of intermediates.
        accept_changed: register a changed source as a new revision although the current one is not finished.
        names: of a source of several files, only the files of these names; all that match when None.
        live: how a live source is surveyed; it is surveyed in any case then.

    Raises:
        SourceFileError: the file or its accounts file cannot be used.
        SourceChangedError: it changed while the current revision is not finished.
    """
    read_accounts(definition)  # a bad accounts file is told now, not when posting begins
    mapping = mapping_sha256(definition)
    with connect(places.ledger_url) as connection:
        current = registrations.load(connection, definition.id)
    if (
        current is not None
        and live is None
        and is_unchanged(definition, places, mapping, current, accept_changed=accept_changed, names=names)
    ):
        return ManifestReport(current, False, None)
    started_s = time.time()
    manifest, repeated = _survey(definition, places, mapping, current, names, live)
    # Not while a run posts the current revision.
    with source_lock(places.ledger_url, definition.id) as connection:
        registration, is_new = registrations.register(
            connection, _plan(definition, manifest, mapping), accept_changed=accept_changed
        )
        grown = current is not None and is_new and registration.id == current.id
        if current is not None and grown:
            _intermediates(definition, places, registration.sha256, mapping).take_over(
                _intermediates(definition, places, current.sha256, mapping),
                [partition.key for partition in current.partitions],
            )
    # Files of a source that grew are not captured anew.
    if not (grown and definition.files):
        prune_captures(places.captures_dir(definition.id), older_than_s=started_s)
    return ManifestReport(
        registration,
        is_new,
        repeated,
        len(current.partitions) if current is not None and grown else 0,
        manifest.details,
    )


def plan_registration(
    definition: SourceDefinition, places: Places, mapping: str, current: Registration | None
) -> RegistrationPlan:
    """Surveys a source: what it would be registered as, with the occurrences of generated references in `places`."""
    manifest, _ = _survey(definition, places, mapping, current, None)
    return _plan(definition, manifest, mapping)


def survey_occurrences(definition: SourceDefinition, places: Places, mapping: str) -> None:
    """Makes the occurrence numbers of generated references again, when the home that held them is gone."""
    with connect(places.ledger_url) as connection:
        current = registrations.load(connection, definition.id)
    names = None if current is None else [file.name for file in current.files]
    _survey(definition, places, mapping, current, names or None)


def _intermediates(definition: SourceDefinition, places: Places, sha256: str, mapping: str) -> Intermediates:
    return Intermediates(places.intermediates_dir, definition.id, sha256, mapping)


def _survey(
    definition: SourceDefinition,
    places: Places,
    mapping: str,
    current: Registration | None,
    names: Sequence[str] | None,
    live: LiveSurvey | None = None,
) -> tuple[SourceManifest, int | None]:
    """As `_survey_once`; a database that is lost on the way is read again from the beginning, in a new snapshot.

    An API's requests are tried again one by one, and files do not go away and come back.
    """

    def attempt() -> tuple[SourceManifest, int | None]:
        return _survey_once(definition, places, mapping, current, names, live)

    if definition.type != "database":
        return attempt()
    return retrying(effective_config(definition.config), attempt, lambda message: None)


def _survey_once(
    definition: SourceDefinition,
    places: Places,
    mapping: str,
    current: Registration | None,
    names: Sequence[str] | None,
    live: LiveSurvey | None,
) -> tuple[SourceManifest, int | None]:
    """The manifest and, for generated references, how many rows repeat an earlier one."""
    reader = open_source(
        definition,
        places.captures_dir(definition.id),
        registered_files=registered_files(definition, current),
        names=names,
        client=None if live is None else live.client,
    )
    if is_in_database(definition):
        with connect(places.ledger_url) as connection:
            check_in_database(definition, reader, connection)
    chunk_rows = definition.partition_rows or DEFAULT_PARTITION_ROWS
    rule = definition.fields.reference_id
    if not isinstance(rule, GeneratedReferenceRule):
        manifest = reader.survey(chunk_rows)
        check_header(definition, manifest.header)
        if live is not None:
            assert isinstance(reader, CapturedReader)
            capture = reader.captured()
            assert capture is not None  # just made
            try:
                live.prove(capture)
            except BaseException:
                if current is None or current.sha256 != manifest.sha256:
                    capture.path.unlink(missing_ok=True)  # nobody will read it
                raise
        return manifest, None
    scratch = places.intermediates_dir / definition.id / f"survey-{os.getpid()}"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with OccurrenceIndex(scratch, rule.columns) as index:
            manifest = reader.survey(chunk_rows, visit=index.add)
            check_header(definition, manifest.header)
            target = _intermediates(definition, places, manifest.sha256, mapping).occurrences
            target.parent.mkdir(parents=True, exist_ok=True)
            return manifest, index.finish(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_unchanged(
    definition: SourceDefinition,
    places: Places,
    mapping: str,
    current: Registration,
    *,
    accept_changed: bool,
    names: Sequence[str] | None = None,
) -> bool:
    """Whether nothing changed since the source was registered: told by the fingerprint alone, without another survey.

    A live source is what it was when it was captured, until that is posted; then only another survey can tell.
    """
    if not _may_be_unchanged(definition, mapping, current, accept_changed=accept_changed):
        return False
    reader = open_source(
        definition,
        places.captures_dir(definition.id),
        registered_sha256=current.sha256,
        registered_files=registered_files(definition, current),
        names=names,
    )
    _, sha256 = reader.fingerprint()
    return sha256 == current.sha256


def _may_be_unchanged(
    definition: SourceDefinition, mapping: str, current: Registration, *, accept_changed: bool
) -> bool:
    """Whether the source's fingerprint decides; where not, it is surveyed."""
    if current.mapping_sha256 != mapping:
        return False
    if describe_mapping_changes(current, all_mapping_parts(definition, current.header)):
        return False
    return not (definition.is_live and (current.completed_at is not None or accept_changed))


def check_can_be_asked(
    definition: SourceDefinition, current: Registration | None, *, accept_changed: bool
) -> None:
    """For commands, before anything is launched: a live source that will be surveyed needs its environment.

    Raises:
        SettingsError: an environment variable that it needs is missing or cannot be used.
    """
    if not definition.is_live:
        return
    mapping = mapping_sha256(definition)
    if current is None or not _may_be_unchanged(definition, mapping, current, accept_changed=accept_changed):
        check_environment(definition)


def _plan(definition: SourceDefinition, manifest: SourceManifest, mapping: str) -> RegistrationPlan:
    return RegistrationPlan(
        source_id=definition.id,
        source_type=definition.type.upper(),
        file_name=manifest.file_name,
        size_bytes=manifest.size_bytes,
        sha256=manifest.sha256,
        mapping_sha256=mapping,
        mapping_parts=all_mapping_parts(definition, manifest.header),
        header=manifest.header,
        row_count=manifest.row_count,
        partitions=[
            PartitionPlan(
                number=chunk.number,
                first_row=chunk.first_row,
                row_count=chunk.row_count,
                first_line=chunk.first_line,
                byte_offset=chunk.byte_offset,
                byte_length=chunk.byte_length,
                sha256=chunk.sha256,
            )
            for chunk in manifest.chunks
        ],
        files=[
            RegisteredFile(file.name, file.size_bytes, file.sha256, file.row_count) for file in manifest.files
        ],
    )
