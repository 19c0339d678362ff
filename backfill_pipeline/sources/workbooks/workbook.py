"""Excel workbooks (.xlsx, .xlsm): the archive, its sheets, texts and formats.

Belongs here: opening and refusing workbooks, what all sheets share.
Does not: the cells of a sheet (`xlsx_cells.py`), which of them are a table (`xlsx_stream.py`).

A workbook is a zip archive of XML parts (ECMA-376). The parts are read here and not by openpyxl, whose cells are
doubles and dates by then, which cannot tell a formula without a value from an empty cell, and which refuses a whole
workbook for a mistake in a colour.
"""

import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.files.compressed import ALWAYS_BYTES, RATIO_MAX
from backfill_pipeline.sources.files.content import open_file, os_reason
from backfill_pipeline.sources.xml_reading import read_xml

TEXT_BYTES_MAX: Final = 256 << 20
"""What the texts of a workbook may unpack to; they are held in memory, as are its formats."""

BLOCK_BYTES: Final = 256 << 10

_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DAMAGE: Final = (
    *(OSError, EOFError, ValueError, LookupError, RuntimeError, struct.error),
    *(zlib.error, zipfile.BadZipFile),
)
_ESCAPE: Final = re.compile(r"_x([0-9A-Fa-f]{4})_")


@dataclass(frozen=True, slots=True)
class DateFormat:
    """How a number format shows a number as a time: with its date, with its time of day, or as time that elapsed."""

    date: bool
    time: bool
    elapsed: bool


@dataclass(frozen=True, slots=True)
class Workbook:
    """What all sheets share.

    Attributes:
        sheets: name → part, in the order of the workbook.
        texts: shared by cells, which name them by number.
        date_formats: number of a cell style → how it shows a time; others show numbers.
        is_1904: whether days are counted from 1904-01-01 instead of 1899-12-30.
    """

    archive: zipfile.ZipFile
    file: Path
    sheets: dict[str, str]
    texts: list[str]
    date_formats: dict[int, DateFormat]
    is_1904: bool

    def part(self, name: str) -> Iterator[bytes]:
        """A part in blocks."""
        return _blocks(self.archive, name)


@contextmanager
def opened_workbook(file: Path) -> Iterator[Workbook]:
    """Opens a workbook and reads all but its sheets.

    Raises:
        SourceFileError: it is no workbook, is damaged, or unpacks to more than any workbook does; inside the context,
            too.
    """
    with open_file(file) as opened:
        try:
            _refuse_others(file, opened)
            with zipfile.ZipFile(opened) as archive:
                _check_sizes(file, archive)
                yield _read(file, archive)
        except _DAMAGE as error:
            reason = os_reason(error) if isinstance(error, OSError) else str(error).strip().rstrip(".")
            raise SourceFileError(
                f"{file}: is not a whole Excel workbook ({' '.join((reason or type(error).__name__).split())[:200]}):"
                " was it cut short or damaged?"
            ) from None


def plain_text(text: str) -> str:
    """Text as Excel shows it: `_x000D_` stands for a character that XML cannot hold."""
    if "_x" not in text:
        return text

    def character(match: re.Match[str]) -> str:
        code = int(match[1], 16)
        return match[0] if 0xD800 <= code <= 0xDFFF else chr(code)

    return _ESCAPE.sub(character, text)


def _refuse_others(file: Path, opened: IO[bytes]) -> None:
    head = opened.read(512)
    if head.startswith(_OLE):
        opened.seek(0)
        is_locked = any(
            "EncryptedPackage".encode("utf-16-le") in block
            for block in iter(lambda: opened.read(1 << 20), b"")
        )
        what = (
            "is protected by a password: save it without one"
            if is_locked
            else "is an old Excel workbook (.xls): open it and save it as .xlsx"
        )
        raise SourceFileError(f"{file}: {what}.")
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        what = "is empty" if not head else "looks like HTML" if b"<" in head[:64] else "is none"
        raise SourceFileError(
            f"{file}: should be an Excel workbook (.xlsx), but {what}: open it in a spreadsheet program and save it as"
            " .xlsx, or give it another type."
        )
    opened.seek(0)


def _check_sizes(file: Path, archive: zipfile.ZipFile) -> None:
    """By what the archive says of its parts; more than that is never unpacked of them."""
    parts = archive.infolist()
    packed = file.stat().st_size
    if sum(part.file_size for part in parts) > max(ALWAYS_BYTES, RATIO_MAX * packed):
        raise SourceFileError(
            f"{file}: unpacks to more than {RATIO_MAX} times its size, as no export does: save it anew in a spreadsheet"
            " program if it is to be trusted."
        )


def _read(file: Path, archive: zipfile.ZipFile) -> Workbook:
    names = set(archive.namelist())
    if "_rels/.rels" not in names:
        what = (
            "an OpenDocument spreadsheet"
            if "content.xml" in names
            else "a zip archive, but no Excel workbook"
        )
        raise SourceFileError(f"{file}: is {what}: save it as .xlsx.")
    main = next(
        (part for kind, part in _relations(file, archive, "").values() if kind == "officeDocument"), ""
    )
    if main.endswith(".bin"):
        raise SourceFileError(f"{file}: is a binary workbook (.xlsb): save it as .xlsx.")
    if main not in names:
        raise SourceFileError(f"{file}: is a zip archive, but no Excel workbook: save it as .xlsx.")
    book = _BookPart()
    _load(file, archive, main, book)
    relations = _relations(file, archive, main)
    found = {kind: part for kind, part in relations.values() if part in names}
    texts, styles = _TextsPart(), _StylesPart()
    for kind, handler in (("sharedStrings", texts), ("styles", styles)):
        if kind in found:
            _load(file, archive, found[kind], handler)
    sheets = {}
    for name, identity in book.sheets:
        kind, part = relations.get(identity, ("", ""))
        if kind == "worksheet" and part in names:
            sheets[name] = part
    return Workbook(archive, file, sheets, texts.texts, styles.date_formats(), book.is_1904)


def _blocks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as part:
        while block := part.read(BLOCK_BYTES):
            yield block


def _load(file: Path, archive: zipfile.ZipFile, name: str, handler: "_Part") -> None:
    if archive.getinfo(name).file_size > TEXT_BYTES_MAX:
        raise SourceFileError(
            f"{file}: {name} unpacks to more than {TEXT_BYTES_MAX >> 20} MiB: split the workbook, or save it as CSV."
        )
    for _ in read_xml(_blocks(archive, name), handler, f"{file}: {name}"):
        pass


def _relations(file: Path, archive: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """Id of a relation → its kind, and the part that it leads to; those of the whole archive for ""."""
    folder, name = posixpath.split(part)
    relations = _RelationsPart()
    path = posixpath.join(folder, "_rels", f"{name}.rels")
    if path in archive.namelist():
        _load(file, archive, path, relations)
    return {
        identity: (
            kind.rpartition("/")[2],
            posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/"),
        )
        for identity, (kind, target) in relations.found.items()
    }


class _Part:
    """An `XmlHandler` that takes nothing."""

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        pass

    def end(self, name: str) -> None:
        pass

    def text(self, text: str) -> None:
        pass


class _RelationsPart(_Part):
    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str]] = {}

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        if name == "Relationship" and attributes.get("TargetMode") != "External":
            self.found[attributes.get("Id", "")] = (attributes.get("Type", ""), attributes.get("Target", ""))


class _BookPart(_Part):
    def __init__(self) -> None:
        self.sheets: list[tuple[str, str]] = []
        self.is_1904 = False

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        if name == "sheet":
            self.sheets.append((attributes.get("name", ""), attributes.get("id", "")))
        elif name == "workbookPr":
            self.is_1904 = attributes.get("date1904", "") in ("1", "true", "on")


@dataclass(slots=True)
class _TextsPart(_Part):
    """The texts that cells share, without how parts of them look and how they are pronounced."""

    texts: list[str] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _takes: bool = False
    _pronounced: int = 0

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        if name == "si":
            self._parts = []
        elif name == "rPh":
            self._pronounced += 1
        self._takes = name == "t" and not self._pronounced

    def end(self, name: str) -> None:
        self._takes = False
        if name == "si":
            self.texts.append(plain_text("".join(self._parts)))
        elif name == "rPh":
            self._pronounced -= 1

    def text(self, text: str) -> None:
        if self._takes:
            self._parts.append(text)


class _StylesPart(_Part):
    """Which cell styles show times."""

    def __init__(self) -> None:
        # Imported here: it takes a fifth of a second, which nobody but a reader of workbooks should wait for.
        from openpyxl.styles.numbers import BUILTIN_FORMATS

        self._formats: dict[str, str] = {str(number): code for number, code in BUILTIN_FORMATS.items()}
        self._styles: list[str] = []
        self._inside = False

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        if name == "numFmt" and "numFmtId" in attributes:
            self._formats[attributes["numFmtId"]] = attributes.get("formatCode", "")
        elif name == "cellXfs":
            self._inside = True
        elif name == "xf" and self._inside:
            self._styles.append(attributes.get("numFmtId", "0"))

    def end(self, name: str) -> None:
        if name == "cellXfs":
            self._inside = False

    def date_formats(self) -> dict[int, DateFormat]:
        known: Mapping[str, DateFormat | None] = {
            number: _date_format(self._formats.get(number)) for number in set(self._styles)
        }
        return {
            place: shown for place, number in enumerate(self._styles) if (shown := known[number]) is not None
        }


def _date_format(code: str | None) -> DateFormat | None:
    """How a format shows times; None for formats of numbers. Formats 14 to 22 and 45 to 47 need no code."""
    from openpyxl.styles.numbers import STRIP_RE, is_date_format, is_timedelta_format

    if not is_date_format(code):
        return None
    assert code is not None
    plain = re.sub(r"\\.|_.", "", STRIP_RE.sub("", code.split(";")[0])).lower()
    has_time = "h" in plain or "s" in plain
    return DateFormat(
        date="d" in plain or "y" in plain or not has_time, time=has_time, elapsed=is_timedelta_format(code)
    )
