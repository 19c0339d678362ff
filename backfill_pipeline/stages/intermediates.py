"""Intermediates: one Arrow file per stage and partition, below the product's home.

Belongs here: their places, and reading and writing them whole or not at all.
Does not: what is in them (`schemas/`).

A folder is named after the fingerprints of source and mapping, so what another export or mapping left behind can
never be taken for this one's. When a source grows, the files of its partitions move to the new folder.

A file is an Arrow IPC stream (`pyarrow.ipc.open_stream` reads it) with the SHA-256 of its bytes after it. Not Parquet:
a file is written once and read once or twice, and writing Parquet took two fifths of all that preparing a partition
takes (docs/decisions/intermediates.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

# Half the size for ten milliseconds per 100,000 entries; the page cache of a small machine is worth more.
_COMPRESSION = "lz4"
_DIGEST_BYTES = hashlib.sha256().digest_size


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
        return self.folder / stage / f"{partition_key}.arrows"

    def take_over(self, earlier: Intermediates, partition_keys: Collection[str]) -> None:
        """Moves the files of partitions here that the source had before it grew: they say the same now as then.

        What is not moved, because a process was killed half-way, is made again when it is needed.
        """
        if not earlier.folder.is_dir() or earlier.folder == self.folder:
            return
        for stage in (one for one in earlier.folder.iterdir() if one.is_dir()):
            (self.folder / stage.name).mkdir(parents=True, exist_ok=True)
            for key in partition_keys:
                with suppress(FileNotFoundError):
                    earlier.path(stage.name, key).rename(self.path(stage.name, key))

    def write(self, stage: str, partition_key: str, table: pa.Table) -> None:
        """Writes a partition; a reader sees the old file, or the new one, never half of it."""
        path = self.path(stage, partition_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        sink = pa.BufferOutputStream()
        options = ipc.IpcWriteOptions(compression=_COMPRESSION, use_threads=False)
        with ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        content = sink.getvalue()
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())
        temporary.replace(path)

    def read(self, stage: str, partition_key: str, schema: pa.Schema) -> pa.Table | None:
        """Reads the columns of `schema`; None when there is no file, or when it is damaged (then it is made again).

        What a disk damaged must not be posted, nor be what the ledger is compared with: nothing is read of a file
        whose digest is not that of its bytes.
        """
        try:
            content = memoryview(self.path(stage, partition_key).read_bytes())
        except OSError:
            return None
        body = content[:-_DIGEST_BYTES]
        if len(content) <= _DIGEST_BYTES or hashlib.sha256(body).digest() != content[-_DIGEST_BYTES:]:
            return None
        with ipc.open_stream(pa.py_buffer(body)) as reader:
            # Of another version of the product, whose frames may have other columns.
            if any(name not in reader.schema.names for name in schema.names):
                return None
            table = reader.read_all().select(schema.names)
        return table if table.schema.equals(schema) else None
