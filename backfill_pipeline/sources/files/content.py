"""The bytes that a reader works on, wherever they come from.

Belongs here: opening a file, reading it as a stream or in parts, its fingerprint, and how failures are worded.
Does not: unpacking (`compressed.py`), what the bytes mean (the readers).
"""

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from backfill_pipeline.errors import SourceFileError


class Fingerprint:
    """Size and SHA-256 of what is fed to it."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def update(self, block: bytes) -> None:
        """Takes the next bytes of the file."""
        self._digest.update(block)
        self.size_bytes += len(block)

    def hexdigest(self) -> str:
        """SHA-256 of all bytes so far."""
        return self._digest.hexdigest()


class Content(Protocol):
    """Bytes that can be read as a stream and in parts, again and again, from any thread."""

    @property
    def file(self) -> Path:
        """The file as the definition names it, for messages."""
        ...

    def size(self) -> int:
        """Bytes of the content."""
        ...

    def stream(self, fingerprint: Fingerprint, block_bytes: int) -> Iterator[bytes]:
        """The content in blocks; `fingerprint` gets the bytes of the file itself, all of them by the end."""
        ...

    def read_parts(self, parts: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Parts of the content, each by offset and length; shorter at its end."""
        ...

    def fingerprint(self) -> tuple[int, str]:
        """Size and SHA-256 of the file itself, as it is now."""
        ...


class PlainFile:
    """A file whose content is its bytes."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def file(self) -> Path:
        """See `Content.file`."""
        return self._file

    def size(self) -> int:
        """See `Content.size`."""
        with open_file(self._file) as opened:
            return opened.seek(0, io.SEEK_END)

    def stream(self, fingerprint: Fingerprint, block_bytes: int) -> Iterator[bytes]:
        """See `Content.stream`."""
        with open_file(self._file) as opened:
            while block := opened.read(block_bytes):
                fingerprint.update(block)
                yield block

    def read_parts(self, parts: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """See `Content.read_parts`."""
        with open_file(self._file) as opened:
            for offset, length in parts:
                opened.seek(offset)
                yield opened.read(length)

    def fingerprint(self) -> tuple[int, str]:
        """See `Content.fingerprint`."""
        return file_fingerprint(self._file)


def open_file(file: Path) -> io.BufferedReader:
    """Opens a source's file for reading.

    Raises:
        SourceFileError: missing, not readable, or a directory, a pipe or the like, which would be waited for.
    """
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SourceFileError(f"{file}: is a directory: the source definition must name a file.")
        if not stat.S_ISREG(mode):
            raise SourceFileError(
                f"{file}: is a pipe, a socket or a device, which cannot be read twice: write what it gives into a file."
            )
        return file.open("rb")
    except FileNotFoundError:
        raise SourceFileError(f"{file}: there is no such file: check the source definition.") from None
    except OSError as error:
        raise SourceFileError(f"{file}: cannot be read: {os_reason(error)}.") from None


def file_fingerprint(file: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file as it is now."""
    with open_file(file) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return opened.tell(), digest


def os_reason(error: OSError) -> str:
    """What the system says is wrong, as the end of a sentence."""
    # By its number: Arrow puts sentences of its own where the system's would stand.
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


def scratch_parent() -> str:
    """Where temporary data of the size of a source goes: TMPDIR, or /var/tmp, which unlike /tmp is seldom in memory."""
    # Only nameless files and folders with names of their own (mkdtemp) are made in it.
    return os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108
