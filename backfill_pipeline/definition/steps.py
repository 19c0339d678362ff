"""The steps that a text goes through, from what a source holds to what an entry needs, and templates.

Belongs here: the keys of the steps, their order, and what a pattern or a template may hold.
Does not: where a text comes from (`fields.py`), what the steps do to rows (`mapping/text.py`).
"""

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from backfill_pipeline.definition.base import Model, Name, problem

VALUE_GROUP: Final = "value"
_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[^{}]+")
_GROUP: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?!\?)|\(\?P?<(?![=!])[^>]*>", re.DOTALL)
"""What has to be told apart to find the capture groups of a pattern: escapes, sets of characters, opening groups."""


def _pattern(text: str) -> str:
    """A pattern of RE2, as Arrow reads it: no look-around and no back-references, and so always in linear time."""
    import pyarrow as pa  # not at the top: a command that reads a definition need not wait for it
    import pyarrow.compute as pc

    try:
        pc.match_substring_regex(pa.array([""]), text)
    except pa.ArrowInvalid as error:
        why = str(error).removeprefix("Invalid regular expression: ").splitlines()[0]
        raise problem(f"is no regular expression of RE2: {why}", value=text) from None
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


def capturing(pattern: str) -> str:
    """The pattern with its one capture group named VALUE_GROUP; all of it becomes the group when it has none.

    Raises:
        ValueError: it has more than one.
    """
    groups = [found for found in _GROUP.finditer(pattern) if found.group().startswith("(")]
    if len(groups) > 1:
        raise ValueError(pattern)
    if not groups:
        return f"(?P<{VALUE_GROUP}>{pattern})"
    start, end = groups[0].span()
    return f"{pattern[:start]}(?P<{VALUE_GROUP}>{pattern[end:]}"


def _one_group(pattern: str) -> str:
    try:
        capturing(pattern)
    except ValueError:
        raise problem("has more than one capture group: write (?:…) for the others", value=pattern) from None
    return pattern


def _template(text: str) -> str:
    """A text with columns in braces; "{{" and "}}" are braces."""
    if "".join(token.group() for token in _TOKEN.finditer(text)) != text:
        raise problem("has a brace that is not closed: write {column}, or {{ and }} for braces", value=text)
    if not template_columns(text):
        raise problem("names no column: write {column}, or use constant", value=text)
    return text


Template = Annotated[Name, AfterValidator(_template)]


def template_parts(template: str) -> list[tuple[str, bool]]:
    """The parts of a template in order: fixed text with False, a column's name with True."""
    parts: list[tuple[str, bool]] = []
    for token in _TOKEN.finditer(template):
        if token.group(1) is not None:
            parts.append((token.group(1).strip(), True))
            continue
        text = {"{{": "{", "}}": "}"}.get(token.group(), token.group())
        if parts and not parts[-1][1]:
            parts[-1] = (parts[-1][0] + text, False)
        else:
            parts.append((text, False))
    return parts


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template names, each once."""
    return tuple(dict.fromkeys(text for text, is_column in template_parts(template) if is_column))


def _in_order(replace: dict[str, str]) -> list[list[str]]:
    return [list(pair) for pair in replace.items()]


Replacements = Annotated[
    dict[Annotated[str, Field(min_length=1)], str], Field(min_length=1), PlainSerializer(_in_order)
]
"""Text → text, one after the other; dumped as a list, so that another order is another mapping."""


class Steps(Model):
    """What is done to a text, in this order, which is not that of the file; an empty text stays empty."""

    trim: bool = True
    case: Literal["upper", "lower"] | None = None
    slice: tuple[int, int | None] | None = None
    strip_leading: Annotated[str, Field(min_length=1)] | None = None
    regex: Annotated[Pattern, AfterValidator(_one_group)] | None = None
    unmatched: Literal["empty", "reject"] | None = None
    replace: Replacements | None = None
    lookup: Name | None = None

    @model_validator(mode="after")
    def _consistent_steps(self) -> Self:
        if self.unmatched is not None and self.regex is None:
            raise problem("has a meaning only with regex", "unmatched", self.unmatched)
        if self.slice is not None:
            first, end = self.slice
            if end is not None and (first < 0) == (end < 0) and end <= first:
                raise problem("leaves nothing: write [first, end], counted from 0, end not included", "slice")
        return self
