"""Several files as one source, read one after the other.

Belongs here: which files, their order, positions across them, one fingerprint over all.
Does not: reading any of them (the readers), remembering them (the ledger).

A position in the source is the number of the file (from 0) times FILE_STRIDE, plus the position in that file. So it
is known without the sizes of the files before it. A chunk never spans two files.

Files that were registered come first, in the order that they had then; new ones follow by name. So a new file shifts no
row of another, whatever its name. A registered file that is as it was keeps its chunks, and need not be surveyed again.
"""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import BYTE_OFFSET, SOURCE_ROW
from backfill_pipeline.sources.files.content import open_file
from backfill_pipeline.sources.protocol import (
    CHUNK_COUNT_MAX,
    SourceChunk,
    SourceFile,
    SourceManifest,
    SourceReader,
)

FILE_STRIDE: Final = 10**13
"""Positions of one file; a power of ten, so that people see file and position in the number."""

READERS_KEPT: Final = 4
"""Each may hold an open file and an unpacked copy; partitions in work at the same time lie in neighbouring files."""

UNFINISHED_SUFFIXES: Final = (
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".tmp",
    ".temp",
    ".swp",
)
"""How names of files end that are still being sent or written; a pattern takes them only if it ends so itself."""

MakeReader = Callable[[Path, int], SourceReader]
"""From a file, and how many chunks it may give, to its reader."""


def matching_files(patterns: Sequence[Path]) -> list[Path]:
    """The files that paths and patterns name, each once, in the order of their names.

    Raises:
        SourceFileError: a pattern matches nothing, or there are more files than chunks may be.
    """
    found: set[Path] = set()
    for pattern in patterns:
        files = _matches(pattern)
        if not files:
            raise SourceFileError(f"{pattern}: no file matches: check files in the source definition.")
        found.update(files)
    if len(found) > CHUNK_COUNT_MAX:
        raise SourceFileError(
            f"{patterns[0]}: {len(found)} files are more than the {CHUNK_COUNT_MAX} that one source may have:"
            " join some, or make several sources."
        )
    return sorted(found, key=lambda file: (file.name, str(file)))


def present_files(patterns: Sequence[Path]) -> list[Path]:
    """As `matching_files`, with no complaint about what is not there, or may not be looked at."""
    found = {file for pattern in patterns for file in _matches(pattern) if os.path.isfile(file)}
    return sorted(found, key=lambda file: (file.name, str(file)))


def _matches(pattern: Path) -> list[Path]:
    text = str(pattern)
    if not glob.has_magic(text):
        return [] if pattern.is_dir() else [pattern]
    matches = [Path(one) for one in glob.glob(text)]
    # A pattern that names such an ending means it.
    any_name = is_unfinished(pattern.name)
    return [one for one in matches if not one.is_dir() and (any_name or not is_unfinished(one.name))]


def is_unfinished(name: str) -> bool:
    """Whether a name says that the file is still being sent, or is hidden."""
    return name.startswith((".", "~")) or name.endswith("~") or name.lower().endswith(UNFINISHED_SUFFIXES)


def file_label(file: Path) -> str:
    """The name of a file as it is kept and shown: what is no text, or moves the cursor, comes as backslash escapes."""
    return as_text(file.name)


def as_text(path: str) -> str:
    """A path or a name in one line of text, whatever bytes it is made of."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


@dataclass(frozen=True, slots=True)
class RegisteredFiles:
    """What is known of a source of several files from when it was registered.

    Attributes:
        files: in the order in which they are read.
        header: of all of them.
        chunks: of the whole source; none when they were cut under another definition.
    """

    files: tuple[SourceFile, ...] = ()
    header: tuple[str, ...] = ()
    chunks: tuple[SourceChunk, ...] = ()

    def chunks_by_file(self) -> list[tuple[SourceChunk, ...]]:
        """The chunks of each file, in the file's own rows and positions."""
        before = list(accumulate((file.row_count for file in self.files), initial=0))
        found: list[list[SourceChunk]] = [[] for _ in self.files]
        for chunk in self.chunks:
            number, offset = divmod(chunk.byte_offset, FILE_STRIDE)
            found[number].append(
                replace(chunk, first_row=chunk.first_row - before[number], byte_offset=offset)
            )
        return [tuple(chunks) for chunks in found]


class SeveralReader:
    """The `SourceReader` of several files."""

    def __init__(
        self,
        patterns: Sequence[Path],
        make_reader: MakeReader,
        *,
        registered: RegisteredFiles | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            patterns: paths, and patterns of them.
            make_reader: opens one file.
            registered: what is known from before.
            names: only files of these names are read; all that match when None.
        """
        self._patterns = patterns
        self._make_reader = make_reader
        self._registered = registered or RegisteredFiles()
        self._names = names
        self._readers: dict[Path, SourceReader] = {}

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`."""
        files = self._files()
        known = self._known_manifests(files)
        chunks: list[SourceChunk] = []
        manifests: list[SourceManifest] = []
        rows = 0
        for number, (file, count_max) in enumerate(zip(files, _chunks_allowed(files, known), strict=True)):
            before = _Before(number * FILE_STRIDE, rows)
            see = None if visit is None else lambda table, before=before: visit(before.shift(table))
            manifest = self._survey_file(file, count_max, known.get(number), chunk_rows, see)
            if manifests and manifest.header != manifests[0].header:
                raise SourceFileError(
                    f"{file}: has other columns than {files[0].name}: "
                    f"{_first_difference(manifests[0].header, manifest.header)}."
                )
            chunks += [
                replace(
                    chunk,
                    number=len(chunks) + place,
                    first_row=chunk.first_row + rows,
                    byte_offset=chunk.byte_offset + before.offset,
                )
                for place, chunk in enumerate(manifest.chunks, start=1)
            ]
            rows += manifest.row_count
            manifests.append(manifest)
        size, sha256 = _over_all(
            [(file.name, one.size_bytes, one.sha256) for file, one in zip(files, manifests, strict=True)]
        )
        return SourceManifest(
            _name(files),
            size,
            sha256,
            manifests[0].header,
            rows,
            tuple(chunks),
            tuple(
                SourceFile(file_label(file), one.size_bytes, one.sha256, one.row_count)
                for file, one in zip(files, manifests, strict=True)
            ),
        )

    def _survey_file(
        self,
        file: Path,
        count_max: int,
        known: SourceManifest | None,
        chunk_rows: int,
        visit: Callable[[pa.Table], None] | None,
    ) -> SourceManifest:
        """One file's manifest: that from before, as long as the file is what it was."""
        reader = self._make_reader(file, count_max)
        if known is not None and visit is None and reader.fingerprint() == (known.size_bytes, known.sha256):
            return known
        manifest = reader.survey(chunk_rows, visit=visit)
        same = known is not None and manifest.sha256 == known.sha256
        # Cut where it was cut before: how many chunks a file may give depends on the other files.
        return replace(manifest, chunks=known.chunks) if known is not None and same else manifest

    def _known_manifests(self, files: Sequence[Path]) -> dict[int, SourceManifest]:
        """Place of a file → what its manifest was; empty when all must be cut anew."""
        registered = self._registered
        if not registered.chunks:
            return {}
        known: dict[int, SourceManifest] = {}
        for place, (file, was, chunks) in enumerate(
            zip(files, registered.files, registered.chunks_by_file(), strict=False)
        ):
            if file_label(file) != was.name:
                break  # a registered file is gone: what follows has other places
            known[place] = SourceManifest(
                file.name, was.size_bytes, was.sha256, registered.header, was.row_count, chunks
            )
        taken = sum(max(1, len(one.chunks)) for one in known.values())
        return known if taken + len(files) - len(known) <= CHUNK_COUNT_MAX else {}

    def read_chunk(self, chunk: SourceChunk, header: Sequence[str]) -> pa.Table:
        """See `SourceReader.read_chunk`."""
        number, offset = divmod(chunk.byte_offset, FILE_STRIDE)
        file = self._file(number)
        # The chunk knows its first row in the whole source; only positions are the file's own.
        table = self._reader(file).read_chunk(replace(chunk, byte_offset=offset), header)
        return _Before(number * FILE_STRIDE, 0).shift(table)

    def raw_text(self, offsets: Sequence[int], lengths: Sequence[int]) -> list[str]:
        """See `SourceReader.raw_text`. In front of each record is the name of its file, in brackets."""
        by_file: dict[int, list[int]] = {}
        for place, offset in enumerate(offsets):
            by_file.setdefault(offset // FILE_STRIDE, []).append(place)
        texts = [""] * len(offsets)
        for number, places in by_file.items():
            file = self._file(number)
            found = self._reader(file).raw_text(
                [offsets[place] % FILE_STRIDE for place in places], [lengths[place] for place in places]
            )
            for place, text in zip(places, found, strict=True):
                texts[place] = f"[{file.name}] {text}"
        return texts

    def fingerprint(self) -> tuple[int, str]:
        """See `SourceReader.fingerprint`: over the names and contents of all files."""
        files = self._files()
        return _over_all([(file.name, *self._make_reader(file, 1).fingerprint()) for file in files])

    def _files(self) -> list[Path]:
        """The files that are read, in order.

        Raises:
            SourceFileError: there is none.
        """
        files = matching_files(self._patterns)
        registered, others = pick(files, [one.name for one in self._registered.files])
        files = registered + others
        if self._names is not None:
            wanted, files_found = Counter(self._names), files
            files = []
            for file in files_found:
                if wanted[file_label(file)] > 0:
                    wanted[file_label(file)] -= 1
                    files.append(file)
        if not files:
            raise SourceFileError(f"{self._patterns[0]}: none of the files to be read is there.")
        return files

    def _file(self, number: int) -> Path:
        files = self._files()
        if number < len(files):
            return files[number]
        raise SourceChangedError(
            f"{self._patterns[0]}: there were {number + 1} files or more when the source was registered, now there "
            f"are {len(files)}: restore them, or register it again."
        )

    def _reader(self, file: Path) -> SourceReader:
        """The readers used last are kept: what one unpacked serves the next chunk."""
        reader = self._readers.pop(file, None) or self._make_reader(file, CHUNK_COUNT_MAX)
        self._readers[file] = reader
        for oldest in list(self._readers)[:-READERS_KEPT]:
            self._readers.pop(oldest, None)
        return reader


class _Before:
    """What lies before a file: positions and rows."""

    def __init__(self, offset: int, rows: int) -> None:
        self.offset = offset
        self._rows = rows

    def shift(self, table: pa.Table) -> pa.Table:
        """EXTRACTED of a file as a part of the whole source."""
        for name, by in ((SOURCE_ROW, self._rows), (BYTE_OFFSET, self.offset)):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(name), pc.add(table[name], by))
        return table


def pick(files: Sequence[Path], names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Files of these names, in the order of the names, and all others, in their own order."""
    picked = []
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(file_label(file), []).append(file)
    for name in names:
        if found := by_name.get(name):
            picked.append(found.pop(0))
    taken = set(picked)
    return picked, [file for file in files if file not in taken]


def _chunks_allowed(files: Sequence[Path], known: dict[int, SourceManifest]) -> list[int]:
    """How many chunks each file may give: as many as it gave; a new one, one and a share of the others by its size."""
    sizes = {}
    for number, file in enumerate(files):
        if number not in known:
            with open_file(file) as opened:
                sizes[number] = opened.seek(0, 2)
    kept = {number: max(1, len(one.chunks)) for number, one in known.items()}
    left, total = CHUNK_COUNT_MAX - sum(kept.values()) - len(sizes), max(1, sum(sizes.values()))
    return [kept.get(number) or 1 + left * sizes[number] // total for number in range(len(files))]


def _over_all(parts: Sequence[tuple[str, int, str]]) -> tuple[int, str]:
    text = "".join(f"{name}\0{size}\0{sha256}\n" for name, size, sha256 in parts)
    return sum(size for _, size, _ in parts), hashlib.sha256(
        text.encode(errors="surrogateescape")
    ).hexdigest()


def _name(files: Sequence[Path]) -> str:
    first = file_label(files[0])
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


def _first_difference(expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    for number, (there, here) in enumerate(zip(expected, found, strict=False), start=1):
        if there != here:
            return f"column {number} is {here!r} here and {there!r} there"
    return f"{len(found)} columns here and {len(expected)} there"
