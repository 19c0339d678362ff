"""The manifest: reads a source once, fingerprints it, counts it, plans its partitions and registers it.

Belongs here: registering, and the occurrence numbers that generated references need.
Does not: posting anything.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass

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
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.mapping.references import OccurrenceIndex
from backfill_pipeline.sources.captured_reader import prune_captures
from backfill_pipeline.sources.headers import check_header
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.sources.protocol import SourceManifest
from backfill_pipeline.stages.config import DEFAULT_PARTITION_ROWS
from backfill_pipeline.stages.intermediates import Intermediates
from backfill_pipeline.stages.work import Places, all_mapping_parts


@dataclass(frozen=True, slots=True)
class ManifestReport:
    """What registering did. `is_new` is False when the same source at the same fingerprint was registered already."""

    registration: Registration
    is_new: bool
    repeated_rows: int | None


def register_source(
    definition: SourceDefinition, places: Places, *, accept_changed: bool = False
) -> ManifestReport:
    """Surveys a source and registers it with its partitions.

    Args:
        definition: the source.
        places: the ledger and the folder of intermediates.
        accept_changed: register a changed source as a new revision although the current one is not finished.

    Raises:
        SourceFileError: the file or its accounts file cannot be used.
        SourceChangedError: it changed while the current revision is not finished.
    """
    read_accounts(definition)  # a bad accounts file is told now, not when posting begins
    mapping = mapping_sha256(definition)
    if unchanged := _unchanged(definition, places, mapping, accept_changed=accept_changed):
        return ManifestReport(unchanged, False, None)
    started_s = time.time()
    manifest, repeated = _survey(definition, places, mapping)
    # Not while a run posts the current revision.
    with source_lock(places.ledger_url, definition.id), connect(places.ledger_url) as connection:
        registration, is_new = registrations.register(
            connection, _plan(definition, manifest, mapping), accept_changed=accept_changed
        )
    prune_captures(places.captures_dir(definition.id), older_than_s=started_s)
    return ManifestReport(registration, is_new, repeated)


def survey_occurrences(definition: SourceDefinition, places: Places, mapping: str) -> None:
    """Makes the occurrence numbers of generated references again, when the home that held them is gone."""
    _survey(definition, places, mapping)


def _survey(definition: SourceDefinition, places: Places, mapping: str) -> tuple[SourceManifest, int | None]:
    """The manifest and, for generated references, how many rows repeat an earlier one."""
    reader = open_source(definition, places.captures_dir(definition.id))
    chunk_rows = definition.partition_rows or DEFAULT_PARTITION_ROWS
    rule = definition.fields.reference_id
    if not isinstance(rule, GeneratedReferenceRule):
        manifest = reader.survey(chunk_rows)
        check_header(definition, manifest.header)
        return manifest, None
    scratch = places.intermediates_dir / definition.id / f"survey-{os.getpid()}"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with OccurrenceIndex(scratch, rule.columns) as index:
            manifest = reader.survey(chunk_rows, visit=index.add)
            check_header(definition, manifest.header)
            target = Intermediates(
                places.intermediates_dir, definition.id, manifest.sha256, mapping
            ).occurrences
            target.parent.mkdir(parents=True, exist_ok=True)
            return manifest, index.finish(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unchanged(
    definition: SourceDefinition, places: Places, mapping: str, *, accept_changed: bool
) -> Registration | None:
    """The current registration when nothing changed since: told by the fingerprint alone, without another survey.

    A live source is what it was when it was captured, until that is posted; then only another survey can tell.
    """
    with connect(places.ledger_url) as connection:
        current = registrations.load(connection, definition.id)
    if current is None or current.mapping_sha256 != mapping:
        return None
    if describe_mapping_changes(current, all_mapping_parts(definition, current.header)):
        return None
    if definition.is_live and (current.completed_at is not None or accept_changed):
        return None
    captures_dir = places.captures_dir(definition.id)
    _, sha256 = open_source(definition, captures_dir, registered_sha256=current.sha256).fingerprint()
    return current if sha256 == current.sha256 else None


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
    )
