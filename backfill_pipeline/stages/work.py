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
from backfill_pipeline.ledger.batches import LOCAL_ORIGIN
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.ledger.registrations import RULE_PREFIX, PartitionPlan, Registration
from backfill_pipeline.mapping.transform import Mapping, compile_mapping
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.sources.protocol import SourceChunk, SourceFile, SourceReader
from backfill_pipeline.sources.several import RegisteredFiles, file_label, matching_files, pick
from backfill_pipeline.stages.intermediates import Intermediates

Log = Callable[[str], None]

PAIRED_BY = {"account_id", "amount", "currency_code", "asset_type"}
"""Fields that decide which legs of a transaction meet."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a source's data goes: the ledger, and directories for intermediates and reject files."""

    ledger_url: str
    intermediates_dir: Path
    rejects_dir: Path

    def connect(self, source_id: str) -> Connection:
        """A new connection to the ledger, which names the source."""
        return connect(self.ledger_url, application_name=f"backfill {source_id}"[:63])

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
        return self.places.connect(self.definition.id)

    @property
    def origin(self) -> str:
        """Whose entries these are: the bank's whose ledger is read, else our own."""
        return LOCAL_ORIGIN if self.definition.scb is None else self.definition.scb.bank_id

    def chunk(self, partition_key: str) -> SourceChunk:
        """Where a partition lies in the source."""
        return _chunk(self.registration.partition(partition_key).plan)


def reference_columns(definition: SourceDefinition, header: tuple[str, ...], parts: dict[str, str]) -> str:
    """What references are made of: the columns of generated ones, else the hash of the rules that give them.

    Part of what a registration is bound to: the same rows under other references, or in another ledger, would be
    posted once more.

    Args:
        definition: the source.
        header: its columns.
        parts: its `mapping_parts`.
    """
    fields, section = definition.fields, definition.transactions
    rule = fields.reference_id
    generated = isinstance(rule, GeneratedReferenceRule)
    if generated and section is None:
        return "\x1f".join(sorted(rule_columns(rule) or header))
    identity = (fields.ledger_id, rule)
    made_of = [one.model_dump(mode="json", by_alias=True, exclude_defaults=True) for one in identity]
    derived = any(column in definition.columns for one in identity for column in rule_columns(one))
    chosen = any({"ledger_id", "reference_id"} & set(one.set or {}) for one in definition.rules)
    if derived or chosen or section is not None or any("lookup" in one for one in made_of):
        made_of += [{one: parts.get(one)} for one in ("columns", "rules", "lookups")]
    if section is not None:
        # Which row of a transaction gives an entry its reference depends on all that pairing looks at.
        rules = fields.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=PAIRED_BY)
        made_of += [rules, {"transactions": parts.get("transactions")}]
        made_of += [{"header": sorted(rule_columns(rule) or header)}] if generated else []
    # Without the prefix, a registration knows that they are generated.
    prefix = "" if generated else RULE_PREFIX
    return prefix + hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def all_mapping_parts(definition: SourceDefinition, header: tuple[str, ...]) -> dict[str, str]:
    """Section of the definition → hash, with what references are made of as a section of its own."""
    parts = mapping_parts(definition)
    return {**parts, "reference_columns": reference_columns(definition, header, parts)}


def registered_files(definition: SourceDefinition, registration: Registration | None) -> RegisteredFiles:
    """What the ledger knows of a source's files: their order and, while they are read the same way, their chunks."""
    if registration is None:
        return RegisteredFiles()
    same = not registrations.describe_mapping_changes(
        registration, all_mapping_parts(definition, registration.header)
    )
    return RegisteredFiles(
        files=tuple(
            SourceFile(file.name, file.size_bytes, file.sha256, file.row_count) for file in registration.files
        ),
        header=registration.header,
        chunks=tuple(_chunk(partition.plan) for partition in registration.partitions) if same else (),
    )


def _chunk(plan: PartitionPlan) -> SourceChunk:
    return SourceChunk(
        number=plan.number,
        first_row=plan.first_row,
        row_count=plan.row_count,
        first_line=plan.first_line,
        byte_offset=plan.byte_offset,
        byte_length=plan.byte_length,
        sha256=plan.sha256,
    )


def open_work(
    definition: SourceDefinition, places: Places, *, registration: Registration | None = None
) -> SourceWork:
    """Opens a registered source and makes sure that it is still the one that was registered.

    Args:
        definition: the source.
        places: where its data is and goes.
        registration: its current one, of a caller who has just read it.

    Raises:
        UsageError: it was never registered.
        SourceChangedError: file or mapping changed since, and what.
    """
    if registration is None:
        with connect(places.ledger_url) as connection:
            registration = registrations.load(connection, definition.id)
    if registration is None:
        raise UsageError(
            f"source {definition.id} is not registered yet: materialize {definition.id}/manifest, or use backfill run"
        )
    if definition.files is not None and registration.files:
        # Files that came since are no change: they belong to the source when it is registered again.
        names = [file.name for file in registration.files]
        there, _ = pick(matching_files(definition.files), names)
        found = {file_label(file) for file in there}
        if gone := [name for name in names if name not in found]:
            raise SourceChangedError(registrations.gone_files(definition.id, gone))
    reader = open_source(
        definition,
        places.captures_dir(definition.id),
        registered_sha256=registration.sha256,
        registered_files=registered_files(definition, registration),
        names=[file.name for file in registration.files] or None,
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
