"""Everything that is wrong with a source file at once, each problem with its line.

Belongs here: finding further problems behind the first, and where in the file a key is.
Does not: what is allowed (`models.py`), wording (`wording.py`), reading a file that is right (`load.py`).

Pydantic stops at the first problem of a section. So what is wrong is corrected in a copy (a misspelt key gets the name
that it resembles, any other wrong key is left out) and the copy is read again, until nothing new turns up.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from backfill_pipeline.definition.load import TextLoader, load_definition, parse_yaml, with_paths
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.wording import kind_of, problem_text
from backfill_pipeline.errors import SourceDefinitionError

_ROUNDS_MAX: Final = 50
_NODES_MAX: Final = 200_000

_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a source.

    Attributes:
        file: where it can be corrected.
        line: 1-based, of the key concerned or of the nearest one around it; None when the file has no such line.
        key: dotted, empty for the file as a whole.
        text: what is wrong and what is allowed, with the key, without file and full stop.
        suggestion: what was probably meant, for misspelt keys and columns.
    """

    file: Path
    line: int | None
    key: str
    text: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.text}."


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A source file that was looked at: its definition, or what is wrong; and where its keys are."""

    definition: SourceDefinition | None
    problems: tuple[Problem, ...]
    lines: Mapping[_Key, int]

    def line_of(self, key: str) -> int | None:
        """The line of a dotted key, or of the nearest key around it."""
        return _nearest(self.lines, tuple(key.split(".")) if key else ())


def check_file(path: Path) -> CheckedFile:
    """Reads a source file and finds every problem in it. Never raises for what the file holds."""
    try:
        definition = load_definition(path)
    except SourceDefinitionError as error:
        return _what_is_wrong(path, error)
    return CheckedFile(definition, (), _lines(path.read_text(encoding="utf-8")))


def closest(word: str, known: list[str]) -> str | None:
    """What was probably meant by a misspelt word; capitals do not matter."""
    lowered = {one.casefold(): one for one in reversed(known)}
    found = difflib.get_close_matches(word.casefold(), list(lowered), n=1)
    return lowered[found[0]] if found else None


def _what_is_wrong(path: Path, error: SourceDefinitionError) -> CheckedFile:
    first = _plain(path, str(error))
    try:
        text = path.read_text(encoding="utf-8")
        data = parse_yaml(text, path)
    except (OSError, UnicodeDecodeError):
        return CheckedFile(None, (Problem(path, None, "", first),), {})
    except SourceDefinitionError as unreadable:
        # The YAML error itself: raised "from None" for people, and still there as the context.
        mark = getattr(unreadable.__context__, "problem_mark", None)
        return CheckedFile(None, (Problem(path, mark and mark.line + 1, "", first),), {})
    lines = _lines(text)
    if not isinstance(data, Mapping):
        return CheckedFile(None, (Problem(path, 1, "", first),), lines)
    found: list[Problem] = []
    try:
        data = with_paths(data, path)
    except SourceDefinitionError as unresolved:
        words = _plain(path, str(unresolved))
        key = words.split(" ", 1)[0]
        found.append(Problem(path, _nearest(lines, tuple(key.split("."))), key, words))
    found.extend(_Search(path, lines).problems(data))
    found.sort(key=lambda problem: problem.line or 0)
    return CheckedFile(None, tuple(found or [Problem(path, None, "", first)]), lines)


def _plain(path: Path, message: str) -> str:
    """An error's sentence without its file and its full stop."""
    return message.removeprefix(f"{path}: ").removesuffix(".")


class _Search:
    """Reads a definition again and again, each time with the problems found so far corrected in a copy."""

    def __init__(self, path: Path, lines: Mapping[_Key, int]) -> None:
        self._path = path
        self._lines = lines
        self._renamed: dict[_Key, _Key] = {}
        self._left_out: set[_Key] = set()
        self._seen: set[str] = set()

    def problems(self, data: Mapping[object, object]) -> Iterator[Problem]:
        try:
            copy = _copied(data)
        except (RecursionError, _TooLargeError):
            return
        for _ in range(_ROUNDS_MAX):
            try:
                SourceDefinition.model_validate(copy)
            except ValidationError as error:
                new = [detail for detail in error.errors() if self._is_new(detail)]
            else:
                return
            if not new:
                return
            for detail in new:
                yield self._problem(detail)
            for detail in new:
                self._correct(copy, detail)

    def _is_new(self, detail: ErrorDetails) -> bool:
        """Whether it was not seen yet, and is no consequence of a key that was left out."""
        place = _place(detail)
        consequence = detail["type"] == "missing" and place in self._left_out
        if detail["type"] == "problem":
            # A section that lacks a wrong key may say that it needs it, but what it says of another key is true.
            needs = not detail["ctx"]["key"] or _full_place(detail) in self._left_out
            needs = needs or str(detail["ctx"]["text"]).startswith("is needed")
            consequence = needs and any(key[: len(place)] == place for key in self._left_out)
        text = problem_text(detail)
        if consequence or text in self._seen:
            return False
        self._seen.add(text)
        return True

    def _problem(self, detail: ErrorDetails) -> Problem:
        place = self._as_written(_full_place(detail))
        suggestion = None
        if detail["type"] == "unknown_key":
            context = detail["ctx"]
            suggestion = closest(str(context["key"]), list(context["allowed"]))
        return Problem(
            self._path,
            _nearest(self._lines, place),
            ".".join(place),
            problem_text(detail),
            suggestion,
        )

    def _as_written(self, place: _Key) -> _Key:
        """A place in the copy as the user's file spells it."""
        for size in range(len(place), 0, -1):
            if (written := self._renamed.get(place[:size])) is not None:
                return (*self._as_written(written[:-1]), written[-1], *place[size:])
        return place

    def _correct(self, copy: dict[object, object], detail: ErrorDetails) -> None:
        place = _full_place(detail)
        holder = _holder(copy, place)
        if holder is None or place[-1] not in holder:
            return
        value = holder.pop(place[-1])
        if detail["type"] == "unknown_key":
            meant = closest(place[-1], list(detail["ctx"]["allowed"]))
            if meant is not None and meant not in holder:
                holder[meant] = value
                self._renamed[(*place[:-1], meant)] = place
            return
        self._left_out.add(place)


def _place(detail: ErrorDetails) -> _Key:
    """Where pydantic found it, without the names of alternatives (`<column>`)."""
    return tuple(str(part) for part in detail["loc"] if not str(part).startswith("<"))


def _full_place(detail: ErrorDetails) -> _Key:
    """With the key that the error itself names."""
    named = detail.get("ctx", {}).get("key") if detail["type"] in ("unknown_key", "problem") else None
    return _place(detail) + (tuple(str(named).split(".")) if named else ())


def _holder(data: object, place: _Key) -> dict[object, object] | None:
    """The mapping that holds the last key of a place."""
    if not place:
        return None
    for part in place[:-1]:
        if isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        elif isinstance(data, dict):
            data = data.get(part)
        else:
            return None
    return data if isinstance(data, dict) else None


class _TooLargeError(Exception):
    """Aliases within aliases: a short text that stands for millions of nodes."""


def _copied(value: object) -> dict[object, object]:
    nodes = count()

    def copy(one: object) -> object:
        if next(nodes) > _NODES_MAX:
            raise _TooLargeError
        if isinstance(one, Mapping):
            return {key: copy(inner) for key, inner in one.items()}
        return [copy(inner) for inner in one] if isinstance(one, list) else one

    copied = copy(value)
    assert isinstance(copied, dict), kind_of(copied)
    return copied


# --- lines ------------------------------------------------------------------------------------------------------


def _lines(text: str) -> dict[_Key, int]:
    """Line of every key and list item of a YAML text that parses."""
    try:
        root = yaml.compose(text, Loader=TextLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    found: dict[_Key, int] = {}

    def visit(node: yaml.Node | None, place: _Key) -> None:
        # An alias leads to a node that was seen under another key; nesting is bounded by what the parser accepted.
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                found.setdefault(inner, key.start_mark.line + 1)
                visit_once(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                inner = (*place, str(number))
                found.setdefault(inner, value.start_mark.line + 1)
                visit_once(value, inner)

    seen: set[int] = set()

    def visit_once(node: yaml.Node, place: _Key) -> None:
        if id(node) not in seen:
            seen.add(id(node))
            visit(node, place)

    visit(root, ())
    return found


def _nearest(lines: Mapping[_Key, int], place: _Key) -> int | None:
    for size in range(len(place), 0, -1):
        if place[:size] in lines:
            return lines[place[:size]]
    return 1 if lines else None
