"""Compressed files: unpacked once per process into a nameless temporary file, and read from there.

Belongs here: recognising gzip, Zstandard and zip, unpacking, the limits on what a file may unpack to.
Does not: what the content means (the readers).

A chunk has its place in the unpacked content, and is read again at that place. The temporary file has no name: the
system frees it when the process ends, however it ends, so nothing is left behind and nothing can be stale. It costs as
much disk as the unpacked file, in TMPDIR or else /var/tmp. The fingerprint is that of the compressed file.
"""

import gzip
import lzma
import os
import shutil
import struct
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import pyarrow as pa

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.files.content import (
    Content,
    Fingerprint,
    PlainFile,
    file_fingerprint,
    open_file,
    os_reason,
    scratch_parent,
)

RATIO_MAX: Final = 500
"""How many times its own size a file may unpack to; exports reach 5 to 50."""

ALWAYS_BYTES: Final = 64 << 20
"""What any file may unpack to: a small file of equal rows has a high ratio."""

DISK_FREE_BYTES_MIN: Final = 256 << 20
"""What unpacking leaves free for others."""

_SUFFIXES: Final = (".gz", ".zst", ".zip")
_BLOCK_BYTES: Final = 1 << 20

# What the libraries raise for a damaged archive; RuntimeError also for one with a password.
_DAMAGE: Final = (
    *(OSError, EOFError, ValueError, LookupError, RuntimeError, struct.error),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)


def content_of(file: Path, member: str | None) -> Content:
    """The content of a text file, unpacked when its name ends in .gz, .zst or .zip.

    Args:
        file: absolute path.
        member: which file inside a .zip; None for the only one.
    """
    return UnpackedFile(file, member) if file.suffix.lower() in _SUFFIXES else PlainFile(file)


class UnpackedFile:
    """The `Content` of a compressed file."""

    def __init__(self, file: Path, member: str | None) -> None:
        self._file = file
        self._member = member
        self._unpacked: IO[bytes] | None = None
        self._unpacked_from: tuple[int, int, int] | None = None
        self._lock = threading.Lock()

    @property
    def file(self) -> Path:
        """See `Content.file`."""
        return self._file

    def size(self) -> int:
        """See `Content.size`."""
        return os.fstat(self._content()).st_size

    def stream(self, fingerprint: Fingerprint, block_bytes: int) -> Iterator[bytes]:
        """See `Content.stream`."""
        descriptor = self._content()
        with open_file(self._file) as opened:
            while block := opened.read(_BLOCK_BYTES):
                fingerprint.update(block)
        self._check_unchanged()
        offset = 0
        while block := os.pread(descriptor, block_bytes, offset):
            offset += len(block)
            yield block

    def read_parts(self, parts: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """See `Content.read_parts`."""
        descriptor = self._content()
        for offset, length in parts:
            yield os.pread(descriptor, length, offset)

    def fingerprint(self) -> tuple[int, str]:
        """See `Content.fingerprint`."""
        return file_fingerprint(self._file)

    def _content(self) -> int:
        """Descriptor of the unpacked content; unpacks when that was not done, or when the file is another by now."""
        with self._lock:
            now = self._identity()
            if self._unpacked is None or self._unpacked_from != now:
                self._unpacked = self._unpack()
                self._unpacked_from = now
                self._check_unchanged()
            return self._unpacked.fileno()

    def _identity(self) -> tuple[int, int, int]:
        with open_file(self._file) as opened:
            found = os.fstat(opened.fileno())
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _check_unchanged(self) -> None:
        if self._identity() != self._unpacked_from:
            raise SourceFileError(
                f"{self._file}: changed while it was read: wait until it is complete, and try again."
            )

    def _unpack(self) -> IO[bytes]:
        folder = scratch_parent()
        packed_bytes = self._identity()[1]
        limit = max(ALWAYS_BYTES, RATIO_MAX * packed_bytes)
        try:
            target = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as this object
        except OSError as error:
            raise SourceFileError(
                f"{self._file}: cannot be unpacked into {folder}: {os_reason(error)}: set TMPDIR to a folder with room."
            ) from None
        size = 0
        for block in self._unpacked_blocks():
            size += len(block)
            if size > limit:
                raise SourceFileError(
                    f"{self._file}: unpacks to more than {RATIO_MAX} times its size, as no export does:"
                    " unpack it by hand if it is to be trusted."
                )
            self._write(target, block, folder)
        target.flush()
        return target

    def _write(self, target: IO[bytes], block: bytes, folder: str) -> None:
        try:
            full = shutil.disk_usage(folder).free - len(block) < DISK_FREE_BYTES_MIN
            if not full:
                target.write(block)
                return
        except OSError:
            pass
        raise SourceFileError(
            f"{self._file}: there is no room in {folder} to unpack it: set TMPDIR to a folder with more room."
        )

    def _unpacked_blocks(self) -> Iterator[bytes]:
        """The content in blocks; what is wrong with the packed file as one sentence."""
        kind = {".gz": "gzip", ".zst": "Zstandard", ".zip": "zip"}[self._file.suffix.lower()]
        try:
            with self._opened() as opened:
                while block := opened.read(_BLOCK_BYTES):
                    yield block
        except _DAMAGE as error:
            reason = str(error).strip().rstrip(".") or type(error).__name__
            raise SourceFileError(
                f"{self._file}: is not a whole {kind} file ({' '.join(reason.split())}): was it cut short or damaged?"
            ) from None

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        suffix = self._file.suffix.lower()
        with open_file(self._file) as packed:
            if suffix == ".gz":
                with gzip.GzipFile(fileobj=packed) as opened:
                    yield opened  # type: ignore[misc]
            elif suffix == ".zst":
                with pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd") as opened:
                    yield opened
            else:
                with zipfile.ZipFile(packed) as archive, archive.open(self._chosen(archive)) as opened:
                    yield opened

    def _chosen(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        members = [
            one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")
        ]
        names = ", ".join(one.filename for one in members[:5]) + (", …" if len(members) > 5 else "")
        if self._member is None:
            if len(members) != 1:
                raise SourceFileError(
                    f"{self._file}: holds {len(members)} files ({names or 'none'}): say which one with member."
                )
            return members[0]
        for one in members:
            if one.filename == self._member:
                return one
        raise SourceFileError(f"{self._file}: holds no file {self._member!r}, only {names or 'none'}.")
