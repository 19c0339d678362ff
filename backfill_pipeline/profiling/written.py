"""How a delimited file is written: encoding, line ends, delimiter, quote, header.

Belongs here: looking at the first bytes, and at some in the middle and at the end; files that are no such text.
Does not: what columns hold (`columns.py`).
"""

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backfill_pipeline.definition.formats import CsvDialect, XlsxFormat
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.files.content import Content

HEAD_BYTES: Final = 1 << 20
"""Read at the beginning; as much again in the middle and at the end decides the encoding."""

_RECORDS: Final = 300
_DELIMITERS: Final = (";", "\t", "|", ",")
_BINARY: Final = {
    b"PK\x03\x04": "an Excel workbook or a zip archive: let its name end in .xlsx or .zip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook, or one with a password: save it as .xlsx without one",
    b"\x1f\x8b": "compressed with gzip: let its name end in .gz",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"%PDF": "a PDF: ask the bank for CSV",
    b"PAR1": "a Parquet file, which needs no profile: it names its columns and types (type: parquet)",
}
_MT940: Final = (
    "a SWIFT statement (MT940), which needs no profile: its columns are fixed"
    " (type: mt940; see docs/statements.md)"
)
_MARKUP: Final = {
    ":20:": _MT940,
    "{1:": _MT940,
    "<": "XML or HTML: only delimited text can be profiled",
    "{": "JSON: only delimited text can be profiled",
    "[": "JSON: only delimited text can be profiled",
}
_CAMT: Final = re.compile(r"<(?:[A-Za-z0-9_.-]+:)?BkToCstmr(?:Stmt|AcctRpt|DbtCdtNtfctn)\b")
_CONTROLS: Final = [bytes([code]) for code in range(32) if chr(code) not in "\t\n\r\f"]
_VALUE: Final = re.compile(r"[+-]?[0-9][0-9.,' :/T+-]*")


@dataclass(frozen=True, slots=True)
class Written:
    """How a file is written, and what says so.

    Attributes:
        dialect: as a source definition has it.
        byte_order_mark: whether the file starts with that of UTF-8.
        line_ends: "LF", "CRLF", "CR" or "mixed".
        field_count: of most records.
        first_record_line: physical line of the first record with that many fields; lines before it are a preamble.
        notes: what a person should know or decide, each a sentence.
        workbook: where the table is in an Excel workbook; the others say nothing then.
    """

    dialect: CsvDialect
    byte_order_mark: bool
    line_ends: str
    field_count: int
    first_record_line: int
    notes: tuple[str, ...]
    workbook: XlsxFormat | None = None


def look(file: Path) -> Written:
    """Finds out how a file is written.

    Raises:
        SourceFileError: it cannot be read, or is no delimited text; one sentence with the remedy.
    """
    parts = _parts(content_of(file, None))
    _refuse_others(file, parts[0])
    encoding, notes = _encoding(parts)
    bom = parts[0].startswith(b"\xef\xbb\xbf")
    text = parts[0].decode("utf-8-sig" if encoding == "utf-8" else encoding, errors="replace")
    for start, kind in _MARKUP.items():
        if text.lstrip().startswith(start):
            if _CAMT.search(text):
                kind = (
                    "a camt statement (ISO 20022), which needs no profile: its columns are fixed"
                    " (type: camt; see docs/statements.md)"
                )
            raise SourceFileError(f"{file}: looks like {kind}.")
    delimiter, quote, records = _delimiter(text)
    if not records:
        raise SourceFileError(f"{file}: holds no records of a bearable length: it is no delimited text.")
    counts = Counter(len(fields) for _, fields in records)
    width = counts.most_common(1)[0][0]
    first_line, first = next((line, fields) for line, fields in records if len(fields) == width)
    if first_line > records[0][0]:
        notes.append(
            f"decide: the table seems to begin in line {first_line}; the lines before it are skipped"
        )
    elif len(counts) > 1:
        odd = next(line for line, fields in records if len(fields) != width)
        notes.append(f"not all records have {width} fields; the first that has not is in line {odd}")
    header, why = _header([name.strip() for name in first], [fields for _, fields in records])
    if why:
        notes.append(why)
    columns = None if header else tuple(f"column_{number}" for number in range(1, width + 1))
    dialect = CsvDialect(
        delimiter=delimiter,
        quote=quote,
        encoding=encoding,
        header=header,
        columns=columns,
        skip_lines=min(first_line - 1, 1000) if first_line > records[0][0] else 0,
    )
    return Written(dialect, bom, _line_ends(parts[0]), width, first_line, tuple(notes))


def _parts(content: Content) -> list[bytes]:
    """The beginning and, of larger files, the middle and the end, without the lines that are cut."""
    size = content.size()
    offsets = [0]
    if size > HEAD_BYTES:
        offsets += [max(HEAD_BYTES, size // 2), max(HEAD_BYTES, size - HEAD_BYTES)]
    parts = list(content.read_parts((offset, HEAD_BYTES) for offset in offsets))
    if len(parts) == 1:
        return parts
    first, *others = parts
    whole = first[: first.rfind(b"\n") + 1] or first
    return [whole, *(part[part.find(b"\n") + 1 : part.rfind(b"\n") + 1] for part in others)]


def _refuse_others(file: Path, head: bytes) -> None:
    if not head.strip():
        raise SourceFileError(f"{file}: is empty: nothing can be said about it.")
    for start, kind in _BINARY.items():
        if head.startswith(start):
            raise SourceFileError(f"{file}: is {kind}.")
    start = head[:200]
    half_empty = len(start) // 3 <= start.count(b"\0") <= 2 * len(start) // 3
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(start) > 3 and half_empty):
        raise SourceFileError(
            f"{file}: is UTF-16: convert it first, as with iconv -f UTF-16 -t UTF-8 {file.name} > utf8.csv."
        )
    if sum(map(head.count, _CONTROLS)) * 50 > len(head):
        raise SourceFileError(f"{file}: is no text: too many of its bytes are control characters.")


def _encoding(parts: list[bytes]) -> tuple[str, list[str]]:
    """The encoding that fits, and what has to be said about it."""
    try:
        for part in parts:
            part.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        text = b"".join(parts).decode("utf-8", errors="replace")
        spoilt = text.count("\ufffd")
        # In another encoding, hardly any two bytes happen to be a letter of UTF-8.
        if sum(not one.isascii() for one in text) > 3 * spoilt:
            return "utf-8", [f"it is UTF-8, but {spoilt} bytes of what was looked at are not"]
        found = "cp1252"
        try:
            for part in parts:
                part.decode("cp1252")
        except UnicodeDecodeError:
            found = "latin-1"
        return found, [
            f"it is not UTF-8 (a byte {byte:#04x}), and {found} is only the likeliest of many encodings:"
            " decide by looking at letters with accents"
        ]
    return "utf-8", []


def _line_ends(head: bytes) -> str:
    pairs = head.count(b"\r\n")
    feeds, returns = head.count(b"\n") - pairs, head.count(b"\r") - pairs
    kinds = [name for name, count in (("CRLF", pairs), ("LF", feeds), ("CR", returns)) if count]
    return kinds[0] if len(kinds) == 1 else "mixed" if kinds else "LF"


def _delimiter(text: str) -> tuple[str, str | None, list[tuple[int, list[str]]]]:
    """The delimiter that gives most records the same number of fields, more than one."""
    best: tuple[tuple[float, int], str, str | None, list[tuple[int, list[str]]]] | None = None
    for quote in ('"', None):
        if quote is None and '"' not in text:
            continue
        for delimiter in _DELIMITERS:
            records = _read(text, delimiter, quote)
            if not records:
                continue
            width, agreeing = Counter(len(fields) for _, fields in records).most_common(1)[0]
            share = agreeing / len(records) if width > 1 else 0.0
            score = (round(share, 2), width)
            if best is None or score > best[0]:
                best = (score, delimiter, quote, records)
    if best is None:
        return ",", '"', []
    return best[1], best[2], best[3]


def _read(text: str, delimiter: str, quote: str | None) -> list[tuple[int, list[str]]]:
    """The first records with their lines; a record that cannot be parsed ends them."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quotechar=quote,
        quoting=csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL,
    )
    found: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for fields in reader:
            if fields:
                found.append((line, fields))
            line = reader.line_num + 1
            if len(found) == _RECORDS:
                break
    except csv.Error:
        pass
    return found


def _header(first: list[str], records: list[list[str]]) -> tuple[bool, str | None]:
    """Whether the first record names columns, and what has to be said when that is not plain."""
    if any(_VALUE.fullmatch(name) for name in first):
        return False, "the first line holds values, so there is no header: the columns need names"
    if len(set(first)) < len(first) or not all(first):
        if len(records) > 1 and len(set(first)) > 1:
            return True, None  # the reader says which name is missing or doubled
        return False, "the first line does not name all columns: the columns need names"
    others = [fields for fields in records if len(fields) == len(first)][1:]
    typed = any(_VALUE.fullmatch(fields[at].strip()) for fields in others[:50] for at in range(len(first)))
    if typed:
        return True, None
    return True, "decide: the first line is taken as names, but nothing tells it from the others"
