"""A small judge of JSON Schema: as much of draft 2020-12 as the product's own schema uses, and nothing else."""

from __future__ import annotations

import re
from typing import Any

_TYPES = {
    "string": str,
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
    "number": (int, float),
    "integer": int,
}
_SAY_NOTHING = {
    "$schema",
    "$defs",
    "title",
    "description",
    "default",
    "format",
}


def offends(value: object, schema: dict[str, Any], root: dict[str, Any], place: str = "") -> list[str]:
    """What in a value is against the schema, by place; empty when it fits."""
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword not in _SAY_NOTHING:
            found += _RULES[keyword](value, rule, schema, root, place)
    return found


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _reference(value: object, rule: str, _schema: Any, root: Any, place: str) -> list[str]:
    part = root
    for name in rule.removeprefix("#/").split("/"):
        part = part[name]
    return offends(value, part, root, place)


def _type(value: object, rule: str | list[str], _schema: Any, _root: Any, place: str) -> list[str]:
    kinds = [rule] if isinstance(rule, str) else rule
    return [] if any(_is(value, kind) for kind in kinds) else [f"{place}: {value!r} is not {rule}"]


def _properties(value: object, rule: Any, _schema: Any, root: Any, place: str) -> list[str]:
    if not isinstance(value, dict):
        return []
    return [
        one
        for key, part in rule.items()
        if key in value
        for one in offends(value[key], part, root, f"{place}.{key}")
    ]


def _additional(value: object, rule: Any, schema: Any, root: Any, place: str) -> list[str]:
    others = (
        [key for key in value if key not in schema.get("properties", {})] if isinstance(value, dict) else []
    )
    if rule is False:
        return [f"{place}.{key} is not allowed" for key in others]
    assert isinstance(value, dict) or not others
    return [one for key in others for one in offends(value[key], rule, root, f"{place}.{key}")]


def _any_of(value: object, rule: Any, _schema: Any, root: Any, place: str) -> list[str]:
    tried = [offends(value, part, root, place) for part in rule]
    return [] if [] in tried else max(tried, key=len)


def _one_of(value: object, rule: Any, _schema: Any, root: Any, place: str) -> list[str]:
    tried = [offends(value, part, root, place) for part in rule]
    return [] if tried.count([]) == 1 else [f"{place}: fits {tried.count([])} of {len(rule)}: {tried}"]


_RULES = {
    "$ref": _reference,
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "required": lambda value, rule, _s, _r, place: [
        f"{place}.{key} is missing" for key in rule if isinstance(value, dict) and key not in value
    ],
    "propertyNames": lambda value, rule, _s, root, place: [
        one for key in value for one in offends(key, rule, root, place)
    ],
    "enum": lambda value, rule, _s, _r, place: [] if value in rule else [f"{place}: {value!r} not in {rule}"],
    "const": lambda value, rule, _s, _r, place: (
        [] if value == rule else [f"{place}: {value!r} is not {rule}"]
    ),
    "pattern": lambda value, rule, _s, _r, place: (
        [] if not isinstance(value, str) or re.search(rule, value) else [f"{place}: {value!r}"]
    ),
    "items": lambda value, rule, _s, root, place: [
        one
        for number, item in enumerate(value if isinstance(value, list) else [])
        for one in offends(item, rule, root, f"{place}[{number}]")
    ],
    "minItems": lambda value, rule, _s, _r, place: (
        [f"{place} is too short"] if isinstance(value, list) and len(value) < rule else []
    ),
    "minProperties": lambda value, rule, _s, _r, place: (
        [f"{place} is too short"] if isinstance(value, dict) and len(value) < rule else []
    ),
    "minLength": lambda value, rule, _s, _r, place: (
        [f"{place} is too short"] if isinstance(value, str) and len(value) < rule else []
    ),
    "minimum": lambda value, rule, _s, _r, place: (
        [f"{place} is below {rule}"] if isinstance(value, int) and value < rule else []
    ),
    "maximum": lambda value, rule, _s, _r, place: (
        [f"{place} is above {rule}"] if isinstance(value, int) and value > rule else []
    ),
}
