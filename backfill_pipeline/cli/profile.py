"""`backfill profile`: what an unknown file holds, and a draft of its source definition.

Belongs here: the command's text, JSON and exit codes.
Does not: finding anything out (`profiling/`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks
from backfill_pipeline.cli.sources import readable_size
from backfill_pipeline.cli.tables import printable
from backfill_pipeline.errors import UsageError
from backfill_pipeline.wording import counted

if TYPE_CHECKING:
    from backfill_pipeline.profiling.columns import ColumnProfile
    from backfill_pipeline.profiling.numbers import NumberGuess
    from backfill_pipeline.profiling.profile import FileProfile
    from backfill_pipeline.profiling.times import TimeGuess

_VALUE_SHOWN = 40


def profile_export(file: Path, out: Path | None, *, as_json: bool) -> ExitCode:
    """Prints the profile; writes the draft when asked to, and never over another file."""
    from backfill_pipeline.definition.problems import check_file
    from backfill_pipeline.profiling.draft import draft
    from backfill_pipeline.profiling.profile import profile_file

    _check_is_export(file)
    found = profile_file(file)
    text = draft(found, Path() if out is None else out.parent)
    if out is not None:
        try:
            with out.open("x", encoding="utf-8") as opened:
                opened.write(text)
        except FileExistsError:
            raise UsageError(f"{out} exists already: name another file, or remove it first") from None
        except OSError as error:
            raise UsageError(f"{out} cannot be written ({error.strerror}): name another file") from None
    if as_json:
        print_json({**_plain(found), "draft": text})
        return ExitCode.CLEAN
    _print(found)
    if out is None:
        console.print("\n[bold]a first draft[/bold]  (--out writes it to a file)")
        for line in text.splitlines():
            console.print(printable(line), markup=False)
    else:
        open_decisions = check_file(out).problems
        then = (
            f"it does not load before {_decisions(len(open_decisions))} made: backfill sources check {out}"
            if open_decisions
            else f"now: backfill sources preview {out}"
        )
        remarks.print(f"draft written to {out}; {then}", markup=False)
    return ExitCode.CLEAN


def _check_is_export(file: Path) -> None:
    """Says about the argument what the readers would say about a source definition.

    Raises:
        UsageError: there is no file, or it is a source definition.
    """
    from backfill_pipeline.definition.source_files import SUFFIXES

    if file.is_dir():
        raise UsageError(f"{file} is a directory: name one file of it")
    if not file.exists():
        raise UsageError(f"{file}: there is no such file")
    if file.suffix in SUFFIXES:
        raise UsageError(
            f"{file} is a source definition by its name: use backfill sources check, or name the export"
        )


def _decisions(count: int) -> str:
    return "1 decision is" if count == 1 else f"{count} decisions are"


def _plain(found: FileProfile) -> dict[str, object]:
    dialect = found.written.dialect
    return {
        "file": str(found.file),
        "bytes": found.size_bytes,
        "rows": found.rows,
        "looked_at": [list(one) for one in found.looked_at],
        "malformed": found.malformed,
        "first_malformed": found.first_malformed,
        "dialect": {
            "delimiter": dialect.delimiter,
            "quote": dialect.quote,
            "encoding": dialect.encoding,
            "byte_order_mark": found.written.byte_order_mark,
            "line_ends": found.written.line_ends,
            "header": dialect.header,
        },
        "workbook": None if (book := found.written.workbook) is None else book.model_dump(exclude_none=True),
        "notes": list(found.written.notes),
        "columns": [_column(one) for one in found.columns],
        "candidates": {field: [asdict(one) for one in ones] for field, ones in found.candidates.items()},
    }


def _column(column: ColumnProfile) -> dict[str, object]:
    made: dict[str, object] = {
        "name": column.name,
        "kind": column.kind,
        "rows": column.rows,
        "empty": column.empty,
        "distinct": column.distinct,
        "minimum": column.minimum,
        "maximum": column.maximum,
        "samples": list(column.samples),
        "balance_of": column.balance_of,
    }
    if column.number is not None:
        number = column.number
        made["number"] = {
            "decimal_mark": number.decimal_mark,
            "thousands_mark": number.thousands_mark,
            "readings": list(number.readings),
            "decided_by": number.decided_by and asdict(number.decided_by),
            "exceptions": number.exceptions,
            "decimals": number.decimals,
            "negative": number.negative,
        }
    if column.time is not None:
        made["time"] = {
            "formats": list(column.time.formats),
            "decided_by": column.time.decided_by and asdict(column.time.decided_by),
            "exceptions": column.time.exceptions,
            "has_offset": column.time.has_offset,
        }
    return made


def _print(found: FileProfile) -> None:
    written, dialect = found.written, found.written.dialect
    console.print(
        f"{found.file}  {readable_size(found.size_bytes)}, {counted(found.rows, 'row')}", markup=False
    )
    ranges = ", ".join(f"{first:,} to {last:,}" for first, last in found.looked_at)
    console.print(f"  looked at rows {ranges or 'none'}")
    if (book := written.workbook) is not None:
        header = (
            f"row {book.named_in()} names the columns" if book.columns is None else "no row names the columns"
        )
        console.print(printable(f"  workbook  sheet {book.sheet or 'the only one'}  {header}"), markup=False)
    else:
        mark = "tab" if dialect.delimiter == "\t" else dialect.delimiter
        bom = " with byte order mark" if written.byte_order_mark else ""
        header = "a header line" if dialect.header else "no header line"
        quote = dialect.quote or "none"
        console.print(
            f"  delimiter {mark}  quote {quote}  {dialect.encoding}{bom}  {written.line_ends}  {header}",
            markup=False,
        )
    for note in written.notes:
        console.print(f"  {printable(note)}", markup=False, style="yellow")
    if found.malformed:
        told = f"  {found.malformed} of these rows are malformed, the first: {found.first_malformed}"
        console.print(printable(told), markup=False, style="yellow")
    console.print()
    for column in found.columns:
        console.print(f"[bold]{_safe(column.name)}[/bold]  {_told(column)}", end="\n")
        span = "" if column.minimum is None else f"{column.minimum} to {column.maximum}; "
        samples = ", ".join(column.samples)
        if samples:
            console.print("    " + printable(f"{span}{samples}", 160), markup=False, style="dim")
    console.print("\n[bold]candidates[/bold]")
    for field, ones in found.candidates.items():
        for one in ones:
            console.print(
                f"  {field}: {printable(one.column, _VALUE_SHOWN)}  {one.confidence}  {printable(one.why)}",
                markup=False,
            )


def _told(column: ColumnProfile) -> str:
    """What a column holds, in a line; markup is safe."""
    parts: list[str] = [column.kind]
    if column.number is not None and column.kind == "number":
        parts = _told_number(column.number)
    if column.time is not None:
        parts = _told_time(column.time)
    guess = column.time or column.number
    if guess is not None and guess.exceptions:
        parts.append(f"{guess.exceptions:,} values are not")
    if column.epoch:
        parts.append(f"may be {column.epoch}")
    if column.balance_of:
        parts.append(f"running balance of {column.balance_of}")
    parts.append("unique" if not column.not_unique else f"{column.distinct:,} different")
    if column.empty:
        parts.append(f"{100 * column.empty // column.rows} % empty" if column.rows else "empty")
    return _safe("; ".join(parts))


def _told_number(number: NumberGuess) -> list[str]:
    if number.readings:
        return [f"number, no row tells which mark is which: {' or '.join(number.readings)}"]
    thousands = f", thousands mark {number.thousands_mark!r}" if number.thousands_mark else ""
    point = f"decimal mark {number.decimal_mark!r}" if number.decimals else "integer"
    parts = [f"number ({point}{thousands})"]
    if number.decided_by is not None:
        parts.append(f"{number.decided_by} decides")
    if number.negative:
        parts.append(f"{number.negative:,} below zero")
    return parts


def _told_time(time: TimeGuess) -> list[str]:
    parts = [f"time, {' or '.join(time.formats)}"]
    if len(time.formats) > 1:
        parts.append("no row decides")
    elif time.decided_by is not None:
        parts.append(f"{time.decided_by} decides")
    if not time.has_offset:
        parts.append("without a zone")
    return parts


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
