"""Intermediates: one Parquet file per stage and partition, below the product's home.

Belongs here: their places, and reading and writing them whole or not at all.
Does not: what is in them (`schemas/`).

A folder is named after the fingerprints of source and mapping, so what another export or mapping left behind can
never be taken for this one's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Read once or twice and deleted with the home: speed counts, size hardly (measured: zstd saves 60 % and costs 3 times).
COMPRESSION = "lz4"


@dataclass(frozen=True, slots=True)
class Intermediates:
    """The files of one source at one fingerprint and mapping."""

    root: Path
    source_id: str
    sha256: str
    mapping_sha256: str

    @property
    def folder(self) -> Path:
        """Where all of them are."""
        return self.root / self.source_id / f"{self.sha256[:16]}-{self.mapping_sha256[:16]}"

    @property
    def occurrences(self) -> Path:
        """Occurrence numbers of repeated rows, for generated references."""
        return self.folder / "occurrences.parquet"

    def path(self, stage: str, partition_key: str) -> Path:
        """The file of a stage and partition."""
        return self.folder / stage / f"{partition_key}.parquet"

    def write(self, stage: str, partition_key: str, table: pa.Table) -> None:
        """Writes a partition; a reader sees the old file, or the new one, never half of it."""
        path = self.path(stage, partition_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        # With checksums: what a disk damaged must not be posted, nor be what the ledger is compared with.
        pq.write_table(table, temporary, compression=COMPRESSION, write_page_checksum=True)
        temporary.replace(path)

    def read(self, stage: str, partition_key: str, schema: pa.Schema) -> pa.Table | None:
        """Reads the columns of `schema`; None when there is no file, or when it is damaged (then it is made again)."""
        try:
            table = pq.read_table(
                self.path(stage, partition_key), columns=schema.names, page_checksum_verification=True
            )
        # Missing; a bad page; a bad footer, which can go wrong in any way.
        except (OSError, pa.ArrowException, ValueError, KeyError, MemoryError):
            return None
        return table if table.schema.equals(schema) else None
