"""The export of rejects for repair: a CSV with the source's own columns, and the repaired file read back.

Belongs here: the form of that file, and the cells of rejected rows.
Does not: sending repaired rows through the pipeline (`replay.py`), the files below the home (`reject_file.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.schemas.extracted import SOURCE_ROW
from backfill_pipeline.schemas.reject_hints import hint
from backfill_pipeline.schemas.row_errors import combined
from backfill_pipeline.schemas.spreadsheets import FORMULA
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.work import SourceWork
from backfill_pipeline.wording import counted

# Columns around the source's own. They are found by their place, so that a source may use these names too.
_BEFORE: Final = tuple(
    f"reject.{name}"
    for name in ("source", "revision", "partition", "row", "line", "code", "field", "reason", "hint")
)
_AFTER: Final = ("reject.raw", "reject.identity")
_SOURCE, _REVISION, _ROW = 0, 1, 3
_ESCAPED_FORMULA: Final = FORMULA.replace("^", "^'", 1)
_DELIMITERS: Final = (",", ";", "\t")  # in some countries, spreadsheets write another one than they read
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class RepairedFile:
    """A repaired file as it was read, by source row.

    Attributes:
        rows: source (string), revision and source_row (int64), identity (string), record (int64): its place in the
            file, counted from 1 without the header.
        cells: the source's own columns, row for row; string, never null.
    """

    rows: pa.Table
    cells: pa.Table


def export_header(header: Sequence[str]) -> list[str]:
    """The columns of the export of a source with these columns."""
    return [*_BEFORE, *header, *_AFTER]


def source_cells(work: SourceWork, states: pa.Table) -> pa.Table:
    """The source's own columns of rejects, as the source wrote them; null where the record was malformed.

    Args:
        work: the source.
        states: `replays.STATE_SCHEMA`, in source order.
    """
    header = list(work.registration.header)
    parts = []
    for key in pc.unique(states.column("partition_key")).to_pylist():
        rows = states.filter(pc.equal(states.column("partition_key"), key)).column("source_row")
        extracted = PartitionFrames(work, key, ()).extracted()
        at = pc.index_in(combined(rows), value_set=combined(extracted.column(SOURCE_ROW)))
        parts.append(extracted.select(header).take(at))
    return pa.concat_tables(parts) if parts else no_cells(header, 0)


def no_cells(header: Sequence[str], count: int) -> pa.Table:
    """The source's columns for `count` rows of which nothing is known."""
    return pa.table([pa.nulls(count, pa.string()) for _ in header], names=list(header))


def latest_cells(states: pa.Table, cells: pa.Table) -> pa.Table:
    """The cells as they were sent last: those of the source, unless the row was repaired before."""
    repaired = combined(states.column("repaired"))
    if repaired.null_count == len(repaired):
        return cells
    sent = pc.is_valid(repaired)
    columns = [
        pc.if_else(sent, pc.list_element(repaired, number), combined(column))
        for number, column in enumerate(cells.columns)
    ]
    return pa.table(columns, names=cells.column_names)


def write_export(file: BinaryIO, registration: Registration, states: pa.Table, cells: pa.Table) -> None:
    """Writes rejects as CSV (UTF-8), each cell safe in a spreadsheet.

    Args:
        file: takes bytes.
        registration: whose rejects they are.
        states: `replays.STATE_SCHEMA`.
        cells: the source's columns, row for row.
    """
    count = states.num_rows
    codes = pc.unique(states.column("code"))
    hints = pa.array([hint(code) for code in codes.to_pylist()], pa.string())
    columns = [
        pa.repeat(pa.scalar(registration.source_id), count),
        pa.repeat(pa.scalar(str(registration.revision)), count),
        *(
            states.column(name)
            for name in ("partition_key", "source_row", "source_line", "code", "field", "reason")
        ),
        hints.take(pc.index_in(combined(states.column("code")), value_set=codes)),
        *cells.columns,
        states.column("raw"),
        states.column("identity"),
    ]
    names = export_header(registration.header)
    escaped = [_escaped(pc.fill_null(pc.cast(combined(column), pa.string()), "")) for column in columns]
    # Their names may repeat (a source may call a column reject.row), so the header is a row like the others.
    table = pa.table(
        [
            pa.concat_arrays([_escaped(pa.array([name], pa.string())), column])
            for name, column in zip(names, escaped, strict=True)
        ],
        names=[str(number) for number in range(len(names))],
    )
    arrow_csv.write_csv(table, file, arrow_csv.WriteOptions(include_header=False))


def read_repaired(path: Path, header: Sequence[str]) -> RepairedFile:
    """Reads a repaired export. What a spreadsheet does to a file is understood: a byte order mark, other delimiters.

    Raises:
        UsageError: it cannot be read, or is not an export of a source with these columns.
    """
    try:
        data = path.read_bytes().removeprefix(_BOM)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): name the repaired file with --file"
        ) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8: save it as CSV in UTF-8") from None
    if "\0" in text:
        raise UsageError(
            f"{path} holds a NUL byte, which no text in the ledger can hold: save it as plain CSV"
        )
    names = export_header(header)
    table = _parsed(path, data, names)
    found = [_unescaped(pc.fill_null(column, "")) for column in table.columns]
    if not table.num_rows or [column[0].as_py() for column in found] != names:
        raise _not_an_export(path, names)
    found = [combined(column.slice(1)) for column in found]
    rows = pa.table(
        {
            "source": found[_SOURCE],
            "revision": _numbers(path, found[_REVISION], "reject.revision"),
            "source_row": _numbers(path, found[_ROW], "reject.row"),
            "identity": found[-1],
            "record": pa.array(range(1, len(found[0]) + 1), pa.int64()),
        }
    )
    cells = pa.table(found[len(_BEFORE) : -len(_AFTER)], names=list(header))
    order = pc.sort_indices(rows, sort_keys=[("source_row", "ascending"), ("record", "ascending")])
    return RepairedFile(rows.take(order), cells.take(order))


def _parsed(path: Path, data: bytes, names: Sequence[str]) -> pa.Table:
    """The file's fields as text, its header being the first row."""
    places = [str(number) for number in range(len(names))]
    wrong: list[arrow_csv.InvalidRow] = []

    def note(row: arrow_csv.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    first = data[:64].lstrip(b'"').removeprefix(_BEFORE[0].encode()).lstrip(b'"')[:1].decode(errors="replace")
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(data),
            arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=places),
            arrow_csv.ParseOptions(
                delimiter=first if first in _DELIMITERS else ",",
                newlines_in_values=True,
                invalid_row_handler=note,
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()), null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        raise _not_an_export(path, names) from None
    if wrong and wrong[0].number == 1:
        raise _not_an_export(path, names)
    if wrong:
        raise UsageError(
            f"{path}: record {wrong[0].number - 1} has {counted(wrong[0].actual_columns, 'column')}, the export"
            f" {len(names)}: put what holds a delimiter into quotes"
        )
    return table


def _not_an_export(path: Path, names: Sequence[str]) -> UsageError:
    return UsageError(
        f"{path} has not the columns of an export of this source ({names[0]}, {names[1]}, … {names[-1]}):"
        " repair a file that backfill rejects export wrote, and keep its columns"
    )


def _numbers(path: Path, texts: pa.Array, name: str) -> pa.Array:
    fit = pc.match_substring_regex(texts, "^[0-9]{1,18}$")
    if not pc.all(fit, min_count=0).as_py():
        at = pc.index(fit, False).as_py()
        raise UsageError(
            f'{path}: record {at + 1} has {name} "{texts[at].as_py()[:60]}", which is no number:'
            " keep the columns that begin with reject. as they were exported"
        )
    return pc.cast(texts, pa.int64())


def _escaped(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, FORMULA, r"'\1")


def _unescaped(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, _ESCAPED_FORMULA, r"\1")
