"""The page of a source definition's keys, from its JSON Schema.

Belongs here: sections, keys, what they may be and what they are unless given.
Does not: what is meant by them, with examples (`docs/source-definition.md`), the schema (`definition/json_schema.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias, cast

from backfill_pipeline.definition.json_schema import source_schema
from backfill_pipeline.documentation.markdown import code, page, plain, table

_Schema: TypeAlias = Mapping[str, object]

_INTRODUCTION = """\
Every key of a source file, as the product checks it. [Source definitions](../source-definition.md) explains them with
examples, and what must hold between them; `backfill sources check` finds everything that is wrong at once. Editors
complete keys and underline mistakes with [the JSON Schema](../source-definition.schema.json), which this page is made
from.

Everything in the file is text to the product: where a key takes a *text*, a number is one too."""

_CAPITALS: Final = {"Api": "API", "Csv": "CSV", "Mt940": "MT940", "Scb": "SCB", "Xlsx": "Excel"}


def definition_page() -> str:
    """`docs/reference/definition.md`."""
    schema = source_schema()
    sections = cast("Mapping[str, _Schema]", schema["$defs"])
    parts = [_keys(schema)]
    for name in _in_order(schema, sections):
        said = str(sections[name].get("description", ""))
        parts += [f"## {_title(name)}", plain(said), _keys(sections[name])]
    return page("Source definition: all keys", _INTRODUCTION, "## The file", *parts)


def _in_order(schema: _Schema, sections: Mapping[str, _Schema]) -> list[str]:
    """Names of sections in the order in which a reader of the page meets them."""
    found: list[str] = []
    waiting = [*_references(schema.get("properties"))]
    while waiting:
        if (name := waiting.pop(0)) not in found:
            found.append(name)
            waiting = [*_references(sections[name].get("properties")), *waiting]
    return found


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(reference := part.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for one in part.values():
            yield from _references(one)
    elif isinstance(part, list):
        for one in part:
            yield from _references(one)


def _keys(section: _Schema) -> str:
    required = cast("list[str]", section.get("required", []))
    properties = cast("Mapping[str, _Schema]", section.get("properties", {}))
    rows = [
        (
            code(key),
            _type(one),
            "required" if key in required else _default(one),
            plain(str(one.get("description", ""))),
        )
        for key, one in properties.items()
    ]
    return table(("key", "type", "default", ""), rows)


def _default(one: _Schema) -> str:
    if "default" not in one:
        return ""
    value = one["default"]
    return code(str(value).lower() if isinstance(value, bool) else value)


def _type(one: _Schema) -> str:
    """What may be written, in words."""
    if "$ref" in one:
        name = str(one["$ref"]).rpartition("/")[2]
        return f"[{_title(name)}](#{_title(name).lower().replace(' ', '-')})"
    for several in ("anyOf", "oneOf"):
        if several in one:
            kinds = [
                _type(each) for each in cast("list[_Schema]", one[several]) if each.get("type") != "null"
            ]
            return " or ".join(dict.fromkeys(kinds))
    if "const" in one:
        return code(one["const"])
    if "enum" in one:
        return ", ".join(code(each) for each in cast("list[object]", one["enum"]))
    return _simple(one)


def _simple(one: _Schema) -> str:
    kind = one.get("type")
    if isinstance(kind, list):
        return "text"
    if kind == "array":
        return f"list of {_type(cast('_Schema', one.get('items', {})))}"
    if kind == "object":
        inner = one.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) else "mapping"
    if kind == "boolean":
        return "`true`, `false`"
    if kind in ("integer", "number"):
        return f"number{_range(one)}"
    return f"text like {code(one['pattern'])}" if "pattern" in one else "text"


def _range(one: _Schema) -> str:
    low, high = one.get("minimum"), one.get("maximum")
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f", {low:,} to {high:,}"
    return f", at least {low:,}" if isinstance(low, int | float) else ""


def _title(name: str) -> str:
    """A model's name as words: NumberRule becomes "Number rule"."""
    words = re.findall(r"[A-Z][a-z0-9]*", name)
    first = _CAPITALS.get(words[0], words[0])
    return " ".join([first, *(word.lower() for word in words[1:])])
