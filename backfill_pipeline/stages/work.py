"""A source at work: its definition, registration and files, opened together.

Belongs here: bringing the pieces together and refusing to go on when source or mapping changed.
Does not: the stages themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backfill_pipeline.definition.fields import GeneratedReferenceRule, rule_columns
from backfill_pipeline.definition.load import mapping_parts
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceChangedError, UsageError
from backfill_pipeline.ledger import registrations
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.registrations import RULE_PREFIX, Registration
from backfill_pipeline.mapping.transform import Mapping, compile_mapping
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.sources.protocol import SourceChunk, SourceReader
from backfill_pipeline.stages.intermediates import Intermediates

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a source's data goes: the ledger, and directories for intermediates and reject files."""

    ledger_url: str
    intermediates_dir: Path
    rejects_dir: Path

    def captures_dir(self, source_id: str) -> Path:
        """Where a source's captures are kept."""
        return self.intermediates_dir / source_id / "captures"


@dataclass(frozen=True, slots=True)
class SourceWork:
    """Everything that the stages of one source need."""

    definition: SourceDefinition
    places: Places
    registration: Registration
    reader: SourceReader
    mapping: Mapping
    intermediates: Intermediates

    def connect(self) -> Connection:
        """A new connection to the ledger."""
        return connect(self.places.ledger_url, application_name=f"backfill {self.definition.id}"[:63])

    def chunk(self, partition_key: str) -> SourceChunk:
        """Where a partition lies in the source."""
        plan = self.registration.partition(partition_key).plan
        return SourceChunk(
            number=plan.number,
            first_row=plan.first_row,
            row_count=plan.row_count,
            first_line=plan.first_line,
            byte_offset=plan.byte_offset,
            byte_length=plan.byte_length,
            sha256=plan.sha256,
        )


def reference_columns(definition: SourceDefinition, header: tuple[str, ...], parts: dict[str, str]) -> str:
    """What references are made of: the columns of generated ones, else the hash of the rules that give them.

    Part of what a registration is bound to: the same rows under other references, or in another ledger, would be
    posted once more.

    Args:
        definition: the source.
        header: its columns.
        parts: its `mapping_parts`.
    """
    rule = definition.fields.reference_id
    if isinstance(rule, GeneratedReferenceRule):
        return "\x1f".join(sorted(rule.columns or header))
    identity = (definition.fields.ledger_id, rule)
    made_of = [one.model_dump(mode="json", by_alias=True, exclude_defaults=True) for one in identity]
    derived = any(column in definition.columns for one in identity for column in rule_columns(one))
    chosen = any({"ledger_id", "reference_id"} & set(one.set or {}) for one in definition.rules)
    if derived or chosen or any("lookup" in one for one in made_of):
        made_of += [{section: parts.get(section)} for section in ("columns", "rules", "lookups")]
    return RULE_PREFIX + hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def all_mapping_parts(definition: SourceDefinition, header: tuple[str, ...]) -> dict[str, str]:
    """Section of the definition → hash, with what references are made of as a section of its own."""
    parts = mapping_parts(definition)
    return {**parts, "reference_columns": reference_columns(definition, header, parts)}


def open_work(definition: SourceDefinition, places: Places) -> SourceWork:
    """Opens a registered source and makes sure that it is still the one that was registered.

    Raises:
        UsageError: it was never registered.
        SourceChangedError: file or mapping changed since, and what.
    """
    with connect(places.ledger_url) as connection:
        registration = registrations.load(connection, definition.id)
    if registration is None:
        raise UsageError(
            f"source {definition.id} is not registered yet: materialize {definition.id}/manifest, or use backfill run"
        )
    reader = open_source(
        definition, places.captures_dir(definition.id), registered_sha256=registration.sha256
    )
    refuse_changed(definition, registration, reader)
    return SourceWork(
        definition=definition,
        places=places,
        registration=registration,
        reader=reader,
        mapping=compile_mapping(definition),
        intermediates=Intermediates(
            places.intermediates_dir, definition.id, registration.sha256, registration.mapping_sha256
        ),
    )


def refuse_changed(definition: SourceDefinition, registration: Registration, reader: SourceReader) -> None:
    """Raises SourceChangedError, saying what changed, unless source and mapping are those of the registration."""
    changes = registrations.describe_mapping_changes(
        registration, all_mapping_parts(definition, registration.header)
    )
    size_bytes, sha256 = reader.fingerprint()
    if sha256 != registration.sha256:
        size = (
            f"{registration.size_bytes:,} → {size_bytes:,} bytes, "
            if size_bytes != registration.size_bytes
            else ""
        )
        changes.insert(
            0,
            f"the content of {registration.file_name} ({size}SHA-256 {registration.sha256[:12]}… → {sha256[:12]}…)",
        )
    if changes:
        raise SourceChangedError(
            f"source {definition.id} changed since it was registered: {' and '.join(changes)};"
            " restore it and resume, or register it as a new revision: backfill run --accept-changed"
        )
