"""How problems in a source definition are worded.

Belongs here: one sentence per problem, with key, value and what is allowed.
Does not: finding problems (`models.py`, `load.py`, `problems.py`).
"""

import difflib
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def sentence(path: Path, error: ValidationError) -> str:
    """The first problem as one sentence; how many more there are."""
    details = error.errors()
    first = details[0]
    others = f" ({len(details) - 1} more problems in this file)" if len(details) > 1 else ""
    others = others.replace("1 more problems", "1 more problem")
    return f"{path}: {problem_text(first)}{others}."


def problem_text(detail: ErrorDetails) -> str:
    """One problem, without file and full stop: key, value, and what is wrong or allowed."""
    context = detail.get("ctx", {})
    place = [str(part) for part in detail["loc"] if not str(part).startswith("<")]
    kind = detail["type"]
    if kind == "unknown_key":
        return _unknown_key(".".join(place), str(context["key"]), list(context["allowed"]))
    if kind == "problem":
        key = ".".join([*place, *filter(None, [context.get("key")])])
        link = "" if context.get("value") is None else ", which"
        return f"{key}{_shown(context.get('value'))}{link} {context['text']}".strip()
    key = ".".join(place)
    if kind == "missing":
        return f"{key} is missing"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key} must be a mapping of keys to values, not {kind_of(detail['input'])}"
    return f"{key}{_shown(detail['input'])}: {_allowed(detail)}"


def _allowed(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        return f"allowed is {context['expected']}"
    if detail["type"] == "string_pattern_mismatch":
        return f"allowed is what matches {context['pattern']}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _unknown_key(place: str, key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    inside = f"{place}.{key}" if place else key
    return f"{inside} is an unknown key: {hint}allowed are {', '.join(allowed)}"


def _shown(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    return f" is {text[:80]!r}" if isinstance(value, str | int | float) else f" is {kind_of(value)}"


def kind_of(value: object) -> str:
    """A value by its kind, for sentences: "a list"."""
    names = {type(None): "empty", str: "a text", list: "a list", dict: "a mapping"}
    return names.get(type(value), f"a {type(value).__name__}")


def reason_of(error: OSError) -> str:
    """Why the system refused something, in its own words."""
    return (error.strerror or str(error)).lower()
