"""The catalogue: which sources there are.

Belongs here: the sources of the sources folder and of files that were registered by path.
Does not: reading a single one (`load.py`), finding their files (`source_files.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.scb_days import day_definition
from backfill_pipeline.definition.source_files import SUFFIXES, source_files
from backfill_pipeline.errors import SourceDefinitionError, UsageError

_DAY = re.compile(r"(?P<source>.+)@(?P<day>\d{4}-\d{1,2}-\d{1,2})")


def find_sources(
    sources_dir: Path, registered_dir: Path
) -> dict[str, SourceDefinition | SourceDefinitionError]:
    """All sources by id, in order. A file that cannot be used comes with its error, under a name made from its own.

    Args:
        sources_dir: the folder of source files.
        registered_dir: links to source files elsewhere, made by `register_path`.
    """
    usable: dict[str, SourceDefinition] = {}
    broken: list[tuple[str, SourceDefinitionError]] = []
    # Links are followed first, so that errors name the user's own file.
    for path in [*source_files(sources_dir), *(path.resolve() for path in source_files(registered_dir))]:
        try:
            definition = load_definition(path)
        except SourceDefinitionError as error:
            broken.append((path.stem, error))
            continue
        earlier = usable.setdefault(definition.id, definition)
        if earlier.path.resolve() != definition.path.resolve():
            taken = f"{definition.path}: id {definition.id} is taken by {earlier.path}: give one of them another id."
            broken.append((path.stem, SourceDefinitionError(taken)))
    broken += _kept_twice(usable)
    found: dict[str, SourceDefinition | SourceDefinitionError] = dict(usable)
    for stem, problem in broken:
        name = _safe_name(stem)
        while name in found:
            name += "_broken"
        found[name] = problem
    return dict(sorted(found.items()))


def _kept_twice(usable: dict[str, SourceDefinition]) -> list[tuple[str, SourceDefinitionError]]:
    """Takes out definitions of a bank or a ledger that an earlier one is about already."""
    broken = []
    kept: list[SourceDefinition] = []
    for definition in list(usable.values()):
        if problem := _taken_bank(definition, kept):
            broken.append((definition.id, SourceDefinitionError(problem)))
            del usable[definition.id]
        else:
            kept.append(definition)
    return broken


def _taken_bank(definition: SourceDefinition, others: Iterable[object]) -> str | None:
    """What is wrong when another definition is about the same bank or ledger: a ledger is kept with one bank."""
    if definition.scb is None:
        return None
    for other in others:
        if not isinstance(other, SourceDefinition) or other.scb is None or other.id == definition.id:
            continue
        for key, ours, theirs in (
            ("scb.bank_id", definition.scb.bank_id, other.scb.bank_id),
            ("fields.ledger_id", definition.dual_ledger_id, other.dual_ledger_id),
        ):
            if ours == theirs:
                return (
                    f"{definition.path}: {key} is {ours!r}, which {other.path} has too: a bank keeps one ledger"
                    " with us, so remove one of the two files."
                )
    return None


def resolve_source(
    name: str, sources_dir: Path, registered_dir: Path, *, register: bool = True
) -> SourceDefinition:
    """The source that a command names: by id, or by the path of its file; either with `@` and a day of a bank.

    Args:
        name: the id or path.
        sources_dir: the folder of source files.
        registered_dir: links to source files elsewhere.
        register: link a file that is given by its path, so that the UI and the id find it. Not for commands that
            leave nothing behind.

    Raises:
        UsageError: there is no such source, or it has no such day.
        SourceDefinitionError: its definition is wrong, or its id belongs to another file.
    """
    name, day = split_day(name)
    definition = _resolve(name, sources_dir, registered_dir, register=register)
    return definition if day is None else day_of(definition, day)


def split_day(name: str) -> tuple[str, date | None]:
    """What a command names without its day, and the day: `scb_01@2024-03-01` is a day of scb_01.

    Raises:
        UsageError: there is no such day in the calendar.
    """
    match = _DAY.fullmatch(name)
    if match is None:
        return name, None
    try:
        return match["source"], date.fromisoformat(match["day"])
    except ValueError:
        raise UsageError(
            f"{name}: {match['day']} is no day of the calendar: write it as 2024-03-01"
        ) from None


def day_of(definition: SourceDefinition, day: date) -> SourceDefinition:
    """The definition of one day of a bank.

    Raises:
        UsageError: the source is no bank, or its days begin later.
    """
    if definition.scb is None:
        raise UsageError(
            f"source {definition.id} is of type {definition.type}, and only type scb has days: name it without @{day}"
        )
    if day < definition.scb.start:
        raise UsageError(
            f"{definition.id} begins on {definition.scb.start} (scb.start), and {day} is before that: name a later day"
        )
    return day_definition(definition, day)


def _resolve(name: str, sources_dir: Path, registered_dir: Path, *, register: bool) -> SourceDefinition:
    if "/" in name or name.endswith(SUFFIXES):
        return register_path(Path(name), sources_dir, registered_dir, link=register)
    sources = find_sources(sources_dir, registered_dir)
    match sources.get(name):
        case SourceDefinition() as definition:
            return definition
        case SourceDefinitionError() as error:
            raise error
        case _:
            raise no_such_source(name, sources_dir, sources)


def no_such_source(name: str, sources_dir: Path, known: Iterable[str]) -> UsageError:
    """The error for a name that is no source's: also when it is that of an export, which many try first."""
    if Path(name).is_file():
        return UsageError(
            f"{name} is no source definition, whose name ends in .yaml: for an export, draft one with backfill profile"
        )
    return UsageError(
        f"there is no source {name} in {sources_dir} (known: {', '.join(known) or 'none'}): name one of these,"
        " or the path of a source file"
    )


def register_path(
    path: Path, sources_dir: Path, registered_dir: Path, *, link: bool = True
) -> SourceDefinition:
    """Reads a source file anywhere and links it, so that the UI shows it as well; without `link` it only reads."""
    definition = load_definition(path)
    sources = find_sources(sources_dir, registered_dir)
    if problem := _taken_bank(definition, sources.values()):
        raise SourceDefinitionError(problem)
    taken = sources.get(definition.id)
    if isinstance(taken, SourceDefinition):
        if taken.path.resolve() == path.resolve():
            return definition
        if taken.path.resolve().parent == sources_dir.resolve():
            raise SourceDefinitionError(
                f"{path}: id {definition.id} is taken by {taken.path}: give one of them another id."
            )
    if link:
        registered_dir.mkdir(parents=True, exist_ok=True)
        linked = registered_dir / f"{definition.id}.yaml"
        linked.unlink(missing_ok=True)
        linked.symlink_to(path.resolve())
    return definition


def _safe_name(stem: str) -> str:
    return (
        "".join(character if character.isalnum() or character == "_" else "_" for character in stem)
        or "source"
    )
