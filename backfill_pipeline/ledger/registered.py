"""A registration and what it is made of.

Belongs here: their shapes, and the keys of partitions.
Does not: keeping them (`registrations.py`), telling them apart (`source_changes.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from backfill_pipeline.ledger.source_files import RegisteredFile

RULE_PREFIX = "rule:"
"""Begins what `mapping_parts["reference_columns"]` holds for references that are not generated."""

REFERENCES = "reference_columns"
"""The part of `mapping_parts` that says what references are made of."""


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
    """What a survey of the source found. `mapping_parts` names each section of the definition with its hash; `files`
    are those of a source of several.
    """

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
    files: Sequence[RegisteredFile] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """A registered partition.

    Attributes:
        rolled_back: what was posted of it was taken back, and nothing was posted anew since.
    """

    id: int
    key: str
    plan: PartitionPlan
    valid_rows: int | None
    posted: bool
    error: str | None
    rolled_back: bool = False


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
    files: tuple[RegisteredFile, ...] = ()

    def partition(self, key: str) -> Partition:
        """The partition with this key; KeyError when there is none."""
        for partition in self.partitions:
            if partition.key == key:
                return partition
        raise KeyError(key)


def partition_key(revision: int, number: int, count: int) -> str:
    """Zero-padded, so that keys sort in source order; later revisions carry their number."""
    digits = key_digits(count)
    return f"{number:0{digits}d}" if revision == 1 else f"r{revision}-{number:0{digits}d}"


def key_digits(count: int) -> int:
    """Digits of the keys of so many partitions."""
    return max(4, len(str(count)))
