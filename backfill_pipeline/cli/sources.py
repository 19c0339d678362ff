"""`backfill sources list|check|preview|schema`: what there is to run, and what a run would make of it.

Belongs here: the commands' text, JSON and exit codes.
Does not: finding problems (`definition/problems.py`), mapping rows (`stages/preview.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks, state
from backfill_pipeline.cli.tables import printable
from backfill_pipeline.errors import BackfillError, SourceDefinitionError, UsageError
from backfill_pipeline.settings import Settings, load_settings
from backfill_pipeline.wording import counted

if TYPE_CHECKING:
    from backfill_pipeline.definition.problems import CheckedFile, Problem
    from backfill_pipeline.stages.preview import Preview, PreviewRow

# Characters of a value, and of a raw record, that people are shown; JSON has them whole.
_VALUE_SHOWN = 60
_RAW_SHOWN = 200
# Narrower than this, what a row becomes is written below it instead of beside it.
_SIDE_BY_SIDE_WIDTH = 90
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


# --- list -------------------------------------------------------------------------------------------------------


def list_sources(*, as_json: bool) -> ExitCode:
    """Every source of the environment, right or wrong; the ledger is asked only when there may be one."""
    from backfill_pipeline.definition.catalogue import find_sources

    settings = load_settings()
    found = find_sources(settings.sources_dir, settings.registered_sources_dir)
    usable = [name for name, one in found.items() if not isinstance(one, SourceDefinitionError)]
    banks = [name for name in usable if getattr(found[name], "type", None) == "scb"]
    registered: dict[str, dict[str, object]] = {}
    trouble: str | None = None
    if usable and _may_have_a_ledger(settings):
        try:
            registered = _registered(usable, banks)
        except BackfillError as error:
            trouble = str(error)
    sources: list[dict[str, object]] = []
    for name, one in found.items():
        if isinstance(one, SourceDefinitionError):
            sources.append({"source_id": name, "error": str(one)})
            continue
        here = registered.get(name)
        file = one.file if one.files is None else None
        size = _size(file)
        sources.append(
            {
                "source_id": name,
                "type": one.type,
                "definition": str(one.path),
                "file": one.place,
                "bytes": size,
                "live": one.is_live,
                "missing": file is not None and size is None,
                "rows": here["rows"] if here else None,
                "days": here.get("days") if here else None,
                "status": here["status"] if here else "unknown" if trouble else "not run",
            }
        )
    if as_json:
        print_json({"sources": sources, "ledger_error": trouble})
    else:
        _print_sources(sources, settings)
        if trouble:
            remarks.print(f"what was run is not known: {trouble}", markup=False)
    return ExitCode.FAILED if trouble else ExitCode.CLEAN


def _may_have_a_ledger(settings: Settings) -> bool:
    """Whether anything can have been run: there is a server of one's own, or the embedded one was made."""
    return settings.ledger_database_url is not None or (settings.postgres_dir / "data").is_dir()


def _registered(names: list[str], banks: list[str]) -> dict[str, dict[str, object]]:
    from backfill_pipeline.cli.session import open_session
    from backfill_pipeline.ledger import checkpoints, registrations
    from backfill_pipeline.ledger.banks import bank_days

    found: dict[str, dict[str, object]] = {}
    with open_session() as session:
        known = set(registrations.source_ids(session.connection))
        for name in banks:
            days = bank_days.bank_days(session.connection, name)
            if days.days:
                status = "IN_PROGRESS" if days.open_days else "COMPLETED"
                found[name] = {"rows": days.read, "days": days.days, "status": status}
        for name in known.intersection(names):
            registration = registrations.load(session.connection, name)
            checkpoint = checkpoints.load(session.connection, name)
            if registration is not None:
                status = checkpoint.status if checkpoint else "REGISTERED"
                found[name] = {"rows": registration.row_count, "status": status}
    return found


def _size(file: Path | None) -> int | None:
    if file is None:
        return None
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return None


def _print_sources(sources: list[dict[str, object]], settings: Settings) -> None:
    if not sources:
        console.print(f"no source in {settings.sources_dir}: backfill profile FILE drafts one", markup=False)
    for one in sources:
        if "error" in one:
            console.print(f"[bold]{one['source_id']}[/bold]  [red]error[/red]")
            console.print(f"  {printable(str(one['error']))}", markup=False)
            continue
        size = one["bytes"]
        lacking = "[red]no such file[/red]" if one["missing"] else "live" if one["live"] else "several files"
        told = readable_size(size) if isinstance(size, int) else lacking
        days = f" of {counted(one['days'], 'day')}" if isinstance(one["days"], int) else ""
        rows = f", {counted(one['rows'], 'row')}{days}" if isinstance(one["rows"], int) else ""
        console.print(
            f"[bold]{one['source_id']}[/bold]  {one['type']}  {told}{rows}  {state(str(one['status']))}"
        )
        console.print(f"  {printable(str(one['file']))}", markup=False)


def readable_size(size: int) -> str:
    """Bytes for people: "584.2 KiB"."""
    unit, count = 0, size
    while count >= 10 * 1024 and unit < len(_UNITS) - 1:
        unit, count = unit + 1, count // 1024
    return f"{count:,} {_UNITS[unit]}"


# --- check ------------------------------------------------------------------------------------------------------


def check_source(name: str, rows: int, day: date | None, *, as_json: bool) -> ExitCode:
    """All that is wrong with a definition and its files, and what the first rows would become."""
    from backfill_pipeline.definition.problems import check_file
    from backfill_pipeline.stages.preview import sample_by_code

    name, day = _named_day(name, day)
    checked = check_file(find_path(name))
    problems, found = list(checked.problems), None
    if checked.definition is not None:
        problems, found = _check_files(checked, rows, day)
    samples = sample_by_code(found) if found else []
    if as_json:
        print_json(
            {
                "source_id": checked.definition.id if checked.definition else None,
                "problems": [_problem(one) for one in problems],
                "rows": len(found.rows) if found else 0,
                "whole_file": found.reached_end if found else False,
                "good": found.good if found else 0,
                "filtered": found.filtered if found else {},
                "rejected": found.rejected if found else {},
                "sample": [_preview_row(one) for one in samples],
            }
        )
    else:
        for problem in problems:
            console.print(f"{printable(str(problem))}", markup=False)
        if problems:
            console.print(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}")
        if found is not None and checked.definition is not None:
            about = f" (looked at {found.source_id})" if found.source_id != checked.definition.id else ""
            console.print(
                f"[bold]{checked.definition.id}[/bold]  the definition and its files are right{about}"
            )
            _print_counts(found)
            for row in samples:
                _print_reject(row)
    if problems:
        return ExitCode.USAGE
    return ExitCode.REJECTS_OR_REFUSED if found is not None and found.rejected else ExitCode.CLEAN


def _named_day(name: str, day: date | None) -> tuple[str, date | None]:
    """A source without its day, and the day: in the name, as an option, or none."""
    from backfill_pipeline.definition.catalogue import split_day

    source, named = split_day(name)
    if named is not None and day is not None and day != named:
        raise UsageError(f"{name} is about one day and --day {day} about another: leave one of them out")
    return source, named or day


def _check_files(checked: CheckedFile, rows: int, day: date | None) -> tuple[list[Problem], Preview | None]:
    """What is wrong behind a definition that reads well; of a bank, with a day of it."""
    from backfill_pipeline.cli.banks import day_to_look_at
    from backfill_pipeline.definition.problems import Problem
    from backfill_pipeline.errors import SettingsError, SourceFileError
    from backfill_pipeline.stages.preview import check_files

    definition = checked.definition
    assert definition is not None
    try:
        looked_at = day_to_look_at(definition, day)
    except (SourceFileError, SettingsError) as error:
        key = definition.place_key
        words = f"{key} is {definition.place}: {str(error).removesuffix('.')}"
        return [Problem(definition.path, checked.line_of(key), key, words)], None
    return check_files(checked, rows=rows, day=looked_at)


def _problem(problem: Problem) -> dict[str, object]:
    return {**asdict(problem), "file": str(problem.file)}


def find_path(name: str) -> Path:
    """The source file of an id, right or wrong, or the file at a path. Nothing is registered.

    Raises:
        UsageError: there is no such source.
    """
    from backfill_pipeline.definition.catalogue import find_sources, no_such_source
    from backfill_pipeline.definition.source_files import SUFFIXES

    if "/" in name or name.endswith(SUFFIXES):
        return Path(name)
    settings = load_settings()
    found = find_sources(settings.sources_dir, settings.registered_sources_dir)
    one = found.get(name)
    if one is not None and not isinstance(one, SourceDefinitionError):
        return one.path
    # A definition with an error is known by the name of its file.
    for folder in (settings.sources_dir, settings.registered_sources_dir):
        for suffix in SUFFIXES:
            if (path := folder / f"{name}{suffix}").exists():
                return path.resolve()
    if one is not None:
        raise one
    raise no_such_source(name, settings.sources_dir, found)


# --- preview ----------------------------------------------------------------------------------------------------


def preview_source(name: str, rows: int, from_line: int, day: date | None, *, as_json: bool) -> ExitCode:
    """Rows before and after. A look only: rejected rows do not change the exit code."""
    from backfill_pipeline.cli.banks import day_to_look_at
    from backfill_pipeline.definition.load import load_definition
    from backfill_pipeline.stages.preview import preview

    name, day = _named_day(name, day)
    definition = day_to_look_at(load_definition(find_path(name)), day)
    found = preview(definition, rows=rows, from_line=from_line)
    if as_json:
        print_json(
            {
                "source_id": definition.id,
                "columns": list(found.columns),
                "good": found.good,
                "filtered": found.filtered,
                "rejected": found.rejected,
                "rows": [_preview_row(one) for one in found.rows],
            }
        )
        return ExitCode.CLEAN
    for row in found.rows:
        _print_row(row)
    _print_counts(found)
    return ExitCode.CLEAN


def _preview_row(row: PreviewRow) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if value is not None}


def _print_counts(found: Preview) -> None:
    if not found.rows:
        console.print("no rows")
        return
    first, last = found.rows[0], found.rows[-1]
    if found.reached_end and first.row == 1:
        where = "all"
    else:
        where = f"line {first.line:,}," if first is last else f"lines {first.line:,} to {last.line:,},"
    console.print(
        f"{where} {counted(len(found.rows), 'row')}: good {found.good:,}, filtered {sum(found.filtered.values()):,},"
        f" rejected {sum(found.rejected.values()):,}"
    )
    for kind, counts in (("filtered", found.filtered), ("rejected", found.rejected)):
        if counts:
            told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            console.print(f"  {kind}: {printable(told)}", markup=False)


def _print_reject(row: PreviewRow) -> None:
    console.print(f"[bold]row {row.row}, line {row.line}[/bold]  {row.code}  ", end="")
    console.print(printable(row.reason or ""), markup=False)
    console.print("    " + printable(row.raw or "", _RAW_SHOWN), markup=False, style="dim")


def _print_row(row: PreviewRow) -> None:
    colour = {"good": "green", "filtered": "yellow", "rejected": "red"}[row.outcome]
    console.print(f"[bold]row {row.row}, line {row.line}[/bold]  [{colour}]{row.outcome}[/{colour}]")
    if console.width >= _SIDE_BY_SIDE_WIDTH:
        console.print(_side_by_side(row, console.width), soft_wrap=False)
    else:
        console.print(_one_below_the_other(row), soft_wrap=False)
    if row.outcome != "good":
        told = f"{row.code}  {row.reason}" if row.code else f"{row.reason}"
        console.print("  " + printable(told), markup=False, style=colour)
    console.print()


def _side_by_side(row: PreviewRow, width: int) -> Table:
    before, after = list(row.before.items()), list(row.after.items())
    if not before and row.raw is not None:
        before = [("", row.raw)]
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    shown = min(_VALUE_SHOWN, max(12, width // 2 - 24))
    for number in range(4):
        grid.add_column(no_wrap=True, overflow="ellipsis", style="dim" if number % 2 == 0 else "")
    for number in range(max(len(before), len(after))):
        left = before[number] if number < len(before) else ("", "")
        right = after[number] if number < len(after) else ("", "")
        cells = (
            "  " + printable(left[0], shown),
            printable(left[1], shown),
            printable(right[0]),
            printable(right[1], shown),
        )
        grid.add_row(*(Text(cell) for cell in cells))
    return grid


def _one_below_the_other(row: PreviewRow) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, overflow="ellipsis", style="dim")
    grid.add_column(overflow="fold")
    before: Mapping[str, str] = row.before or ({"": row.raw} if row.raw is not None else {})
    for mark, texts in (("  ", before), ("→ ", row.after)):
        for name, value in texts.items():
            grid.add_row(Text(mark + printable(name)), Text(printable(value, _VALUE_SHOWN)))
    return grid


# --- schema -----------------------------------------------------------------------------------------------------


def print_schema() -> None:
    """The JSON Schema of a source definition, for editors."""
    from backfill_pipeline.definition.json_schema import schema_text

    print(schema_text(), end="")
