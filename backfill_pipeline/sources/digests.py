"""Hashes of tables of text, for sources whose rows have no bytes of their own.

Belongs here: one hash that depends on the values alone.
Does not: hashes of files (`files/content.py`).
"""

import hashlib
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class Digest(Protocol):
    """What hashlib's objects are."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Takes the next bytes."""
        ...


def table_sha256(table: pa.Table) -> str:
    """SHA-256, hexadecimal, of string columns without nulls."""
    digest = hashlib.sha256()
    digest_table(digest, table)
    return digest.hexdigest()


def digest_table(digest: Digest, table: pa.Table) -> int:
    """Feeds the text of all values, and where each ends; the same whatever Arrow's buffers look like.

    Args:
        digest: takes the bytes.
        table: string columns without nulls.

    Returns:
        Bytes of the text.
    """
    size_bytes = 0
    for column in table.columns:
        digest.update(np.asarray(pc.binary_length(column), dtype="<i8").tobytes())
        for part in column.chunks:
            offsets = np.frombuffer(part.buffers()[1], dtype=np.int32)[
                part.offset : part.offset + len(part) + 1
            ]
            if len(part) and part.buffers()[2] is not None:
                text = memoryview(part.buffers()[2])[int(offsets[0]) : int(offsets[-1])]
                digest.update(text)
                size_bytes += len(text)
    return size_bytes
