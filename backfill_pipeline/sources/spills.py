"""Fixed-size records on disk, in files by bucket: for work over a whole source in bounded memory.

Belongs here: appending, reading a bucket, removing.
Does not: what the records are (`grouping/grouped_reader.py`, `mapping/references.py`).
"""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt


def split(records: np.ndarray, keys: npt.NDArray[np.int64]) -> tuple[list[int], list[np.ndarray]]:
    """Records grouped by key, their order kept inside a group."""
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    return found.tolist(), np.split(records[order], starts[1:]) if len(found) else []


class Spill:
    """Files of fixed-size records, one per bucket, made when the first record comes."""

    def __init__(self, directory: Path, dtype: np.dtype[np.void]) -> None:
        """
        Args:
            directory: made when it is needed; nothing else may be in it.
            dtype: of the records.
        """
        self._directory = directory
        self._dtype = dtype
        self._used: set[int] = set()

    def is_empty(self) -> bool:
        """Whether nothing was appended."""
        return not self._used

    def append(self, buckets: list[int], parts: list[np.ndarray]) -> None:
        """Puts records behind those of their buckets."""
        if not self._used:
            self.remove()  # of a survey that was killed
        self._directory.mkdir(parents=True, exist_ok=True)
        for bucket, part in zip(buckets, parts, strict=True):
            with self._file(bucket).open("ab") as opened:
                opened.write(part.tobytes())
            self._used.add(bucket)

    def buckets(self) -> list[int]:
        """The buckets that hold something, ascending."""
        return sorted(self._used)

    def read(self, bucket: int) -> np.ndarray:
        """The records of a bucket, in the order in which they came."""
        return np.fromfile(self._file(bucket), dtype=self._dtype)

    def remove(self) -> None:
        """Removes all files. Can be called again."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._used = set()

    def _file(self, bucket: int) -> Path:
        return self._directory / f"{bucket:06d}"
