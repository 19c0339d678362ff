"""Several files as one source, read one after the other.

Belongs here: their order, positions across them, one fingerprint over all.
Does not: reading any of them (the readers).

A position in the source is the number of the file (from 0) times FILE_STRIDE, plus the position in that file. So it
is known without the sizes of the files before it. A chunk never spans two files.
"""

import glob
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.extracted import BYTE_OFFSET, SOURCE_ROW
from backfill_pipeline.sources.content import open_file
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceChunk, SourceManifest, SourceReader

FILE_STRIDE: Final = 10**13
"""Positions of one file; a power of ten, so that people see file and position in the number."""

READERS_KEPT: Final = 4
"""Each may hold an open file and an unpacked copy; partitions in work at the same time lie in neighbouring files."""

MakeReader = Callable[[Path, int], SourceReader]
"""From a file, and how many chunks it may give, to its reader."""


def matching_files(patterns: Sequence[Path]) -> list[Path]:
    """The files that paths and patterns name, each once, in the order of their names.

    Raises:
        SourceFileError: a pattern matches nothing, or there are more files than chunks may be.
    """
    found: set[Path] = set()
    for pattern in patterns:
        text = str(pattern)
        matches = [Path(one) for one in glob.glob(text)] if glob.has_magic(text) else [pattern]
        files = [one for one in matches if not one.is_dir()]
        if not files:
            raise SourceFileError(f"{pattern}: no file matches: check files in the source definition.")
        found.update(files)
    if len(found) > CHUNK_COUNT_MAX:
        raise SourceFileError(
            f"{patterns[0]}: {len(found)} files are more than the {CHUNK_COUNT_MAX} that one source may have:"
            " join some, or make several sources."
        )
    return sorted(found, key=lambda file: (file.name, str(file)))


class SeveralReader:
    """The `SourceReader` of several files."""

    def __init__(self, patterns: Sequence[Path], make_reader: MakeReader) -> None:
        self._patterns = patterns
        self._make_reader = make_reader
        self._readers: dict[Path, SourceReader] = {}

    def survey(self, chunk_rows: int, *, visit: Callable[[pa.Table], None] | None = None) -> SourceManifest:
        """See `SourceReader.survey`."""
        files = matching_files(self._patterns)
        chunks: list[SourceChunk] = []
        manifests: list[SourceManifest] = []
        rows = 0
        for number, (file, count_max) in enumerate(zip(files, _chunks_allowed(files), strict=True)):
            before = _Before(number * FILE_STRIDE, rows)
            see = None if visit is None else lambda table, before=before: visit(before.shift(table))
            manifest = self._make_reader(file, count_max).survey(chunk_rows, visit=see)
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
        size, sha256 = _over_all([(one.file_name, one.size_bytes, one.sha256) for one in manifests])
        return SourceManifest(_name(files), size, sha256, manifests[0].header, rows, tuple(chunks))

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
        files = matching_files(self._patterns)
        return _over_all([(file.name, *self._make_reader(file, 1).fingerprint()) for file in files])

    def _file(self, number: int) -> Path:
        files = matching_files(self._patterns)
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


def _chunks_allowed(files: Sequence[Path]) -> list[int]:
    """How many chunks each file may give: one, and a share of the others by its size."""
    sizes = []
    for file in files:
        with open_file(file) as opened:
            sizes.append(opened.seek(0, 2))
    left, total = CHUNK_COUNT_MAX - len(files), max(1, sum(sizes))
    return [1 + left * size // total for size in sizes]


def _over_all(parts: Sequence[tuple[str, int, str]]) -> tuple[int, str]:
    text = "".join(f"{name}\0{size}\0{sha256}\n" for name, size, sha256 in parts)
    return sum(size for _, size, _ in parts), hashlib.sha256(
        text.encode(errors="surrogateescape")
    ).hexdigest()


def _name(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"


def _first_difference(expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    for number, (there, here) in enumerate(zip(expected, found, strict=False), start=1):
        if there != here:
            return f"column {number} is {here!r} here and {there!r} there"
    return f"{len(found)} columns here and {len(expected)} there"
