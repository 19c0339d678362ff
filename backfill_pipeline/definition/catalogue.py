"""The catalogue: which sources there are.

Belongs here: finding source files in the sources folder and among those registered by path.
Does not: reading a single one (`load.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError, UsageError

SUFFIXES = (".yaml", ".yml")


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
    for path in [*_files(sources_dir), *(path.resolve() for path in _files(registered_dir))]:
        try:
            definition = load_definition(path)
        except SourceDefinitionError as error:
            broken.append((path.stem, error))
            continue
        earlier = usable.setdefault(definition.id, definition)
        if earlier.path.resolve() != definition.path.resolve():
            taken = f"{definition.path}: id {definition.id} is taken by {earlier.path}: give one of them another id."
            broken.append((path.stem, SourceDefinitionError(taken)))
    found: dict[str, SourceDefinition | SourceDefinitionError] = dict(usable)
    for stem, problem in broken:
        name = _safe_name(stem)
        while name in found:
            name += "_broken"
        found[name] = problem
    return dict(sorted(found.items()))


def resolve_source(
    name: str, sources_dir: Path, registered_dir: Path, *, register: bool = True
) -> SourceDefinition:
    """The source that a command names: by id, or by the path of its file.

    Args:
        name: the id or path.
        sources_dir: the folder of source files.
        registered_dir: links to source files elsewhere.
        register: link a file that is given by its path, so that the UI and the id find it. Not for commands that
            leave nothing behind.

    Raises:
        UsageError: there is no such source.
        SourceDefinitionError: its definition is wrong, or its id belongs to another file.
    """
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
    taken = find_sources(sources_dir, registered_dir).get(definition.id)
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


def _files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return []
    # A link whose file is gone is no source any more.
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.exists())


def _safe_name(stem: str) -> str:
    return (
        "".join(character if character.isalnum() or character == "_" else "_" for character in stem)
        or "source"
    )
